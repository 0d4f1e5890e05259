"""Latents: scaled as the U-Net knows them, rounded as the pipeline rounds."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from bayes_persona import DataError, MismatchError
from bayes_persona.diffusion.latents import BATCH, decode, encode
from tests.diffusion.tiny import LATENT, noise, tiny

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def with_kl():
    """A pipeline whose autoencoder gives distributions, with scale and shift."""
    pipe = tiny()
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(
        **blocks, block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, scaling_factor=0.2, shift_factor=0.5
    )
    pipe.register_modules(vae=vae.eval())
    pipe.vae_scale_factor = 2
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return tiny()


def test_the_range_of_pixels_is_what_the_autoencoder_expects(pipe):
    latents = encode(pipe, PIXELS)
    signed = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert latents.shape == (3, *LATENT)
    assert torch.equal(latents, pipe.vae.encode(signed).latents)


def test_pictures_are_those_of_the_pipeline(pipe):
    text, latents = noise(2, 40, 16), noise(2, *LATENT, seed=1)
    said = {"prompt_embeds": text, "latents": latents, "num_inference_steps": 2, "guidance_scale": 1.0}
    want = (pipe(**said, output_type="np").images * 255).round().astype(np.uint8)
    assert np.array_equal(decode(pipe, pipe(**said, output_type="latent").images), want)


def test_distributions_give_their_mode_scaled_and_shifted():
    pipe = with_kl()
    latents = encode(pipe, PIXELS)
    signed = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 127.5 - 1
    mode = pipe.vae.encode(signed).latent_dist.mode()
    assert torch.allclose(latents, (mode - 0.5) * 0.2)
    want = (pipe.vae.decode(mode).sample / 2 + 0.5).clamp(0, 1).mul(255).detach().permute(0, 2, 3, 1).numpy()
    assert np.abs(decode(pipe, latents).astype(float) - want).max() <= 0.51


def test_a_picture_does_not_depend_on_the_others(pipe):
    many = np.concatenate([PIXELS] * 7)[: BATCH + 2]
    latents = encode(pipe, many)
    assert torch.allclose(latents[-1:], encode(pipe, many[-1:]), atol=1e-5)
    assert decode(pipe, latents).shape == many.shape


def test_no_pictures_are_no_latents(pipe):
    assert encode(pipe, PIXELS[:0]).shape == (0, *LATENT)
    assert decode(pipe, torch.zeros(0, *LATENT)).shape == (0, 64, 64, 3)


def test_sides_that_do_not_fit_are_named(pipe):
    with pytest.raises(MismatchError, match="pixels: 62×64: both sides must be multiples of 4"):
        encode(pipe, PIXELS[:, :, :62])


def test_latents_that_are_not_numbers_are_named(pipe):
    latents = noise(3, *LATENT)
    latents[1, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="NaN or infinite in picture 1"):
        decode(pipe, latents)
