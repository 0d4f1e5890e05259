"""Inversion: the noise gives the picture back, and for data whose noise is known in closed form it is that noise."""

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, EulerDiscreteScheduler
from torch import nn

from bayes_persona import ConfigError, MismatchError
from bayes_persona.diffusion.inversion import Config, invert, regenerate, walk
from tests.diffusion.tiny import LATENT, noise, tiny

TEXT = noise(2, 40, 16, seed=3)
SPREAD, CENTRE = 0.5, 0.3
SCHEDULES = {
    "v, zero terminal signal, trailing": {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    "v, leading": {"prediction_type": "v_prediction", "timestep_spacing": "leading"},
    "noise, leading": {"prediction_type": "epsilon", "timestep_spacing": "leading"},
    "noise, leading, last signal kept": {
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "set_alpha_to_one": False,
    },
    "noise, trailing": {"prediction_type": "epsilon", "timestep_spacing": "trailing"},
    "noise, linspace": {"prediction_type": "epsilon", "timestep_spacing": "linspace"},
}
BASE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def scheduler(name):
    return DDIMScheduler(**BASE, steps_offset=1, clip_sample=False, **SCHEDULES[name])


class Oracle(nn.Module):
    """The best prediction for latents that are normal around CENTRE with deviation SPREAD, so that all is known."""

    def __init__(self, schedule):
        super().__init__()
        self.alphas, self.kind = schedule.alphas_cumprod, schedule.config.prediction_type

    def forward(self, x, time, encoder_hidden_states, return_dict):
        signal, spread = self.alphas[time].sqrt(), (1 - self.alphas[time]).sqrt()
        picture = CENTRE + signal * SPREAD**2 * (x - signal * CENTRE) / (signal**2 * SPREAD**2 + spread**2)
        error = (x - signal * picture) / spread
        return (error if self.kind == "epsilon" else signal * error - spread * picture,)


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(params=SCHEDULES)
def scheduled(request, pipe):
    before = pipe.scheduler
    pipe.scheduler = scheduler(request.param)
    yield pipe
    pipe.scheduler = before


def oracle(name):
    pipe = tiny()
    pipe.scheduler = scheduler(name)
    pipe.unet = Oracle(pipe.scheduler)
    return pipe


def error_of(have, want):
    return float((have - want).square().mean().sqrt())


@pytest.mark.parametrize(("steps", "guidance"), [(4, 1.0), (3, 3.0)])
def test_regenerating_is_what_the_pipeline_does(scheduled, steps, guidance):
    start, empty = noise(2, *LATENT), torch.zeros_like(TEXT)
    have = regenerate(scheduled, start, TEXT, Config(steps=steps, guidance=guidance), empty)
    text = {"prompt_embeds": TEXT, "negative_prompt_embeds": empty, "latents": start, "output_type": "latent"}
    want = scheduled(**text, num_inference_steps=steps, guidance_scale=guidance).images
    assert error_of(have, want) < 1e-4 * want.std()


@pytest.mark.parametrize("name", SCHEDULES)
def test_more_refinements_and_more_steps_come_closer(name):
    pipe, clean = oracle(name), CENTRE + SPREAD * noise(2, *LATENT)

    def error(config):
        return error_of(regenerate(pipe, invert(pipe, clean, TEXT, config)[-1], TEXT, config), clean)

    refined = [error(Config(steps=10, refinements=refinements)) for refinements in (0, 1, 3, 12)]
    assert refined == sorted(refined, reverse=True)
    assert refined[-1] < 1e-4
    longer = [error(Config(steps=steps)) for steps in (10, 50, 250)]
    assert longer == sorted(longer, reverse=True)
    assert longer[-1] < longer[0] / 10


def test_a_networks_regeneration_is_undone(pipe):
    clean = noise(2, *LATENT)
    errors = []
    for refinements in (0, 2, 5):
        config = Config(steps=5, refinements=refinements)
        errors.append(error_of(regenerate(pipe, invert(pipe, clean, TEXT, config)[-1], TEXT, config), clean))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_guided_inversion_undoes_guided_regeneration(pipe):
    clean, empty, config = noise(2, *LATENT), torch.zeros_like(TEXT), Config(steps=4, guidance=1.5, refinements=6)
    back = regenerate(pipe, invert(pipe, clean, TEXT, config, empty)[-1], TEXT, config, empty)
    assert error_of(back, clean) < 1e-3


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_noise_of_normal_data_is_found(name):
    pipe, clean = oracle(name), CENTRE + SPREAD * noise(2, *LATENT)
    errors = []
    for steps in (10, 50, 250):
        last = next(walk(pipe, steps)).time
        signal, spread = pipe.scheduler.alphas_cumprod[last].sqrt(), (1 - pipe.scheduler.alphas_cumprod[last]).sqrt()
        # the probability flow keeps every number's standing among all numbers of its time
        want = signal * CENTRE + (signal**2 * SPREAD**2 + spread**2).sqrt() * (clean - CENTRE) / SPREAD
        errors.append(error_of(invert(pipe, clean, TEXT, Config(steps=steps, refinements=5))[-1], want))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.05


def test_the_way_begins_at_the_picture_and_has_every_step(pipe):
    clean = noise(2, *LATENT)
    path = invert(pipe, clean, TEXT, Config(steps=6))
    assert path.shape == (7, 2, *LATENT)
    assert torch.equal(path[0], clean)
    assert error_of(invert(pipe, clean[:1], TEXT[:1], Config(steps=6))[-1], path[-1][:1]) < 1e-4


def test_diffusers_own_inverse_agrees_for_noise_and_not_for_v():
    """Why the step back is our own: at its fixed point diffusers' is the inverse for noise prediction only."""
    gaps = {}
    for name in ("noise, leading", "v, leading"):
        forth, back = scheduler(name), DDIMInverseScheduler.from_config(scheduler(name).config)
        forth.set_timesteps(10)
        back.set_timesteps(10)
        x, guess, time = noise(1, *LATENT), noise(1, *LATENT, seed=1), int(forth.timesteps[3])
        gaps[name] = error_of(back.step(guess, time, forth.step(guess, time, x).prev_sample).prev_sample, x)
    assert gaps["noise, leading"] < 1e-5
    assert gaps["v, leading"] > 1e-3


def test_steps_are_linear_in_latents_and_prediction(scheduled):
    schedule, x, guess = scheduled.scheduler, noise(1, *LATENT), noise(1, *LATENT, seed=1)
    schedule.set_timesteps(7)
    steps = list(walk(scheduled, 7))
    assert [step.time for step in steps] == schedule.timesteps.tolist()
    for step in steps:
        want = schedule.step(guess, step.time, x).prev_sample
        assert error_of(step.keep * x + step.add * guess, want) < 1e-5 * max(1, want.abs().max())


def test_schedulers_of_other_classes_lend_their_schedule(pipe):
    before = [tuple(step) for step in walk(pipe, 5)]
    kept = pipe.scheduler
    pipe.scheduler = EulerDiscreteScheduler.from_config(kept.config)
    assert np.allclose([tuple(step) for step in walk(pipe, 5)], before)
    pipe.scheduler = kept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clip_sample": True}, "clips its predictions"),
        ({"thresholding": True}, "clips its predictions"),
        ({"prediction_type": "epsilon"}, "predicts epsilon at signal 0"),
        ({"prediction_type": "sample"}, "predicts sample"),
    ],
)
def test_schedules_that_cannot_be_walked_back_are_refused(pipe, change, words):
    kept = pipe.scheduler
    pipe.scheduler = DDIMScheduler.from_config(kept.config, **change)
    with pytest.raises(ConfigError, match=words):
        list(walk(pipe, 10))
    pipe.scheduler = kept


def test_arguments_that_do_not_fit_are_named(pipe):
    clean = noise(2, *LATENT)
    with pytest.raises(ConfigError, match=r"guidance of 2\.0 needs encoded empty prompts"):
        invert(pipe, clean, TEXT, Config(guidance=2.0))
    with pytest.raises(MismatchError, match="prompts: 1 for 2 pictures"):
        invert(pipe, clean, TEXT[:1])
    with pytest.raises(MismatchError, match="empty: expected shape"):
        regenerate(pipe, clean, TEXT, Config(guidance=2.0), TEXT[:1])
