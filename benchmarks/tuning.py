"""Tuning a personalized pipeline with few generations: C-PSRL beside searches that know no causes.

`python -m benchmarks.tuning [--only record compare]`: each person is learned by low-rank updates, every setting of the
knobs is recorded (and goes on where it was stopped), and all searches then act in the recordings.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import networkx as nx
import numpy as np
import optuna
import torch
import tyro

from bayes_persona import loop
from bayes_persona.cpsrl import agents
from bayes_persona.cpsrl import graph as graphs
from bayes_persona.cpsrl.env import flat
from bayes_persona.diffusion import generate, pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.persona import generations, tuning
from bayes_persona.persona import knobs as turning
from bayes_persona.persona import session as sessions
from bayes_persona.persona.generations import Made
from bayes_persona.persona.knobs import Knob
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.persona.session import QUALITIES, Recorded, Session, utility
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.world import splits
from benchmarks import subjects, world
from benchmarks.rows import Row, row, save

Part = Literal["record", "compare"]
RUNS = Path("runs") / "tuning"
REPEATS = 2
EARLIER = 8
"""Tuning people whose recordings teach C-PSRL what knobs usually do."""
SAMPLING = generate.Config(steps=10)
"""Few steps: what is compared is searches, all in the same recordings."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    only: tuple[Part, ...] = ("record", "compare")
    """Parts to measure."""
    identities: int = 10
    """Held-out identities."""
    budget: int = 20
    """Generations of a search."""
    seeds: int = 20
    """Searches of each kind on each person."""
    searches: tuple[str, ...] = ()
    """Kinds of searches, as `SEARCHES` has them; left out, all. Rows are written of those, and the others' kept."""


def knobs() -> tuple[Knob, ...]:
    """Give what is turned: 72 settings."""
    return turning.usual(LowRank(Subject("robot")))


def recorded(k: int, group: int) -> Recorded:
    """Learn somebody, and record every setting."""
    who = splits.held_out(k + 1, group)[k]
    seed, folder = child(group, "tuning", k), RUNS / f"{group}-{k}"
    examples = splits.photos(who, 4, seed=seed)
    pixels = np.stack([one.render().pixels for one in examples])
    make, draw = world.METHODS["low_rank"]
    adapter, pipe = make(Subject(who.superclass)), pipelines.load()
    photos = Shown(pixels, tuple(one.caption for one in examples))
    learned = personalize(pipe, adapter, photos, replace(draw, particles=1), seed=seed, folder=folder / "learned")
    prompts, others = subjects.prompts(who.superclass, 3, seed), subjects.strangers(2, seed)
    session = Session(pipe, adapter, learned[0], pixels, prompts, others, knobs=knobs(), sampling=SAMPLING)
    return sessions.record(session, REPEATS, seed, folder / "recorded")


def record(config: Config) -> list[Row]:
    """Record everybody."""
    groups = {subjects.TUNING: EARLIER, subjects.REPORT: config.identities}
    with bar("people", total=sum(groups.values())) as advance:
        for group, people in groups.items():
            for k in range(people):
                if not (place := RUNS / f"{group}-{k}.safetensors").exists():
                    recorded(k, group).save(place)
                advance()
    return []


def with_graph(env: tuning.Tuning, budget: int, seed: int) -> tuple[int, ...]:
    return tuning.tune(env, config=tuning.Config(budget), earlier=earlier(), seed=seed).places


def without_graph(env: tuning.Tuning, budget: int, seed: int) -> tuple[int, ...]:
    return tuning.tune(env, nx.DiGraph(), tuning.Config(budget), earlier=earlier(), seed=seed).places


def alone_without_graph(env: tuning.Tuning, budget: int, seed: int) -> tuple[int, ...]:
    return tuning.tune(env, nx.DiGraph(), tuning.Config(budget), seed=seed).places


def alone(env: tuning.Tuning, budget: int, seed: int) -> tuple[int, ...]:
    return tuning.tune(env, config=tuning.Config(budget), seed=seed).places


@cache
def earlier() -> tuple[tuple[Made, ...], ...]:
    """Give what was recorded of tuning people."""
    files = [RUNS / f"{subjects.TUNING}-{k}.safetensors" for k in range(EARLIER)]
    return tuple(generations.recorded(sessions.load(file)) for file in files)


@cache
def usually_best() -> tuple[int, ...]:
    """Give the setting that is best for tuning people on average: what needs no generation."""
    worth: dict[tuple[int, ...], float] = {}
    for made in itertools.chain(*earlier()):
        worth[made.places] = worth.get(made.places, 0.0) + made.utility
    return max(worth, key=lambda places: worth[places])


def population(env: tuning.Tuning, budget: int, seed: int) -> tuple[int, ...]:
    return usually_best()


def flat_psrl(env: tuning.Tuning, budget: int, seed: int) -> tuple[int, ...]:
    kernel = agents.kernel(agents.Config(horizon=1, alpha=0.1), env, graphs.complete(flat(env.fmdp_spec())))
    env.history.clear()
    loop.run(kernel, steps=budget, seed=seed)
    return generations.best(env.history)


def random(env: tuning.Tuning, budget: int, seed: int, first: Sequence[tuple[int, ...]] = ()) -> tuple[int, ...]:
    env.history.clear()
    env.reset(seed=seed)
    env.action_space.seed(seed % 2**31)
    for places in first:
        env.step(np.array(places))
    for _ in range(budget - len(first)):
        env.step(env.action_space.sample())
    return generations.best(env.history)


def random_told(env: tuning.Tuning, budget: int, seed: int) -> tuple[int, ...]:
    return random(env, budget, seed, [usually_best()])


def tpe(env: tuning.Tuning, budget: int, seed: int, first: Sequence[tuple[int, ...]] = ()) -> tuple[int, ...]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    env.history.clear()
    env.reset(seed=seed)

    def objective(trial: Any) -> float:
        places = [trial.suggest_int(knob.name, 0, len(knob.values) - 1) for knob in env.session.knobs]
        return env.step(np.array(places))[4]["utility"]

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed % 2**31))
    for places in first:
        study.enqueue_trial({knob.name: place for knob, place in zip(env.session.knobs, places, strict=True)})
    study.optimize(objective, n_trials=budget)
    return generations.best(env.history)


def tpe_told(env: tuning.Tuning, budget: int, seed: int) -> tuple[int, ...]:
    return tpe(env, budget, seed, [usually_best()])


SEARCHES: dict[str, Callable[[tuning.Tuning, int, int], tuple[int, ...]]] = {
    "c_psrl": with_graph,
    "c_psrl_without_graph": without_graph,
    "c_psrl_alone": alone,
    "c_psrl_alone_without_graph": alone_without_graph,
    "flat_psrl": flat_psrl,
    "random": random,
    "tpe": tpe,
    "usually_best": population,
    "random_told": random_told,
    "tpe_told": tpe_told,
}
"""How each finds a setting; those that learn no model give the best generation's. C-PSRL knows what was recorded of
tuning people, unless it is `alone`; those that were told begin with the setting that was best for these."""


OURS = {"c_psrl": ("tuning", "C-PSRL"), "c_psrl_alone": ("tuning_alone", "C-PSRL that knows of nobody else")}
"""What others are compared with."""


def compare(config: Config) -> list[Row]:
    """Let all searches act in all recordings."""
    started, command = time.perf_counter(), "python -m benchmarks.tuning --only compare"
    names = config.searches or tuple(SEARCHES)
    found: dict[str, list[float]] = {name: [] for name in (*names, "best", "as_it_was")}
    with bar("searches", total=config.identities * config.seeds) as advance:
        for k in range(config.identities):
            world_ = sessions.load(RUNS / f"{subjects.REPORT}-{k}.safetensors")
            truth = np.array([utility(QUALITIES, dict(zip(world_.names, one, strict=True))) for one in world_.mean])
            sizes = [len(knob.values) for knob in world_.knobs]
            own: dict[str, list[float]] = {name: [] for name in names}
            for seed in range(config.seeds):
                for name in names:
                    places = SEARCHES[name](
                        tuning.Tuning(world_), config.budget, child(subjects.REPORT, "search", k, seed)
                    )
                    own[name].append(truth[np.ravel_multi_index(places, sizes)])
                advance()
            for name, values in own.items():
                found[name].append(float(np.mean(values)))
            start = turning.start(LowRank(Subject("robot")), world_.knobs)
            found["best"].append(float(truth.max()))
            found["as_it_was"].append(float(truth[np.ravel_multi_index(start, sizes)]))
    rest = {"command": command, "seconds": time.perf_counter() - started}
    unit = f"utility of the setting found with {config.budget} generations, mean of {config.seeds} searches a person"
    rows = [row(f"persona.tuning.{name}", values, unit, **rest) for name, values in found.items()]
    for ours, (label, said) in OURS.items():
        for name in sorted(set(names) - {ours}) if ours in names else ():
            short = "no_graph" if name == f"{ours}_without_graph" else name
            gain = np.array(found[ours]) - np.array(found[name])
            rows.append(
                row(f"persona.{label}_gain_over_{short}", gain, f"utility, {said} less the other, paired", **rest)
            )
    return rows


def main(config: Config) -> None:
    torch.set_num_threads(1)
    for name in config.only:
        if rows := {"record": record, "compare": compare}[name](config):
            save("tuning", rows)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
