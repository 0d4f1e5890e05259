"""Adapters: our textual inversion, LoRA and Perfusion beside loops like diffusers', on the embedded model.

All see the same four photos in as many steps of as many rows, and are judged on the same prompts and noises by the same
oracles. Each has one grid of three rates, on people that nothing is reported of.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bayes_persona.diffusion import generate, pipelines
from bayes_persona.diffusion.adapter import Adapter, Subject
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.world import oracles, splits
from bayes_persona.world.draw import Identity
from benchmarks import perfusion, subjects
from benchmarks.kept import kept
from benchmarks.peers import by_custom_diffusion, by_diffusers, by_peft, race
from benchmarks.peers.loop import ANYONE, Given
from benchmarks.rows import Row

STEPS, BATCH, PHOTOS, TUNED = 40, 6, 4, 2
STUDY = subjects.Study(prompts=3, noises=1, context=1)
SAMPLING = generate.Config(steps=10)
Pictures = Callable[[list[str], torch.Tensor], np.ndarray]
"""Prompts about anyone of the superclass, or about others, and noises to pictures."""
ALONE = Draw(particles=1, alpha=0.0, weights="even", steps=STEPS, rows=BATCH)
PRESERVED = replace(ALONE, alpha=float(PHOTOS), prior="superclass", pseudo=ANYONE)


def inversion(who: Identity) -> tuple[Adapter, Draw]:
    return TextualInversion(Subject(who.superclass)), ALONE


def low_rank(who: Identity) -> tuple[Adapter, Draw]:
    return LowRank(Subject(who.superclass)), PRESERVED


def rank_one(who: Identity) -> tuple[Adapter, Draw]:
    return replace(perfusion.perfusion(who), memory=0.9), ALONE


OURS: dict[str, tuple[Callable[[Identity], tuple[Adapter, Draw]], tuple[float, ...]]] = {
    "textual_inversion": (inversion, (2e-2, 5e-2, 2e-1)),
    "low_rank": (low_rank, (3e-3, 1e-2, 3e-2)),
    "perfusion": (rank_one, (2e-2, 5e-2, 2e-1)),
}
PEERS: dict[str, tuple[Callable[[Any, Given, float], Subject], tuple[float, ...]]] = {
    "diffusers_textual_inversion": (by_diffusers.fit, (2e-2, 5e-2, 2e-1)),
    "peft_lora": (by_peft.fit, (3e-3, 1e-2, 3e-2)),
    "custom_diffusion_style": (by_custom_diffusion.fit, (3e-3, 1e-2, 3e-2)),
}
PAIRS = tuple(zip(OURS, PEERS, strict=True))
SCORES = {"identity_error": "RMSE of visible factors", "fidelity": "share of prompts", "context_change": "of the range"}


def given(who: Identity, seed: int, steps: int = STEPS) -> Given:
    """Give somebody's photos, as many for everybody."""
    examples = splits.photos(who, PHOTOS, seed=seed)
    pixels = np.stack([one.render().pixels for one in examples])
    return Given(pixels, tuple(one.caption for one in examples), who.superclass, steps, BATCH, seed)


def learned(name: str, who: Identity, photos: Given, rate: float) -> Pictures:
    """Learn somebody by a method of either side, and give what draws them."""
    pipe = pipelines.load()
    if name in PEERS:
        subject = PEERS[name][0](pipe, photos, rate)
        return lambda texts, start: generate.sample(pipe, [_named(subject, text) for text in texts], start, SAMPLING)
    adapter, draw = OURS[name][0](who)
    draw = replace(draw, rate=rate, steps=photos.steps)
    masked = perfusion.shown(who, photos.seed, count=PHOTOS) if name == "perfusion" else None
    shown = Shown(photos.pixels, photos.captions) if masked is None else masked
    params = personalize(pipe, adapter, shown, draw, seed=photos.seed).stacked()

    def pictures(texts: list[str], start: torch.Tensor) -> np.ndarray:
        with adapter.attached(pipe, params, torch.zeros(1, dtype=torch.long)):
            return generate.sample(pipe, [_named(adapter.subject, text) for text in texts], start, SAMPLING)

    return pictures


def judged(name: str, who: Identity, rate: float, seed: int) -> dict[str, float]:
    """Learn somebody, and let the oracles judge the pictures."""

    def look() -> dict[str, float]:
        draw, pipe = learned(name, who, given(who, seed), rate), pipelines.load()
        texts, others = subjects.prompts(who.superclass, STUDY.prompts, seed), subjects.strangers(STUDY.context, seed)
        start = generate.noise(pipe, len(texts), child(seed, "judged"))
        noise = generate.noise(pipe, len(others), child(seed, "context"))
        mine, verdict = (pixels := draw(texts, start)), oracles.judge(pixels, texts)
        change = np.abs(draw(others, noise) / 255 - generate.sample(pipe, others, noise, SAMPLING) / 255)
        return {
            "identity_error": float(oracles.identity_error(mine, who).mean()),
            "fidelity": float(np.nanmean(np.stack([verdict[part] for part in subjects.SAID]))),
            "context_change": float(change.mean()),
        }

    said = [name, rate, STEPS, BATCH, PHOTOS, seed, list(who.z), who.superclass]
    return kept("peers", said, look)


def rows(people: int) -> list[Row]:
    """Choose rates, judge others, then time a few steps of both in turns."""
    began, command = time.perf_counter(), "python -m benchmarks.peers --only adapters"
    grids = {name: grid for name, (_, grid) in (*OURS.items(), *PEERS.items())}
    tuning, reported = splits.held_out(TUNED, subjects.TUNING), splits.held_out(people, subjects.REPORT)
    rates: dict[str, float] = {}
    found: dict[str, dict[str, list[float]]] = {score: {name: [] for name in grids} for score in SCORES}
    with bar("adapters", total=len(grids) * (people + TUNED * 3)) as advance:
        for name, grid in grids.items():

            def loss(rate: float, name: str = name) -> float:
                values = []
                for k, who in enumerate(tuning):
                    values.append(judged(name, who, rate, child(subjects.TUNING, "peers", k))["identity_error"])
                    advance()
                return float(np.mean(values))

            rates[name] = race.chosen(grid, loss)
        for k, who in enumerate(reported):
            for name in grids:
                for score, value in judged(name, who, rates[name], child(subjects.REPORT, "peers", k)).items():
                    found[score][name].append(value)
                advance()
    print("chosen:", rates)
    rest, every = {"command": command, "seconds": time.perf_counter() - began}, []
    for score, unit in SCORES.items():
        values = {name: np.array(value) for name, value in found[score].items()}
        mine, other = ({name: values[name] for name in names} for names in (OURS, PEERS))
        every += race.quality(f"peers.adapters.{score}", mine, other, PAIRS, unit, rest)
    return every + speeds(tuning[0], rates)


def speeds(who: Identity, rates: dict[str, float]) -> list[Row]:
    """Time a few steps of both sides in turns, loading included, pictures of anyone too."""
    few, command = given(who, 0, steps=6), "python -m benchmarks.peers --only adapters"
    unit = f"seconds of {few.steps} steps of {BATCH} rows, ours / the peer's"
    return [
        race.speed(
            f"peers.speed.{mine}_over_{other}",
            lambda mine=mine: learned(mine, who, few, rates[mine]),
            lambda other=other: learned(other, who, few, rates[other]),
            unit,
            command,
            turns=5,
        )
        for mine, other in PAIRS
    ]


def _named(subject: Subject, text: str) -> str:
    """Name the subject where a prompt speaks of anyone; prompts about others stay as they are."""
    return subject.prompt(text) if subject.superclass in text.split() else text
