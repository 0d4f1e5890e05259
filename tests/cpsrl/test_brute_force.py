"""The posterior of graphs against all sets, one by one, with the formula of the Dirichlet and no code of ours."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from bayes_persona.cpsrl import graph, search, structure
from bayes_persona.cpsrl.beliefs import Names, beliefs, candidates
from bayes_persona.cpsrl.evidence import Evidence

SHAPES = [((2, 3, 2), (2,)), ((3, 2, 2, 2), (2, 2)), ((2, 2, 3, 2), (3,)), ((4, 2, 2), (2, 2)), ((2, 2, 2, 2), (3,))]


def log_evidence(x, y, parents, values, alpha):
    cells = Counter((tuple(row[parents]), int(value)) for row, value in zip(x, y, strict=True))
    rows = Counter(setting for setting, _ in cells.elements())
    logs = sum(math.lgamma(values * alpha) - math.lgamma(values * alpha + n) for n in rows.values())
    return logs + sum(math.lgamma(alpha + n) - math.lgamma(alpha) for n in cells.values())


def by_hand(x, y, weights, limit, values, alpha):
    """Give the probability of every set of an output's parents."""
    scores = {}
    for bits in itertools.product([False, True], repeat=len(weights)):
        if sum(bits) > limit or any((w == 0 and b) or (w == 1 and not b) for b, w in zip(bits, weights, strict=True)):
            continue
        odds = sum(math.log(w / (1 - w)) for b, w in zip(bits, weights, strict=True) if b and w < 1)
        scores[bits] = odds + log_evidence(x, y, np.flatnonzero(bits), values, alpha)
    most = max(scores.values())
    total = sum(math.exp(score - most) for score in scores.values())
    return {bits: math.exp(score - most) / total for bits, score in scores.items()}


@pytest.mark.parametrize("shape", range(5))
@pytest.mark.parametrize("pattern", range(4))
def test_the_posterior_is_that_of_all_sets_one_by_one(spec, shape, pattern):
    sizes, actions = SHAPES[shape]
    states = dict(zip("abcd", sizes, strict=False))
    truth = spec(shape, states=states, actions=dict(zip("lr", actions, strict=False)))
    inputs, outputs = list(truth.inputs.values()), list(truth.outputs.values())
    rng = np.random.default_rng((shape, pattern))
    sort = rng.choice(["open", "open", "open", "required", "forbidden"], size=(len(outputs), len(inputs)))
    limit = max(3, int((sort == "required").sum(axis=1).max()))
    for _ in range(10):  # 5 · 4 · 10 = 200 problems
        weights = np.where(sort == "open", rng.uniform(0.05, 0.95, sort.shape), sort == "required")
        edges = {(c, e): float(weights[j, i]) for j, e in enumerate(truth.outputs) for i, c in enumerate(truth.inputs)}
        alpha = float(rng.choice([0.2, 1.0, 3.0]))
        x, y = rng.integers(inputs, size=(25, len(inputs))), rng.integers(outputs, size=(25, len(outputs)))
        prior = graph.prior(truth, edges, max_parents=limit)
        assert np.exp(prior.log_prior).sum(axis=1) == pytest.approx(1, abs=1e-12)
        posterior = structure.posterior(prior, structure.update(prior, structure.init(prior), x, y, alpha))
        found = search.exact(beliefs(truth, edges, max_parents=limit), x, y, alpha=alpha, draws=1, seed=0)
        for j in range(len(outputs)):
            want = by_hand(x, y[:, j], weights[j], limit, outputs[j], alpha)
            have = {tuple(z): p for z, p in zip(prior.members[j].tolist(), posterior[j], strict=True) if p > 0}
            assert have == pytest.approx(want, abs=1e-10)
            marginals = [sum(p for bits, p in want.items() if bits[i]) for i in range(len(inputs))]
            assert found.marginals[j] == pytest.approx(marginals, abs=1e-10)


def test_permuting_the_variables_permutes_the_results(spec):
    rng = np.random.default_rng(0)
    inputs, outputs = {"a": 2, "b": 3, "c": 2, "go": 4}, {"a'": 2, "b'": 3, "c'": 2}
    x, y = rng.integers(list(inputs.values()), size=(40, 4)), rng.integers(list(outputs.values()), size=(40, 3))
    said = {("a", "b'"): 0.9, "c'": ["go"], ("b", "a'"): 0.0}
    plain = search.exact(beliefs(Names(inputs, outputs), said, max_parents=2), x, y, alpha=0.4, draws=1, seed=0)
    for order, turn in (([2, 0, 3, 1], [1, 2, 0]), ([3, 2, 1, 0], [2, 1, 0])):
        names = Names(
            {list(inputs)[i]: list(inputs.values())[i] for i in order},
            {list(outputs)[j]: list(outputs.values())[j] for j in turn},
        )
        known = beliefs(names, said, max_parents=2)
        moved = search.exact(known, x[:, order], y[:, turn], alpha=0.4, draws=1, seed=0)
        np.testing.assert_allclose(moved.marginals, plain.marginals[turn][:, order], atol=1e-12)


@pytest.mark.parametrize(
    ("table", "alpha", "answer"),
    [
        ([[3, 1], [0, 2]], 1.0, -4.0943445622),
        ([[3, 1], [0, 2]], 0.5, -4.2234216045),
        ([[2, 0, 1], [0, 0, 0], [1, 1, 4]], 1 / 3, -11.2374373150),
    ],
)
def test_the_evidence_of_a_table_is_what_was_worked_out_by_hand(table, alpha, answer):
    counts = np.array(table)
    settings, values = np.indices(counts.shape).reshape(2, -1).repeat(counts.ravel(), axis=1)
    known = beliefs(Names({"a": len(counts)}, {"a'": counts.shape[1]}), {}, max_parents=1)
    evidence = Evidence(known, settings[:, None], values, 0, alpha)
    assert evidence.log(np.array([True])) == pytest.approx(answer, abs=1e-9)
    assert structure.log_evidence(counts, alpha) == pytest.approx(answer, abs=1e-9)


def test_a_parity_needs_both_of_its_inputs():
    x = np.tile(np.indices((2, 2, 2)).reshape(3, -1).T, (4, 1))
    known = beliefs(Names(dict.fromkeys("abc", 2), {"a'": 2}), {}, max_parents=2)
    evidence = Evidence(known, x, x[:, 0] ^ x[:, 1], 0, 1.0)
    logs = {"": -23.710747, "a": -24.591735, "c": -24.591735, "ab": -8.788898, "ac": -25.782879, "bc": -25.782879}
    for parents, log in logs.items():
        assert evidence.log(np.array([name in parents for name in "abc"])) == pytest.approx(log, abs=1e-6)
    masks, prior = candidates(known, 0)
    both = int((masks == [True, True, False]).all(axis=1).argmax())
    probs = np.exp(prior + evidence.logs(masks))
    assert probs[both] / probs.sum() == pytest.approx(0.99999917, abs=5e-9)
