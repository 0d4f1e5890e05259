"""Laws of soups, on linear nets whose loss is known."""

import numpy as np
import pytest
import torch
from torch import nn

from bayes_persona import ConfigError, Posterior, nptl
from bayes_persona.nptl import Predictor, classification, greedy_soup, model_nll, uniform_soup
from bayes_persona.nptl.learner_torch import Config, TorchLearner


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3)).astype(np.float32)
    y = (x @ [1.0, -2.0, 0.5] + rng.normal(size=120) > 0).astype(int)
    torch.manual_seed(0)
    learner = TorchLearner(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), Config(steps=40, lr=0.2))
    data, held = classification(x[:60], y[:60], 2), classification(x[60:], y[60:], 2)
    base = nptl.linear_probe(learner, data)
    return learner, nptl.NPTL(particles=6, rho=0.3).sample(learner, base, data, seed=0), held


def test_the_uniform_soup_is_the_average_of_the_params(fitted):
    _, posterior, _ = fitted
    soup = uniform_soup(posterior)
    assert len(soup) == 1
    for name, stack in posterior.stacked().items():
        assert np.allclose(soup[0][name], stack.mean(axis=0))
        assert soup[0][name].dtype == stack.dtype


def test_the_greedy_soup_is_never_worse_than_the_best_member_where_it_was_chosen(fitted):
    learner, posterior, held = fitted
    alone = [model_nll(learner, Posterior((particle,)), held) for particle in posterior]
    assert model_nll(learner, greedy_soup(learner, posterior, held), held) <= min(alone)


def test_a_member_that_spoils_the_soup_stays_out(fitted):
    learner, posterior, held = fitted
    spoilt = {name: -5 * array for name, array in posterior[0].items()}
    with_it = greedy_soup(learner, Posterior((spoilt, *posterior)), held)
    without = greedy_soup(learner, posterior, held)
    assert all(np.array_equal(with_it[0][name], without[0][name]) for name in without[0])


def test_the_order_of_the_members_does_not_matter(fitted):
    learner, posterior, held = fitted
    one, other = (greedy_soup(learner, Posterior(tuple(posterior)[::step]), held)[0] for step in (1, -1))
    assert all(np.allclose(one[name], other[name]) for name in one)


def test_equal_members_make_a_soup_of_the_same(fitted):
    learner, posterior, held = fitted
    soup = greedy_soup(learner, Posterior((posterior[0],) * 3), held)
    assert all(np.allclose(soup[0][name], posterior[0][name]) for name in soup[0])


def test_a_soup_predicts_like_any_posterior(fitted):
    learner, posterior, held = fitted
    probs = Predictor(learner, uniform_soup(posterior)).predict(held.x)
    assert np.allclose(probs.sum(axis=1), 1)


def test_running_statistics_are_refused():
    learner = TorchLearner(
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), Config(steps=2, batch_norm="learned")
    )
    data = classification(np.eye(2, dtype=np.float32), np.array([0, 1]), 2)
    posterior = Posterior((learner.params, learner.params))
    for make in (lambda: uniform_soup(posterior), lambda: greedy_soup(learner, posterior, data)):
        with pytest.raises(ConfigError, match=r'running statistics \(1\.running_mean\).*batch_norm="frozen"'):
            make()
