"""Data as people have it: what is refused, and how."""

import numpy as np
import pytest

from bayes_persona import ConfigError, DataError, MismatchError
from bayes_persona.nptl import classification

X = np.zeros((3, 2), np.float32)


def with_nan():
    x = X.copy()
    x[1, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("x", "y", "classes", "error", "message"),
    [
        (X[:0], np.zeros(0, int), 2, DataError, "no example"),
        (X, np.zeros(2, int), 2, MismatchError, r"got 3 of x and 2 labels"),
        (with_nan(), np.zeros(3, int), 2, DataError, "1 of 3 examples, the first is example 1"),
        (X, np.array([0, 1, 2]), 2, DataError, r"example 2 has label 2, outside the 2 classes \(0 to 1\)"),
        (X, np.array([0, -1, 0]), 2, DataError, "example 1 has label -1"),
        (X, np.zeros(3, int), 1, ConfigError, "classes: expected at least 2"),
    ],
)
def test_bad_data_is_refused_by_name(x, y, classes, error, message):
    with pytest.raises(error, match=message):
        classification(x, y, classes)


def test_a_class_without_examples_is_fine():
    assert classification(X, np.array([0, 0, 2]), classes=4).y.sum(axis=0).tolist() == [2, 0, 1, 0]
