"""Drawing on all cores: chunks of an endless stream, in order, the same whatever the number of processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from bayes_persona.progress import bar

Part = TypeVar("Part")
CHUNK = 500
"""Pictures that one process draws in one go."""


def chunks(draw: Callable[[range], Part], n: int, *, title: str | None = None) -> Iterator[Part]:
    """Give `draw` of every chunk of the first `n` examples; what fits into one chunk is drawn here.

    Args:
        draw: A module's function (or a `partial` of one), so that other processes find it.
        n: Number of examples.
        title: Name beside the progress bar; None shows none.

    >>> list(chunks(len, 20))
    [20]
    """
    parts = [range(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
    with bar(title, total=len(parts)) as advance:
        if len(parts) == 1:
            yield draw(parts[0])
            return
        # spawned, not forked: a fork of a process whose frameworks run threads may hang
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
            for part in pool.map(draw, parts):
                yield part
                advance()
