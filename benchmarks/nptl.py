"""What NPTL's machinery costs, and that it is exact: `python -m benchmarks.nptl --data FOLDER [--only cost …]`."""

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import nn

from bayes_persona import nptl
from bayes_persona.demo.digits import CLASSES, handwritten, pretrained
from bayes_persona.demo.transfer import FIT
from bayes_persona.nptl.learner_torch import Config as Fit
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.nptl.method import Fit as One
from bayes_persona.seeds import child
from bayes_persona.types import Data
from bayes_persona.weights import block_dirichlet_process
from benchmarks.rows import Row, row, save
from benchmarks.transfer import resnet

Part = Literal["cost", "together", "blocks", "resume"]
REPEATS = 5


@dataclass(frozen=True)
class Config:
    """Which parts to measure."""

    data: Path = Path("data")
    """Folder with nets and images, as benchmarks/notes/transfer.md describes it."""
    only: tuple[Part, ...] = ("cost", "together", "blocks", "resume")
    """Parts to measure; the rows of the others are kept."""


def cost(config: Config) -> list[Row]:
    """Ten posterior samples over ten fine-tunings, in turns, so that a slow moment hits both."""
    command, rows = "python -m benchmarks.nptl --only cost", []
    for name in ("small_cnn", "resnet20"):
        started, (learner, data) = time.perf_counter(), _task(name, config.data)
        base = nptl.linear_probe(learner, data)
        ratios = [_ten_over_ten(learner, base, data, seed) for seed in range(-1, REPEATS)][1:]  # one to warm up
        seconds = time.perf_counter() - started
        unit = "NPTL K=10, probe included / 10 fine-tunings"
        rows.append(row(f"nptl.k10_cost_ratio.{name}", ratios, unit, command=command, seconds=seconds))
        unit = "MB, peak of a process that draws ten"
        peak = _peak(name, config.data)
        rows.append(row(f"nptl.k10_megabytes.{name}", peak, unit, command=command, seconds=seconds))
    return rows


def _ten_over_ten(learner: TorchLearner, base: nptl.BaseMeasure, data: Data, seed: int) -> float:
    def ours() -> None:
        nptl.NPTL(10).sample(learner, nptl.linear_probe(learner, data), data, seed=seed)

    def plain() -> None:
        for again in range(10):
            nptl.MAP().sample(learner, base, data, seed=child(seed, again))

    return _seconds(ours) / _seconds(plain)


def _task(name: str, data: Path) -> tuple[TorchLearner, Data]:
    if name == "small_cnn":
        digits = handwritten(100, seed=0, part="tuning")
        return TorchLearner(pretrained(), FIT), nptl.classification(digits.x, digits.y, CLASSES)
    pictures = np.load(data / "images" / "cifar10_subset.npz")
    some = np.random.default_rng(0).permutation(5000)[:500]  # the file is in the order of its labels
    x = (pictures["train_x"][some].transpose(0, 3, 1, 2) / 255).astype(np.float32)
    learner = TorchLearner(resnet.pretrained(data), Fit(steps=20, batch=50, lr=0.003))
    return learner, nptl.classification(x, pictures["train_y"][some].astype(int), 10)


def together(config: Config) -> list[Row]:
    """Where one pass for ten members is faster: nets of growing cost, one pass over ten passes."""
    command, rows = "python -m benchmarks.nptl --only together", []
    torch.manual_seed(0)
    nets = {
        f"conv{width}": (
            nn.Sequential(
                *(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                nn.Linear(width, 10),
            ),
            (3, 16, 16),
        )
        for width in (4, 8, 16, 32, 64)
    } | {
        f"mlp{width}": (
            nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)),
            (64,),
        )
        for width in (32, 128, 512, 1024)
    }
    rng = np.random.default_rng(0)
    for name, (net, shape) in nets.items():
        started = time.perf_counter()
        data = nptl.classification(rng.normal(size=(200, *shape)).astype(np.float32), rng.integers(10, size=200), 10)
        learner = TorchLearner(net, Fit(steps=15, batch=64))
        ratios = [_joint_over_alone(learner, data) for _ in range(-1, REPEATS)][1:]
        flops = learner.flops(data)
        unit = f"one pass / ten, {flops:.2g} operations a forward pass"
        rows.append(row(f"nptl.together.{name}", ratios, unit, command=command, seconds=time.perf_counter() - started))
    return rows


def _joint_over_alone(learner: TorchLearner, data: Data) -> float:
    fits = [One(learner.params, data, seed) for seed in range(10)]
    joint = _seconds(lambda: learner.fit_many(fits))
    return joint / _seconds(lambda: [learner.fit(*fit) for fit in fits])


def blocks(config: Config) -> list[Row]:
    """Spread of block draws against theory on a problem that is known: a mean of 500 numbers (spec: α and L grid)."""
    started, n, errors = time.perf_counter(), 500, []
    rng = np.random.default_rng(0)
    y, believed = rng.normal(size=n), rng.normal(size=n) * 0.5 + 1
    for alpha in (5, 50, 500, 2500):
        mass = np.concatenate([np.full(n, 1 / (alpha + n)), np.full(n, alpha / n / (alpha + n))])
        atoms = np.concatenate([y, believed])
        mean = (mass * atoms).sum()
        sd = np.sqrt((mass * (atoms - mean) ** 2).sum() / (alpha + n + 1))
        for count in (250, 50, 25):
            draws = [block_dirichlet_process(n, alpha, count, seed) for seed in range(20_000)]
            found = np.array([draw.real @ y + draw.pseudo @ believed for draw in draws])
            errors.append(abs(found.std() / sd - 1))
    seconds, command = time.perf_counter() - started, "python -m benchmarks.nptl --only blocks"
    unit = "largest relative error of the spread, 12 settings of α and L"
    return [row("nptl.block_dirichlet_sd_error", max(errors), unit, command=command, seconds=seconds)]


def resume(config: Config) -> list[Row]:
    """Kill a run again and again, and compare its particles with those of a run that went straight through."""
    started, command = time.perf_counter(), "python -m benchmarks.nptl --only resume"
    script = (
        "import sys; from benchmarks.nptl import digits_posterior; "
        "digits_posterior(sys.argv[1], sys.argv[2], engine=sys.argv[3])"
    )
    equal = []
    for engine in ("serial", "together"):
        with tempfile.TemporaryDirectory() as folder:
            straight = digits_posterior("straight", folder, engine=engine)
            for patience in (4, 5, 6, 8, 12, 60):
                words = [sys.executable, "-c", script, "killed", folder, engine]
                try:
                    subprocess.run(words, timeout=patience, check=True)
                except subprocess.TimeoutExpired:
                    continue  # killed in the middle of something
                break
            killed = digits_posterior("killed", folder, engine=engine)
            same = all(np.array_equal(a[name], b[name]) for a, b in zip(straight, killed, strict=True) for name in a)
            equal.append(float(same))
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.perf_counter() - started
    return [row("nptl.resume_equal", min(equal), "1 if equal to the bit", command=command, seconds=seconds)]


def digits_posterior(name: str, folder: str, *, engine: str):
    """Give 40 particles on a hundred digits, kept in a folder."""
    torch.set_num_threads(2)
    digits = handwritten(100, seed=0)
    learner, data = TorchLearner(pretrained(), FIT), nptl.classification(digits.x, digits.y, CLASSES)
    base = nptl.linear_probe(learner, data)
    place = Path(folder) / name
    return nptl.NPTL(40).sample(learner, base, data, seed=0, engine=engine, folder=place)  # pyright: ignore[reportArgumentType]


def _peak(name: str, data: Path) -> float:
    """Give the peak memory of a process that draws ten particles, and does nothing else."""
    script = f"from benchmarks.nptl import ten; ten({name!r}, {str(data)!r})"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(found.stdout.split()[-1])


def ten(name: str, data: str) -> None:
    """Draw ten particles, and print the peak memory of this process in megabytes."""
    learner, examples = _task(name, Path(data))
    nptl.NPTL(10).sample(learner, nptl.linear_probe(learner, examples), examples, seed=0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(config: Config) -> None:
    torch.set_num_threads(2)
    parts = {"cost": cost, "together": together, "blocks": blocks, "resume": resume}
    for name in config.only:
        save("nptl", parts[name](config))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
