"""How sure are we of this person? Pictures of every member from common noise, and where they part."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.diffusion import generate
from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.errors import DataError, needs_extra
from bayes_persona.posterior import Posterior

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline


class Maps(NamedTuple):
    """Variance of every pixel, intensities in 0 to 1, averaged over the colours; the first two add up to the third.

    >>> maps(np.zeros((2, 3, 4, 4, 3), np.uint8)).total.shape
    (4, 4)
    """

    epistemic: Float[np.ndarray, "h w"]
    """Of the members' mean pictures: what more photos would take away."""
    aleatoric: Float[np.ndarray, "h w"]
    """Of one member's pictures, on average: what the prompt leaves open."""
    total: Float[np.ndarray, "h w"]


def pictures(
    pipe: DiffusionPipeline,
    adapter: Adapter,
    posterior: Posterior,
    prompt: str,
    start: Float[torch.Tensor, "s c h w"],
    config: generate.Config | None = None,
    gates: Mapping[str, float] | None = None,
) -> UInt8[np.ndarray, "k s height width 3"]:
    """Make every member's pictures of a prompt from the same noises.

    Args:
        pipe: The base model.
        adapter: The method.
        posterior: Its K members.
        prompt: What to show; `{subject}`, or a superclass, is where the subject goes.
        start: Noises that all members begin with.
        config: How pictures are sampled.
        gates: How far the adapter's gates are open, from 0 to 1; those that are left out are.

    >>> from bayes_persona.diffusion import pipelines
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> pipe, adapter = pipelines.load(), TextualInversion(Subject("robot"))
    >>> start = adapter.init(pipe, members=1, seed=0)["embedding"][0]
    >>> two = Posterior(({"embedding": start}, {"embedding": 2 * start}))
    >>> pictures(pipe, adapter, two, "a robot", generate.noise(pipe, 1, seed=0), generate.Config(steps=2)).shape
    (2, 1, 64, 64, 3)
    """
    text = adapter.subject.prompt(prompt)
    rows = torch.arange(len(posterior)).repeat_interleave(len(start))
    with adapter.attached(pipe, posterior.stacked(), rows, gates):
        pixels = generate.sample(pipe, [text] * len(rows), start.repeat(len(posterior), 1, 1, 1), config)
    return pixels.reshape(len(posterior), len(start), *pixels.shape[1:])


def averaged(
    pipe: DiffusionPipeline,
    adapter: Adapter,
    posterior: Posterior,
    prompts: Sequence[str],
    start: Float[torch.Tensor, "n c h w"],
    config: generate.Config | None = None,
    gates: Mapping[str, float] | None = None,
) -> UInt8[np.ndarray, "n height width 3"]:
    """Make the model-averaged picture of each prompt: the members' predictions are averaged at every step.

    >>> from bayes_persona.diffusion import pipelines
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> pipe, adapter = pipelines.load(), TextualInversion(Subject("robot"))
    >>> start = adapter.init(pipe, members=1, seed=0)["embedding"][0]
    >>> two = Posterior(({"embedding": start}, {"embedding": 2 * start}))
    >>> averaged(pipe, adapter, two, ["a robot"], generate.noise(pipe, 1, seed=0), generate.Config(steps=2)).shape
    (1, 64, 64, 3)
    """
    rows = torch.arange(len(posterior)).repeat(len(prompts))
    texts = [adapter.subject.prompt(prompt) for prompt in prompts]
    with adapter.attached(pipe, posterior.stacked(), rows, gates):
        return generate.sample(pipe, texts, start, config, average=len(posterior))


def maps(pixels: UInt8[np.ndarray, "k s h w 3"]) -> Maps:
    """Divide the variance of pixels into what the members disagree on and what the noise leaves open.

    Args:
        pixels: Pictures of K members from the same S noises, as `pictures` makes them.

    Raises:
        DataError: If there are fewer than two members.

    >>> two = maps(np.stack([np.zeros((3, 4, 4, 3), np.uint8), np.full((3, 4, 4, 3), 255, np.uint8)]))
    >>> two.epistemic.max(), two.aleatoric.max()
    (np.float64(0.25), np.float64(0.0))
    """
    if len(pixels) < 2:
        raise DataError("pixels: one member cannot disagree with itself; draw a posterior of at least two")
    values = pixels / 255
    epistemic = values.mean(axis=1).var(axis=0).mean(axis=-1)
    aleatoric = values.var(axis=1).mean(axis=0).mean(axis=-1)
    return Maps(epistemic, aleatoric, values.var(axis=(0, 1)).mean(axis=-1))
