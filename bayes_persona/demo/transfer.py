"""Act one: from printed to handwritten digits, NPTL beside what people do today, on the same splits and budget."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bayes_persona import metrics, nptl
from bayes_persona.bma import average, predictions
from bayes_persona.demo.config import Config
from bayes_persona.demo.digits import CLASSES, handwritten, pretrained
from bayes_persona.nptl.learner_torch import Config as Fit
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.types import Data, Learner

FIT = Fit(steps=100, batch=32, lr=0.01)
"""Of one grid of learning rates, this is the best for every method on the tuning digits: `benchmarks/demo_rates.py`."""
METHODS = ("linear probe", "fine-tuning", "deep ensemble", "distillation ensemble", "NPTL")
SCORES = {"accuracy": metrics.accuracy, "nll": metrics.nll, "ece": metrics.ece, "brier": metrics.brier}


class Outcome(NamedTuple):
    """What one method predicted on every split, and how good that was."""

    scores: dict[str, Float[np.ndarray, " splits"]]
    probs: Float[np.ndarray, "judged k"]
    """The model average on the test digits of all splits, one after another."""
    epistemic: Float[np.ndarray, " judged"]
    """How much the particles disagree, in nats."""


class Result(NamedTuple):
    """Every method on the same splits."""

    outcomes: dict[str, Outcome]
    y: Int[np.ndarray, " judged"]


def compare(config: Config) -> Result:
    """Fit every method on every split and judge it on the digits that it has not seen."""
    members: dict[str, list[np.ndarray]] = {method: [] for method in METHODS}
    labels = []
    with bar("handwriting", total=config.splits * len(METHODS)) as advance:
        for split in range(config.splits):
            digits = handwritten(config.examples, split_seed(config, split))
            labels.append(digits.y_test)
            learner = TorchLearner(pretrained(), FIT, head="head")
            data = nptl.classification(digits.x, digits.y, CLASSES)
            base = nptl.linear_probe(learner, data)
            for method in METHODS:
                posterior = fit(config, method, learner, base, data, child(config.seed, "fits", split))
                members[method].append(predictions(learner, posterior, digits.x_test))
                advance()
    return Result({method: _judge(members[method], labels) for method in METHODS}, np.concatenate(labels))


def fit(config: Config, method: str, learner: Learner, base: nptl.BaseMeasure, data: Data, seed: int) -> Posterior:
    """Give one method's posterior: all have the same start, steps, rate and number of members."""
    if method == "linear probe":
        return Posterior((base.params,))
    methods: dict[str, nptl.Method] = {
        "fine-tuning": nptl.MAP(),
        "deep ensemble": nptl.DeepEnsemble(config.particles),
        "distillation ensemble": nptl.DistillationEnsemble(config.particles, config.rho),
        "NPTL": nptl.NPTL(config.particles, config.rho),
    }
    return methods[method].sample(learner, base, data, seed=seed)


def split_seed(config: Config, split: int) -> int:
    """Give the seed that names a split of the handwritten digits."""
    return child(config.seed, "split", split)


def _judge(members: list[Float[np.ndarray, "particles n k"]], labels: list[Int[np.ndarray, " n"]]) -> Outcome:
    probs = [average(split) for split in members]
    scores = {
        name: np.array([score(p, y) for p, y in zip(probs, labels, strict=True)]) for name, score in SCORES.items()
    }
    epistemic = [metrics.uncertainty(split).epistemic for split in members]
    return Outcome(scores, np.concatenate(probs), np.concatenate(epistemic))
