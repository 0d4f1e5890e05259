"""PersonaWorld's truth: what the oracles read, what the base model knows, and what the two baselines achieve.

`python -m benchmarks.world [--only oracle base cache rates adapters]`
"""

import time
from dataclasses import dataclass, replace
from typing import Literal

import torch
import tyro

from bayes_persona.diffusion import generate, pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.diffusion.text import Prompts, cached_text
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.world import base_scores, oracle_scores, splits
from benchmarks import subjects
from benchmarks.rows import Row, row, save

Part = Literal["oracle", "base", "cache", "rates", "adapters"]
METHODS = {
    # what people do today: the photos alone, and DreamBooth's prior preservation with as much weight as the photos
    "textual_inversion": (TextualInversion, Draw(alpha=0.0, weights="even", steps=200, rows=8, rate=5e-3)),
    "low_rank": (LowRank, Draw(alpha=4.0, weights="even", prior="superclass", steps=200, rows=8, rate=1e-2)),
}
"""The baselines, with the rates that `rates` chose."""
GRID = {"textual_inversion": (2e-3, 5e-3, 2e-2, 5e-2), "low_rank": (3e-4, 1e-3, 3e-3, 1e-2)}
"""As many rates for each, on identities that are never reported."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    only: tuple[Part, ...] = ("oracle", "base", "cache", "rates", "adapters")
    """Parts to measure; the rows of the others are kept."""
    identities: int = 12
    """Held-out identities that the baselines are judged on."""
    tuned: int = 4
    """Other held-out identities, that rates are chosen on."""
    prompts: int = 400
    """Prompts of each kind that the base model is judged on."""


def oracle(config: Config) -> list[Row]:
    """Read fresh renders of held-out identities, each of four times 500."""
    command, started = "python -m benchmarks.world --only oracle", time.perf_counter()
    found = [oracle_scores.scores(n=500, seed=child(100, "oracle", k)) for k in range(4)]
    seconds = time.perf_counter() - started

    def one(id: str, values, unit: str = "") -> Row:
        return row(f"oracle.{id}", values, unit, command=command, seconds=seconds)

    rows = [
        one("identity_r2", [part["identity_r2"] for part in found], "R², mean over superclasses and factors"),
        one("coverage80", [part["coverage80"] for part in found], "share in 80 % error bars"),
        one("attributes_min", [part["attributes_min"] for part in found], "accuracy of the worst attribute"),
    ]
    return rows + [
        one(f"accuracy.{name}", [part["attributes"][name] for part in found], "accuracy")
        for name in found[0]["attributes"]
    ]


def base(config: Config) -> list[Row]:
    """Judge the shipped model on held-out prompts."""
    command = f"python -m benchmarks.world --only base --prompts {config.prompts}"
    started = time.perf_counter()
    found = base_scores.scores(pipelines.load(), config.prompts, seed=child(100, "base"))
    seconds = time.perf_counter() - started
    rows = [
        row(
            f"base.{name.replace(' ', '_')}",
            values,
            "share of prompts that mention it",
            command=command,
            seconds=seconds,
        )
        for name, values in found.followed.items()
    ]
    rows.append(
        row(
            "base.named_identity_r2",
            found.named.mean,
            "R², mean over superclasses and factors",
            command=command,
            seconds=seconds,
        )
    )
    size = sum(file.stat().st_size for file in pipelines.embedded().rglob("*") if file.is_file()) / 1e6
    return [*rows, row("base.megabytes", size, "MB", command=command, seconds=seconds)]


def cache(config: Config) -> list[Row]:
    """Compare the U-Net's seconds with keys and values of the text kept, and projected anew, in turns."""
    command, started = "python -m benchmarks.world --only cache", time.perf_counter()
    pipe = pipelines.load()
    start, text = generate.noise(pipe, 2, seed=0), Prompts(pipe)(["", "a happy robot"])

    @torch.no_grad()
    def seconds() -> float:
        began = time.perf_counter()
        for at in range(999, 0, -40):  # the 25 steps of a picture, guidance included
            pipe.unet(start, at, text)
        return time.perf_counter() - began

    ratios = []
    for turn in range(-2, 20):  # two for warming up
        plain = seconds()
        with cached_text(pipe.unet):
            kept = seconds()
        if turn >= 0:
            ratios.append(kept / plain)
    unit = "seconds with the cache / without"
    return [row("cached_text.seconds_ratio", ratios, unit, command=command, seconds=time.perf_counter() - started)]


def rates(config: Config) -> list[Row]:
    """Choose each baseline's rate by identity error on tuning identities."""
    command, started, rows = "python -m benchmarks.world --only rates", time.perf_counter(), []
    pipe, study = pipelines.load(), subjects.Study(prompts=4, noises=2, context=2)
    people = splits.held_out(config.tuned, subjects.TUNING)
    with bar("rates", total=len(people) * sum(map(len, GRID.values()))) as advance:
        for method, (make, draw) in METHODS.items():
            for rate in GRID[method]:
                found = []
                for k, who in enumerate(people):
                    found.append(
                        subjects.judge(
                            pipe,
                            make(Subject(who.superclass)),
                            replace(draw, rate=rate),
                            who,
                            study,
                            child(subjects.TUNING, k),
                        )
                    )
                    advance()
                for score in ("identity_error", "fidelity"):
                    values = [getattr(one, score) for one in found]
                    rows.append(
                        row(
                            f"rates.{method}.{rate:g}.{score}",
                            values,
                            score,
                            command=command,
                            seconds=time.perf_counter() - started,
                        )
                    )
    return rows


def adapters(config: Config) -> list[Row]:
    """Judge both baselines, and the base model's pictures of anyone, on the same people, prompts and noises."""
    command, started = "python -m benchmarks.world --only adapters", time.perf_counter()
    pipe, study = pipelines.load(), subjects.Study()
    people = splits.held_out(config.identities, subjects.REPORT)
    found: dict[str, list[subjects.Judged]] = {method: [] for method in METHODS}
    plain = []
    with bar("adapters", total=len(people) * len(METHODS)) as advance:
        for k, who in enumerate(people):
            seed = child(subjects.REPORT, k)
            plain.append(subjects.unpersonalized(pipe, who, study, seed))
            for method, (make, draw) in METHODS.items():
                found[method].append(subjects.judge(pipe, make(Subject(who.superclass)), draw, who, study, seed))
                advance()
    seconds = time.perf_counter() - started

    def one(id: str, values, unit: str) -> Row:
        return row(id, values, unit, command=command, seconds=seconds)

    units = {
        "identity_error": "RMSE of visible factors",
        "fidelity": "share of what prompts say",
        "context_change": "of the full range",
        "diversity": "of the base model's",
        "seconds": "s",
        "bytes": "bytes",
    }
    rows = [
        one(f"world.{method}.{score}", [getattr(each, score) for each in judged], unit)
        for method, judged in found.items()
        for score, unit in units.items()
    ]
    for k, score in enumerate(("identity_error", "fidelity")):
        rows.append(one(f"world.unpersonalized.{score}", [each[k] for each in plain], units[score]))
        pairs = [getattr(a, score) - getattr(b, score) for a, b in zip(*found.values(), strict=True)]
        rows.append(one(f"world.textual_inversion_minus_low_rank.{score}", pairs, "paired difference"))
    return rows


def main(config: Config) -> None:
    torch.set_num_threads(2)
    parts = {"oracle": oracle, "base": base, "cache": cache, "rates": rates, "adapters": adapters}
    for name in config.only:
        save("world", parts[name](config))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
