"""Killed at any moment, resumed to the same bytes: training, sampling, reinforcement learning and tuning.

`python -m benchmarks.faults`: each job runs once undisturbed; then, again and again, a process that runs it is killed
(SIGKILL) at a random moment, and another one goes on in the same folder. All files, and what the job gives, must be
those of the undisturbed run. Processes are forked from one that has imported everything and computed nothing.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import tyro

from bayes_persona import nptl
from bayes_persona.cpsrl import env, experiment, graph
from bayes_persona.cpsrl.config import Config as AgentConfig
from bayes_persona.diffusion import pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.files import save_arrays
from bayes_persona.named import flatten
from bayes_persona.nptl.learner_torch import Config as Fit
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.persona import tuning
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from benchmarks.rows import Row, row, save


@dataclass(frozen=True)
class Config:
    """How often each job is killed."""

    moments: int = 20
    """Random moments for each job."""
    seed: int = 0
    """Names the moments."""


def training(folder: Path) -> Any:
    """Personalize the embedded model; two members, checkpoints at steps 100, 200 and 220."""
    black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot at night",))
    quick = Draw(particles=2, steps=220, rows=1, alpha=1.0, pseudo=1)
    learned = personalize(pipelines.load(), TextualInversion(Subject("robot")), black, quick, folder=folder)
    return learned.stacked()


def sampling(folder: Path) -> Any:
    """Draw a posterior by NPTL, particle after particle."""
    rng = np.random.default_rng(0)
    data = nptl.classification(rng.normal(size=(60, 8)).astype(np.float32), rng.integers(3, size=60), classes=3)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
    learner = TorchLearner(net, Fit(steps=60, batch=20))
    method = nptl.NPTL(particles=15)
    base = nptl.linear_probe(learner, data)
    return method.sample(learner, base, data, seed=0, engine="serial", folder=folder).stacked()


def learning(folder: Path) -> Any:
    """Let C-PSRL live 600 episodes with three seeds, and a checkpoint after each 5."""
    agents = {"told nothing": experiment.Agent(AgentConfig(horizon=6), lambda spec: graph.empty(spec, max_parents=2))}
    found = experiment.run(agents, env.lamp(), episodes=600, seeds=range(3), folder=folder, checkpoint_every=5)
    return flatten((found["told nothing"].log, found["told nothing"].states))


def turning(folder: Path) -> Any:
    """Tune the session that comes with the package."""
    found = tuning.tune(tuning.Tuning(), config=tuning.Config(budget=40), folder=folder)
    return {"places": np.array([made.places for made in found.history]), "expected": np.array(found.expected)}


JOBS: dict[str, Callable[[Path], Any]] = {
    "training": training,
    "sampling": sampling,
    "learning": learning,
    "tuning": turning,
}


def work(name: str, folder: Path, outcome: Path, begun: Connection) -> None:
    """Do a job, in a process of its own; what is compiled is kept, so that most moments are of work."""
    torch.set_num_threads(1)
    jax.config.update("jax_compilation_cache_dir", str(outcome.parent.parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    begun.send(True)
    save_arrays(outcome, JOBS[name](folder))


class Killer:
    """Starts a job in a process and kills it, or lets it end."""

    def __init__(self, name: str):
        self.name = name
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["benchmarks.faults"])

    def __call__(self, place: Path, after: float | None = None) -> tuple[float, bool]:
        """Give the seconds that it took, and whether it was killed."""
        ours, theirs = self.context.Pipe(duplex=False)
        arguments = (self.name, place / "run", place / "outcome.safetensors", theirs)
        process = self.context.Process(target=work, args=arguments)
        process.start()
        theirs.close()
        ours.recv()
        started = time.perf_counter()
        process.join(after)
        killed = process.exitcode is None
        if killed:
            process.kill()
            process.join()
        elif process.exitcode:
            raise SystemExit(f"{self.name}: ended with {process.exitcode}")
        return time.perf_counter() - started, killed


def written(place: Path) -> dict[str, bytes]:
    """Give every file of a run, and what it gave."""
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


def moments(name: str, config: Config) -> list[float]:
    """Give 1 for each moment after which a job was resumed to the same bytes, and 0 for others."""
    run, equal = Killer(name), []
    rng = np.random.default_rng(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder) / "first")
        seconds, _ = run(Path(folder) / "straight")
        straight = written(Path(folder) / "straight")
        tried = 0
        while len(equal) < config.moments:
            place = Path(folder) / str(tried)
            tried += 1
            if not run(place, after=float(rng.uniform(0, seconds)))[1]:
                continue  # it was quicker than the moment
            there = sum(map(len, written(place).values()))
            run(place)
            equal.append(float(written(place) == straight))
            print(name, f"{len(equal)} of {config.moments}, {there:,} bytes there, equal: {equal[-1]:.0f}", flush=True)
    return equal


def main(config: Config) -> None:
    started, found = time.perf_counter(), []
    rows: list[Row] = []
    for name in JOBS:
        before = time.perf_counter()
        each = moments(name, config)
        found += each
        seconds = time.perf_counter() - before
        unit = "share of moments"
        rows.append(
            row(f"faults.{name}.resumed_equal", each, unit, command="python -m benchmarks.faults", seconds=seconds)
        )
    seconds = time.perf_counter() - started
    unit = "share of moments"
    command = "python -m benchmarks.faults"
    save("product", [row("faults.resumed_equal", found, unit, command=command, seconds=seconds), *rows])


if __name__ == "__main__":
    main(tyro.cli(Config))
