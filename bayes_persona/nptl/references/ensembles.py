"""References whose particles are independent fits: the same learner and data, another law of the draws."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bayes_persona.errors import ConfigError
from bayes_persona.nptl.base_measure import BaseMeasure, ProbedLearner, random_head
from bayes_persona.nptl.bootstrap import NPTL, Heads, fuse
from bayes_persona.nptl.method import Fit, How, fit_all, identity
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child
from bayes_persona.types import Data, Learner
from bayes_persona.weights import Weights


@dataclass(frozen=True)
class DeepEnsemble:
    """Fits with other seeds, all examples alike (Lakshminarayanan et al. 2017, from a pretrained start).

    >>> class Mean:
    ...     def fit(self, params, data, seed): return {"mean": np.average(data.y, axis=0, weights=data.weights)}
    ...     def predict(self, params, x): return np.tile(params["mean"], (len(x), 1))
    >>> data = Data(np.zeros((2, 1)), np.eye(2), np.ones(2))
    >>> len(DeepEnsemble(particles=3).sample(Mean(), BaseMeasure({}, data.y), data, seed=0))
    3
    """

    particles: int = 10
    """Number of fits."""

    def __post_init__(self):
        _require_particles(self.particles)

    def sample(
        self,
        learner: Learner,
        base: BaseMeasure,
        data: Data,
        *,
        seed: int,
        engine: How = "auto",
        folder: str | Path | None = None,
        title: str | None = None,
    ) -> Posterior:
        """Fit `particles` times from `base.params`, in another order each."""

        def plan(particle: int) -> Fit:
            return Fit(base.params, data, child(seed, "particle", particle, "fit"))

        settings = {"method": "deep ensemble", "seed": seed, "data": identity(data, base)}
        return fit_all(learner, plan, self.particles, settings=settings, engine=engine, folder=folder, title=title)


@dataclass(frozen=True)
class MAP:
    """One fit, the mode of the posterior under a Gaussian prior: plain fine-tuning where the pulls are nothing.

    `anchor` alone is L2-SP (Li et al. 2018): a Gaussian around the pretrained params; `weight_decay` one around zero.
    The learner needs both as settings of its `with_config`, as TorchLearner has them.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import Config, TorchLearner
    >>> data = Data(np.eye(2, dtype=np.float32), np.eye(2), np.ones(2))
    >>> learner = TorchLearner(nn.Linear(2, 2), Config(steps=3))
    >>> len(MAP(anchor=0.01).sample(learner, BaseMeasure(learner.params, data.y), data, seed=0))
    1
    """

    weight_decay: float = 0.0
    """Pull of every parameter towards zero."""
    anchor: float = 0.0
    """Pull of every parameter towards the pretrained one."""
    particles: int = 1
    """More than one makes it an ensemble of such fits."""

    def __post_init__(self):
        _require_particles(self.particles)

    def sample(
        self,
        learner: Any,
        base: BaseMeasure,
        data: Data,
        *,
        seed: int,
        engine: How = "auto",
        folder: str | Path | None = None,
        title: str | None = None,
    ) -> Posterior:
        """Fit once from `base.params` with the pulls added to the loss."""
        if self.weight_decay or self.anchor:
            learner = learner.with_config(weight_decay=self.weight_decay, anchor=self.anchor)
        ensemble = DeepEnsemble(self.particles)
        return ensemble.sample(learner, base, data, seed=seed, engine=engine, folder=folder, title=title)


@dataclass(frozen=True)
class MultiStart:
    """Fits from random heads on the pretrained features: more functional diversity than other seeds alone.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import Config, TorchLearner
    >>> data = Data(np.eye(2, dtype=np.float32), np.eye(2), np.ones(2))
    >>> learner = TorchLearner(nn.Linear(2, 2), Config(steps=3))
    >>> len(MultiStart(particles=2).sample(learner, BaseMeasure(learner.params, data.y), data, seed=0))
    2
    """

    particles: int = 10
    """Number of fits."""

    def __post_init__(self):
        _require_particles(self.particles)

    def sample(
        self,
        learner: ProbedLearner,
        base: BaseMeasure,
        data: Data,
        *,
        seed: int,
        engine: How = "auto",
        folder: str | Path | None = None,
        title: str | None = None,
    ) -> Posterior:
        """Fit `particles` times, each from another head drawn as torch initialises linear layers."""

        def plan(particle: int) -> Fit:
            name = child(seed, "particle", particle)
            return Fit(random_head(learner, base.params, data, name), data, child(name, "fit"))

        settings = {"method": "multi-start", "seed": seed, "data": identity(data, base)}
        return fit_all(learner, plan, self.particles, settings=settings, engine=engine, folder=folder, title=title)


@dataclass(frozen=True)
class DistillationEnsemble:
    """Fits to NPTL's expected labels without its random weights: the ablation of every comparison.

    The label of each input is (y + ρ q) / (1 + ρ), the mean of NPTL's; what NPTL gains beyond this is due to its draws.

    >>> class Mean:
    ...     def fit(self, params, data, seed): return {"mean": np.average(data.y, axis=0, weights=data.weights)}
    ...     def predict(self, params, x): return np.tile(params["mean"], (len(x), 1))
    >>> data = Data(np.zeros((1, 1)), np.array([[1.0, 0.0]]), np.ones(1))
    >>> prior = BaseMeasure(params={}, labels=np.array([[0.0, 1.0]]))
    >>> DistillationEnsemble(particles=2, rho=1.0).sample(Mean(), prior, data, seed=0)[0]["mean"].tolist()
    [0.5, 0.5]
    """

    particles: int = 10
    """Number of fits."""
    rho: float = 1.0
    """How many times the labels the base measure's beliefs are worth."""
    heads: Heads = "probed"
    """Where the head of each fit starts, as NPTL's."""

    def __post_init__(self):
        NPTL(self.particles, self.rho, heads=self.heads)  # the same bounds

    def sample(
        self,
        learner: Any,
        base: BaseMeasure,
        data: Data,
        *,
        seed: int,
        engine: How = "auto",
        folder: str | Path | None = None,
        title: str | None = None,
    ) -> Posterior:
        """Fit `particles` times from `base.params`, in another order each, to the same mixed labels."""
        even = np.full(len(data.y), 1 / len(data.y))
        real, pseudo = even / (1 + self.rho), even * self.rho / (1 + self.rho)
        expected = fuse(data, base, Weights(real=real, pseudo=pseudo))
        ensemble = (DeepEnsemble if self.heads == "probed" else MultiStart)(self.particles)
        return ensemble.sample(learner, base, expected, seed=seed, engine=engine, folder=folder, title=title)


def _require_particles(particles: int) -> None:
    if particles < 1:
        raise ConfigError(f"particles: expected at least 1, got {particles}")
