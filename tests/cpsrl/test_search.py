import math

import numpy as np
import pytest

from bayes_persona.cpsrl import graph, search, structure, walk
from bayes_persona.cpsrl.beliefs import Names, beliefs, candidates
from bayes_persona.cpsrl.evidence import Evidence
from bayes_persona.errors import ConfigError, MismatchError


def world(seed, inputs, length, parents=(0, 3)):
    """Give variables of two or three values, and moves of two outputs that follow these inputs."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 4, size=inputs)
    names = Names({f"x{i}": int(size) for i, size in enumerate(sizes)}, {"x0'": int(sizes[0]), "x1'": int(sizes[1])})
    x = rng.integers(sizes, size=(length, inputs))
    columns = []
    for values in sizes[:2]:
        table = rng.dirichlet(np.full(values, 0.5), size=sizes[list(parents)])
        probs = table[tuple(x[:, list(parents)].T)]
        columns.append((rng.random((length, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(0, values - 1))
    return names, x, np.stack(columns, axis=1)


@pytest.mark.parametrize("seed", range(4))
def test_the_walk_finds_what_enumeration_finds(seed):
    names, x, y = world(seed, inputs=6, length=25)
    known = beliefs(names, {("x1", "x0'"): 0.3, "x1'": ["x2"]}, max_parents=4, sizes=("sets", "uniform")[seed % 2])
    _, found = walk.sample(walk.Config(draws=4000), known, x, y, alpha=0.5, seed=seed)
    truth = search.exact(known, x, y, alpha=0.5, draws=1, seed=0).marginals
    assert search.r_hat(found).max() < 1.05
    error = np.sqrt(truth * (1 - truth) / search.ess(found))
    assert (np.abs(found.marginals - truth) <= 5 * error + 1e-3).all()
    assert search.compare_with_exact(known, found, x, y, alpha=0.5) == np.abs(found.marginals - truth).max()


def test_without_data_the_walk_draws_each_set_as_often_as_the_prior_says():
    names = Names(dict.fromkeys("abcd", 2), {"a'": 2})
    known = beliefs(names, {("a", "a'"): 0.8, ("b", "a'"): 0.3}, max_parents=2, sizes=[0.2, 0.5, 0.3])
    nothing = np.zeros((0, 4), dtype=int), np.zeros((0, 1), dtype=int)
    _, found = walk.sample(walk.Config(draws=10_000), known, *nothing, alpha=1.0, seed=1)
    masks, logs = candidates(known, 0)
    share = (found.members[:, :, 0, None] == masks).all(axis=-1).mean(axis=(0, 1))
    assert share.sum() == pytest.approx(1)
    np.testing.assert_allclose(share, np.exp(logs), atol=5 * 0.5 / math.sqrt(40_000 / 20))


@pytest.mark.parametrize("seed", range(3))
def test_every_draw_keeps_to_what_is_known(seed):
    names, x, y = world(seed, inputs=8, length=60)
    known = beliefs(names, {"x0'": ["x5", "x6"], ("x0", "x0'"): 0.0}, max_parents={"x0'": 3, "x1'": 1})
    _, found = walk.sample(walk.Config(draws=300), known, x, y, alpha=1.0, seed=seed)
    sets = found.members.reshape(-1, 2, 8)
    assert sets[:, 0, [5, 6]].all()
    assert not sets[:, 0, 0].any()
    assert sets.sum(axis=-1).max(axis=0).tolist() == [3, 1]


def test_the_parents_among_twenty_five_inputs_are_found():
    rng = np.random.default_rng(0)
    names = Names({f"x{i}": 2 for i in range(25)}, {"x0'": 2})
    x = rng.integers(2, size=(400, 25))
    votes = x[:, [3, 11, 19]].sum(axis=1)
    y = (rng.random(400) < np.array([0.05, 0.3, 0.7, 0.95])[votes]).astype(int)[:, None]
    known = beliefs(names, {}, max_parents=8)
    assert sum(math.comb(25, size) for size in range(9)) > 100_000
    _, found = walk.sample(walk.Config(draws=1500), known, x, y, alpha=1.0, seed=0)
    assert (found.marginals[0] > 0.5).nonzero()[0].tolist() == [3, 11, 19]
    assert search.r_hat(found).max() < 1.05
    fewer = search.screen(known, x, y, alpha=1.0, keep=8)
    assert fewer.free.sum() == 8
    screened = search.exact(fewer, x, y, alpha=1.0, draws=50, seed=0)
    assert (screened.marginals[0] > 0.5).nonzero()[0].tolist() == [3, 11, 19]
    assert (screened.members.mean(axis=(0, 1))[0, [3, 11, 19]] > 0.5).all()


def test_what_screening_keeps_is_judged_as_if_nothing_else_were_there():
    names, x, y = world(1, inputs=7, length=80)
    known = beliefs(names, {"x0'": ["x6"], ("x2", "x0'"): 0.2}, max_parents=3)
    fewer = search.screen(known, x, y, alpha=0.5, keep=3)
    assert fewer.free.sum(axis=1).tolist() == [3, 3]
    assert fewer.required[0, 6]
    masks, logs = candidates(known, 0)
    left = ~(masks & ~(fewer.free[0] | fewer.required[0])).any(axis=1)
    logs = logs[left] + Evidence(known, x, y[:, 0], 0, 0.5).logs(masks[left])
    probs = np.exp(logs - np.logaddexp.reduce(logs))
    found = search.exact(fewer, x, y, alpha=0.5, draws=1, seed=0)
    np.testing.assert_allclose(found.marginals[0], probs @ masks[left], atol=1e-12)


def test_exact_is_the_posterior_of_structure(spec):
    truth, rng = spec(0), np.random.default_rng(2)
    x, y = (rng.integers(list(sizes.values()), size=(40, len(sizes))) for sizes in (truth.inputs, truth.outputs))
    said = {"a'": ["a"], ("b", "c'"): 0.9}
    prior = graph.prior(truth, said, max_parents=3)
    state = structure.update(prior, structure.init(prior), x, y, 0.7)
    known = beliefs(truth, said, max_parents=3)
    found = search.exact(known, x, y, alpha=0.7, draws=1, seed=0)
    have, want = search.edge_marginals(known, found), structure.edge_marginals(prior, state)
    assert set(have.edges) == set(want.edges)
    for cause, effect, probability in want.edges(data="probability"):
        assert have[cause][effect]["probability"] == pytest.approx(probability, abs=1e-10)


def test_a_walk_goes_on_from_where_it_was():
    names, x, y = world(0, inputs=10, length=200)
    known = beliefs(names, {}, max_parents=4)
    config = walk.Config(draws=400)
    state, _ = walk.sample(config, known, x[:150], y[:150], alpha=0.5, seed=0)
    before = state.members.copy()
    later, found = walk.sample(walk.Config(draws=1), known, x, y, alpha=0.5, seed=1, state=state)
    assert ((later.members ^ state.members).sum(axis=-1) <= 2).all()  # one step away, without a warm-up
    np.testing.assert_array_equal(state.members, before)
    again = walk.sample(walk.Config(draws=1), known, x, y, alpha=0.5, seed=1, state=state)[1]
    np.testing.assert_array_equal(found.members, again.members)


def test_a_set_with_more_settings_than_integers_has_an_evidence():
    names = Names({f"x{i}": 1000 for i in range(30)}, {"x0'": 1000})
    rng = np.random.default_rng(0)
    x = rng.integers(1000, size=(50, 30))
    known = beliefs(names, {}, max_parents=30)
    evidence = Evidence(known, np.tile(x, (2, 1)), np.tile(x[:, 0], 2), 0, alpha=1.0)
    # each setting came twice, with the same value
    assert evidence.log(np.ones(30, dtype=bool)) == pytest.approx(50 * (math.log(1 / 1000) + math.log(2 / 1001)))


def test_walks_that_do_not_agree_are_told_so():
    members = np.zeros((2, 50, 1, 3), dtype=bool)
    members[0, :, 0, 0] = True
    members[:, ::2, 0, 1] = True
    found = search.Found(members, members.mean(axis=(0, 1)))
    assert search.r_hat(found)[0, 0] == np.inf
    assert search.r_hat(found)[0, 2] == 1
    assert search.ess(found)[0, [0, 2]].tolist() == [0, 100]


def test_what_is_wrong_with_a_search_is_said():
    names, x, y = world(0, inputs=4, length=5)
    known = beliefs(names, {}, max_parents=3)
    config = walk.Config(draws=5)
    with pytest.raises(MismatchError, match="x1: expected values from 0 to"):
        walk.sample(config, known, np.where(np.arange(4) == 1, 7, x), y, alpha=1.0, seed=0)
    with pytest.raises(MismatchError, match=r"y: expected a column for each of \[\"x0'\", \"x1'\"\], got shape"):
        walk.sample(config, known, x, y[:, :1], alpha=1.0, seed=0)
    with pytest.raises(MismatchError, match="state: expected shape"):
        walk.sample(config, known, x, y, alpha=1.0, seed=0, state=walk.State(np.zeros((1, 2, 4), dtype=bool)))
    required = beliefs(names, {"x1'": ["x0"]}, max_parents=3)
    with pytest.raises(MismatchError, match="state: x1': a walk is at a set without probability"):
        walk.sample(config, required, x, y, alpha=1.0, seed=0, state=walk.State(np.zeros((4, 2, 4), dtype=bool)))
    gap = beliefs(names, {}, max_parents=3, sizes={0: 0.5, 2: 0.5})
    with pytest.raises(ConfigError, match="sizes: x0': no step leads from 0 to 2 parents"):
        walk.sample(config, gap, x, y, alpha=1.0, seed=0)
    with pytest.raises(ConfigError, match="keep: expected at least 1"):
        search.screen(known, x, y, alpha=1.0, keep=0)
