"""Attaching: what goes in is called, what was there comes back, whatever happens in between."""

import pytest
import torch
from torch import nn

from bayes_persona import ConfigError, MismatchError
from bayes_persona.diffusion.attach import Attachment, attached
from tests.diffusion.tiny import LATENT, noise, snapshot, tiny, untouched

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn2"
OUT = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"


class Scaled(nn.Module):
    """The original's output, times a number."""

    def __init__(self, original, factor):
        super().__init__()
        self.original, self.factor = original, factor

    def forward(self, x):
        return self.factor * self.original(x)


def scaled(factor):
    return lambda original: Scaled(original, factor)


@pytest.fixture(scope="module")
def unet():
    return tiny().unet


@pytest.fixture(autouse=True)
def _left_as_it_was(unet):
    before = snapshot(unet)
    yield
    assert untouched(unet, before)


@torch.no_grad()
def predict(unet):
    return unet(noise(2, *LATENT), torch.tensor(500), noise(2, 40, 16, seed=1)).sample


def test_a_part_is_used_inside_the_block_and_only_there(unet):
    plain = predict(unet)
    with attached(unet, {f"{OUT}.to_k": scaled(0.5), f"{OUT}.to_out.0": scaled(2.0)}) as made:
        assert set(made) == {f"{OUT}.to_k", f"{OUT}.to_out.0"}
        assert unet.get_submodule(f"{OUT}.to_out.0") is made[f"{OUT}.to_out.0"]
        assert not torch.equal(predict(unet), plain)
    assert torch.equal(predict(unet), plain)


def test_a_wrapper_that_does_nothing_changes_nothing(unet):
    plain = predict(unet)
    with attached(unet, {f"{OUT}.{part}": scaled(1) for part in ("to_q", "to_k", "to_v", "to_out.0")}):
        assert torch.equal(predict(unet), plain)


def test_the_order_of_the_networks_parts_is_kept(unet):
    names = [name for name, _ in unet.named_children()]
    inside = [name for name, _ in unet.get_submodule(OUT).named_children()]
    with attached(unet, {"conv_in": scaled(1), f"{OUT}.to_k": scaled(1)}):
        assert [name for name, _ in unet.named_children()] == names
        assert [name for name, _ in unet.get_submodule(OUT).named_children()] == inside


def test_an_exception_inside_leaves_the_network_as_it_was(unet):
    before = snapshot(unet)
    with pytest.raises(ZeroDivisionError), attached(unet, {f"{OUT}.to_k": scaled(2), "conv_out": nn.Identity()}):
        _ = 1 / 0
    assert untouched(unet, before)


def test_a_function_that_fails_swaps_nothing(unet):
    before = snapshot(unet)

    def fails(original):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Attachment(unet, {"conv_in": nn.Identity(), "conv_out": fails})
    with pytest.raises(MismatchError, match="conv_out: the function gave int; it must return a torch module"):
        Attachment(unet, {"conv_in": nn.Identity(), "conv_out": lambda original: 3})
    assert untouched(unet, before)


def test_attachments_nest(unet):
    name = f"{OUT}.to_v"
    original = unet.get_submodule(name)
    with attached(unet, {name: scaled(2)}) as outer:
        with attached(unet, {name: scaled(3), f"{OUT}.to_k": scaled(1)}) as inner:
            assert inner[name].original is outer[name]
            assert torch.equal(inner[name](noise(1, 16)), 3 * (2 * original(noise(1, 16))))
        assert unet.get_submodule(name) is outer[name]
    assert unet.get_submodule(name) is original


def test_detaching_out_of_order_is_refused_and_changes_nothing(unet):
    name = f"{OUT}.to_v"
    first = Attachment(unet, {"conv_in": scaled(1), name: scaled(2)})
    second = Attachment(unet, {name: scaled(3)})
    attached_state = snapshot(unet)
    with pytest.raises(MismatchError, match=r"to_v: something else was attached over it; detach the last one first"):
        first.detach()
    assert untouched(unet, attached_state)
    second.detach()
    first.detach()
    first.detach()  # a second time does nothing


def test_attachments_to_different_places_end_in_any_order(unet):
    before = snapshot(unet)
    first, second = Attachment(unet, {"conv_in": scaled(1)}), Attachment(unet, {"conv_out": scaled(1)})
    assert not untouched(unet, before)
    first.detach()
    second.detach()
    assert untouched(unet, before)


def test_a_part_of_an_attached_part_can_be_swapped(unet):
    with (
        attached(unet, {f"{OUT}.to_k": scaled(2)}),
        attached(unet, {f"{OUT}.to_k.original": nn.Identity()}) as made,
    ):
        assert torch.equal(unet.get_submodule(f"{OUT}.to_k")(noise(1, 16)), 2 * noise(1, 16))
        assert isinstance(made[f"{OUT}.to_k.original"], nn.Identity)


def test_an_unknown_name_tells_the_nearest(unet):
    with pytest.raises(MismatchError, match=rf"attn2.to_kk: not a part of this UNet2DConditionModel.*{ATTENTION}.to_k"):
        Attachment(unet, {"conv_in": nn.Identity(), f"{ATTENTION}.to_kk": nn.Identity()})
    with pytest.raises(MismatchError, match=r"to_out\.7: not a part"):
        Attachment(unet, {f"{OUT}.to_out.7": nn.Identity()})
    with pytest.raises(MismatchError, match="no parts of a similar name"):
        Attachment(unet, {"§": nn.Identity()})


def test_overlapping_and_empty_names_are_refused(unet):
    with pytest.raises(ConfigError, match=f"{OUT}.to_k: lies inside {OUT}"):
        Attachment(unet, {OUT: nn.Identity(), f"{OUT}.to_k": nn.Identity()})
    with pytest.raises(ConfigError, match="the empty name"):
        Attachment(unet, {"": nn.Identity()})


def test_every_attention_processor_works_with_attached_parts(unet):
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor

    before = dict(unet.attn_processors)
    parts = {f"{OUT}.{part}": scaled(0.5) for part in ("to_q", "to_k", "to_v", "to_out.0")}
    try:
        with attached(unet, parts):
            pictures = []
            for processor in (AttnProcessor(), AttnProcessor2_0(), SlicedAttnProcessor(1)):
                unet.set_attn_processor(processor)
                pictures.append(predict(unet))
    finally:
        unet.set_attn_processor(before)
    assert all(torch.allclose(picture, pictures[0], atol=1e-5) for picture in pictures)


def test_a_part_that_stands_in_two_places_is_swapped_in_one():
    shared = nn.Linear(2, 2)
    net = nn.ModuleDict({"a": shared, "b": shared})
    with attached(net, {"a": nn.Identity()}):
        assert net["b"] is shared
    assert net["a"] is shared


def test_gradients_reach_a_part_and_not_the_base(unet):
    rows = nn.Linear(16, 16, bias=False)
    with attached(unet, {f"{OUT}.to_k": rows}):
        unet(noise(1, *LATENT), torch.tensor(500), noise(1, 40, 16)).sample.square().sum().backward()
    assert rows.weight.grad.abs().sum() > 0
    assert all(value.grad is None for value in unet.parameters())
