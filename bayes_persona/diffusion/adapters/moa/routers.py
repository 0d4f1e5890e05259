"""Where the routers send pixels: the expert's share by step of sampling, layer and pixel."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.diffusion import generate
from bayes_persona.diffusion.adapters.moa.losses import resized
from bayes_persona.diffusion.adapters.moa.method import MoA
from bayes_persona.diffusion.adapters.moa.now import Now, require_tokens
from bayes_persona.errors import needs_extra

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline


class Routed(NamedTuple):
    """Pictures, and how much of each of their pixels came from the experts.

    >>> maps = np.zeros((1, 25, 14, 16, 16), np.float32)
    >>> Routed(np.zeros((1, 64, 64, 3), np.uint8), maps, ("attn1",) * 14).share().shape
    (1, 16, 16)
    """

    pixels: UInt8[np.ndarray, "n height width 3"]
    maps: Float[np.ndarray, "n steps layers h w"]
    """The experts' share, on the grid of the latents."""
    layers: tuple[str, ...]
    """Names of the layers, in the order of the pass."""

    def share(self) -> Float[np.ndarray, "n h w"]:
        """Give the experts' share, mean over steps and layers.

        >>> maps = np.stack([np.zeros((1, 2, 4, 4)), np.ones((1, 2, 4, 4))], axis=1)
        >>> float(Routed(np.zeros((1, 8, 8, 3), np.uint8), maps, ("a", "b")).share().mean())
        0.5
        """
        return self.maps.mean(axis=(1, 2))


def routed(
    pipe: DiffusionPipeline,
    method: MoA,
    params: Mapping[str, Any],
    prompts: Sequence[str],
    start: Float[torch.Tensor, "n c h w"],
    config: generate.Config | None = None,
) -> Routed:
    """Make one picture of each prompt, with the first member, and keep what the routers did.

    Args:
        pipe: The pipeline.
        method: Who is shown.
        params: Their vectors.
        prompts: One a picture; each must speak of every subject.
        start: The noise to begin with.
        config: Steps and guidance.

    Raises:
        ConfigError: If a prompt does not speak of a subject.

    >>> from bayes_persona.diffusion.adapters.moa.method import Cast, Mixture, mixtures
    >>> from diffusers import StableDiffusionPipeline
    >>> pipe = StableDiffusionPipeline(None, None, None, None, None, None, None, requires_safety_checker=False)
    >>> method = MoA(Cast("robot"), Mixture(mixtures.Config(feature=1), {}, base="…", encoder="…"), ((0.0,),))
    >>> routed(pipe, method, {}, ["a robot at night"], torch.zeros(1, 4, 8, 8))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: prompt: 'a robot at night' does not say who is <me>; write it behind the noun
    """
    require_tokens(prompts, method.subject.tokens)
    steps: list[np.ndarray] = []
    layers: list[str] = []
    with method.watched(pipe, params, torch.zeros(1, dtype=torch.long)) as now:

        def keep(step: int, latents: torch.Tensor) -> torch.Tensor:
            layers[:] = list(now.routed) or layers
            steps.append(shares(now, len(latents)))
            return latents

        pixels = generate.sample(pipe, prompts, start, config, on_step=keep)
    most = max(len(one) for one in steps)  # none, in steps that are the prior's alone
    blank = np.zeros((most, len(start), *start.shape[2:]), np.float32)
    maps = np.stack([one if len(one) else blank for one in steps])
    return Routed(pixels, maps.transpose(2, 0, 1, 3, 4), tuple(layers))


def shares(now: Now, n: int) -> Float[np.ndarray, "layers n h w"]:
    """Give the experts' share in the last n rows of the pass that has just been, layer by layer; nothing if none ran.

    >>> from bayes_persona.diffusion.adapters.moa.now import Now
    >>> now = Now(torch.zeros(1, 1, 4), torch.tensor([0]), times=1000)
    >>> now.routed, now.size = {"attn1": torch.ones(2, 4)}, (4, 4)
    >>> shares(now, 1).shape
    (1, 1, 4, 4)
    """
    maps = [resized(map.detach().float(), now.size)[-n:].cpu().numpy() for map in now.routed.values()]
    return np.stack(maps) if maps else np.zeros((0, n, *now.size), np.float32)
