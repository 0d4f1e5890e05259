"""LIPE's second stage: what is outside the mask is the photo's to the last bit, and masks are where words are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import nn

from bayes_persona import ConfigError, DataError, MismatchError
from bayes_persona.diffusion import generate
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.lipe import attention, masactrl, nima
from bayes_persona.diffusion.adapters.lipe.attention import Recorder, mask, positions, recording
from bayes_persona.diffusion.adapters.lipe.method import Lipe
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.attach import attached
from bayes_persona.seeds import generator
from tests.diffusion.tiny import LATENT, noise, snapshot, tiny, tiny_xl, untouched

WALK = nima.Config(steps=6, guidance=3.0, inversion="ddim", start=0.0, skip=0.0, grow=0)
SAID, ASKED = ["a robot facing left at night"], ["a happy robot facing right at night"]


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(autouse=True)
def _left_as_it_was(pipe):
    before, scheduler = snapshot(pipe.unet), pipe.scheduler
    yield
    assert untouched(pipe.unet, before)
    assert pipe.scheduler is scheduler


@pytest.fixture(scope="module")
def photo():
    return generator(0, "photo").integers(0, 256, (1, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module", params=["ddim", "edit_friendly"])
def inverted(request, pipe, photo):
    walk = replace(WALK, inversion=request.param)
    return walk, nima.invert(pipe, photo, SAID, "robot", walk)


def everywhere(inverted, value):
    return inverted._replace(mask=torch.full_like(inverted.mask, value))


def test_a_mask_of_everything_is_plain_sampling(pipe, inverted):
    walk, way = inverted
    blended = nima.paint(pipe, everywhere(way, True), ASKED, "robot", walk)
    plain = nima.paint(pipe, everywhere(way, True), ASKED, "robot", replace(walk, blend=False))
    assert torch.equal(blended.latents, plain.latents)
    if way.kept is None:
        with nima.ddim(pipe):
            sampled = generate.sample(pipe, ASKED, way.path[-1], generate.Config(walk.steps, walk.guidance))
        assert np.array_equal(blended.pixels, sampled)


def test_a_mask_of_nothing_is_the_photos_way_exactly(pipe, inverted):
    walk, way = inverted
    edited = nima.paint(pipe, everywhere(way, False), ASKED, "robot", replace(walk, threshold_target=1.0))
    assert torch.equal(edited.latents, way.path[0])


def test_at_every_step_the_outside_is_the_photos_and_the_inside_is_not(pipe, inverted):
    walk, way = inverted
    half = way._replace(mask=torch.zeros_like(way.mask))
    half.mask[:, :, 8:] = True
    with nima.editing(pipe, half, ASKED, "robot", replace(walk, threshold_target=1.0)) as blender:
        start, seen = half.path[-1], []

        def on_step(number, latents):
            out = blender.blend(number, latents)
            assert torch.equal(out[..., :8], way.path[-2 - number][..., :8])
            assert torch.equal(out[..., 8:], latents[..., 8:])
            seen.append(number)
            return out

        generate.sample(pipe, ASKED, start, generate.Config(walk.steps, walk.guidance), on_step=on_step)
    assert seen == list(range(walk.steps))


def test_when_blending_is_done_is_said(pipe, inverted):
    walk, way = inverted
    path, x = way.path, noise(1, *LATENT, seed=5)
    times = [1000 - 160 * k for k in range(walk.steps)]

    def blended(**said):
        blender = nima.Nima(path, torch.zeros_like(way.mask), times, replace(walk, **said))
        return [torch.equal(blender.blend(k, x), path[-2 - k]) for k in range(walk.steps)]

    assert blended() == [True] * 6
    assert blended(skip=0.5) == [False] * 3 + [True] * 3
    assert blended(high=700) == [False] * 2 + [True] * 4
    assert blended(low=700) == [True] * 2 + [False] * 4
    assert blended(start=0.34, blend=False) == [True] * 2 + [False] * 4
    assert blended(start=0.34, skip=0.17) == [True] * 2 + [False] + [True] * 3


def test_a_diffusers_pipeline_does_the_same(pipe, inverted):
    walk, way = replace(inverted[0], threshold_target=1.0), everywhere(inverted[1], False)
    way.mask[:, :, 8:] = True
    ours = nima.paint(pipe, way, ASKED, "robot", walk)
    asked = {"num_inference_steps": walk.steps, "guidance_scale": walk.guidance, "latents": way.path[-1]}
    with nima.editing(pipe, way, ASKED, "robot", walk) as blender:
        theirs = pipe(ASKED, **asked, output_type="latent", callback_on_step_end=blender.callback).images
    assert torch.equal(theirs[..., :8], ours.latents[..., :8])
    torch.testing.assert_close(theirs, ours.latents, rtol=1e-3, atol=1e-3)  # an untrained net makes last digits large
    x = noise(1, *LATENT, seed=7)
    assert torch.equal(blender.callback(pipe, 2, None, {"latents": x})["latents"], blender.blend(2, x))


def test_without_another_prompt_the_photo_comes_back(pipe, photo):
    walk = replace(WALK, guidance=1.0, blend=False, inversion="edit_friendly")
    way = nima.invert(pipe, photo, SAID, "robot", walk)
    back = nima.paint(pipe, way, SAID, "robot", walk)
    torch.testing.assert_close(back.latents, way.path[0], rtol=1e-3, atol=1e-3)


def test_noises_of_edit_friendly_inversion_are_of_their_step_and_seed_alone(pipe, photo):
    walk = replace(WALK, inversion="edit_friendly")
    two = nima.invert(pipe, np.concatenate([photo, photo]), SAID * 2, "robot", walk)
    one, other = (nima.invert(pipe, photo, SAID, "robot", replace(walk, seed=seed)) for seed in (0, 1))
    torch.testing.assert_close(two.path[:, :1], one.path)
    torch.testing.assert_close(two.path[:, 1:], one.path)
    assert not torch.allclose(one.path[3], other.path[3])


@pytest.mark.parametrize("processor", [None, AttnProcessor])
def test_recording_changes_nothing_and_records_the_softmax(pipe, processor):
    x, text, words = noise(2, *LATENT), noise(2, 40, 16, seed=1), [(2, 3)]
    before = pipe.unet.attn_processors
    if processor is not None:
        pipe.unet.set_attn_processor(processor())
    try:
        with torch.no_grad():
            want = pipe.unet(x, 500, text).sample
            seen, asked = Recorder(words, (16, 16), spread=2), []
            layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
            hook = layer.register_forward_hook(lambda _, given, kept: asked.append(given[0]))
            with recording(pipe.unet, seen):
                assert torch.equal(pipe.unet(x, 500, text).sample, want)
            hook.remove()
            query, key = (layer.head_to_batch_dim(part) for part in (layer.to_q(asked[0]), layer.to_k(text)))
            full = layer.get_attention_scores(query, key).unflatten(0, (2, layer.heads))
            found = attention.shares(layer, asked[0], text, 1)
            torch.testing.assert_close(found, full[1:])
    finally:
        pipe.unet.set_attn_processor(before)
    assert seen.count == 7
    assert sorted(seen.near) == [16, 64, 256]


def test_with_guidance_the_rows_with_a_prompt_are_recorded(pipe):
    x, text, empty = noise(1, *LATENT), noise(1, 40, 16, seed=1), noise(1, 40, 16, seed=2)
    alone, guided = Recorder([(2,)], (16, 16), spread=1), Recorder([(2,)], (16, 16), spread=1)
    with torch.no_grad():
        with recording(pipe.unet, alone):
            pipe.unet(x, 500, text)
        with recording(pipe.unet, guided):
            pipe.unet(torch.cat([x, x]), 500, torch.cat([empty, text]))
    torch.testing.assert_close(guided.maps, alone.maps, rtol=1e-4, atol=1e-5)


def test_spreading_is_a_walk_over_pixels():
    seen = Recorder([(0,)], (2, 2), spread=3)
    seen.add(torch.tensor([1.0, 0, 0, 0])[None, None, :, None])
    near = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    seen.add_near(near[None, None])
    walk = near / near.sum(dim=1, keepdim=True)
    want = torch.linalg.matrix_power(walk, 3)[:, 0].reshape(2, 2)
    torch.testing.assert_close(seen.maps[0], want)


def test_masks_of_known_maps():
    maps = torch.zeros(2, 16, 16)
    maps[0, 2:9, 3:10] = 1
    maps[0, 5, 6] = 0  # a hole
    maps[0, 12:15, 12:15] = 1  # another part, smaller
    maps[1, :, 8:] = 5.0
    one, half = mask(maps, 0.5, grow=0)
    assert one[3:8, 4:9].all()
    assert not one[11:].any()
    assert torch.equal(half, maps[1] > 0)
    assert mask(maps, 0.5, components=2, grow=0)[0, 13:15, 13:15].any()
    assert torch.equal(mask(maps, 0.5, grow=1)[1], (maps.roll(-1, dims=2)[1] + maps[1] > 0) & (torch.arange(16) < 16))
    with pytest.raises(DataError, match="NaN"):
        mask(torch.full((1, 4, 4), torch.nan), 0.3)


def test_words_are_found_where_they_stand(pipe):
    assert positions(pipe, "a happy robot facing left", "robot") == (3,)
    person = TextualInversion(Subject("robot"), vectors=2)
    start = person.init(pipe, 1, seed=0)
    with person.attached(pipe, start, torch.zeros(1, dtype=torch.long)):
        assert positions(pipe, "happy <me> the robot", "<me> the robot") == (2, 3, 4, 5)
    with pytest.raises(ConfigError, match="does not name"):
        positions(pipe, "a cat at night", "robot")


def test_edits_are_of_the_person_that_is_attached(pipe, photo):
    person = Lipe(Subject("robot"), rank=2)
    start = person.init(pipe, 1, seed=0)
    params = {name: value + generator(0, name).normal(scale=0.3, size=value.shape) for name, value in start.items()}
    params = {name: value.astype(np.float32) for name, value in params.items()}
    said, asked = ([person.subject.prompt(text) for text in texts] for texts in (SAID, ASKED * 2))
    made = []
    for gates in (None, dict.fromkeys(person.gates, 0.0)):
        with person.attached(pipe, params, torch.zeros(1, dtype=torch.long), gates):
            way = nima.invert(pipe, photo, said, person.subject.phrase, WALK).repeat(2)
            made.append(nima.paint(pipe, way, asked, person.subject.phrase, WALK))
    assert made[0].pixels.shape == (2, 64, 64, 3)
    torch.testing.assert_close(made[0].latents[0], made[0].latents[1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(made[0].latents, made[1].latents, atol=1e-2)


def test_pasting_gives_the_photo_outside(photo):
    edits, nowhere = 255 - photo, torch.zeros(1, 16, 16, dtype=torch.bool)
    assert np.array_equal(nima.pasted(edits, photo, nowhere, 3), photo)
    assert np.array_equal(nima.pasted(edits, photo, ~nowhere, 3), edits)
    nowhere[0, 4:8, 4:8] = True
    some = nima.pasted(edits, photo, nowhere, 3)
    assert np.array_equal(some[0, 16:32, 16:32], edits[0, 16:32, 16:32])
    assert np.array_equal(some[0, 36:], photo[0, 36:])


def test_an_edit_asks_the_photos_keys_and_values(pipe):
    mutual = masactrl.Mutual(1, None, masactrl.Config(start=0.0, first=0.0), steps=2)
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    x = noise(4, 16, layer.to_q.in_features)  # nothing and prompt, each photo and edit
    with torch.no_grad(), masactrl.looking(pipe.unet, mutual):
        have = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1(x)
    with torch.no_grad():
        want = torch.cat([layer(x[k : k + 1], encoder_hidden_states=x[k - k % 2 : k - k % 2 + 1]) for k in range(4)])
        torch.testing.assert_close(have, want)
        mutual.masks = torch.zeros(2, 16, 16, dtype=torch.bool)
        mutual.masks[:, :, 8:] = True
        with masactrl.looking(pipe.unet, mutual):
            split = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1(x)
        right = torch.arange(16).reshape(4, 4)[:, 2:].flatten()
        inside = layer(x[1:2], encoder_hidden_states=x[:1, right])
        torch.testing.assert_close(split[1:2, right], inside[:, right])


def test_masactrl_that_never_looks_is_plain(pipe, photo):
    way = nima.invert(pipe, photo, SAID, "robot", WALK)
    never = masactrl.paint(pipe, way, SAID, ASKED, "robot", WALK, masactrl.Config(start=1.0))
    plain = nima.paint(pipe, way, ASKED, "robot", replace(WALK, blend=False))
    torch.testing.assert_close(never.latents, plain.latents, rtol=1e-3, atol=1e-4)
    looks = masactrl.paint(pipe, way, SAID, ASKED, "robot", WALK, masactrl.Config(threshold=0.1, first=0.0))
    assert not torch.allclose(looks.latents, plain.latents, atol=1e-3)


def test_sdxl_is_edited_too(photo):
    pipe = tiny_xl()
    for kind in ("ddim", "edit_friendly"):
        walk = replace(WALK, steps=3, inversion=kind)
        way = nima.invert(pipe, photo, SAID, "robot", walk)
        edited = nima.paint(pipe, way, ASKED, "robot", walk)
        assert torch.isfinite(edited.latents).all()
        nothing = nima.paint(pipe, everywhere(way, False), ASKED, "robot", replace(walk, threshold_target=1.0))
        assert torch.equal(nothing.latents, way.path[0])


class _Loud(nn.Module):
    def __init__(self, original):
        super().__init__()
        self.original = original

    def forward(self, x):
        return 40 * self.original(x)


def test_what_cannot_be_edited_is_said(pipe, photo):
    way = nima.invert(pipe, photo, SAID, "robot", WALK)
    with attached(pipe.unet, {"conv_out": _Loud}), pytest.raises(DataError, match="inversion diverged"):
        nima.invert(pipe, photo, SAID, "robot", WALK)
    with pytest.raises(MismatchError, match="give one for each"):
        nima.invert(pipe, photo, SAID * 2, "robot", WALK)
    with pytest.raises(MismatchError, match="at least 32"):
        nima.invert(pipe, photo[:, :16, :16], SAID, "robot", WALK)
    with pytest.raises(ConfigError, match="does not name"):
        nima.paint(pipe, way, ["a cat"], "robot", WALK)
    with pytest.raises(MismatchError, match="repeat the photos"):
        nima.paint(pipe, way, ASKED * 2, "robot", WALK)
    with pytest.raises(ConfigError, match="give them"):
        nima.paint(pipe, way, ASKED, "robot", replace(WALK, feather=2))
    with pytest.raises(MismatchError, match="latents for 3 steps"):
        nima.Nima(way.path, way.mask, [3, 2, 1], WALK)
    with pytest.raises(ConfigError, match="above"):
        replace(WALK, low=900, high=100)
    with pytest.raises(ConfigError, match="nothing was recorded"), recording(pipe.unet, Recorder([(1,)], (16, 16))):
        pass
    kept = nima.invert(pipe, photo, SAID, "robot", replace(WALK, inversion="edit_friendly"))
    with pytest.raises(ConfigError, match="DDIM's way"):
        masactrl.paint(pipe, kept, SAID, ASKED, "robot", WALK)
    assert isinstance(pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2, Attention)
