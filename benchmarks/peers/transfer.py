"""Transfer: our posteriors of a pretrained net on a hundred handwritten digits beside three libraries'.

All start at the probed net and have 1,000 gradient steps of 32 digits in all, for ten members or states; Laplace and
SWAG, which are made around one fit, have that fit's 100 and, of SWAG, a walk of 900. Each has one grid of four for the
setting that matters most to it, on digits that nothing is reported of.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bayes_persona import average, metrics, nptl, predictions
from bayes_persona.demo.digits import CLASSES, Split, handwritten, pretrained
from bayes_persona.demo.transfer import FIT
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.nptl.references.laplace import LastLayerLaplace
from bayes_persona.nptl.references.sghmc import SGHMC
from bayes_persona.progress import bar
from benchmarks.peers import race
from benchmarks.rows import Row

Fits = Callable[[Split, float, int], np.ndarray]
"""Digits, a setting and a seed to probabilities of the test digits."""
MEMBERS, EXAMPLES, TUNED = 10, 100, 2
RATES, STEPS, PRECISIONS = (0.003, 0.01, 0.03, 0.1), (0.0001, 0.0003, 0.001, 0.003), (1e2, 1e3, 1e4, 1e5)
RHOS = (0.3, 1.0, 3.0, 10.0)
BURN_IN, EVERY = 300, 70
PENALTY = 0.01
"""Of the probe that all start from."""


def started(digits: Split, lr: float = FIT.lr):
    """Give learner, data and the probed start that everybody gets."""
    learner = TorchLearner(pretrained(), replace(FIT, lr=lr), head="head")
    data = nptl.classification(digits.x, digits.y, CLASSES)
    return learner, data, nptl.linear_probe(learner, data, penalty=PENALTY)


def by_nptl(digits: Split, rho: float, seed: int) -> np.ndarray:
    learner, data, base = started(digits)
    return _read(learner, nptl.NPTL(MEMBERS, rho).sample(learner, base, data, seed=seed), digits)


def by_ensemble(digits: Split, lr: float, seed: int) -> np.ndarray:
    learner, data, base = started(digits, lr)
    return _read(learner, nptl.DeepEnsemble(MEMBERS).sample(learner, base, data, seed=seed), digits)


def by_sghmc(digits: Split, rate: float, seed: int) -> np.ndarray:
    learner, data, base = started(digits)
    method = SGHMC(MEMBERS, burn_in=BURN_IN, every=EVERY, rate=rate)
    return _read(learner, method.sample(learner, base, data, seed=seed), digits)


def by_last_layer(digits: Split, precision: float, seed: int) -> np.ndarray:
    learner, data, base = started(digits)
    method = LastLayerLaplace(MEMBERS, prior_precision=precision)
    return _read(learner, method.sample(learner, base, data, seed=seed), digits)


OURS: dict[str, tuple[Fits, tuple[float, ...]]] = {
    "nptl": (by_nptl, RHOS),
    "deep_ensemble": (by_ensemble, RATES),
    "sghmc": (by_sghmc, STEPS),
    "last_layer_laplace": (by_last_layer, PRECISIONS),
}


def peers() -> dict[str, tuple[Fits, tuple[float, ...]]]:
    """Give those that can be imported here."""
    found: dict[str, tuple[Fits, tuple[float, ...]]] = {}
    if race.present("posteriors"):
        from benchmarks.peers import by_posteriors

        found["posteriors_sghmc"] = (by_posteriors.fit, STEPS)
    if race.present("laplace"):
        from benchmarks.peers import by_laplace

        found["laplace_torch"] = (by_laplace.fit, PRECISIONS)
    if race.present("torch_uncertainty"):
        from benchmarks.peers import by_torch_uncertainty

        found["torch_uncertainty_ensemble"] = (by_torch_uncertainty.ensemble, RATES)
        found["torch_uncertainty_swag"] = (by_torch_uncertainty.swag, RATES)
    return found


def rows(splits: int) -> list[Row]:
    """Choose settings on tuning digits, judge on others, then time those that do the same thing in turns."""
    began, command, theirs = time.perf_counter(), "python -m benchmarks.peers --only transfer", peers()
    every, settings = {**OURS, **theirs}, {}
    scores: dict[str, dict[str, list[float]]] = {"nll": {}, "accuracy": {}, "ece": {}}
    tuning = [handwritten(EXAMPLES, seed, "tuning") for seed in range(TUNED)]
    with bar("transfer", total=len(every)) as advance:
        for name, (fit, grid) in every.items():

            def loss(setting: float, fit: Fits = fit) -> float:
                probs = [_finite(fit(digits, setting, k)) for k, digits in enumerate(tuning)]
                pairs = zip(probs, tuning, strict=True)
                return float(np.mean([metrics.nll(found, digits.y_test) for found, digits in pairs]))

            settings[name] = race.chosen(grid, loss)
            for seed in range(splits):
                digits = handwritten(EXAMPLES, seed)
                probs = _finite(fit(digits, settings[name], seed))
                for score, of in (("nll", metrics.nll), ("accuracy", metrics.accuracy), ("ece", metrics.ece)):
                    scores[score].setdefault(name, []).append(float(of(probs, digits.y_test)))
            advance()
    print("chosen:", settings)
    found, rest = [], {"command": command, "seconds": time.perf_counter() - began}
    for score, values in scores.items():
        mine = {name: np.array(values[name]) for name in OURS}
        other = {name: np.array(values[name]) for name in theirs}
        pairs = [("nptl", name) for name in theirs] + [pair for pair in SAME if pair[1] in theirs]
        unit = "nats" if score == "nll" else score
        found += race.quality(f"peers.transfer.{score}", mine, other, pairs, unit, rest)
    digits = handwritten(EXAMPLES, 0, "tuning")
    for mine, other in [pair for pair in (*SAME, NPTL) if pair[1] in theirs]:
        unit = "seconds, ours / the peer's, fitting and predicting"
        found.append(
            race.speed(
                f"peers.speed.{mine}_over_{other}",
                lambda mine=mine: every[mine][0](digits, settings[mine], 0),
                lambda other=other: every[other][0](digits, settings[other], 0),
                unit,
                command,
                turns=5,
            )
        )
    return found


SAME = (
    ("sghmc", "posteriors_sghmc"),
    ("last_layer_laplace", "laplace_torch"),
    ("deep_ensemble", "torch_uncertainty_ensemble"),
)
"""What does the same thing by ours and by a peer."""
NPTL = ("nptl", "torch_uncertainty_ensemble")


def _read(learner: TorchLearner, posterior, digits: Split) -> np.ndarray:
    return average(predictions(learner, posterior, digits.x_test))


def _finite(probs: np.ndarray) -> np.ndarray:
    """Give even odds where a setting blew up, so that it loses."""
    return np.where(np.isfinite(probs), probs, 1 / CLASSES)
