"""References on a loss whose posterior is known: a square, plus the noise of rows where that matters."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.textual_inversion import EMBEDDING, TextualInversion
from bayes_persona.persona.base_measure import Shown
from bayes_persona.persona.bootstrap import Config
from bayes_persona.persona.references.ensemble import ensemble
from bayes_persona.persona.references.laplace import laplace
from bayes_persona.persona.references.mode import Likelihood, Mode
from bayes_persona.persona.references.nuts import nuts
from bayes_persona.persona.references.variational import variational
from tests.diffusion.tiny import tiny

BEST = 0.3
CONFIG = Config(particles=40, steps=60, rows=2, rate=0.05)
SAYS = Likelihood(worth=40.0, steps=300, rate=0.05, depth=4)


@dataclass(frozen=True)
class Square(TextualInversion):
    """Textual inversion whose loss is how far the embedding is from `BEST`, in a place that rows may shift."""

    noisy: float = 0.0

    def loss(self, pipe, params, batch):
        shift = self.noisy * batch.noise[:, 0, 0, :2].sum(dim=1)[:, None, None]
        return (params[EMBEDDING][batch.member] - BEST - shift).square().mean(dim=(1, 2)) + 1


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(scope="module")
def photos():
    return Shown(np.zeros((3, 64, 64, 3), np.uint8), ("{subject}",) * 3)


def exact(at: Mode):
    """The posterior of a square loss is normal, and every number has its own."""
    size = at.found[EMBEDDING].size
    said, before = at.likelihood.worth * at.count / (at.loss * size), at.width[EMBEDDING] ** -2
    return (said * BEST + before * at.start[EMBEDDING]) / (said + before), (said + before) ** -0.5


@pytest.mark.parametrize(("method", "steps"), [(variational, 250), (nuts, 80)])
def test_what_pyro_finds_is_the_posterior(pipe, photos, method, steps):
    adapter = Square(Subject("robot"))
    mean, sd = exact(Mode(pipe, adapter, photos, CONFIG, SAYS, seed=1))
    draws = method(pipe, adapter, photos, CONFIG, replace(SAYS, steps=steps), seed=1).stacked()[EMBEDDING]
    assert abs((draws.mean(axis=0) - mean).mean()) < 0.1 * sd
    assert np.allclose(np.sqrt(((draws - mean) ** 2).mean()), sd, rtol=0.15)


def test_laplace_is_as_wide_as_the_prior_and_the_squares_of_gradients_say(pipe, photos):
    adapter = Square(Subject("robot"), noisy=0.5)
    at = Mode(pipe, adapter, photos, CONFIG, SAYS, seed=1)
    draws = laplace(pipe, adapter, photos, CONFIG, replace(SAYS, steps=20), seed=1).stacked()[EMBEDDING]
    away = at.found[EMBEDDING] - BEST
    square = (2 / away.size) ** 2 * (away**2 + 2 * 0.5**2)  # the shift is a sum of two normals
    fisher = at.count * (0.5 * SAYS.worth / at.loss) ** 2 * square
    sd = (fisher + at.width[EMBEDDING] ** -2) ** -0.5
    assert np.allclose(((draws - at.found[EMBEDDING]) / sd).std(), 1, rtol=0.1)
    assert abs(draws.mean(axis=0) - at.found[EMBEDDING]).mean() < 0.3 * sd.mean()


def test_more_photos_and_photos_worth_more_leave_less_open(pipe, photos):
    adapter, few = Square(Subject("robot"), noisy=0.5), replace(CONFIG, particles=8)
    one = photos._replace(pixels=photos.pixels[:1], captions=photos.captions[:1])

    def width(shown, worth):
        draws = laplace(pipe, adapter, shown, few, Likelihood(worth=worth, steps=10), seed=0)
        return draws.stacked()[EMBEDDING].std(axis=0).mean()

    assert width(photos, 4000.0) < width(photos, 400.0)
    assert width(photos, 4000.0) < width(one, 4000.0)


def test_pyro_leaves_the_callers_randomness_alone(pipe, photos):
    few, quick = replace(CONFIG, particles=2, steps=2), Likelihood(steps=2, warm_up=1, depth=1)
    for method in (variational, nuts):
        torch.manual_seed(5)
        want = torch.rand(1)
        torch.manual_seed(5)
        first = method(pipe, Square(Subject("robot")), photos, few, quick, seed=3)
        assert torch.equal(torch.rand(1), want)
        second = method(pipe, Square(Subject("robot")), photos, few, quick, seed=3)
        assert np.array_equal(first.stacked()[EMBEDDING], second.stacked()[EMBEDDING])


def test_an_ensemble_is_plain_fine_tuning_several_times(pipe, photos):
    adapter, few = TextualInversion(Subject("robot")), Config(particles=2, steps=2, rows=1, alpha=3.0)
    members = ensemble(pipe, adapter, photos, few, seed=4)
    alone = Mode(pipe, adapter, photos, few, None, seed=4).found
    assert np.allclose(members[0][EMBEDDING], alone[EMBEDDING], atol=1e-5)
    assert not np.allclose(members[1][EMBEDDING], alone[EMBEDDING], atol=1e-4)
