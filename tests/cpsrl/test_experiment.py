from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

from bayes_persona import run
from bayes_persona.cpsrl import agents, env, experiment, graph, regret
from bayes_persona.cpsrl.config import Config
from bayes_persona.errors import ConfigError, MismatchError, RunError
from bayes_persona.named import flatten

SHORT = Config(horizon=6, alpha=0.5)


def partial(spec):
    return graph.prior(spec, nx.DiGraph([("a", "a'")]), max_parents=2)


def flat(spec):
    return graph.complete(env.flat(spec))


AGENTS = {
    "C-PSRL": experiment.Agent(SHORT, partial),
    "flat PSRL": experiment.Agent(SHORT, flat),
    "most probable graph": experiment.Agent(replace(SHORT, method="map"), partial),
    "certainty equivalence": experiment.Agent(replace(SHORT, method="mean", epsilon=0.2), partial),
    "UCBVI": experiment.Agent(replace(SHORT, method="ucbvi"), flat),
    "RLSVI": experiment.Agent(replace(SHORT, method="rlsvi"), flat),
    "factored UCBVI": experiment.Agent(
        replace(SHORT, method="ucbvi"), lambda spec: graph.known(spec, graph.true_graph(spec))
    ),
    "learned reward": experiment.Agent(replace(SHORT, reward="normal_gamma"), partial),
}


def require_equal(one, other):
    one, other = flatten(one), flatten(other)
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", AGENTS)
def test_a_compiled_experiment_is_its_agents_step_by_step(spec, name):
    worlds = [spec(0), replace(spec(0), reward=spec(3).reward, terminal=spec(3).terminal)]
    found = experiment.run({name: AGENTS[name]}, worlds, episodes=7, seeds=(5, 6), checkpoint_every=4)[name]
    for number, (world, seed) in enumerate(zip(worlds, (5, 6), strict=True)):
        config, prior = AGENTS[name]
        state, log = run(agents.kernel(config, world, prior(world)), steps=7, seed=seed)
        np.testing.assert_array_equal(found.states[number].counts, state.counts)
        require_equal(found.states[number], state)
        require_equal({key: values[number] for key, values in found.log.items()}, as_columns(log))


def as_columns(log):
    return {name: np.array([info[name] for info in log]) for name in log[0]}


def test_runs_side_by_side_are_runs_alone(spec):
    world = spec(0)
    both = experiment.run({"it": AGENTS["C-PSRL"]}, world, episodes=5, seeds=(1, 2))["it"]
    alone = experiment.run({"it": AGENTS["C-PSRL"]}, world, episodes=5, seeds=(2,))["it"]
    require_equal(both.states[1], alone.states[0])
    np.testing.assert_allclose(both.log["regret"][1], alone.log["regret"][0], atol=1e-9)


def test_an_experiment_that_was_stopped_goes_on_as_if_it_were_not(spec, tmp_path):
    some = {name: AGENTS[name] for name in ("C-PSRL", "learned reward")}
    straight = experiment.run(some, spec(0), episodes=9, seeds=range(3), checkpoint_every=3)
    experiment.run(some, spec(0), episodes=6, seeds=range(3), checkpoint_every=3, folder=tmp_path)
    (tmp_path / "agent-01.safetensors").unlink()  # killed while the second agent was at its first episodes
    resumed = experiment.run(some, spec(0), episodes=9, seeds=range(3), checkpoint_every=3, folder=tmp_path)
    for name in some:
        for have, want in zip(resumed[name].states, straight[name].states, strict=True):
            for leaf, array in flatten(want).items():
                np.testing.assert_array_equal(flatten(have)[leaf], array)
        for key, values in straight[name].log.items():
            np.testing.assert_array_equal(resumed[name].log[key], values)
    with pytest.raises(RunError, match="has 9 episodes already, more than the 4 asked for"):
        experiment.run(some, spec(0), episodes=4, seeds=range(3), folder=tmp_path)
    with pytest.raises(MismatchError, match="seeds"):
        experiment.run(some, spec(0), episodes=9, seeds=range(4), folder=tmp_path)


def test_simulated_moves_have_the_law_of_the_world(spec):
    world = replace(spec(1), terminal=np.zeros(48, bool))
    prior = graph.complete(world)
    config = Config(horizon=50, epsilon=1.0)
    state = experiment.run({"it": experiment.Agent(config, graph.complete)}, world, episodes=40, seeds=(0, 1))["it"]
    for found in state.states:
        for j, factor in enumerate(world.factors):
            counts = found.counts[prior.starts[j, 0] :][:48, : factor.shape[1]]
            seen = counts.sum(axis=1, keepdims=True)
            errors = (counts - seen * factor) / np.sqrt(np.maximum(seen * factor * (1 - factor), 1e-9))
            assert seen.sum() == 2000
            assert np.abs(errors[seen[:, 0] > 10]).max() < 4.5


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_learns(spec, name):
    world = spec(0)
    agent = AGENTS[name]._replace(config=replace(AGENTS[name].config, epsilon=0.0))
    log = experiment.run({name: agent}, world, episodes=200, seeds=range(4))[name].log
    assert log["regret"].min() > -1e-9
    assert log["regret"][:, -40:].mean() < 0.6 * log["regret"][:, :8].mean()


def test_acting_at_random_loses_what_random_policies_lose(spec):
    world = spec(0)
    found = experiment.run(
        {"it": experiment.Agent(replace(SHORT, epsilon=1.0), partial)}, world, episodes=300, seeds=(0,)
    )["it"].log["regret"][0]
    policies = np.random.default_rng(0).integers(4, size=(300, 6, 12))
    drawn = regret.optimum(world, horizon=6) - np.array([regret.value(world, policy) for policy in policies])
    assert abs(found.mean() - drawn.mean()) < 4 * np.sqrt((found.var() + drawn.var()) / 300)


def test_what_is_wrong_with_an_experiment_is_said(spec):
    some = {"it": AGENTS["C-PSRL"]}
    with pytest.raises(ConfigError, match="0 seeds"):
        experiment.run(some, spec(0), episodes=3, seeds=())
    with pytest.raises(ConfigError, match="specs: expected 1, or 3 as there are seeds; got 2"):
        experiment.run(some, [spec(0), spec(1)], episodes=3, seeds=range(3))
    other = [spec(0), spec(0, states={"a": 2, "b": 2, "c": 3})]
    with pytest.raises(MismatchError, match="tables of different sizes"):
        experiment.run(some, other, episodes=3, seeds=range(2))
