"""Celeb Basis beside textual inversion: one photo and few steps, the same people, prompts, noises and oracles for both.

`python -m benchmarks.celeb [--only rates compare ablation longer]`
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import tyro

from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import pipelines, words
from bayes_persona.diffusion.adapter import Adapter, Subject
from bayes_persona.diffusion.adapters.celeb_basis.basis import Basis, build, table
from bayes_persona.diffusion.adapters.celeb_basis.faces import Mapper, fitted
from bayes_persona.diffusion.adapters.celeb_basis.method import CelebBasis
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.persona import celebrities
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.types import Params
from bayes_persona.world import splits
from bayes_persona.world.draw import Identity
from benchmarks import subjects
from benchmarks.kept import kept
from benchmarks.rows import Row, row, save

Part = Literal["rates", "compare", "ablation", "longer"]
Make = Callable[[Any, Identity, np.ndarray], Adapter]
DRAW = Draw(alpha=0.0, weights="even", steps=25, rows=8)
"""Few steps: what a start among known people is for. `longer` takes four times as many."""
STUDY = subjects.Study(photos=1, prompts=4, noises=2, context=1)
GRID = (5e-3, 2e-2, 6e-2, 2e-1, 6e-1, 2.0)
"""The same rates for every method, on identities that are never reported."""
FEW = 32
"""Directions of the ablation: of the 128 that the embedded table has, all 119 of names would be nearly any."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    only: tuple[Part, ...] = ("rates", "compare", "ablation", "longer")
    """Parts to measure; the rows of the others are kept."""
    identities: int = 12
    """Held-out identities that methods are judged on."""
    tuned: int = 4
    """Other held-out identities, that rates are chosen on."""
    grid: tuple[float, ...] = GRID
    """Rates to choose from."""


@dataclass(frozen=True)
class FromName(TextualInversion):
    """Textual inversion that starts at the words of a name: Celeb Basis without a basis."""

    like: str = ""

    def init(self, pipe: Any, members: int, seed: int) -> Params:
        """Start at the rows of the name's first words."""
        ids = pipe.tokenizer(self.like, add_special_tokens=False).input_ids
        start = words.embeddings(pipe, ids[: self.vectors]).numpy()
        return {"embedding": np.tile(start, (members, 1, 1))}


def textual_inversion(pipe: Any, who: Identity, photos: np.ndarray) -> Adapter:
    return TextualInversion(Subject(who.superclass))


def from_name(pipe: Any, who: Identity, photos: np.ndarray) -> Adapter:
    like = celeb(pipe, who, photos).like
    return FromName(Subject(who.superclass), like=like or "")


def celeb(pipe: Any, who: Identity, photos: np.ndarray) -> CelebBasis:
    return celebrities.method(pipe, Subject(who.superclass), photos, embedded=True)


def from_superclass(pipe: Any, who: Identity, photos: np.ndarray) -> CelebBasis:
    return replace(celeb(pipe, who, photos), like=None)


def layer(pipe: Any, who: Identity, photos: np.ndarray) -> CelebBasis:
    # of so few steps, a memory of 0.99 would forget little of where it starts
    return replace(celeb(pipe, who, photos), like=None, faces=(celebrities.seen(photos),), memory=0.9)


def fitted_layer(pipe: Any, who: Identity, photos: np.ndarray) -> CelebBasis:
    plain = layer(pipe, who, photos)
    return replace(plain, mapper=known_layer(pipe, plain.basis))


def few_names(pipe: Any, who: Identity, photos: np.ndarray) -> CelebBasis:
    basis = build(pipe.text_encoder, pipe.tokenizer, splits.named(), components=FEW)
    return replace(celeb(pipe, who, photos), basis=basis)


def few_random(pipe: Any, who: Identity, photos: np.ndarray) -> CelebBasis:
    few = few_names(pipe, who, photos)
    return replace(few, basis=few.basis.random(seed=child(0, repr(who))))


def known_layer(pipe: Any, basis: Basis) -> Mapper:
    """Fit the layer to the named people: their faces, and where their names lie."""
    people = celebrities.faces()
    ids = [pipe.tokenizer(name, add_special_tokens=False).input_ids for name in people]
    known = basis.unit(basis.coefficients(table([pipe.text_encoder])[torch.tensor(ids)]))
    return fitted(np.array(list(people.values())), known.double().numpy(), ridge=0.3)


METHODS: dict[str, tuple[Make, float]] = {
    "textual_inversion": (textual_inversion, 6e-1),
    "celeb_basis": (celeb, 6e-2),
}
"""What `rates` chooses for, and what it chose."""
FITTED: tuple[Make, float] = (fitted_layer, 5e-3)
"""Celeb Basis through a layer fitted beforehand, at the best of three rates that were tried on three tuning people."""
VARIANTS: dict[str, tuple[Make, float]] = {
    "from_superclass": (from_superclass, 6e-2),
    "layer": (layer, 1e-1),
    "textual_inversion_from_name": (from_name, 6e-2),
    "names_32": (few_names, 6e-2),
    "random_32": (few_random, 6e-2),
}
"""Other starts and bases, at the rate of `METHODS` or at one tried on tuning people."""


def judged(
    named: Sequence[tuple[str, Make, float]], people: Sequence[Identity], seed: int, draw: Draw
) -> dict[str, list[subjects.Judged]]:
    """Judge methods on people, one photo of each."""
    pipe, found = pipelines.load(), {name: [] for name, _, _ in named}
    base = pipelines.fingerprint(pipe)
    with bar("people", total=len(people) * len(named)) as advance:
        for k, who in enumerate(people):
            own = child(seed, k)
            photos = np.stack([one.render().pixels for one in splits.photos(who, STUDY.photos, seed=own)])
            for name, make, rate in named:
                adapter = make(pipe, who, photos)
                at = replace(draw, rate=rate)
                said = [name, adapter.method, adapters.settings(adapter), asdict(at), asdict(STUDY), own]

                def look(adapter=adapter, at=at, who=who, own=own) -> list[float]:
                    return list(subjects.judge(pipe, adapter, at, who, STUDY, own))

                found[name].append(subjects.Judged(*kept("celeb", [base, *said], look)))
                advance()
    return found


UNITS = {
    "identity_error": "RMSE of visible factors; one photo, {steps} steps",
    "fidelity": "share of what prompts say; one photo, {steps} steps",
    "diversity": "of the base model's",
    "seconds": "s",
}


def scores(found: dict[str, list[subjects.Judged]], prefix: str, command: str, draw: Draw, seconds: float) -> list[Row]:
    return [
        row(
            f"{prefix}.{name}.{score}",
            [getattr(one, score) for one in all_of_it],
            unit.format(steps=draw.steps),
            command=command,
            seconds=seconds,
        )
        for name, all_of_it in found.items()
        for score, unit in UNITS.items()
    ]


def difference(
    id: str, found: dict[str, list[subjects.Judged]], one: str, other: str, command: str, seconds: float, steps: int
) -> list[Row]:
    """Give one less the other, person by person: of identity error, and beside it of fidelity."""
    pairs = list(zip(found[one], found[other], strict=True))
    error = [a.identity_error - b.identity_error for a, b in pairs]
    fidelity = [a.fidelity - b.fidelity for a, b in pairs]
    about = f"{one} − {other}, paired, one photo, {steps} steps: {{}}"
    return [
        row(id, error, about.format("identity error (more is better)"), command=command, seconds=seconds),
        row(f"{id}.fidelity", fidelity, about.format("fidelity (0 is equal)"), command=command, seconds=seconds),
    ]


def rates(config: Config) -> list[Row]:
    """Choose each method's rate by identity error on tuning identities."""
    started = time.perf_counter()
    command = " ".join(["python -m benchmarks.celeb --only rates", "--grid", *map(str, config.grid)])
    people = splits.held_out(config.tuned, subjects.TUNING)
    tried = [(f"{name}.{rate:g}", make, rate) for name, (make, _) in METHODS.items() for rate in config.grid]
    found = judged(tried, people, subjects.TUNING, DRAW)
    rows = scores(found, "celeb.rates", command, DRAW, time.perf_counter() - started)
    return [one for one in rows if one.id.endswith(("identity_error", "fidelity"))]


def compare(config: Config) -> list[Row]:
    """Judge both methods, and Celeb Basis through a layer that was fitted beforehand."""
    command, started = "python -m benchmarks.celeb --only compare", time.perf_counter()
    named = [(name, make, rate) for name, (make, rate) in METHODS.items()]
    named.append(("fitted_layer", *FITTED))
    people = splits.held_out(config.identities, subjects.REPORT)
    found = judged(named, people, subjects.REPORT, DRAW)
    seconds = time.perf_counter() - started
    bytes_ = [one.bytes for one in found["celeb_basis"]]
    rows = scores(found, "celeb", command, DRAW, seconds)
    rows.append(
        row("celeb.bytes_per_person", bytes_, "bytes of coefficients, float32", command=command, seconds=seconds)
    )
    for id, ours in (("gain_over_ti", "celeb_basis"), ("fitted_layer.gain_over_ti", "fitted_layer")):
        rows += difference(f"celeb.{id}", found, "textual_inversion", ours, command, seconds, DRAW.steps)
    return rows


def ablation(config: Config) -> list[Row]:
    """Judge Celeb Basis with other starts, layers and bases."""
    command, started = "python -m benchmarks.celeb --only ablation", time.perf_counter()
    people = splits.held_out(config.identities, subjects.REPORT)
    found = judged([(name, *rest) for name, rest in VARIANTS.items()], people, subjects.REPORT, DRAW)
    seconds = time.perf_counter() - started
    rows = scores(found, "celeb.ablation", command, DRAW, seconds)
    return rows + difference("celeb.names_over_random", found, "random_32", "names_32", command, seconds, DRAW.steps)


def longer(config: Config) -> list[Row]:
    """Judge both methods after four times as many steps, when where they started should matter less."""
    command, started = "python -m benchmarks.celeb --only longer", time.perf_counter()
    draw = replace(DRAW, steps=4 * DRAW.steps)
    named = [(name, make, rate) for name, (make, rate) in METHODS.items()]
    found = judged(named, splits.held_out(config.identities, subjects.REPORT), subjects.REPORT, draw)
    seconds = time.perf_counter() - started
    rows = scores(found, "celeb.longer", command, draw, seconds)
    return rows + difference(
        "celeb.longer.gain_over_ti", found, "textual_inversion", "celeb_basis", command, seconds, draw.steps
    )


def main(config: Config) -> None:
    torch.set_num_threads(1)
    parts = {"rates": rates, "compare": compare, "ablation": ablation, "longer": longer}
    for name in config.only:
        save("celeb", parts[name](config))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
