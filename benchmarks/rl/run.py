"""C-PSRL against its bars: `python -m benchmarks.rl.run [--only exact random taxi …]`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from bayes_persona.cpsrl import experiment, graph
from bayes_persona.cpsrl.config import Config as Told
from bayes_persona.cpsrl.experiment import Agent
from bayes_persona.cpsrl.regret import optimum
from benchmarks.rl import exact, speed, surprise, worlds
from benchmarks.rows import Row, ratio, row, save

Part = Literal["exact", "calibration", "random", "wrong", "eta", "taxi", "surprise", "sepsis", "speed"]
PARTS = ("exact", "calibration", "random", "wrong", "eta", "taxi", "surprise", "sepsis", "speed")


@dataclass(frozen=True)
class Config:
    """What to measure."""

    only: tuple[Part, ...] = PARTS
    """Parts to measure; the rows of the others are kept."""
    seeds: int = 20
    """Runs of every agent; in random worlds each has its own, which all agents share."""
    folder: Path | None = None
    """Where to keep what was done, to go on from there."""


Runs = dict[str, experiment.Result]
TUNED = (0.003, 0.01, 0.03, 0.1)
"""Scales of the bonus or the noise; each agent that has one is tuned among them, on worlds that are not reported."""


def compare(
    config: Config, part: str, agents: dict[str, Agent], specs, episodes: int, seeds: Sequence[int] | None = None
) -> Runs:
    """Run all agents in the same worlds with the same seeds."""
    folder = None if config.folder is None else config.folder / part
    seeds = range(config.seeds) if seeds is None else seeds
    return experiment.run(agents, specs, episodes=episodes, seeds=seeds, folder=folder, title=part)


def regret(runs: Runs, name: str, *, first: int = 0, last: int = 0) -> np.ndarray:
    """Give each run's regret, all of it or an episode's in the first or last ones."""
    found = runs[name].log["regret"]
    if first or last:
        return (found[:, :first] if first else found[:, -last:]).mean(axis=1)
    return found.sum(axis=1)


def tuned(agents: dict[str, Agent], specs, episodes: int, seeds: Sequence[int]) -> dict[str, Agent]:
    """Choose each agent's scale by its regret on tuning worlds."""
    best = {}
    for name, agent in agents.items():
        tried = {str(scale): agent._replace(config=replace(agent.config, scale=scale)) for scale in TUNED}
        runs = experiment.run(tried, specs, episodes=episodes, seeds=seeds, title=f"{name}: scale")
        best[name] = tried[min(tried, key=lambda scale: regret(runs, scale).mean())]
    return best


def random(config: Config) -> list[Row]:
    """Compare agents in random factored worlds (9 inputs, 6 outputs, binary, 5 parents, 10 steps, 300 episodes)."""
    started, told = time.perf_counter(), Told(horizon=10)
    flat = replace(told, alpha=1 / 64)
    agents = {"fpsrl": Agent(told, worlds.everything)}
    agents |= {f"cpsrl_eta{eta}": Agent(told, worlds.some(eta, max_parents=5)) for eta in (2, 4, 3, 1, 0)}
    agents |= {
        "complete_psrl": Agent(told, graph.complete),
        "flat_psrl": Agent(flat, worlds.flat),
        "partial_psrl": Agent(told, worlds.some_taken_for_all(2)),
        "map_graph": Agent(replace(told, method="map"), worlds.some(2, max_parents=5)),
        "certainty_equivalence": Agent(replace(told, method="mean"), worlds.some(2, max_parents=5)),
    }
    optimists = {
        "ucbvi": Agent(replace(flat, method="ucbvi"), worlds.flat),
        "factored_ucbvi": Agent(replace(told, method="ucbvi"), worlds.everything),
        "rlsvi": Agent(replace(flat, method="rlsvi"), worlds.flat),
    }
    agents |= tuned(optimists, worlds.random_worlds(5, parents=5, seed=1), 300, range(100, 105))
    runs = compare(config, "random", agents, worlds.random_worlds(config.seeds, parents=5), 300)
    make = _maker("random", started)
    rows = _of_each("random_factored", runs, make)
    rows += [
        make(ratio, "random_factored.regret_over_fpsrl", regret(runs, "cpsrl_eta2"), regret(runs, "fpsrl"), RATIO),
        make(
            ratio,
            "random_factored.regret_over_complete",
            regret(runs, "cpsrl_eta2"),
            regret(runs, "complete_psrl"),
            RATIO,
        ),
    ]
    return rows


def wrong(config: Config) -> list[Row]:
    """Tell agents what is not so (binary, 3 parents, 10 steps, 300 episodes: the table of misspecified priors)."""
    started, told = time.perf_counter(), Told(horizon=10)
    agents = {
        "fpsrl": Agent(told, worlds.everything),
        "one_right": Agent(told, worlds.some(1, max_parents=3)),
        "one_wrong_hard": Agent(told, worlds.one_wrong(max_parents=3)),
        "one_wrong_hard_slack": Agent(told, worlds.one_wrong(max_parents=4)),
        "one_wrong_soft": Agent(told, worlds.one_wrong(max_parents=3, probability=0.9)),
        "two_taken_for_all": Agent(told, worlds.some_taken_for_all(2)),
        "complete": Agent(told, graph.complete),
    }
    runs = compare(config, "wrong", agents, worlds.random_worlds(config.seeds, parents=3), 300)
    make = _maker("wrong", started)
    soft, right = regret(runs, "one_wrong_soft"), regret(runs, "one_right")
    return [
        *_of_each("misspecified", runs, make),
        make(ratio, "soft_edges_regret_ratio", soft, right, "regret with one wrong edge at 9:1 / with one right edge"),
    ]


def eta(config: Config) -> list[Row]:
    """Vary what is known where it matters: 13 inputs, and the posterior of the graph early on."""
    started, told, rows = time.perf_counter(), Told(horizon=10), []
    specs = worlds.random_worlds(config.seeds, parents=4, states=8, actions=5)
    agents = {f"eta{known}": Agent(told, worlds.some(known, max_parents=4)) for known in range(5)}
    runs = compare(config, "eta", agents, specs, 60)
    make = _maker("eta", started)
    for name, result in runs.items():
        reached = (result.log["p_true"] > 0.5).any(axis=1)
        first = np.where(reached, (result.log["p_true"] > 0.5).argmax(axis=1), 60)
        rows += [
            make(row, f"eta.{name}.regret", regret(runs, name), "60 episodes"),
            make(row, f"eta.{name}.episodes_to_true_graph", first, "episodes until its probability passes 1/2"),
            make(row, f"eta.{name}.p_supergraph", result.log["p_supergraph"][:, -1], "after 60 episodes"),
        ]
    return rows


def taxi(config: Config) -> list[Row]:
    """Drive Gymnasium's taxi (30 steps, 300 episodes)."""
    started, told = time.perf_counter(), Told(horizon=30, alpha=0.2)
    spec = worlds.taxi()
    agents = {
        "cpsrl": Agent(told, worlds.taxi_graph()),
        "cpsrl_eta0": Agent(told, lambda spec: graph.empty(spec, max_parents=4)),
        "fpsrl": Agent(told, worlds.everything),
        "complete_psrl": Agent(told, graph.complete),
        "flat_psrl": Agent(replace(told, alpha=1 / 500), worlds.flat),
    }
    runs = compare(config, "taxi", agents, spec, 300)
    make = _maker("taxi", started)
    last = {name: regret(runs, name, last=50) for name in runs}
    rows = _of_each("taxi5", runs, make)
    return [*rows, make(ratio, "taxi5.last50_over_flat", last["cpsrl"], last["flat_psrl"], RATIO)]


def sepsis(config: Config) -> list[Row]:
    """Treat simulated patients (20 steps, 300 episodes).

    A flat agent draws 16.6 million cells an episode, so the flat ones have fewer runs and episodes.
    """
    from bayes_persona_envs.sepsis import natural_graph

    started, told, spec = time.perf_counter(), Told(horizon=20, alpha=0.5), worlds.hospital()
    flat = replace(told, alpha=1 / 1440)
    agents = {
        "cpsrl": Agent(told, lambda spec: graph.prior(spec, natural_graph(), max_parents=6)),
        "fpsrl": Agent(told, worlds.everything),
    }
    flats = {
        "flat_psrl": Agent(flat, worlds.flat),
        "ucbvi": Agent(replace(flat, method="ucbvi", scale=0.01), worlds.flat),
    }
    runs = compare(config, "sepsis", agents, spec, 300)
    runs |= compare(config, "sepsis-flat", flats, spec, 100, range(min(config.seeds, 4)))
    make, rows = _maker("sepsis", started), []
    best = float(optimum(spec, horizon=told.horizon))
    for name, result in runs.items():
        value, episodes = best - result.log["regret"], result.log["regret"].shape[1]
        smooth = np.apply_along_axis(lambda one: np.convolve(one, np.full(10, 0.1), "valid"), 1, value)
        reached = smooth >= 0.9 * best
        first = np.where(reached.any(axis=1), reached.argmax(axis=1) + 10, episodes)
        rows += [
            make(row, f"sepsis.{name}.regret_first100", regret(runs, name, first=100), "an episode, in the first 100"),
            make(row, f"sepsis.{name}.episodes_to_90", first, f"until ten average 0.9 V*; {episodes} if never"),
            make(row, f"sepsis.{name}.value_last50", value[:, -50:].mean(axis=1), f"of {best:.3f}"),
        ]
    return rows


RATIO = "ratio of mean regrets, pairs resampled"


def _maker(part: str, started: float) -> Callable[..., Row]:
    """Give a function that makes rows of a part, with the seconds that it took so far."""

    def make(kind: Callable[..., Row], id: str, *values) -> Row:
        command = f"python -m benchmarks.rl.run --only {part}"
        return kind(f"cpsrl.{id}", *values, command=command, seconds=time.perf_counter() - started)

    return make


def _of_each(world: str, runs: Runs, make: Callable[..., Row]) -> list[Row]:
    rows = []
    for name, result in runs.items():
        episodes = result.log["regret"].shape[1]
        rows += [
            make(row, f"{world}.{name}.regret", regret(runs, name), f"{episodes} episodes"),
            make(row, f"{world}.{name}.regret_last50", regret(runs, name, last=50), "an episode, in the last 50"),
            make(row, f"{world}.{name}.p_supergraph", result.log["p_supergraph"][:, -1], "after the last episode"),
        ]
    return rows


def main(config: Config) -> None:
    parts = {
        "exact": lambda config: exact.rows(),
        "calibration": lambda config: exact.calibration_rows(),
        "random": random,
        "wrong": wrong,
        "eta": eta,
        "taxi": taxi,
        "surprise": lambda config: surprise.rows(config.seeds),
        "sepsis": sepsis,
        "speed": lambda config: speed.rows(),
    }
    for name in config.only:
        save("cpsrl", parts[name](config))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
