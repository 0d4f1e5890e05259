import gymnasium
import numpy as np
import pytest
from gymnasium.envs.toy_text.taxi import TaxiEnv

from bayes_persona.cpsrl.env import FactoredSpec, flat, from_table, joint, lamp, spec_of
from bayes_persona.errors import ConfigError

TAXI = {"row": 5, "column": 5, "passenger": 5, "destination": 4}


def as_table(spec):
    probs = joint(spec.factors)
    return {
        s: {
            a: [
                (p, y, spec.reward[x], spec.terminal[x])
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
    two_rewards = [(0.5, 0, 1.0, False), (0.5, 1, 2.0, False)]
    assert "lamp=1, switch=0 expected one (reward, terminated)" in refusal(changed(table, 1, 0, two_rewards))
    two_ends = [(0.5, 0, 1.0, False), (0.5, 1, 1.0, True)]
    assert "lamp=0, switch=1 expected one (reward, terminated)" in refusal(changed(table, 0, 1, two_ends))
    half = [(0.5, 0, 1.0, False)]
    assert "lamp=1, switch=1: expected probabilities that sum to 1" in refusal(changed(table, 1, 1, half))
    nowhere = [(1.0, 7, 1.0, False)]
    assert "lamp=0, switch=0 next state 7 is none of the 2" in refusal(changed(table, 0, 0, nowhere))
    infinite = [(1.0, 1, np.inf, False)]
    assert "lamp=0, switch=1 expected a finite number" in refusal(changed(table, 0, 1, infinite))


def test_what_is_wrong_with_a_spec_is_said():
    known = lamp()
    rest = (known.reward, known.terminal, known.initial, known.factors)
    with pytest.raises(ConfigError, match="are not all different"):
        FactoredSpec({"lamp": 2}, {"lamp": 2}, *rest)
    with pytest.raises(ConfigError, match=r"reward: the variables' sizes ask for shape \(6,\), got \(4,\)"):
        FactoredSpec({"lamp": 2}, {"switch": 3}, *rest)
    with pytest.raises(ConfigError, match="factors: expected one for each"):
        FactoredSpec({"lamp": 2}, {"switch": 2}, *rest[:3], ())
    with pytest.raises(ConfigError, match="initial: expected probabilities"):
        FactoredSpec({"lamp": 2}, {"switch": 2}, *rest[:2], np.array([1.0, 1.0]), known.factors)


def test_an_environment_without_factors_is_refused():
    with pytest.raises(ConfigError, match=r"has no fmdp_spec\(\)"):
        spec_of(gymnasium.make("FrozenLake-v1"))
