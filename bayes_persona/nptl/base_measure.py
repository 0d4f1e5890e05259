"""The informative prior of NPTL: what is believed about the downstream inputs before their labels are weighted.

The base measure is F_π = (1/n) Σ_i δ_(x_i, f(x_i)). With f a linear probe of the pretrained net, softmax(W* φ*(x)), φ*
frozen and W* fitted on the downstream labels, it is the paper's (Lee et al. 2024, section 3.2). The labels are then
used twice, in W* and in the likelihood: it is an empirical Bayes prior. Cross-fitting (`folds`) answers that: what is
believed of an example comes from a probe that has not seen its label. Atoms are soft: a probability vector each.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import ConfigError, DataError, MismatchError
from bayes_persona.nptl import likelihood as likelihoods
from bayes_persona.nptl.data import subset, take
from bayes_persona.nptl.head import Head, choose_penalty, fit_head
from bayes_persona.nptl.likelihood import Likelihood
from bayes_persona.seeds import generator
from bayes_persona.types import Data, Learner, Params

Pseudo = Literal["soft", "hard", "sample"]
"""Labels of atoms: the probabilities themselves, the most probable class, or a class drawn anew for every particle."""
Sampler = Callable[[int], tuple[Any, Float[np.ndarray, "t k"]]]
"""Draws pseudo-examples from a base measure of one's own: from a seed, inputs and their targets."""


class BaseMeasure(NamedTuple):
    """What is believed before the draws: labels at the data's inputs, and the params that believe them.

    >>> BaseMeasure(params={}, labels=np.full((4, 2), 0.5)).labels.shape
    (4, 2)
    """

    params: Params
    """Where every draw starts: the probed net (φ*, W*)."""
    labels: Float[np.ndarray, "n k"]
    """Its expected targets at each x_i: the atoms of F_π."""
    sampler: Sampler | None = None
    """Draws the atoms in their place: pseudo-examples of one's own, anew for every particle."""


@runtime_checkable
class ProbedLearner(Learner, Protocol):
    """A learner whose model is a linear head on features: what a probe needs to know beyond fit and predict.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import TorchLearner
    >>> isinstance(TorchLearner(nn.Linear(1, 2)), ProbedLearner)
    True
    """

    likelihood: Likelihood

    @property
    def params(self) -> Params:
        """The pretrained params."""
        ...

    def features(self, params: Params, x: Any) -> Float[np.ndarray, "n d"]:
        """Give the inputs of the head."""
        ...

    def with_head(self, params: Params, weight: Float[np.ndarray, "k d"], bias: Float[np.ndarray, " k"]) -> Params:
        """Give the params with another head."""
        ...


def linear_probe(
    learner: ProbedLearner, data: Data, *, penalty: float | None = None, folds: int = 0, seed: int = 0
) -> BaseMeasure:
    """Fit the head alone on the downstream labels, and take its predictions as the prior.

    The problem is convex and solved to convergence (L-BFGS, or normal equations for the gaussian likelihood).

    Args:
        learner: Holds the pretrained params; only its features are used.
        data: The downstream examples.
        penalty: λ in (1/n) Σ ℓ + (λ/2)‖W‖², on features standardised over the data; the bias is free. None chooses it
            by the loss of examples held out (`nptl.head.choose_penalty`): how much a few examples say depends on the
            features, and a probe that is too sure of itself is a bad prior and a bad start.
        folds: Cross-fit: take each example's belief from a probe fitted without its fold. 0 uses the one probe of all
            examples, as the paper does. Draws start from that one in either case.
        seed: Names the folds.

    Raises:
        ConfigError: If the penalty is not positive (with few examples the optimum would be at infinity), or there are
            more folds than examples, or just one.
        DataError: If the features are NaN or infinite.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import TorchLearner
    >>> data = Data(np.array([[-1.0], [1.0]], np.float32), np.eye(2), np.ones(2))
    >>> linear_probe(TorchLearner(nn.Linear(1, 2)), data).labels.argmax(axis=1).tolist()
    [0, 1]
    """
    if penalty is not None and not penalty > 0:
        raise ConfigError(f"penalty: expected more than 0, got {penalty}")
    if folds and not 2 <= folds <= len(data.y):
        raise ConfigError(f"folds: expected 0, or 2 to {len(data.y)} (the number of examples), got {folds}")
    features = learner.features(learner.params, data.x)
    if not np.isfinite(features).all():
        raise DataError("x: the pretrained net gives NaN or infinite features; are x scaled as in pretraining?")
    targets, likelihood = data._replace(x=features), learner.likelihood

    def fitted(seen: Data) -> Head:
        chosen = choose_penalty(seen.x, seen, likelihood, seed=seed) if penalty is None else penalty
        return fit_head(seen.x, seen, chosen, likelihood)

    weight, bias = fitted(targets)
    params = learner.with_head(learner.params, weight, bias)
    outputs = features @ weight.T + bias
    fold = generator(seed, "folds").permutation(np.arange(len(features)) % max(folds, 1))
    for held in range(folds):
        weight, bias = fitted(subset(targets, fold != held))  # its penalty too knows nothing of what is held out
        outputs[fold == held] = features[fold == held] @ weight.T + bias
    believed = likelihoods.mean(outputs, likelihood)
    if likelihood == "gaussian":
        params = likelihoods.with_noise(params, believed, data)
    return BaseMeasure(params, believed)


def zero_shot(learner: ProbedLearner, data: Data) -> BaseMeasure:
    """Take the pretrained net's own predictions as the prior, for nets that know the task (no label is used twice).

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import TorchLearner
    >>> data = Data(np.zeros((3, 1), np.float32), np.eye(2)[[0, 1, 1]], np.ones(3))
    >>> zero_shot(TorchLearner(nn.Linear(1, 2)), data).labels.shape
    (3, 2)
    """
    believed = learner.predict(learner.params, data.x)
    if believed.shape != data.y.shape:
        raise MismatchError(f"y: the net has {believed.shape[1]} outputs, the labels {data.y.shape[1]} columns")
    return BaseMeasure(learner.params, believed)


def atoms_of(base: BaseMeasure, pseudo: Pseudo, likelihood: Likelihood, seed: int) -> BaseMeasure:
    """Give a base measure with the labels of its atoms as one draw shall have them.

    Args:
        base: Its labels are probabilities.
        pseudo: As they are, the most probable of each, or one drawn from each.
        likelihood: What they are probabilities of.
        seed: Names the draw.

    Raises:
        ConfigError: If labels are numbers (gaussian), of which none is the most probable.

    >>> base = BaseMeasure(params={}, labels=np.array([[0.2, 0.8], [0.7, 0.3]]))
    >>> atoms_of(base, "hard", "categorical", seed=0).labels.tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    if pseudo == "soft":
        return base
    if likelihood == "gaussian":
        raise ConfigError(f"pseudo: {pseudo!r} is for probabilities; a regression's beliefs are soft, with their noise")
    labels, rng = base.labels, generator(seed, "pseudo-labels")
    if likelihood == "bernoulli":
        threshold = 0.5 if pseudo == "hard" else rng.random(labels.shape)
        return base._replace(labels=(labels > threshold).astype(labels.dtype))
    if pseudo == "hard":
        chosen = labels.argmax(axis=1)
    else:
        chosen = (labels.cumsum(axis=1) < rng.random((len(labels), 1)) * labels.sum(axis=1, keepdims=True)).sum(axis=1)
    return base._replace(labels=np.eye(labels.shape[1])[chosen])


def random_head(learner: ProbedLearner, params: Params, data: Data, seed: int) -> Params:
    """Give the params with a head drawn uniformly between ±1/√width, as torch initialises linear layers.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import TorchLearner
    >>> learner = TorchLearner(nn.Linear(4, 2))
    >>> data = Data(np.eye(4, dtype=np.float32), np.eye(2)[[0, 1, 0, 1]], np.ones(4))
    >>> bool(np.abs(random_head(learner, learner.params, data, seed=0)["weight"]).max() <= 0.5)
    True
    """
    width, outputs = learner.features(params, take(data.x, slice(1))).shape[1], data.y.shape[1]
    rng, bound = generator(seed, "head"), width**-0.5
    weight, bias = rng.uniform(-bound, bound, (outputs, width)), rng.uniform(-bound, bound, outputs)
    return learner.with_head(params, weight, bias)
