"""What all comparisons share: whether a peer is there, a setting chosen on tuning items, seconds in turns."""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.rows import Row, row

TURNS = 15


def present(*modules: str) -> bool:
    """Say whether a peer can be imported; if not, say why, and it is left out."""
    try:
        for name in modules:
            importlib.import_module(name)
    except Exception as error:  # a peer may fail in any way: libraries that do not fit raise what they like
        print(f"{modules[-1]}: left out: {type(error).__name__}: {str(error).splitlines()[0]}")
        return False
    return True


def chosen(grid: Sequence[float], loss: Callable[[float], float]) -> float:
    """Give the setting of least loss on tuning items."""
    return min(grid, key=loss)


def speed(id: str, ours: Callable[[], Any], theirs: Callable[[], Any], unit: str, command: str, turns: int = TURNS):
    """Time both in turns, the first two to warm up, and give the median of ours / theirs with its interval."""
    started, ratios = time.perf_counter(), []
    for turn in range(-2, turns):
        first, second = (ours, theirs) if turn % 2 else (theirs, ours)
        once, again = _seconds(first), _seconds(second)
        if turn >= 0:
            ratios.append(once / again if turn % 2 else again / once)
    return median(id, ratios, unit, command=command, seconds=time.perf_counter() - started)


def median(id: str, values: Sequence[float], unit: str, *, command: str, seconds: float) -> Row:
    """Make a row of a median, its 95 % interval by resampling."""
    found = np.asarray(values)
    again = np.median(np.random.default_rng(0).choice(found, size=(10_000, len(found))), axis=1)
    low, high = (float(f"{value:.6g}") for value in np.quantile(again, [0.025, 0.975]))
    one = row(id, float(np.median(found)), unit, command=command, seconds=seconds)
    return replace(one, low=low, high=high, n=len(found))


def quality(
    prefix: str,
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
    unit: str,
    rest: dict[str, Any],
) -> list[Row]:
    """Make a row of each method, and one of each pair's difference, item by item."""
    rows = [row(f"{prefix}.{name}", values, unit, **rest) for name, values in (*ours.items(), *theirs.items())]
    for mine, other in pairs:
        gap = ours[mine] - theirs[other]
        rows.append(row(f"{prefix}.{mine}_minus_{other}", gap, f"{unit}, ours less the peer's, paired", **rest))
    return rows


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
