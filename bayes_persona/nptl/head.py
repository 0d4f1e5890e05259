"""A linear head on features that stay: convex problems, solved to convergence, and how strongly to hold them back."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayes_persona.errors import needs_extra
from bayes_persona.nptl.data import subset
from bayes_persona.nptl.likelihood import Likelihood, log_likelihood, mean
from bayes_persona.seeds import generator
from bayes_persona.types import Data

with needs_extra("torch"):
    from scipy.optimize import minimize
    from scipy.special import expit, log_softmax
    from threadpoolctl import threadpool_limits

Head = tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"]]
"""Weight and bias."""
STILL = 1e-7
"""Features whose spread is less than this, of their size or of the largest spread, do not move in float32."""
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Strengths that `choose_penalty` tries, the strongest first."""
EXACTLY, ROUGHLY = 1e-10, 1e-5
"""Where a search ends: the loss, which begins at about one, falls by less a step. To choose, less is enough."""
CURVATURE = 0.1
"""Of the loss in each logit, roughly: ½ at most (Böhning 1992), less where answers are sure. Any value gives the same
head, in more steps or fewer."""


def fit_head(
    features: Float[np.ndarray, "n d"], data: Data, penalty: float, likelihood: Likelihood = "categorical"
) -> Head:
    """Fit a penalised linear model of (soft) targets on features, and give its weight and bias.

    It minimises (1/n) Σ s_i ℓ(t_i, W φ_i + b) + (λ/2)‖W‖² on standardised features, where ℓ is the likelihood's loss
    (half the squared error for the gaussian); convex, and solved to convergence.

    >>> data = Data(None, np.eye(2)[[0, 0, 1, 1]], np.ones(4))
    >>> weight, bias = fit_head(np.array([[-2.0], [-1.0], [1.0], [2.0]]), data, penalty=0.1)
    >>> bool(weight[1, 0] > weight[0, 0])
    True
    """
    with _one_thread():
        return next(_path(features, data, (penalty,), likelihood, EXACTLY))


def choose_penalty(
    features: Float[np.ndarray, "n d"],
    data: Data,
    likelihood: Likelihood = "categorical",
    *,
    grid: Sequence[float] = PENALTIES,
    folds: int = 5,
    seed: int = 0,
) -> float:
    """Choose how strongly a head is held back, by the loss of examples that it was not fitted on.

    Strengths are tried from the strongest on, as long as the loss falls. Folds have like shares of every class. An
    example whose class nobody else has says nothing of strengths, and does not count; if there are fewer than two
    examples, or all are such, the middle of the grid is taken.

    >>> rng = np.random.default_rng(0)
    >>> noise, data = rng.normal(size=(60, 40)), Data(None, np.eye(2)[rng.integers(2, size=60)], np.ones(60))
    >>> choose_penalty(noise, data)  # features that tell nothing
    1.0
    """
    fold, best, chosen = _stratified(data, folds, seed), np.inf, grid[len(grid) // 2]
    with _one_thread():
        judged = [_judged(features, data, fold == held, grid, likelihood) for held in range(min(folds, len(fold)))]
        for penalty, losses in zip(grid, zip(*judged, strict=True), strict=False):
            if not 0 < sum(losses) < best:
                break
            best, chosen = sum(losses), penalty
    return float(chosen)


def _judged(features, data: Data, held: np.ndarray, grid: Sequence[float], likelihood: Likelihood) -> Iterator[float]:
    """Give the loss of held-out examples by heads that are fitted on the others, for every penalty."""
    if not data.weights[~held].sum() > 0:
        yield from (0.0 for _ in grid)
        return
    seen = subset(data._replace(x=features), ~held)
    there = (seen.weights[:, None] * seen.y).sum(axis=0) > 0
    met = there[data.y[held].argmax(axis=1)] | (likelihood != "categorical")
    for weight, bias in _path(seen.x, seen, grid, likelihood, ROUGHLY):
        expected = mean(features[held] @ weight.T + bias, likelihood)
        yield float((data.weights[held] * _loss(expected, data.y[held], likelihood))[met].sum())


def _stratified(data: Data, folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """Give the fold of every example: random ones, with like shares of every class."""
    order = generator(seed, "folds of penalties").permutation(len(data.y))
    order = order[data.y[order].argmax(axis=1).argsort(kind="stable")]
    fold = np.empty(len(data.y), dtype=int)
    fold[order] = np.arange(len(data.y)) % folds
    return fold


def _one_thread() -> threadpool_limits:
    """Hundreds of small products: waking a second thread for each takes eight times as long as they do."""
    return threadpool_limits(1, user_api="blas")


def _loss(expected: np.ndarray, y: np.ndarray, likelihood: Likelihood) -> Float[np.ndarray, " n"]:
    if likelihood == "gaussian":
        return 0.5 * ((y - expected) ** 2).sum(axis=1)
    return -log_likelihood(expected[None], y, likelihood)[0]


def _path(
    features: np.ndarray, data: Data, penalties: Sequence[float], likelihood: Likelihood, until: float
) -> Iterator[Head]:
    """Fit a head for every penalty, each from the one before."""
    centre, scale = features.mean(axis=0), features.std(axis=0)
    # A feature that never moves tells nothing. One that moves by what single precision cannot see would get a weight so
    # large that the first step of fine-tuning ends in NaN; both keep weight zero.
    moves = scale > STILL * np.maximum(np.abs(centre), scale.max(initial=0))
    scale = np.where(moves, scale, 1.0)
    inputs = np.where(moves, features - centre, 0.0) / scale
    mass = data.weights[:, None] / data.weights.sum()
    solve = _least_squares if likelihood == "gaussian" else _logistic
    for weight, bias in solve(inputs, data.y, mass, penalties, likelihood, until):
        yield weight / scale, bias - (weight / scale) @ centre


def _least_squares(inputs, y, mass, penalties, likelihood, until) -> Iterator[Head]:
    middle, target = (mass * inputs).sum(axis=0), (mass * y).sum(axis=0)
    shifted = inputs - middle
    gram, moment = (mass * shifted).T @ shifted, (mass * shifted).T @ (y - target)
    for penalty in penalties:
        weight = np.linalg.solve(gram + penalty * np.eye(inputs.shape[1]), moment).T
        yield weight, target - weight @ middle


def _logistic(inputs, y, mass, penalties, likelihood, until) -> Iterator[Head]:
    """Minimise in coordinates in which all directions are about as steep, no more of them than there are examples."""
    classes = y.shape[1]
    _, spreads, axes = np.linalg.svd(np.sqrt(mass) * inputs, full_matrices=False)
    scores, weight, bias = inputs @ axes.T, np.zeros((classes, len(axes))), np.zeros(classes)
    for penalty in penalties:
        unit = 1 / np.sqrt(CURVATURE * spreads**2 + penalty)

        def objective(flat: Any, unit: Any = unit, penalty: float = penalty):
            weight, bias = flat[:-classes].reshape(classes, -1) * unit, flat[-classes:]
            logits = scores @ weight.T + bias
            if likelihood == "categorical":
                logs = log_softmax(logits, axis=1)
                slope = mass * (np.exp(logs) * y.sum(axis=1, keepdims=True) - y)
                loss = -(mass * y * logs).sum()
            else:
                slope = mass * (expit(logits) - y)
                loss = (mass * (np.logaddexp(0, logits) - y * logits)).sum()
            loss += penalty / 2 * (weight**2).sum()
            steep = (slope.T @ scores + penalty * weight) * unit
            return loss, np.concatenate([steep.ravel(), slope.sum(axis=0)])

        start = np.concatenate([(weight / unit).ravel(), bias])
        options = {"maxiter": 1000, "ftol": until, "gtol": 1e-6}
        flat = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
        weight, bias = flat[:-classes].reshape(classes, -1) * unit, flat[-classes:]
        yield weight @ axes, bias
