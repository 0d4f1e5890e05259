"""Drawing in a Ray cluster: equal to drawing alone, how much faster, and whether its cost is understood.

`python -m benchmarks.scale [--only equal scaling model]`
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
import torch
import tyro

from bayes_persona import nptl
from bayes_persona.demo.digits import CLASSES, handwritten, pretrained
from bayes_persona.nptl.learner_torch import Config as Fit
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.parallel import cluster, map, serial
from bayes_persona.types import Params
from benchmarks.rows import Row, row, save
from benchmarks.scale_model import Cluster, Job, bottleneck, predicted

Part = Literal["equal", "scaling", "model"]
REPEATS = 3


@dataclass(frozen=True)
class Config:
    """What to measure."""

    only: tuple[Part, ...] = ("equal", "scaling", "model")
    """Parts to measure; the rows of the others are kept."""
    particles: int = 16
    """Draws of the posterior."""


@contextmanager
def running(workers: int) -> Iterator[None]:
    """Have a cluster of this machine whose workers are there."""
    path = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, runtime_env=path)
    try:
        map(_warmed, range(4 * workers), engine=cluster(workers))
        yield
    finally:
        ray.shutdown()


def _warmed(item: int) -> Params:
    time.sleep(0.5)
    return {"torch": np.array(torch.get_num_threads())}


class LosesSome:
    """An engine whose workers die in the middle of some calls, the first time."""

    def __init__(self, workers: int, lost: frozenset[int], folder: Path):
        self.engine, self.lost, self.folder = cluster(workers), lost, folder

    def __call__(self, function: Callable[[Any], Params], items: Any) -> Iterator[Any]:
        """Call the function with every item."""
        lost, folder = self.lost, self.folder

        def call(item: Any) -> Params:
            mark = folder / str(item)
            if item in lost and not mark.exists():
                mark.touch()
                signal.setitimer(signal.ITIMER_REAL, 0.05 + 0.02 * (item % 7))  # an alarm nobody waits for kills
            return function(item)

        return self.engine(call, items)


def _task() -> tuple[TorchLearner, Any, nptl.BaseMeasure]:
    digits = handwritten(100, seed=0, part="tuning")
    learner = TorchLearner(pretrained(), Fit(steps=300, batch=50))
    data = nptl.classification(digits.x, digits.y, CLASSES)
    return learner, data, nptl.linear_probe(learner, data)


def equal(config: Config) -> list[Row]:
    """One row: 1 if every particle equals the serial one to the bit, with workers lost on the way and without."""
    started, (learner, data, base) = time.perf_counter(), _task()
    draw, same = nptl.NPTL(particles=config.particles), []
    alone = draw.sample(learner, base, data, seed=0, engine=serial)
    with running(2), tempfile.TemporaryDirectory() as folder:
        lost = frozenset(range(1, config.particles, 3))
        for engine in (cluster(2), LosesSome(2, lost, Path(folder))):
            shared = draw.sample(learner, base, data, seed=0, engine=engine)
            same += [all(np.array_equal(a[k], b[k]) for k in a) for a, b in zip(alone, shared, strict=True)]
        if len(list(Path(folder).iterdir())) != len(lost):
            raise SystemExit("not every worker that should be lost was")
    seconds, command = time.perf_counter() - started, "python -m benchmarks.scale --only equal"
    return [row("ray.equal_to_serial", [float(one) for one in same], "share", command=command, seconds=seconds)]


def scaling(config: Config) -> list[Row]:
    """How much faster two workers are than one, and one than no cluster, in turns."""
    started, (learner, data, base) = time.perf_counter(), _task()
    draw, took = nptl.NPTL(particles=config.particles), []
    with running(2):
        for _ in range(REPEATS):
            each = []
            for engine in (serial, cluster(1), cluster(2)):
                before = time.perf_counter()
                draw.sample(learner, base, data, seed=0, engine=engine)
                each.append(time.perf_counter() - before)
            took.append(each)
    alone, one, two = np.array(took).T
    seconds, command = time.perf_counter() - started, "python -m benchmarks.scale --only scaling"
    return [
        row("ray.seconds_per_particle", alone / config.particles, "s, serial", command=command, seconds=seconds),
        row("ray.speedup.1_worker", alone / one, "serial / 1 worker", command=command, seconds=seconds),
        row("ray.speedup.2_workers", alone / two, "serial / 2 workers", command=command, seconds=seconds),
    ]


JOBS = (
    Job(items=12, seconds=1.0, result=1e5, checkpoints=0, function=0),
    Job(items=24, seconds=0.3, result=1e6, checkpoints=0, function=0),
    Job(items=24, seconds=0.05, result=6e7, checkpoints=0, function=0),
    Job(items=12, seconds=0.05, result=1e5, checkpoints=1.5e8, function=0),
)
"""What the formula is tried on: jobs that sleep instead of computing, so that this machine can be several."""


def model(config: Config) -> list[Row]:
    """The formula's seconds over the clock's, with rates that are measured on other jobs."""
    started, ratios = time.perf_counter(), {}
    with running(4):
        for repeat in range(REPEATS):
            here = _rates()
            for job in JOBS:
                for workers in (2, 4):
                    one = replace(here, workers=workers)
                    ratio = predicted(job, one) / _clock(job, workers)
                    ratios.setdefault(bottleneck(job, one), []).append(ratio)
                    print(repeat, workers, bottleneck(job, one), job, round(ratio, 3), flush=True)
    seconds, command = time.perf_counter() - started, "python -m benchmarks.scale --only model"
    return [
        row(f"scale.model_over_clock.{part}", found, "predicted / measured", command=command, seconds=seconds)
        for part, found in ratios.items()
    ]


def _rates() -> Cluster:
    """Measure what the formula takes: each rate by jobs that do little else."""
    nothing = Job(items=50, seconds=0, result=8, checkpoints=0, function=0)
    overhead = _clock(nothing, 1) / 50
    large = replace(nothing, items=10, result=1e8)
    driver = 1e9 / max(_clock(large, 4) - 10 * overhead, 1e-9)
    writing = replace(nothing, items=10, checkpoints=1e8)
    storage = 1e9 / max(_clock(writing, 4) - 10 * overhead, 1e-9)
    return Cluster(4, 4, start=0.0, overhead=overhead, driver=driver, network=1e12, storage=storage)


def _clock(job: Job, workers: int) -> float:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        before = time.perf_counter()
        map(Sleeps(job, folder), range(job.items), engine=cluster(workers), folder=Path(folder) / "run")
        return time.perf_counter() - before


@dataclass(frozen=True)
class Sleeps:
    """An item that takes its time, writes its checkpoint and gives its result, and computes nothing."""

    job: Job
    folder: str

    def __call__(self, item: int) -> Params:
        """Take an item's time."""
        time.sleep(self.job.seconds)
        if self.job.checkpoints:
            path = Path(self.folder).absolute() / f"checkpoint-{item}"
            with path.open("wb") as file:
                file.write(bytes(int(self.job.checkpoints)))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
        return {"result": np.zeros(int(self.job.result // 8))}


def main(config: Config) -> None:
    parts = {"equal": equal, "scaling": scaling, "model": model}
    for name in config.only:
        save("product", parts[name](config))


if __name__ == "__main__":
    main(tyro.cli(Config))
