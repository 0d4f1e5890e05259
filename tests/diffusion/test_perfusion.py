"""Perfusion on a pipeline: what moves and what is locked, in training and after it, one subject and several."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor

from bayes_persona import ConfigError, DataError, MismatchError
from bayes_persona.diffusion import covariance, words
from bayes_persona.diffusion.adapter import Batch, Subject, load, save
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.diffusion.adapters.perfusion.together import DIRECTION, INPUT, SUPERCLASS, projections, together
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.contract import check
from bayes_persona.diffusion.pipelines import fingerprint
from bayes_persona.diffusion.text import cached_text, tokens
from bayes_persona.diffusion.train import AdamW, Config
from bayes_persona.loop import run
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import generator
from tests.diffusion.tiny import LATENT, noise, tiny

CAPTIONS = tuple(f"a {mood} {who} {place}" for mood in ("happy", "sad") for who in ("robot", "cat", "woman", "man")
                 for place in ("at night", "on the beach", "in the city"))  # fmt: skip
ONLY = torch.tensor([0])


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(scope="module")
def metric(pipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("metric") / "c.safetensors"
    covariance.save(path, covariance.estimate(pipe, CAPTIONS))
    return str(path)


@pytest.fixture
def method(metric):
    return Perfusion(Subject("robot"), covariance=metric)


def moved(method, pipe, members=1, seed=0):
    """Params that have left their start."""
    params = method.init(pipe, members, seed=0)
    return {
        name: value + (0.3 * generator(seed, name).normal(size=value.shape)).astype(np.float32)
        if name.endswith((".output", "embedding"))
        else value
        for name, value in params.items()
    }


@torch.no_grad()
def predict(pipe, prompts, n=1):
    text = pipe.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)[0]
    return pipe.unet(noise(1, *LATENT).expand(len(prompts) * n, *LATENT), torch.tensor(500), text).sample


def batch_of(pipe, method, prompts, member=None):
    with words.taught(pipe, [method.subject.token], torch.zeros(1, 1, 16), ONLY):
        ids = torch.tensor([tokens(pipe, prompt) for prompt in prompts])
    n = len(prompts)
    member = torch.zeros(n, dtype=torch.long) if member is None else torch.tensor(member)
    return Batch(noise(n, *LATENT), noise(n, *LATENT, seed=1), torch.full((n,), 300), ids, member, torch.ones(n))


@pytest.mark.parametrize("keys", ["locked", "global", "trained"])
def test_it_keeps_the_promises_of_an_adapter(pipe, method, keys):
    assert check(replace(method, keys=keys), pipe) is None


def test_it_starts_at_the_superclass(pipe, method):
    """The word means the superclass, i* is where it is encoded, and values are what the superclass has."""
    params = method.init(pipe, 2, seed=0)
    torch.testing.assert_close(torch.tensor(params["embedding"][1, 0]), words.meaning(pipe, "robot"))
    np.testing.assert_array_equal(params[INPUT], params[SUPERCLASS])
    for name, base in projections(pipe.unet).items():
        if name.endswith("to_v"):
            want = base.weight.detach() @ torch.tensor(params[INPUT][0])
            torch.testing.assert_close(torch.tensor(params[f"{name}.output"][0]), want)
        assert (f"{name}.output" in params) == name.endswith("to_v")
    inverse = covariance.of(pipe, method.covariance).inverse
    np.testing.assert_allclose(params[DIRECTION][0], inverse @ params[INPUT][0], rtol=1e-4, atol=1e-4)


def test_the_input_follows_the_word_as_a_moving_average(pipe, method):
    """p = .99, of the mean over a member's rows; prompts without the word, and members without rows, say nothing."""
    params = {name: torch.tensor(value) for name, value in moved(method, pipe, members=3).items()}
    prompts = ["<me> the robot", "<me> the robot at night", "a robot", "happy <me> the robot"]
    batch = batch_of(pipe, method, prompts, member=[0, 0, 0, 2])
    found = method.track(pipe, params, batch)
    places = {0: [(0, 1), (1, 1)], 2: [(3, 2)]}
    for member, rows in places.items():
        with torch.no_grad(), words.taught(pipe, ["<me>"], params["embedding"][member : member + 1], ONLY):
            states = pipe.text_encoder(batch.tokens)[0]
        now = torch.stack([states[row, place] for row, place in rows]).mean(dim=0)
        torch.testing.assert_close(found[INPUT][member], 0.99 * params[INPUT][member] + 0.01 * now)
    assert torch.equal(found[INPUT][1], params[INPUT][1])
    assert torch.equal(found[DIRECTION][1], params[DIRECTION][1])
    inverse = torch.tensor(covariance.of(pipe, method.covariance).inverse)
    torch.testing.assert_close(found[DIRECTION][0].double(), inverse @ found[INPUT][0].double(), rtol=1e-4, atol=1e-4)


def test_training_moves_values_and_the_word_at_their_rates_and_keys_stay(pipe, method):
    batch = batch_of(pipe, method, ["<me> the robot"] * 2)
    start = method.init(pipe, 1, seed=0)
    kernel = AdamW(
        start,
        lambda params, batch, _: method.loss(pipe, params, batch).sum(),
        Config(rate=0.006, warmup=1, members=True),
        rates={
            name: next((r for pattern, r in method.rates.items() if name.endswith(pattern.lstrip("*"))), 1.0)
            for name in start
        },
        after=lambda params, batch: method.track(pipe, params, batch),
    )
    state, _ = run(kernel, lambda step: batch, steps=1, seed=0)
    for name, value in state.params.items():
        step = np.abs(np.asarray(value) - start[name]).max()
        if name.endswith(".output"):
            assert step == pytest.approx(0.03, rel=1e-2)  # Adam's first step is its rate
        elif name == "embedding":
            assert step == pytest.approx(0.006, rel=1e-2)
        elif name == SUPERCLASS:
            assert step == 0
        else:
            assert step > 0


def test_training_has_gates_of_its_own(pipe, method):
    """What is turned at generation does not change the loss."""
    params = {name: torch.tensor(value) for name, value in moved(method, pipe).items()}
    batch = batch_of(pipe, method, ["<me> the robot"])
    with torch.no_grad():
        want = method.loss(pipe, params, batch)
        turned = replace(method, beta=0.2, tau=0.3, betas={"up.key": 0.1}, keys="global")
        assert torch.equal(turned.loss(pipe, params, batch), want)
        for other in (replace(method, training_beta=0.2), replace(method, training_tau=0.3)):
            assert not torch.equal(other.loss(pipe, params, batch), want)


def test_keys_are_the_superclasss_whatever_was_learned(pipe, method):
    """At the word's own place, with its gate wide open, the key is the superclass's."""
    open_ = replace(method, beta=0.01, tau=0.001)
    params = moved(method, pipe)
    layers = projections(pipe.unet)
    with open_.attached(pipe, params, ONLY):
        edited = projections(pipe.unet)
        with torch.no_grad():
            for name, base in layers.items():
                have = edited[name](torch.tensor(params[INPUT])[None])[0, 0]
                key = base.weight @ torch.tensor(params[SUPERCLASS][0])
                want = key if name.endswith("to_k") else torch.tensor(params[f"{name}.output"][0])
                torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0, lambda: SlicedAttnProcessor(2)])
def test_it_is_the_same_under_every_attention_processor(pipe, method, processor):
    params, prompt = moved(method, pipe), ["<me> the robot at night"]
    with method.attached(pipe, params, ONLY):
        want = predict(pipe, prompt)
    before = pipe.unet.attn_processors
    try:
        pipe.unet.set_attn_processor(processor())
        with method.attached(pipe, params, ONLY):
            torch.testing.assert_close(predict(pipe, prompt), want, rtol=1e-4, atol=1e-4)
    finally:
        pipe.unet.set_attn_processor(before)


def test_global_locking_reads_keys_from_the_prompt_for_anyone(pipe, method):
    """Keys of all words are those of the same prompt with the superclass in the word's place; values are their own."""
    params, prompt = moved(method, pipe), "happy <me> the robot at night"
    everyone = replace(method, keys="global")
    layers = projections(pipe.unet)
    usual = params | {"embedding": words.meaning(pipe, "robot").numpy()[None, None]}
    with method.attached(pipe, params, ONLY):
        ids = torch.tensor([tokens(pipe, prompt)])
        edited, own = projections(pipe.unet), pipe.text_encoder(ids)[0].detach()
    with method.attached(pipe, usual, ONLY):
        anyone = pipe.text_encoder(ids)[0].detach()
    with everyone.attached(pipe, params, ONLY), torch.no_grad():
        both = pipe.encode_prompt([prompt], "cpu", 1, do_classifier_free_guidance=False)[0]
        torch.testing.assert_close(both, torch.cat([own, anyone], dim=-1))
        for name in layers:
            text = anyone if name.endswith("to_k") else own
            torch.testing.assert_close(projections(pipe.unet)[name](both), edited[name](text), rtol=1e-4, atol=1e-4)
    assert len(layers) == 14


def test_layers_may_have_gates_of_their_own(pipe, method):
    params, layer = moved(method, pipe), "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    own = replace(method, betas={"mid.value": 0.3, layer.replace("mid", "down"): 0.2})
    assert own.beta_of(layer) == 0.3
    assert own.beta_of("up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k") == method.beta
    with own.attached(pipe, params, ONLY):
        betas = {name: part.beta.item() for name, part in projections(pipe.unet).items()}
    assert betas[layer] == pytest.approx(0.3)
    assert set(np.round(list(betas.values()), 4)) == {0.3, 0.7}


def test_two_that_were_trained_apart_meet_exactly(pipe, method, metric):
    """Each is the same beside the other where the other's gate is shut and inputs are orthogonal; words do not mix."""
    cat = Perfusion(Subject("cat", "<tom>"), covariance=metric)
    first, second = moved(method, pipe), moved(cat, pipe, seed=1)
    inverse = covariance.of(pipe, metric).inverse
    other = second[INPUT][0] - first[INPUT][0] * (first[DIRECTION][0] @ second[INPUT][0]) / (
        first[DIRECTION][0] @ first[INPUT][0]
    )
    second |= {INPUT: other[None], DIRECTION: (inverse @ other).astype(np.float32)[None]}
    text = noise(2, 5, 16)
    with torch.no_grad():
        with together(pipe, [method.concept(first), cat.concept(second)], ONLY):
            both = {name: part(text) for name, part in projections(pipe.unet).items()}
            assert len(pipe.tokenizer.tokenize("<me> the robot and <tom> the cat")) == 7
        with method.attached(pipe, first, ONLY):
            one = {name: part(text) for name, part in projections(pipe.unet).items()}
        with cat.attached(pipe, second, ONLY):
            two = {name: part(text) for name, part in projections(pipe.unet).items()}
    for name, base in projections(pipe.unet).items():
        torch.testing.assert_close(both[name], one[name] + two[name] - base(text), rtol=1e-3, atol=1e-4)


def test_two_who_are_alike_are_told_apart_with_a_warning(pipe, method):
    """Two subjects of one superclass open each other's gates, or what shuts them rests on next to nothing."""
    twin = replace(method, subject=Subject("robot", "<r2>"))
    params = moved(method, pipe)
    near = params[INPUT] + 0.01 * generator(0, "near").normal(size=params[INPUT].shape).astype(np.float32)
    inverse = covariance.of(pipe, method.covariance).inverse.astype(np.float32)
    other = params | {INPUT: near, DIRECTION: near @ inverse}
    concepts = [method.concept(params), twin.concept(other)]
    for apart, harm in ((True, "hardly anything tells them apart"), (False, "each opens the other's gate")):
        with pytest.warns(UserWarning, match="<me> and <r2> are alike") as said:  # noqa: SIM117
            with together(pipe, concepts, ONLY, apart=apart):
                pass
        assert len(said) == 1
        assert harm in str(said[0].message)


def test_the_cache_gives_the_same_and_computes_once(pipe, method, monkeypatch):
    params, prompts = moved(method, pipe), ["<me> the robot"]
    calls = []
    with method.attached(pipe, params, ONLY), torch.no_grad():
        text = pipe.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)[0]
        latents = noise(1, *LATENT)
        want = pipe.unet(latents, torch.tensor(500), text).sample
        layer = projections(pipe.unet)["mid_block.attentions.0.transformer_blocks.0.attn2.to_v"]
        forward = layer.forward
        monkeypatch.setattr(layer, "forward", lambda x: (calls.append(1), forward(x))[1])
        with cached_text(pipe.unet):
            for _ in range(3):
                assert torch.equal(pipe.unet(latents, torch.tensor(500), text).sample, want)
    assert len(calls) == 1


def test_what_cannot_be_is_refused(pipe, method):
    for changes, message in (
        ({"beta": 0.0}, "beta: expected more than 0 and less than 1"),
        ({"beta": 1.0}, "beta"),
        ({"training_beta": 1.5}, "training_beta"),
        ({"betas": {"up.key": -0.1}}, "betas up.key"),
        ({"tau": 0.0}, "tau: expected a finite number above 0"),
        ({"memory": 1.0}, "memory"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(method, **changes)
    params = moved(method, pipe)
    for broken, message in (
        ({name: value for name, value in params.items() if name != INPUT}, "input is missing"),
        (params | {INPUT: params[INPUT][:, :5]}, "input: is 5 long, this model's text 16"),
        (params | {INPUT: 0 * params[INPUT], DIRECTION: 0 * params[DIRECTION]}, "no length"),
        (params | {"up_blocks.9.attn2.to_v.output": params[INPUT]}, "up_blocks.9"),
        ({name: value for name, value in params.items() if "mid" not in name}, "mid_block"),
    ):
        with pytest.raises(MismatchError, match=message), method.attached(pipe, broken, ONLY):
            pass
    taken = replace(method, subject=Subject("robot", "cat"))
    with pytest.raises(ConfigError, match="'cat' is a word of this model already"), taken.attached(pipe, params, ONLY):
        pass
    twice = [method.concept(params)] * 2
    with pytest.raises(ConfigError, match="are not all different"), together(pipe, twice, ONLY):
        pass


def test_a_superclass_may_be_several_tokens(pipe, metric):
    """zebra is spelled in letters by the tiny model: the word starts at their mean."""
    ids = pipe.tokenizer("cat robot", add_special_tokens=False).input_ids
    table = pipe.text_encoder.get_input_embeddings().weight
    params = Perfusion(Subject("cat robot"), covariance=metric).init(pipe, 1, seed=0)
    torch.testing.assert_close(torch.tensor(params["embedding"][0, 0]), table[ids].mean(dim=0))


def test_a_file_of_another_method_or_base_is_refused(pipe, method, tmp_path):
    path, params = tmp_path / "me.safetensors", moved(method, pipe)
    save(path, method, Posterior(({name: value[0] for name, value in params.items()},)), base=fingerprint(pipe))
    posterior, about = load(path, base=fingerprint(pipe))
    assert about["settings"]["training_beta"] == 0.75
    assert replace(Perfusion(Subject(**about["subject"]), **about["settings"])) == method
    with pytest.raises(MismatchError, match="trained on base model"):
        load(path, base=fingerprint(tiny(seed=1)))
    other = TextualInversion(Subject("robot")).init(pipe, 1, seed=0)
    with pytest.raises(MismatchError, match="input is missing"), method.attached(pipe, other, ONLY):
        pass
    assert len(posterior) == 1


def test_a_loss_that_is_no_number_is_said(pipe, method):
    batch = batch_of(pipe, method, ["<me> the robot"])
    broken = batch._replace(latents=torch.full_like(batch.latents, torch.nan))
    kernel = AdamW(method.init(pipe, 1, seed=0), lambda params, batch, _: method.loss(pipe, params, batch).sum())
    with pytest.raises(DataError, match="the loss is nan"):
        run(kernel, lambda step: broken, steps=1, seed=0)
