import math
from itertools import combinations

import jax
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpyro.distributions import DirichletMultinomial
from scipy.special import gammaln

from bayes_persona.cpsrl import graph, structure
from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.errors import MismatchError


def blank(sizes, outputs):
    """Give a spec with these sizes; what its factors are does not matter here."""
    names = "abcdefgh"
    states = dict(zip(names, sizes[:outputs], strict=False))
    actions = dict(zip(names[outputs:], sizes[outputs:], strict=False))
    x, s = math.prod(sizes), math.prod(sizes[:outputs])
    factors = tuple(np.full((x, size), 1 / size) for size in sizes[:outputs])
    return FactoredSpec(states, actions, np.zeros(x), np.zeros(x, dtype=bool), np.full(s, 1 / s), factors)


def random_moves(seed, sizes, outputs, length):
    rng = np.random.default_rng(seed)
    return rng.integers(sizes, size=(length, len(sizes))), rng.integers(sizes[:outputs], size=(length, outputs))


def recount(x, y, parents, sizes, values):
    """Count a parent set's table from scratch, rows by the settings that occur."""
    table = {}
    for setting, value in zip(x[:, parents].tolist(), y, strict=True):
        table.setdefault(tuple(setting), np.zeros(values, dtype=int))[value] += 1
    return np.array(list(table.values())).reshape(-1, values)


@pytest.mark.parametrize(
    ("counts", "alpha", "answer"),
    [
        ([[3, 1], [0, 2]], 1.0, -4.0943445622),
        ([[3, 1], [0, 2]], 0.5, -4.2234216045),
        ([[2, 0, 1], [0, 0, 0], [1, 1, 4]], 1 / 3, -11.2374373150),
        ([[0, 0], [0, 0]], 0.7, 0.0),
    ],
)
def test_the_evidence_is_what_was_worked_out_by_hand(counts, alpha, answer):
    assert structure.log_evidence(np.array(counts), alpha) == pytest.approx(answer, abs=1e-9)


def test_the_evidence_is_numpyros_dirichlet_multinomial():
    counts = np.random.default_rng(0).integers(0, 6, size=(7, 4))
    with jax.enable_x64(True):
        law = DirichletMultinomial(np.full(4, 0.3), total_count=counts.sum(axis=1))
        unordered = np.asarray(law.log_prob(counts))
    orders = gammaln(counts.sum(axis=1) + 1) - gammaln(counts + 1).sum(axis=1)
    assert abs(structure.log_evidence(counts, 0.3) - (unordered - orders).sum()) < 1e-9


def test_two_inputs_that_matter_only_together_are_found():
    prior = graph.empty(blank([2, 2, 2], 1), max_parents=2)
    x = np.tile(np.indices((2, 2, 2)).reshape(3, -1).T, (4, 1))
    state = structure.update(prior, structure.init(prior), x, (x[:, :1] ^ x[:, 1:2]), alpha=1.0)
    expected = [-23.710747, -24.591735, -24.591735, -24.591735, -8.788898, -25.782879, -25.782879]
    np.testing.assert_allclose(state.log_evidence[0], expected, atol=1e-6)
    assert structure.posterior(prior, state)[0, 4] == pytest.approx(0.99999917, abs=5e-9)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 4), min_size=2, max_size=4),
    length=st.integers(0, 40),
    alpha=st.floats(1e-3, 5.0),
    seed=st.integers(0, 999),
)
def test_sequential_updates_add_up_to_the_closed_form(sizes, length, alpha, seed):
    outputs = len(sizes) - 1
    prior = graph.empty(blank(sizes, outputs), max_parents=2)
    x, y = random_moves(seed, sizes, outputs, length)
    state = structure.update(prior, structure.init(prior), x, y, alpha)
    for j in range(outputs):
        for c in np.flatnonzero(prior.log_prior[j] > -np.inf):
            start, height = prior.starts[j, c], prior.heights[j, c]
            table = state.counts[start : start + height, : sizes[j]]
            assert table.sum() == length
            assert state.log_evidence[j, c] == pytest.approx(structure.log_evidence(table, alpha), abs=1e-10)


@pytest.mark.parametrize("seed", range(30))
def test_the_posterior_is_that_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 4, size=4).tolist()
    odds = rng.choice([0.0, 0.2, 0.5, 0.7], size=(4, 2))
    edges = [("abcd"[i], f"{'ab'[j]}'", {"probability": odds[i, j]}) for i in range(4) for j in range(2)]
    prior = graph.prior(blank(sizes, 2), nx.DiGraph(edges), max_parents=3)
    x, y = random_moves(seed, sizes, 2, 25)
    state = structure.update(prior, structure.init(prior), x, y, alpha=0.3)
    marginals = structure.edge_marginals(prior, state)
    for j in range(2):
        free = [i for i in range(4) if odds[i, j] > 0]
        sets = [z for size in range(4) for z in combinations(free, size)]
        evidence = [structure.log_evidence(recount(x, y[:, j], list(z), sizes, sizes[j]), 0.3) for z in sets]
        weights = [math.prod(odds[i, j] / (1 - odds[i, j]) for i in z) for z in sets]
        probs = np.array(weights) * np.exp(np.array(evidence) - max(evidence))
        np.testing.assert_allclose(structure.posterior(prior, state)[j, : len(sets)], probs / probs.sum(), atol=1e-10)
        for i in range(4):
            share = sum(p for z, p in zip(sets, probs / probs.sum(), strict=True) if i in z)
            assert marginals["abcd"[i]][f"{'ab'[j]}'"]["probability"] == pytest.approx(share, abs=1e-10)


def test_moves_one_by_one_are_moves_all_at_once(spec):
    prior = graph.empty(spec(0), max_parents=2)
    x, y = random_moves(0, list(prior.spec.inputs.values()), 3, 20)
    state = structure.init(prior)
    for t in range(20):
        state = structure.update(prior, state, x[t : t + 1], y[t : t + 1], 0.5)
    at_once = structure.update(prior, structure.init(prior), x, y, 0.5)
    np.testing.assert_array_equal(state.counts, at_once.counts)
    np.testing.assert_array_equal(state.log_evidence, at_once.log_evidence)


def test_renaming_and_reordering_the_inputs_changes_nothing_else():
    sizes, order = [2, 3, 2, 3], [0, 3, 1, 2]  # the only state variable stays first
    x, y = random_moves(1, sizes, 1, 30)
    learned = []
    for names, columns in (("abcd", [0, 1, 2, 3]), ("adbc", order)):
        kept = [sizes[i] for i in columns]
        count = math.prod(kept)
        actions = dict(zip(names[1:], kept[1:], strict=True))
        spec = FactoredSpec(
            {"a": 2}, actions, np.zeros(count), np.zeros(count, bool), np.full(2, 0.5), (np.full((count, 2), 0.5),)
        )
        prior = graph.prior(spec, nx.DiGraph([("c", "a'")]), max_parents=3)
        state = structure.update(prior, structure.init(prior), x[:, columns], y, 0.4)
        learned.append({cause: p for cause, _, p in structure.edge_marginals(prior, state).edges(data="probability")})
    assert learned[0] == pytest.approx(learned[1], abs=1e-12)


def test_graphs_are_drawn_as_often_as_they_are_probable(spec):
    prior = graph.empty(spec(0), max_parents=1)
    x, y = random_moves(3, list(prior.spec.inputs.values()), 3, 6)
    state = structure.update(prior, structure.init(prior), x, y, 1.0)
    draws = np.array([structure.sample(prior, state, seed) for seed in range(2000)])
    probs = structure.posterior(prior, state)
    for j in range(3):
        frequency = np.bincount(draws[:, j], minlength=probs.shape[1]) / len(draws)
        np.testing.assert_allclose(frequency, probs[j], atol=4.5 * 0.5 / math.sqrt(2000))


def test_filled_up_places_are_never_drawn(spec):
    prior = graph.empty(spec(0), max_parents={"a'": 0, "b'": 5, "c'": 0})
    draws = [structure.sample(prior, structure.init(prior), seed) for seed in range(50)]
    assert {(draw[0], draw[2]) for draw in draws} == {(0, 0)}


def test_updating_leaves_the_old_state_as_it_was(spec):
    prior = graph.empty(spec(0), max_parents=1)
    before = structure.init(prior)
    structure.update(prior, before, *random_moves(0, list(prior.spec.inputs.values()), 3, 5), 1.0)
    assert not before.counts.any()
    assert not before.log_evidence.any()


def test_values_outside_their_variable_are_refused_by_name(spec):
    prior = graph.empty(spec(0), max_parents=1)
    x, y = random_moves(0, list(prior.spec.inputs.values()), 3, 5)
    x[2, 1] = 3
    with pytest.raises(MismatchError, match="x: b: expected values from 0 to 2, got 3"):
        structure.update(prior, structure.init(prior), x, y, 1.0)
    x[2, 1] = 0
    with pytest.raises(MismatchError, match=r"y: expected shape \(t, 3\)"):
        structure.update(prior, structure.init(prior), x, y[:, :2], 1.0)
