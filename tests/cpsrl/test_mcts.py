from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from bayes_persona_envs.factored_world import FactoredWorld
from bayes_persona_envs.sysadmin import SysAdmin
from bayes_persona_envs.wrappers import Flat
from gymnasium.wrappers import TimeLimit

from bayes_persona import run
from bayes_persona.contracts import check_kernel
from bayes_persona.cpsrl import factors, graph, local, mcts, planner, structure
from bayes_persona.cpsrl.local import Local, LocalSpec
from bayes_persona.errors import ConfigError, MismatchError
from bayes_persona.named import flatten

QUICK = mcts.Config(horizon=3, alpha=0.5, simulations=20)


def small_world(seed, ends=0.15):
    """Give a random world of 6 states and 4 actions, in two variables each."""
    rng = np.random.default_rng(seed)
    laws = (
        Local(("b", "left"), rng.dirichlet(np.full(2, 0.3), (3, 2))),
        Local(("a", "right", "b"), rng.dirichlet(np.full(3, 0.3), (2, 2, 3))),
    )
    rewards = (Local(("a", "left"), rng.random((2, 2))), Local(("b", "right"), rng.random((3, 2))))
    stops = (Local(("b'", "left"), rng.random((3, 2)) < ends),)
    states, actions = {"a": 2, "b": 3}, {"left": 2, "right": 2}
    return LocalSpec(states, actions, laws, rewards, stops, (np.ones(2) / 2, np.ones(3) / 3))


@pytest.mark.parametrize(("seed", "batch"), [(0, 16), (1, 16), (2, 16), (2, 1)])
def test_a_long_search_does_what_is_best(seed, batch):
    world = small_world(seed)
    listed = world.dense()
    config = mcts.Config(horizon=3, simulations=800, batch=batch)
    best, rest = (planner.plan(listed.factors, listed.reward, listed.terminal, horizon=left) for left in (3, 2))
    for number in (0, 1, 3, 5):
        state = np.array(np.unravel_index(number, (2, 3)))
        action = mcts.decide(config, world, state, step=0, seed=0)
        # it, and the best from then on, is worth as much as the best: another action may be all but as good
        policy = np.concatenate([np.full((1, 6), action), rest.policy])
        worth = planner.evaluate(policy, listed.factors, listed.reward, listed.terminal)[number]
        assert best.value[number] - worth < 0.02


def test_with_one_step_left_it_is_a_bandit():
    world = small_world(4)
    listed = world.dense()
    best = planner.plan(listed.factors, listed.reward, listed.terminal, horizon=1).policy[0]
    config = mcts.Config(horizon=5, simulations=4, batch=3)
    for number in range(6):
        state = np.array(np.unravel_index(number, (2, 3)))
        assert mcts.decide(config, world, state, step=4, seed=number) == best[number]


def test_more_simulations_lose_less():
    losses = []
    for simulations in (6, 400):
        config = mcts.Config(horizon=4, simulations=simulations)
        losses.append(mcts.planner_gap(config, small_world(1, ends=0), seeds=range(12)).loss)
    assert losses[0].mean > 3 * losses[1].mean >= 0
    assert losses[1].high < losses[0].low


def test_the_gap_is_what_returns_differ_by():
    world, config = small_world(2, ends=0), mcts.Config(horizon=3, simulations=6)
    gap = mcts.planner_gap(config, world, seeds=range(150))
    listed = world.dense()
    plan = planner.plan(listed.factors, listed.reward, listed.terminal, horizon=3)
    assert gap.optimum == pytest.approx(listed.initial @ plan.value)
    prior = graph.known(world, graph.true_graph(world))
    # an agent that has seen everything a million times searches in the true world
    known = structure.State(np.zeros_like(structure.init(prior).counts), np.zeros((2, 1)))
    for j, (_, table) in enumerate(world.factors):
        names = world.factors[j].parents
        order = np.argsort([list(world.inputs).index(name) for name in names])
        rows = np.transpose(table, [*order, len(names)]).reshape(-1, table.shape[-1])
        start = prior.starts[j, 0]
        known.counts[start : start + len(rows), : rows.shape[1]] = (rows * 1e8).astype(int)
    agent = mcts.kernel(config, world, prior)
    returns = np.array([agent.step(seed, known, None)[1]["return"] for seed in range(150)])
    error = returns.std() / np.sqrt(150)
    assert abs(returns.mean() - (gap.optimum - gap.loss.mean)) < 4 * error


@pytest.mark.parametrize("make", [lambda spec: spec, FactoredWorld])
def test_an_agent_keeps_the_contract_of_a_kernel(make):
    world = small_world(0)
    agent = mcts.kernel(QUICK, make(world), graph.empty(world, max_parents=2))
    check_kernel(agent)
    state, log = run(agent, steps=4, seed=3)
    again, same = run(agent, steps=4, seed=3)
    assert log == same
    assert list(log[0]) == ["return", "p_true", "p_supergraph", "simulations"]
    assert all(np.array_equal(flatten(state)[name], flatten(again)[name]) for name in flatten(state))
    assert 4 <= state.counts.sum() / len(flatten(state)["log_evidence"].T) / 2 <= 12  # moves, for every candidate


def test_a_view_of_one_variable_is_searched_as_such():
    seen = Flat(FactoredWorld(small_world(0)))
    world = local.spec_of(seen)
    assert (world.inputs, world.parents) == ({"state": 6, "action": 4}, {"state'": ("state", "action")})
    agent = mcts.kernel(QUICK, seen, graph.complete(world))
    state, log = run(agent, steps=2, seed=0)
    assert 2 <= state.counts.sum() == sum(info["simulations"] for info in log) / QUICK.simulations


def test_a_drawn_world_has_the_tables_that_factors_draw():
    world = small_world(0)
    prior = graph.prior(world, {"a'": ["left"]}, max_parents=3)
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(size, size=400) for size in world.inputs.values()], axis=1)
    seen = structure.update(prior, structure.init(prior), x, world.move(x, rng.random((400, 2))), 1.0)
    sharp = seen._replace(counts=seen.counts * 10_000)
    choice = structure.sample(prior, sharp, 0)
    want = factors.sample(prior, sharp, choice, alpha=1.0, seed=5)
    have = mcts.draw(world, prior, sharp, alpha=1.0, seed=5).dense().factors
    for one, other in zip(have, want, strict=True):
        assert np.abs(one - other).max() < 0.01


def test_a_trillion_states_are_no_more_than_forty_variables():
    env = SysAdmin(machines=40)
    world = env.local_spec()
    prior = graph.prior(world, {output: [output[:-1], "reboot"] for output in world.outputs}, max_parents=3)
    agent = mcts.kernel(mcts.Config(horizon=2, simulations=41, lookahead=2), env, prior)
    state, log = run(agent, steps=2, seed=0)
    assert world.state_count == 2**40
    assert 0 < log[-1]["return"] <= 2
    assert 0 < log[-1]["p_supergraph"] < 1e-6
    assert state.counts.sum() == 4 * 40 * prior.members.shape[1]


def test_a_network_of_twelve_machines_is_learned_to_be_kept_up():
    world, horizon = SysAdmin(machines=12).local_spec(), 40
    config = mcts.Config(horizon=horizon, alpha=0.2, simulations=60, lookahead=4)
    agent = mcts.kernel(config, world, graph.known(world, graph.true_graph(world)))
    _, log = run(agent, steps=20, seed=0)
    learned = np.array([info["return"] for info in log])[-5:]
    rng, copies, idle = np.random.default_rng(0), 200, 0.0
    states = world.first(rng.random((copies, 12)))
    for _ in range(horizon):
        before = np.concatenate([states, rng.integers(13, size=(copies, 1))], axis=1)
        states = world.move(before, rng.random(states.shape))
        idle += world.earned(before, states).mean()
    assert learned.mean() > 1.15 * idle


def test_what_is_wrong_with_an_agent_is_said():
    world = small_world(0, ends=0)
    prior = graph.complete(world)
    for name, value in (("horizon", 0), ("lookahead", 0), ("batch", 0)):
        with pytest.raises(ConfigError, match=f"{name}: expected at least 1, got 0"):
            replace(QUICK, **{name: value})
    with pytest.raises(ConfigError, match="alpha: expected a finite number above 0"):
        mcts.Config(alpha=0.0)
    with pytest.raises(ConfigError, match="exploration: expected a finite number of at least 0"):
        mcts.Config(exploration=float("nan"))
    with pytest.raises(MismatchError, match="prior: expected one for"):
        mcts.kernel(QUICK, world, graph.complete(SysAdmin(machines=3).local_spec()))
    with pytest.raises(ConfigError, match="simulations: expected one for each of the 4 actions at least, got 3"):
        mcts.kernel(replace(QUICK, simulations=3), world, prior)
    with pytest.raises(ConfigError, match=r"has no local_spec\(\)"):
        mcts.kernel(QUICK, gymnasium.make("CartPole-v1"), prior)
    agent = mcts.kernel(QUICK, TimeLimit(FactoredWorld(world), max_episode_steps=2), prior)
    with pytest.raises(ConfigError, match="stops episodes after 2 steps; lower the horizon from 3"):
        agent.step(0, agent.init(0), None)
    with pytest.raises(ConfigError, match="512 states are too many to compare with"):
        mcts.planner_gap(QUICK, SysAdmin(machines=9).local_spec(), seeds=[0])
