"""From arrays as people have them to the `Data` that learners take, checked once, here."""

import numpy as np

from bayes_persona.errors import ConfigError, DataError, MismatchError
from bayes_persona.types import Data


def classification(x: np.ndarray, y: np.ndarray, classes: int) -> Data:
    """Make one-hot data of class indices, every example with weight one.

    Args:
        x: Inputs (n, …), first axis examples.
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
    if y.ndim != 1 or len(x) != len(y):
        raise MismatchError(f"x, y: expected one label per example, got shapes {x.shape} and {y.shape}")
    if len(y) == 0:
        raise DataError("x, y: there is no example to learn from")
    if y.dtype.kind not in "iu":
        raise DataError(f"y: expected class indices (integers), got {y.dtype}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        rows = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))
        which = f"{len(rows)} of {len(x)} examples, the first is example {rows[0]}"
        raise DataError(f"x: NaN or infinite numbers in {which}; drop or mend them")
    outside = np.flatnonzero((y < 0) | (y >= classes))
    if len(outside):
        where = f"example {outside[0]} has label {y[outside[0]]}"
        raise DataError(f"y: {where}, outside the {classes} classes (0 to {classes - 1})")
    return Data(x, np.eye(classes)[y], np.ones(len(y)))
