import networkx as nx
import numpy as np
import pytest

from bayes_persona.cpsrl import graph
from bayes_persona.errors import ConfigError


def sets(prior, output=0):
    """Give the candidates of an output as sets of names, with their probabilities."""
    names = list(prior.spec.inputs)
    return {
        frozenset(np.array(names)[mask].tolist()): float(np.exp(log))
        for mask, log in zip(prior.members[output], prior.log_prior[output], strict=True)
        if log > -np.inf
    }


def test_required_edges_are_in_every_set_and_forbidden_ones_in_none(spec):
    known = nx.DiGraph([("a", "a'")])
    known.add_edge("left", "a'", probability=1)
    known.add_edge("b", "a'", probability=0)
    found = sets(graph.prior(spec(0), known, max_parents=3))
    assert found.keys() == {frozenset({"a", "left"}), frozenset({"a", "left", "c"}), frozenset({"a", "left", "right"})}
    assert list(found.values()) == pytest.approx([1 / 3] * 3)


def test_soft_edges_weigh_sets_by_their_odds(spec):
    soft = nx.DiGraph()
    soft.add_edge("a", "a'", probability=0.9)
    soft.add_edge("b", "a'", probability=0.2)
    found = sets(graph.prior(spec(0), soft, max_parents=5))
    assert len(found) == 32
    for probability, name in ((0.9, "a"), (0.2, "b"), (0.5, "c")):  # with no bound, edges are independent
        assert sum(p for members, p in found.items() if name in members) == pytest.approx(probability)


def test_the_number_of_sets_is_the_sum_of_the_binomials(spec):
    prior = graph.empty(spec(0), max_parents={"a'": 0, "b'": 2, "c'": 5})
    assert [len(sets(prior, output)) for output in range(3)] == [1, 1 + 5 + 10, 32]


def test_knowing_all_edges_leaves_one_set_and_so_does_the_complete_graph(spec):
    truth = spec(0)
    assert [set(sets(graph.known(truth, graph.true_graph(truth)), j)) for j in range(3)] == [
        {frozenset(parents)} for parents in truth.parents.values()
    ]
    assert set(sets(graph.complete(truth))) == {frozenset(truth.inputs)}


def test_tables_lie_side_by_side_and_each_setting_has_a_row(spec):
    prior = graph.empty(spec(0), max_parents=2)
    settings = np.indices(list(prior.spec.inputs.values())).reshape(5, -1)
    rows = prior.starts[..., None] + np.einsum("jci,ix->jcx", prior.strides, settings)
    used = [set(row.tolist()) for candidates in rows for row in candidates]
    assert sum(len(row) for row in used) == len(set().union(*used)) == prior.heights.sum()


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("a", "b")], "edge 'a' -> 'b' must run from an input to an output"),
        ([("a'", "b'")], 'edge "a\'" -> "b\'" must run from an input to an output'),
        ([("a", "a'"), ("a'", "a")], "edge \"a'\" -> 'a' must run from an input to an output"),
        ([("wind", "a'")], "'wind' is not a variable; the inputs are"),
        ([("a", "a'", {"probability": 1.5})], r"expected a probability in \[0, 1\], got 1.5"),
        ([("a", "a'", {"probability": float("nan")})], r"expected a probability in \[0, 1\], got nan"),
        ([("a", "a'", {"probability": "likely"})], r"expected a probability in \[0, 1\], got 'likely'"),
        ([("a", "a'"), ("b", "a'"), ("c", "a'")], "max_parents: a': the graph requires 3 parents, more than 2"),
    ],
)
def test_what_is_wrong_with_a_graph_is_said(spec, edges, message):
    with pytest.raises(ConfigError, match=message):
        graph.prior(spec(0), nx.DiGraph(edges), max_parents=2)


def test_only_a_digraph_will_do(spec):
    with pytest.raises(ConfigError, match=r"expected a networkx.DiGraph, got MultiDiGraph"):
        graph.prior(spec(0), nx.MultiDiGraph([("a", "a'")]), max_parents=2)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"a'": 1}, r"expected a number for each of \[\"a'\", \"b'\", \"c'\"\]"),
        (-1, "a': expected a whole number of at least 0, got -1"),
    ],
)
def test_what_is_wrong_with_max_parents_is_said(spec, limit, message):
    with pytest.raises(ConfigError, match=message):
        graph.empty(spec(0), max_parents=limit)


def test_too_many_sets_and_too_many_counts_are_refused_with_the_number(spec):
    many = spec(0, states={"a": 3}, actions={f"switch{number}": 2 for number in range(16)})
    with pytest.raises(ConfigError, match="there are 109,294 parent sets of at most 10, more than 100,000; lower max_"):
        graph.empty(many, max_parents=10)
    with pytest.raises(ConfigError, match="hold 35,692,812 counts, more than 20,000,000; lower max_parents"):
        graph.empty(many, max_parents=8)


def test_listed_sets_are_the_candidates(spec):
    listed = {("a",): 0.5, ("b", "left"): 0.25, (): 0.25, ("c",): 0.0}
    prior = graph.explicit(spec(0), {"a'": listed, "b'": {("b",): 1.0}, "c'": {frozenset({"a", "c"}): 1.0}})
    assert sets(prior) == pytest.approx({frozenset(s): p for s, p in listed.items() if p})
    assert sets(prior, 2) == {frozenset({"a", "c"}): 1.0}


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({("a", "b"): 0.5, ("b", "a"): 0.5}, "one set is listed twice, in another order"),
        ({("a", "a"): 1.0}, "names 'a' twice"),
        ({"a": 1.0}, r"expected a tuple of inputs, got 'a'; one alone is \('name',\)"),
        ({("wind",): 1.0}, "'wind' is not an input"),
        ({("a",): 0.7, (): 0.7}, "expected probabilities that sum to 1"),
        ({("a",): -0.5, (): 1.5}, "expected probabilities that sum to 1"),
        ({}, "expected probabilities that sum to 1"),
    ],
)
def test_what_is_wrong_with_listed_sets_is_said(spec, listed, message):
    with pytest.raises(ConfigError, match=message):
        graph.explicit(spec(0), {"a'": listed, "b'": {(): 1.0}, "c'": {(): 1.0}})
    with pytest.raises(ConfigError, match=r"sets: expected some for each of"):
        graph.explicit(spec(0), {"a'": {(): 1.0}})


def test_a_whole_truth_is_not_only_probable(spec):
    assert sets(graph.known(spec(0), {"a'": ["a"], ("b", "a'"): 0.0})) == {frozenset({"a"}): 1.0}
    with pytest.raises(ConfigError, match="edge 'b' -> \"a'\" is only probable; here all must be certain"):
        graph.known(spec(0), {"a'": ["a"], ("b", "a'"): 0.5})


def test_uniform_sizes_favour_small_sets(spec):
    found = sets(graph.empty(spec(0), max_parents=2, sizes="uniform"))
    assert [sum(p for z, p in found.items() if len(z) == size) for size in range(3)] == pytest.approx([1 / 3] * 3)
