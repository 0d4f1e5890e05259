"""From arrays as people have them to the `Data` that learners take, checked once, here."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bayes_persona.errors import ConfigError, DataError, MismatchError
from bayes_persona.types import Data


def classification(x: Any, y: np.ndarray, classes: int) -> Data:
    """Make one-hot data of class indices, every example with weight one.

    Args:
        x: Inputs (n, …), first axis examples; or a dict of such arrays, as transformers' tokenizers give.
        y: Class indices (n,), 0 to `classes` - 1.
        classes: Number of classes of the task; not every one needs to be among the examples.

    Raises:
        DataError: If there is no example, an input is NaN or infinite, or a label is not a class.
        MismatchError: If `x` and `y` differ in length.
        ConfigError: If there are fewer than two classes.

    >>> classification(np.zeros((2, 4)), np.array([2, 0]), classes=3).y.tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    if classes < 2:
        raise ConfigError(f"classes: expected at least 2, got {classes}")
    if y.ndim != 1:
        raise MismatchError(f"x, y: expected one label per example, got y of shape {y.shape}")
    _require_pairs(x, y)
    if y.dtype.kind not in "iu":
        raise DataError(f"y: expected class indices (integers), got {y.dtype}")
    outside = np.flatnonzero((y < 0) | (y >= classes))
    if len(outside):
        where = f"example {outside[0]} has label {y[outside[0]]}"
        raise DataError(f"y: {where}, outside the {classes} classes (0 to {classes - 1})")
    return Data(x, np.eye(classes)[y], np.ones(len(y)))


def multilabel(x: Any, y: np.ndarray) -> Data:
    """Make data of several yes-or-no labels an example.

    Args:
        x: Inputs, as in `classification`.
        y: Which labels an example has (n, k): 0 or 1, or a probability between.

    Raises:
        DataError: If there is no example, an input is NaN or infinite, or a label is outside 0 to 1.
        MismatchError: If `x` and `y` differ in length, or `y` is not a table.

    >>> multilabel(np.zeros((2, 4)), np.array([[1, 1, 0], [0, 0, 0]])).y.shape
    (2, 3)
    """
    if y.ndim != 2:
        raise MismatchError(f"y: expected a table (examples, labels), got shape {y.shape}")
    _require_pairs(x, y)
    y = y.astype(np.float64)
    if not ((y >= 0) & (y <= 1)).all():  # NaN is outside too
        raise DataError(f"y: expected labels between 0 and 1, got {np.nanmin(y):g} to {np.nanmax(y):g}")
    return Data(x, y, np.ones(len(y)))


def regression(x: Any, y: np.ndarray) -> Data:
    """Make data of one or several numbers to predict.

    Args:
        x: Inputs, as in `classification`.
        y: Targets (n,) or (n, k). Scale them to about unit spread: learning rates are meant for that.

    Raises:
        DataError: If there is no example, or an input or a target is NaN or infinite.
        MismatchError: If `x` and `y` differ in length.

    >>> regression(np.zeros((2, 4)), np.array([0.5, -1.0])).y.tolist()
    [[0.5], [-1.0]]
    """
    if y.ndim not in (1, 2):
        raise MismatchError(f"y: expected targets (n,) or (n, k), got shape {y.shape}")
    _require_pairs(x, y)
    y = y.astype(np.float64).reshape(len(y), -1)
    _require_rows_finite("y", y)
    return Data(x, y, np.ones(len(y)))


def count(x: Any) -> int:
    """Give the number of examples of inputs.

    >>> count({"input_ids": np.zeros((3, 8)), "attention_mask": np.ones((3, 8))})
    3
    """
    return len(next(iter(x.values()))) if isinstance(x, Mapping) else len(x)


def take(x: Any, rows: Any) -> Any:
    """Give some examples of inputs: rows are indices or a slice, as the arrays themselves (numpy, torch) know them.

    >>> take({"input_ids": np.arange(3)}, slice(1, 3))["input_ids"].tolist()
    [1, 2]
    """
    return {name: part[rows] for name, part in x.items()} if isinstance(x, Mapping) else x[rows]


def subset(data: Data, rows: np.ndarray | slice) -> Data:
    """Give some examples of a data set, their weights scaled to mean one.

    >>> len(subset(classification(np.zeros((4, 1)), np.array([0, 1, 1, 0]), 2), np.array([0, 3])).y)
    2
    """
    weights = data.weights[rows]
    spread = None if data.spread is None else data.spread[rows]
    return Data(take(data.x, rows), data.y[rows], weights / weights.mean(), spread)


def _require_pairs(x: Any, y: np.ndarray) -> None:
    parts = dict(x) if isinstance(x, Mapping) else {"x": x}
    for name, part in parts.items():
        if len(part) != len(y):
            raise MismatchError(f"x, y: expected one label per example, got {len(part)} of {name} and {len(y)} labels")
    if len(y) == 0:
        raise DataError("x, y: there is no example to learn from")
    for name, part in parts.items():
        if isinstance(part, np.ndarray):
            _require_rows_finite(name, part)


def _require_rows_finite(name: str, array: np.ndarray) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        which = f"{len(rows)} of {len(array)} examples, the first is example {rows[0]}"
        raise DataError(f"{name}: NaN or infinite numbers in {which}; drop or mend them")
