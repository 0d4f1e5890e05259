import numpy as np
import pytest
import torch

from bayes_persona.diffusion import generate
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.textual_inversion import EMBEDDING, TextualInversion
from bayes_persona.errors import DataError
from bayes_persona.persona import uncertainty
from bayes_persona.posterior import Posterior
from tests.diffusion.tiny import tiny

ADAPTER = TextualInversion(Subject("cat"))
QUICK = generate.Config(steps=3)


@pytest.fixture(scope="module")
def pipe():
    return tiny()


def members(pipe, *scales):
    start = ADAPTER.init(pipe, 1, seed=0)[EMBEDDING][0]
    return Posterior(tuple({EMBEDDING: start * np.float32(scale)} for scale in scales))


def test_variance_is_what_members_disagree_on_plus_what_noise_leaves_open():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8, 3), np.uint8)
    maps = uncertainty.maps(pixels)
    assert np.allclose(maps.epistemic + maps.aleatoric, maps.total)
    assert np.allclose(maps.total, (pixels / 255).reshape(15, 8, 8, 3).var(axis=0).mean(axis=-1))


def test_one_member_cannot_disagree():
    with pytest.raises(DataError, match="one member"):
        uncertainty.maps(np.zeros((1, 2, 4, 4, 3), np.uint8))


def test_equal_members_agree_everywhere_and_their_average_is_each_of_them(pipe):
    posterior, start = members(pipe, 1, 1, 1), generate.noise(pipe, 2, seed=0)
    pixels = uncertainty.pictures(pipe, ADAPTER, posterior, "a cat", start, QUICK)
    assert pixels.shape == (3, 2, 64, 64, 3)
    assert uncertainty.maps(pixels).epistemic.max() < 1e-4
    averaged = uncertainty.averaged(pipe, ADAPTER, posterior, ["a cat", "a cat"], start, QUICK)
    assert np.abs(averaged.astype(int) - pixels[0].astype(int)).max() <= 1


def test_a_members_pictures_are_those_that_it_makes_alone(pipe):
    posterior, start = members(pipe, 1, 60), generate.noise(pipe, 2, seed=0)
    together = uncertainty.pictures(pipe, ADAPTER, posterior, "{subject} at night", start, QUICK)
    alone = uncertainty.pictures(pipe, ADAPTER, Posterior((posterior[1],)), "{subject} at night", start, QUICK)
    assert np.abs(together[1].astype(int) - alone[0].astype(int)).max() <= 1
    assert not np.array_equal(together[0], together[1])


def test_pictures_leave_the_pipeline_as_it_was(pipe):
    before, words = pipe.text_encoder.get_input_embeddings(), pipe.tokenizer
    uncertainty.pictures(pipe, ADAPTER, members(pipe, 1), "a cat", torch.zeros(1, 8, 16, 16), QUICK)
    assert pipe.text_encoder.get_input_embeddings() is before
    assert pipe.tokenizer is words
