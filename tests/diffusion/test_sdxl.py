"""SDXL: two text encoders, a summary of the text, sizes of the picture; every adapter and the sampler work on it."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from bayes_persona import MismatchError
from bayes_persona.diffusion import degrade, pipelines, words
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.celeb_basis.basis import build
from bayes_persona.diffusion.adapters.celeb_basis.method import CelebBasis
from bayes_persona.diffusion.adapters.dual_pivot.method import DualPivot
from bayes_persona.diffusion.adapters.lipe.method import Lipe
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.contract import check
from bayes_persona.diffusion.generate import Config, noise, sample
from bayes_persona.diffusion.latents import encode
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.diffusion.restoration import guide as guides
from bayes_persona.diffusion.restoration.guide import Guide
from bayes_persona.diffusion.restoration.restore import Config as Sampling
from bayes_persona.diffusion.restoration.restore import restore
from bayes_persona.diffusion.text import Hidden, added, encoders
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.seeds import generator
from tests.diffusion.test_restoration import moved
from tests.diffusion.tiny import tiny, tiny_xl

PROMPTS = ["a red robot in the snow", "a happy cat"]
ROBOT = Subject("robot")
NAMES = ["ada finch", "clara vale", "ada moss", "otto vale"]


@pytest.fixture(scope="module")
def pipe():
    return tiny_xl()


METHODS = [TextualInversion(ROBOT), LowRank(ROBOT, rank=2), Perfusion(ROBOT), Lipe(ROBOT, rank=2)]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_adapters_keep_their_promises(pipe, method):
    assert check(method, pipe) is None


def test_one_basis_spans_both_text_encoders(pipe):
    basis = build(encoders(pipe), pipe.tokenizer, NAMES)
    assert basis.positions[0].mean.shape == (16 + 24,)
    assert check(CelebBasis(ROBOT, basis), pipe) is None
    with pytest.raises(MismatchError, match="width 40, not 16"):
        CelebBasis(ROBOT, basis).init(tiny(), 1, seed=0)


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, ""), (2.5, ""), (2.5, "a dog")])
def test_it_is_the_pipelines_own_sampler(pipe, guidance, negative):
    start, seen = noise(pipe, 2, seed=3), []
    said = {"negative_prompt": [negative] * 2} if negative else {}
    want = pipe(PROMPTS, num_inference_steps=3, guidance_scale=guidance, latents=start.clone(), output_type="latent",
                **said).images  # fmt: skip
    sample(
        pipe, PROMPTS, start, Config(3, guidance, negative), on_step=lambda _, latents: seen.append(latents) or latents
    )
    torch.testing.assert_close(seen[-1], want)


def test_a_word_is_of_both_text_encoders(pipe):
    vectors = torch.from_numpy(generator(0, "word").normal(size=(1, 1, 40)).astype(np.float32))
    with words.taught(pipe, ["<me>"], vectors, torch.tensor([0])):
        ids = {
            name: getattr(pipe, name)("<me>", add_special_tokens=False).input_ids
            for name in ("tokenizer", "tokenizer_2")
        }
        found = [net.get_input_embeddings()(torch.tensor([ids["tokenizer"]]))[0, 0] for net in encoders(pipe)]
    assert ids["tokenizer"] == ids["tokenizer_2"] == [len(pipe.tokenizer)]
    assert torch.equal(torch.cat(found), vectors[0, 0])
    with pytest.raises(MismatchError, match=r"expected \(1, 40\) a member, got \(1, 16\)"):
        words.taught(pipe, ["<me>"], vectors[..., :16], torch.tensor([0])).__enter__()


def test_bad_photos_are_restored_by_a_guide_that_reads_neither_prompt_nor_summary(pipe, tmp_path):
    guide = moved(Guide.of(pipe))
    method = DualPivot(ROBOT, guide, rank=2, damage=degrade.Config(size=7))
    assert check(method, pipe) is None
    photos, start = generator(0, "photos").integers(0, 256, (2, 64, 64, 3), np.uint8), noise(pipe, 2, seed=1)
    one, other = (
        guide(start, 500, text.states, encode(pipe, photos), added_cond_kwargs=added(pipe, text)["added_cond_kwargs"],
              return_dict=False)
        for text in (Hidden(torch.full((2, 40, 40), x), torch.full((2, 12), x)) for x in (0.0, 1.0))
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip((*one[0], one[1]), (*other[0], other[1]), strict=True))
    guides.save(tmp_path, guide, base=pipelines.fingerprint(pipe))
    assert guides.load(pipe, tmp_path).fingerprint == guide.fingerprint
    made = restore(pipe, guide, photos, PROMPTS, Sampling(steps=2, guidance=2.0))
    assert made.shape == photos.shape
    assert not np.array_equal(made, restore(pipe, guide, photos, PROMPTS, Sampling(steps=2, guidance=2.0, scale=0.0)))


def test_a_guide_fits_full_size():
    shape = {"block_out_channels": (320, 640, 1280), "attention_head_dim": [5, 10, 20]}
    down, up = ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2), (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D")
    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    told |= {"projection_class_embeddings_input_dim": 2816, "transformer_layers_per_block": [1, 2, 10]}
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=128, cross_attention_dim=2048, down_block_types=down,
                                    up_block_types=up, use_linear_projection=True, **shape, **told)  # fmt: skip
        x, text, summary = torch.empty(2, 4, 128, 128), torch.empty(1, 77, 2048), torch.empty(1, 1280)
        guide = Guide.around(unet, text, summary)
        more = {"text_embeds": torch.empty(2, 1280), "time_ids": torch.empty(2, 6)}
        skips, mid = guide(x, 500, text, x, added_cond_kwargs=more, return_dict=False)
        guess = unet(x, 500, text.expand(2, -1, -1), added_cond_kwargs=more, mid_block_additional_residual=mid,
                     down_block_additional_residuals=tuple(skips)).sample  # fmt: skip
    assert guess.shape == x.shape
    assert len(skips) == 9
    change = LowRank(ROBOT, rank=1)
    # four projections of two attentions a block: 70 blocks in the U-Net, 34 on its way in and in the middle
    assert [len(change._layers(net)) for net in (unet, guide)] == [560, 272]


def test_a_folder_is_loaded_as_what_it_is(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "xl")
    back = pipelines.load(tmp_path / "xl")
    assert type(back) is type(pipe)
    assert pipelines.fingerprint(back) == pipelines.fingerprint(pipe)
    assert not any(value.requires_grad for value in back.text_encoder_2.parameters())
    assert torch.equal(
        *(torch.from_numpy(sample(one, PROMPTS, noise(one, 2, seed=0), Config(steps=2))) for one in (pipe, back))
    )


def test_it_is_personalized_like_any_other(pipe):
    black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot at night",))
    before = pipelines.fingerprint(pipe)
    posterior = personalize(
        pipe, TextualInversion(ROBOT), black, Draw(particles=2, steps=2, rows=1, alpha=2.0, pseudo=1)
    )
    assert posterior[0]["embedding"].shape == (2, 40)
    assert not np.array_equal(posterior[0]["embedding"], posterior[1]["embedding"])
    assert pipelines.fingerprint(pipe) == before
