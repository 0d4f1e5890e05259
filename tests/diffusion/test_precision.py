"""Large models: half precision, blocks that are computed again, networks that wait; every adapter, and its gradient."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler

from bayes_persona import ConfigError, DataError
from bayes_persona.diffusion import generate, pipelines, train
from bayes_persona.diffusion.checkpointing import enable
from bayes_persona.diffusion.restoration.guide import Guide
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from benchmarks.stable_diffusion import ALL, methods
from tests.diffusion.tiny import tiny, tiny_xl

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
PHOTOS = Shown(PIXELS, ("a robot at night", "a robot"))
QUICK = Draw(particles=2, steps=3, rows=1, alpha=1.0, pseudo=1)
ON_XL = [name for name in ALL if name != "moa"]


def halved(pipe, dtype):
    for net in (pipe.unet, pipe.vae, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
        if net is not None:
            torch.nn.Module.to(net, dtype)  # diffusers' own warns that it casts
    return pipe


@pytest.mark.parametrize(("make", "name"), [(tiny, name) for name in ALL] + [(tiny_xl, "perfusion")])
def test_a_checkpointed_block_is_computed_again_with_what_was_attached_to_it(make, name):
    found = []
    for checkpointing in (False, True):
        pipe = make()
        if checkpointing:
            enable(pipe.unet)
        method = methods(pipe, PIXELS)[name]()
        start = method.init(pipe, 2, seed=0)
        found.append(personalize(pipe, method, PHOTOS, QUICK, seed=0).stacked())
        assert any(not np.array_equal(found[-1][key], value) for key, value in start.items())
        assert not any("LowRank" in type(module).__name__ for module in pipe.unet.modules())
    plain, again = found
    assert [key for key, value in plain.items() if not np.array_equal(value, again[key])] == []


def test_the_guide_of_a_checkpointed_model_is_checkpointed():
    pipe = tiny()
    enable(pipe.unet)
    assert Guide.of(pipe).is_gradient_checkpointing


@pytest.mark.parametrize(
    ("make", "dtype", "name"),
    [
        *((tiny, torch.bfloat16, name) for name in ALL),
        *((tiny_xl, torch.bfloat16, name) for name in ON_XL),
        *((tiny, torch.float16, name) for name in ("perfusion", "low_rank")),
    ],
)
def test_an_adapter_learns_and_draws_in_half_precision(make, dtype, name):
    pipe = halved(make(), dtype)
    method = methods(pipe, PIXELS)[name]()
    posterior = personalize(pipe, method, PHOTOS, QUICK)
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in posterior.stacked().values())
    start = generate.noise(pipe, 2, seed=0)
    with method.attached(pipe, posterior.stacked(), torch.tensor([0, 1])):
        assert generate.sample(pipe, [method.subject.phrase] * 2, start, generate.Config(1)).shape == (2, 64, 64, 3)


def test_a_mixture_says_that_it_cannot_read_with_two_text_encoders():
    pipe = tiny_xl()
    method = methods(pipe, PIXELS)["moa"]()
    with pytest.raises(ConfigError, match="SDXL reads with two text encoders, which prompts of subjects do not yet"):
        personalize(pipe, method, PHOTOS, QUICK)


def test_a_model_is_loaded_in_the_precision_that_was_asked_for():
    pipe = pipelines.load(dtype=torch.bfloat16, checkpointing=True)
    assert {net.dtype for net in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.bfloat16}
    assert pipe.unet.is_gradient_checkpointing


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers against numpy
@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, PNDMScheduler, DPMSolverMultistepScheduler])
def test_training_is_the_same_whatever_the_pipeline_samples_with(kind):
    pipe, other = tiny(), tiny()
    usual = {
        **pipe.scheduler.config,
        "rescale_betas_zero_snr": False,
        "timestep_spacing": "leading",
        "skip_prk_steps": True,
    }
    pipe.scheduler, other.scheduler = DDIMScheduler.from_config(usual), kind.from_config(usual)
    other.scheduler.set_timesteps(2)  # as after a picture
    method = methods(pipe, PIXELS)["low_rank"]()
    draw = Draw(particles=1, steps=3, rows=1, alpha=1.0, base_measure="distilled", pseudo=2)
    one, two = (personalize(model, method, PHOTOS, draw).stacked() for model in (pipe, other))
    assert [name for name, value in one.items() if not np.array_equal(value, two[name])] == []


def test_a_loss_can_be_scaled_while_its_gradient_is_taken():
    def loss(params, batch, noise):
        return params["w"].square().sum()

    kernels = [train.AdamW({"w": np.ones(2)}, loss, train.Config(scale=scale)) for scale in (1.0, 1024.0)]
    one, two = (kernel.step(0, kernel.init(0), None)[0] for kernel in kernels)
    assert torch.equal(one.params["w"], two.params["w"])


def test_a_gradient_that_is_not_finite_is_an_error():
    def loss(params, batch, noise):
        return params["w"].sqrt().sum()  # at 0 it is finite, and its slope is not

    kernel = train.AdamW({"w": np.zeros(2)}, loss)
    with pytest.raises(DataError, match="step 0: the gradient is not finite"):
        kernel.step(0, kernel.init(0), None)


def test_nothing_can_be_taken_off_the_cpu():
    with pytest.raises(ConfigError, match="offload: takes networks off a GPU while they wait; on cpu"):
        pipelines.load(offload=True)


def test_weights_that_are_not_in_memory_are_refused():
    pipe = tiny()
    pipe.unet.to_empty(device="meta")
    with pytest.raises(ConfigError, match="sequential offload cannot be used"):
        pipelines.fingerprint(pipe)


def test_networks_that_wait_are_at_hand_while_gradients_are_taken():
    pipe = tiny()
    pipe.enable_model_cpu_offload(device="cpu")  # the hooks, without a GPU to go to
    wait = pipe.unet._hf_hook
    before = pipelines.fingerprint(pipe)
    with pipelines.at_hand(pipe):
        assert not hasattr(pipe.unet, "_hf_hook")
    assert hasattr(pipe.unet, "_hf_hook")
    assert pipe.unet._hf_hook is not wait
    method = methods(pipe, PIXELS)["textual_inversion"]()
    posterior = personalize(pipe, method, PHOTOS, QUICK)
    plain = personalize(tiny(), method, PHOTOS, QUICK)
    assert np.array_equal(posterior[0]["embedding"], plain[0]["embedding"])
    assert pipelines.fingerprint(pipe) == before
    with method.attached(pipe, posterior.stacked(), torch.tensor([0, 1])):
        start = generate.noise(pipe, 2, seed=0)
        assert generate.sample(pipe, [method.subject.phrase] * 2, start, generate.Config(1)).shape == (2, 64, 64, 3)
