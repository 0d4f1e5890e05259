"""Which learning rate the demo uses: one grid for every method, on digits that the demo never judges with."""

import time
from dataclasses import replace

import numpy as np

from bayes_persona import average, metrics, nptl, predictions
from bayes_persona.demo.config import Config
from bayes_persona.demo.digits import CLASSES, handwritten, pretrained
from bayes_persona.demo.transfer import FIT, METHODS, fit
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.progress import bar
from benchmarks.rows import row, save

GRID = (0.001, 0.003, 0.01, 0.03)
SPLITS = 4


def main() -> None:
    """Measure the NLL of every method at every rate, and save the rows."""
    started, config = time.perf_counter(), Config(particles=5)
    nll = {(method, rate): [] for method in METHODS[1:] for rate in GRID}  # the probe has no rate
    with bar("rates", total=SPLITS * len(nll)) as advance:
        for split in range(SPLITS):
            digits = handwritten(config.examples, split, "tuning")
            data = nptl.classification(digits.x, digits.y, CLASSES)
            base = nptl.linear_probe(TorchLearner(pretrained(), FIT, head="head"), data)
            for method, rate in nll:
                learner = TorchLearner(pretrained(), replace(FIT, lr=rate), head="head")
                posterior = fit(config, method, learner, base, data, split)
                probs = average(predictions(learner, posterior, digits.x_test))
                nll[method, rate].append(metrics.nll(probs, digits.y_test))
                advance()
    seconds = time.perf_counter() - started
    rows = [
        row(
            f"rates.{method.replace(' ', '_')}.{rate}.nll",
            values,
            "nats",
            command="python -m benchmarks.demo_rates",
            seconds=seconds,
        )
        for (method, rate), values in nll.items()
    ]
    save("demo_rates", rows)
    best = {method: min(GRID, key=lambda rate: np.mean(nll[method, rate])) for method in METHODS[1:]}
    if set(best.values()) != {FIT.lr}:
        raise SystemExit(f"demo/transfer.py gives every method {FIT.lr}; these digits prefer {best}")


if __name__ == "__main__":
    main()
