"""The posterior bootstrap: draw a law of the data, then the params that fit it best; repeat.

The objective of draw m (Lee et al. 2024, eq. 5), with w, v the Dirichlet-process weights, q the base measure's labels:

    J_m(θ) = Σ_i [ w_i ℓ(y_i, f_θ(x_i)) + v_i ℓ(q_i, f_θ(x_i)) ]

Cross-entropy and squared loss are linear in the label up to a constant, so both labels of an input fuse into one:
s_i = n(w_i + v_i), t_i = (w_i y_i + v_i q_i) / (w_i + v_i), J_m = (1/n) Σ_i s_i ℓ(t_i, f_θ(x_i)). A draw
therefore costs one ordinary weighted fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from bayes_persona import ranges
from bayes_persona.bma import average, predictions
from bayes_persona.errors import ConfigError, MismatchError
from bayes_persona.nptl.base_measure import BaseMeasure, ProbedLearner, Pseudo, atoms_of, linear_probe, random_head
from bayes_persona.nptl.data import subset
from bayes_persona.nptl.likelihood import NOISE, log_likelihood
from bayes_persona.nptl.method import Fit, How, fit_all, identity
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child, generator
from bayes_persona.types import Data
from bayes_persona.weights import Weights, block_dirichlet_process, dirichlet_process

Heads = Literal["probed", "random"]
"""Where the heads of particles start: all from the probe's, or each from one of its own, drawn at random."""
GRID = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Strengths of the prior that `choose_rho` tries."""


@dataclass(frozen=True)
class NPTL:
    """Nonparametric transfer learning: one fit for each draw of a Dirichlet process around the base measure.

    >>> NPTL(particles=4, rho=0.3).rho
    0.3
    """

    particles: int = 10
    """Number of posterior draws, K."""
    rho: float = 1.0
    """Strength of the prior, α/n: how many times the data the base measure is worth. 0 is the Bayesian bootstrap."""
    blocks: int | None = None
    """Share weights inside this many random blocks of examples; none draws every example its own (exact)."""
    heads: Heads = "probed"
    """Start every particle from the probe's head, or each from a random one: further apart, and longer on the way."""
    pseudo: Pseudo = "soft"
    """Believe probabilities ("soft"), the most probable class of each input ("hard"), or one that is drawn anew for
    every particle ("sample"), which adds the prior's own noise to the posterior."""
    exclude_failed: bool = False
    """Leave out draws whose loss stops being finite, and warn; otherwise the first such draw is an error."""

    def __post_init__(self):
        ranges.at_least(self, 1, "particles")
        ranges.at_least(self, 0, "rho")
        if self.heads not in get_args(Heads):
            raise ConfigError(f"heads: expected one of {', '.join(get_args(Heads))}, got {self.heads!r}")
        if self.pseudo not in get_args(Pseudo):
            raise ConfigError(f"pseudo: expected one of {', '.join(get_args(Pseudo))}, got {self.pseudo!r}")

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
        """Draw `particles` params from the NPTL posterior.

        Args:
            learner: Fits weighted data; any framework. Random heads need its `features` and `with_head`.
            base: The prior, from `linear_probe`, `zero_shot` or your own.
            data: The downstream examples.
            seed: Names the posterior; particle k is the same however many are drawn, in whatever order.
            engine: How the draws are executed.
            folder: Keep each particle here, and resume from those that are there.
            title: Name beside the progress bar; None shows no bar.

        Raises:
            ConfigError: If pseudo-labels of a regression shall be hard or drawn.
            MismatchError: If the base measure was made for other data, or the folder holds draws of another posterior.
            DataError: If a draw's loss stops being finite.

        >>> class Mean:
        ...     def fit(self, params, data, seed): return {"mean": np.average(data.y, axis=0, weights=data.weights)}
        ...     def predict(self, params, x): return np.tile(params["mean"], (len(x), 1))
        >>> data = Data(np.zeros((4, 1)), np.eye(2)[[0, 0, 0, 1]], np.ones(4))
        >>> prior = BaseMeasure(params={"mean": np.zeros(2)}, labels=np.full((4, 2), 0.5))
        >>> len(NPTL(particles=3).sample(Mean(), prior, data, seed=0))
        3
        """
        if base.labels.shape != data.y.shape:
            expected = f"expected shape {data.y.shape} (one per example), got {base.labels.shape}"
            raise MismatchError(f"base.labels: {expected}")

        def plan(particle: int) -> Fit:
            name, params = child(seed, "particle", particle), base.params
            if self.heads == "random":
                params = random_head(learner, params, data, name)
            believed = atoms_of(base, self.pseudo, getattr(learner, "likelihood", "categorical"), name)
            return Fit(params, self._weighted(believed, data, name), child(name, "fit"))

        settings = {**_law(self), "seed": seed, "data": identity(data, base)}
        return fit_all(
            learner,
            plan,
            self.particles,
            settings=settings,
            engine=engine,
            folder=folder,
            title=title,
            exclude_failed=self.exclude_failed,
        )

    def _weighted(self, base: BaseMeasure, data: Data, name: int) -> Data:
        n, seed = len(data.y), child(name, "weights")
        alpha = self.rho * n
        if base.sampler is not None:
            return _beside(data, base.sampler(child(name, "atoms")), alpha, seed)
        if self.blocks is None:
            return fuse(data, base, dirichlet_process(n, n, alpha, seed))
        return fuse(data, base, block_dirichlet_process(n, alpha, self.blocks, seed))


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
    label = (1 - share) * data.y + share * base.labels
    # what a gaussian's variance needs: how far the two are apart, and the noise of what is believed
    spread = share * (1 - share) * (data.y - base.labels) ** 2 + share * base.params.get(NOISE, 0.0)
    return Data(data.x, label, len(both) * both / both.sum(), spread)


class Choice(NamedTuple):
    """What `choose_rho` has found.

    >>> Choice(NPTL(rho=0.3), {0.3: 0.5, 1.0: 0.7}).method.rho
    0.3
    """

    method: NPTL
    """The method with the best strength of the prior."""
    nll: Mapping[float, float]
    """Validation NLL of the model average at every strength that was tried."""


def choose_rho(
    method: NPTL,
    learner: ProbedLearner,
    data: Data,
    *,
    seed: int,
    grid: Sequence[float] = GRID,
    share: float = 0.1,
    engine: How = "auto",
    probe: Any = linear_probe,
) -> Choice:
    """Choose the prior's strength by the NLL of the model average on held-out examples (Lee et al. 2024).

    Args:
        method: Its other settings are kept.
        learner: Fits weighted data.
        data: The downstream examples; a random share of them is held out while choosing, from the probe too.
        seed: Names the split and the draws.
        grid: Strengths to try.
        share: Share of examples held out.
        engine: How the draws are executed.
        probe: Makes the base measure of a learner and data.

    Raises:
        ConfigError: If the grid is empty, or the share leaves no example to learn from or to judge.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import Config, TorchLearner
    >>> x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    >>> data = Data(x, np.eye(2)[(x[:, 0] > 0).astype(int)], np.ones(40))
    >>> choose_rho(NPTL(particles=2), TorchLearner(nn.Linear(2, 2), Config(steps=5)), data, seed=0).method.rho in GRID
    True
    """
    held = round(share * len(data.y))
    if not grid or not 0 < held < len(data.y):
        raise ConfigError(f"grid={tuple(grid)}, share={share}: nothing to choose from, learn from or judge on")
    order = generator(seed, "validation").permutation(len(data.y))
    judge, learn = subset(data, order[:held]), subset(data, order[held:])
    base, nll = probe(learner, learn), {}
    for rho in grid:
        posterior = replace(method, rho=rho).sample(learner, base, learn, seed=child(seed, "choose"), engine=engine)
        nll[rho] = model_nll(learner, posterior, judge)
    return Choice(replace(method, rho=min(nll, key=lambda rho: nll[rho])), nll)


def model_nll(learner: ProbedLearner, posterior: Posterior, data: Data) -> float:
    """Give the NLL of a posterior's model average, whatever the likelihood: -log of the mean density, in nats.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import TorchLearner
    >>> learner = TorchLearner(nn.Linear(1, 2))
    >>> even = {"weight": np.zeros((2, 1), np.float32), "bias": np.zeros(2, np.float32)}
    >>> round(model_nll(learner, Posterior((even,)), Data(np.zeros((1, 1), np.float32), np.eye(2)[:1], np.ones(1))), 4)
    0.6931
    """
    members = predictions(learner, posterior, data.x)
    if learner.likelihood == "categorical":
        return float(-(data.y * np.log(average(members).clip(1e-12))).sum(axis=1).mean())
    noise = np.stack([particle[NOISE] for particle in posterior]) if learner.likelihood == "gaussian" else None
    logs = log_likelihood(members, data.y, learner.likelihood, noise)
    return float(-(np.logaddexp.reduce(logs, axis=0) - np.log(len(logs))).mean())


def _law(method: NPTL) -> dict[str, Any]:
    return {name: value for name, value in asdict(method).items() if name not in ("particles", "exclude_failed")}


def _beside(data: Data, atoms: tuple[Any, np.ndarray], alpha: float, seed: int) -> Data:
    """Put pseudo-examples beside the data's, each side with its Dirichlet-process weights."""
    x, y = atoms
    weights = dirichlet_process(len(data.y), len(y), alpha, seed)
    mass = np.concatenate([weights.real * data.weights, weights.pseudo])
    if isinstance(data.x, Mapping):
        inputs: Any = {name: np.concatenate([part, x[name]]) for name, part in data.x.items()}
    else:
        inputs = np.concatenate([data.x, x])
    return Data(inputs, np.concatenate([data.y, y]), len(mass) * mass / mass.sum())
