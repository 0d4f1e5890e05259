"""Restoration: a guide that hears a photo and no text, colours, sizes, and numbers for how near it came."""

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DDPMScheduler, StableDiffusionControlNetPipeline, UNet2DConditionModel
from scipy.ndimage import correlate1d

from bayes_persona import ConfigError, DataError, MismatchError, RunError
from bayes_persona.diffusion import generate
from bayes_persona.diffusion.latents import encode
from bayes_persona.diffusion.pipelines import fingerprint
from bayes_persona.diffusion.restoration import guide as guides
from bayes_persona.diffusion.restoration.colour import fixed, low
from bayes_persona.diffusion.restoration.guide import Guide, guided
from bayes_persona.diffusion.restoration.quality import Metric, psnr, report, ssim
from bayes_persona.diffusion.restoration.restore import Config, grid, restore
from bayes_persona.files import save_arrays
from bayes_persona.seeds import generator
from tests.diffusion.tiny import LATENT, noise, snapshot, tiny, untouched

TEXT = noise(2, 40, 16, seed=3)
PHOTOS = generator(0, "photos").integers(0, 256, (2, 64, 64, 3), np.uint8)
SHAPES = {
    "1.5": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "2.1": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
}


@pytest.fixture(scope="module")
def pipe():
    return tiny()


def moved(guide, seed=0):
    """A guide that has learned something: nothing in it is zero."""
    said = ("empty", "summary")
    draws = {n: v + 0.1 * noise(*v.shape, seed=seed) for n, v in guide.state_dict().items() if n not in said}
    guide.load_state_dict(guide.state_dict() | draws)
    return guide


@pytest.fixture(scope="module")
def guide(pipe):
    return moved(Guide.of(pipe))


@torch.no_grad()
def predict(pipe, latents, text=TEXT, time=500):
    return pipe.unet(latents, time, text[: len(latents)]).sample


def test_a_new_guide_says_nothing_and_a_silent_one_neither(pipe, guide):
    latents = noise(2, *LATENT)
    for net, scale in ((Guide.of(pipe), 1.0), (guide, 0.0)):
        with guided(pipe, net, noise(2, *LATENT, seed=1), scale):
            inside = predict(pipe, latents)
        torch.testing.assert_close(inside, predict(pipe, latents))


def test_the_pipeline_is_left_as_it_was_however_the_block_ends(pipe, guide):
    before = snapshot(pipe.unet)
    with pytest.raises(InterruptedError), guided(pipe, guide, noise(1, *LATENT)):
        raise InterruptedError
    assert untouched(pipe.unet, before)
    assert not pipe.unet._forward_pre_hooks
    assert not pipe.unet._forward_pre_hooks_with_kwargs


def test_the_guide_is_one_convolution_of_both_latents_side_by_side(guide):
    noisy, photo = noise(2, *LATENT), noise(2, *LATENT, seed=1)
    weight = torch.cat([guide.conv_in.weight, guide.controlnet_cond_embedding.weight], dim=1)
    want = torch.nn.functional.conv2d(torch.cat([noisy, photo], dim=1), weight, guide.conv_in.bias, padding=1)
    torch.testing.assert_close(guide.conv_in(noisy) + guide.controlnet_cond_embedding(photo), want)


@torch.no_grad()
def test_what_the_guide_says_does_not_depend_on_the_prompt(guide):
    noisy, photo = noise(2, *LATENT), noise(2, *LATENT, seed=1)
    one, other = (guide(noisy, 500, text, photo, return_dict=False) for text in (TEXT, -TEXT))
    assert all(torch.equal(a, b) for a, b in zip((*one[0], one[1]), (*other[0], other[1]), strict=True))
    empty = ControlNetModel.forward(guide, noisy, 500, guide.empty.expand(2, -1, -1), photo, return_dict=False)
    assert torch.equal(one[1], empty[1])


@torch.no_grad()
def test_the_hook_gives_what_diffusers_gives_by_hand(pipe, guide):
    noisy, photo = noise(2, *LATENT), noise(2, *LATENT, seed=1)
    down, mid = guide(noisy, 500, TEXT, photo, conditioning_scale=0.7, return_dict=False)
    want = pipe.unet(noisy, 500, TEXT, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
    with guided(pipe, guide, photo, 0.7):
        assert torch.equal(predict(pipe, noisy), want)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_diffusers_own_pipeline_runs_it_and_draws_the_same(pipe, guide, guidance):
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    theirs = StableDiffusionControlNetPipeline(**parts, controlnet=guide, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    photo, start = encode(pipe, PHOTOS), noise(2, *LATENT)
    drawn = theirs(
        ["a robot", "a cat"],
        image=photo,
        latents=start,
        num_inference_steps=3,
        guidance_scale=guidance,
        output_type="np",
    ).images
    with guided(pipe, guide, photo):
        ours = generate.sample(pipe, ["a robot", "a cat"], start, generate.Config(steps=3, guidance=guidance))
    assert np.array_equal((drawn * 255).round().astype(np.uint8), ours)


def test_a_batch_that_is_not_whole_blocks_of_photos_is_refused(pipe, guide):
    with guided(pipe, guide, noise(2, *LATENT)), pytest.raises(MismatchError, match="cannot guide a batch"):
        predict(pipe, noise(3, *LATENT), noise(3, 40, 16))
    with guided(pipe, guide, noise(2, *LATENT)[..., :8]), pytest.raises(MismatchError, match="cannot guide a batch"):
        predict(pipe, noise(2, *LATENT))
    with pytest.raises(ConfigError, match="scale"), guided(pipe, guide, noise(2, *LATENT), -1.0):
        pass


def test_a_guide_comes_back_from_its_folder_bit_for_bit_and_knows_its_model(pipe, guide, tmp_path):
    guides.save(tmp_path, guide, base=fingerprint(pipe))
    back = guides.load(pipe, tmp_path)
    assert back.fingerprint == guide.fingerprint
    assert not back.training
    assert not any(value.requires_grad for value in back.parameters())
    with pytest.raises(MismatchError, match="guides base model"):
        guides.load(tiny(seed=1), tmp_path)
    save_arrays(tmp_path / guides.NAME, {"w": np.zeros(1)})
    with pytest.raises(DataError, match="holds no guide"):
        guides.load(pipe, tmp_path)
    with pytest.raises(RunError, match="no such file"):
        guides.load(pipe, tmp_path / "nowhere")


@pytest.mark.parametrize("version", SHAPES)
def test_it_fits_the_shapes_of_stable_diffusion(version):
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, **SHAPES[version]
        )
        text = torch.empty(1, 77, SHAPES[version]["cross_attention_dim"])
        guide = Guide.around(unet, text)
        x = torch.empty(2, 4, 64, 64)
        down, mid = guide(x, 500, text, x, return_dict=False)
        assert len(down) == 12  # and the middle: DiffBIR's 13
        out = unet(x, 500, text.expand(2, -1, -1), down_block_additional_residuals=tuple(down),
                   mid_block_additional_residual=mid).sample  # fmt: skip
    assert out.shape == x.shape
    assert guide.controlnet_cond_embedding.weight.shape == (320, 4, 3, 3)


def test_wavelet_keeps_what_is_fine_and_takes_what_is_coarse():
    one, other = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1)
    fix = fixed(one, other, "wavelet", levels=3)
    torch.testing.assert_close(fix, (one - low(one, 3)) + low(other, 3))
    line = np.array([0.25, 0.5, 0.25])
    want = one.numpy().astype(float)
    for level in range(3):
        spread = np.zeros(2 ** (level + 1) + 1)
        spread[:: 2**level] = line
        for axis in (2, 3):
            want = correlate1d(want, spread, axis=axis, mode="nearest")
    np.testing.assert_allclose(low(one, 3).numpy(), want, atol=1e-6)
    flat = torch.full_like(one, 0.25)
    torch.testing.assert_close(fixed(one + 0.5, flat, "wavelet"), fixed(one, flat, "wavelet"))


def test_adain_takes_means_and_deviations_and_none_nothing():
    one, other = noise(2, 3, 32, 32), 0.3 * noise(2, 3, 32, 32, seed=1) + 0.5
    fix = fixed(one, other, "adain")
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(fix, dim=(2, 3)), moment(other, dim=(2, 3)), atol=1e-4, rtol=1e-4)
    assert fixed(one, other, "none") is one
    with pytest.raises(MismatchError, match="colours"):
        fixed(one, other[:1], "none")


def test_without_colour_fix_and_guidance_restoring_is_guided_sampling(pipe, guide):
    config = Config(steps=2, colour="none")
    have = restore(pipe, guide, PHOTOS, ["a robot", "a cat"], config, seed=5)
    with guided(pipe, guide, encode(pipe, PHOTOS)):
        want = generate.sample(
            pipe, ["a robot", "a cat"], generate.noise(pipe, 2, seed=5), generate.Config(steps=2, guidance=1.0)
        )
    assert np.array_equal(have, want)
    alone = restore(pipe, guide, PHOTOS[:1], ["a robot"], config, seed=5)
    assert np.abs(alone[0].astype(int) - want[0]).max() <= 1


def test_any_size_of_at_least_a_cell_is_restored_and_less_is_refused(pipe, guide):
    odd = PHOTOS[:1, :37, :50]
    whole = np.pad(odd, ((0, 0), (0, 11), (0, 14), (0, 0)), mode="edge")
    config = Config(steps=1, colour="none")
    have = restore(pipe, guide, odd, ["a cat"], config)
    assert np.array_equal(have, restore(pipe, guide, whole, ["a cat"], config)[:, :37, :50])
    assert grid(pipe) == 16
    with pytest.raises(DataError, match="50×15 is less than 16×16"):
        restore(pipe, guide, PHOTOS[:1, :15, :50], ["a cat"], config)
    with pytest.raises(ConfigError, match="prompts"):
        restore(pipe, guide, PHOTOS, ["a cat"], config)


def test_ddpm_restores_and_what_it_adds_depends_on_the_seed(pipe, guide):
    other = tiny()
    other.scheduler = DDPMScheduler.from_config(
        pipe.scheduler.config, variance_type="fixed_small", timestep_spacing="linspace", rescale_betas_zero_snr=False
    )
    config = Config(steps=3, colour="none")
    one, again, else_ = (restore(other, guide, PHOTOS[:1], ["a cat"], config, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, else_)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"guidance": -1.0}, {"scale": -0.1}, {"levels": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Config(**wrong)


def test_ssim_is_the_formula_pixel_by_pixel():
    one, other = PHOTOS[:1, :14, :13], PHOTOS[1:, :14, :13]
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(line, line) / np.outer(line, line).sum()
    a, b = one[0] @ np.array([0.299, 0.587, 0.114]), other[0] @ np.array([0.299, 0.587, 0.114])
    found = []
    for y in range(4):
        for x in range(3):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            both = (window * (p - mp) * (q - mq)).sum()
            c, d = 2.55**2, 7.65**2
            found.append((2 * mp * mq + c) * (2 * both + d) / ((mp**2 + mq**2 + c) * (vp + vq + d)))
    np.testing.assert_allclose(ssim(one, other), [np.mean(found)])


def test_psnr_of_a_known_error_and_metrics_of_ones_own():
    grey = np.full((2, 16, 16, 3), 100, np.uint8)
    np.testing.assert_allclose(psnr(grey + 10, grey), 20 * np.log10(25.5))
    assert np.isinf(psnr(grey, grey)).all()
    found = report(PHOTOS, PHOTOS, {"lpips": lambda pixels, truth: np.array([1.0, 2.0]), "fid": lambda a, b: 7.0})
    assert (found["lpips"], found["fid"], round(found["ssim"], 9)) == (1.5, 7.0, 1.0)
    assert isinstance(ssim, Metric)
    for metric in (psnr, ssim):
        with pytest.raises(MismatchError, match="truth"):
            metric(PHOTOS, PHOTOS[:1])
    with pytest.raises(MismatchError, match="11×11"):
        ssim(PHOTOS[:, :8], PHOTOS[:, :8])
