"""The evidence of any parent set, from all moves at once: for sets that nobody enumerated before the data came.

`structure` keeps a table for each candidate and takes in moves one by one. Here only the different (x, y) are kept,
with how often each came, and a set's table is counted when it is asked for.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from bayes_persona.cpsrl.beliefs import Beliefs
from bayes_persona.errors import MismatchError

LARGEST = 1 << 62
"""Settings are numbered with 64 bits; where a set has more settings than this, those that occur are numbered anew."""


class Evidence:
    """Scores parent sets of one output, and remembers the scores.

    Args:
        known: The variables, and which of them may be parents.
        x: Settings of the inputs.
        y: The value of this output that followed each.
        output: The number of the output.
        alpha: The Dirichlet's parameter for each cell.

    Raises:
        MismatchError: If x and y do not fit each other or the variables.

    >>> from bayes_persona.cpsrl.beliefs import beliefs
    >>> from bayes_persona.cpsrl.env import lamp
    >>> x, y = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [1, 1], [1, 1]]), np.array([0, 0, 0, 1, 1, 1])
    >>> evidence = Evidence(beliefs(lamp(), {}, max_parents=2), x, y, output=0, alpha=1.0)
    >>> round(float(np.exp(-evidence.log(np.array([False, True])))))  # (3! / 4!)² = 1 / 16
    16
    """

    def __init__(
        self, known: Beliefs, x: Int[np.ndarray, "t inputs"], y: Int[np.ndarray, " t"], output: int, alpha: float
    ):
        self.sizes = list(known.inputs.values())
        self.values = list(known.outputs.values())[output]
        _require_moves(list(known.outputs)[output], known, x, y, self.values)
        possible = known.free[output] | known.required[output]
        rows = np.column_stack([np.where(possible, x, 0), y])
        rows, self.times = np.unique(rows, axis=0, return_counts=True)
        self.columns, self.y = rows[:, :-1].T.astype(np.int64), rows[:, -1].astype(np.int64)
        # ln Γ(a + n) − ln Γ(a) for all n that may come: the closed form is then two sums
        self.cells, self.rows = _rising(alpha, len(x)), _rising(self.values * alpha, len(x))
        self.seen: dict[bytes, float] = {}

    def log(self, mask: Bool[np.ndarray, " inputs"]) -> float:
        """Give the log evidence of one parent set; see `structure.log_evidence`."""
        key = mask.tobytes()
        if key not in self.seen:
            self.seen[key] = self._score(np.flatnonzero(mask))
        return self.seen[key]

    def logs(self, masks: Bool[np.ndarray, "sets inputs"]) -> Float[np.ndarray, " sets"]:
        """Give the log evidence of several parent sets."""
        return np.array([self.log(mask) for mask in masks])

    def _score(self, parents: np.ndarray) -> float:
        settings, number = np.zeros(len(self.y), dtype=np.int64), 1
        for parent in parents:
            if number * self.sizes[parent] > LARGEST:
                found, settings = np.unique(settings, return_inverse=True)
                number = len(found)
            settings = settings * self.sizes[parent] + self.columns[parent]
            number *= self.sizes[parent]
        if number > 4 * len(self.y) + 64:  # most settings never came
            found, settings = np.unique(settings, return_inverse=True)
            number = len(found)
        counts = np.bincount(settings * self.values + self.y, self.times, number * self.values).astype(np.int64)
        totals = counts.reshape(number, self.values).sum(axis=1)
        return float(self.cells[counts].sum() - self.rows[totals].sum())


def _rising(start: float, most: int) -> Float[np.ndarray, " counts"]:
    return np.concatenate([[0.0], np.log(start + np.arange(most)).cumsum()]) if most else np.zeros(1)


def _require_moves(name: str, known: Beliefs, x: np.ndarray, y: np.ndarray, values: int) -> None:
    if x.ndim != 2 or x.shape[1] != len(known.inputs) or y.shape != x.shape[:1]:
        raise MismatchError(
            f"x, y: expected a column for each of {list(known.inputs)} and one value of {name} a row, "
            f"got shapes {x.shape} and {y.shape}"
        )
    for variable, column, size in [*zip(known.inputs, x.T, known.inputs.values(), strict=True), (name, y, values)]:
        outside = column[(column < 0) | (column >= size)]
        if outside.size:
            raise MismatchError(f"{variable}: expected values from 0 to {size - 1}, got {outside[0]}")


def moves_of(
    known: Beliefs, x: Int[np.ndarray, "t inputs"], y: Int[np.ndarray, "t outputs"], alpha: float
) -> list[Evidence]:
    """Give the evidence of all outputs.

    Raises:
        MismatchError: If x and y do not fit each other or the variables.

    >>> from bayes_persona.cpsrl.beliefs import beliefs
    >>> from bayes_persona.cpsrl.env import lamp
    >>> known = beliefs(lamp(), {}, max_parents=2)
    >>> (evidence,) = moves_of(known, np.zeros((1, 2), dtype=int), np.zeros((1, 1), dtype=int), alpha=1.0)
    >>> round(float(np.exp(evidence.log(np.array([True, True])))), 3)  # the first move: one of two values
    0.5
    """
    if y.ndim != 2 or y.shape[1] != len(known.outputs):
        raise MismatchError(f"y: expected a column for each of {list(known.outputs)}, got shape {y.shape}")
    if not (math.isfinite(alpha) and alpha > 0):
        raise MismatchError(f"alpha: expected a finite number above 0, got {alpha}")
    return [Evidence(known, x, column, output, alpha) for output, column in enumerate(y.T)]
