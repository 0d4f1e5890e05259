"""Act two: Gymnasium's Taxi, driven by an agent that knows part of the causal graph, and by one that sees states."""

import time
from typing import NamedTuple

import networkx as nx
import numpy as np
from jaxtyping import Float

from bayes_persona.cpsrl import agents, env, experiment, graph, regret, structure
from bayes_persona.demo.config import Config
from bayes_persona.errors import needs_extra
from bayes_persona.progress import bar
from bayes_persona.seeds import child

with needs_extra("demo"):
    import bayes_persona_envs
    import gymnasium

HORIZON = 30
MAX_PARENTS = 4
KNOWN = nx.DiGraph(
    [
        *(("row", "row'"), ("action", "row'")),
        *(("column", "column'"), ("action", "column'")),
        *(("passenger", "passenger'"), ("action", "passenger'")),
        ("destination", "destination'"),
    ]
)
"""What anyone would say before driving: each variable depends on itself, and on what the driver does."""


class Outcome(NamedTuple):
    """What one agent lost in every episode, for every driver."""

    regret: Float[np.ndarray, "drivers episodes"]
    seconds: float
    """Wall clock of one episode, planning and learning included."""


class Result(NamedTuple):
    """Every agent, and what C-PSRL's first driver learned of the graph."""

    outcomes: dict[str, Outcome]
    learned: nx.DiGraph
    truth: nx.DiGraph
    idle: float
    """Regret of an episode of driving about without a passenger: what has to be beaten."""


def compare(config: Config) -> Result:
    """Let every agent drive as many episodes, every driver with seeds that all agents share."""
    taxi = gymnasium.make(f"{bayes_persona_envs.__name__}:bayes_persona/Taxi-v0")
    spec = env.spec_of(taxi)
    partial = graph.prior(spec, KNOWN, max_parents=MAX_PARENTS)
    shared, sparse = (
        agents.Config(horizon=HORIZON, alpha=0.2),
        agents.Config(horizon=HORIZON, alpha=1 / spec.state_count),
    )
    rivals = {
        "C-PSRL": experiment.Agent(shared, lambda spec: partial),
        "PSRL without structure": experiment.Agent(shared, graph.complete),
        "flat PSRL": experiment.Agent(sparse, lambda spec: graph.complete(env.flat(spec))),
    }
    idle = regret.optimum(spec, horizon=HORIZON) + HORIZON  # every step costs 1
    outcomes, learned = {}, {}
    seeds = [child(config.seed, "driver", driver) for driver in range(config.drivers)]
    with bar("taxi", total=len(rivals)) as advance:
        for name, agent in rivals.items():
            started = time.perf_counter()
            found = experiment.run({name: agent}, spec, episodes=config.episodes, seeds=seeds)[name]
            seconds = (time.perf_counter() - started) / (config.drivers * config.episodes)
            outcomes[name], learned[name] = Outcome(found.log["regret"], seconds), found.states[0]
            advance()
    return Result(outcomes, structure.edge_marginals(partial, learned["C-PSRL"]), graph.true_graph(spec), idle)


def last_fifth(regret: Float[np.ndarray, "drivers episodes"]) -> Float[np.ndarray, " drivers"]:
    """Give every driver's regret an episode after learning."""
    return regret[:, -max(1, regret.shape[1] // 5) :].mean(axis=1)
