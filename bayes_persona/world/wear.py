"""What wears pictures down: blur, colour casts, noise and JPEG, on whole batches and quickly, for training oracles.

`diffusion.degrade` does the same as cameras and programs do it, a picture at a time.
"""

from bayes_persona.errors import needs_extra

with needs_extra("diffusion"):
    import torch
    from torch.nn import functional


def down(pixels: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """Wear pictures down, each by chance: blur, a colour cast, noise, and what JPEG takes away.

    >>> grey = torch.full((4, 3, 64, 64), 0.5)
    >>> bool((down(grey, torch.Generator().manual_seed(0)) - grey).abs().max() < 0.5)
    True
    """
    n = len(pixels)

    def chance(*shape: int) -> torch.Tensor:
        return torch.rand((n, *shape), generator=noise)

    def share(likely: float) -> torch.Tensor:
        return chance(1, 1, 1) * (chance(1, 1, 1) < likely)

    changed = torch.lerp(pixels, _blurred(pixels), share(0.6))
    changed = changed * (1 + 0.08 * (chance(3, 1, 1) - 0.5)) + 0.04 * (chance(3, 1, 1) - 0.5)
    changed = changed + 0.05 * share(0.6) * torch.randn(pixels.shape, generator=noise)
    changed = torch.lerp(changed, _rounded(changed, 0.01 + 0.05 * chance(1, 1, 1)), (share(0.4) > 0).float())
    return changed.clamp(0, 1)


def _blurred(pixels: torch.Tensor) -> torch.Tensor:
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = (line[:, None] * line).expand(3, 1, 5, 5)
    return functional.conv2d(functional.pad(pixels, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)


def _rounded(pixels: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Round the cosines of blocks of 8 by 8, the finer the more coarsely, as JPEG does."""
    n, channels, size, _ = pixels.shape
    at = torch.arange(8.0)
    cosines = torch.cos(torch.pi * (at + 0.5) * at[:, None] / 8) * torch.where(at == 0, 0.125**0.5, 0.5)[:, None]
    blocks = pixels.reshape(n, channels, size // 8, 8, size // 8, 8)
    waves = torch.einsum("ua,ncyaxb,vb->ncyuxv", cosines, blocks, cosines)
    grain = step[:, :, :, :, None, None] * (1 + at[:, None, None] + at)
    waves = (waves / grain).round() * grain
    return torch.einsum("ua,ncyuxv,vb->ncyaxb", cosines, waves, cosines).reshape(pixels.shape)
