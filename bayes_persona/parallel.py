"""Many independent draws: the same function for many items, in any order, on any machine, with the same result.

An *engine* says how the calls are executed: it takes the function and the items and yields `(position, result)` in
whatever order they finish. `serial` needs nothing; others (processes, Ray) only have to keep this shape.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bayes_persona.files import load_arrays, save_arrays
from bayes_persona.named import require_finite
from bayes_persona.progress import bar
from bayes_persona.store import open_run
from bayes_persona.types import Params

Item = TypeVar("Item")
Engine = Callable[[Callable[[Any], Params], Sequence[Any]], Iterator[tuple[int, Params]]]


def serial(function: Callable[[Item], Params], items: Sequence[Item]) -> Iterator[tuple[int, Params]]:
    """Call one after another, in this process.

    >>> list(serial(lambda item: {"x": item}, [3, 4]))
    [(0, {'x': 3}), (1, {'x': 4})]
    """
    for position, item in enumerate(items):
        yield position, function(item)


def map(
    function: Callable[[Item], Params],
    items: Sequence[Item],
    *,
    engine: Engine = serial,
    folder: str | Path | None = None,
    config: Any = None,
    title: str | None = None,
) -> list[Params]:
    """Give `function(item)` for every item, in the order of the items.

    Args:
        function: Must depend on its item alone; randomness comes from a seed that the item names.
        items: What to call it with.
        engine: How the calls are executed.
        folder: Keep each result here as soon as it is there, and skip those that are there already.
        config: Dataclass or dict that says what the draws are; a folder made with another one is refused.
        title: Name beside the progress bar; None shows no bar.

    Raises:
        DataError: If a result is NaN or infinite; the results before it are kept.

    >>> import numpy as np
    >>> map(lambda item: {"x": np.full(1, item)}, [1, 2])[1]["x"].tolist()
    [2]
    """
    place = None if folder is None else open_run(folder, config)
    results: dict[int, Params] = {}
    if place is not None:
        there = [position for position in range(len(items)) if place.particle(position).exists()]
        results = {position: load_arrays(place.particle(position))[0] for position in there}
    missing = [position for position in range(len(items)) if position not in results]
    with bar(title, total=len(items), done=len(results)) as advance:
        for index, result in engine(function, [items[position] for position in missing]):
            position = missing[index]
            require_finite(result, f"draw {position}")
            if place is not None:
                save_arrays(place.particle(position), result)
            results[position] = result
            advance()
    return [results[position] for position in range(len(items))]
