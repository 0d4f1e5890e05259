"""From pixels to a model's latents and back, for the two kinds of autoencoder that Stable Diffusion models have."""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.diffusion.pipelines import device
from bayes_persona.errors import DataError, MismatchError, needs_extra

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline

BATCH = 16
"""Pictures that go through the autoencoder at once, to bound memory."""


@torch.no_grad()
def encode(pipe: DiffusionPipeline, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float[torch.Tensor, "n c _h _w"]:
    """Give the latents of pictures, scaled as the U-Net knows them, on the model's device.

    Of an autoencoder that gives a distribution (AutoencoderKL) the mode is taken, so the same picture always has the
    same latents.

    Raises:
        MismatchError: If a side is no multiple of the autoencoder's factor (4 for the embedded model, 8 for others).

    >>> from diffusers import AutoencoderTiny, StableDiffusionPipeline
    >>> sizes = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    >>> vae = AutoencoderTiny(**sizes, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4)
    >>> pipe = StableDiffusionPipeline(vae, None, None, None, None, None, None, requires_safety_checker=False)
    >>> encode(pipe, np.zeros((2, 8, 8, 3), np.uint8)).shape
    torch.Size([2, 4, 4, 4])
    """
    factor, vae = pipe.vae_scale_factor, pipe.vae
    height, width = pixels.shape[1:3]
    if height % factor or width % factor:
        raise MismatchError(f"pixels: {width}×{height}: both sides must be multiples of {factor}; crop or resize")
    shift, scale = _scaling(vae)
    rows = []
    for start in range(0, len(pixels), BATCH):
        some = torch.tensor(pixels[start : start + BATCH], device=device(pipe)).permute(0, 3, 1, 2)
        coded: Any = vae.encode(some.to(vae.dtype) / 127.5 - 1)
        rows.append(coded.latents if hasattr(coded, "latents") else coded.latent_dist.mode())
    if not rows:
        return torch.zeros(0, pipe.unet.config.in_channels, height // factor, width // factor, device=device(pipe))
    return (torch.cat(rows) - shift) * scale


@torch.no_grad()
def decode(pipe: DiffusionPipeline, latents: Float[torch.Tensor, "n c h w"]) -> UInt8[np.ndarray, "n _h _w 3"]:
    """Give the pictures of latents, rounded as the pipeline itself does.

    Raises:
        DataError: If latents are NaN or infinite.

    >>> from diffusers import AutoencoderTiny, StableDiffusionPipeline
    >>> sizes = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    >>> vae = AutoencoderTiny(**sizes, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4)
    >>> pipe = StableDiffusionPipeline(vae, None, None, None, None, None, None, requires_safety_checker=False)
    >>> decode(pipe, torch.zeros(2, 4, 4, 4)).shape
    (2, 8, 8, 3)
    """
    if bad := [i for i, row in enumerate(latents) if not torch.isfinite(row).all()]:
        raise DataError(f"latents: NaN or infinite in picture {bad[0]}; full precision or less guidance may help")
    factor, vae = pipe.vae_scale_factor, pipe.vae
    shift, scale = _scaling(vae)
    rows = [np.zeros((0, factor * latents.shape[2], factor * latents.shape[3], 3), np.uint8)]
    for some in latents.split(BATCH) if len(latents) else ():
        signed: Any = vae.decode(some.to(device(pipe), vae.dtype) / scale + shift).sample
        pixels = (signed.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        rows.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(rows)


def _scaling(vae: Any) -> tuple[float, float]:
    shift = getattr(vae.config, "shift_factor", None)
    return (0.0 if shift is None else shift), vae.config.scaling_factor
