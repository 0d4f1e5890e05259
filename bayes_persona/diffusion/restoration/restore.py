"""Restoration: bad photos in, pictures that could have looked so out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona import ranges
from bayes_persona.diffusion import generate
from bayes_persona.diffusion.latents import encode
from bayes_persona.diffusion.restoration.colour import LEVELS, Fix, fixed
from bayes_persona.diffusion.restoration.guide import Guide, guided
from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.seeds import child

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Config:
    """How photos are restored.

    Raises:
        ConfigError: If a number is out of its range, or there is no such colour fix.

    >>> Config().guidance
    1.0
    """

    steps: int = 25
    """Steps of the pipeline's scheduler; DiffBIR takes 50 of DDPM's."""
    guidance: float = 1.0
    """Classifier-free guidance; 1 turns it off, as the authors' code does."""
    negative: str = ""
    """What a picture should not show; for guidance."""
    scale: float = 1.0
    """How strongly the guide is heard."""
    colour: Fix = "wavelet"
    """Where colours come from: the photo's low frequencies, its means and deviations, or the model alone."""
    levels: int = LEVELS
    """Of the wavelet: what is wider than about two to that many pixels is the photo's."""

    def __post_init__(self):
        _ = self.sampling  # which has ranges of its own
        ranges.at_least(self, 0, "scale")
        if self.colour not in get_args(Fix):
            raise ConfigError(f"colour: expected one of {', '.join(get_args(Fix))}, got {self.colour!r}")
        ranges.at_least(self, 1, "levels")

    @property
    def sampling(self) -> generate.Config:
        """The same, as sampling wants it."""
        return generate.Config(self.steps, self.guidance, self.negative)


def restore(
    pipe: DiffusionPipeline,
    guide: Guide,
    photos: UInt8[np.ndarray, "n h w 3"],
    prompts: Sequence[str],
    config: Config | None = None,
    *,
    seed: int = 0,
    average: int = 1,
    on_step: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Restore bad photos; whose, is for what is attached to the pipeline and the guide to know.

    Sides that are no multiple of the model's coarsest grid are continued at the edge, and cut off again.

    Args:
        pipe: The generator.
        guide: Its guide.
        photos: The photos, enlarged to about the size that the model was made for.
        prompts: One a photo: who and what the generator is told they show. The guide is told nothing.
        config: Steps, guidance and colours.
        seed: Names the noise; photo i's depends on the seed and i alone.
        average: Members a picture is averaged over, as `generate.sample` has it.
        on_step: As `generate.sample` has it.

    Raises:
        ConfigError: If there are no photos, or not as many prompts.
        DataError: If photos are smaller than the model's coarsest grid.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe = load()
    >>> restore(pipe, Guide.of(pipe), np.zeros((1, 60, 64, 3), np.uint8), ["a cat"], Config(steps=1)).shape
    (1, 60, 64, 3)
    """
    config = Config() if config is None else config
    if not 0 < len(prompts) == len(photos):
        raise ConfigError(f"prompts: {len(prompts)} for {len(photos)} photos; expected as many, at least 1")
    require_large(pipe, *photos.shape[1:3])
    height, width = photos.shape[1:3]
    cell = grid(pipe)
    edges = ((0, 0), (0, -height % cell), (0, -width % cell), (0, 0))
    condition = encode(pipe, np.pad(photos, edges, mode="edge"))
    with guided(pipe, guide, condition.repeat_interleave(average, dim=0), config.scale):
        start = noise(condition, seed)
        made = generate.sample(pipe, prompts, start, config.sampling, average=average, on_step=on_step)
    pixels, colours = (_floats(some) for some in (made[:, :height, :width], photos))
    coloured = fixed(pixels, colours, config.colour, config.levels).clamp(0, 1).mul(255).round().to(torch.uint8)
    return coloured.permute(0, 2, 3, 1).numpy()


def noise(condition: Float[torch.Tensor, "n c h w"], seed: int) -> Float[torch.Tensor, "n c h w"]:
    """Draw the noise that pictures begin with, as `generate.noise` does, at the size of their photos.

    >>> noise(torch.zeros(2, 8, 16, 24), seed=0).shape
    torch.Size([2, 8, 16, 24])
    """
    draws = [
        torch.randn(condition.shape[1:], generator=torch.Generator().manual_seed(child(seed, "image", i)))
        for i in range(len(condition))
    ]
    return torch.stack(draws).to(condition)


def grid(pipe: DiffusionPipeline) -> int:
    """Give the pixels along a side of one cell of the U-Net's coarsest grid.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> grid(load())
    16
    """
    return pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)


def require_large(pipe: DiffusionPipeline, height: int, width: int) -> None:
    """Check that a picture fills a cell of the coarsest grid.

    Raises:
        DataError: If it does not.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> require_large(load(), 8, 64)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.DataError: photo: 64×8 is less than 16×16, one cell of the model's coarsest grid; enlarge it
    """
    cell = grid(pipe)
    if min(height, width) < cell:
        raise DataError(
            f"photo: {width}×{height} is less than {cell}×{cell}, one cell of the model's coarsest grid; enlarge it"
        )


def _floats(pixels: UInt8[np.ndarray, "n h w 3"]) -> Float[torch.Tensor, "n 3 h w"]:
    return torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
