from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bayes_persona.errors import DataError, MismatchError
from bayes_persona.named import flatten, require_finite, require_like, unflatten

few = settings(max_examples=60, derandomize=True, deadline=None)


class Pair(NamedTuple):
    """A state as kernels have it."""

    mean: object
    scale: object


kinds = st.sampled_from([np.float32, np.float64, np.int64, np.bool_])
leaves = kinds.flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=2, max_side=3)))
words = st.text("abcé_ ", min_size=1, max_size=3)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(words, inner, max_size=3),
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=6,
)


def same(one, other):
    """Whether two trees are equal in kind, names and bits."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        return (one.shape, one.dtype, one.tobytes()) == (other.shape, other.dtype, other.tobytes())
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return len(one) == len(other) and all(same(left, right) for left, right in zip(one, other, strict=True))


@few
@given(trees)
def test_unflattening_undoes_flattening(tree):
    assert same(unflatten(tree, flatten(tree)), tree)


@few
@given(trees)
def test_flat_names_lead_to_new_numbers_too(tree):
    other = {name: np.full(leaf.shape, number) for number, (name, leaf) in enumerate(flatten(tree).items())}
    back = flatten(unflatten(tree, other))
    assert list(back) == list(other)
    assert all((back[name] == number).all() for number, name in enumerate(other))


def test_names_are_the_way_to_the_leaf():
    tree = {"belief": Pair(np.zeros(2), [np.zeros(()), {"deep": np.zeros(1)}]), "step": 3}
    assert list(flatten(tree)) == ["belief.mean", "belief.scale.0", "belief.scale.1.deep", "step"]
    assert list(flatten(np.zeros(2))) == [""]


def test_what_the_caller_passed_is_left_alone():
    tree = {"a": [np.zeros(2)]}
    back = unflatten(tree, {"a.0": np.ones(2)})
    assert back["a"][0].tolist() == [1, 1]
    assert tree["a"][0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("have", "message"),
    [
        ({"w": np.zeros(2)}, "here: b is missing; was it made for another model"),
        ({"w": np.zeros(2), "b": np.zeros(1), "c": np.zeros(1)}, "here: c is not a name of this model"),
        ({"w": np.zeros((2, 1)), "b": np.zeros(1)}, r"here: w: expected shape \(2,\), got \(2, 1\)"),
    ],
)
def test_the_leaf_that_does_not_fit_is_named(have, message):
    want = {"w": np.zeros(2), "b": np.zeros(1)}
    require_like(want, want, "here")
    with pytest.raises(MismatchError, match=message):
        require_like(have, want, "here")


def test_a_state_that_does_not_fit_names_its_leaf():
    with pytest.raises(MismatchError, match=r"state: belief.scale: expected shape \(2,\), got \(3,\)"):
        unflatten({"belief": Pair(np.zeros(1), np.zeros(2))}, {"belief.mean": np.zeros(1), "belief.scale": np.zeros(3)})


def test_the_leaf_that_is_not_finite_is_named_and_counted():
    fine = {"a": np.ones(3), "counts": np.array([1, 2]), "mask": np.array([True]), "none": np.zeros(0)}
    require_finite(fine, "here")
    for wrong in (np.nan, np.inf, -np.inf):
        with pytest.raises(DataError, match="here: b: 2 of 3 numbers are NaN or infinite"):
            require_finite({**fine, "b": np.array([wrong, 0.0, wrong])}, "here")


def test_two_leaves_with_one_name_are_refused():
    with pytest.raises(MismatchError, match=r"a\.b"):
        flatten({"a": {"b": np.zeros(1)}, "a.b": np.ones(1)})
