"""How a personalization method is judged: the same people, photos, prompts, noises and oracles for every method."""

import time
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import NamedTuple

import numpy as np
import torch

from bayes_persona.diffusion import generate
from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child
from bayes_persona.world import oracles, splits
from bayes_persona.world.draw import Identity

TUNING, REPORT = 11, 12
"""Seeds of the held-out identities that settings are chosen on, and of those that are reported."""
SAID = ("expression", "pose", "clothing", "accessory", "background")
"""What prompt fidelity counts."""


@dataclass(frozen=True)
class Study:
    """How much is generated for every identity."""

    photos: int = 4
    """Pictures to learn from."""
    prompts: int = 6
    """Prompts of the subject, with attributes that no base training has shown together."""
    noises: int = 2
    """Pictures of each prompt."""
    context: int = 6
    """Pictures of other people, which should not change."""


class Judged(NamedTuple):
    """One method on one identity."""

    identity_error: float
    """Root mean square over visible factors, by the oracles, mean over pictures."""
    fidelity: float
    """Share of what prompts say that shows."""
    context_change: float
    """Mean absolute change of pictures of other people, of the full range, against the base model's."""
    diversity: float
    """Mean absolute difference between pictures of a prompt, over that of the base model's pictures of anyone."""
    seconds: float
    """Training."""
    bytes: float
    """Of what is learned, in float32."""


def judge(pipe, adapter: Adapter, draw: Draw, who: Identity, study: Study, seed: int) -> Judged:
    """Train a method on an identity's photos and judge its pictures."""
    examples = splits.photos(who, study.photos, seed=seed)
    photos = Shown(np.stack([one.render().pixels for one in examples]), tuple(one.caption for one in examples))
    started = time.perf_counter()
    posterior = personalize(pipe, adapter, photos, replace(draw, particles=1), seed=seed)
    seconds = time.perf_counter() - started
    plain = [text for text in prompts(who.superclass, study.prompts, seed) for _ in range(study.noises)]
    start = generate.noise(pipe, len(plain), child(seed, "judged"))
    mine = drawn(pipe, adapter, posterior, [adapter.subject.prompt(text) for text in plain], start)
    anyone = generate.sample(pipe, plain, start)
    verdict = oracles.judge(mine, plain)
    others = strangers(study.context, seed)
    noise = generate.noise(pipe, len(others), child(seed, "context"))
    change = np.abs(drawn(pipe, adapter, posterior, others, noise) / 255 - generate.sample(pipe, others, noise) / 255)
    return Judged(
        identity_error=float(oracles.identity_error(mine, who).mean()),
        fidelity=float(np.nanmean(np.stack([verdict[name] for name in SAID]))),
        context_change=float(change.mean()),
        diversity=spread(mine, study.noises) / spread(anyone, study.noises),
        seconds=seconds,
        bytes=float(sum(value.nbytes for value in posterior[0].values())),
    )


def unpersonalized(pipe, who: Identity, study: Study, seed: int) -> tuple[float, float]:
    """Give identity error and fidelity of the base model's pictures of anyone: what no learning at all achieves."""
    plain = [text for text in prompts(who.superclass, study.prompts, seed) for _ in range(study.noises)]
    pixels = generate.sample(pipe, plain, generate.noise(pipe, len(plain), child(seed, "judged")))
    verdict = oracles.judge(pixels, plain)
    fidelity = np.nanmean(np.stack([verdict[name] for name in SAID]))
    return float(oracles.identity_error(pixels, who).mean()), float(fidelity)


def drawn(pipe, adapter: Adapter, posterior: Posterior, texts: list[str], start: torch.Tensor) -> np.ndarray:
    """Make pictures with the only member attached."""
    with adapter.attached(pipe, posterior.stacked(), torch.zeros(1, dtype=torch.long)):
        return generate.sample(pipe, texts, start)


def prompts(superclass: str, n: int, seed: int) -> list[str]:
    """Give prompts of anyone of a superclass: held-out combinations of attributes, nothing left out."""
    config = splits.Config(named=0.0, pairs=0.0, drop=0.0)
    stream = (splits.sample(config, i, seed=child(seed, "prompt"), part="held out") for i in count())
    return list(islice((one.caption for one in stream if one.scene.subjects[0].identity.superclass == superclass), n))


def strangers(n: int, seed: int) -> list[str]:
    """Give prompts of other people: named ones, whom the base model knows."""
    config = splits.Config(named=1.0, pairs=0.0, drop=0.0)
    return [splits.sample(config, i, seed=child(seed, "stranger"), part="held out").caption for i in range(n)]


def spread(pixels: np.ndarray, noises: int) -> float:
    """Give the mean absolute difference between pictures of one prompt."""
    groups = pixels.reshape(-1, noises, *pixels.shape[1:]) / 255
    return float(np.abs(groups[:, :1] - groups[:, 1:]).mean())


def told(left: np.ndarray, right: np.ndarray, one: Identity, other: Identity) -> bool:
    """Whether both identities are right, which is nearer than people are to the mean person, and not swapped."""
    far = [oracles.distance(np.full(left.shape, 0.5), who) for who in (one, other)]
    off = oracles.distance(left, one), oracles.distance(right, other)
    crossed = oracles.distance(left, other) + oracles.distance(right, one)
    return off[0] < far[0] and off[1] < far[1] and sum(off) < crossed
