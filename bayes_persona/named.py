"""Named arrays: the checks that say *which* leaf is wrong, and the way from a nested state to flat names and back."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from bayes_persona.errors import DataError, MismatchError
from bayes_persona.types import Params

Tree = TypeVar("Tree")


def require_like(have: Params, want: Params, where: str) -> None:
    """Check that two sets of named arrays have the same names and shapes.

    Raises:
        MismatchError: Naming the first leaf that is missing, unknown or of another shape.

    >>> require_like({"w": np.zeros(3)}, {"w": np.zeros(2)}, "particle 4")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.MismatchError: particle 4: w: expected shape (2,), got (3,); was it made for another model?
    """
    for name in want.keys() - have.keys():
        raise MismatchError(f"{where}: {name} is missing; was it made for another model?")
    for name in have.keys() - want.keys():
        raise MismatchError(f"{where}: {name} is not a name of this model; was it made for another one?")
    for name, array in have.items():
        if array.shape != want[name].shape:
            expected = f"expected shape {want[name].shape}, got {array.shape}"
            raise MismatchError(f"{where}: {name}: {expected}; was it made for another model?")


def require_finite(arrays: Params, where: str) -> None:
    """Check that every number is finite.

    Raises:
        DataError: Naming the leaf, and how many of its numbers are NaN or infinite.

    >>> require_finite({"w": np.array([1.0, np.nan])}, "particle 4")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.DataError: particle 4: w: 1 of 2 numbers are NaN or infinite
    """
    for name, array in arrays.items():
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            bad = int((~np.isfinite(array)).sum())
            raise DataError(f"{where}: {name}: {bad} of {array.size} numbers are NaN or infinite")


def fingerprint(arrays: Params | Iterable[tuple[str, np.ndarray]]) -> str:
    """Give 32 letters that change when any name, type, shape or number does.

    Args:
        arrays: By name; or pairs in the order of their names, one after another, where all at once would fill memory.

    >>> fingerprint({"w": np.zeros(3)}) == fingerprint(iter([("w", np.zeros(3))]))
    True
    >>> fingerprint({"w": np.zeros(3)}) == fingerprint({"w": np.zeros(3)}) != fingerprint({"w": np.zeros((3, 1))})
    True
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(arrays.items()) if isinstance(arrays, Mapping) else arrays:
        array = np.asarray(value)
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def flatten(tree: Any) -> Params:
    """Give the leaves of a nested state under dotted names.

    Args:
        tree: Dicts, (named) tuples and lists of arrays, nested in any way.

    Raises:
        MismatchError: If two leaves would get the same name.

    >>> {name: leaf.item() for name, leaf in flatten({"a": (1, 2), "b": {"c": 3}}).items()}
    {'a.0': 1, 'a.1': 2, 'b.c': 3}
    """
    arrays: Params = {}
    for name, leaf in _leaves(tree, ""):
        if name in arrays:
            raise MismatchError(
                f"state: two leaves are called {name}; a key with a dot in it collides with a nested one"
            )
        arrays[name] = leaf
    return arrays


def unflatten(template: Tree, arrays: Params) -> Tree:
    """Put named leaves back into the shape of `template`: the inverse of `flatten`.

    Raises:
        MismatchError: If the names or shapes are not those of the template.

    >>> unflatten({"a": (np.zeros(()), np.zeros(()))}, {"a.0": np.ones(()), "a.1": np.ones(())})["a"][1].item()
    1.0
    """
    require_like(arrays, flatten(template), "state")
    return _rebuild(template, "", arrays)


def _leaves(tree: Any, prefix: str):
    if isinstance(tree, Mapping):
        pairs = list(tree.items())
    elif isinstance(tree, tuple | list):
        fields = getattr(tree, "_fields", range(len(tree)))
        pairs = list(zip(fields, tree, strict=True))
    else:
        # torch tensors may live on another device; asking for `cpu` is all that the hall knows of them
        yield prefix.removesuffix("."), np.asarray(tree.cpu() if hasattr(tree, "cpu") else tree)
        return
    for key, branch in pairs:
        yield from _leaves(branch, f"{prefix}{key}.")


def _rebuild(tree: Any, prefix: str, arrays: Params) -> Any:
    if isinstance(tree, Mapping):
        return {key: _rebuild(branch, f"{prefix}{key}.", arrays) for key, branch in tree.items()}
    if isinstance(tree, tuple | list):
        fields = getattr(tree, "_fields", None)
        keys = range(len(tree)) if fields is None else fields
        branches = [_rebuild(branch, f"{prefix}{key}.", arrays) for key, branch in zip(keys, tree, strict=True)]
        return type(tree)(branches) if fields is None else type(tree)(*branches)
    return arrays[prefix.removesuffix(".")]
