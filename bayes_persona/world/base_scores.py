"""How well a text-to-image model knows PersonaWorld: its pictures of held-out prompts, judged by the oracles."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.diffusion import generate
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.seeds import child
from bayes_persona.world import oracles, splits

with needs_extra("diffusion"):
    from diffusers import DiffusionPipeline

KINDS = {
    "one": splits.Config(named=0.0, pairs=0.0),
    "named": splits.Config(named=1.0, pairs=0.0),
    "two": splits.Config(named=0.0, pairs=1.0),
}
"""The prompts: one subject without a name, one with, and two without."""
FEWEST = 16
"""Prompts of each kind, so that every superclass comes up."""
BATCH = 32
"""Pictures that are made in one go."""


class Scores(NamedTuple):
    """What was asked and what came out.

    >>> Scores._fields
    ('followed', 'named')
    """

    followed: dict[str, Float[np.ndarray, " mentions"]]
    """For each attribute 1 or 0 for every prompt that mentions it; `two subjects`: both superclasses are there."""
    named: oracles.Agreement
    """Factors read from pictures of named identities, beside the true ones."""


def scores(pipe: DiffusionPipeline, n: int = 400, *, seed: int, config: generate.Config | None = None) -> Scores:
    """Judge `n` pictures of one subject, as many of named ones and as many of two.

    Args:
        pipe: The model.
        n: Prompts of each kind, all with combinations of attributes that no training has shown.
        seed: Names prompts and noise.
        config: Steps and guidance.

    Raises:
        ConfigError: If `n` is too small for every superclass to come up.

    >>> from bayes_persona.diffusion import pipelines
    >>> quick = scores(pipelines.load(), 16, seed=0, config=generate.Config(steps=2))
    >>> sorted(quick.followed)
    ['accessory', 'background', 'clothing', 'expression', 'pose', 'superclass', 'two subjects']
    """
    if n < FEWEST:
        raise ConfigError(f"n: expected at least {FEWEST} prompts of each kind, got {n}")
    examples = {kind: asked(kind, n, seed) for kind in KINDS}
    pixels = {
        kind: drawn(pipe, [one.caption for one in some], child(seed, kind), config) for kind, some in examples.items()
    }
    judged = {kind: oracles.judge(pixels[kind], [one.caption for one in some]) for kind, some in examples.items()}
    # Names say who it is, not that it is a woman, so what a caption asks for is judged on both kinds of one subject.
    followed = {
        name: _mentioned(np.concatenate([judged["one"][name], judged["named"][name]]))
        for name in ("superclass", "expression", "pose", "clothing", "accessory", "background")
    }
    followed["two subjects"] = _mentioned(judged["two"]["both superclasses"])
    people = [one.scene.subjects[0].identity for one in examples["named"]]
    agreement = oracles.identity_r2(
        np.array([who.z for who in people]),
        oracles.load().read(pixels["named"]).z,
        [who.superclass for who in people],
    )
    return Scores(followed, agreement)


def asked(kind: str, n: int, seed: int) -> list[splits.Example]:
    """Give held-out prompts of one of `KINDS`, as examples that also know the truth.

    >>> [len(example.names) for example in asked("two", 3, seed=0)]
    [2, 2, 2]
    """
    return [splits.sample(KINDS[kind], i, seed=child(seed, "prompts", kind), part="held out") for i in range(n)]


def drawn(
    pipe: DiffusionPipeline, prompts: list[str], seed: int, config: generate.Config | None = None
) -> UInt8[np.ndarray, "n h w 3"]:
    """Make a picture of each prompt, a batch at a time.

    >>> from bayes_persona.diffusion import pipelines
    >>> drawn(pipelines.load(), ["a cat"], seed=0, config=generate.Config(steps=1)).shape
    (1, 64, 64, 3)
    """
    start = generate.noise(pipe, len(prompts), seed)
    parts = [slice(first, first + BATCH) for first in range(0, len(prompts), BATCH)]
    return np.concatenate([generate.sample(pipe, prompts[part], start[part], config) for part in parts])


def _mentioned(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " mentions"]:
    return values[~np.isnan(values)]
