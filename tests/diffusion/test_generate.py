"""Sampling: the pipeline's own pictures from the same noise, and what averaging members makes of them."""

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, PNDMScheduler

from bayes_persona import ConfigError
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.generate import Config, noise, sample
from bayes_persona.diffusion.latents import decode
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.seeds import generator
from tests.diffusion.tiny import LATENT, snapshot, tiny, untouched

PROMPTS = ["a red robot in the snow", "a happy cat"]
PHRASE = "<me> the robot"
WORDS = TextualInversion(Subject("robot"))
QUICK = Config(steps=2, guidance=2.5)


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(autouse=True)
def _left_as_it_was(pipe):
    before = snapshot(pipe.unet), snapshot(pipe.text_encoder), snapshot(pipe.vae)
    scheduler = pipe.scheduler
    yield
    assert pipe.scheduler is scheduler
    for part, seen in zip((pipe.unet, pipe.text_encoder, pipe.vae), before, strict=True):
        assert untouched(part, seen)


def learned(members=3):
    """New words so far apart that their pictures are."""
    return {"embedding": generator(0, "learned").normal(size=(members, 2, 16)).astype(np.float32)}


def last_latents(pipe, prompts, start, config=QUICK, **settings):
    """What `sample` decodes: pixels of an untrained model are too coarse to compare."""
    seen = {}

    def keep(number, latents):
        seen[number] = latents
        return latents

    sample(pipe, prompts, start, config, on_step=keep, **settings)
    return seen[max(seen)]


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, ""), (1.5, ""), (7.5, "a dog")])
def test_it_is_the_pipelines_own_sampler(pipe, guidance, negative):
    start = noise(pipe, 2, seed=3)
    config = Config(steps=3, guidance=guidance, negative=negative)
    want = pipe(PROMPTS, num_inference_steps=3, guidance_scale=guidance, negative_prompt=[negative] * 2,
                latents=start.clone(), output_type="latent").images  # fmt: skip
    torch.testing.assert_close(last_latents(pipe, PROMPTS, start, config), want, rtol=1e-4, atol=1e-5)


def test_it_gives_the_pipelines_own_pixels(pipe):
    start = noise(pipe, 2, seed=3)
    want = pipe(PROMPTS, num_inference_steps=2, guidance_scale=2.5, latents=start.clone(), output_type="np").images
    have = sample(pipe, PROMPTS, start, QUICK)
    assert have.shape == (2, 64, 64, 3)
    assert have.dtype == np.uint8
    assert np.abs(have - 255.0 * want).max() <= 0.51  # theirs before rounding


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers against numpy
@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, PNDMScheduler])
def test_other_schedulers_do_as_they_do_in_the_pipeline(scheduler):
    pipe = tiny()
    more = {"skip_prk_steps": True} if scheduler is PNDMScheduler else {}  # as Stable Diffusion has it
    pipe.scheduler = scheduler(steps_offset=1, **more)
    start = noise(pipe, 1, seed=0)
    want = pipe(
        "a robot", num_inference_steps=2, guidance_scale=2.5, latents=start.clone(), output_type="latent"
    ).images
    torch.testing.assert_close(last_latents(pipe, ["a robot"], start), want, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers against numpy
def test_noise_on_the_way_is_the_pictures_own():
    """Ancestral samplers draw noise at every step: also that depends on nothing but the picture's start."""
    pipe = tiny()
    pipe.scheduler = EulerAncestralDiscreteScheduler(steps_offset=1)
    start = noise(pipe, 2, seed=0)
    both = sample(pipe, ["a cat", "a robot"], start, Config(steps=3))
    torch.rand(5)  # somebody else uses torch's own randomness in between
    alone = sample(pipe, ["a robot"], start[1:], Config(steps=3))
    assert np.abs(both[1].astype(int) - alone[0]).max() <= 1
    other = sample(pipe, ["a robot"], start[:1], Config(steps=3))
    assert (other != alone).mean() > 0.5


def test_the_noise_of_a_picture_depends_on_seed_and_number_alone(pipe):
    assert torch.equal(noise(pipe, 4, seed=1)[:2], noise(pipe, 2, seed=1))
    assert noise(pipe, 2, seed=1).shape == (2, *LATENT)
    assert not torch.equal(noise(pipe, 1, seed=1), noise(pipe, 1, seed=2))
    assert not torch.equal(*noise(pipe, 2, seed=1))
    many = noise(pipe, 20, seed=0)
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02


def test_noise_has_the_models_precision():
    pipe = tiny()
    pipe.unet.to(torch.float16)
    assert noise(pipe, 1, seed=0).dtype == torch.float16


def test_row_i_is_the_picture_that_member_i_alone_would_make(pipe):
    start = noise(pipe, 1, seed=0).repeat(3, 1, 1, 1)
    with WORDS.attached(pipe, learned(), torch.tensor([2, 0, 1])):
        together = last_latents(pipe, [PHRASE] * 3, start)
    for row, member in enumerate([2, 0, 1]):
        with WORDS.attached(pipe, learned(), torch.tensor([member])):
            alone = last_latents(pipe, [PHRASE], start[:1])
        torch.testing.assert_close(together[row], alone[0], rtol=1e-3, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_low_rank_members_are_rows_too(pipe):
    method = LowRank(Subject("robot"), rank=2, targets=("to_v",))
    start = method.init(pipe, 2, seed=0)
    apart = np.array([0.3, 0.6], np.float32).reshape(2, 1, 1)
    params = {name: array + apart * name.endswith(".up") for name, array in start.items()}
    noises = noise(pipe, 1, seed=0).repeat(2, 1, 1, 1)
    with method.attached(pipe, params, torch.tensor([1, 0])):
        together = last_latents(pipe, ["a robot"] * 2, noises)
    with method.attached(pipe, params, torch.tensor([0])):
        alone = last_latents(pipe, ["a robot"], noises[:1])
    torch.testing.assert_close(together[1], alone[0], rtol=1e-3, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_the_average_of_equal_members_is_each_of_them(pipe):
    params = {"embedding": np.tile(learned(1)["embedding"], (3, 1, 1))}
    start = noise(pipe, 2, seed=0)
    with WORDS.attached(pipe, params, torch.tensor([0, 0])):
        one = last_latents(pipe, [PHRASE, f"{PHRASE} in the snow"], start)
    with WORDS.attached(pipe, params, torch.tensor([0, 1, 2] * 2)):
        average = last_latents(pipe, [PHRASE, f"{PHRASE} in the snow"], start, average=3)
    torch.testing.assert_close(average, one, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_one_step_of_the_average_is_that_of_the_mean_prediction(pipe):
    prompts, start, config = [PHRASE, f"{PHRASE} in the snow"], noise(pipe, 2, seed=0), Config(steps=1, guidance=2.5)
    with WORDS.attached(pipe, learned(), torch.tensor([0, 1, 2] * 2)):
        have = last_latents(pipe, prompts, start, config, average=3)
    pipe.scheduler.set_timesteps(1)
    time = pipe.scheduler.timesteps[0]
    guesses = []
    for member in range(3):
        with WORDS.attached(pipe, learned(), torch.tensor([member])):
            texts, empties = zip(*(pipe.encode_prompt([prompt], "cpu", 1, True) for prompt in prompts), strict=True)
        yes, no = (pipe.unet(start, time, torch.cat(text)).sample for text in (texts, empties))
        guesses.append(no + 2.5 * (yes - no))
    assert (guesses[0] - guesses[1]).abs().max() > 1e-2
    want = pipe.scheduler.step(torch.stack(guesses).mean(dim=0), time, start).prev_sample
    torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-4)


def test_the_average_of_different_members_is_none_of_them(pipe):
    start = noise(pipe, 1, seed=0)
    with WORDS.attached(pipe, learned(2), torch.tensor([0, 1])):
        average = last_latents(pipe, [PHRASE], start, average=2)
    for member in range(2):
        with WORDS.attached(pipe, learned(2), torch.tensor([member])):
            alone = last_latents(pipe, [PHRASE], start)
        assert (average - alone).abs().max() > 1e-3


def test_what_a_step_gives_back_goes_on(pipe):
    start, numbers = noise(pipe, 1, seed=0), []

    def restart(number, latents):
        numbers.append(number)
        return torch.zeros_like(latents)

    pixels = sample(pipe, ["a robot"], start, QUICK, on_step=restart)
    assert numbers == [0, 1]
    assert np.array_equal(pixels, decode(pipe, torch.zeros_like(start)))


@pytest.mark.parametrize(("prompts", "starts", "average"), [(2, 1, 1), (1, 2, 1), (0, 0, 1), (1, 1, 0)])
def test_prompts_and_starts_must_be_as_many(pipe, prompts, starts, average):
    have = f"{prompts} prompts, {starts} starts, average={average}"
    with pytest.raises(ConfigError, match=have):
        sample(pipe, ["a robot"] * prompts, torch.zeros(starts, *LATENT), QUICK, average=average)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"guidance": -1.0}, {"guidance": float("nan")}])
def test_a_setting_out_of_its_range_is_named(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Config(**settings)
