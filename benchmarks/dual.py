"""Dual-Pivot Tuning beside the restorer that has never seen the person: the same bad photos, noises and oracles.

`python -m benchmarks.dual [--only rates compare ablation]`

Strongly damaged means `world.degraded.strong()`: 4 to 8 times smaller (a head is 4 to 7 pixels wide), blurred, noisy
and saved as JPEG of quality 40 to 80. It was fixed before anything was judged. Where things are can be seen, and who it
is cannot: the oracles do no better than guessing the middle of every factor, an error of 12 ** -0.5.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro

from bayes_persona.diffusion import degrade, pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.dual_pivot.method import DualPivot
from bayes_persona.diffusion.restoration import guide as guides
from bayes_persona.diffusion.restoration import quality
from bayes_persona.diffusion.restoration.colour import Fix, fixed
from bayes_persona.diffusion.restoration.guide import Guide
from bayes_persona.diffusion.restoration.restore import Config as Sampling
from bayes_persona.diffusion.restoration.restore import restore
from bayes_persona.files import load_json, save_json
from bayes_persona.persona import dual
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.world import degraded, oracles, splits
from bayes_persona.world.draw import Identity
from benchmarks import subjects
from benchmarks.rows import Row, ratio, row, save

Part = Literal["rates", "compare", "ablation"]
PHOTOS = 10
"""Clear photos of a person, as many as the paper has."""
BAD = 8
"""Bad ones to restore, others."""
ANYONE = 32
"""Drawn pictures of other people of the kind, for the second pivot."""
DRAW = Draw(particles=1, alpha=0.0, weights="even", steps=60, rows=4, rate=5e-3)
SECOND = dual.Config(steps=40, rate=1e-3)
"""Steps and rates of the pivots, chosen on a tuning identity with a half-trained guide; `rates` tries others."""
SAMPLING = Sampling(steps=15, colour="none")
"""Colours are fixed afterwards, in several ways."""
GRID = (1e-3, 5e-3, 2e-2)
"""Rates to choose from, on identities that are never reported."""
COLOUR: Fix = "wavelet"
"""The fix of all rows that do not name one."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    only: tuple[Part, ...] = ("rates", "compare", "ablation")
    """Parts to measure; the rows of the others are kept."""
    identities: int = 12
    """Held-out identities that methods are judged on."""
    tuned: int = 4
    """Other held-out identities, that rates are chosen on."""
    grid: tuple[float, ...] = GRID
    """Rates to choose from."""
    guide: Path | None = None
    """Folder of the guide; left out, the embedded model's."""
    folder: Path = Path("runs/dual")
    """Where scores of each person lie; a run that was killed goes on from there."""


class Case(NamedTuple):
    """One person, their photos, and what is to be restored."""

    who: Identity
    photos: Shown
    anyone: Shown
    clean: np.ndarray
    bad: np.ndarray
    seed: int


class Judged(NamedTuple):
    """Means over a person's bad photos."""

    identity_error: float
    psnr: float
    ssim: float


def case(who: Identity, seed: int) -> Case:
    """Draw all that a person is learned from and judged on; nothing is in both."""
    learned = splits.photos(who, PHOTOS, seed=child(seed, "learned"))
    judged = splits.photos(who, BAD, seed=child(seed, "judged"))
    others = [one for one in splits.base(4 * ANYONE, child(seed, "anyone")) if one.superclass == who.superclass]
    theirs = [splits.photos(one, 1, seed=child(seed, "anyone", k))[0] for k, one in enumerate(others)]
    clean = np.stack([one.render().pixels for one in judged])
    bad = degrade.degrade(clean, degraded.strong(), child(seed, "damage"))
    return Case(who, _shown(learned), _shown(theirs), clean, bad, seed)


def method(guide: Guide, who: Identity) -> DualPivot:
    return DualPivot(Subject(who.superclass), guide, damage=degraded.small())


def restored(
    pipe: Any, guide: Guide, one: Case, found: Posterior | None, gates: dict[str, float] | None = None
) -> np.ndarray:
    """Restore a person's bad photos with or without what was learned; colours are left as they come."""
    subject = Subject(one.who.superclass)
    if found is None:
        prompts = [f"a {one.who.superclass}"] * BAD
        return restore(pipe, guide, one.bad, prompts, SAMPLING, seed=one.seed)
    rows = torch.zeros(1, dtype=torch.long)
    with method(guide, one.who).attached(pipe, found.stacked(), rows, gates):
        return restore(pipe, guide, one.bad, [subject.phrase] * BAD, SAMPLING, seed=one.seed)


def judged(one: Case, pixels: np.ndarray, fix: Fix = COLOUR) -> Judged:
    """Judge restored pictures, their colours fixed."""
    mine, theirs = (torch.tensor(some).permute(0, 3, 1, 2).float() / 255 for some in (pixels, one.bad))
    coloured = fixed(mine, theirs, fix).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    error = oracles.identity_error(coloured, one.who).mean()
    return Judged(float(error), *(float(score(coloured, one.clean).mean()) for score in (quality.psnr, quality.ssim)))


def first(pipe: Any, guide: Guide, one: Case, draw: Draw = DRAW, config: dual.Config = SECOND) -> Posterior:
    return dual.first_pivot(pipe, method(guide, one.who), one.photos, draw, config, seed=one.seed)


def second(
    pipe: Any, guide: Guide, one: Case, start: Posterior, draw: Draw = DRAW, config: dual.Config = SECOND
) -> Posterior:
    learns = method(guide, one.who)
    return dual.second_pivot(pipe, learns, start, one.photos, draw, config, anyone=one.anyone, seed=one.seed)


def guide_alone(pipe: Any, guide: Guide, one: Case) -> Posterior:
    """Tune the guide on the person's own photos, around the generator as it is: the paper's model pivot alone."""
    untouched = method(guide, one.who).init(pipe, 1, child(one.seed, "start"))
    start = Posterior(({name: value[0] for name, value in untouched.items()},))
    config = replace(SECOND, steps=DRAW.steps, rate=DRAW.rate)  # all that the first pivot has
    return second(pipe, guide, one._replace(anyone=one.photos), start, config=config)


def rates(config: Config) -> list[Row]:
    """Try rates of both pivots on tuning identities: of the second, after the first at the rate of `DRAW`."""
    command, started = _command("rates", config), time.perf_counter()

    def judge(pipe: Any, guide: Guide, one: Case) -> dict[str, Judged]:
        made, text = {"base": restored(pipe, guide, one, None)}, first(pipe, guide, one)
        for rate in config.grid:
            mine = first(pipe, guide, one, replace(DRAW, rate=rate))
            made[f"first.{rate:g}"] = restored(pipe, guide, one, mine)
            both = second(pipe, guide, one, text, config=replace(SECOND, rate=rate))
            made[f"second.{rate:g}"] = restored(pipe, guide, one, both)
        return {name: judged(one, pixels) for name, pixels in made.items()}

    found = everyone("rates", config, splits.held_out(config.tuned, subjects.TUNING), subjects.TUNING, judge)
    return _scores(found, "dual.rates", command, time.perf_counter() - started)


def compare(config: Config) -> list[Row]:
    """Judge the restorer, both pivots, and the first alone, and what fixing colours does to them."""
    command, started = _command("compare", config), time.perf_counter()

    def judge(pipe: Any, guide: Guide, one: Case) -> dict[str, Judged]:
        text = first(pipe, guide, one)
        both = second(pipe, guide, one, text)
        kinds = {"base": None, "first_alone": text, "dual": both}
        made = {name: restored(pipe, guide, one, posterior) for name, posterior in kinds.items()}
        fixes: tuple[Fix, ...] = ("none", "adain")
        return {
            **{name: judged(one, pixels) for name, pixels in made.items()},
            **{f"{name}.{fix}": judged(one, made[name], fix) for name in ("base", "dual") for fix in fixes},
            "damaged": judged(one, one.bad, "none"),
        }

    found = everyone("compare", config, splits.held_out(config.identities, subjects.REPORT), subjects.REPORT, judge)
    seconds = time.perf_counter() - started
    about = f"strongly damaged photos, {PHOTOS} clear ones learned from"
    said: Any = {"command": command, "seconds": seconds}
    mine, theirs = ([each.identity_error for each in found[name]] for name in ("dual", "base"))
    closer = [a.psnr - b.psnr for a, b in zip(found["dual"], found["base"], strict=True)]
    without = [a.identity_error - b.identity_error for a, b in zip(found["first_alone"], found["dual"], strict=True)]
    return [
        *_scores(found, "dual", command, seconds),
        ratio("dual.identity_error_ratio", mine, theirs, f"dual / restorer alone; {about}", **said),
        row("dual.psnr_difference", closer, f"dB, dual − restorer alone, paired; {about}", **said),
        row("dual.gain_over_first_alone", without, "identity error, first pivot alone − dual, paired", **said),
    ]


def ablation(config: Config) -> list[Row]:
    """Judge the second pivot alone, on the person's photos, and after a first one out of context."""
    command, started = _command("ablation", config), time.perf_counter()

    def judge(pipe: Any, guide: Guide, one: Case) -> dict[str, Judged]:
        text = first(pipe, guide, one, config=replace(SECOND, first="out of context"))
        inside = first(pipe, guide, one)
        made = {
            "second_alone": guide_alone(pipe, guide, one),
            "dual_on_person": second(pipe, guide, one, inside, config=replace(SECOND, second="person")),
            "out_of_context.first_alone": text,
            "out_of_context.dual": second(pipe, guide, one, text),
        }
        return {name: judged(one, restored(pipe, guide, one, posterior)) for name, posterior in made.items()}

    found = everyone("ablation", config, splits.held_out(config.identities, subjects.REPORT), subjects.REPORT, judge)
    return _scores(found, "dual.ablation", command, time.perf_counter() - started)


def everyone(
    part: Part, config: Config, people: Sequence[Identity], seed: int, judge: Callable[[Any, Guide, Case], Any]
) -> dict[str, list[Judged]]:
    """Judge person by person, going on from what the folder holds if it was measured in the same way."""
    pipe = pipelines.load()
    guide, found = guides.load(pipe, config.guide), {}
    said = {"guide": guide.fingerprint, "draw": asdict(DRAW), "second": asdict(SECOND), "seed": seed}
    said |= {"steps": SAMPLING.steps, "bad": BAD, "grid": list(config.grid)}
    with bar(part, total=len(people)) as advance:
        for k, who in enumerate(people):
            place = config.folder / f"{part}_{k}.json"
            kept = load_json(place) if place.exists() else {}
            if kept.get("said") != said:
                one = case(who, child(seed, k))
                kept = {"said": said, "scores": judge(pipe, guide, one)}
                config.folder.mkdir(parents=True, exist_ok=True)
                save_json(place, kept)
            for name, scores in kept["scores"].items():
                found.setdefault(name, []).append(Judged(*scores))
            advance()
    return found


UNITS = {
    "identity_error": "RMSE of visible factors, strongly damaged photos",
    "psnr": "dB, RGB",
    "ssim": "of brightness (Y)",
}


def _scores(found: dict[str, list[Judged]], prefix: str, command: str, seconds: float) -> list[Row]:
    return [
        row(f"{prefix}.{name}.{score}", [getattr(one, score) for one in every], unit, command=command, seconds=seconds)
        for name, every in found.items()
        for score, unit in UNITS.items()
    ]


def _shown(examples: Sequence[splits.Example]) -> Shown:
    return Shown(np.stack([one.render().pixels for one in examples]), tuple(one.caption for one in examples))


def _command(part: str, config: Config) -> str:
    plain, more = Config(), ""
    for name in ("identities", "tuned"):
        more += "" if getattr(config, name) == getattr(plain, name) else f" --{name} {getattr(config, name)}"
    return f"python -m benchmarks.dual --only {part}{more}"


def main(config: Config) -> None:
    torch.set_num_threads(1)
    parts = {"rates": rates, "compare": compare, "ablation": ablation}
    for name in config.only:
        save("dual", parts[name](config))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
