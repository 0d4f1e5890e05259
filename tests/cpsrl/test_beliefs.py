import itertools
import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_persona.cpsrl import graph
from bayes_persona.cpsrl.beliefs import Names, as_graph, beliefs, candidates, without
from bayes_persona.errors import ConfigError

FOUR = Names(dict.fromkeys("abcd", 2), {"a'": 2, "b'": 2})


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.8, 1.0]), min_size=4, max_size=4),
    slack=st.integers(0, 4),
    sizes=st.sampled_from(["sets", "uniform", [0.1, 0.2, 0.3, 0.3, 0.1], {0: 0.5, 4: 0.25, 3: 0.25}]),
)
def test_the_prior_is_that_of_all_sets_weighed_one_by_one(weights, slack, sizes):
    needed, open_ = weights.count(1.0), sum(0 < w < 1 for w in weights)
    limit = needed + slack
    counts = range(needed, needed + min(slack, open_) + 1)
    edges = {("abcd"[i], "a'"): w for i, w in enumerate(weights)}
    share = {"sets": None, "uniform": dict.fromkeys(range(5), 1.0)}.get(sizes) if isinstance(sizes, str) else sizes
    table = share if isinstance(share, dict) else None if share is None else dict(enumerate(share))
    if table is not None and not any(table.get(count, 0) for count in counts):
        with pytest.raises(ConfigError, match="none of these sizes has a probability"):
            beliefs(FOUR, edges, max_parents=limit, sizes=sizes)
        return
    masks, logs = candidates(beliefs(FOUR, edges, max_parents={"a'": limit, "b'": 4}, sizes=sizes), 0)
    odds = {}
    for bits in itertools.product([False, True], repeat=4):
        if sum(bits) <= limit and all(w not in (0.0, 1.0) or bool(w) == b for b, w in zip(bits, weights, strict=True)):
            odds[bits] = math.prod(w / (1 - w) for b, w in zip(bits, weights, strict=True) if b and w < 1)
    if table is not None:
        within = {count: sum(w for bits, w in odds.items() if sum(bits) == count) for count in counts}
        odds = {bits: w / within[sum(bits)] * table.get(sum(bits), 0.0) for bits, w in odds.items()}
    total = sum(odds.values())
    found = {tuple(mask): math.exp(log) for mask, log in zip(masks.tolist(), logs, strict=True)}
    assert found == pytest.approx({bits: w / total for bits, w in odds.items() if w}, abs=1e-12)


def test_a_prior_of_forty_inputs_is_normalised_without_its_sets():
    many = Names({f"x{number}": 2 for number in range(40)}, {"y'": 2})
    known = beliefs(many, {("x0", "y'"): 0.9, "y'": ["x1"]}, max_parents=4)
    masks, logs = candidates(known, 0)
    assert len(masks) == 1 + 39 + math.comb(39, 2) + math.comb(39, 3)
    assert np.exp(logs).sum() == pytest.approx(1, abs=1e-9)
    assert np.exp(known.log_prior(0, np.zeros((1, 40), dtype=bool))).tolist() == [0]  # lacks what is required


def test_forbidding_edges_conditions_the_prior_on_their_absence():
    known = beliefs(FOUR, {("a", "a'"): 0.7, ("b", "b'"): 0.2}, max_parents=3, sizes="uniform")
    gone = np.array([[False, True, False, True], [False, False, False, False]])
    masks, logs = candidates(known, 0)
    left = ~(masks & gone[0]).any(axis=1)
    fewer, logs_left = candidates(without(known, gone), 0)
    np.testing.assert_array_equal(fewer, masks[left])
    np.testing.assert_allclose(np.exp(logs_left), np.exp(logs[left]) / np.exp(logs[left]).sum())
    np.testing.assert_allclose(without(known, gone).log_sizes[1], known.log_sizes[1])
    with pytest.raises(ConfigError, match="edge 'a' -> \"a'\" is both required and forbidden"):
        without(beliefs(FOUR, {"a'": ["a"]}, max_parents=2), np.eye(2, 4, dtype=bool))
    with pytest.raises(ConfigError, match="a': no parent set is left"):
        without(beliefs(FOUR, {}, max_parents=4, sizes={4: 1.0}), gone)


def test_odds_say_what_probabilities_say():
    by_odds, by_probability = nx.DiGraph(), nx.DiGraph()
    for cause, odds in (("a", 0.0), ("b", 3.0), ("c", float("inf"))):
        by_odds.add_edge(cause, "a'", odds=odds)
        by_probability.add_edge(cause, "a'", probability=1.0 if odds == float("inf") else odds / (1 + odds))
    have, want = (beliefs(FOUR, edges, max_parents=3).log_odds for edges in (by_odds, by_probability))
    np.testing.assert_allclose(have, want)


def test_a_dict_says_what_the_graph_says():
    edges = as_graph({"a'": ["a", "b"], ("c", "a'"): 0.25, ("d", "b'"): 0})
    assert dict(edges.edges) == {
        ("a", "a'"): {"probability": 1.0},
        ("b", "a'"): {"probability": 1.0},
        ("c", "a'"): {"probability": 0.25},
        ("d", "b'"): {"probability": 0.0},
    }


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"a'": ["a"], ("a", "a'"): 0.0}, "edge 'a' -> \"a'\" is both required and forbidden"),
        ({"a'": ["a"], ("a", "a'"): 0.5}, "edge 'a' -> \"a'\" is named twice, with 1.0 and 0.5"),
        ({"a'": ["a", "a"]}, r"the parents \['a', 'a'\] are not all different"),
        ({"a'": "ab"}, r"expected \{output: \[inputs\]\} or \{\(input, output\): probability\}"),
        ({("a", "b", "a'"): 0.5}, r"expected \{output: \[inputs\]\}"),
        ({"a": ["a'"]}, "edge \"a'\" -> 'a' must run from an input to an output, for time runs one way"),
        ({("a'", "b'"): 0.5}, "must run from an input to an output, for time runs one way"),
        ({"a'": ["wind"]}, "'wind' is not a variable"),
        ({("a", "a'"): 1.01}, r"expected a probability in \[0, 1\], got 1.01"),
        ({"a'": ["a", "b", "c"]}, "a': the graph requires 3 parents, more than 2"),
        (nx.DiGraph([("a", "a'", {"odds": -1})]), "expected odds of at least 0, got -1"),
        (nx.DiGraph([("a", "a'", {"odds": float("nan")})]), "expected odds of at least 0, got nan"),
        (nx.DiGraph([("a", "a'", {"odds": 1, "probability": 0.9})]), "odds 1 are a probability of 0.5, not 0.9"),
        (nx.DiGraph([("a", "a'", {"odds": float("inf"), "probability": 0})]), "are a probability of 1, not 0"),
    ],
)
def test_what_is_wrong_with_what_is_known_is_said(known, message):
    with pytest.raises(ConfigError, match=message):
        beliefs(FOUR, known, max_parents=2)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([0.5, 0.6], "expected probabilities that sum to 1"),
        ([1.5, -0.5], "expected probabilities that sum to 1"),
        ([float("nan"), 1.0], "expected probabilities that sum to 1"),
        ({-1: 1.0}, "expected whole numbers of at least 0"),
        ({3: 0.5, 4: 0.5}, "a' has 0 to 2 parents, but none of these sizes has a probability"),
    ],
)
def test_what_is_wrong_with_sizes_is_said(spec, sizes, message):
    with pytest.raises(ConfigError, match=message):
        graph.prior(spec(0), {}, max_parents=2, sizes=sizes)
