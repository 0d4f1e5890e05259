"""Many independent draws: the same function for many items, in any order, on any machine, with the same result.

An *engine* says how the calls are executed: it takes the function and the items and yields `(position, result)` in
whatever order they finish. `serial` needs nothing, `processes` joblib, `cluster` Ray; others only have to keep this
shape. A call that fails on its data gives its `DataError` as its result, so that one bad draw does not take the others
with it.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bayes_persona.errors import ConfigError, DataError, RunError, needs_extra
from bayes_persona.files import load_arrays, save_arrays
from bayes_persona.named import require_finite
from bayes_persona.progress import bar
from bayes_persona.store import locked, open_run
from bayes_persona.types import Params

Item = TypeVar("Item")
Engine = Callable[[Callable[[Any], Params], Sequence[Any]], Iterator[tuple[int, Params | DataError]]]
RETRIES = 10
"""How often `cluster` does a call again whose worker is lost: a call that takes every worker with it must end."""


def serial(function: Callable[[Item], Params], items: Sequence[Item]) -> Iterator[tuple[int, Params | DataError]]:
    """Call one after another, in this process.

    >>> import numpy as np
    >>> list(serial(lambda item: {"x": np.full(1, item)}, [3, 4]))
    [(0, {'x': array([3])}), (1, {'x': array([4])})]
    """
    for position, item in enumerate(items):
        yield _called(function, position, item)


def processes(workers: int, *, threads: int = 1) -> Engine:
    """Give an engine that calls in several processes of this machine, each result as soon as it is there.

    Worth it for calls of seconds that one process cannot spread over the cores itself. What a function holds travels
    to the workers, models and data included.

    Args:
        workers: Number of processes.
        threads: Threads that each may use for its arithmetic. Where a library's sums depend on their number, results
            are those of `serial` with as many.

    Raises:
        ConfigError: If either is below 1.
        MissingExtraError: If joblib is not installed.

    >>> import numpy as np
    >>> map(lambda item: {"x": np.full(1, item)}, [3, 4], engine=processes(2))
    [{'x': array([3])}, {'x': array([4])}]
    """
    if workers < 1 or threads < 1:
        raise ConfigError(f"workers={workers}, threads={threads}: both must be at least 1")
    with needs_extra("processes"):
        from joblib import Parallel, delayed, parallel_config

    def engine(function: Callable[[Any], Params], items: Sequence[Any]) -> Iterator[tuple[int, Params | DataError]]:
        calls = [delayed(_called)(function, position, item) for position, item in enumerate(items)]
        with parallel_config("loky", n_jobs=workers, inner_max_num_threads=threads):
            drawn: Any = Parallel(return_as="generator_unordered")(calls)
            try:
                for one in drawn:  # noqa: UP028, since `yield from` would close it where its warning is not caught
                    yield one
            finally:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that calls are given up is meant when one has failed
                    drawn.close()

    return engine


def cluster(workers: int, address: str | None = None) -> Engine:
    """Give an engine that calls in workers of a Ray cluster, on this machine or on many.

    A call whose worker or machine is lost is done again elsewhere; since it depends on its item alone, it gives the
    same. What a function holds is sent to each machine once. Each call has one core, and one thread of arithmetic.

    Args:
        workers: Calls at a time; a cluster of this machine is started with as many cores.
        address: Of a cluster that runs already, as `ray start --head` says it, or "auto"; None starts one, which is
            shut down when all is done. In a program that has called `ray.init` itself, that cluster is used.

    Raises:
        ConfigError: If `workers` is below 1.
        MissingExtraError: If Ray is not installed.
        RunError: While it runs, if a call lost its worker too often.

    >>> cluster(0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: workers: expected at least 1, got 0
    """
    if workers < 1:
        raise ConfigError(f"workers: expected at least 1, got {workers}")
    with needs_extra("ray"):
        import ray
        from ray.exceptions import NodeDiedError, RayTaskError, WorkerCrashedError

    def engine(function: Callable[[Any], Params], items: Sequence[Any]) -> Iterator[tuple[int, Params | DataError]]:
        ours = not ray.is_initialized()
        if ours:
            path = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}  # workers import what this process can
            here: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False, "runtime_env": path}
            there: dict[str, Any] = {"address": address}
            ray.init(log_to_driver=False, **(here if address is None else there))
        try:
            call = ray.remote(num_cpus=1, max_retries=RETRIES)(_called)
            sent, waiting = ray.put(function), list(enumerate(items))[::-1]
            running: dict[Any, int] = {}
            while waiting or running:
                while waiting and len(running) < workers:
                    position, item = waiting.pop()
                    running[call.remote(sent, position, item)] = position
                done, _ = ray.wait(list(running))
                position = running.pop(done[0])
                try:
                    yield _owned(ray.get(done[0]))
                except RayTaskError as error:
                    raise error.cause from error
                except (WorkerCrashedError, NodeDiedError) as error:
                    lost = f"draw {position}: its worker was lost {RETRIES + 1} times"
                    raise RunError(f"{lost}; is there memory enough for {workers} at a time?") from error
        finally:
            if ours:
                ray.shutdown()

    return engine


def map(
    function: Callable[[Item], Params],
    items: Sequence[Item],
    *,
    engine: Engine = serial,
    folder: str | Path | None = None,
    config: Any = None,
    title: str | None = None,
    exclude_failed: bool = False,
) -> list[Params]:
    """Give `function(item)` for every item, in the order of the items.

    Args:
        function: Must depend on its item alone; randomness comes from a seed that the item names.
        items: What to call it with.
        engine: How the calls are executed.
        folder: Keep each result here as soon as it is there, and skip those that are there already.
        config: Dataclass or dict that says what the draws are; a folder made with another one is refused.
        title: Name beside the progress bar; None shows no bar.
        exclude_failed: Leave out results that are NaN or infinite, or whose call failed on its data, and warn of them.

    Raises:
        DataError: If a result is NaN or infinite, or a call failed on its data, unless such are excluded; the results
            before it are kept. If all failed.
        RunError: If the folder is damaged, or another process works in it.

    >>> import numpy as np
    >>> map(lambda item: {"x": np.full(1, item)}, [1, 2])[1]["x"].tolist()
    [2]
    """
    failed: dict[int, DataError] = {}
    with locked(folder):
        place = None if folder is None else open_run(folder, config)
        results: dict[int, Params] = {}
        if place is not None:
            there = [position for position in range(len(items)) if place.particle(position).exists()]
            results = {position: load_arrays(place.particle(position))[0] for position in there}
        missing = [position for position in range(len(items)) if position not in results]
        with bar(title, total=len(items), done=len(results)) as advance:
            for index, result in engine(function, [items[position] for position in missing]):
                position = missing[index]
                try:
                    results[position] = _good(result, position)
                except DataError as error:
                    if not exclude_failed:
                        raise
                    failed[position] = error
                else:
                    if place is not None:
                        save_arrays(place.particle(position), results[position])
                advance()
    if failed:
        _report(failed, len(items))
    return [results[position] for position in sorted(results)]


def _called(function: Callable[[Any], Params], position: int, item: Any) -> tuple[int, Params | DataError]:
    try:
        return position, function(item)
    except DataError as error:
        return position, error


def _owned(called: tuple[int, Params | DataError]) -> tuple[int, Params | DataError]:
    """Copy a result out of Ray's store, which would keep it as long as it is used, and lets nobody write on it."""
    position, result = called
    return (position, result) if isinstance(result, DataError) else (position, {k: np.array(result[k]) for k in result})


def _good(result: Params | DataError, position: int) -> Params:
    if isinstance(result, DataError):
        raise DataError(f"draw {position}: {result}") from result
    require_finite(result, f"draw {position}")
    return result


def _report(failed: dict[int, DataError], count: int) -> None:
    first = failed[min(failed)]
    if len(failed) == count:
        raise DataError(f"all {count} draws failed; the first: {first}") from first
    warnings.warn(f"{len(failed)} of {count} draws failed and are left out; the first: {first}", stacklevel=3)
