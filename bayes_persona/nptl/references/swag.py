"""SWAG: a Gaussian around the average of the weights that SGD at a constant rate walks through (Maddox et al. 2019)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bayes_persona import ranges
from bayes_persona.errors import ConfigError
from bayes_persona.nptl.base_measure import BaseMeasure
from bayes_persona.nptl.method import How, identity
from bayes_persona.parallel import map
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child, generator
from bayes_persona.types import Data, Params


@dataclass(frozen=True)
class SWAG:
    """One fit, then snapshots at a constant rate; particles are drawn from their Gaussian of low rank plus diagonal.

    Momentum starts anew after each snapshot. Nets with learning BatchNorm would need its statistics computed again for
    every particle; freeze them (`Config.batch_norm`).

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import Config, TorchLearner
    >>> data = Data(np.eye(2, dtype=np.float32), np.eye(2), np.ones(2))
    >>> learner = TorchLearner(nn.Linear(2, 2), Config(steps=3))
    >>> method = SWAG(particles=2, snapshots=4, every=1)
    >>> len(method.sample(learner, BaseMeasure(learner.params, data.y), data, seed=0))
    2
    """

    particles: int = 10
    """Number of draws from the Gaussian."""
    snapshots: int = 20
    """Points of the walk, and at most the rank of their covariance."""
    every: int = 10
    """Steps between snapshots."""
    rate: float = 0.5
    """Learning rate of the walk, as a share of the fit's."""
    scale: float = 1.0
    """What the covariance is multiplied with."""

    def __post_init__(self):
        ranges.at_least(self, 1, "particles", "every")
        ranges.at_least(self, 2, "snapshots")
        if not (self.rate > 0 and self.scale >= 0):
            raise ConfigError(f"rate={self.rate}, scale={self.scale}: expected more than 0, and at least 0")

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
        """Walk, and draw `particles` params from the Gaussian; `engine` has nothing to share out."""

        def walk(_: int) -> Params:
            point = learner.fit(base.params, data, child(seed, "fit"))
            walker = learner.with_config(steps=self.every, lr=self.rate * learner.config.lr, schedule="constant")
            points = []
            for number in range(self.snapshots):
                point = walker.fit(point, data, child(seed, "snapshot", number))
                points.append(point)
            return {name: np.stack([point[name] for point in points]) for name in point}

        settings = {"method": "swag", **vars(self), "seed": seed, "data": identity(data, base)}
        settings = {name: value for name, value in settings.items() if name != "particles"}  # the walk knows them not
        walked = map(walk, range(1), folder=folder, config={**settings, "learner": learner.settings}, title=title)[0]
        return Posterior(tuple(self._draw(walked, child(seed, "particle", k)) for k in range(self.particles)))

    def _draw(self, walked: Params, seed: int) -> Params:
        count = self.snapshots
        together = generator(seed, "together").normal(size=count) / np.sqrt(2 * (count - 1))
        particle = {}
        for name, points in walked.items():
            mean = points.mean(axis=0, dtype=np.float64)
            off = points - mean
            # half of the variance from the diagonal, half from the deviations, which keep what moves together
            alone = np.sqrt((off**2).mean(axis=0) / 2) * generator(seed, "alone", name).normal(size=mean.shape)
            # a sum, not a matrix product, whose rounding would depend on where in memory the points lie
            shared = (together.reshape(-1, *[1] * mean.ndim) * off).sum(axis=0)
            drawn = mean + np.sqrt(self.scale) * (alone + shared)
            # of a variance (the gaussian likelihood's noise) the average is meant, not a draw that may be negative
            particle[name] = (mean if name == "noise.variance" else drawn).astype(points.dtype)
        return particle
