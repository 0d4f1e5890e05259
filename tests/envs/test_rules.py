from dataclasses import replace

import numpy as np
import pytest
from bayes_persona_envs.random_factored import random_rules, random_spec
from bayes_persona_envs.rules import Local, rules_of
from bayes_persona_envs.sepsis import Sepsis

from bayes_persona.cpsrl.env import FactoredSpec, joint, lamp, outcome
from bayes_persona.errors import ConfigError


def settings(sizes):
    return np.indices(sizes).reshape(len(sizes), -1).T


def small(seed, reward, terminal):
    """A world with sizes that differ and an outcome of each shape."""
    rng, sizes = np.random.default_rng(seed), [2, 3, 2, 2]
    shapes = {"x": (24,), "y": (1, 6), "xy": (24, 6)}
    factors = (rng.dirichlet(np.ones(2), 24), np.repeat(rng.dirichlet(np.ones(3), 12), 2, axis=0))
    return FactoredSpec(
        dict(zip("ab", sizes[:2], strict=True)),
        dict(zip("cd", sizes[2:], strict=True)),
        rng.normal(size=shapes[reward]),
        rng.random(shapes[terminal]) < 0.3,
        rng.dirichlet(np.ones(6)),
        factors,
    )


@pytest.mark.parametrize(("reward", "terminal"), [("x", "y"), ("y", "xy"), ("xy", "x")])
def test_a_spec_survives_the_way_to_tables_and_back(reward, terminal):
    spec = small(0, reward, terminal)
    again = rules_of(spec).spec()
    assert (again.states, again.actions, again.parents) == (spec.states, spec.actions, spec.parents)
    np.testing.assert_array_equal(again.reward, spec.reward)
    np.testing.assert_array_equal(again.terminal, spec.terminal)
    np.testing.assert_array_equal(again.initial, spec.initial)
    for have, want in zip(again.factors, spec.factors, strict=True):
        np.testing.assert_allclose(have, want)
    assert rules_of(spec).factors[1].parents == ("a", "b", "c")


@pytest.mark.parametrize(("reward", "terminal"), [("x", "y"), ("y", "xy"), ("xy", "x")])
def test_what_a_move_earns_and_ends_is_what_the_spec_says_for_all_moves(reward, terminal):
    spec = small(1, reward, terminal)
    rules = rules_of(spec)
    x, y = (grid.ravel() for grid in np.indices([24, 6]))
    before, after = settings([2, 3, 2, 2])[x], settings([2, 3])[y]
    np.testing.assert_allclose(rules.earned(before, after), outcome(spec.reward, x, y))
    np.testing.assert_array_equal(rules.ended(before, after), outcome(spec.terminal, x, y))


def test_moves_are_as_frequent_as_their_law_says():
    spec = small(2, "x", "x")
    rng, copies = np.random.default_rng(0), 20_000
    before = np.repeat(settings([2, 3, 2, 2])[[5, 22]], copies, axis=0)
    after = rules_of(spec).move(before, rng.random((2 * copies, 2)))
    for part, law in zip(np.split(after, 2), joint(spec.factors)[[5, 22]], strict=True):
        seen = np.bincount(np.ravel_multi_index(tuple(part.T), (2, 3)), minlength=6) / copies
        np.testing.assert_allclose(seen, law, atol=4 * np.sqrt(0.25 / copies))


def test_first_states_are_as_frequent_as_their_law_says():
    spec = small(3, "x", "x")
    first = rules_of(spec).first(np.random.default_rng(0).random((20_000, 1)))
    seen = np.bincount(np.ravel_multi_index(tuple(first.T), (2, 3)), minlength=6) / 20_000
    np.testing.assert_allclose(seen, spec.initial, atol=0.015)
    free = random_rules(0, states=3, values=3, parents=1)
    several = free.first(np.random.default_rng(0).random((9_000, free.first_draws)))
    np.testing.assert_allclose(
        np.unique(several, axis=0, return_counts=True)[1] / 9_000, np.full(27, 1 / 27), atol=0.01
    )


@pytest.mark.parametrize("number", [0.0, np.nextafter(1.0, 0.0)])
def test_what_cannot_happen_does_not_even_with_the_least_and_largest_number(number):
    rules = Sepsis().rules
    before = settings([*rules.inputs.values()])[::7]
    after = rules.move(before, np.full((len(before), 8), number))
    for column, (parents, table) in enumerate(rules.factors):
        at = tuple(before[:, list(rules.inputs).index(name)] for name in parents)
        assert table[(*at, after[:, column])].min() > 0
    first = rules.first(np.array([[number]]))
    assert rules.initial.reshape(*rules.states.values())[tuple(first[0])] > 0


def test_a_sum_of_local_rewards_is_their_sum():
    rules = random_rules(4, states=4, actions=2, parents=2)
    before = settings([2] * 6)
    total = sum(
        table[tuple(before[:, list(rules.inputs).index(name)] for name in parents)] for parents, table in rules.rewards
    )
    np.testing.assert_allclose(random_spec(4, 4, 2, 2, 2).reward, total)


def test_what_is_wrong_with_rules_is_said():
    rules = rules_of(lamp())
    with pytest.raises(ConfigError, match="factors: expected one for each of"):
        replace(rules, factors=())
    with pytest.raises(ConfigError, match="factor lamp': 'door' is none of the variables"):
        replace(rules, factors=(Local(("door",), np.eye(2)),))
    with pytest.raises(ConfigError, match=r"factor lamp': .* shape \(2, 2\), got \(2, 3\)"):
        replace(rules, factors=(Local(("lamp",), np.ones((2, 3)) / 3),))
    with pytest.raises(ConfigError, match="factor lamp': expected probabilities"):
        replace(rules, factors=(Local(("lamp",), np.ones((2, 2))),))
    with pytest.raises(ConfigError, match=r"rewards: .* shape \(2,\), got \(3,\)"):
        replace(rules, rewards=(Local(("lamp'",), np.ones(3)),))
    with pytest.raises(ConfigError, match="initial: expected probabilities"):
        replace(rules, initial=np.array([0.5, 0.6]))
    with pytest.raises(ConfigError, match="initial: expected a law of"):
        replace(rules, initial=np.full(3, 1 / 3))
