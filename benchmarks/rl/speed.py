"""How fast whole experiments are beside straightforward NumPy, in one run, and how far from bare arithmetic."""

import math
import time
from collections.abc import Callable
from functools import partial

import bayes_persona_envs  # registers the worlds
import gymnasium
import jax
import numpy as np

from bayes_persona.cpsrl import compiled, experiment, factors
from bayes_persona.cpsrl.config import Config
from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.cpsrl.experiment import Agent
from bayes_persona.seeds import child
from benchmarks.rl import plain, worlds
from benchmarks.rows import Row, row

gymnasium.register_envs(bayes_persona_envs)
SEEDS, EPISODES, REPEATS = 20, 300, 3


def rows() -> list[Row]:
    """Give seconds of a run of both, their ratio, and the share of the machine's arithmetic that is used."""
    command, found, peak = "python -m benchmarks.rl.run --only speed", [], _peak()
    random = "bayes_persona/RandomFactored-v0"
    for name, id, config, told in (
        ("random_factored", random, Config(horizon=10), worlds.some(2, max_parents=5)),
        ("taxi5", "bayes_persona/Taxi-v0", Config(horizon=30, alpha=0.2), worlds.taxi_graph()),
    ):
        started, spec = time.perf_counter(), gymnasium.make(id).unwrapped.fmdp_spec()  # pyright: ignore[reportAttributeAccessIssue]
        ours, theirs = [], []
        for repeat in range(REPEATS):
            ours.append(_seconds(partial(_compiled, spec, config, told)) / SEEDS)
            theirs.append(_seconds(partial(_plain, id, spec, config, told, repeat)))
        rest = {"command": command, "seconds": time.perf_counter() - started}
        work = operations(spec, config, told) * EPISODES
        unit, ratios = f"a run of {EPISODES} episodes", np.array(theirs) / np.array(ours)
        found += [
            row(f"cpsrl.speed.{name}.seconds", ours, f"{unit}, {SEEDS} at once, compiling included", **rest),
            row(f"cpsrl.speed.{name}.numpy_seconds", theirs, unit, **rest),
            row(f"cpsrl.speedup.{name}", ratios, "NumPy / ours, compiling included", **rest),
            row(f"cpsrl.speed.{name}.gigaflop", work / 1e9, "of a run: planning, the regret and drawing", **rest),
            row(f"cpsrl.speed.{name}.share_of_peak", work / np.array(ours) / peak, "of float64 products", **rest),
        ]
    return found + _gamma(command)


def _gamma(command: str) -> list[Row]:
    """Why the Dirichlets are drawn as they are: the gammas of twenty taxis, by ours, by jax's and NumPy's."""
    started, shape = time.perf_counter(), np.full(270_000, 1.2)
    with jax.enable_x64(True):
        draws = [jax.jit(draw) for draw in (factors.gamma, jax.random.gamma)]
        times = []
        for seed in range(6):  # the first compiles
            key, rng = jax.random.key(seed), np.random.default_rng(seed)
            works = [partial(_waited, draw, key, shape) for draw in draws] + [partial(rng.standard_gamma, shape)]
            times.append([_seconds(work) for work in works])
    rest = {"command": command, "seconds": time.perf_counter() - started}
    ours, jaxs, numpys = np.array(times[1:]).T
    return [
        row("cpsrl.gamma_cost_ratio", jaxs / ours, "jax.random.gamma / ours", **rest),
        row("cpsrl.gamma_cost_ratio_to_numpy", ours / numpys, "ours / NumPy's", **rest),
    ]


def operations(spec: FactoredSpec, config: Config, told: worlds.Told) -> float:
    """Count the floating-point operations of an episode: two products of halves a step, draws at 60 each."""
    sizes = compiled.sizes(told(spec))
    left = min(
        (math.prod(sizes.outputs[:cut]) for cut in range(1, len(sizes.outputs) + 1)),
        key=lambda left: left + spec.state_count // left,
    )
    right, x = spec.state_count // left, spec.state_count * spec.action_count
    step = 2 * x * spec.state_count + 2 * x * right  # L V, times R and summed
    follow = step / spec.action_count
    draws = 60 * sum(height * values for height, values in zip(sizes.heights, sizes.outputs, strict=True))
    return config.horizon * (step + follow) + draws + x * (left + right)


def _compiled(spec: FactoredSpec, config: Config, told: worlds.Told) -> None:
    jax.clear_caches()
    experiment.run({"cpsrl": Agent(config, told)}, spec, episodes=EPISODES, seeds=range(SEEDS), checkpoint_every=100)


def _plain(id: str, spec: FactoredSpec, config: Config, told: worlds.Told, seed: int) -> None:
    env, prior, moves = gymnasium.make(id), told(spec), []
    for number in range(EPISODES):
        moves = plain.episode(env, spec, prior, moves, config.horizon, config.alpha, child(seed, "step", number))


def _waited(draw: Callable, *inputs) -> None:
    draw(*inputs).block_until_ready()


def _peak() -> float:
    """Give the operations a second of a large product of float64 matrices."""
    with jax.enable_x64(True):
        matrix = jax.random.normal(jax.random.key(0), (1500, 1500), dtype=float)
        product = jax.jit(lambda a: a @ a)
        product(matrix).block_until_ready()
        return 2 * 1500**3 / min(_seconds(lambda: product(matrix).block_until_ready()) for _ in range(5))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
