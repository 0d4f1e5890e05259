"""Pictures from a pipeline, whatever is attached to it: seeded noise in, pixels out, members averaged if wished.

`StableDiffusionPipeline.__call__` gives the same pictures from the same noise. The loop is written out here because the
model average needs what happens between the U-Net and the scheduler: one step's predictions of all members.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona import ranges
from bayes_persona.diffusion.latents import decode
from bayes_persona.diffusion.pipelines import device
from bayes_persona.diffusion.text import Hidden, cached_text, conditions
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.seeds import child

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Config:
    """How pictures are sampled.

    Raises:
        ConfigError: If there is no step, or guidance is negative.

    >>> Config().steps
    25
    """

    steps: int = 25
    """Steps of the pipeline's scheduler."""
    guidance: float = 3.0
    """Classifier-free guidance; 1 turns it off. The embedded base wants 3, Stable Diffusion about 7.5."""
    negative: str = ""
    """What a picture should not show."""

    def __post_init__(self):
        ranges.at_least(self, 1, "steps")
        ranges.at_least(self, 0, "guidance")


def noise(pipe: DiffusionPipeline, n: int, seed: int) -> Float[torch.Tensor, "n c h w"]:
    """Draw the noise that `n` pictures begin with; picture i's depends on the seed and i alone.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe = load()
    >>> bool((noise(pipe, 3, seed=0)[:2] == noise(pipe, 2, seed=0)).all())
    True
    """
    shape = (pipe.unet.config.in_channels, pipe.unet.config.sample_size, pipe.unet.config.sample_size)
    draws = [torch.randn(shape, generator=torch.Generator().manual_seed(child(seed, "image", i))) for i in range(n)]
    return torch.stack(draws).to(device(pipe), pipe.unet.dtype)


@torch.no_grad()
def sample(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    start: Float[torch.Tensor, "n c h w"],
    config: Config | None = None,
    *,
    average: int = 1,
    on_step: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
) -> UInt8[np.ndarray, "n height width 3"]:
    """Make one picture of each prompt.

    Args:
        pipe: The pipeline; where an adapter is attached, its rows are these pictures.
        prompts: One a picture.
        start: The noise to begin with, as `noise` draws it. Schedulers that add more on the way draw it by this.
        config: Steps and guidance.
        average: Members a picture is averaged over. With K members the adapter must be attached with K rows a picture,
            picture by picture: `rows = [0, …, K-1] * n`. Their predictions are averaged at every step, so that what
            comes out is one picture of the Bayesian model average in score space.
        on_step: Called with each step's number and latents `(n, c, h, w)`; what it returns goes on.

    Raises:
        ConfigError: If there are no prompts, or not as many as starts.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe = load()
    >>> sample(pipe, ["a red robot", "a cat"], noise(pipe, 2, seed=0), Config(steps=2)).shape
    (2, 64, 64, 3)
    """
    config = Config() if config is None else config
    if not 0 < len(prompts) == len(start) or average < 1:
        have = f"{len(prompts)} prompts, {len(start)} starts, average={average}"
        raise ConfigError(f"prompts: {have}; expected as many prompts as starts, all at least 1")
    # K rows a picture share their latents and differ in the member that their adapter is attached with.
    said = conditions(pipe, _encode(pipe, [prompt for prompt in prompts for _ in range(average)], config))
    pipe.scheduler.set_timesteps(config.steps, device=start.device)
    chance = _chance(pipe, start)
    latents = start * pipe.scheduler.init_noise_sigma
    with cached_text(pipe.unet):
        for number, time in enumerate(pipe.scheduler.timesteps):
            scaled = pipe.scheduler.scale_model_input(latents, time).repeat_interleave(average, dim=0)
            if config.guidance == 1:
                guess = pipe.unet(scaled, time, **said).sample
            else:
                without, guess = pipe.unet(torch.cat([scaled, scaled]), time, **said).sample.chunk(2)
                guess = without + config.guidance * (guess - without)
            guess = guess.unflatten(0, (len(latents), average)).mean(dim=1)
            latents = pipe.scheduler.step(guess, time, latents, **chance, return_dict=False)[0]
            if on_step is not None:
                latents = on_step(number, latents)
    return decode(pipe, latents)


def _chance(pipe: DiffusionPipeline, start: torch.Tensor) -> dict[str, list[torch.Generator]]:
    """Give a generator for each picture to schedulers that add noise on the way; it depends on the picture's start."""
    if "generator" not in signature(pipe.scheduler.step).parameters:
        return {}
    seeds = [hashlib.blake2b(row.float().cpu().numpy().tobytes(), digest_size=7).digest() for row in start]
    return {"generator": [torch.Generator(start.device).manual_seed(int.from_bytes(seed, "big")) for seed in seeds]}


def _encode(pipe: DiffusionPipeline, prompts: list[str], config: Config) -> Hidden:
    """Give the encoded prompts, with as many negative ones before them where there is guidance."""
    states, empty, *pooled = pipe.encode_prompt(
        prompts,
        device=device(pipe),
        num_images_per_prompt=1,
        do_classifier_free_guidance=config.guidance != 1,
        negative_prompt=[config.negative] * len(prompts) if config.negative else None,  # SDXL has zeros for nothing
    )
    if empty is None:
        return Hidden(states, *pooled[:1])
    return Hidden(torch.cat([empty, states]), *([torch.cat(pooled[::-1])] if pooled else []))
