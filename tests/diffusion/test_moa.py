"""Mixture-of-Attention as an adapter: who is where, the prior alone where it should be, files, and other adapters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

from bayes_persona import ConfigError, DataError, MismatchError, RunError
from bayes_persona.diffusion import generate, inversion
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.moa import features, mixture, routers
from bayes_persona.diffusion.adapters.moa.encoder import feature
from bayes_persona.diffusion.adapters.moa.method import Cast, MoA, blended, introduced
from bayes_persona.diffusion.contract import check
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.seeds import generator
from tests.diffusion.tiny import LATENT, noise, snapshot, tiny, tiny_xl, untouched

QUICK = generate.Config(steps=2)
ME, YOU = (1.0, 2.0, 3.0), (0.0, -1.0, 1.0)
US = Cast("robot", others=("<you>",))
TWO = "a robot <me> next to a cat <you>"
ONLY = torch.tensor([0])


def rough(start, size=0.1):
    """A mixture that has left its start."""
    moved = {n: v + size * generator(0, n).standard_normal(v.shape).astype("float32") for n, v in start.params.items()}
    return replace(start, params=moved)


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(scope="module")
def fresh(pipe):
    return mixture.build(pipe, mixture.Config(feature=3, hidden=8, frequencies=4))


@pytest.fixture(scope="module")
def method(fresh):
    return MoA(Cast("robot"), rough(fresh), (ME,))


@pytest.fixture(scope="module")
def both(fresh):
    return MoA(US, rough(fresh), (ME, YOU))


@pytest.fixture(autouse=True)
def _left_as_it_was(pipe):
    before = [snapshot(net) for net in (pipe.unet, pipe.text_encoder)]
    words, hooks = pipe.tokenizer, (pipe.unet._forward_pre_hooks, pipe.text_encoder._forward_hooks)
    yield
    assert all(untouched(net, one) for net, one in zip((pipe.unet, pipe.text_encoder), before, strict=True))
    assert pipe.tokenizer is words
    assert not any(hooks)


def one_of(*vectors):
    return {"feature": np.array([vectors], np.float32)}


def base_picture(pipe, prompts, start, config=QUICK):
    return generate.sample(pipe, prompts, start, config)


def picture(pipe, method, params, prompts, start, gates=None, config=QUICK, rows=ONLY):
    with method.attached(pipe, params, rows, gates):
        return generate.sample(pipe, prompts, start, config)


@torch.no_grad()
def guess(pipe, prompt, time=500, n=1):
    """What the U-Net says of a prompt as the pipeline is now."""
    text = pipe.encode_prompt([prompt] * n, "cpu", 1, do_classifier_free_guidance=False)[0]
    return pipe.unet(noise(1, *LATENT).expand(n, -1, -1, -1), time, encoder_hidden_states=text).sample


def attached_guess(pipe, method, params, prompt, gates=None, **settings):
    with method.attached(pipe, params, ONLY, gates):
        return guess(pipe, prompt, **settings)


@pytest.mark.parametrize(
    "shape",
    [
        mixture.Config(feature=3, hidden=8, frequencies=4),
        mixture.Config(feature=3, hidden=8, frequencies=0, rank=2, router=4, silent_start=True),
    ],
)
def test_it_keeps_the_promises_of_an_adapter(pipe, shape):
    trained = rough(mixture.build(pipe, shape), 0.05)
    assert check(MoA(Cast("robot"), trained, (ME,), strength=0.5), pipe) is None


def test_it_keeps_them_with_several_subjects_and_the_mixture_everywhere(pipe, fresh):
    assert check(MoA(US, rough(fresh, 0.05), (ME, YOU), unmentioned="mixture"), pipe) is None


def test_an_untrained_mixture_draws_what_the_base_draws(pipe, fresh):
    method, start = MoA(Cast("robot"), fresh, (ME,)), noise(1, *LATENT)
    have = picture(pipe, method, method.init(pipe, 1, 0), ["a happy robot <me> at night"], start)
    assert np.abs(have.astype(int) - base_picture(pipe, ["a happy robot at night"], start)).max() <= 1


def test_without_a_subject_and_with_closed_gates_the_prior_is_alone_bit_for_bit(pipe, method):
    params, closed = method.init(pipe, 1, 0), dict.fromkeys(method.gates, 0.0)
    base = guess(pipe, "a robot at night")
    assert torch.equal(attached_guess(pipe, method, params, "a robot at night"), base)
    assert torch.equal(attached_guess(pipe, method, params, "a robot <me> at night", closed), base)
    assert torch.equal(attached_guess(pipe, replace(method, delay=0.6), params, "a robot <me> at night"), base)
    assert not torch.allclose(attached_guess(pipe, replace(method, delay=0.4), params, "a robot <me> at night"), base)


def test_each_subjects_word_means_its_own_vector(pipe, both):
    told = attached_guess(pipe, both, one_of(ME, YOU), TWO)
    turned = attached_guess(pipe, both, one_of(YOU, ME), "a robot <you> next to a cat <me>")
    torch.testing.assert_close(told, turned)
    assert not torch.allclose(told, attached_guess(pipe, both, one_of(YOU, ME), TWO), atol=1e-4)
    half = "a robot <me> next to a cat"
    torch.testing.assert_close(
        attached_guess(pipe, both, one_of(ME, YOU), half), attached_guess(pipe, both, one_of(ME, ME), half)
    )


def test_one_subject_of_several_is_that_subject_alone(pipe, method, both):
    alone = attached_guess(pipe, method, one_of(ME), "a robot <me> at night")
    torch.testing.assert_close(attached_guess(pipe, both, one_of(ME, YOU), "a robot <me> at night"), alone)


def test_the_word_may_stand_behind_any_noun(pipe, method):
    with method.attached(pipe, one_of(ME), ONLY):
        words = pipe.tokenizer.tokenize("a grumpy cat <me> at night")
    assert words[3] == "<me>"
    with pytest.raises(ConfigError, match="behind its noun"):
        attached_guess(pipe, method, one_of(ME), "<me> at night")


def test_what_the_word_says_depends_on_time_and_layer_only_if_it_should(pipe, fresh, method):
    def said(trained, time):
        with MoA(Cast("robot"), trained, (ME,)).watched(pipe, one_of(ME), ONLY):
            guess(pipe, "a robot <me>", time)
            layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
            return layer._text(noise(1, 40, 16, seed=5))

    assert not torch.allclose(said(method.mixture, 100), said(method.mixture, 900))
    without = mixture.build(pipe, replace(fresh.config, frequencies=0))
    torch.testing.assert_close(said(rough(without), 100), said(rough(without), 900))


def test_members_and_guidance_are_computed_row_by_row(pipe, method):
    params = {"feature": np.array([[ME], [YOU]], np.float32)}
    start, prompt = noise(1, *LATENT), "a robot <me> at night"
    joint = picture(pipe, method, params, [prompt] * 2, start.expand(2, -1, -1, -1), rows=torch.tensor([0, 1]))
    for k, vector in enumerate((ME, YOU)):
        alone = picture(pipe, method, one_of(vector), [prompt], start)
        assert np.abs(joint[k].astype(int) - alone[0]).max() <= 1


def test_a_mixture_is_the_same_after_saving(pipe, method, tmp_path):
    method.mixture.save(tmp_path / "moa.safetensors", np.float32)
    back = mixture.load(tmp_path / "moa.safetensors")
    assert back.fingerprint == method.mixture.fingerprint
    assert (back.config, back.base, back.encoder) == (
        method.mixture.config,
        method.mixture.base,
        method.mixture.encoder,
    )
    same = attached_guess(pipe, replace(method, mixture=back), one_of(ME), "a robot <me>")
    assert torch.equal(same, attached_guess(pipe, method, one_of(ME), "a robot <me>"))


def test_low_rank_experts_are_small_and_follow_the_prior(pipe, fresh):
    small = mixture.build(pipe, replace(fresh.config, rank=2))
    assert sum(v.size for v in small.params.values()) < sum(v.size for v in fresh.params.values())


def test_another_models_mixture_is_refused(pipe, method):
    other = tiny(seed=1)
    with pytest.raises(MismatchError, match="was trained on base model"):
        method.init(other, 1, 0)
    cut = {name: value for name, value in method.mixture.params.items() if "mid_block" not in name}
    with pytest.raises(MismatchError, match="mid_block"):
        attached_guess(pipe, replace(method, mixture=replace(method.mixture, params=cut)), one_of(ME), "a robot <me>")
    narrow = {n: (v[:, :4] if n.endswith("attn1.q_p.weight") else v) for n, v in method.mixture.params.items()}
    with pytest.raises(MismatchError, match="does not fit"):
        attached_guess(
            pipe, replace(method, mixture=replace(method.mixture, params=narrow)), one_of(ME), "a robot <me>"
        )


def test_what_is_believed_of_a_gate_leans_its_routers_alone(pipe, method):
    """The same log odds for every gate are strength; very low ones shut a gate."""
    text, params = "a robot <me>", one_of(ME)
    alike = replace(method, logits=dict.fromkeys(mixture.GATES, 1.5))
    strong = attached_guess(pipe, replace(method, strength=1.5), params, text)
    assert torch.equal(attached_guess(pipe, alike, params, text), strong)
    doubtful = attached_guess(pipe, replace(method, logits={"mid.cross": -40.0}), params, text)
    assert torch.allclose(doubtful, attached_guess(pipe, method, params, text, {"mid.cross": 0.0}), atol=1e-6)
    with pytest.raises(ConfigError, match=r"logits: expected finite numbers of down\.self.*got middle"):
        replace(method, logits={"middle": 1.0})


def test_bad_input_is_refused_by_name(pipe, fresh, method, both, tmp_path):
    start, real = noise(1, *LATENT), np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(ConfigError, match="2 for 1 placeholders <me>"):
        MoA(Cast("robot"), fresh, (ME, YOU))
    with pytest.raises(ConfigError, match="use its encoder"):
        MoA(Cast("robot"), fresh, ((1.0,),))
    with pytest.raises(ConfigError, match="strength"):
        MoA(Cast("robot"), fresh, (ME,), strength=9.0)
    with pytest.raises(ConfigError, match="not all different"):
        Cast("robot", others=("<me>",))
    with pytest.raises(ConfigError, match="does not say who is <you>"):
        features.swapped(pipe, both, [one_of(ME, YOU)], "a robot <me> next to a cat", start)
    with pytest.raises(ConfigError, match="does not say who is <me>"):
        features.placed(pipe, method, one_of(ME), real, ["a robot"])
    with pytest.raises(DataError, match="12×12, the model draws 64×64"):
        features.placed(pipe, method, one_of(ME), real[:, :12, :12], ["a robot <me>"])
    with pytest.raises(DataError, match="masks: expected shape"):
        features.placed(pipe, method, one_of(ME), real, ["a robot <me>"], masks=np.ones((1, 16, 16), bool))
    with pytest.raises(MismatchError, match="was it made for another mixture"):
        attached_guess(pipe, method, {"feature": np.zeros((1, 1, 7), np.float32)}, "a robot <me>")
    with pytest.raises(DataError, match="at least one"):
        introduced(Cast("robot"), fresh, lambda pixels: pixels.mean(axis=(1, 2)), [real[:0]])
    with pytest.raises(DataError, match="finite vectors"):
        feature(lambda pixels: pixels.mean(axis=1), real)
    with pytest.raises(RunError, match="no such file"):
        mixture.load(tmp_path / "none.safetensors")


def test_sdxl_reads_who_is_where_through_both_its_text_encoders():
    """Its own pipeline, the sampler and the way back to noise mix where a subject is named, and nowhere else."""
    pipe = tiny_xl()
    method = MoA(Cast("robot"), rough(mixture.build(pipe, mixture.Config(feature=3, hidden=8, frequencies=4))), (ME,))
    assert check(method, pipe) is None
    start, plain = noise(1, *LATENT), base_picture(pipe, ["a robot at night"], noise(1, *LATENT))
    mine, yours = (picture(pipe, method, one_of(who), ["a robot <me> at night"], start) for who in (ME, YOU))
    assert not np.array_equal(mine, yours)
    assert np.array_equal(picture(pipe, method, one_of(ME), ["a robot at night"], start), plain)
    shut = dict.fromkeys(method.gates, 0.0)
    assert np.array_equal(picture(pipe, method, one_of(ME), ["a robot <me> at night"], start, shut), plain)
    with method.attached(pipe, one_of(ME), ONLY):
        theirs = pipe("a robot <me> at night", num_inference_steps=2, guidance_scale=QUICK.guidance, latents=start,
                      output_type="np").images  # fmt: skip
    np.testing.assert_allclose(theirs, mine / 255, atol=1 / 255)
    way = inversion.Config(steps=3, refinements=1)
    found = features.placed(pipe, method, one_of(ME), mine, ["a robot <me> at night"], way, guidance=2.0)
    assert found.pixels.shape == mine.shape
    assert not np.array_equal(found.pixels, found.reconstructed)


def test_vectors_can_be_blended_and_the_ends_are_the_people(pipe, method):
    one, other, start = one_of(ME), one_of(YOU), noise(1, *LATENT)
    way = features.morphed(pipe, method, one, other, "a robot <me>", start, QUICK, steps=3)
    ends = features.swapped(pipe, method, [one, other], "a robot <me>", start, QUICK)
    assert np.abs(way[[0, 2]].astype(int) - ends).max() <= 1
    assert blended(one, other, 0.5)["feature"].tolist() == [[[0.5, 0.5, 2.0]]]


def test_router_maps_cover_every_step_and_layer(pipe, method):
    found = routers.routed(pipe, method, one_of(ME), ["a robot <me>"] * 2, noise(2, *LATENT), QUICK)
    assert found.maps.shape == (2, 2, 14, 16, 16)
    assert ((found.maps > 0) & (found.maps < 1)).all()
    assert found.layers == tuple(mixture.layers(pipe.unet))
    late = routers.routed(pipe, replace(method, delay=0.5), one_of(ME), ["a robot <me>"], noise(1, *LATENT), QUICK)
    assert not late.maps[:, 0].any()
    assert late.maps[:, 1].all()


def test_a_real_picture_keeps_what_is_outside_the_subject(pipe, method):
    real = generator(0, "real").integers(0, 255, (1, 64, 64, 3)).astype(np.uint8)
    masks = np.zeros((1, 64, 64), bool)
    masks[:, :, 32:] = True
    config = inversion.Config(steps=3)
    same = features.placed(pipe, method, one_of(ME), real, ["a robot <me>"], config, masks=np.zeros_like(masks))
    shown = features.placed(pipe, method, one_of(ME), real, ["a robot <me>"], config, masks=masks)
    assert (shown.mask == masks[:, ::4, ::4]).all()
    assert not np.array_equal(shown.pixels, same.pixels)
    assert features.placed(pipe, method, one_of(ME), real, ["a robot <me>"], config).mask.shape == (1, 16, 16)
    free = features.placed(pipe, method, one_of(ME), real, ["a robot <me>"], config, keep=False)
    assert free.mask.all()


def test_it_is_at_home_with_a_controlnet(pipe, method):
    controlnet = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 4))
    controlnet.eval().requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for block in controlnet.controlnet_down_blocks:
            torch.nn.init.normal_(block.weight, std=0.1)
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    guided = StableDiffusionControlNetPipeline(**parts, controlnet=controlnet, requires_safety_checker=False)
    guided.set_progress_bar_config(disable=True)
    config = {"image": torch.ones(1, 3, 32, 32), "num_inference_steps": 2, "output_type": "latent"}

    def run(prompt):
        return guided(prompt, latents=noise(1, *LATENT), **config).images

    base = run("a robot")
    with method.watched(guided, one_of(ME), ONLY):
        assert torch.equal(run("a robot"), base)
        shown = run("a robot <me>")
    assert not torch.allclose(shown, base, atol=1e-4)


def test_it_goes_around_low_rank_styles(pipe, method):
    style = LowRank(Subject("robot", "sks"), rank=2)
    changed = {
        name: value + generator(0, name).standard_normal(value.shape).astype("float32")
        for name, value in style.init(pipe, 1, seed=0).items()
    }
    base = guess(pipe, "a robot")
    with style.attached(pipe, changed, ONLY):
        styled = guess(pipe, "a robot")
        with method.attached(pipe, one_of(ME), ONLY):
            assert torch.equal(guess(pipe, "a robot"), styled)  # the prior keeps the style
            shown = guess(pipe, "a robot <me>")
    assert not torch.allclose(styled, base, atol=1e-4)
    assert not torch.allclose(shown, styled, atol=1e-4)


def test_pefts_patterns_find_the_prior_alone(pipe, method):
    from peft import LoraConfig, inject_adapter_in_model

    own = tiny()
    with method.attached(own, one_of(ME), ONLY):
        before = {name for name, _ in own.unet.named_modules()}
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]), own.unet)
        new = {name for name, _ in own.unet.named_modules()} - before
    assert new
    assert all(".base." in name for name in new)
