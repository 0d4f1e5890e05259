"""How qualities respond to knobs: the posterior over which knobs cause a quality, and over what they do.

A quality's share at a setting x of the knobs, for a subject p, is normal: with the set Z of its causes,

    y = ½ + m(x) + d_p(x) + noise,    Cov[m(x), m(x')] = a² + b² 1[x_Z = x'_Z] + c² 1[x = x'],

and the same with smaller scales for d_p. m is what all subjects of a method have in common, d_p is one subject's own.
b is a table over the causes, c what the graph leaves out. All is Gaussian, so the evidence of every set and every draw
are exact; generations of earlier subjects teach m, and the new one's d.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bayes_persona import ranges
from bayes_persona.errors import needs_extra
from bayes_persona.seeds import generator

with needs_extra("jax"):
    from scipy.linalg import cho_solve, cholesky, solve_triangular


@dataclass(frozen=True)
class Scales:
    """Standard deviations of shares (0 is the worst, 1 the best), in common and of one subject.

    Chosen on the embedded model, on people who are never reported; results hardly depend on them.

    Raises:
        ConfigError: If one is not positive.

    >>> Scales(noise=0.0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: noise: expected a finite number above 0, got 0.0
    """

    level: float = 0.2
    """a: of all settings together."""
    causes: float = 0.2
    """b: of each setting of the causes."""
    rest: float = 0.05
    """c: of each setting of all knobs."""
    own_level: float = 0.1
    own_causes: float = 0.1
    own_rest: float = 0.05
    noise: float = 0.05
    """Of one generation."""

    def __post_init__(self):
        ranges.positive(self, *(field.name for field in fields(self)))


class Seen(NamedTuple):
    """Generations: their settings, whose they are, and what came of them.

    >>> Seen.nothing(qualities=2).shares.shape
    (0, 2)
    """

    settings: Int[np.ndarray, " n"]
    """Numbers of settings, the first knob most significant."""
    subjects: Int[np.ndarray, " n"]
    """Whose: 0 is the new one."""
    shares: Float[np.ndarray, "n qualities"]

    @classmethod
    def nothing(cls, qualities: int) -> "Seen":
        """Give no generations."""
        return cls(np.zeros(0, int), np.zeros(0, int), np.zeros((0, qualities)))

    def averaged(self) -> tuple["Seen", Int[np.ndarray, " n"]]:
        """Give the means of generations of one subject at one setting, and how many they are of.

        >>> same = Seen(np.array([3, 3]), np.array([1, 1]), np.array([[0.2], [0.4]]))
        >>> mean, times = same.averaged()
        >>> mean.shares.round(3).tolist(), times.tolist()
        ([[0.3]], [2])
        """
        pairs, where = np.unique(np.stack([self.subjects, self.settings]), axis=1, return_inverse=True)
        times = np.bincount(where.ravel(), minlength=pairs.shape[1])
        sums = np.zeros((len(times), self.shares.shape[1]))
        np.add.at(sums, where.ravel(), self.shares)
        return Seen(pairs[1], pairs[0], sums / np.maximum(times, 1)[:, None]), times


class Responses:
    """The posterior of one subject's responses, given all generations.

    Args:
        sizes: Places of each knob.
        members: Which knobs are causes, for each quality and each candidate set.
        log_prior: Of each candidate, any constant aside.
        seen: Generations, the new subject's being those of subject 0.
        scales: What is believed before.

    >>> either = np.array([[[False], [True]]])  # one quality, one knob: no cause, or a cause
    >>> shares = np.array([[0.2], [0.8], [0.21], [0.79]])
    >>> seen = Seen(np.array([0, 1, 0, 1]), np.zeros(4, int), shares)
    >>> told = Responses([2], either, np.zeros((1, 2)), seen)
    >>> bool(told.posterior[0, 1] > 0.9), bool(told.expected()[1, 0] > 0.7)
    (True, True)
    """

    def __init__(
        self,
        sizes: Sequence[int],
        members: Bool[np.ndarray, "qualities candidates knobs"],
        log_prior: Float[np.ndarray, "qualities candidates"],
        seen: Seen,
        scales: Scales | None = None,
    ):
        self.members, self.scales = members, Scales() if scales is None else scales
        self.seen, times = seen.averaged()
        self._noise = self.scales.noise**2 / np.maximum(times, 1)
        self._places = np.indices(tuple(sizes)).reshape(len(sizes), -1)
        self._sizes = np.array(sizes)
        self._solved: dict[tuple[bool, ...], _Solved] = {}
        logs = np.array(log_prior, float)
        for quality, candidate in itertools.product(*map(range, logs.shape)):
            if np.isfinite(logs[quality, candidate]):
                logs[quality, candidate] += self._at(quality, candidate).log_evidence[quality]
        probs = np.exp(logs - logs.max(axis=1, keepdims=True))
        self.posterior: Float[np.ndarray, "qualities candidates"] = probs / probs.sum(axis=1, keepdims=True)
        """The probability of each candidate set of causes."""

    @property
    def marginals(self) -> Float[np.ndarray, "qualities knobs"]:
        """The probability that each knob is a cause of each quality."""
        return np.minimum(np.einsum("qc,qck->qk", self.posterior, self.members), 1.0)

    def expected(self) -> Float[np.ndarray, "settings qualities"]:
        """Give the new subject's expected shares at every setting, over causes and responses."""
        out = np.zeros((self._places.shape[1], len(self.members)))
        for quality, candidate in itertools.product(*map(range, self.posterior.shape)):
            if self.posterior[quality, candidate] > 1e-9:
                solved = self._at(quality, candidate)
                out[:, quality] += self.posterior[quality, candidate] * (0.5 + solved.gain @ solved.weights[:, quality])
        return out

    def sample(self, seed: int) -> Float[np.ndarray, "settings qualities"]:
        """Draw causes, and given those the new subject's shares at every setting.

        The draw is of the prior, corrected by what it misses of the data (Matheron's rule; Wilson et al., "Efficiently
        sampling functions from Gaussian process posteriors", 2020), so no matrix is as large as settings are many.
        """
        columns = []
        for quality, probs in enumerate(self.posterior):
            random = generator(seed, "responses", quality)
            candidate = int(random.choice(len(probs), p=probs))
            solved, rows = self._at(quality, candidate), self._rows(quality, candidate)
            mine, theirs = self._prior_draw(random, rows)
            missed = (
                self.seen.shares[:, quality] - 0.5 - theirs - np.sqrt(self._noise) * random.normal(size=len(theirs))
            )
            columns.append(0.5 + mine + solved.gain @ cho_solve((solved.factor, True), missed))
        return np.stack(columns, axis=1)

    def _prior_draw(
        self, random: np.random.Generator, rows: Int[np.ndarray, " settings"]
    ) -> tuple[Float[np.ndarray, " settings"], Float[np.ndarray, " n"]]:
        """Draw, before any data, the new subject's responses everywhere, and every subject's where they were seen."""
        one, height = self.scales, int(rows.max()) + 1

        def surface(level: float, causes: float, rest: float) -> Float[np.ndarray, " settings"]:
            return (
                level * random.normal()
                + (causes * random.normal(size=height))[rows]
                + rest * random.normal(size=len(rows))
            )

        common = surface(one.level, one.causes, one.rest)
        own = [
            surface(one.own_level, one.own_causes, one.own_rest)
            for _ in range(int(self.seen.subjects.max(initial=0)) + 1)
        ]
        theirs = common[self.seen.settings] + np.stack(own)[self.seen.subjects, self.seen.settings]
        return common + own[0], theirs

    def _rows(self, quality: int, candidate: int) -> Int[np.ndarray, " settings"]:
        """Number every setting by the setting of its causes."""
        causes = np.flatnonzero(self.members[quality, candidate])
        if not len(causes):
            return np.zeros(self._places.shape[1], int)
        return np.asarray(np.ravel_multi_index(tuple(self._places[causes]), tuple(self._sizes[causes])))

    def _at(self, quality: int, candidate: int) -> "_Solved":
        """Condition on all data, given causes; that serves all qualities, as all were seen at the same settings."""
        key = tuple(self.members[quality, candidate].tolist())
        if key not in self._solved:
            self._solved[key] = self._solve(self._rows(quality, candidate))
        return self._solved[key]

    def _solve(self, rows: Int[np.ndarray, " settings"]) -> "_Solved":
        one, seen = self.scales, self.seen
        every = np.arange(len(rows))
        alike, equal = _same(rows, rows[seen.settings]), _same(every, seen.settings)
        common = one.level**2 + one.causes**2 * alike + one.rest**2 * equal
        own = one.own_level**2 + one.own_causes**2 * alike + one.own_rest**2 * equal
        gain = common + own * (seen.subjects == 0)
        between = common[seen.settings] + own[seen.settings] * _same(seen.subjects, seen.subjects)
        factor = cholesky(between + np.diag(self._noise), lower=True)
        white = solve_triangular(factor, seen.shares - 0.5, lower=True)
        log_evidence = -0.5 * (white**2).sum(axis=0) - np.log(np.diag(factor)).sum()
        return _Solved(factor, cho_solve((factor, True), seen.shares - 0.5), log_evidence, gain)


class _Solved(NamedTuple):
    """What is known given one set of causes."""

    factor: Float[np.ndarray, "n n"]
    weights: Float[np.ndarray, "n qualities"]
    log_evidence: Float[np.ndarray, " qualities"]
    gain: Float[np.ndarray, "settings n"]
    """Covariance of the new subject's responses and what was seen."""


def _same(one: np.ndarray, other: np.ndarray) -> Float[np.ndarray, "m n"]:
    return (one[:, None] == other[None, :]).astype(float)
