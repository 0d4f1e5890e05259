"""The verdict: members that agree are sure, situations where they part are wanted, and strangers are found."""

import numpy as np
import pytest

from bayes_persona import DataError
from bayes_persona.diffusion import generate
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.persona import verdict
from bayes_persona.persona.scorers import Oracle
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import generator
from bayes_persona.world import splits
from tests.diffusion.tiny import tiny

WORDS = TextualInversion(Subject("robot"))
QUICK = generate.Config(steps=2)
PHOTOS = np.full((2, 64, 64, 3), 200, np.uint8)


@pytest.fixture(scope="module")
def pipe():
    return tiny()


def posterior(spread):
    draws = generator(0, "members").normal(size=(3, 2, 16))
    return Posterior(tuple({"embedding": (draws[0] + spread * draw).astype(np.float32)} for draw in draws))


def colours(pixels):
    """A reader that sees no more than the mean colours of four quarters."""
    return (pixels / 255).reshape(len(pixels), 2, 32, 2, 32, 3).mean(axis=(2, 4)).reshape(len(pixels), -1)


def judged(pipe, spread, photos=PHOTOS, **settings):
    plain = {"reader": colours, "config": QUICK, "sure": 1e-6}
    return verdict.judge(pipe, WORDS, posterior(spread), photos, verdict.SITUATIONS, **{**plain, **settings})


def test_members_that_are_one_are_sure_and_others_are_not(pipe):
    same, apart = judged(pipe, 0.0), judged(pipe, 3.0)
    assert same.dispersion == pytest.approx(0, abs=1e-9)
    assert same.confident
    assert same.text.startswith("confident")
    assert apart.dispersion > 1e-6
    assert not apart.confident
    assert list(apart.situations) == list(verdict.SITUATIONS)
    assert apart.dispersion == pytest.approx(np.mean(list(apart.situations.values())))
    assert f"a photo of {max(apart.situations, key=apart.situations.get)} would help most" in apart.text


def test_the_same_seed_says_the_same(pipe):
    assert judged(pipe, 1.0, seed=4) == judged(pipe, 1.0, seed=4) != judged(pipe, 1.0, seed=5)


def test_dispersion_is_the_mean_over_pairs_and_noises():
    vectors = generator(1, "vectors").normal(size=(4, 3, 6))
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    pairs = [1 - unit[k, s] @ unit[j, s] for s in range(3) for k in range(4) for j in range(4) if k != j]
    assert verdict.dispersion(vectors) == pytest.approx(np.mean(pairs))


def test_photos_of_two_people_are_found_out():
    me, other = splits.held_out(9, seed=0)[0], splits.held_out(9, seed=0)[8]
    mine = [photo.render().pixels for photo in splits.photos(me, 3, seed=0)]
    theirs = [photo.render().pixels for photo in splits.photos(other, 1, seed=1)]
    read = Oracle().vectors(np.stack([*mine, *theirs]))
    assert me.superclass == other.superclass
    assert verdict.strangers(read[:3]) == ()
    assert verdict.strangers(read) == (3,)
    mixed = verdict.Verdict(True, 0.0, {"a look": 0.0}, (3,))
    assert "photo 4 seems to show somebody else" in mixed.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reader": lambda pixels: np.full((len(pixels), 2), np.nan)}, "reader: expected a vector of finite numbers"),
        ({"reader": lambda pixels: np.zeros((1, 2))}, r"for each of 6 pictures, got \(1, 2\)"),
    ],
)
def test_a_reader_that_cannot_read_is_refused(pipe, settings, message):
    with pytest.raises(DataError, match=message):
        judged(pipe, 1.0, **settings)


def test_no_situation_is_refused(pipe):
    with pytest.raises(DataError, match="situations: expected at least one"):
        verdict.judge(pipe, WORDS, posterior(1.0), PHOTOS, {}, reader=colours)
