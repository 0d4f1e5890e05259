import jax
import numpy as np
import pytest

from bayes_persona.cpsrl import compiled, graph, structure


@pytest.fixture
def prior(spec):
    return graph.empty(spec(0), max_parents={"a'": 2, "b'": 1, "c'": 3})


def moves(seed, length=12):
    rng = np.random.default_rng(seed)
    return rng.integers([2, 3, 2, 2, 2], size=(length, 5)), rng.integers([2, 3, 2], size=(length, 3))


def test_an_episode_at_once_is_its_moves_one_by_one(prior):
    known, shape = compiled.candidates(prior), compiled.sizes(prior)
    state = want = structure.init(prior)
    for seed in range(3):
        x, y = moves(seed)
        happened = np.arange(12) < 9
        with jax.enable_x64(True):
            state = jax.tree.map(np.asarray, compiled.learn(known, shape, state, x, y, happened, 0.3))
        want = structure.update(prior, want, x[:9], y[:9], 0.3)
    np.testing.assert_array_equal(state.counts, want.counts)
    np.testing.assert_allclose(state.log_evidence, want.log_evidence, atol=1e-12)


def test_graphs_are_drawn_from_the_posterior(prior):
    state = structure.update(prior, structure.init(prior), *moves(0), 1.0)
    known = compiled.candidates(prior)
    draws = np.asarray(
        jax.vmap(lambda key: compiled.choose(known, state, key))(jax.random.split(jax.random.key(0), 4000))
    )
    for j, probs in enumerate(structure.posterior(prior, state)):
        frequency = np.bincount(draws[:, j], minlength=len(probs)) / len(draws)
        np.testing.assert_allclose(frequency, probs, atol=4.5 * 0.5 / np.sqrt(4000))


def test_the_most_probable_graph_is_the_most_probable(prior):
    state = structure.update(prior, structure.init(prior), *moves(0), 1.0)
    found = compiled.choose(compiled.candidates(prior), state, jax.random.key(0), probable=True)
    np.testing.assert_array_equal(found, structure.posterior(prior, state).argmax(axis=1))


def test_the_truth_is_as_probable_as_structure_says(prior):
    state = structure.update(prior, structure.init(prior), *moves(0), 1.0)
    with jax.enable_x64(True):
        have = compiled.truth_shares(compiled.candidates(prior), state)
    np.testing.assert_allclose(have, structure.truth_probability(prior, state), atol=1e-12)
