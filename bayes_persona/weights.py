"""Dirichlet-process weights: how much each example, seen or believed in, counts in one posterior draw.

With a prior F ~ DP(α, F_π) on the law of the data, and F_π represented by m atoms, the posterior puts on the n observed
examples and the m atoms the weights of Dirichlet(1, …, 1, α/m, …, α/m) (Fong, Lyddon & Holmes 2019, algorithm 2; NPTL,
Lee et al. 2024, section 3). α reads as *how many examples the prior is worth*; α = 0 is the Bayesian bootstrap.

Gammas are drawn as logarithms: with α/m near 1e-5 plain ones underflow to zero, and where all of a side do, to NaN.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import ConfigError
from bayes_persona.seeds import generator


class Weights(NamedTuple):
    """One draw: the mass of each observed example and of each prior atom. Together they sum to one.

    >>> Weights(real=np.array([0.5, 0.25]), pseudo=np.array([0.25])).real.sum()
    np.float64(0.75)
    """

    real: Float[np.ndarray, " n"]
    pseudo: Float[np.ndarray, " m"]


def dirichlet_process(n: int, m: int, alpha: float, seed: int) -> Weights:
    """Draw the exact posterior weights of n examples and m prior atoms.

    Args:
        n: Number of observed examples.
        m: Number of atoms that stand for the base measure F_π; 0 only if alpha is 0.
        alpha: Concentration: how many examples the prior is worth.
        seed: Names the draw.

    Raises:
        ConfigError: If a count is too small, or alpha is negative or not finite.

    >>> draw = dirichlet_process(n=5, m=5, alpha=2.0, seed=0)
    >>> round(float(draw.real.sum() + draw.pseudo.sum()), 12)
    1.0
    """
    _require_sizes(n, m, alpha)
    rng = generator(seed, "dirichlet")
    logs = np.concatenate([_log_gamma(rng, 1.0, n), _log_gamma(rng, alpha / max(m, 1), m)])
    masses = _normalise(logs)
    return Weights(masses[:n], masses[n:])


def block_dirichlet_process(n: int, alpha: float, blocks: int, seed: int) -> Weights:
    """Draw weights that are shared inside random blocks of examples, for n in the millions.

    The paper uses 2L numbers in place of 2n but its concentration is not public. This is a neutral split of our own:
    the prior's mass p ~ Beta(α, n) is exact by construction, and each side is then divided over L random blocks by
    Dirichlet(1_L) and Dirichlet((α/n)·1_L), which keeps the variance of the exact draw (see docs/decisions.md).

    Args:
        n: Number of examples, each with one prior atom of its own.
        alpha: Concentration: how many examples the prior is worth.
        blocks: L, from 1 to n. The partition is random: blocks of neighbours would be wrong for sorted data.
        seed: Names the draw.

    >>> draw = block_dirichlet_process(n=6, alpha=2.0, blocks=3, seed=0)
    >>> len(set(draw.real.tolist())), round(float(draw.real.sum() + draw.pseudo.sum()), 12)
    (3, 1.0)
    """
    _require_sizes(n, n, alpha)
    if not 1 <= blocks <= n:
        raise ConfigError(f"blocks: expected 1 to {n} (the number of examples), got {blocks}")
    rng = generator(seed, "block dirichlet")
    prior_mass, real_mass = _normalise(np.concatenate([_log_gamma(rng, alpha, 1), _log_gamma(rng, float(n), 1)]))
    block = rng.permutation(np.arange(n) % blocks)
    size = np.bincount(block, minlength=blocks)
    real = _normalise(_log_gamma(rng, 1.0, blocks) + np.log(size)) / size
    pseudo = _normalise(_log_gamma(rng, alpha / n, blocks) + np.log(size)) / size
    return Weights(real_mass * real[block], prior_mass * pseudo[block])


def _require_sizes(n: int, m: int, alpha: float) -> None:
    if n < 1:
        raise ConfigError(f"n: expected at least one example, got {n}")
    if not (np.isfinite(alpha) and alpha >= 0):
        raise ConfigError(f"alpha: expected a finite number of at least 0, got {alpha}")
    if m < 1 and alpha > 0:
        raise ConfigError(f"m: a prior worth alpha={alpha} examples needs at least one atom, got {m}")


def _log_gamma(rng: np.random.Generator, shape: float, size: int) -> Float[np.ndarray, " size"]:
    """Draw log Gamma(shape): Gamma(a) = Gamma(a + 1) · U^(1/a), so the logarithm never underflows."""
    if shape == 0:
        return np.full(size, -np.inf)
    uniform = 1.0 - rng.random(size)  # in (0, 1]
    return np.log(rng.standard_gamma(shape + 1, size)) + np.log(uniform) / shape


def _normalise(logs: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    top = logs.max(initial=-np.inf)
    if top == -np.inf:  # the side has no mass at all (alpha = 0): any split of nothing is the same
        return np.zeros_like(logs)
    masses = np.exp(logs - top)
    return masses / masses.sum()
