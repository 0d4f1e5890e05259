"""LIPE's first stage: attention learns a person beside anyone, low-rank or whole, on SD and SDXL."""

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch

from bayes_persona import ConfigError, DataError, MismatchError
from bayes_persona.diffusion import adapter, generate
from bayes_persona.diffusion.adapter import Batch, Subject, denoising_loss
from bayes_persona.diffusion.adapters.lipe import captions
from bayes_persona.diffusion.adapters.lipe.attention import Recorder, recording
from bayes_persona.diffusion.adapters.lipe.method import Lipe
from bayes_persona.diffusion.adapters.lipe.others import Others, made
from bayes_persona.diffusion.contract import check
from bayes_persona.diffusion.text import tokens
from bayes_persona.persona.captioner import World, grid
from bayes_persona.persona.posterior import Config, Shown, personalize
from bayes_persona.seeds import generator
from bayes_persona.world import splits
from bayes_persona.world.captions import parse
from tests.diffusion.tiny import LATENT, noise, snapshot, tiny, tiny_xl, untouched

ROBOT = Subject("robot")
QUICK = generate.Config(steps=2)


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(autouse=True)
def _left_as_it_was(pipe):
    before = snapshot(pipe.unet)
    yield
    assert untouched(pipe.unet, before)


@pytest.fixture(scope="module")
def others(pipe):
    pixels = generator(0, "others").integers(0, 256, (5, 64, 64, 3), np.uint8)
    return Others(pipe, pixels, [f"a robot facing {way}" for way in ("left", "front", "right", "left", "front")])


def moved(params):
    steps = {name: generator(0, "moved", name).normal(scale=0.3, size=array.shape) for name, array in params.items()}
    return {name: (array + steps[name]).astype(np.float32) for name, array in params.items()}


def tensors(params):
    return {name: torch.tensor(value) for name, value in params.items()}


def batch(pipe, rows=2, caption="< m e > the robot facing left"):
    ids = torch.tensor([tokens(pipe, caption)] * rows)
    times = torch.arange(1, rows + 1) * 200
    return Batch(noise(rows, *LATENT), noise(rows, *LATENT, seed=1), times, ids, torch.arange(rows), torch.ones(rows))


@pytest.mark.parametrize("rank", [2, None])
def test_it_keeps_the_promises_of_an_adapter(pipe, others, rank):
    assert check(Lipe(ROBOT, others if rank else None, rank=rank), pipe) is None


def test_the_loss_is_the_photos_and_lambda_times_anyones(pipe, others):
    method = Lipe(ROBOT, others, weight=0.7, rank=2)
    params, rows = tensors(moved(method.init(pipe, 2, seed=0))), batch(pipe)
    with method.attached(pipe, params, rows.member):
        own = denoising_loss(pipe, rows)
        beside = others.beside(rows)
        assert torch.equal(beside.noise[2:], rows.noise)
        assert torch.equal(beside.time[2:], rows.time)
        anyone = denoising_loss(pipe, Batch(*[None if part is None else part[2:] for part in beside]))
    torch.testing.assert_close(method.loss(pipe, params, rows), own + 0.7 * anyone)
    torch.testing.assert_close(replace(method, weight=0.0).loss(pipe, params, rows), own)
    torch.testing.assert_close(replace(method, others=None).loss(pipe, params, rows), own)


def test_masks_are_of_photos_and_not_of_anyone(pipe, others):
    rows = batch(pipe)._replace(mask=torch.zeros(2, 16, 16))
    beside = others.beside(rows)
    assert beside.mask[:2].sum() == 0
    assert (beside.mask[2:] == 1).all()


def test_who_is_beside_a_row_depends_on_its_noise_alone(pipe, others):
    rows = batch(pipe, rows=6)
    forth, back = others.beside(rows), others.beside(Batch(*[None if part is None else part.flip(0) for part in rows]))
    assert torch.equal(forth.latents[6:], back.latents[6:].flip(0))
    assert len({row.sum().item() for row in forth.latents[6:]}) > 1


def test_captions_reach_the_loss(pipe, others):
    method = Lipe(ROBOT, others, rank=2)
    params = tensors(moved(method.init(pipe, 2, seed=0)))
    said, silent = (method.loss(pipe, params, batch(pipe, caption=text)) for text in ("a robot facing left", "a robot"))
    assert not torch.allclose(said, silent)


def test_a_person_of_full_rank_is_one_of_low_rank_multiplied_out(pipe):
    low, full = Lipe(ROBOT, rank=3, scale=0.5), Lipe(ROBOT, rank=None, scale=0.5)
    params = moved(low.init(pipe, 2, seed=0))
    places = {name.rpartition(".")[0] for name in params}
    out = {f"{name}.change": params[f"{name}.up"] @ params[f"{name}.down"] for name in places}
    assert {name: value.shape for name, value in out.items()} == {
        name: value.shape for name, value in full.init(pipe, 2, seed=0).items()
    }
    rows = batch(pipe)
    torch.testing.assert_close(low.loss(pipe, tensors(params), rows), full.loss(pipe, tensors(out), rows))


def test_only_attention_is_learned_and_the_start_is_the_base(pipe):
    rows = batch(pipe)
    for method in (Lipe(ROBOT, rank=2), Lipe(ROBOT, rank=None)):
        start = method.init(pipe, 2, seed=0)
        assert all(".attn1.to_" in name or ".attn2.to_" in name for name in start)
        torch.testing.assert_close(method.loss(pipe, tensors(start), rows), denoising_loss(pipe, rows))


def test_members_do_not_meet_and_a_file_gives_them_back(pipe, others, tmp_path):
    photos = Shown(generator(1, "photos").integers(0, 256, (2, 64, 64, 3), np.uint8), ("a robot at night", "a robot"))
    draw, method = Config(particles=2, steps=2, rows=1, alpha=0.0), Lipe(ROBOT, others, rank=2)
    first = personalize(pipe, method, photos, draw, seed=4, folder=tmp_path / "run")
    alone = personalize(pipe, method, photos, replace(draw, particles=1), seed=4)
    assert personalize(pipe, method, photos, draw, seed=4, folder=tmp_path / "run")[1].keys() == first[1].keys()
    for name, value in alone[0].items():
        np.testing.assert_allclose(first[0][name], value, rtol=1e-3, atol=1e-4)
    adapter.save(tmp_path / "me.safetensors", method, first, base="a")
    back, about = adapter.load(tmp_path / "me.safetensors")
    assert about["settings"]["others"] == others.fingerprint
    assert all(np.array_equal(back[1][name], value) for name, value in first[1].items())


def test_pictures_of_anyone_are_made_once(pipe, tmp_path):
    prompts = ["a happy robot", "a robot facing left", "a cat at night"]
    first = made(pipe, prompts, tmp_path, QUICK)
    (tmp_path / "0001.png").unlink()
    assert made(pipe, prompts, tmp_path, QUICK).fingerprint == first.fingerprint
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == ["0000.png", "0001.png", "0002.png"]
    with pytest.raises(MismatchError, match="another model, other prompts or another seed"):
        made(pipe, prompts[:2], tmp_path, QUICK)
    with pytest.raises(DataError, match="expected as many"):
        Others(pipe, np.zeros((0, 64, 64, 3), np.uint8), [])


def test_sdxl_learns_too():
    pipe = tiny_xl()
    pixels = generator(0, "photo").integers(0, 256, (2, 64, 64, 3), np.uint8)
    others = Others(pipe, pixels, ["a robot facing left", "a robot"])
    method = Lipe(ROBOT, others, rank=2)
    params = {name: value.requires_grad_() for name, value in tensors(moved(method.init(pipe, 2, seed=0))).items()}
    loss = method.loss(pipe, params, batch(pipe))
    grads = torch.autograd.grad(loss.sum(), list(params.values()))
    assert all(bool(grad.abs().sum() > 0) for grad in grads)


STRUCTURES = {
    "sd15": (
        {"sample_size": 64, "cross_attention_dim": 768},
        (16, 93_500_000, {1024, 256, 64}),
    ),
    "sdxl": (
        {
            "sample_size": 128,
            "cross_attention_dim": 2048,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        (70, 955_400_000, {1024}),
    ),
}


@pytest.mark.parametrize("kind", STRUCTURES)
def test_real_models_have_these_places(kind, pipe):
    """On the meta device: as many attention layers and numbers as the paper's base has, all recorded."""
    config, (layers, numbers, near) = STRUCTURES[kind]
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**config)
        x = torch.zeros(2, 4, config["sample_size"], config["sample_size"])
        text = torch.zeros(2, 77, config["cross_attention_dim"])
        more = {"text_embeds": torch.zeros(2, 1280), "time_ids": torch.zeros(2, 6)} if kind == "sdxl" else None
    parts = {"vae": None, "text_encoder": None, "tokenizer": pipe.tokenizer, "unet": unet, "scheduler": pipe.scheduler}
    if kind == "sdxl":
        whole = diffusers.StableDiffusionXLPipeline(**parts, text_encoder_2=None, tokenizer_2=None)
    else:
        rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        whole = diffusers.StableDiffusionPipeline(**parts, **rest)
    places = {name for name, part in unet.named_modules() if name.endswith(("attn1", "attn2"))}
    assert len(places) == 2 * layers
    weights = [value for name, value in unet.named_parameters() if ".attn1." in name or ".attn2." in name]
    assert sum(value.numel() for value in weights) == pytest.approx(numbers, rel=1e-3)
    method = Lipe(ROBOT, rank=1)
    start = {name: value.to("meta") for name, value in tensors(method.init(whole, 1, seed=0)).items()}
    assert len(start) == 2 * 4 * 2 * layers
    seen = Recorder([(1, 2)], (config["sample_size"], config["sample_size"]), spread=1)
    with method.attached(whole, start, torch.zeros(1, dtype=torch.long)), recording(unet, seen):
        unet(x, torch.zeros(2, device="meta"), text, added_cond_kwargs=more)
    assert seen.count == layers
    assert set(seen.near) == near


def test_the_worlds_captioner_says_what_a_photo_shows():
    photos = splits.photos(splits.held_out(4, seed=2)[3], 3, seed=0)
    said = World()(np.stack([one.render().pixels for one in photos]), "robot")
    agree = [parse(mine).allows(parse(one.caption)) for mine, one in zip(said, photos, strict=True)]
    assert sum(agree) >= 2
    assert isinstance(World(), captions.Captioner)


def test_grids_say_every_pose_with_every_mood():
    told = [parse(text) for text in grid("cat", 120)]
    pairs = {(one.subjects[0].pose, one.subjects[0].expression, one.background) for one in told}
    assert len(pairs) == 120
    assert grid("cat", 5) == grid("cat", 9)[:5]
    assert len(set(captions.grid("dog", 10_000))) == len(captions.VIEWS) * len(captions.MOODS) * len(captions.SCENES)


def test_what_cannot_be_is_refused(pipe, tmp_path):
    with pytest.raises(ConfigError, match="weight"):
        Lipe(ROBOT, weight=-1.0)
    with pytest.raises(ConfigError, match="rank"):
        Lipe(ROBOT, rank=0)
    low = Lipe(ROBOT, rank=2).init(pipe, 1, seed=0)
    with (
        pytest.raises(MismatchError, match="without rank"),
        Lipe(ROBOT, rank=None).attached(pipe, low, torch.tensor([0])),
    ):
        pass
    (tmp_path / "prompts.json").write_text("{}")
    with pytest.raises(DataError, match="a list of prompts"):
        captions.read(tmp_path / "prompts.json")
