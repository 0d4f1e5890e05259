"""Where Dirichlet randomness adds to the soft labels that carry it: `python -m benchmarks.transfer.conditions`.

NPTL beside its ablation, the distillation ensemble: the same expected labels, start, steps and splits, and no random
weights. Rows are NPTL's NLL less the ablation's, so that below zero the randomness helps: few or many examples, a weak
or a strong prior, heads from the probe or random, all of a net or its head alone, test digits as they are or disturbed.
"""

import time
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import tyro

from bayes_persona import metrics, nptl
from bayes_persona.bma import average, predictions
from bayes_persona.demo.digits import CLASSES, Split, handwritten, pretrained
from bayes_persona.nptl.bootstrap import Heads
from bayes_persona.nptl.learner_torch import Config as Fit
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.progress import bar
from bayes_persona.seeds import child, generator
from benchmarks.rows import Row, row, save

EXAMPLES, STRENGTHS = (30, 300), (0.1, 0.3, 1.0, 3.0)
STARTS = {"probe": ("*",), "random_heads": ("*",), "head_alone": ("head.*",)}
"""Where fits start, and what they train: from the probe, from random heads, or the probe's head alone."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    splits: int = 10
    """Random splits, the same for every condition."""
    particles: int = 10
    """Members of every posterior."""


def measure(config: Config) -> list[Row]:
    """Give the differences under every condition."""
    started, found = time.perf_counter(), []
    conditions = list(product(EXAMPLES, STRENGTHS, STARTS))
    with bar("conditions", total=len(conditions) * config.splits) as advance:
        for n, rho, start in conditions:
            differences = []
            for number in range(config.splits):
                differences.append(
                    _difference(config, handwritten(n, child(0, "conditions", number)), rho, start, number)
                )
                advance()
            for place, values in zip(("clean", "disturbed"), np.transpose(differences), strict=True):
                found.append(
                    row(
                        f"transfer.conditions.{start}.n{n}.rho{rho:g}.{place}.nll",
                        values,
                        "nats, NPTL − distillation ensemble",
                        command="python -m benchmarks.transfer.conditions",
                        seconds=time.perf_counter() - started,
                    )
                )
    return found


def _difference(config: Config, split: Split, rho: float, start: str, number: int) -> list[float]:
    learner = TorchLearner(pretrained(), Fit(steps=100, batch=32, lr=0.01), head="head", trainable=STARTS[start])
    data = nptl.classification(split.x, split.y, CLASSES)
    base = nptl.linear_probe(learner, data)
    heads: Heads = "random" if start == "random_heads" else "probed"
    seed, found = child(0, "fits", number), []
    for make in (nptl.NPTL, nptl.DistillationEnsemble):
        method = make(config.particles, rho, heads=heads)
        posterior = method.sample(learner, base, data, seed=seed)
        inputs = (split.x_test, _disturbed(split.x_test, number))
        found.append([metrics.nll(average(predictions(learner, posterior, x)), split.y_test) for x in inputs])
    return (np.array(found[0]) - np.array(found[1])).tolist()


def _disturbed(x: np.ndarray, seed: int) -> np.ndarray:
    """Move digits one pixel to the right, and add noise."""
    noise = generator(seed, "disturbed").normal(0, 0.2, x.shape)
    return np.clip(np.roll(x, 1, axis=-1) + noise, 0, 1).astype(np.float32)


def main(config: Config) -> None:
    torch.set_num_threads(2)
    save("transfer", measure(config))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
