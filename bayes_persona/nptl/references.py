"""What NPTL is compared with, under the same interface: the same learner, the same data, another law of the draws."""

from pathlib import Path

import numpy as np

from bayes_persona.nptl.base_measure import BaseMeasure
from bayes_persona.nptl.sample import Config, fuse
from bayes_persona.parallel import Engine, map, serial
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child
from bayes_persona.types import Data, Learner, Params
from bayes_persona.weights import Weights


def fine_tune(learner: Learner, params: Params, data: Data, *, seed: int) -> Posterior:
    """Fit once, all examples alike: plain fine-tuning, as a posterior of one particle.

    >>> class Mean:
    ...     def fit(self, params, data, seed): return {"mean": np.average(data.y, axis=0, weights=data.weights)}
    ...     def predict(self, params, x): return np.tile(params["mean"], (len(x), 1))
    >>> fine_tune(Mean(), {}, Data(np.zeros((2, 1)), np.eye(2), np.ones(2)), seed=0)[0]["mean"].tolist()
    [0.5, 0.5]
    """
    return deep_ensemble(learner, params, data, particles=1, seed=seed)


def deep_ensemble(
    learner: Learner,
    params: Params,
    data: Data,
    *,
    particles: int,
    seed: int,
    engine: Engine = serial,
    folder: str | Path | None = None,
    title: str | None = None,
) -> Posterior:
    """Fit several times with other seeds, all examples alike (Lakshminarayanan et al. 2017, from a pretrained start).

    >>> class Mean:
    ...     def fit(self, params, data, seed): return {"mean": np.average(data.y, axis=0, weights=data.weights)}
    ...     def predict(self, params, x): return np.tile(params["mean"], (len(x), 1))
    >>> len(deep_ensemble(Mean(), {}, Data(np.zeros((2, 1)), np.eye(2), np.ones(2)), particles=3, seed=0))
    3
    """

    def draw(particle: int) -> Params:
        return learner.fit(params, data, child(seed, "particle", particle, "fit"))

    return Posterior(
        tuple(map(draw, range(particles), engine=engine, folder=folder, config={"seed": seed}, title=title))
    )


def distillation_ensemble(
    config: Config, learner: Learner, base: BaseMeasure, data: Data, *, seed: int, title: str | None = None
) -> Posterior:
    """Fit several times to NPTL's expected labels, without its random weights: the ablation of every comparison.

    The label of each input is (y + ρ q) / (1 + ρ), the mean of NPTL's; what NPTL gains beyond this is due to its draws.

    >>> class Mean:
    ...     def fit(self, params, data, seed): return {"mean": np.average(data.y, axis=0, weights=data.weights)}
    ...     def predict(self, params, x): return np.tile(params["mean"], (len(x), 1))
    >>> data = Data(np.zeros((1, 1)), np.array([[1.0, 0.0]]), np.ones(1))
    >>> prior = BaseMeasure(params={}, labels=np.array([[0.0, 1.0]]))
    >>> distillation_ensemble(Config(particles=2, rho=1.0), Mean(), prior, data, seed=0)[0]["mean"].tolist()
    [0.5, 0.5]
    """
    even = np.full(len(data.y), 1 / len(data.y))
    expected = fuse(data, base, Weights(real=even / (1 + config.rho), pseudo=even * config.rho / (1 + config.rho)))
    return deep_ensemble(learner, base.params, expected, particles=config.particles, seed=seed, title=title)
