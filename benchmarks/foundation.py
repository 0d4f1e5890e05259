"""What the foundation costs and what the main job shows: `python -m benchmarks.foundation [--only taxi …]`."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tyro

from bayes_persona.demo.config import Config as Demo
from bayes_persona.demo.taxi import last_fifth
from bayes_persona.files import load_json
from bayes_persona.world import splits
from benchmarks.rl.plain import race
from benchmarks.rows import Row, row, save

Part = Literal["demo", "test", "taxi", "world"]


@dataclass(frozen=True)
class Config:
    """Which parts to measure."""

    only: tuple[Part, ...] = ("taxi", "world", "demo", "test")
    """Parts to measure; the rows of the others are kept."""


def demo() -> list[Row]:
    command = "make demo"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "bayes_persona.cli", "demo"], check=True)
    seconds = time.perf_counter() - started
    results = load_json(Demo().out / "results.json")
    shutil.copy(Demo().out / "overview.svg", "docs/overview.svg")
    rows = [row("demo.seconds", seconds, "s", command=command, seconds=seconds)]

    def add(id: str, values, unit: str) -> None:
        rows.append(row(id, np.asarray(values), unit, command=command, seconds=seconds))

    for method, scores in results["transfer"].items():
        for score, values in scores.items():
            add(f"demo.digits.{method.lower().replace(' ', '_')}.{score}", values, "" if score != "nll" else "nats")
    for rival in ("fine-tuning", "deep ensemble", "distillation ensemble"):
        for score in ("accuracy", "nll", "ece"):
            ours, theirs = (np.array(results["transfer"][method][score]) for method in ("NPTL", rival))
            add(f"demo.digits.nptl_minus_{rival.lower().replace(' ', '_')}.{score}", ours - theirs, "paired difference")
    last = {}
    for agent, outcome in results["taxi"].items():
        regret, name = np.array(outcome["regret"]), agent.lower().replace(" ", "_")
        last[agent] = last_fifth(regret)
        add(f"demo.taxi.{name}.regret", regret.sum(axis=1), f"in {regret.shape[1]} episodes")
        add(f"demo.taxi.{name}.regret_last_fifth", last[agent], "an episode")
    add("demo.taxi.c-psrl_minus_flat_psrl.regret_last_fifth", last["C-PSRL"] - last["flat PSRL"], "paired difference")
    return rows


def test() -> list[Row]:
    started = time.perf_counter()
    subprocess.run(["make", "test"], check=True)
    seconds = time.perf_counter() - started
    return [row("test.seconds", seconds, "s", command="make test", seconds=seconds)]


def taxi() -> list[Row]:
    started = time.perf_counter()
    races = [race(episodes=100, seed=seed) for seed in range(5)]
    ours, theirs = np.array([(one.ours, one.numpy) for one in races]).T
    seconds = time.perf_counter() - started
    command = "python -m benchmarks.foundation --only taxi"
    return [
        row("cpsrl.taxi.seconds_per_episode", ours, "s", command=command, seconds=seconds),
        row("cpsrl.taxi.seconds_per_episode.numpy", theirs, "s", command=command, seconds=seconds),
        row("cpsrl.taxi.episode_cost_ratio", ours / theirs, "ours / NumPy", command=command, seconds=seconds),
    ]


def world() -> list[Row]:
    started, config, pictures = time.perf_counter(), splits.Config(), 100
    rates = [
        _seconds(lambda seed=seed: [splits.sample(config, i, seed=seed).render() for i in range(pictures)]) / pictures
        for seed in range(5)
    ]
    seconds, command = time.perf_counter() - started, "python -m benchmarks.foundation --only world"
    return [row("world.seconds_per_picture", rates, "s", command=command, seconds=seconds)]


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(config: Config) -> None:
    parts = {"demo": demo, "test": test, "taxi": taxi, "world": world}
    for name in config.only:
        save("foundation", parts[name]())


if __name__ == "__main__":
    main(tyro.cli(Config))
