"""Whole experiments as one compiled program: agents × worlds × seeds, with the numbers that `agents.kernel` gives.

All runs of an agent go side by side (`jax.vmap`) and episode after episode (`jax.lax.scan`). Run r is
`run(agents.kernel(config, specs[r], prior), steps=episodes, seed=seeds[r])`: same seeds, same episodes, same log.
Where jax sees several devices, each takes as many of the runs as the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bayes_persona.cpsrl import episode, structure
from bayes_persona.cpsrl.agents import init as begin
from bayes_persona.cpsrl.agents import require_same
from bayes_persona.cpsrl.config import Config
from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.errors import ConfigError, MismatchError, RunError, needs_extra
from bayes_persona.files import load_arrays, save_arrays
from bayes_persona.named import flatten, unflatten
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.store import locked, open_run

with needs_extra("jax"):
    import jax


class Agent(NamedTuple):
    """How an agent plans, and what it is told of a world.

    >>> from bayes_persona.cpsrl import graph
    >>> Agent(Config(), graph.complete).config.method
    'psrl'
    """

    config: Config
    prior: Callable[[FactoredSpec], GraphPrior]


class Result(NamedTuple):
    """What every run of an agent logged, and what it knew at the end.

    >>> Result({"regret": np.zeros((2, 3))}, []).log["regret"].shape
    (2, 3)
    """

    log: dict[str, Float[np.ndarray, "runs episodes"]]
    states: list[structure.State]


def run(
    agents: Mapping[str, Agent],
    specs: FactoredSpec | Sequence[FactoredSpec],
    *,
    episodes: int,
    seeds: Sequence[int],
    folder: str | Path | None = None,
    checkpoint_every: int = 50,
    title: str | None = None,
) -> dict[str, Result]:
    """Let every agent live as many episodes in the same worlds with the same seeds.

    Args:
        agents: By name.
        specs: One world for all runs, or one for each seed.
        episodes: How many episodes a run has.
        seeds: Names the runs.
        folder: Where to keep what was done, to go on from there; None keeps nothing.
        checkpoint_every: Episodes between looks at the progress, and checkpoints.
        title: Name beside the progress bar; None shows no bar.

    Raises:
        ConfigError: If there is nothing to run, or there are neither one world nor one for each seed.
        MismatchError: If priors of different worlds have tables of different sizes, which one program cannot hold.
        RunError: If the folder is damaged, or another process works in it.
        MismatchError: If the folder holds another experiment.

    >>> from bayes_persona.cpsrl import env, graph
    >>> found = run({"PSRL": Agent(Config(horizon=3), graph.complete)}, env.lamp(), episodes=20, seeds=range(4))
    >>> regret = found["PSRL"].log["regret"]
    >>> bool(regret[:, 10:].sum() < regret[:, :10].sum())
    True
    """
    worlds = [specs] if isinstance(specs, FactoredSpec) else list(specs)
    if episodes < 1 or checkpoint_every < 1 or not seeds or not agents:
        raise ConfigError(f"episodes={episodes}, {len(seeds)} seeds, {len(agents)} agents: expected at least 1 of each")
    if len(worlds) not in (1, len(seeds)):
        raise ConfigError(f"specs: expected 1, or {len(seeds)} as there are seeds; got {len(worlds)}")
    results = {}
    with locked(folder), bar(title, total=len(agents) * -(-episodes // checkpoint_every)) as advance:
        if folder is not None:
            told = {name: asdict(agent.config) for name, agent in agents.items()}
            open_run(folder, {"agents": told, "seeds": [int(seed) for seed in seeds]})
        for number, (name, agent) in enumerate(agents.items()):
            place = None if folder is None else Path(folder) / f"agent-{number:02d}.safetensors"
            results[name] = _live(agent, worlds, episodes, seeds, checkpoint_every, place, advance)
    return results


def _live(agent, worlds, episodes, seeds, checkpoint_every, place, advance) -> Result:
    """Give what one agent's runs come to, from where its checkpoint left them."""
    priors = [agent.prior(world) for world in worlds]
    setup = episode.setup(agent.config, priors[0], worlds[0])
    problems = [episode.problem(agent.config, prior, world) for prior, world in zip(priors, worlds, strict=True)]
    starts = [begin(agent.config, prior) for prior in priors]
    for world, prior, start in zip(worlds, priors, starts, strict=True):
        require_same(prior, world)
        if episode.setup(agent.config, prior, world) != setup or start.counts.shape != starts[0].counts.shape:
            raise MismatchError("specs: their priors have tables of different sizes; run these worlds one by one")
    alone = len(worlds) == 1
    problem = problems[0] if alone else jax.tree.map(lambda *parts: np.stack(parts), *problems)
    states = jax.tree.map(lambda *parts: np.stack(parts), *(starts * len(seeds) if alone else starts))
    log: dict[str, np.ndarray] = {}
    if place is not None and place.exists():
        arrays, _ = load_arrays(place)
        log = {name.removeprefix("log."): arrays.pop(name) for name in list(arrays) if name.startswith("log.")}
        states = unflatten(states, arrays)
    done = len(next(iter(log.values())).T) if log else 0
    for _ in range(0, done, checkpoint_every):
        advance()
    if done > episodes:
        raise RunError(f"{place}: has {done} episodes already, more than the {episodes} asked for; use another folder")
    while done < episodes:
        chunks = -(-(episodes - done) // checkpoint_every)  # as long as one another, since each length is compiled
        more = range(done, done - (-(episodes - done) // chunks))
        names = np.array([[child(seed, "step", step) for seed in seeds] for step in more], dtype=np.uint64)
        with jax.enable_x64(True):
            given = _spread(alone, problem, states, names)
            states, infos = jax.tree.map(np.asarray, _scan(setup, alone, *given))
        log = {name: np.concatenate([*([log[name]] if log else []), infos[name].T], axis=1) for name in episode.LOG}
        done = more.stop
        if place is not None:
            save_arrays(place, {**flatten(states), **{f"log.{name}": array for name, array in log.items()}})
        advance(regret=float(infos["regret"].mean()))
    return Result(log, [jax.tree.map(lambda part, run=run: part[run], states) for run in range(len(seeds))])


def _spread(alone: bool, problem: Any, states: Any, names: Any) -> tuple[Any, Any, Any]:
    """Lay the runs on all devices, or on as many as share them evenly: runs know nothing of one another."""
    runs, devices = names.shape[1], jax.devices()
    even = max(count for count in range(1, len(devices) + 1) if runs % count == 0)
    if even == 1:
        return problem, states, names
    mesh = jax.sharding.Mesh(devices[:even], ("runs",))

    def lay(tree: Any, *axes: str | None) -> Any:
        return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)))

    return lay(problem) if alone else lay(problem, "runs"), lay(states, "runs"), lay(names, None, "runs")


# What LLVM's later levels gain in such programs is less than the seconds that they take.
@partial(jax.jit, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 1})
def _scan(setup, alone, problem, states, seeds):
    one = jax.vmap(partial(episode.episode, setup), in_axes=(None if alone else 0, 0, 0))
    return jax.lax.scan(lambda states, names: one(problem, states, names), states, seeds)
