"""The mixture around an attention: exact at the start, the prior's alone where it should be, else the paper's sum."""

import math

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor

from bayes_persona import MismatchError
from bayes_persona.diffusion.adapters.moa import layer, losses, mixture, tokens
from bayes_persona.diffusion.adapters.moa.now import Now
from bayes_persona.seeds import generator
from tests.diffusion.tiny import noise

ONLY = torch.tensor([0])


def rough(params, size=0.3):
    """Parameters that have left their start."""
    moved = {name: value + size * generator(0, name).standard_normal(value.shape) for name, value in params.items()}
    return {name: torch.tensor(value).float() for name, value in moved.items()}


def attention(text=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Attention(query_dim=8, cross_attention_dim=text, heads=2, dim_head=4).eval().requires_grad_(False)


def entered(rows=2, marked=(), **settings):
    """A pass of so many rows, over text of 5 words and 6 columns, whose third word is the subject in marked rows."""
    now = Now(noise(1, 1, 4), ONLY, times=1000, **settings)
    text = noise(rows, 5, 6, seed=2)
    marks = torch.zeros(rows, 5, 1)
    marks[list(marked), 2] = 1
    return now, now.enter(noise(rows, 4, 3, 3), torch.tensor(400), torch.cat([text, marks], dim=-1), width=6)


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("text", [None, 6])
def test_it_starts_as_the_attention_that_was_there(rank, text):
    base, (now, words) = attention(text), entered(marked=(0, 1))
    params = {name: torch.tensor(value) for name, value in layer.start(base, seed=0, rank=rank).items()}
    params |= {name: torch.tensor(value) for name, value in tokens.start(4, 6, 8, 4, seed=0).items()}
    x, said = noise(2, 9, 8), words if text else None
    torch.testing.assert_close(layer.Mixed(base, "a", params, now)(x, said), base(x, said))


@pytest.mark.parametrize("router", [None, 4])
def test_every_pixel_is_the_routers_mixture_of_two_attentions(router):
    base, (now, words) = attention(6), entered(marked=(0, 1))
    params = rough(layer.start(base, seed=0, router=router) | tokens.start(4, 6, 8, 4, seed=0))
    x = noise(2, 9, 8)
    told = tokens.told(params, words, now.marks, now.who(), now.time, 3)
    out = torch.zeros(2, 9, 8)
    for row in range(2):  # one head and pixel after another, written out
        q, k, v = (one[row] @ params[f"{part}.weight"].T for part, one in (("q_p", x), ("k_p", told), ("v_p", told)))
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            weights = torch.softmax(q[:, head] @ k[:, head].T / math.sqrt(4), dim=1)
            heads.append(weights @ v[:, head])
        mine = torch.cat(heads, dim=1) @ params["o_p.weight"].T + params["o_p.bias"]
        seen = x[row]
        if router:
            seen = torch.nn.functional.silu(seen @ params["router.hidden.weight"].T + params["router.hidden.bias"])
        logits = torch.cat([torch.zeros(9, 1), seen @ params["router.weight"].T + params["router.bias"] + 0.7], dim=1)
        shares = logits.softmax(dim=1)
        out[row] = shares[:, :1] * base(x, words)[row] + shares[:, 1:] * mine
    have = layer.Mixed(base, "a", params, now, layer=3, lean=0.7)(x, words)
    torch.testing.assert_close(have, out, rtol=1e-4, atol=1e-5)
    now.attention = True  # explicit weights, for the loss
    torch.testing.assert_close(
        layer.Mixed(base, "a", params, now, layer=3, lean=0.7)(x, words), out, rtol=1e-4, atol=1e-5
    )
    assert now.attended["a"].shape == (2, 9, 1)


def test_rows_without_a_subject_are_the_priors_bit_for_bit():
    base, (now, words) = attention(6), entered(rows=3, marked=(1,))
    params = rough(layer.start(base, seed=0) | tokens.start(4, 6, 8, 4, seed=0))
    x = noise(3, 9, 8)
    have, prior = layer.Mixed(base, "a", params, now)(x, words), base(x, words)
    assert torch.equal(have[[0, 2]], prior[[0, 2]])
    assert not torch.allclose(have[1], prior[1])
    assert now.routed["a"].shape == (1, 9)
    assert torch.equal(layer.Mixed(base, "a", params, now, amount=0.0)(x, words), prior)


def test_a_row_does_not_depend_on_which_others_go_through_the_mixture():
    base, x = attention(6), noise(2, 9, 8)
    params = rough(layer.start(base, seed=0) | tokens.start(4, 6, 8, 4, seed=0))
    found = []
    for settings in ({}, {"everywhere": True}):
        now, words = entered(marked=(0,), **settings)
        found.append(layer.Mixed(base, "a", params, now)(x, words)[0])
    torch.testing.assert_close(*found)


def test_it_works_under_other_processors_and_keeps_masks():
    base, (now, words) = attention(6), entered(marked=(0, 1))
    params = rough(layer.start(base, seed=0) | tokens.start(4, 6, 8, 4, seed=0))
    x, mixed = noise(2, 9, 8), layer.Mixed(base, "a", params, now)
    usual = mixed(x, words)
    base.set_processor(AttnProcessor())
    torch.testing.assert_close(mixed(x, words), usual)
    hidden = torch.zeros(2, 1, 5)
    hidden[:, :, 4] = -10_000.0  # the last word is hidden from both
    other = words.clone()
    other[:, 4] = 7.0
    torch.testing.assert_close(mixed(x, words, hidden), mixed(x, other, hidden), rtol=1e-4, atol=1e-5)


def test_the_first_mark_can_be_silent():
    base, (now, words) = attention(6), entered(marked=(0, 1))
    params = rough(layer.start(base, seed=0) | tokens.start(4, 6, 8, 4, seed=0))
    alone = words[:, :1]
    now.marks = None
    mixed = layer.Mixed(base, "a", params | {"router.bias": torch.tensor([99.0])}, now, silent_start=True)
    torch.testing.assert_close(mixed(noise(2, 9, 8), alone), params["o_p.bias"].expand(2, 9, 8))


def test_strange_attentions_are_refused():
    odd = Attention(query_dim=8, heads=2, dim_head=4, norm_num_groups=2)
    with pytest.raises(MismatchError, match="group_norm"):
        layer.start(odd, seed=0)


def test_losses_are_those_of_loops_over_pixels():
    maps = {"a.attn1": noise(2, 4).sigmoid(), "b.attn1": noise(2, 16, seed=1).sigmoid()}
    background = (noise(2, 4, 4, seed=2) > 0).float()
    large = torch.nn.functional.interpolate(maps["a.attn1"].reshape(2, 1, 2, 2), (4, 4), mode="bilinear")[:, 0]
    share = 1 - (large + maps["b.attn1"].reshape(2, 4, 4)) / 2
    want = [
        sum(float(background[n, i, j] * (1 - share[n, i, j])) ** 2 for i in range(4) for j in range(4)) / 16
        for n in range(2)
    ]
    torch.testing.assert_close(losses.router(maps, background), torch.tensor(want))
    assert losses.router({"a.attn1": torch.zeros(1, 16)}, torch.ones(1, 4, 4)).item() == 0


def test_looking_at_the_subject_is_better_than_elsewhere():
    masks = torch.zeros(1, 2, 4, 4)
    masks[0, 0, :, :2] = 1  # the second subject is not there
    at, elsewhere = torch.zeros(1, 16, 2), torch.zeros(1, 16, 2)
    at[0, :, 0], elsewhere[0, :, 0] = masks[0, 0].flatten(), 1 - masks[0, 0].flatten()
    assert losses.located({"a.attn2": at}, masks).item() == pytest.approx(-1)
    assert losses.located({"a.attn2": elsewhere}, masks).item() == pytest.approx(1)
    assert losses.located({"a.attn2": at}, torch.zeros(1, 2, 4, 4)).item() == 0


def test_maps_that_are_no_pictures_are_refused():
    with pytest.raises(MismatchError, match="no picture"):
        losses.resized(torch.zeros(1, 7), (4, 4))
    with pytest.raises(MismatchError, match="leaves none"):
        losses.inner({"a.attn1": 0}, skip=1)


SIZES = {
    "SD 1.5": ({"cross_attention_dim": 768, "attention_head_dim": 8}, 32, 93.5e6),
    "SDXL": (
        {
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": True,
        },
        140,
        955.4e6,
    ),
}


@pytest.mark.parametrize("model", SIZES)
def test_it_finds_every_attention_of_large_models(model):
    settings, count, numbers = SIZES[model]
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, **settings)
    found = mixture.layers(unet)
    own = sum(p.numel() for name in found for p in unet.get_submodule(name).parameters())
    assert len(found) == count
    assert own == pytest.approx(numbers, rel=1e-3)
    assert list(found.values()) == sorted(found.values())  # in the order of the pass, the middle in the middle
    assert {mixture.gate_of(name) for name in found} <= set(mixture.GATES)
    if model == "SD 1.5":
        assert found["mid_block.attentions.0.transformer_blocks.0.attn1"] == 6
        run_on_meta(unet, found)


def run_on_meta(unet, found):
    """Every shape fits: the mixture runs on SD 1.5's U-Net, without numbers."""
    with torch.device("meta"):
        params = {f"token.{k}": torch.zeros(s) for k, s in token_shapes(feature=768, text=768).items()}
        for name in found:
            base = unet.get_submodule(name)
            for part, place in layer.PARTS.items():
                linear = base.get_submodule(place)
                params |= {f"{name}.{part}.{k}": torch.zeros(p.shape) for k, p in linear.named_parameters()}
            params[f"{name}.router.weight"] = torch.zeros(1, base.query_dim)
            params[f"{name}.router.bias"] = torch.zeros(1)
        now = Now(torch.zeros(1, 1, 768), torch.zeros(1, dtype=torch.long), times=1000, everywhere=True)
        now.active, now.all_active, now.time = torch.zeros(1, dtype=torch.long), True, torch.zeros(1)
        with mixture.mixed(unet, mixture.Config(feature=768), params, now):
            out = unet(torch.zeros(1, 4, 64, 64), torch.zeros(1), torch.zeros(1, 77, 768)).sample
    assert out.shape == (1, 4, 64, 64)
    assert [map.shape[1] for map in now.routed.values()][::8] == [4096, 256, 256, 1024]


def token_shapes(feature, text):
    made = tokens.start(feature, text, 256, 4, seed=0)
    return {name.removeprefix("token."): value.shape for name, value in made.items()}
