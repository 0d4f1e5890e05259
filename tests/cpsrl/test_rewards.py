import jax
import numpy as np
import pytest

from bayes_persona.cpsrl import env, graph, planner, rewards
from bayes_persona.cpsrl.config import Config
from bayes_persona.cpsrl.experiment import Agent, run
from bayes_persona.errors import ConfigError


def learned(kind, earned):
    seen = rewards.init(kind, 2)
    x, happened = np.zeros(len(earned), dtype=int), np.ones(len(earned), dtype=bool)
    with jax.enable_x64(True):
        return np.asarray(rewards.learn(kind, seen, x, np.array(earned), happened, jax.random.key(0)))


def test_the_normal_gamma_posterior_is_the_textbooks():
    earned = np.array([2.0, 3.0, 7.0])
    seen = learned("normal_gamma", earned)
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 20_000)
        draws = np.asarray(jax.vmap(lambda key: rewards.draw("normal_gamma", seen, key))(keys))
        mean = np.asarray(rewards.mean("normal_gamma", seen))
    kappa, shape = 4, 1 + 3 / 2
    rate = 1 + 0.5 * ((earned - 4) ** 2).sum() + 3 * 16 / (2 * 4)
    assert mean.tolist() == [3.0, 0.0]
    np.testing.assert_allclose(draws[:, 0].mean(), 3.0, atol=0.05)
    np.testing.assert_allclose(draws[:, 0].var(), rate / (kappa * (shape - 1)), rtol=0.1)


def test_the_beta_posterior_is_the_textbooks():
    seen = learned("beta_bernoulli", [1.0, 1.0, 0.0, 1.0])
    assert seen[0, :2].tolist() == [4.0, 3.0]
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 20_000)
        draws = np.asarray(jax.vmap(lambda key: rewards.draw("beta_bernoulli", seen, key))(keys))[:, 0]
        assert np.asarray(rewards.mean("beta_bernoulli", seen))[0] == pytest.approx(4 / 6)
    assert abs(draws.mean() - 4 / 6) < 0.005
    assert abs(draws.var() - 4 * 2 / (36 * 7)) < 0.002


def test_a_share_falls_as_often_as_it_says():
    seen = learned("beta_bernoulli", np.full(4000, 0.3))
    assert abs(seen[0, 1] / 4000 - 0.3) < 0.03


def test_moves_that_did_not_happen_teach_nothing():
    seen = rewards.learn(
        "normal_gamma", np.zeros((2, 3)), np.array([0, 1]), np.ones(2), np.array([True, False]), jax.random.key(0)
    )
    assert np.asarray(seen)[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["normal_gamma", "beta_bernoulli"])
def test_a_lamp_whose_reward_is_learned_is_lit(kind):
    agent = Agent(Config(horizon=5, reward=kind), graph.complete)
    log = run({"it": agent}, env.lamp(), episodes=60, seeds=range(4))["it"].log
    assert log["regret"][:, -10:].max() < 1e-9


def dense(spec, horizon):
    probs, x = env.joint(spec.factors), len(spec.factors[0])
    reward = np.broadcast_to(spec.reward if spec.reward.ndim == 2 else spec.reward[:, None], probs.shape)
    ends = np.broadcast_to(spec.terminal if spec.terminal.ndim == 2 else spec.terminal[:, None], probs.shape)
    value = np.zeros(spec.state_count)
    for _ in range(horizon):
        value = (probs * (reward + ~ends * value)).sum(axis=1).reshape(-1, x // spec.state_count).max(axis=1)
    return value


@pytest.mark.parametrize("reward", ["x", "y", "xy"])
@pytest.mark.parametrize("terminal", ["x", "y", "xy"])
def test_rewards_and_ends_of_all_three_shapes_are_planned_for(spec, reward, terminal):
    truth, rng = spec(0), np.random.default_rng(0)
    shapes = {"x": (48,), "y": (1, 12), "xy": (48, 12)}
    truth = env.FactoredSpec(
        truth.states,
        truth.actions,
        rng.normal(size=shapes[reward]),
        rng.random(shapes[terminal]) < 0.3,
        truth.initial,
        truth.factors,
    )
    best = planner.plan(truth.factors, truth.reward, truth.terminal, horizon=4)
    np.testing.assert_allclose(best.value, dense(truth, 4), atol=1e-12)
    followed = planner.evaluate(best.policy, truth.factors, truth.reward, truth.terminal)
    np.testing.assert_allclose(followed, best.value, atol=1e-12)
    log = run({"it": Agent(Config(horizon=4), graph.complete)}, truth, episodes=30, seeds=range(8))["it"].log
    assert log["regret"].min() > -1e-9


def test_what_cannot_be_learned_is_said():
    with pytest.raises(ConfigError, match="reward: ucbvi needs a known one"):
        Config(method="ucbvi", reward="normal_gamma")
    with pytest.raises(ConfigError, match="epsilon: expected 0 to 1, got 2"):
        Config(epsilon=2.0)
