import os
import subprocess
import sys
from dataclasses import replace
from functools import cache

import networkx as nx
import numpy as np
import pytest

from bayes_persona import run
from bayes_persona.cpsrl import agents, env, experiment, graph, regret
from bayes_persona.cpsrl.config import Config
from bayes_persona.errors import ConfigError, MismatchError, RunError
from bayes_persona.files import load_arrays
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


SOME = {name: AGENTS[name] for name in ("UCBVI", "learned reward")}


def assert_equal(one, other):
    one, other = flatten(one), flatten(other)
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], atol=1e-9, rtol=1e-9)


@pytest.fixture(scope="module")
def lived(spec):
    """Give what an agent comes to: four runs in one world, and one where rewards and ends are others."""
    worlds = [*[spec(0)] * 4, replace(spec(0), reward=spec(3).reward, terminal=spec(3).terminal)]

    @cache
    def live(agent):
        return worlds, experiment.run({"it": agent}, worlds, episodes=200, seeds=range(5))["it"]

    return live


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_learns(lived, name):
    agent = AGENTS[name]._replace(config=replace(AGENTS[name].config, epsilon=0.0))
    lost = lived(agent)[1].log["regret"]
    assert lost.min() > -1e-9
    assert lost[:4, -40:].mean() < 0.6 * lost[:4, :8].mean()


@pytest.mark.parametrize("name", AGENTS)
def test_a_compiled_experiment_is_its_agents_step_by_step(lived, name):
    config, prior = AGENTS[name]
    worlds, found = lived(AGENTS[name])
    for number in (3, 4):
        world = worlds[number]
        state, log = run(agents.kernel(config, world, prior(world)), steps=200, seed=number)
        np.testing.assert_array_equal(found.states[number].counts, state.counts)
        assert_equal(found.states[number], state)
        assert_equal({key: values[number] for key, values in found.log.items()}, as_columns(log))


def as_columns(log):
    return {name: np.array([info[name] for info in log]) for name in log[0]}


@pytest.fixture(scope="module")
def straight(spec):
    """Give three runs of two agents, nine episodes in parts of three."""
    return experiment.run(SOME, spec(0), episodes=9, seeds=range(3), checkpoint_every=3)


def test_runs_side_by_side_are_runs_alone_and_parts_are_a_whole(spec, straight):
    for name, part in (("UCBVI", 5), ("learned reward", 9)):  # in two parts that differ, and in one
        alone = experiment.run({name: SOME[name]}, spec(0), episodes=9, seeds=(2,), checkpoint_every=part)[name]
        assert_equal(straight[name].states[2], alone.states[0])
        logs = ((straight[name].log, 2), (alone.log, 0))
        assert_equal(*({key: values[run] for key, values in log.items()} for log, run in logs))


def test_an_experiment_that_was_stopped_goes_on_as_if_it_were_not(spec, straight, tmp_path):
    experiment.run(SOME, spec(0), episodes=6, seeds=range(3), checkpoint_every=3, folder=tmp_path)
    (tmp_path / "agent-01.safetensors").unlink()  # killed while the second agent was at its first episodes
    resumed = experiment.run(SOME, spec(0), episodes=9, seeds=range(3), checkpoint_every=3, folder=tmp_path)
    for name in SOME:
        for have, want in zip(resumed[name].states, straight[name].states, strict=True):
            for leaf, array in flatten(want).items():
                np.testing.assert_array_equal(flatten(have)[leaf], array)
        for key, values in straight[name].log.items():
            np.testing.assert_array_equal(resumed[name].log[key], values)
    with pytest.raises(RunError, match="has 9 episodes already, more than the 4 asked for"):
        experiment.run(SOME, spec(0), episodes=4, seeds=range(3), folder=tmp_path)
    with pytest.raises(MismatchError, match="seeds"):
        experiment.run(SOME, spec(0), episodes=9, seeds=range(4), folder=tmp_path)


@pytest.fixture(scope="module")
def wandered(spec):
    """Give what acting at random comes to: two runs in a world that does not end, and one in another that does."""
    worlds = [*[replace(spec(1), terminal=np.zeros(48, bool))] * 2, spec(0)]
    agent = experiment.Agent(replace(SHORT, epsilon=1.0), graph.complete)
    return worlds, experiment.run({"it": agent}, worlds, episodes=300, seeds=range(3))["it"]


def test_simulated_moves_have_the_law_of_the_world(wandered):
    (world, *_), found = wandered
    prior = graph.complete(world)
    for state in found.states[:2]:
        for j, factor in enumerate(world.factors):
            counts = state.counts[prior.starts[j, 0] :][:48, : factor.shape[1]]
            seen = counts.sum(axis=1, keepdims=True)
            errors = (counts - seen * factor) / np.sqrt(np.maximum(seen * factor * (1 - factor), 1e-9))
            assert seen.sum() == 1800
            assert np.abs(errors[seen[:, 0] > 10]).max() < 4.5


def test_acting_at_random_loses_what_random_policies_lose(wandered):
    (*_, world), found = wandered
    lost = found.log["regret"][2]
    policies = np.random.default_rng(0).integers(4, size=(300, 6, 12))
    drawn = regret.optimum(world, horizon=6) - np.array([regret.value(world, policy) for policy in policies])
    assert abs(lost.mean() - drawn.mean()) < 4 * np.sqrt((lost.var() + drawn.var()) / 300)


def test_what_is_wrong_with_an_experiment_is_said(spec):
    some = {"it": AGENTS["C-PSRL"]}
    with pytest.raises(ConfigError, match="0 seeds"):
        experiment.run(some, spec(0), episodes=3, seeds=())
    with pytest.raises(ConfigError, match="specs: expected 1, or 3 as there are seeds; got 2"):
        experiment.run(some, [spec(0), spec(1)], episodes=3, seeds=range(3))
    other = [spec(0), spec(0, states={"a": 2, "b": 2, "c": 3})]
    with pytest.raises(MismatchError, match="tables of different sizes"):
        experiment.run(some, other, episodes=3, seeds=range(2))


def test_runs_on_four_devices_give_what_one_device_gives(tmp_path):
    # in processes of their own: how many devices a CPU is said to be is settled when jax starts
    script = """
import sys
import jax, numpy as np
from bayes_persona.cpsrl import env, experiment, graph
from bayes_persona.cpsrl.config import Config
from bayes_persona.files import save_arrays
from bayes_persona.files import load_arrays
from bayes_persona.named import flatten
assert jax.device_count() == int(sys.argv[1])
agents = {"told nothing": experiment.Agent(Config(horizon=5), lambda spec: graph.empty(spec, max_parents=2))}
for worlds in (env.lamp(), [env.lamp()] * 6):  # six runs on four devices: three of them take two each
    result = experiment.run(agents, worlds, episodes=20, seeds=range(6))["told nothing"]
    save_arrays(f"{sys.argv[2]}-{type(worlds).__name__}.safetensors", flatten((result.log, result.states)))
"""
    for devices in (1, 4):
        flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=1"
        environment = {**os.environ, "XLA_FLAGS": flags}
        command = [sys.executable, "-c", script, str(devices), str(tmp_path / str(devices))]
        subprocess.run(command, env=environment, check=True)
    for worlds in ("FactoredSpec", "list"):
        one, four = (load_arrays(tmp_path / f"{devices}-{worlds}.safetensors")[0] for devices in (1, 4))
        assert one.keys() == four.keys()
        assert all(np.array_equal(one[name], four[name]) for name in one)
