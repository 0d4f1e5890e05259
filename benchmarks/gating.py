"""Which parts of an adapter are worth having? `python -m benchmarks.gating [--only choose compare]`.

C-PSRL opens and shuts the gates of a method on a few tuning people and keeps those that are worth it. Other people are
then learned as always, and drawn with all gates open and with the chosen ones, from the same noise.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import generate, pipelines
from bayes_persona.diffusion.adapter import Adapter, Subject
from bayes_persona.files import load_json, save_json
from bayes_persona.persona import gates, tuning
from bayes_persona.persona.knobs import Knob
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import personalize
from bayes_persona.persona.session import Session
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.world import oracles, splits
from bayes_persona.world.draw import Identity
from benchmarks import perfusion, subjects, world
from benchmarks.kept import kept
from benchmarks.rows import Row, ratio, row, save

Part = Literal["choose", "compare"]
RUNS = Path("runs") / "gating"
DRAWS: dict[str, Draw] = {"low_rank": world.METHODS["low_rank"][1], "perfusion": perfusion.DRAW}
PLACES = (0.0, 0.5, 0.75, 1.0)
"""Of a gate where something is at stake; the others are shut or open."""
STUDY = subjects.Study(prompts=4)
SAMPLING = generate.Config(steps=10)
"""Of a generation's pictures, while gates are chosen."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    only: tuple[Part, ...] = ("choose", "compare")
    """Parts to measure; the rows of the others are kept."""
    methods: tuple[str, ...] = ("low_rank", "perfusion")
    """Adapters."""
    identities: int = 12
    """Held-out identities that are reported."""
    tuned: int = 3
    """Other held-out identities, that gates are chosen on."""
    budget: int = 60
    """Generations, each of all of those."""


def method(name: str, who: Identity) -> Adapter:
    return perfusion.perfusion(who) if name == "perfusion" else world.METHODS[name][0](Subject(who.superclass))


def knobs(adapter: Adapter) -> tuple[Knob, ...]:
    """Give knobs of gates: the way up by kind of projection and in steps, the rest by thirds, shut or open."""
    groups: dict[str, list[str]] = {}
    for gate in adapter.gates:
        third, *rest = gate.split(".")
        groups.setdefault(f"up.{rest[-1]}" if third == "up" else third, []).append(gate)
    return tuple(
        Knob(name, PLACES if name.startswith("up") else (0.0, 1.0), tuple(own)) for name, own in groups.items()
    )


def learned(pipe: Any, name: str, who: Identity, seed: int) -> tuple[Adapter, Posterior, np.ndarray]:
    """Learn somebody as always."""
    adapter, photos = method(name, who), perfusion.shown(who, seed, masked=name == "perfusion")
    posterior = personalize(pipe, adapter, photos, replace(DRAWS[name], particles=1), seed=seed)
    return adapter, posterior, photos.pixels


def choose(config: Config) -> list[Row]:
    """Let C-PSRL choose the gates of each method."""
    pipe = pipelines.load()
    for name in config.methods:
        sessions = []
        for k, who in enumerate(splits.held_out(config.tuned, subjects.TUNING)):
            seed = child(subjects.TUNING, "gating", k)
            adapter, posterior, pixels = learned(pipe, name, who, seed)
            prompts, others = subjects.prompts(who.superclass, 4, seed), subjects.strangers(4, seed)
            turned = knobs(adapter)
            sessions.append(
                Session(pipe, adapter, posterior[0], pixels, prompts, others, knobs=turned, sampling=SAMPLING)
            )
        found = gates.choose(
            gates.Everyone(sessions),
            config=tuning.Config(budget=config.budget),
            seed=child(subjects.TUNING, name),
            title=name,
        )
        edges = [[cause, effect, data["probability"]] for cause, effect, data in found.tuned.edges.edges(data=True)]
        history = [[list(made.places), made.values, made.utility] for made in found.tuned.history]
        said = {"setting": found.tuned.setting, "gates": found.gates, "edges": edges, "history": history}
        RUNS.mkdir(parents=True, exist_ok=True)
        save_json(RUNS / f"{name}.json", said)
    return []


def judged(pipe: Any, name: str, chosen: dict[str, float], who: Identity, seed: int) -> list[list[float]]:
    """Learn somebody, and give identity error, fidelity and context change with all gates open and with some."""
    said = [name, adapters.settings(method(name, who)), chosen, asdict(DRAWS[name]), asdict(STUDY), seed]

    def look() -> list[list[float]]:
        adapter, posterior, _ = learned(pipe, name, who, seed)
        plain = [text for text in subjects.prompts(who.superclass, STUDY.prompts, seed) for _ in range(STUDY.noises)]
        others = subjects.strangers(STUDY.context, seed)
        texts = [adapter.subject.prompt(text) for text in plain] + others
        start, found = generate.noise(pipe, len(texts), child(seed, "judged")), []
        usual = generate.sample(pipe, others, start[len(plain) :])
        for how in ({}, chosen):
            with adapter.attached(pipe, posterior.stacked(), torch.zeros(1, dtype=torch.long), how):
                pixels = generate.sample(pipe, texts, start)
            mine, theirs = pixels[: len(plain)], pixels[len(plain) :]
            verdict = oracles.judge(mine, plain)
            fidelity = float(np.nanmean(np.stack([verdict[part] for part in subjects.SAID])))
            change = float(np.abs(theirs / 255 - usual / 255).mean())
            found.append([float(oracles.identity_error(mine, who).mean()), fidelity, change])
        return found

    return kept("gating", [pipelines.fingerprint(pipe), *said], look)


def compare(config: Config) -> list[Row]:
    """Hold the chosen gates against open ones."""
    started, pipe, rows = time.perf_counter(), pipelines.load(), []
    least: list[Row] = []
    for name in config.methods:
        said, found = load_json(RUNS / f"{name}.json"), []
        with bar(name, total=config.identities) as advance:
            for k, who in enumerate(splits.held_out(config.identities, subjects.REPORT)):
                found.append(judged(pipe, name, said["gates"], who, child(subjects.REPORT, "gating", k)))
                advance()
        rest = {"command": "python -m benchmarks.gating", "seconds": time.perf_counter() - started}
        scores, fields = np.array(found), ("identity_error", "fidelity", "context_change")
        for at, field in enumerate(fields):
            rows.append(row(f"persona.gating.{name}.all.{field}", scores[:, 0, at], "all gates open", **rest))
            rows.append(row(f"persona.gating.{name}.chosen.{field}", scores[:, 1, at], "chosen gates", **rest))
        turned = ", ".join(f"{knob} {value:g}" for knob, value in said["setting"].items() if value < 1)
        about = f"chosen gates ({turned or 'all open'}) beside all open, paired"
        lost = scores[:, 1] - scores[:, 0]
        rows.append(row(f"persona.gating.{name}.identity_lost", lost[:, 0], f"identity error, {about}", **rest))
        rows.append(row(f"persona.gating.{name}.fidelity_gained", lost[:, 1], f"fidelity, {about}", **rest))
        left = ratio("", list(scores[:, 1, 2]), list(scores[:, 0, 2]), "", **rest)
        low, high = (None if end is None else round(1 - end, 6) for end in (left.high, left.low))
        reduction = replace(
            left, id=f"persona.gating_context_reduction.{name}", unit=f"share of context change, {about}",
            value=round(1 - left.value, 6), low=low, high=high,
        )  # fmt: skip
        rows.append(reduction)
        # what costs identity is no gating but turning the method down
        least.append(reduction if rows[-3].low is None or rows[-3].low <= 0 else replace(reduction, value=0.0))
    if len(least) > 1:
        worst = min(least, key=lambda one: one.value)
        about = f"the least of {', '.join(config.methods)}; 0 where identity is lost significantly"
        rows.append(replace(worst, id="persona.gating_context_reduction", low=None, high=None, unit=about))
    return rows


def main(config: Config) -> None:
    torch.set_num_threads(1)
    for name in config.only:
        if rows := {"choose": choose, "compare": compare}[name](config):
            save("gating", rows)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
