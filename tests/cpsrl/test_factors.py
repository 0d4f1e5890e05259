import jax
import networkx as nx
import numpy as np
import pytest
from scipy import stats

from bayes_persona.cpsrl import compiled, factors, graph, structure


def test_rows_of_a_draw_sum_to_one_and_follow_the_parents(spec):
    prior = graph.prior(spec(0), nx.DiGraph([("b", "a'")]), max_parents={"a'": 1, "b'": 0, "c'": 0})
    drawn = factors.sample(prior, structure.init(prior), np.zeros(3, dtype=int), 0.5, seed=0)
    assert [factor.shape for factor in drawn] == [(48, 2), (48, 3), (48, 2)]
    for factor in drawn:
        np.testing.assert_allclose(factor.sum(axis=1), 1)
    by_b = drawn[0].reshape(2, 3, 8, 2)
    assert np.ptp(by_b, axis=(0, 2)).max() == 0
    assert len(np.unique(by_b[0, :, 0, 0])) == 3


@pytest.mark.parametrize("shape", [[0.002, 0.002, 1.002], [0.2, 0.2, 0.2], [3.0, 40.0, 0.5]])
def test_draws_have_the_mean_and_variance_of_the_dirichlet(shape):
    shape = np.array(shape)
    with jax.enable_x64(True):
        draws = np.asarray(factors.dirichlets(jax.random.key(0), [np.tile(shape, (40_000, 1))])[0])
    mean = shape / shape.sum()
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.01)
    np.testing.assert_allclose(draws.var(axis=0), mean * (1 - mean) / (shape.sum() + 1), atol=0.005)


def test_tiny_parameters_give_rows_that_still_sum_to_one():
    with jax.enable_x64(True):
        draws = np.asarray(factors.dirichlets(jax.random.key(0), [np.full((200, 50), 1e-6)])[0])
    assert np.isfinite(draws).all()
    np.testing.assert_allclose(draws.sum(axis=1), 1)


def test_much_data_pins_the_factor_down(spec):
    truth = spec(0)
    prior = graph.known(truth, graph.true_graph(truth))
    rng = np.random.default_rng(0)
    x = rng.integers(48, size=20_000)
    y = np.stack([(rng.random((len(x), 1)) > factor[x].cumsum(axis=1)).sum(axis=1) for factor in truth.factors], axis=1)
    settings = np.stack(np.unravel_index(x, list(truth.inputs.values())), axis=1)
    state = structure.update(prior, structure.init(prior), settings, y, 1.0)
    drawn = factors.sample(prior, state, np.zeros(3, dtype=int), 1.0, seed=1)
    for have, want in zip(drawn, truth.factors, strict=True):
        np.testing.assert_allclose(have, want, atol=0.04)


@pytest.mark.parametrize("shape", [1.0, 1.2, 5.0, 400.0])
def test_gammas_have_the_law_of_gammas(shape):
    with jax.enable_x64(True):
        draws = np.asarray(factors.gamma(jax.random.key(1), np.full(20_000, shape)))
    assert stats.kstest(draws, stats.gamma(shape).cdf).pvalue > 1e-3


def test_the_mean_world_is_the_average_over_graphs_of_the_mean_tables(spec):
    truth = spec(0)
    prior = graph.empty(truth, max_parents=2)
    rng = np.random.default_rng(0)
    x, y = rng.integers([2, 3, 2, 2, 2], size=(30, 5)), rng.integers([2, 3, 2], size=(30, 3))
    state = structure.update(prior, structure.init(prior), x, y, 0.5)
    with jax.enable_x64(True):
        means = factors.mean(compiled.candidates(prior), compiled.sizes(prior), state, 0.5)
    settings = np.indices((2, 3, 2, 2, 2)).reshape(5, -1)
    for j, (have, values) in enumerate(zip(means, (2, 3, 2), strict=True)):
        want = np.zeros((48, values))
        for c, share in enumerate(structure.posterior(prior, state)[j]):
            counts = 0.5 + state.counts[prior.starts[j, c] + prior.strides[j, c] @ settings, :values]
            want += share * counts / counts.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(have, want, atol=1e-12)


def test_visits_count_what_was_seen_with_the_same_parents(spec):
    truth = spec(0)
    prior = graph.known(truth, nx.DiGraph([("b", "a'"), ("b", "b'"), ("b", "c'")]))
    x, y = np.array([[0, 2, 1, 0, 1], [1, 2, 0, 0, 0], [1, 0, 0, 0, 0]]), np.zeros((3, 3), dtype=int)
    state = structure.update(prior, structure.init(prior), x, y, 1.0)
    seen = factors.visits(compiled.candidates(prior), compiled.sizes(prior), state, np.zeros(3, dtype=int))
    np.testing.assert_array_equal(np.asarray(seen).reshape(3, 2, 3, 8)[:, 1, :, 5], [[1, 0, 2]] * 3)
