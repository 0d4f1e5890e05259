"""Where Dirichlet randomness adds to the soft labels that carry it: `python -m benchmarks.transfer.conditions`.

NPTL beside its ablation, the distillation ensemble: the same expected labels, start, steps and splits, and no random
weights. Rows are NPTL's NLL less the ablation's, so that below zero the randomness helps: few or many examples, no
prior (where the ablation is a deep ensemble), a weak or a strong one, what is trained from where and for how long, test
digits as they are or disturbed.
"""

import time
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
import tyro
from torch import nn

from bayes_persona import metrics, nptl
from bayes_persona.bma import average, predictions
from bayes_persona.demo.digits import CLASSES, handwritten, pretrained
from bayes_persona.nptl.bootstrap import Heads
from bayes_persona.nptl.learner_torch import Config as Fit
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.progress import bar
from bayes_persona.seeds import child, generator
from benchmarks.kept import kept
from benchmarks.rows import Row, row, save

EXAMPLES, STRENGTHS = (30, 300), (0.0, 1.0, 3.0)
RATE, LONG = 0.01, 300
"""The rate of the demo's digits; and steps far beyond those that validation would stop at (of 100)."""


@dataclass(frozen=True)
class Start:
    """What is fitted, and from where."""

    trainable: tuple[str, ...] = ("*",)
    heads: Heads = "probed"
    steps: int = 100
    hidden: int = 0
    """Put a new layer of so many units between the pretrained features, which then stay, and the head."""


STARTS = {
    "probe": Start(),
    "probe_long": Start(steps=LONG),
    "random_heads": Start(heads="random"),
    "head_alone": Start(trainable=("head.*",)),
    "mlp": Start(trainable=("1.*", "3.*"), hidden=128),
}


@dataclass(frozen=True)
class Config:
    """What to measure."""

    splits: int = 8
    """Random splits, the same for every condition."""
    particles: int = 6
    """Members of every posterior."""


def measure(config: Config) -> list[Row]:
    """Give the differences under every condition."""
    began, found = time.perf_counter(), []
    conditions = list(product(EXAMPLES, STRENGTHS, STARTS))
    with bar("conditions", total=len(conditions) * config.splits) as advance:
        for n, rho, start in conditions:
            differences = []
            for number in range(config.splits):
                look = partial(_difference, config.particles, n, rho, start, number)
                differences.append(kept("transfer.conditions", [config.particles, n, rho, start, number], look))
                advance()
            for place, values in zip(("clean", "disturbed"), np.transpose(differences), strict=True):
                found.append(
                    row(
                        f"transfer.conditions.{start}.n{n}.rho{rho:g}.{place}.nll",
                        values,
                        "nats, NPTL − distillation ensemble",
                        command="python -m benchmarks.transfer.conditions",
                        seconds=time.perf_counter() - began,
                    )
                )
    return found


def _difference(particles: int, n: int, rho: float, start: str, number: int) -> list[float]:
    split, how = handwritten(n, child(0, "conditions", number)), STARTS[start]
    data = nptl.classification(split.x, split.y, CLASSES)
    probe = nptl.linear_probe(TorchLearner(pretrained(), head="head"), data)
    learner, base = _learner(how, probe)
    inputs, found = (split.x_test, _disturbed(split.x_test, number)), []
    for make in (nptl.NPTL, nptl.DistillationEnsemble):
        method = make(particles, rho, heads=how.heads)
        posterior = method.sample(learner, base, data, seed=child(0, "fits", number))
        found.append([metrics.nll(average(predictions(learner, posterior, x)), split.y_test) for x in inputs])
    return (np.array(found[0]) - np.array(found[1])).tolist()


def _learner(how: Start, probe: nptl.BaseMeasure) -> tuple[TorchLearner, nptl.BaseMeasure]:
    fit, net = Fit(steps=how.steps, batch=32, lr=RATE), pretrained()
    if not how.hidden:
        learner = TorchLearner(net, fit, head="head", trainable=how.trainable)
        return learner, probe._replace(params={name: probe.params[name] for name in learner.params})
    torch.manual_seed(0)
    layers = (nn.Linear(net.head.in_features, how.hidden), nn.ReLU(), nn.Linear(how.hidden, CLASSES))
    learner = TorchLearner(nn.Sequential(net.body, *layers), fit, head="3", trainable=how.trainable)
    return learner, probe._replace(params=learner.params)  # what the probe of the features believes, another net learns


def _disturbed(x: np.ndarray, seed: int) -> np.ndarray:
    """Move digits one pixel to the right, and add noise."""
    noise = generator(seed, "disturbed").normal(0, 0.2, x.shape)
    return np.clip(np.roll(x, 1, axis=-1) + noise, 0, 1).astype(np.float32)


def main(config: Config) -> None:
    torch.set_num_threads(2)
    save("transfer", measure(config))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
