"""The embedded text-to-image model: what is shipped, how it reads, and that its training can be stopped anywhere."""

import re

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from bayes_persona import ConfigError
from bayes_persona.diffusion import generate, pipelines
from bayes_persona.world import base_model, base_scores, captions, oracles, train_base


@pytest.fixture(scope="module")
def pipe():
    return pipelines.load()


def test_plain_diffusers_loads_it(pipe, recwarn):
    plain = StableDiffusionPipeline.from_pretrained(pipelines.embedded())
    assert pipelines.fingerprint(plain) == pipelines.fingerprint(pipe)


def test_it_is_small():
    assert sum(file.stat().st_size for file in pipelines.embedded().rglob("*") if file.is_file()) < 25e6


def test_its_card_says_how_it_was_made():
    card = (pipelines.embedded() / "README.md").read_text()
    assert re.search(r"--seed \d", card)
    assert "$" not in card


def test_its_scheduler_does_not_clip(pipe):
    """Clipping what guidance overshoots turned colours into their complements."""
    assert pipe.scheduler.config.clip_sample is False
    assert float(pipe.scheduler.alphas_cumprod[-1]) < 1e-8


def test_a_red_caption_gives_red(pipe):
    prompts = [f"a man looking calm wearing {colour} facing front in a room" for colour in ("red", "blue", "green")]
    pixels = generate.sample(pipe, prompts, generate.noise(pipe, 3, seed=0))
    clothes = pixels[:, 56:, 24:40].reshape(3, -1, 3).mean(axis=1)
    assert clothes.argmax(axis=1).tolist() == [0, 2, 1]


def test_it_follows_captions(pipe):
    prompts = [example.caption for example in base_scores.asked("one", 8, seed=1)]
    verdict = oracles.judge(generate.sample(pipe, prompts, generate.noise(pipe, 8, seed=1)), prompts)
    assert np.nanmean(verdict["background"]) >= 7 / 8
    assert np.nanmean(verdict["superclass"]) >= 6 / 8


def test_every_word_is_one_token_and_others_fall_into_letters():
    words = base_model.tokenizer(base_model.Config())
    assert all(len(words(word).input_ids) == 3 for word in captions.vocabulary())
    assert len(words("zebra").input_ids) > 3
    assert words("A RED cat").input_ids == words("a red cat").input_ids
    assert len(set(words.get_vocab().values())) == len(words)


def test_tokens_do_not_depend_on_the_process():
    """Letters come first, in order: what a saved model was trained on is what the next process reads."""
    words = base_model.tokenizer(base_model.Config())
    found = words.get_vocab()
    letters = [token for token in found if len(token) == 1]
    assert sorted(letters, key=found.get) == sorted(letters)
    assert words("a cat").input_ids == pipelines.load().tokenizer("a cat").input_ids


def test_training_that_was_stopped_goes_on_to_the_same_model(tmp_path, monkeypatch):
    def config(name):
        return train_base.Config(
            tmp_path / name,
            pictures=6,
            autoencoder_steps=2,
            reader_steps=2,
            reader_batch=2,
            steps=2,
            cooldown=2,
            batch=2,
            threads=torch.get_num_threads(),
        )

    straight = train_base.fit(config("straight"))
    step, calls = train_base.train.AdamW.step, iter(range(7))

    def dies(self, *args):
        next(calls)  # StopIteration in the cool-down
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(train_base.train.AdamW, "step", dies)
        with pytest.raises(StopIteration):
            train_base.fit(config("stopped"))
    resumed = train_base.fit(config("stopped"))
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        a, b = ((place / f"{part}.safetensors").read_bytes() for place in (straight, resumed))
        assert a == b, part


@pytest.mark.parametrize("name", ["pictures", "reader_steps", "steps", "cooldown", "batch", "rate", "judged"])
def test_training_for_nothing_is_refused(name):
    zero = 0.0 if name == "rate" else 0
    with pytest.raises(ConfigError, match=name):
        train_base.Config(**{name: zero})


def test_training_without_captions_is_refused():
    with pytest.raises(ConfigError, match="drop"):
        train_base.Config(drop=1.0)
