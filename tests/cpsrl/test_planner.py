import jax
import numpy as np
import pytest

from bayes_persona.cpsrl import planner, regret
from bayes_persona.cpsrl.env import flat, joint

SHAPES = [{"a": 2, "b": 3, "c": 2}, {"a": 5}, {"a": 2, "b": 4}, {"a": 2, "b": 2, "c": 2, "d": 3}]


def dense_induction(spec, horizon):
    """Plan with the whole p(s' | s, a), in loops, as the textbook does."""
    probs = joint(spec.factors)
    value = np.zeros(spec.state_count)
    policy = np.zeros((horizon, spec.state_count), dtype=int)
    for step in reversed(range(horizon)):
        scores = np.zeros((spec.state_count, spec.action_count))
        for state, action in np.ndindex(*scores.shape):
            x = state * spec.action_count + action
            scores[state, action] = spec.reward[x] + (0 if spec.terminal[x] else probs[x] @ value)
        value, policy[step] = scores.max(axis=1), scores.argmax(axis=1)
    return policy, value


@pytest.mark.parametrize("states", SHAPES)
def test_planning_is_brute_force_backward_induction(spec, states):
    for seed in range(3):
        truth = spec(seed, states=states)
        policy, value = dense_induction(truth, 6)
        best = planner.plan(truth.factors, truth.reward, truth.terminal, horizon=6)
        np.testing.assert_allclose(best.value, value, atol=1e-12)
        np.testing.assert_array_equal(best.policy, policy)


@pytest.mark.parametrize("states", SHAPES)
def test_following_the_best_policy_earns_the_best_value(spec, states):
    truth = spec(0, states=states)
    best = planner.plan(truth.factors, truth.reward, truth.terminal, horizon=6)
    earned = planner.evaluate(best.policy, truth.factors, truth.reward, truth.terminal)
    np.testing.assert_allclose(earned, best.value, atol=1e-12)


def test_no_policy_beats_the_best_one(spec):
    truth = spec(1)
    best = regret.optimum(truth, horizon=4)
    policies = np.random.default_rng(0).integers(truth.action_count, size=(20, 4, truth.state_count))
    assert all(regret.value(truth, policy) < best for policy in policies)


def test_the_flat_view_has_the_same_plan(spec):
    truth, whole = spec(2), flat(spec(2))
    factored = planner.plan(truth.factors, truth.reward, truth.terminal, horizon=5)
    np.testing.assert_allclose(
        planner.plan(whole.factors, whole.reward, whole.terminal, horizon=5).value, factored.value, atol=1e-12
    )


def test_with_one_step_only_the_reward_counts(spec):
    truth = spec(3)
    one = planner.plan(truth.factors, truth.reward, truth.terminal, horizon=1)
    np.testing.assert_array_equal(one.value, truth.reward.reshape(12, 4).max(axis=1))


def test_planning_in_float64_leaves_the_users_jax_alone(spec):
    truth = spec(0)
    assert planner.plan(truth.factors, truth.reward, truth.terminal, horizon=2).value.dtype == np.float64
    assert jax.numpy.zeros(1).dtype == np.float32
