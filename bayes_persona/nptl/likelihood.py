"""What the outputs of a net mean: three likelihoods, each linear in its target, which is all that fusing labels needs.

`categorical`: k logits, one class. `bernoulli`: k logits, as many yes-or-no labels. `gaussian`: k means, with a noise
variance that is a parameter of every particle, fitted in closed form.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import ConfigError, MismatchError, needs_extra
from bayes_persona.types import Data, Params

with needs_extra("torch"):
    from scipy.special import expit, softmax

Likelihood = Literal["categorical", "bernoulli", "gaussian"]
NOISE = "noise.variance"
"""The name of the noise variance (k,) among a particle's params, if the likelihood is gaussian."""


def require(likelihood: str) -> None:
    """Refuse a likelihood that there is not.

    >>> require("poisson")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: likelihood: there is no 'poisson'; choose from categorical, bernoulli, gaussian
    """
    if likelihood not in get_args(Likelihood):
        known = ", ".join(get_args(Likelihood))
        raise ConfigError(f"likelihood: there is no {likelihood!r}; choose from {known}")


def mean(outputs: Float[np.ndarray, "n k"], likelihood: Likelihood) -> Float[np.ndarray, "n k"]:
    """Give the expected target of a net's outputs: probabilities, or the outputs themselves.

    >>> mean(np.zeros((1, 2)), "categorical").tolist(), mean(np.zeros((1, 2)), "gaussian").tolist()
    ([[0.5, 0.5]], [[0.0, 0.0]])
    """
    if likelihood == "categorical":
        return softmax(outputs, axis=1)
    return expit(outputs) if likelihood == "bernoulli" else outputs


def log_likelihood(
    expected: Float[np.ndarray, "particles n k"],
    y: Float[np.ndarray, "n k"],
    likelihood: Likelihood,
    noise: Float[np.ndarray, "particles k"] | None = None,
) -> Float[np.ndarray, "particles n"]:
    """Give log p(y_i | x_i, θ_m) of every particle and example, in nats.

    Args:
        expected: What the particles predict: probabilities, or means.
        y: The targets, as in `Data`; a soft label costs its cross-entropy.
        likelihood: What the predictions mean.
        noise: Variance of every particle's noise, for the gaussian likelihood.

    Raises:
        MismatchError: If predictions and targets differ in shape, or a gaussian has no noise.

    >>> log_likelihood(np.full((1, 1, 2), 0.5), np.array([[0.0, 1.0]]), "categorical").round(4).tolist()
    [[-0.6931]]
    """
    if expected.shape[1:] != y.shape:
        raise MismatchError(f"y: expected shape {expected.shape[1:]}, one row per prediction, got {y.shape}")
    if likelihood == "gaussian":
        if noise is None:
            raise MismatchError("noise: a gaussian likelihood needs the variance of every particle")
        variance = noise[:, None, :]
        return -0.5 * ((y - expected) ** 2 / variance + np.log(2 * np.pi * variance)).sum(axis=2)
    known = np.log(expected.clip(1e-12))
    if likelihood == "bernoulli":
        return (y * known + (1 - y) * np.log((1 - expected).clip(1e-12))).sum(axis=2)
    return (y * known).sum(axis=2)


def with_noise(params: Params, expected: Float[np.ndarray, "n k"], data: Data) -> Params:
    """Give the params with the noise variance that maximises the weighted gaussian likelihood of their residuals.

    >>> data = Data(np.zeros((2, 1)), np.array([[1.0], [-1.0]]), np.ones(2))
    >>> with_noise({}, np.zeros((2, 1)), data)["noise.variance"].tolist()
    [1.0]
    """
    squares = (data.y - expected) ** 2 + (0.0 if data.spread is None else data.spread)
    # no noise at all would give an infinite density to the first coincidence
    return {**params, NOISE: np.maximum(np.average(squares, axis=0, weights=data.weights), 1e-12)}
