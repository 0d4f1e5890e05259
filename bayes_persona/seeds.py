"""Seeds that say *what* is drawn, never *when*.

`child(root, "particle", 7)` is the same integer whether particle 7 is drawn first, last, on another machine or after a
crash. That alone makes serial, parallel and resumed runs equal. Framework keys and generators are made from the integer
inside the room that needs them, and die there.
"""

import hashlib

import numpy as np


def child(root: int, *path: str | int) -> int:
    """Give the seed of the thing named by `path` below the seed `root`.

    Args:
        root: Any integer.
        *path: Names and numbers, from the general to the particular. `"7"` and `7` are different things.

    Returns:
        An integer in [0, 2^63), which numpy, torch and jax all accept.

    >>> child(0, "particle", 7) == child(0, "particle", 7)
    True
    >>> child(0, "particle", 7) == child(0, "particle", 8)
    False
    """
    # repr keeps "7" and 7 apart, and quotes keep ("a", "b") and ("a b",) apart.
    name = repr((int(root), *(part if isinstance(part, str) else int(part) for part in path)))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def generator(root: int, *path: str | int) -> np.random.Generator:
    """Give numpy's generator for the thing named by `path`.

    >>> bool(generator(0, "weights").random() == generator(0, "weights").random())
    True
    """
    return np.random.default_rng(child(root, *path))
