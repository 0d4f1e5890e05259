"""Why the oracle's graph costs more regret on Taxi than a partial one: each row takes one explanation away.

Four were tried. The prior of large tables: less of it (α) should help the agent with the true graph most. The horizon:
with a shorter one, less can be hoped for from places that were never seen. Small parent sets: an agent that may only
use graphs as large as the true one has no small ones to be hopeful with. Forgetting of the structure: the partial graph
taken for all of it has small tables for good, and is wrong.
"""

import time
from dataclasses import replace

from bayes_persona.cpsrl import experiment, graph
from bayes_persona.cpsrl.config import Config
from bayes_persona.cpsrl.experiment import Agent
from benchmarks.rl import worlds
from benchmarks.rows import Row, ratio, row

EPISODES = 150


def rows(seeds: int) -> list[Row]:
    """Give the regret of every variation, and that of F-PSRL over C-PSRL's."""
    started, found, spec = time.perf_counter(), [], worlds.taxi()
    command = "python -m benchmarks.rl.run --only surprise"
    told = Config(horizon=30, alpha=0.2)
    variations = {
        "as_it_is": told,
        "alpha_1": replace(told, alpha=1.0),
        "alpha_0.05": replace(told, alpha=0.05),
        "alpha_0.01": replace(told, alpha=0.01),
        "horizon_20": replace(told, horizon=20),
    }
    for variation, config in variations.items():
        agents = {
            "cpsrl": Agent(config, worlds.taxi_graph()),
            "fpsrl": Agent(config, worlds.everything),
            "exactly_as_many_parents": Agent(config, as_large_as_the_truth),
            "small_tables": Agent(config, worlds.taxi_graph(2)),
        }
        runs = experiment.run(agents, spec, episodes=EPISODES, seeds=range(seeds), title=variation)
        total = {name: result.log["regret"].sum(axis=1) for name, result in runs.items()}
        rest = {"command": command, "seconds": time.perf_counter() - started}
        found += [
            row(f"cpsrl.surprise.{variation}.{name}.regret", values, f"{EPISODES} episodes", **rest)
            for name, values in total.items()
        ]
        unit = "ratio of mean regrets, pairs resampled"
        found.append(
            ratio(f"cpsrl.surprise.{variation}.fpsrl_over_cpsrl", total["fpsrl"], total["cpsrl"], unit, **rest)
        )
    return found


def as_large_as_the_truth(spec) -> graph.GraphPrior:
    """Tell what the partial graph tells, and how many parents each variable has: no smaller sets are believed in."""
    told = worlds.taxi_graph()(spec)
    numbers = {output: len(parents) for output, parents in spec.parents.items()}
    sets = {}
    for j, (output, number) in enumerate(numbers.items()):
        names = list(spec.inputs)
        members = [tuple(names[i] for i in mask.nonzero()[0]) for mask in told.members[j] if mask.sum() == number]
        sets[output] = dict.fromkeys(members, 1 / len(set(members)))
    return graph.explicit(spec, sets)
