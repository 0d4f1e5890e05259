"""How long is too long? Low-rank updates after few and many steps, with and without a prior.

`python -m benchmarks.corruption` writes rows and docs/corruption.png. Few-shot tuning first finds the person, then
loses what prompts say and breaks pictures ("corruption", Wu et al., arXiv 2405.19931). Each length is a run of its
own, as its rate rises and falls within it.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

from bayes_persona.diffusion import generate, pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.persona.references.mode import Likelihood
from bayes_persona.persona.references.variational import variational
from bayes_persona.pictures import COLOURS, axes
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.world import oracles, splits
from bayes_persona.world.draw import Identity
from benchmarks import perfusion, subjects
from benchmarks.kept import kept
from benchmarks.rows import Row, row, save

STEPS = (10, 30, 100, 300)
DRAW = Draw(particles=2, pseudo=8, rows=4, rate=1e-2)
"""The rate is the one that was chosen for low-rank updates (`world.rates`)."""
LIKELIHOOD = Likelihood(steps=25)
STUDY = subjects.Study(prompts=3, noises=2)
SAMPLING = generate.Config(steps=10)
Sampler = Callable[..., Posterior]
ARMS: dict[str, tuple[Sampler, dict[str, Any], str]] = {
    "plain": (personalize, {"alpha": 0.0, "weights": "even"}, "plain fine-tuning"),
    "variational": (variational, {"alpha": 0.0, "weights": "even"}, "variational inference"),
    "nptl_0.5": (personalize, {"alpha": 0.5}, "NPTL, α = 0.5"),
    "nptl_4": (personalize, {"alpha": 4.0}, "NPTL, α = 4"),
}
SCORES = {
    "identity_error": "RMSE of visible factors",
    "fidelity": "share of what prompts say that shows",
    "context_change": "mean absolute change of pictures of other people, of the full range",
}


@dataclass(frozen=True)
class Config:
    """What to measure."""

    identities: int = 4
    """Held-out identities."""


def learned(arm: str, who: Identity, steps: int, seed: int) -> tuple[LowRank, Posterior]:
    """Learn somebody for so many steps."""
    sampler, changed, _ = ARMS[arm]
    adapter, photos = LowRank(Subject(who.superclass)), perfusion.shown(who, seed, masked=False)
    more = {"likelihood": LIKELIHOOD} if sampler is variational else {}
    draw = replace(DRAW, steps=steps, **changed)
    return adapter, sampler(pipelines.load(), adapter, Shown(*photos), draw, seed=seed, **more)


def drawn(adapter: LowRank, posterior: Posterior, texts: list[str], start: torch.Tensor) -> np.ndarray:
    """Make each member's pictures of all prompts, from the same noises."""
    pipe, found = pipelines.load(), []
    for k in range(len(posterior)):
        with adapter.attached(pipe, posterior.stacked(), torch.tensor([k])):
            found.append(generate.sample(pipe, texts, start, SAMPLING))
    return np.stack(found)


def judged(arm: str, who: Identity, steps: int, seed: int) -> list[float]:
    """Give the scores of somebody's pictures, mean over members."""

    def look() -> list[float]:
        pipe, (adapter, posterior) = pipelines.load(), learned(arm, who, steps, seed)
        plain = [text for text in subjects.prompts(who.superclass, STUDY.prompts, seed) for _ in range(STUDY.noises)]
        others = subjects.strangers(STUDY.context, seed)
        start = generate.noise(pipe, len(plain) + len(others), child(seed, "judged"))
        pixels = drawn(adapter, posterior, [adapter.subject.prompt(text) for text in plain] + others, start)
        usual = generate.sample(pipe, others, start[len(plain) :], SAMPLING)
        mine, theirs = np.concatenate(pixels[:, : len(plain)]), pixels[:, len(plain) :]
        verdict = oracles.judge(mine, plain * len(posterior))
        fidelity = float(np.nanmean(np.stack([verdict[name] for name in subjects.SAID])))
        change = float(np.abs(theirs / 255 - usual / 255).mean())
        return [float(oracles.identity_error(mine, who).mean()), fidelity, change]

    said = [arm, ARMS[arm][1], steps, seed, asdict(DRAW), asdict(LIKELIHOOD), asdict(STUDY), asdict(SAMPLING)]
    return kept("corruption", [pipelines.fingerprint(pipelines.load()), *said], look)


def measure(config: Config) -> list[Row]:
    """Judge everybody in all arms, after all numbers of steps."""
    started, people = time.perf_counter(), splits.held_out(config.identities, subjects.REPORT)
    found: dict[tuple[str, int], list[list[float]]] = {(arm, steps): [] for arm in ARMS for steps in STEPS}
    with bar("people", total=len(people) * len(found)) as advance:
        for k, who in enumerate(people):
            for (arm, steps), scores in found.items():
                scores.append(judged(arm, who, steps, child(subjects.REPORT, "corruption", k)))
                advance()
    rest = {"command": "python -m benchmarks.corruption", "seconds": time.perf_counter() - started}
    rows = []
    for (arm, steps), scores in found.items():
        for (score, unit), values in zip(SCORES.items(), np.array(scores).T, strict=True):
            rows.append(row(f"persona.corruption.{arm}.{steps}.{score}", values, f"{unit}, {steps} steps", **rest))
    return rows


def draw(rows: list[Row], folder: Path) -> None:
    """Draw scores against steps."""
    at = {one.id: one for one in rows}
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    plots = figure.subplots(1, len(SCORES))
    for axis, score in zip(plots, SCORES, strict=True):
        axes(axis, score.replace("_", " ").capitalize())
        for (arm, (_, _, title)), colour in zip(ARMS.items(), COLOURS, strict=False):
            own = [at[f"persona.corruption.{arm}.{steps}.{score}"] for steps in STEPS]
            axis.plot(STEPS, [one.value for one in own], color=colour, marker="o", markersize=4, label=title)
        axis.set_xscale("log")
        axis.set_xticks(STEPS, [str(steps) for steps in STEPS])
        axis.minorticks_off()
        axis.set_xlabel("steps")
    figure.legend(*plots[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(ARMS), frameon=False)
    figure.savefig(folder / "corruption.png", dpi=110)


def main(config: Config) -> None:
    torch.set_num_threads(1)
    rows = measure(config)
    save("corruption", rows)
    draw(rows, Path("docs"))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
