"""Dual-Pivot Tuning: two sides, of which one learns while the other holds still."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from bayes_persona import ConfigError, DataError, MismatchError
from bayes_persona.diffusion import degrade
from bayes_persona.diffusion.adapter import Batch, Subject, load, save
from bayes_persona.diffusion.adapters.dual_pivot.method import DualPivot, restored
from bayes_persona.diffusion.contract import check
from bayes_persona.diffusion.latents import encode
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.diffusion.pipelines import fingerprint
from bayes_persona.diffusion.restoration.guide import Guide, guided
from bayes_persona.diffusion.restoration.restore import Config, restore
from bayes_persona.persona import dual
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import generator
from tests.diffusion.test_restoration import moved
from tests.diffusion.tiny import LATENT, noise, snapshot, tiny, untouched

PHOTOS = generator(0, "photos").integers(0, 256, (3, 64, 64, 3), np.uint8)
SHOWN = Shown(PHOTOS, ("a robot at night", "a robot at the beach", "a happy robot"))
OTHERS = Shown(PHOTOS[::-1].copy(), ("a robot",) * 3)
QUICK = Draw(particles=2, alpha=0.0, weights="even", steps=2, rows=2, rate=1e-2)
STAGES = ("generator", "generator alone", "guide")


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(scope="module")
def method(pipe):
    return DualPivot(Subject("robot"), moved(Guide.of(pipe)), rank=2, damage=degrade.Config(size=7))


@pytest.fixture(autouse=True)
def _left_as_it_was(pipe, method):
    nets = (pipe.unet, method.guide)
    before = [snapshot(net) for net in nets]
    yield
    assert all(untouched(net, was) for net, was in zip(nets, before, strict=True))


def learned(method, pipe, members=2):
    """Params of which nothing is zero."""
    start = method.init(pipe, members, seed=0)
    return {
        name: (value + 0.1 * generator(1, name).normal(size=value.shape)).astype(np.float32)
        for name, value in start.items()
    }


def batch(pipe, member=(0, 1)):
    rows = len(member)
    latents = encode(pipe, PHOTOS[:rows])
    ids = torch.tensor(pipe.tokenizer(["< m e > the robot"] * rows, padding="max_length").input_ids)
    time = torch.arange(rows) * 300 + 200
    return Batch(latents, noise(rows, *LATENT), time, ids, torch.tensor(member), torch.ones(rows))


def drawn(pipe, method, params, gates=None, prompts=("<me> the robot",)):
    rows = torch.zeros(len(prompts), dtype=torch.long)
    with method.attached(pipe, params, rows, gates):
        return restore(pipe, method.guide, PHOTOS[: len(prompts)], prompts, Config(steps=2, colour="none"), seed=3)


@pytest.mark.parametrize("stage", ["generator", "guide"])
def test_it_keeps_the_promises_of_an_adapter(pipe, method, stage):
    assert check(replace(method, stage=stage), pipe) is None


def test_at_the_start_it_is_the_restorer(pipe, method):
    plain = restore(pipe, method.guide, PHOTOS[:1], ["<me> the robot"], Config(steps=2, colour="none"), seed=3)
    start = method.init(pipe, 1, seed=0)
    assert np.array_equal(drawn(pipe, method, start), plain)
    both = learned(method, pipe, 1)
    assert np.array_equal(drawn(pipe, method, both, {"generator": 0.0, "guide": 0.0}), plain)
    assert not np.array_equal(drawn(pipe, method, both), plain)


def test_each_gate_is_a_pivot_alone(pipe, method):
    both = learned(method, pipe, 1)
    for side, other in (("generator", "guide"), ("guide", "generator")):
        alone = method.init(pipe, 1, seed=0) | {name: v for name, v in both.items() if name.startswith(f"{side}.")}
        assert np.array_equal(drawn(pipe, method, both, {other: 0.0}), drawn(pipe, method, alone))


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_side_that_learns_gets_a_gradient(pipe, method, stage):
    leaves = {name: torch.tensor(value).requires_grad_() for name, value in learned(method, pipe).items()}
    loss = replace(method, stage=stage).loss(pipe, leaves, batch(pipe))
    grads = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
    side = stage.partition(" ")[0]
    for name, grad in zip(leaves, grads, strict=True):
        reached = grad is not None and bool(grad.any())
        # the guide's text is empty, all keys but the padding's are alike, yet a gradient reaches them
        assert reached == name.startswith(f"{side}."), name


def test_each_pivot_leaves_the_other_side_bit_for_bit_also_when_killed_in_between(pipe, method, tmp_path):
    config = dual.Config(steps=2)
    first = dual.first_pivot(pipe, method, SHOWN, QUICK, config, seed=0, folder=tmp_path)
    both = dual.second_pivot(pipe, method, first, SHOWN, QUICK, config, anyone=OTHERS, seed=0)
    for k in range(2):
        ups = [name for name in first[k] if name.endswith(".up")]  # which start at zero
        assert {name.partition(".")[0] for name in ups} == {"generator", "guide"}
        for name in ups:
            guide = name.startswith("guide.")
            assert first[k][name].any() != guide
            assert both[k][name].any()
        assert all(np.array_equal(first[k][name], both[k][name]) for name in first[k] if name.startswith("generator."))
    resumed = dual.fit(pipe, method, SHOWN, QUICK, config, anyone=OTHERS, seed=0, folder=tmp_path)
    assert all(np.array_equal(resumed[k][name], both[k][name]) for k in range(2) for name in both[k])


def test_out_of_context_is_low_rank_dreambooth(pipe, method):
    params = {name: torch.tensor(value) for name, value in learned(method, pipe).items()}
    rows = batch(pipe)
    plain = LowRank(Subject("robot"), rank=2, alpha=2)
    own = {name.removeprefix("generator."): v for name, v in params.items() if name.startswith("generator.")}
    with torch.no_grad():
        want = plain.loss(pipe, own, rows)
        assert torch.equal(replace(method, stage="generator alone").loss(pipe, params, rows), want)
        assert not torch.equal(method.loss(pipe, params, rows), want)


def test_what_guides_a_row_is_its_own_picture_damaged_as_its_noise_says(pipe, method):
    rows = batch(pipe)
    condition = method.condition(pipe, rows)
    assert torch.equal(condition, method.condition(pipe, rows))
    alone = rows._replace(latents=rows.latents[1:], noise=rows.noise[1:])
    torch.testing.assert_close(method.condition(pipe, alone), condition[1:])
    other = method.condition(pipe, rows._replace(noise=noise(2, *LATENT, seed=9)))
    assert not torch.equal(other, condition)
    params = {name: torch.tensor(value) for name, value in learned(method, pipe).items()}
    with torch.no_grad():
        with method.attached(pipe, params, rows.member), guided(pipe, method.guide, condition):
            text = pipe.text_encoder(rows.tokens)[0]
            noisy = pipe.scheduler.add_noise(rows.latents, rows.noise, rows.time)
            guess = pipe.unet(noisy, rows.time, text).sample
        want = (guess - pipe.scheduler.get_velocity(rows.latents, rows.noise, rows.time)).square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(method.loss(pipe, params, rows), want)


def test_a_fixed_text_is_what_the_generator_is_told_of_every_photo(pipe, method):
    few = replace(QUICK, particles=1, steps=1)
    same = SHOWN._replace(captions=("{subject}",) * 3)
    tries = ((SHOWN, "fixed"), (same, "captions"), (SHOWN, "captions"))
    fixed, plain, own = (
        dual.first_pivot(pipe, method, shown, few, dual.Config(text=text), seed=0)[0] for shown, text in tries
    )
    name = next(name for name in fixed if name.startswith("generator.") and name.endswith(".up"))
    assert np.array_equal(fixed[name], plain[name])
    assert not np.array_equal(fixed[name], own[name])


def test_overfitting_the_first_pivot_lowers_the_loss_of_its_photo(pipe):
    guide = Guide.of(pipe)
    mild = degrade.Config(size=7, sigma=(0.5, 1.0), shrink=(2.0, 2.0), noise=(0.0, 5.0))
    method = DualPivot(Subject("robot"), guide, damage=mild)
    one = Shown(PHOTOS[:1], ("a robot",))
    draw = Draw(particles=1, alpha=0.0, weights="even", steps=8, rows=1, rate=2e-2)
    found = personalize(pipe, method, one, draw)
    params = [{n: torch.tensor(v) for n, v in p.items()} for p in (method.init(pipe, 1, 0), found.stacked())]
    rows = batch(pipe, (0, 0))._replace(latents=encode(pipe, PHOTOS[:1]).repeat(2, 1, 1, 1))
    with torch.no_grad():
        before, after = (method.loss(pipe, each, rows).mean() for each in params)
    assert after < before


def test_a_person_comes_back_from_a_file_with_the_same_guide_alone(pipe, method, tmp_path):
    params = learned(method, pipe)
    posterior = Posterior(tuple({name: value[k] for name, value in params.items()} for k in range(2)))
    save(tmp_path / "me.safetensors", method, posterior, base=fingerprint(pipe))
    back, about = load(tmp_path / "me.safetensors", base=fingerprint(pipe))
    again = restored(pipe, method.guide, about)
    assert again == method
    assert np.array_equal(drawn(pipe, again, back.stacked()), drawn(pipe, method, params))
    second = replace(method, damage=degrade.SecondOrder(), stage="guide")
    save(tmp_path / "other.safetensors", second, posterior, base=fingerprint(pipe))
    assert restored(pipe, method.guide, load(tmp_path / "other.safetensors")[1]) == second
    with pytest.raises(MismatchError, match="guide: was learned with guide"):
        restored(pipe, Guide.of(pipe), about)
    with pytest.raises(DataError, match="expected dual_pivot, got low_rank"):
        restored(pipe, method.guide, {**about, "method": "low_rank"})


def test_what_does_not_fit_is_refused(pipe, method):
    with pytest.raises(ConfigError, match="rank"):
        DualPivot(Subject("robot"), method.guide, rank=0)
    with pytest.raises(ConfigError, match="scale"):
        replace(method, scale=2.0)
    wider = replace(method, rank=3).init(pipe, 1, seed=0)
    with pytest.raises(MismatchError, match="not learned by"), method.attached(pipe, wider, torch.tensor([0])):
        pass
    strange, rows = {"other.weight": np.zeros((1, 2))}, torch.tensor([0])
    with pytest.raises(MismatchError, match="was it learned by DualPivot"), method.attached(pipe, strange, rows):
        pass
    first = Posterior(({"a": np.zeros(1)},) * 2)
    with pytest.raises(MismatchError, match="expected 3 members, got 2"):
        personalize(pipe, method, SHOWN, replace(QUICK, particles=3), start=first)
    with pytest.raises(ConfigError, match="quality"):
        degrade.Config(quality=(0, 50))


def test_both_sides_fit_the_shapes_of_stable_diffusion():
    width = 768
    shape = {"attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2}
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=width, **shape)
        guide = Guide.around(unet, torch.empty(1, 77, width))
    change = LowRank(Subject("robot"), rank=1)
    layers = {side: change._layers(net) for side, net in (("generator", unet), ("guide", guide))}
    # four projections of two attentions a block: 16 blocks of attention in the U-Net, 7 on its way in and in the middle
    assert {side: len(found) for side, found in layers.items()} == {"generator": 128, "guide": 56}
