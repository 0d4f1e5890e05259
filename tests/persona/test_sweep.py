"""The sweep over gates: what it judges, what it draws, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, ViTImageProcessor

from bayes_persona import ConfigError, DataError, RunError
from bayes_persona.diffusion import adapter, pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.persona.scorers import Clip, Oracle
from bayes_persona.persona.sweep import Point, pareto, run
from bayes_persona.persona.sweep_config import Config
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import generator
from bayes_persona.world import base_model, splits
from tests.diffusion.tiny import SIZES

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(generator(0, "photo").integers(0, 256, (64, 64, 3), np.uint8)).save(folder / "0.png")
    return folder


@pytest.fixture(scope="module")
def learned(base, tmp_path_factory):
    pipe, method = pipelines.load(base), Perfusion(Subject("robot"))
    start = {name: value[0] for name, value in method.init(pipe, 1, seed=0).items()}
    path = tmp_path_factory.mktemp("learned") / "me.safetensors"
    adapter.save(path, method, Posterior((start,)), base=pipelines.fingerprint(pipe))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """CLIP with random weights and the tiny model's words."""
    words = base_model.tokenizer(SIZES)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = CLIPConfig(
        text_config={**sizes, **ids, "vocab_size": len(words), "max_position_embeddings": 40},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = CLIPModel(config)
    folder = tmp_path_factory.mktemp("clip")
    net.save_pretrained(folder)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    CLIPProcessor(processor, words).save_pretrained(folder)
    return folder


def test_every_gate_is_judged_and_drawn(base, photos, learned, clip, tmp_path):
    config = Config(
        learned, photos, ("a robot at night",), (0.3, 0.7), (0.1, 0.2), tmp_path, base=base, clip=clip, pictures=1
    )
    points = run(config, QUIET)
    assert [(point.beta, point.tau) for point in points] == [(0.3, 0.1), (0.7, 0.1), (0.3, 0.2), (0.7, 0.2)]
    assert len({point.identity for point in points}) == 4
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["points"] == [point._asdict() for point in points]
    for name in ("pareto.png", "pictures.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100
    assert run(config, QUIET) == points


def test_the_front_is_what_nothing_beats():
    points = [Point(k, 0.1, *generator(k, "point").random(2).round(1).tolist()) for k in range(40)]
    want = [
        one
        for one in points
        if not any(
            (other.identity > one.identity and other.prompt >= one.prompt)
            or (other.identity >= one.identity and other.prompt > one.prompt)
            for other in points
        )
    ]
    assert pareto(points) == want


def test_the_oracles_know_somebody_again_and_what_was_asked():
    me, other = splits.held_out(6, seed=0)[1::4]
    mine, theirs = (splits.photos(who, 3, seed=1) for who in (me, other))
    photos = np.stack([one.render().pixels for one in splits.photos(me, 2, seed=2)])
    scores = Oracle()(
        np.stack([one.render().pixels for one in (*mine, *theirs)]), [one.caption for one in (*mine, *theirs)], photos
    )
    assert scores.identity[:3].min() > scores.identity[3:].max()
    assert scores.prompt.mean() > 0.9


def test_clip_compares_with_photos_and_with_words(clip):
    pixels = generator(0, "pixels").integers(0, 256, (3, 64, 64, 3), np.uint8)
    seen = Clip(clip).vectors(pixels)
    unit = seen / np.linalg.norm(seen, axis=1, keepdims=True)
    scores = Clip(clip)(pixels, ["a robot", "a cat", "a robot"], pixels[:1])
    assert scores.identity[0] == pytest.approx(1.0)
    assert (scores.identity[1:] < 1).all()
    np.testing.assert_allclose(unit @ unit[0], scores.identity, atol=1e-6)
    np.testing.assert_allclose(
        Clip(clip)(pixels[1:], ["a cat", "a robot"], pixels[:1]).prompt, scores.prompt[1:], atol=1e-6
    )


def test_what_cannot_be_swept_is_said(base, photos, learned, clip, tmp_path):
    with pytest.raises(ConfigError, match="clip: pictures of this model need a judge"):
        run(Config(learned, photos, base=base, out=tmp_path), QUIET)
    with pytest.raises(DataError, match="has no member 3"):
        run(Config(learned, photos, base=base, clip=clip, out=tmp_path, member=3), QUIET)
    with pytest.raises(ConfigError, match="at least one of each"):
        Config(learned, photos, betas=())
    with pytest.raises(RunError, match="cannot be loaded"):
        Clip(photos)
    pipe, words = pipelines.load(base), TextualInversion(Subject("robot"))
    start = {name: value[0] for name, value in words.init(pipe, 1, seed=0).items()}
    adapter.save(tmp_path / "ti.safetensors", words, Posterior((start,)), base=pipelines.fingerprint(pipe))
    with pytest.raises(DataError, match="no gate to turn"):
        run(Config(tmp_path / "ti.safetensors", photos, base=base, clip=clip, out=tmp_path), QUIET)
