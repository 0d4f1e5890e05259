"""Reinforcement learning: C-PSRL and our flat PSRL beside NumPy's PSRL and an agent in the manner of rlberry's.

Worlds of six binary variables and three binary actions, whose next variables have five parents each. C-PSRL is told two
of these. Flat agents see one variable of 64 values and one action of eight. An agent's one setting, how much its prior
of the transitions weighs, has one grid for all, on worlds that nothing is reported of.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from bayes_persona_envs.random_factored import random_spec

from bayes_persona.cpsrl import env, graph
from bayes_persona.cpsrl import regret as regrets
from bayes_persona.cpsrl.config import Config
from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.cpsrl.experiment import Agent, run
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from benchmarks.peers import by_numpy, by_rlberry, race
from benchmarks.peers.tabular import Table, table_of
from benchmarks.rl import worlds
from benchmarks.rows import Row, ratio

HORIZON, EPISODES, TUNED = 10, 300, 2
WEIGHTS = (1 / 16, 1 / 4, 1.0, 4.0)
Lives = Callable[[Sequence[FactoredSpec], float, int], np.ndarray]
"""Worlds, the prior's weight and a seed to the regret of each world's every episode."""


def by_cpsrl(specs: Sequence[FactoredSpec], weight: float, seed: int, episodes: int = EPISODES) -> np.ndarray:
    agent = Agent(Config(horizon=HORIZON, alpha=weight), worlds.some(2, max_parents=5))
    seeds = [child(seed, k) for k in range(len(specs))]
    return run({"mine": agent}, list(specs), episodes=episodes, seeds=seeds)["mine"].log["regret"]


def by_flat(specs: Sequence[FactoredSpec], weight: float, seed: int, episodes: int = EPISODES) -> np.ndarray:
    agent = Agent(Config(horizon=HORIZON, alpha=weight), lambda spec: graph.complete(env.flat(spec)))
    seeds = [child(seed, k) for k in range(len(specs))]
    return run({"mine": agent}, list(specs), episodes=episodes, seeds=seeds)["mine"].log["regret"]


def by_flat_rewards(specs: Sequence[FactoredSpec], weight: float, seed: int, episodes: int = EPISODES) -> np.ndarray:
    config = Config(horizon=HORIZON, alpha=weight, reward="beta_bernoulli")
    agent = Agent(config, lambda spec: graph.complete(env.flat(spec)))
    seeds = [child(seed, k) for k in range(len(specs))]
    return run({"mine": agent}, list(specs), episodes=episodes, seeds=seeds)["mine"].log["regret"]


def alone(agent: Callable[[Table, float, int], np.ndarray]) -> Lives:
    """Let a peer's agent live in one world after another, and measure its policies exactly, as ours are."""

    def live(specs: Sequence[FactoredSpec], weight: float, seed: int) -> np.ndarray:
        found = []
        for k, spec in enumerate(specs):
            best = regrets.optimum(spec, horizon=HORIZON)
            policies = agent(table_of(spec, HORIZON, EPISODES), weight, child(seed, k) % 2**32)
            found.append([best - regrets.value(spec, policy) for policy in policies])
        return np.array(found)

    return live


OURS: dict[str, Lives] = {"c_psrl": by_cpsrl, "flat_psrl": by_flat, "flat_psrl_rewards": by_flat_rewards}
PEERS: dict[str, Lives] = {"numpy_psrl": alone(by_numpy.live), "rlberry_style": alone(by_rlberry.live)}
PAIRS = (
    ("c_psrl", "numpy_psrl"),
    ("c_psrl", "rlberry_style"),
    ("flat_psrl", "numpy_psrl"),
    ("flat_psrl_rewards", "rlberry_style"),
)


def rows(count: int) -> list[Row]:
    """Choose weights on tuning worlds, compare regret in others, then time an episode of the same agent in turns."""
    began, command, settings = time.perf_counter(), "python -m benchmarks.peers --only rl", {}
    every, regret = {**OURS, **PEERS}, {}
    tuning, judged = _worlds(1, TUNED), _worlds(2, count)
    with bar("reinforcement learning", total=len(every)) as advance:
        for name, live in every.items():
            settings[name] = race.chosen(WEIGHTS, lambda weight, live=live: float(live(tuning, weight, 3).sum()))
            regret[name] = live(judged, settings[name], 4).sum(axis=1)
            advance()
    print("chosen:", settings)
    rest = {"command": command, "seconds": time.perf_counter() - began}
    mine, other = ({name: regret[name] for name in names} for names in (OURS, PEERS))
    unit = f"regret of {EPISODES} episodes"
    found = race.quality("peers.rl.regret", mine, other, (), unit, rest)
    for ours, theirs in PAIRS:
        id, about = f"peers.rl.regret.{ours}_over_{theirs}", f"{unit}, ours / the peer's"
        found.append(ratio(id, mine[ours], other[theirs], about, **rest))
    table, spec = table_of(judged[0], HORIZON, EPISODES), judged[0]
    for ours, theirs, agent in (
        ("flat_psrl", "numpy_psrl", by_numpy.live),
        ("flat_psrl_rewards", "rlberry_style", by_rlberry.live),
    ):
        for runs in (1, 20):
            unit = f"seconds of {runs} runs of {EPISODES} episodes, ours with the exact regret / the peer's"
            found.append(
                race.speed(
                    f"peers.speed.{ours}_over_{theirs}.{runs}_runs",
                    lambda ours=ours, runs=runs: OURS[ours]([spec] * runs, settings[ours], 5),
                    lambda agent=agent, theirs=theirs, runs=runs: [
                        agent(table, settings[theirs], k) for k in range(runs)
                    ],
                    unit,
                    command,
                    turns=5,
                )
            )
    return found


def _worlds(group: int, count: int) -> list[FactoredSpec]:
    return [random_spec(child(group, "peers", k) % 2**31) for k in range(count)]
