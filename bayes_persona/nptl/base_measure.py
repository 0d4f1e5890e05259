"""The informative prior of NPTL: what a linear probe of the pretrained net believes about the downstream inputs.

The base measure is F_π = (1/n) Σ_i δ_(x_i, f_probed(x_i)), with f_probed = softmax(W* φ*(x)), φ* frozen and W* fitted
on the downstream labels (Lee et al. 2024, section 3.2). So the labels are used twice, in W* and in the likelihood: it
is an empirical Bayes prior, and says so. Atoms are soft: a probability vector each.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.types import Data, Learner, Params

with needs_extra("torch"):
    from scipy.optimize import minimize
    from scipy.special import log_softmax, softmax


class BaseMeasure(NamedTuple):
    """What is believed before the draws: labels at the data's inputs, and the params that believe them.

    >>> BaseMeasure(params={}, labels=np.full((4, 2), 0.5)).labels.shape
    (4, 2)
    """

    params: Params
    """The probed net (φ*, W*): where every draw starts."""
    labels: Float[np.ndarray, "n k"]
    """Its probabilities at each x_i: the atoms of F_π."""


@runtime_checkable
class ProbedLearner(Learner, Protocol):
    """A learner whose model is a linear head on features: what a probe needs to know beyond fit and predict.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import TorchLearner
    >>> isinstance(TorchLearner(nn.Linear(1, 2), head=""), ProbedLearner)
    True
    """

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


def linear_probe(learner: ProbedLearner, data: Data, *, penalty: float = 1e-2) -> BaseMeasure:
    """Fit the head alone on the downstream labels, and take its predictions as the prior.

    The problem is convex and solved by L-BFGS to convergence, so there is no seed.

    Args:
        learner: Holds the pretrained params; only its features are used.
        data: The downstream examples.
        penalty: λ in (1/n) Σ CE + (λ/2)‖W‖², on features standardised over the data; the bias is free.

    Raises:
        ConfigError: If the penalty is not positive (with few examples the optimum would be at infinity).
        DataError: If the features are NaN or infinite.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import TorchLearner
    >>> data = Data(np.array([[-1.0], [1.0]], np.float32), np.eye(2), np.ones(2))
    >>> linear_probe(TorchLearner(nn.Linear(1, 2), head=""), data).labels.argmax(axis=1).tolist()
    [0, 1]
    """
    if not penalty > 0:
        raise ConfigError(f"penalty: expected more than 0, got {penalty}")
    features = learner.features(learner.params, data.x)
    if not np.isfinite(features).all():
        raise DataError("x: the pretrained net gives NaN or infinite features; are x scaled as in pretraining?")
    weight, bias = fit_head(features, data, penalty)
    params = learner.with_head(learner.params, weight, bias)
    return BaseMeasure(params, softmax(features @ weight.T + bias, axis=1))


def fit_head(
    features: Float[np.ndarray, "n d"], data: Data, penalty: float
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"]]:
    """Give the weight and bias of the penalised multinomial logistic regression of soft labels on features.

    >>> data = Data(None, np.eye(2)[[0, 0, 1, 1]], np.ones(4))
    >>> weight, bias = fit_head(np.array([[-2.0], [-1.0], [1.0], [2.0]]), data, penalty=0.1)
    >>> bool(weight[1, 0] > weight[0, 0])
    True
    """
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)  # a feature that never moves tells nothing, and keeps weight zero
    inputs = (features - centre) / scale
    mass = data.weights[:, None] / data.weights.sum()
    classes, width = data.y.shape[1], inputs.shape[1]

    def objective(flat):
        weight, bias = flat[:-classes].reshape(classes, width), flat[-classes:]
        logits = inputs @ weight.T + bias
        slope = mass * (softmax(logits, axis=1) * data.y.sum(axis=1, keepdims=True) - data.y)
        loss = -(mass * data.y * log_softmax(logits, axis=1)).sum() + penalty / 2 * (weight**2).sum()
        return loss, np.concatenate([(slope.T @ inputs + penalty * weight).ravel(), slope.sum(axis=0)])

    flat = minimize(
        objective, np.zeros(classes * (width + 1)), jac=True, method="L-BFGS-B", options={"maxiter": 1000}
    ).x
    weight, bias = flat[:-classes].reshape(classes, width) / scale, flat[-classes:]
    return weight, bias - weight @ centre
