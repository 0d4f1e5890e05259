from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

from bayes_persona import run
from bayes_persona.contracts import check_kernel
from bayes_persona.cpsrl import agents, env, graph, regret
from bayes_persona.errors import ConfigError, MismatchError
from bayes_persona.named import flatten

CONFIG = agents.Config(horizon=5, alpha=0.5)
PRIORS = {
    "C-PSRL": lambda spec: graph.prior(spec, nx.DiGraph([("a", "a'")]), max_parents=2),
    "F-PSRL": lambda spec: graph.known(spec, graph.true_graph(spec)),
    "PSRL": graph.complete,
    "flat PSRL": lambda spec: graph.complete(env.flat(spec)),
}


def equal(one, other):
    one, other = flatten(one), flatten(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(params=PRIORS)
def kernel(request, spec, world):
    truth = spec(0)
    return agents.kernel(CONFIG, world(truth), PRIORS[request.param](truth))


def test_every_agent_keeps_the_contract_of_a_kernel(kernel):
    check_kernel(kernel)
    state, info = kernel.step(3, kernel.init(0), None)
    assert not equal(state, kernel.init(0))
    assert all(isinstance(leaf, np.ndarray) for leaf in flatten(state).values())
    assert [type(number) for number in info.values()] == [float] * 4


def test_a_run_that_was_stopped_and_resumed_is_one_that_was_not(kernel, tmp_path):
    state, log = run(kernel, steps=6, seed=1)
    run(kernel, steps=4, seed=1, folder=tmp_path, checkpoint_every=2)
    resumed, all_of_it = run(kernel, steps=6, seed=1, folder=tmp_path, checkpoint_every=2)
    assert equal(state, resumed)
    assert log == all_of_it


def test_regret_is_never_negative_and_learning_ends_it(kernel):
    _, log = run(kernel, steps=150, seed=0)
    regrets = [info["regret"] for info in log]
    assert min(regrets) > -1e-9
    assert np.mean(regrets[-30:]) < 0.5 * np.mean(regrets[:10])


def test_c_psrl_that_may_choose_nothing_is_f_psrl_draw_for_draw(spec, world):
    truth = spec(2)
    sizes = {output: len(parents) for output, parents in truth.parents.items()}
    bounded = graph.prior(truth, graph.true_graph(truth), max_parents=sizes)
    oracle = graph.known(truth, graph.true_graph(truth))
    state, log = run(agents.kernel(CONFIG, world(truth), bounded), steps=5, seed=0)
    same, again = run(agents.kernel(CONFIG, world(truth), oracle), steps=5, seed=0)
    assert equal(state, same)
    assert log == again


def test_the_true_graph_is_found(spec, world):
    truth = spec(0)
    endless = replace(truth, terminal=np.zeros(48, bool))
    kernel = agents.kernel(agents.Config(horizon=40), world(endless), graph.empty(endless, max_parents=3))
    _, log = run(kernel, steps=100, seed=0)
    assert log[0]["p_true"] < 0.01
    assert log[-1]["p_supergraph"] >= log[-1]["p_true"] > 0.9


def test_the_exact_value_is_the_mean_return(spec, world):
    truth = spec(1)
    kernel = agents.kernel(CONFIG, world(truth), graph.known(truth, graph.true_graph(truth)))
    _, log = run(kernel, steps=400, seed=0)
    best = regret.optimum(truth, horizon=5)
    errors = np.array([info["return"] - (best - info["regret"]) for info in log])
    assert abs(errors.mean()) < 4 * errors.std() / 20


def test_what_is_wrong_with_an_agent_is_said(spec, world):
    truth = spec(0)
    prior = graph.complete(truth)
    with pytest.raises(ConfigError, match="horizon: expected at least 1"):
        agents.Config(horizon=0)
    with pytest.raises(ConfigError, match="alpha: expected a finite number above 0, got inf"):
        agents.Config(alpha=float("inf"))
    other = graph.complete(env.lamp())
    with pytest.raises(MismatchError, match=r"prior: expected one for \(12, 4\) states and actions, got \(2, 2\)"):
        agents.kernel(CONFIG, world(truth), other)
    endless = replace(truth, terminal=np.zeros(48, bool))
    kernel = agents.kernel(CONFIG, world(endless, stops_after=2), prior)
    with pytest.raises(ConfigError, match="stops episodes after 2 steps; lower the horizon from 5"):
        kernel.step(0, kernel.init(0), None)
