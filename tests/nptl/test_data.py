"""Data as people have it: what is refused, and how."""

import numpy as np
import pytest

from bayes_persona import ConfigError, DataError, MismatchError
from bayes_persona.nptl import classification, multilabel, regression
from bayes_persona.nptl.data import count, subset, take

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


def test_inputs_may_be_a_dict_of_arrays():
    x = {"ids": np.arange(6).reshape(3, 2), "mask": np.ones((3, 2))}
    data = classification(x, np.array([0, 1, 1]), classes=2)
    assert count(data.x) == 3
    assert take(data.x, np.array([2, 0]))["ids"].tolist() == [[4, 5], [0, 1]]
    part = subset(data._replace(weights=np.array([1.0, 2.0, 3.0])), np.array([1, 2]))
    assert part.weights.tolist() == [0.8, 1.2]  # of mean one again
    with pytest.raises(MismatchError, match="got 2 of mask and 3 labels"):
        classification({**x, "mask": x["mask"][:2]}, np.array([0, 1, 1]), classes=2)
    with pytest.raises(DataError, match="mask: NaN or infinite numbers in 1 of 3"):
        classification({**x, "mask": np.full((3, 2), 1.0) * [[1], [np.inf], [1]]}, np.array([0, 1, 1]), classes=2)


def test_targets_of_other_tasks_are_checked_too():
    assert regression(X, np.arange(3)).y.tolist() == [[0], [1], [2]]
    with pytest.raises(DataError, match="y: NaN or infinite numbers in 1 of 3"):
        regression(X, np.array([0.0, np.nan, 1.0]))
    with pytest.raises(MismatchError, match=r"expected targets \(n,\) or \(n, k\)"):
        regression(X, np.zeros((3, 2, 2)))
    with pytest.raises(DataError, match="expected labels between 0 and 1, got 0 to 2"):
        multilabel(X, np.array([[0, 1], [2, 0], [0, 0]]))
    with pytest.raises(MismatchError, match="expected a table"):
        multilabel(X, np.zeros(3))
