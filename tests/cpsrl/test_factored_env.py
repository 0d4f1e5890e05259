from dataclasses import replace
from itertools import product

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.toy_text.taxi import TaxiEnv

from bayes_persona.cpsrl.env import FactoredSpec, flat, from_table, joint, lamp, outcome, spec_of
from bayes_persona.errors import ConfigError

TAXI = {"row": 5, "column": 5, "passenger": 5, "destination": 4}


def as_table(spec):
    probs = joint(spec.factors)
    return {
        s: {
            a: [
                (p, y, outcome(spec.reward, x, y), outcome(spec.terminal, x, y))
                for x in [s * spec.action_count + a]
                for y, p in enumerate(probs[x])
            ]
            for a in range(spec.action_count)
        }
        for s in range(spec.state_count)
    }


def changed(table, state, action, moves):
    return {**table, state: {**table[state], action: moves}}


def refusal(table, states=None, actions=None):
    with pytest.raises(ConfigError) as error:
        from_table(states or {"lamp": 2}, actions or {"switch": 2}, table, np.array([1.0, 0.0]))
    return str(error.value)


@pytest.mark.parametrize("seed", range(5))
def test_a_table_gives_back_the_factors_that_it_was_made_of(spec, seed):
    truth = spec(seed)
    found = from_table(truth.states, truth.actions, as_table(truth), truth.initial)
    for have, want in zip(found.factors, truth.factors, strict=True):
        np.testing.assert_allclose(have, want, atol=1e-12)
    np.testing.assert_array_equal(found.terminal, truth.terminal)
    assert found.parents == truth.parents


def in_shape(shape, rng, x, s):
    return rng.normal(size={"x": (x,), "y": (1, s), "xy": (x, s)}[shape])


@pytest.mark.parametrize(("reward", "terminal"), list(product(["x", "y", "xy"], repeat=2)))
def test_a_table_gives_back_rewards_and_ends_in_the_smallest_shape(spec, reward, terminal):
    rng, plain = np.random.default_rng(0), spec(0)
    x, s = plain.state_count * plain.action_count, plain.state_count
    truth = replace(plain, reward=in_shape(reward, rng, x, s), terminal=in_shape(terminal, rng, x, s) > 0)
    found = from_table(truth.states, truth.actions, as_table(truth), truth.initial)
    np.testing.assert_array_equal(found.reward, truth.reward)
    np.testing.assert_array_equal(found.terminal, truth.terminal)
    np.testing.assert_array_equal(flat(truth).reward, truth.reward)
    np.testing.assert_array_equal(flat(truth).terminal, truth.terminal)


def test_moves_that_cannot_happen_do_not_make_a_shape_larger():
    certain = {
        s: {a: [(1.0, y, 10.0 * s + y, y == 1), (0.0, 1 - y, 5.0, True)] for a, y in [(0, 0), (1, 1)]} for s in (0, 1)
    }
    found = from_table({"lamp": 2}, {"switch": 2}, certain, np.array([1.0, 0.0]))
    assert found.reward.tolist() == [0.0, 1.0, 10.0, 11.0]
    assert found.terminal.tolist() == [False, True, False, True]


def test_outcomes_are_looked_up_one_by_one_or_many_at_once():
    x, y = np.array([5, 0, 3]), np.array([1, 0, 1])
    full = np.arange(12.0).reshape(6, 2)
    assert outcome(full, x, y).tolist() == [outcome(full, *pair) for pair in zip(x, y, strict=True)] == [11.0, 0.0, 7.0]
    assert outcome(full[:, 0], x, y).tolist() == [10.0, 0.0, 6.0]
    assert outcome(full[:1], x, y).tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("seed", range(5))
def test_true_parents_are_the_smallest_set_that_fixes_the_factor(spec, seed):
    truth = spec(seed, parents=3)
    sizes = list(truth.inputs.values())
    for factor, parents in zip(truth.factors, truth.parents.values(), strict=True):
        others = tuple(axis for axis, name in enumerate(truth.inputs) if name not in parents)
        assert len(others) == 2
        table = factor.reshape(*sizes, -1)
        assert np.ptp(table, axis=others).max() < 1e-12
        assert all(np.ptp(table, axis=(*others, axis)).max() > 1e-3 for axis in set(range(5)) - set(others))


def test_the_flat_view_has_the_same_law_of_the_next_state(spec):
    truth = spec(0)
    np.testing.assert_allclose(flat(truth).factors[0], joint(truth.factors))
    assert flat(truth).inputs == {"state": 12, "action": 4}


def test_rainy_taxi_is_refused_and_the_coupled_variables_are_named():
    rainy = TaxiEnv(is_rainy=True)
    with pytest.raises(ConfigError) as error:
        from_table(TAXI, {"action": 6}, rainy.P, rainy.initial_state_distrib)
    assert "row' and column' are not independent given row=0, column=0, passenger=0, destination=0, action=0" in str(
        error.value
    )


def test_three_variables_coupled_by_a_parity_are_refused():
    even = [s for s in range(8) if s.bit_count() % 2 == 0]
    table = {s: {0: [(0.25, y, 0.0, False) for y in even]} for s in range(8)}
    with pytest.raises(ConfigError, match="a' and b' and c' are not independent"):
        from_table({"a": 2, "b": 2, "c": 2}, {"wait": 1}, table, np.full(8, 1 / 8))


def test_what_is_wrong_with_a_table_is_said():
    table = as_table(lamp())
    assert "make 3 states, but the table has 2" in refusal(table, states={"lamp": 3})
    assert "make 3 actions, but the table has 2" in refusal(table, actions={"switch": 3})
    two_rewards = [(0.5, 1, 1.0, False), (0.5, 1, 2.0, False)]
    wanted = "lamp=1, switch=0, next lamp=1 expected one (reward, terminated), got (1.0, False) and (2.0, False)"
    assert wanted in refusal(changed(table, 1, 0, two_rewards))
    two_ends = [(0.5, 0, 1.0, False), (0.5, 0, 1.0, True)]
    assert "lamp=0, switch=1, next lamp=0 expected one" in refusal(changed(table, 0, 1, two_ends))
    half = [(0.5, 0, 1.0, False)]
    assert "lamp=1, switch=1: expected probabilities that sum to 1" in refusal(changed(table, 1, 1, half))
    nowhere = [(1.0, 7, 1.0, False)]
    assert "lamp=0, switch=0 next state 7 is none of the 2" in refusal(changed(table, 0, 0, nowhere))
    infinite = [(1.0, 1, np.inf, False)]
    assert "lamp=0, switch=1 expected a finite number" in refusal(changed(table, 0, 1, infinite))
    unknown = [(0.5, 0, 0.0, False), (0.5, 1, np.nan, False)]
    assert "lamp=0, switch=1, lamp'=1 expected a finite number" in refusal(changed(table, 0, 1, unknown))


def test_what_is_wrong_with_a_spec_is_said():
    known = lamp()
    rest = (known.reward, known.terminal, known.initial, known.factors)
    with pytest.raises(ConfigError, match="are not all different"):
        FactoredSpec({"lamp": 2}, {"lamp": 2}, *rest)
    sizes = r"reward: the variables' sizes ask for shape \(6,\), or \(1, 2\) .* or \(6, 2\) if on both; got \(4,\)"
    with pytest.raises(ConfigError, match=sizes):
        FactoredSpec({"lamp": 2}, {"switch": 3}, *rest)
    with pytest.raises(ConfigError, match="reward: at lamp'=1 expected a finite number"):
        FactoredSpec({"lamp": 2}, {"switch": 2}, np.array([[0.0, np.inf]]), *rest[1:])
    with pytest.raises(ConfigError, match=r"states: lamp: expected at least 2 values, got 1; .* drop it"):
        FactoredSpec({"lamp": 1}, {"switch": 2}, *rest)
    with pytest.raises(ConfigError, match=r"states: lamp: expected at least 2 values, got 0$"):
        FactoredSpec({"lamp": 0}, {"switch": 2}, *rest)
    with pytest.raises(ConfigError, match="actions: switch: expected at least 1 values, got 0"):
        FactoredSpec({"lamp": 2}, {"switch": 0}, *rest)
    with pytest.raises(ConfigError, match="states: expected at least one variable"):
        FactoredSpec({}, {"switch": 2}, *rest[:3], ())
    with pytest.raises(ConfigError, match="actions: expected at least one variable"):
        FactoredSpec({"lamp": 2}, {}, *rest)
    with pytest.raises(ConfigError, match="factors: expected one for each"):
        FactoredSpec({"lamp": 2}, {"switch": 2}, *rest[:3], ())
    with pytest.raises(ConfigError, match="initial: expected probabilities"):
        FactoredSpec({"lamp": 2}, {"switch": 2}, *rest[:2], np.array([1.0, 1.0]), known.factors)


def test_an_environment_without_factors_is_refused():
    with pytest.raises(ConfigError, match=r"has no fmdp_spec\(\)"):
        spec_of(gymnasium.make("FrozenLake-v1"))
