"""Are the error bars honest? Intervals of who somebody is, against the truth, over many people.

A posterior's members are read by an identity net into vectors; their mean and spread make an interval for every factor
of the identity. Where truth is known (PersonaWorld), intervals should hold it as often as they say. One constant, found
on other people, makes up for what members do not disagree about, such as what the net or the base model gets wrong.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from bayes_persona.errors import DataError, needs_extra

with needs_extra("diffusion"):
    from scipy import stats

LEVELS = (0.5, 0.8, 0.95)
"""Of the intervals that are usually looked at."""


class Spread(NamedTuple):
    """What K members say of people's factors: their mean and standard deviation.

    >>> Spread(np.zeros((2, 3)), np.ones((2, 3)), members=8).half_width(0.95).round(3).tolist()[0]
    [2.508, 2.508, 2.508]
    """

    mean: Float[np.ndarray, "people factors"]
    sd: Float[np.ndarray, "people factors"]
    members: int

    def half_width(self, level: float, constant: float = 1.0) -> Float[np.ndarray, "people factors"]:
        """Give half of each interval: where one more draw of the posterior would fall with this probability.

        Args:
            level: The probability.
            constant: Multiplies all; `constant` finds one.
        """
        reach = stats.t.ppf((1 + level) / 2, self.members - 1) * np.sqrt(1 + 1 / self.members)
        return constant * reach * self.sd


def spread(read: Float[np.ndarray, "people members factors"]) -> Spread:
    """Give mean and standard deviation over members.

    Args:
        read: What the identity net reads in each member's pictures, averaged over the pictures.

    Raises:
        DataError: If there are fewer than two members.

    >>> spread(np.array([[[0.0], [2.0]]])).sd.round(3).tolist()
    [[1.414]]
    """
    if read.shape[1] < 2:
        raise DataError("members: one cannot disagree with itself; draw a posterior of at least two")
    return Spread(read.mean(axis=1), read.std(axis=1, ddof=1), read.shape[1])


class Calibration(NamedTuple):
    """How intervals do against the truth.

    >>> Calibration({0.8: 0.75}, {0.8: 0.4}, 0.1).coverage[0.8]
    0.75
    """

    coverage: dict[float, float]
    """Share of true factors inside, by level."""
    width: dict[float, float]
    """Mean width, by level."""
    crps: float
    """Mean continuous ranked probability score, in the factors' units; the lower the better."""


def judge(
    said: Spread,
    truth: Float[np.ndarray, "people factors"],
    counts: Bool[np.ndarray, "people factors"] | None = None,
    *,
    constant: float = 1.0,
) -> Calibration:
    """Compare intervals with the truth.

    Args:
        said: The intervals.
        truth: The true factors.
        counts: Which factors count, such as those that can be seen; None is all.
        constant: Multiplies all intervals.

    Raises:
        DataError: If nothing counts, or the truth is of another shape.

    >>> sure = Spread(np.zeros((1, 2)), np.ones((1, 2)), members=1000)
    >>> judge(sure, np.array([[0.5, 3.0]])).coverage
    {0.5: 0.5, 0.8: 0.5, 0.95: 0.5}
    """
    counts = _counted(said, truth, counts)
    error = np.abs(truth - said.mean)
    coverage, width = {}, {}
    for level in LEVELS:
        half = said.half_width(level, constant)
        coverage[level] = float((error <= half)[counts].mean())
        width[level] = float(2 * half[counts].mean())
    sd = constant * said.sd * np.sqrt(1 + 1 / said.members)
    return Calibration(coverage, width, float(crps(said.mean, sd, truth)[counts].mean()))


def constant(
    said: Spread,
    truth: Float[np.ndarray, "people factors"],
    counts: Bool[np.ndarray, "people factors"] | None = None,
    *,
    level: float = 0.8,
) -> float:
    """Give the constant with which intervals of a level hold as many true factors as they should, on these people.

    Raises:
        DataError: If nothing counts, or members agree to the last digit, and are wrong, too often.

    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=(500, 4))
    >>> too_sure = Spread(np.zeros((500, 4)), np.full((500, 4), 0.5), members=1000)
    >>> round(constant(too_sure, truth), 1)
    2.0
    """
    counts = _counted(said, truth, counts)
    error, half = np.abs(truth - said.mean)[counts], said.half_width(level)[counts]
    # an interval without width holds the truth whatever multiplies it, or never does
    needed = np.where(half > 0, error / np.where(half > 0, half, 1.0), np.where(error > 0, np.inf, 0.0))
    found = float(np.quantile(needed, level, method="inverted_cdf"))
    if not np.isfinite(found):
        raise DataError("members: most agree to the last digit, so that no constant makes their intervals hold")
    return found


def crps(
    mean: Float[np.ndarray, "*batch"], sd: Float[np.ndarray, "*batch"], truth: Float[np.ndarray, "*batch"]
) -> Float[np.ndarray, "*batch"]:
    """Give the continuous ranked probability score of normal laws (Gneiting & Raftery 2007, eq. 21).

    >>> float(crps(np.zeros(1), np.ones(1), np.zeros(1))[0].round(4))
    0.2337
    """
    z = (truth - mean) / np.where(sd > 0, sd, 1.0)
    score = sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    return np.where(sd > 0, score, np.abs(truth - mean))


def _counted(said: Spread, truth: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    if truth.shape != said.mean.shape:
        raise DataError(f"truth: expected shape {said.mean.shape}, got {truth.shape}")
    counts = np.ones(truth.shape, bool) if counts is None else counts
    if not counts.any():
        raise DataError("counts: no factor counts, so there is nothing to compare")
    return counts
