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
    from scipy.optimize import minimize
    from scipy.special import expit, log_softmax, softmax

Likelihood = Literal["categorical", "bernoulli", "gaussian"]
NOISE = "noise.variance"
"""The name of the noise variance (k,) among a particle's params, if the likelihood is gaussian."""
STILL = 1e-7
"""Features whose spread is less than this, of their size or of the largest spread, do not move in float32."""


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


def fit_head(
    features: Float[np.ndarray, "n d"], data: Data, penalty: float, likelihood: Likelihood = "categorical"
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"]]:
    """Fit a penalised linear model of (soft) targets on features, and give its weight and bias.

    It minimises (1/n) Σ s_i ℓ(t_i, W φ_i + b) + (λ/2)‖W‖² on standardised features, where ℓ is the likelihood's loss
    (half the squared error for the gaussian); convex, and solved to convergence.

    >>> data = Data(None, np.eye(2)[[0, 0, 1, 1]], np.ones(4))
    >>> weight, bias = fit_head(np.array([[-2.0], [-1.0], [1.0], [2.0]]), data, penalty=0.1)
    >>> bool(weight[1, 0] > weight[0, 0])
    True
    """
    centre, scale = features.mean(axis=0), features.std(axis=0)
    # A feature that never moves tells nothing. One that moves by what single precision cannot see would get a weight so
    # large that the first step of fine-tuning ends in NaN; both keep weight zero.
    moves = scale > STILL * np.maximum(np.abs(centre), scale.max(initial=0))
    scale = np.where(moves, scale, 1.0)
    inputs = np.where(moves, features - centre, 0.0) / scale
    mass = data.weights[:, None] / data.weights.sum()
    solve = _least_squares if likelihood == "gaussian" else _logistic
    weight, bias = solve(inputs, data.y, mass, penalty, likelihood)
    weight = weight / scale
    return weight, bias - weight @ centre


def _least_squares(inputs, y, mass, penalty, likelihood):
    middle, target = (mass * inputs).sum(axis=0), (mass * y).sum(axis=0)
    shifted = inputs - middle
    gram = (mass * shifted).T @ shifted + penalty * np.eye(inputs.shape[1])
    weight = np.linalg.solve(gram, (mass * shifted).T @ (y - target)).T
    return weight, target - weight @ middle


def _logistic(inputs, y, mass, penalty, likelihood):
    classes, width = y.shape[1], inputs.shape[1]

    def objective(flat):
        weight, bias = flat[:-classes].reshape(classes, width), flat[-classes:]
        logits = inputs @ weight.T + bias
        if likelihood == "categorical":
            slope = mass * (softmax(logits, axis=1) * y.sum(axis=1, keepdims=True) - y)
            loss = -(mass * y * log_softmax(logits, axis=1)).sum()
        else:
            slope = mass * (expit(logits) - y)
            loss = (mass * (np.logaddexp(0, logits) - y * logits)).sum()
        loss += penalty / 2 * (weight**2).sum()
        return loss, np.concatenate([(slope.T @ inputs + penalty * weight).ravel(), slope.sum(axis=0)])

    flat = minimize(
        objective, np.zeros(classes * (width + 1)), jac=True, method="L-BFGS-B", options={"maxiter": 1000}
    ).x
    return flat[:-classes].reshape(classes, width), flat[-classes:]
