import math

import numpy as np
import pytest
from bayes_persona_envs.random_factored import RandomFactored, random_rules, random_spec


def test_parents_are_as_many_as_asked_for_and_none_is_preferred():
    counts = np.zeros(9)
    for seed in range(200):
        for parents, table in random_rules(seed, parents=3).factors:
            assert len(set(parents)) == 3
            assert table.shape == (2, 2, 2, 2)
            for parent in parents:
                counts[(int(parent[1]) if parent[0] == "s" else 6 + int(parent[1]))] += 1
    np.testing.assert_allclose(counts / 1200, np.full(9, 1 / 3), atol=4 * math.sqrt(2 / 9 / 1200))


def test_laws_are_uniform_on_the_simplex_and_rewards_on_the_interval():
    rules = [random_rules(seed, values=3, parents=2) for seed in range(30)]
    first = np.concatenate([table[..., 0].ravel() for each in rules for _, table in each.factors])
    assert first.mean() == pytest.approx(1 / 3, abs=0.02)  # of Dirichlet(1, 1, 1)
    assert first.var() == pytest.approx(1 / 18, abs=0.006)
    local = np.concatenate([table.ravel() for each in rules for _, table in each.rewards]) * 6
    assert local.mean() == pytest.approx(0.5, abs=0.03)
    assert local.var() == pytest.approx(1 / 12, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_the_true_parents_of_the_listed_world_are_those_that_were_drawn(seed):
    rules, spec = random_rules(seed, parents=3), random_spec(seed, parents=3)
    assert list(spec.parents.values()) == [parents for parents, _ in rules.factors]
    assert spec.reward.min() >= 0
    assert spec.reward.max() <= 1
    assert not spec.terminal.any()
    np.testing.assert_allclose(spec.initial, 1 / 64)


def test_the_environment_is_the_world_of_its_seed():
    env, spec = RandomFactored(instance_seed=5, states=3, parents=2), random_spec(5, states=3, parents=2)
    np.testing.assert_array_equal(env.fmdp_spec().reward, spec.reward)
    for have, want in zip(env.fmdp_spec().factors, spec.factors, strict=True):
        np.testing.assert_array_equal(have, want)
    assert not np.array_equal(random_spec(6, states=3, parents=2).reward, spec.reward)


def test_a_variable_keeps_its_law_when_others_join():
    few, many = random_rules(1, states=3, parents=0), random_rules(1, states=5, parents=0)
    for have, want in zip(many.factors, few.factors, strict=False):
        np.testing.assert_array_equal(have.table, want.table)


def test_a_world_of_forty_variables_moves():
    env = RandomFactored(states=40, parents=3)
    env.reset(seed=0)
    assert env.step(np.array([0, 1, 0]))[0].shape == (40,)
