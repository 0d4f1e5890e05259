import numpy as np
import pytest

from bayes_persona.cpsrl import env, graph, predictive, structure
from bayes_persona.errors import ConfigError, DataError, MismatchError


def seen(truth, length, seed=0):
    rng = np.random.default_rng(seed)
    number = rng.integers(len(truth.reward), size=length)
    columns = [(rng.random((length, 1)) > law[number, :-1].cumsum(axis=1)).sum(axis=1) for law in truth.factors]
    return np.stack(np.unravel_index(number, list(truth.inputs.values())), axis=1), np.stack(columns, axis=1)


def learned(prior, x, y, alpha=1.0):
    return structure.update(prior, structure.init(prior), x, y, alpha)


def test_draws_have_the_frequencies_that_the_posterior_expects(spec):
    truth = spec(0)
    prior = graph.empty(truth, max_parents=2)
    x, y = seen(truth, 60)
    state, places = learned(prior, x, y), x[:4]
    draws = predictive.posterior_predictive(prior, state, places, alpha=1.0, seed=0, draws=800)
    assert draws.shape == (800, 4, 3)
    for output, values in enumerate(truth.outputs.values()):
        rows = prior.starts[output] + places @ prior.strides[output].T
        counts = state.counts[rows][..., :values] + 1.0
        expected = np.einsum(
            "c,tcv->tv", structure.posterior(prior, state)[output], counts / counts.sum(axis=-1, keepdims=True)
        )
        have = (draws[:, :, output, None] == np.arange(values)).mean(axis=0)
        np.testing.assert_allclose(have, expected, atol=4.5 * 0.5 / np.sqrt(800))


def test_what_the_model_could_have_made_passes(spec):
    truth = spec(0)
    prior = graph.empty(truth, max_parents=2)
    x, y = seen(truth, 400)
    found = predictive.check(prior, learned(prior, x, y), x, y, alpha=1.0, seed=0, draws=100)
    assert found.counts.shape == (3,)
    assert min(found.counts.min(), found.pairs.min()) > 0.02


def test_a_cause_that_was_forbidden_is_found(spec):
    truth = spec(0)
    cause = truth.parents["b'"][0]
    prior = graph.prior(truth, {(cause, "b'"): 0.0}, max_parents=2)
    x, y = seen(truth, 400)
    found = predictive.check(prior, learned(prior, x, y), x, y, alpha=1.0, seed=0, draws=100)
    assert found.pairs[1, list(truth.inputs).index(cause)] == 0
    assert found.pairs[[0, 2]].min() > 0.02


def test_counts_of_another_law_are_strange(spec):
    truth = spec(0)
    prior = graph.empty(truth, max_parents=2)
    x, y = seen(truth, 400)
    stuck = y.copy()
    stuck[:, 0] = 0
    found = predictive.check(prior, learned(prior, x, y), x, stuck, alpha=1.0, seed=0, draws=50)
    assert found.counts[0] == 0
    assert found.counts[1:].min() > 0.02


def test_a_certain_world_is_no_surprise_to_itself():
    x = np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (50, 1))
    y = x.sum(axis=1, keepdims=True) % 2
    prior = graph.empty(env.lamp(), max_parents=2)
    found = predictive.check(prior, learned(prior, x, y, 1e-3), x, y, alpha=1e-3, seed=0, draws=50)
    assert min(found.counts.min(), found.pairs.min()) > 0.2


def test_what_is_wrong_with_a_check_is_said(spec):
    prior = graph.empty(spec(0), max_parents=1)
    state, (x, y) = structure.init(prior), seen(spec(0), 5)
    with pytest.raises(DataError, match="a check needs moves"):
        predictive.check(prior, state, x[:0], y[:0], alpha=1.0, seed=0)
    with pytest.raises(MismatchError, match="x, y: expected columns"):
        predictive.check(prior, state, x, y[:, :2], alpha=1.0, seed=0)
    with pytest.raises(ConfigError, match="draws: expected at least 1, got 0"):
        predictive.posterior_predictive(prior, state, x, alpha=1.0, seed=0, draws=0)
