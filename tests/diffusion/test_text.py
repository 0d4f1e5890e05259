"""Text: what is computed once is what would have been computed every time."""

import pytest
import torch
from torch import nn

from bayes_persona import ConfigError
from bayes_persona.diffusion import text as module
from bayes_persona.diffusion.attach import attached
from bayes_persona.diffusion.text import Prompts, cached_text, hidden, tokens
from tests.diffusion.tiny import LATENT, noise, snapshot, tiny, tiny_xl, untouched

KEYS = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture(scope="module")
def pipe():
    return tiny()


# ── prompts ──


def test_prompts_are_encoded_as_the_pipeline_does(pipe):
    texts = ["a happy cat", "", "a robot at night"]
    have = Prompts(pipe)(texts)
    want, _ = pipe.encode_prompt(texts, "cpu", 1, False)
    assert have.shape == (3, 40, 16)
    assert torch.allclose(have, want, atol=1e-6)
    assert not have.requires_grad


def test_a_prompt_is_encoded_once(pipe):
    calls = []
    handle = pipe.text_encoder.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    prompts = Prompts(pipe)
    prompts(["a cat", "a robot", "a cat"])
    prompts(["a robot"])
    handle.remove()
    assert calls == [1, 1]


def test_a_prompts_encoding_does_not_depend_on_the_others(pipe):
    assert torch.equal(Prompts(pipe)(["a cat", "a robot", "a man"])[1], Prompts(pipe)(["a robot"])[0])


def test_no_prompts_give_no_rows(pipe):
    assert Prompts(pipe)([]).shape == (0, 40, 16)


def test_prompts_are_encoded_anew_when_the_encoder_changes():
    pipe = tiny()
    prompts = Prompts(pipe)
    before = prompts(["a cat"])
    name, layer = next((n, m) for n, m in pipe.text_encoder.named_modules() if isinstance(m, nn.Linear))
    with attached(pipe.text_encoder, {name: lambda original: nn.Sequential(original, nn.Tanh())}):
        assert not torch.equal(prompts(["a cat"]), before)
    assert torch.equal(prompts(["a cat"]), before)
    handle = layer.register_forward_hook(lambda module, args, output: 2 * output)
    assert not torch.equal(prompts(["a cat"]), before)
    handle.remove()
    layer.weight.mul_(2)
    assert not torch.equal(prompts(["a cat"]), before)


def test_a_prompt_that_is_too_long_names_the_words_cut_off(pipe):
    with pytest.raises(
        ConfigError, match=r"prompt: 42 tokens, the model reads 38; cut off would be: a happy robot man"
    ):
        Prompts(pipe)(["a cat", "cat " * 38 + "a happy robot man"])
    assert Prompts(pipe)(["cat " * 38]).shape == (1, 40, 16)


def test_one_text_is_not_a_list_of_letters(pipe):
    with pytest.raises(ConfigError, match="expected a list of texts"):
        Prompts(pipe)("a cat")


# ── keys and values ──


def generate(pipe, text, steps=4, guidance=3.0):
    kept = {"prompt_embeds": text, "negative_prompt_embeds": torch.zeros_like(text), "output_type": "latent"}
    return pipe(**kept, num_inference_steps=steps, guidance_scale=guidance, latents=noise(len(text), *LATENT)).images


def counted(unet):
    """Count how often one projection is computed."""
    calls = []
    linear = unet.get_submodule(KEYS)
    handle = linear.register_forward_hook(lambda module, args, output: calls.append(args[0]))
    return calls, handle


def test_generation_is_bit_identical_and_projects_once(pipe):
    text, before = noise(2, 40, 16, seed=1), snapshot(pipe.unet)
    want = generate(pipe, text)
    calls, handle = counted(pipe.unet)
    with cached_text(pipe.unet):
        have = generate(pipe, text)
    handle.remove()
    assert torch.equal(have, want)
    assert len(calls) == 1
    assert untouched(pipe.unet, before)


class Gated(nn.Module):
    """What adapters look like: the original plus something that a gate, no parameter, turns up and down."""

    def __init__(self, original):
        super().__init__()
        self.original, self.more, self.gate = original, nn.Linear(16, 16, bias=False), 1.0
        nn.init.eye_(self.more.weight)

    def forward(self, x):
        return self.original(x) + self.gate * self.more(x) + 0 * self.original.weight.sum()


@pytest.mark.parametrize("cache_first", [True, False])
def test_what_is_attached_inside_or_outside_is_respected(pipe, cache_first):
    text = noise(2, 40, 16, seed=1)
    with torch.no_grad(), attached(pipe.unet, {KEYS: Gated}) as made:
        want = generate(pipe, text)
        made[KEYS].gate = 0.5
        half = generate(pipe, text)
    plain = generate(pipe, text)
    assert not torch.equal(want, plain)
    before = snapshot(pipe.unet)
    if cache_first:
        with cached_text(pipe.unet):
            assert torch.equal(generate(pipe, text), plain)
            with attached(pipe.unet, {KEYS: Gated}) as made:
                assert torch.equal(generate(pipe, text), want)
                made[KEYS].gate = 0.5
                assert torch.equal(generate(pipe, text), half)
            assert torch.equal(generate(pipe, text), plain)
    else:
        with attached(pipe.unet, {KEYS: Gated}) as made, cached_text(pipe.unet):
            assert torch.equal(generate(pipe, text), want)
            made[KEYS].gate = 0.5
            assert torch.equal(generate(pipe, text), half)
    assert untouched(pipe.unet, before)


@torch.no_grad()
def test_a_change_of_text_or_weights_is_seen(pipe):
    linear, text = pipe.unet.get_submodule(KEYS), noise(1, 5, 16)
    kept = linear.weight.clone()
    with cached_text(pipe.unet):
        project = pipe.unet.get_submodule(KEYS)
        first = project(text)
        assert project(text) is first
        assert project(text.clone()) is not first
        text += 1
        assert torch.equal(project(text), linear(text))
        linear.weight.mul_(2)
        assert torch.equal(project(text), linear(text))
        project(text).zero_()  # a caller may write into what it got
        assert torch.equal(project(text), linear(text))
        linear.weight.copy_(kept)
        with torch.autocast("cpu", torch.bfloat16):
            assert project(text).dtype == torch.bfloat16
        assert project(text).dtype == torch.float32


def test_gradients_flow_as_without_the_cache(pipe):
    text = noise(1, 40, 16).requires_grad_()

    def slope():
        out = pipe.unet(noise(1, *LATENT), torch.tensor(500), text).sample
        return torch.autograd.grad(out.square().sum(), text)[0]

    want = slope()
    with cached_text(pipe.unet):
        with torch.no_grad():
            pipe.unet(noise(1, *LATENT), torch.tensor(500), text)
        assert torch.equal(slope(), want)
        assert torch.equal(slope(), want)
        with torch.inference_mode():
            pipe.unet(noise(1, *LATENT), torch.tensor(500), text)


def test_a_text_that_is_gone_leaves_nothing_behind(pipe):
    with torch.no_grad(), cached_text(pipe.unet):
        project = pipe.unet.get_submodule(KEYS)
        for seed in range(10):
            text = noise(1, 5, 16, seed=seed)
            assert torch.equal(project(text), project.original(text))
        assert len(project._known) <= module.REMEMBERED


def test_two_text_encoders_are_read_as_sdxl_reads_them():
    pipe, prompt = tiny_xl(), "a happy robot at night"
    states, _, pooled, _ = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
    with torch.no_grad():
        have = hidden(pipe, torch.tensor([tokens(pipe, prompt)]))
    torch.testing.assert_close(have.states, states)
    torch.testing.assert_close(have.pooled, pooled)
