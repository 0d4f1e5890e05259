"""The posterior bootstrap: draw a law of the data, then the params that fit it best; repeat.

The objective of draw m (Lee et al. 2024, eq. 5), with w, v the Dirichlet-process weights, q the base measure's labels:

    J_m(θ) = Σ_i [ w_i ℓ(y_i, f_θ(x_i)) + v_i ℓ(q_i, f_θ(x_i)) ]

Cross-entropy and squared loss are linear in the label up to a constant, so both labels of an input fuse into one:
s_i = n(w_i + v_i), t_i = (w_i y_i + v_i q_i) / (w_i + v_i), J_m = (1/n) Σ_i s_i ℓ(t_i, f_θ(x_i)). A draw
therefore costs one ordinary weighted fit.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bayes_persona.errors import ConfigError, MismatchError
from bayes_persona.named import fingerprint
from bayes_persona.nptl.base_measure import BaseMeasure
from bayes_persona.parallel import Engine, map, serial
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child
from bayes_persona.types import Data, Learner, Params
from bayes_persona.weights import Weights, block_dirichlet_process, dirichlet_process


@dataclass(frozen=True)
class Config:
    """What is drawn.

    >>> Config(particles=4, rho=0.3).rho
    0.3
    """

    particles: int = 10
    """Number of posterior draws, K."""
    rho: float = 1.0
    """Strength of the prior, α/n: how many times the data the base measure is worth. 0 is the Bayesian bootstrap."""
    blocks: int | None = None
    """Share weights inside this many random blocks of examples; none draws every example its own (exact)."""

    def __post_init__(self):
        if self.particles < 1:
            raise ConfigError(f"particles: expected at least 1, got {self.particles}")
        if not (np.isfinite(self.rho) and self.rho >= 0):
            raise ConfigError(f"rho: expected a finite number of at least 0, got {self.rho}")


def sample(
    config: Config,
    learner: Learner,
    base: BaseMeasure,
    data: Data,
    *,
    seed: int,
    engine: Engine = serial,
    folder: str | Path | None = None,
    title: str | None = None,
) -> Posterior:
    """Draw `config.particles` params from the NPTL posterior.

    Args:
        config: What is drawn.
        learner: Fits weighted data; any framework.
        base: The prior, from `linear_probe`.
        data: The downstream examples.
        seed: Names the posterior; particle k is the same however many are drawn, in whatever order.
        engine: How the draws are executed.
        folder: Keep each particle here, and resume from those that are there.
        title: Name beside the progress bar; None shows no bar.

    Raises:
        MismatchError: If the base measure was made for other data, or the folder holds draws of another posterior.

    >>> class Mean:
    ...     def fit(self, params, data, seed): return {"mean": np.average(data.y, axis=0, weights=data.weights)}
    ...     def predict(self, params, x): return np.tile(params["mean"], (len(x), 1))
    >>> data = Data(np.zeros((4, 1)), np.eye(2)[[0, 0, 0, 1]], np.ones(4))
    >>> prior = BaseMeasure(params={"mean": np.zeros(2)}, labels=np.full((4, 2), 0.5))
    >>> len(sample(Config(particles=3), Mean(), prior, data, seed=0))
    3
    """
    if base.labels.shape != data.y.shape:
        raise MismatchError(f"base.labels: expected shape {data.y.shape} (one per example), got {base.labels.shape}")

    def draw(particle: int) -> Params:
        name = child(seed, "particle", particle)
        weighted = fuse(data, base, _weights(config, len(data.y), child(name, "weights")))
        return learner.fit(base.params, weighted, child(name, "fit"))

    settings = {"seed": seed, "rho": config.rho, "blocks": config.blocks, "data": _identity(data, base)}
    draws = range(config.particles)
    return Posterior(tuple(map(draw, draws, engine=engine, folder=folder, config=settings, title=title)))


def fuse(data: Data, base: BaseMeasure, weights: Weights) -> Data:
    """Give the one weighted label per input that has the same loss as its real and its believed label together.

    >>> data = Data(np.zeros((1, 1)), np.array([[1.0, 0.0]]), np.ones(1))
    >>> prior = BaseMeasure(params={}, labels=np.array([[0.2, 0.8]]))
    >>> fuse(data, prior, Weights(real=np.array([0.75]), pseudo=np.array([0.25]))).y.round(9).tolist()
    [[0.8, 0.2]]
    """
    real, pseudo = weights.real * data.weights, weights.pseudo * data.weights
    both = real + pseudo
    share = np.divide(pseudo, both, out=np.zeros_like(both), where=both > 0)[:, None]
    return Data(data.x, (1 - share) * data.y + share * base.labels, len(both) * both / both.sum())


def _identity(data: Data, base: BaseMeasure) -> str:
    """Name what the particles are a posterior of, so that a folder is never resumed with other data."""
    arrays = {"y": data.y, "weights": data.weights, "labels": base.labels, **base.params}
    return fingerprint({**arrays, "x": data.x} if isinstance(data.x, np.ndarray) else arrays)


def _weights(config: Config, n: int, seed: int) -> Weights:
    alpha = config.rho * n
    if config.blocks is None:
        return dirichlet_process(n, n, alpha, seed)
    return block_dirichlet_process(n, alpha, config.blocks, seed)
