"""Colours of one picture and details of another: what diffusion makes up is detail, and colours drift."""

from typing import Literal

from jaxtyping import Float

from bayes_persona.errors import ConfigError, MismatchError, needs_extra

with needs_extra("diffusion"):
    import torch
    from torch.nn import functional

Fix = Literal["wavelet", "adain", "none"]
LEVELS = 5
"""Of the wavelet, as StableSR and DiffBIR have it: what is wider than about 2⁵ pixels is colour."""


def fixed(
    pixels: Float[torch.Tensor, "n c h w"], colours: Float[torch.Tensor, "m c _h _w"], fix: Fix, levels: int = LEVELS
) -> Float[torch.Tensor, "n c h w"]:
    """Give pictures the colours of others.

    Args:
        pixels: Pictures whose details are kept.
        colours: Pictures whose colours are taken.
        fix: `wavelet` takes low frequencies (StableSR, Wang et al., IJCV 2024, arXiv 2305.07015), `adain` each
            channel's mean and deviation (Huang and Belongie, ICCV 2017, arXiv 1703.06868), `none` nothing.
        levels: Of the wavelet.

    Raises:
        ConfigError: If there is no such fix, or no level.
        MismatchError: If pictures differ in shape.

    >>> grey, dark = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 3, 8, 8)
    >>> [fixed(grey, dark, fix).max().item() for fix in ("wavelet", "adain", "none")]
    [0.0, 0.0, 0.5]
    """
    if pixels.shape != colours.shape:
        raise MismatchError(f"colours: expected shape {tuple(pixels.shape)}, got {tuple(colours.shape)}")
    if fix == "none":
        return pixels
    if fix == "wavelet":
        return pixels - low(pixels, levels) + low(colours, levels)
    if fix == "adain":
        mean, spread = pixels.mean(dim=(2, 3), keepdim=True), pixels.std(dim=(2, 3), keepdim=True)
        want, wide = colours.mean(dim=(2, 3), keepdim=True), colours.std(dim=(2, 3), keepdim=True)
        return (pixels - mean) / (spread + 1e-5) * wide + want
    raise ConfigError(f"fix: expected wavelet, adain or none, got {fix!r}")


def low(pixels: Float[torch.Tensor, "n c h w"], levels: int = LEVELS) -> Float[torch.Tensor, "n c h w"]:
    """Give the low frequencies of pictures: blurred by (1, 2, 1) / 4 both ways, holes doubling from level to level.

    Raises:
        ConfigError: If there is no level.

    >>> low(torch.ones(1, 3, 8, 8)).unique().tolist()
    [1.0]
    """
    if levels < 1:
        raise ConfigError(f"levels: expected at least 1, got {levels}")
    channels = pixels.shape[1]
    line = torch.tensor([0.25, 0.5, 0.25], dtype=pixels.dtype, device=pixels.device)
    weights = torch.outer(line, line).expand(channels, 1, 3, 3)
    for level in range(levels):
        hole = 2**level
        padded = functional.pad(pixels, (hole,) * 4, mode="replicate")
        pixels = functional.conv2d(padded, weights, dilation=hole, groups=channels)
    return pixels
