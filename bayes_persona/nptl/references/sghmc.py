"""SGHMC with a pretrained prior (Chen et al. 2014; the prior of Li et al. 2018), by the library `posteriors`."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bayes_persona import ranges
from bayes_persona.errors import DataError, needs_extra
from bayes_persona.nptl.base_measure import BaseMeasure
from bayes_persona.nptl.compute_torch import own_randomness
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.nptl.likelihood import with_noise
from bayes_persona.nptl.method import How, identity
from bayes_persona.parallel import map
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child
from bayes_persona.types import Data, Params

with needs_extra("torch"):
    import torch


@dataclass(frozen=True)
class SGHMC:
    """One chain on exp(-n · loss(θ) - ‖θ - θ*‖² / 2σ²), θ* the pretrained params; particles are its states.

    The likelihood that is sampled is the learner's weighted loss; for the gaussian it has unit noise.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import Config
    >>> data = Data(np.eye(2, dtype=np.float32), np.eye(2), np.ones(2))
    >>> learner = TorchLearner(nn.Linear(2, 2), Config(steps=3))
    >>> method = SGHMC(particles=2, burn_in=3, every=2)
    >>> len(method.sample(learner, BaseMeasure(learner.params, data.y), data, seed=0))
    2
    """

    particles: int = 10
    """Number of states kept."""
    burn_in: int = 300
    """Steps before the first."""
    every: int = 30
    """Steps between two."""
    rate: float = 1e-2
    """Step size ε; on a loss per example, as posteriors recommends."""
    friction: float = 0.1
    """How fast momentum is lost, α."""
    prior_sd: float = 1.0
    """Spread σ of the Gaussian around the pretrained params."""
    temperature: float = 1.0
    """1 samples the posterior, less a sharpened one, 0 is descent with momentum."""

    def __post_init__(self):
        ranges.at_least(self, 1, "particles", "every")
        ranges.at_least(self, 0, "burn_in")
        ranges.positive(self, "rate", "friction", "prior_sd")
        ranges.at_least(self, 0, "temperature")

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
        """Run the chain from `base.params`. A chain has nothing to share out, so `engine` changes nothing.

        Raises:
            DataError: If the chain leaves the finite numbers; lower `rate`.
        """

        def chain(_: int) -> Params:
            states = list(self._chain(learner, base, data, seed))
            return {name: np.stack([state[name] for state in states]) for name in states[0]}

        settings = {"method": "sghmc", **vars(self), "seed": seed, "data": identity(data, base)}
        walked = map(chain, range(1), folder=folder, config={**settings, "learner": learner.settings}, title=title)[0]
        return Posterior(tuple({name: states[k] for name, states in walked.items()} for k in range(self.particles)))

    def _chain(self, learner: TorchLearner, base: BaseMeasure, data: Data, seed: int) -> Iterator[Params]:
        with needs_extra("references"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of tensordict, about a default in posteriors
            from posteriors.sgmcmc import sghmc
        n, steps = len(data.y), self.burn_in + self.every * self.particles
        _, moving, loss = learner.objective(base.params, data)
        centre = {name: torch.as_tensor(learner.params[name], device=learner.config.device) for name in moving}
        rows = replace(learner.config, steps=steps).rows(n, child(seed, "order"))

        def log_density(params, row):  # divided by n, as is the temperature
            pull = sum((params[name] - centre[name]).square().sum() for name in params) / (2 * self.prior_sd**2 * n)
            return -loss(params, row) - pull, torch.tensor([])

        transform: Any = sghmc.build(  # any: the annotations of posteriors are of trees, ours of flat dicts
            log_density,  # pyright: ignore[reportArgumentType]
            lr=self.rate,
            alpha=self.friction,
            temperature=self.temperature / n,
            momenta=0.0,
        )
        with own_randomness(learner.config.device, child(seed, "noise")):
            state = transform.init({name: value.detach() for name, value in moving.items()})
            for step in range(steps):
                state, _ = transform.update(state, rows[step])
                if not torch.isfinite(state.log_posterior):
                    raise DataError(f"SGHMC: the density at step {step} is not finite; lower rate ({self.rate})")
                if step >= self.burn_in and (step - self.burn_in + 1) % self.every == 0:
                    yield _particle(learner, state.params, data)


def _particle(learner: TorchLearner, params, data: Data) -> Params:
    particle = {name: value.detach().cpu().numpy().copy() for name, value in params.items()}
    if learner.likelihood == "gaussian":
        return with_noise(particle, learner.predict(particle, data.x), data)
    return particle
