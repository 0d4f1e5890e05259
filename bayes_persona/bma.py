"""Bayesian model averaging: what a posterior predicts.

Probabilities are averaged, never logits: p(y | x, D) ≈ (1/K) Σ_k p(y | x, θ_k).
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from bayes_persona.posterior import Posterior
from bayes_persona.types import Learner


def predictions(learner: Learner, posterior: Posterior, x: Any) -> Float[np.ndarray, "particles n k"]:
    """Give what every particle predicts: the probabilities (or means) of each, unaveraged.

    >>> from bayes_persona.posterior import Posterior
    >>> class Constant:
    ...     def fit(self, params, data, seed): return params
    ...     def predict(self, params, x): return np.tile(params["p"], (len(x), 1))
    >>> pair = Posterior(({"p": np.array([1.0, 0.0])}, {"p": np.array([0.5, 0.5])}))
    >>> predictions(Constant(), pair, np.zeros((1, 3))).tolist()
    [[[1.0, 0.0]], [[0.5, 0.5]]]
    """
    return np.stack([learner.predict(particle, x) for particle in posterior])


def average(members: Float[np.ndarray, "particles n k"]) -> Float[np.ndarray, "n k"]:
    """Give the model average of the particles' predictions.

    >>> average(np.array([[[1.0, 0.0]], [[0.5, 0.5]]])).tolist()
    [[0.75, 0.25]]
    """
    return members.mean(axis=0)


def standard_error(members: Float[np.ndarray, "particles n k"]) -> Float[np.ndarray, "n k"]:
    """Give the Monte Carlo error of `average`: how far more particles could still move it. NaN for one particle.

    >>> standard_error(np.array([[[1.0, 0.0]], [[0.5, 0.5]]])).tolist()
    [[0.25, 0.25]]
    """
    count = len(members)
    if count == 1:
        return np.full(members.shape[1:], np.nan)
    return members.std(axis=0, ddof=1) / np.sqrt(count)
