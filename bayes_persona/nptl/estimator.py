"""The posterior bootstrap for tables, with scikit-learn's own manners: fit, predict_proba, pipelines, grid searches.

Nothing is pretrained here: a small net starts at random, what is believed beforehand is a logistic regression on its
features, and the particles are fits of the whole net around it. Any other net comes in as a factory.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.metrics import Uncertainty
from bayes_persona.nptl.base_measure import linear_probe
from bayes_persona.nptl.bootstrap import NPTL
from bayes_persona.nptl.data import classification
from bayes_persona.nptl.learner_torch import Config, TorchLearner, own_randomness
from bayes_persona.nptl.method import Method
from bayes_persona.nptl.predictor import Predictor
from bayes_persona.nptl.references.ensembles import MAP, DeepEnsemble, DistillationEnsemble, MultiStart
from bayes_persona.seeds import child

with needs_extra("sklearn"):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
    from torch import nn

METHODS: dict[str, Callable[["NPTLClassifier"], Method]] = {
    "nptl": lambda asked: NPTL(asked.particles, float(asked.rho)),
    "deep_ensemble": lambda asked: DeepEnsemble(asked.particles),
    "distillation_ensemble": lambda asked: DistillationEnsemble(asked.particles, float(asked.rho)),
    "map": lambda asked: MAP(particles=asked.particles),
    "multi_start": lambda asked: MultiStart(asked.particles),
}
"""The methods that have a word; any other is given as an object."""


class NPTLClassifier(ClassifierMixin, BaseEstimator):
    """Classifies rows of a table by the average of several nets, and knows where they disagree.

    Inputs are standardised. Weights of samples are weights on the data, as everywhere here: particles scatter around
    the same centre whether a row is given twice or with twice the weight, but with the latter they scatter more.

    Args:
        method: `"nptl"`, `"deep_ensemble"`, `"distillation_ensemble"`, `"map"`, `"multi_start"`, or any method object,
            which brings its own settings.
        particles: Number of nets.
        rho: Strength of what is believed beforehand: how many times the data it is worth.
        hidden: Width of the hidden layer.
        net: Makes another net of the numbers of features and classes, ending in a linear layer.
        steps: Gradient steps of each fit.
        batch: Examples a step; all of them, if there are fewer.
        lr: Learning rate at the start of its cosine.
        random_state: Names the draws, as everywhere in scikit-learn.

    Attributes:
        classes_: The labels, sorted.
        n_features_in_: Number of features seen in `fit`.
        feature_names_in_: Their names, if they had any.
        predictor_: The fitted posterior with its learner, for standardised inputs.

    >>> x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> model = NPTLClassifier(particles=3, steps=50, random_state=0).fit(x, ["no", "no", "yes", "yes"])
    >>> model.predict([[-1.5], [1.5]]).tolist(), model.predict_proba([[0.0]]).shape
    (['no', 'yes'], (1, 2))
    """

    def __init__(  # it takes anything, as scikit-learn wants it: what cannot be done is refused by `fit`
        self,
        method: Any = "nptl",
        *,
        particles: Any = 10,
        rho: Any = 1.0,
        hidden: Any = 64,
        net: Any = None,
        steps: Any = 300,
        batch: Any = 64,
        lr: Any = 0.05,
        random_state: Any = None,
    ):
        self.method = method
        self.particles = particles
        self.rho = rho
        self.hidden = hidden
        self.net = net
        self.steps = steps
        self.batch = batch
        self.lr = lr
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "NPTLClassifier":
        """Draw the posterior of a net.

        Args:
            X: Rows of numbers.
            y: A label for each: numbers, strings, anything that can be sorted.
            sample_weight: A weight for each; what counts is their ratio.

        Raises:
            ConfigError: If a setting asks for what cannot be done.
            DataError: If there is one class only, or all weights are zero.
        """
        X, y = cast(Any, validate_data(self, X, y, dtype=np.float64))
        check_classification_targets(y)
        weights = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        if not weights.any():  # newer scikit-learns have said so by now
            raise DataError("sample_weight: all are zero; there is nothing to learn from")
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(f"y: expected at least two classes, got 1 class: {self.classes_[0]}")
        weights = weights / weights.mean()
        self._centre = np.average(X, axis=0, weights=weights)
        spread = np.sqrt(np.average((X - self._centre) ** 2, axis=0, weights=weights))
        self._scale = np.where(spread > 0, spread, 1.0)  # a feature that never moves tells nothing
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        data = classification(self._scaled(X), codes, len(self.classes_))._replace(weights=weights)
        learner = TorchLearner(
            self._net(X.shape[1], seed), Config(steps=self.steps, batch=self.batch, lr=float(self.lr))
        )
        posterior = self._method().sample(learner, linear_probe(learner, data), data, seed=seed)
        self.predictor_ = Predictor(learner, posterior)
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n k"]:
        """Give the probability of every class, in the order of `classes_`: the model average."""
        rows = self._checked(X)  # first of all: before `fit` there is no predictor
        return self.predictor_.predict(rows)

    def predict(self, X: Any) -> np.ndarray:
        """Give the most probable label of every row."""
        probs = self.predict_proba(X)
        return self.classes_[probs.argmax(axis=1)]

    def uncertainty(self, X: Any) -> Uncertainty:
        """Split what is not known of every row into chance and lack of data, in nats."""
        rows = self._checked(X)
        return self.predictor_.uncertainty(rows)

    def _checked(self, X: Any) -> Float[np.ndarray, "n d"]:
        check_is_fitted(self)
        return self._scaled(cast(Any, validate_data(self, X, dtype=np.float64, reset=False)))

    def _scaled(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        return ((X - self._centre) / self._scale).astype(np.float32)

    def _method(self) -> Method:
        if not isinstance(self.method, str):
            return self.method
        if self.method not in METHODS:
            known = ", ".join(METHODS)
            raise ConfigError(f"method: there is no {self.method!r}; choose from {known}, or give an object")
        return METHODS[self.method](self)

    def _net(self, features: int, seed: int) -> nn.Module:
        if self.net is None and self.hidden < 1:
            raise ConfigError(f"hidden: expected at least 1, got {self.hidden}")
        classes = len(self.classes_)
        with own_randomness("cpu", child(seed, "net")):
            if self.net is not None:
                return self.net(features, classes)
            return nn.Sequential(nn.Linear(features, self.hidden), nn.ReLU(), nn.Linear(self.hidden, classes))
