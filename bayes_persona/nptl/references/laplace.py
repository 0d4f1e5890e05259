"""Last-layer Laplace (Daxberger et al. 2021), by the library `laplace-torch`."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bayes_persona import ranges
from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.nptl.base_measure import BaseMeasure
from bayes_persona.nptl.compute_torch import own_randomness
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.nptl.method import Fit, How, fit_all, identity
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child
from bayes_persona.types import Data

with needs_extra("torch"):
    import torch
    from torch.utils.data import DataLoader, TensorDataset


@dataclass(frozen=True)
class LastLayerLaplace:
    """One fit; then the head's Gaussian at that mode; particles are draws from it.

    The body stays at its mode. Draws of the head are averaged as probabilities, as for every method here;
    laplace-torch's own probit approximation is another predictive.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import Config
    >>> data = Data(np.eye(2, dtype=np.float32), np.eye(2), np.ones(2))
    >>> learner = TorchLearner(nn.Linear(2, 2), Config(steps=3))
    >>> len(LastLayerLaplace(particles=3).sample(learner, BaseMeasure(learner.params, data.y), data, seed=0))
    3
    """

    particles: int = 10
    """Number of draws from the Gaussian."""
    curvature: Literal["full", "kron", "diag"] = "kron"
    """Structure of the head's generalised Gauss-Newton matrix."""
    prior_precision: float | None = None
    """Of the head's weights; None takes the one of largest marginal likelihood, which is far too small where there are
    more features than examples: directions that the data say nothing of then drown the rest. Choose one there."""

    def __post_init__(self):
        ranges.at_least(self, 1, "particles")
        if self.curvature not in ("full", "kron", "diag"):
            raise ConfigError(f"curvature: expected full, kron or diag, got {self.curvature!r}")
        ranges.positive(self, "prior_precision")

    def sample(
        self,
        learner: TorchLearner,
        base: BaseMeasure,
        data: Data,
        *,
        seed: int,
        engine: How = "auto",
        folder: str | Path | None = None,
        title: str | None = None,
    ) -> Posterior:
        """Fit once, and draw `particles` heads; `engine` has nothing to share out.

        Raises:
            ConfigError: If the likelihood is bernoulli, which laplace-torch does not know for several labels.
            DataError: If labels are soft, or weights uneven: laplace-torch takes neither.
        """
        if learner.likelihood == "bernoulli":
            raise ConfigError("likelihood: laplace-torch has none for several labels; use categorical or gaussian")
        hard = learner.likelihood == "gaussian" or bool(((data.y == 0) | (data.y == 1)).all())
        if not hard or not np.allclose(data.weights, 1):
            raise DataError("data: last-layer Laplace takes hard labels of even weight only")
        settings = {"method": "last-layer laplace", "seed": seed, "data": identity(data, base)}
        mode = fit_all(
            learner,
            lambda _: Fit(base.params, data, child(seed, "fit")),
            1,
            settings=settings,
            folder=folder,
            title=title,
        )[0]
        heads = self._heads(learner, mode, data, child(seed, "heads"))
        return Posterior(tuple(learner.with_head(mode, weight, bias) for weight, bias in heads))

    def _heads(self, learner: TorchLearner, mode, data: Data, seed: int):
        with needs_extra("laplace"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its many backends, which we do not use
            from laplace import Laplace
        features = torch.as_tensor(learner.features(mode, data.x)).float()
        weight, bias = (torch.as_tensor(mode[name]) for name in (learner.head_weight, learner.head_bias))
        categorical = learner.likelihood == "categorical"
        labels = torch.as_tensor(data.y.argmax(axis=1)) if categorical else torch.as_tensor(data.y).float()
        loader = DataLoader(TensorDataset(features, labels), batch_size=min(len(features), 1000))
        with own_randomness("cpu", seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = torch.nn.Linear(weight.shape[1], len(bias))
            head.load_state_dict({"weight": weight, "bias": bias})
            around = Laplace(
                head,
                "classification" if categorical else "regression",
                subset_of_weights="all",
                hessian_structure=self.curvature,
            )
            around.fit(loader)
            if self.prior_precision is None:
                around.optimize_prior_precision("glm", method="marglik")  # marginal likelihood predicts nothing
            else:
                around.prior_precision = self.prior_precision
            draws = around.sample(self.particles).detach().double().numpy()
        return [(draw[: weight.numel()].reshape(weight.shape), draw[weight.numel() :]) for draw in draws]
