"""One step after another: run a kernel, with checkpoints, resumption, a progress bar and a log.

The seed of step t is `child(seed, "step", t)` and its batch is `batches(t)`, so a run that was killed and resumed
ends in the same state, bit for bit, as one that went straight through.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bayes_persona.errors import ConfigError, DataError, RunError
from bayes_persona.files import append_lines, load_arrays, save_arrays, write
from bayes_persona.named import flatten, require_finite, unflatten
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.store import Run, locked, open_run
from bayes_persona.types import Info, Kernel, State


def run(
    kernel: Kernel[State, Any],
    batches: Callable[[int], Any] | None = None,
    *,
    steps: int,
    seed: int,
    folder: str | Path | None = None,
    config: Any = None,
    checkpoint_every: int = 100,
    title: str | None = None,
) -> tuple[State, list[Info]]:
    """Run `kernel` for `steps` steps, going on from `folder` if a run is there.

    Args:
        kernel: What to run.
        batches: Gives the batch of step t; None for kernels that need none.
        steps: Number of steps in all, those before a resumption included.
        seed: Names the run.
        folder: Where to keep config, log and checkpoints; None keeps nothing.
        config: Dataclass or dict that says what the run is; resuming with another one is refused.
        checkpoint_every: Steps between checkpoints.
        title: Name beside the progress bar; None shows no bar.

    Returns:
        The last state and the log, one dict a step.

    Raises:
        ConfigError: If `steps` or `checkpoint_every` is too small.
        RunError: If the folder is damaged, another process works in it, or it holds more steps than asked for.
        ConfigError: If an info calls a number `step`, which is the log's own.
        DataError: If a checkpoint would hold NaN or infinite numbers; the last good checkpoint stays.

    >>> import numpy as np
    >>> class Walk:
    ...     def init(self, seed):
    ...         return {"x": np.zeros(())}
    ...     def step(self, seed, state, batch):
    ...         return {"x": state["x"] + np.random.default_rng(seed).normal()}, {"x": float(state["x"])}
    >>> run(Walk(), steps=3, seed=0) == run(Walk(), steps=3, seed=0)
    True
    """
    if steps < 1 or checkpoint_every < 1:
        raise ConfigError(f"steps={steps}, checkpoint_every={checkpoint_every}: both must be at least 1")
    with locked(folder):
        state, log, place = kernel.init(child(seed, "init")), [], None
        if folder is not None:
            place = open_run(folder, {"seed": seed, "kernel": config})
            state, log = _resume(place, state, steps)
        saved = len(log)
        with bar(title, total=steps, done=saved) as advance:
            for step in range(saved, steps):
                batch = None if batches is None else batches(step)
                state, info = kernel.step(child(seed, "step", step), state, batch)
                log.append(_numbers(info))
                advance(**log[-1])
                if place is not None and ((step + 1) % checkpoint_every == 0 or step + 1 == steps):
                    _checkpoint(place, state, log, saved)
                    saved = len(log)
    return state, log


def _numbers(info: Info) -> Info:
    if "step" in info:
        raise ConfigError("info: the log itself has a number called step; call the kernel's something else")
    return {name: float(value) for name, value in info.items()}


def _checkpoint(place: Run, state: Any, log: list[Info], saved: int) -> None:
    arrays = flatten(state)
    try:
        require_finite(arrays, f"step {len(log)}")
    except DataError as error:
        raise DataError(f"{error}; {place.folder} keeps its last checkpoint, at step {saved}") from error
    # The log first: if we are killed in between, resuming cuts it back to the state's step.
    append_lines(place.log, [json.dumps({"step": step, **log[step - 1]}) for step in range(saved + 1, len(log) + 1)])
    save_arrays(place.state, arrays, {"step": len(log)})


def _resume(place: Run, fresh: Any, steps: int) -> tuple[Any, list[Info]]:
    if not place.state.exists():
        place.log.unlink(missing_ok=True)  # of a run that was killed before its first checkpoint
        return fresh, []
    arrays, metadata = load_arrays(place.state)
    done = metadata.get("step")
    if not isinstance(done, int):
        raise RunError(f"{place.state}: does not say at which step it was written; is it a run's state?")
    if done > steps:
        raise RunError(f"{place.folder}: already at step {done}, more than the {steps} asked for; use another folder")
    try:
        lines = [dict(json.loads(line)) for line in place.log.read_text().splitlines()[:done]]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{place.log}: damaged ({error}); restore it or start in a new folder") from error
    if any(type(value) not in (int, float) for line in lines for value in line.values()):
        raise RunError(f"{place.log}: damaged (not all are numbers); restore it or start in a new folder")
    if [line.get("step") for line in lines] != list(range(1, done + 1)):
        raise RunError(f"{place.log}: does not hold the {done} steps of the state beside it; start in a new folder")
    write(place.log, "".join(json.dumps(line) + "\n" for line in lines).encode())
    log = [{name: value for name, value in line.items() if name != "step"} for line in lines]
    return unflatten(fresh, arrays), log
