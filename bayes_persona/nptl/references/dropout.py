"""MC dropout (Gal & Ghahramani 2016) at the head's inputs, where a mask is nothing but another head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayes_persona import ranges
from bayes_persona.errors import ConfigError
from bayes_persona.nptl.base_measure import BaseMeasure
from bayes_persona.nptl.method import Fit, How, fit_all, identity
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child, generator
from bayes_persona.types import Data, Params


@dataclass(frozen=True)
class MCDropout:
    """One fit with dropout; particles are its params under masks, each mask the same for all examples.

    Dropping inputs of a linear layer is dropping columns of its weight, so particles are plain params.

    >>> import numpy as np
    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import Config, TorchLearner
    >>> data = Data(np.eye(2, dtype=np.float32), np.eye(2), np.ones(2))
    >>> learner = TorchLearner(nn.Linear(2, 2), Config(steps=3))
    >>> len(MCDropout(particles=3).sample(learner, BaseMeasure(learner.params, data.y), data, seed=0))
    3
    """

    particles: int = 10
    """Number of masks."""
    rate: float = 0.2
    """Share of the head's inputs that are dropped, in training and in every particle."""

    def __post_init__(self):
        ranges.at_least(self, 1, "particles")
        if not 0 < self.rate < 1:
            raise ConfigError(f"rate: expected 0 to 1 (both exclusive), got {self.rate}")

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
        """Fit once with dropout, and draw `particles` masks; `engine` has nothing to share out."""
        settings = {"method": "mc dropout", "rate": self.rate, "seed": seed, "data": identity(data, base)}
        fitted = fit_all(
            learner.with_config(head_dropout=self.rate),
            lambda _: Fit(base.params, data, child(seed, "fit")),
            1,
            settings=settings,
            folder=folder,
            title=title,
        )[0]
        seeds = [child(seed, "particle", particle) for particle in range(self.particles)]
        return Posterior(tuple(self._masked(learner.head_weight, fitted, seed) for seed in seeds))

    def _masked(self, weight: str, params: Params, seed: int) -> Params:
        kept = generator(seed, "mask").random(params[weight].shape[1]) >= self.rate
        return {**params, weight: (params[weight] * kept / (1 - self.rate)).astype(params[weight].dtype)}
