"""The run folder: where a run or a posterior lives, and how it is found again.

It *is* `config.json`, `log.jsonl`, `state.safetensors` and `posterior/*.safetensors`; resuming means reading it.
"""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from bayes_persona.errors import ConfigError, MismatchError, RunError
from bayes_persona.files import FORMAT, load_arrays, load_json, not_saved, save_arrays, save_json
from bayes_persona.posterior import Posterior


@dataclass(frozen=True)
class Run:
    """An open run folder: where its parts lie.

    >>> Run(Path("runs/ada")).particle(7).name
    '00007.safetensors'
    """

    folder: Path

    @property
    def log(self) -> Path:
        """One JSON object a step."""
        return self.folder / "log.jsonl"

    @property
    def state(self) -> Path:
        """What the next step needs."""
        return self.folder / "state.safetensors"

    def particle(self, number: int) -> Path:
        """One draw of a posterior."""
        return self.folder / "posterior" / f"{number:05d}.safetensors"


def open_run(folder: str | Path, config: Any) -> Run:
    """Make a run folder, or open one that was made with the same config.

    Args:
        folder: Where the run lives; parents are created.
        config: A dataclass or a dict of plain JSON values: what the run is, seed included. Resuming compares it.

    Raises:
        ConfigError: If the config holds other things than JSON knows.
        RunError: If the folder was written by a newer version, is damaged, or cannot be written.
        MismatchError: If the folder holds a run with another config; the message names the fields.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> open_run(folder, {"particles": 3}).folder == open_run(folder, {"particles": 3}).folder
    True
    >>> open_run(folder, {"particles": 4})
    Traceback (most recent call last):
    ...
    bayes_persona.errors.MismatchError: ...: particles was 3, is now 4; use the same config or another folder
    """
    run = Run(Path(folder))
    path = run.folder / "config.json"
    config = _plain(config)
    if not path.exists():
        save_json(path, {"format": FORMAT, "config": config})
        return run
    saved = load_json(path)
    if not isinstance(saved, dict) or not isinstance(saved.get("format"), int) or "config" not in saved:
        raise RunError(f"{path}: not a run's config; is this a folder of bayes_persona?")
    if saved["format"] > FORMAT:
        written = f"written in format {saved['format']}, this version reads up to {FORMAT}"
        raise RunError(f"{run.folder}: {written}; upgrade with: pip install -U bayes-persona")
    if saved["config"] != config:
        difference = _difference(saved["config"], config)
        raise MismatchError(f"{run.folder}: {difference}; use the same config or another folder")
    return run


@contextmanager
def locked(folder: str | Path | None) -> Iterator[None]:
    """Keep other processes out of a run folder while the block runs, and clear away what a killed one left in between.

    The lock ends with its process, however that ends. A folder that nobody may write needs none.

    Args:
        folder: The run folder; None locks nothing.

    Raises:
        RunError: If another process, or another thread of this one, works in the folder.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with locked(folder), locked(folder):
    ...     pass
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: ...: process ... on ... works in this folder; wait until it is done, or use another
    """
    if folder is None:
        yield
        return
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        file = (place / ".lock").open("a+")
    except OSError:  # not to be written: whoever tries says so, with the file's name
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            who = file.read() or "another process"
            raise RunError(f"{folder}: {who} works in this folder; wait until it is done, or use another") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        for part in [*place.glob(".*.part"), *place.glob("posterior/.*.part")]:
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
        yield


def save_posterior(folder: str | Path, posterior: Posterior) -> None:
    """Write every particle to `folder/posterior/`: all of them, or none.

    Raises:
        RunError: If there is a posterior already, the disk is full, or the place cannot be written.

    >>> import tempfile
    >>> import numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> save_posterior(folder, Posterior(({"w": np.zeros(2)}, {"w": np.ones(2)})))
    >>> load_posterior(folder)[1]["w"].tolist()
    [1.0, 1.0]
    """
    place = Path(folder) / "posterior"
    if place.exists():
        raise RunError(f"{place}: holds a posterior already; delete it, or save to another folder")
    # All of them beside their place first: half a posterior would look like a whole one.
    beside = Path(folder) / f".posterior.{os.getpid()}.part"
    try:
        for number, particle in enumerate(posterior):
            save_arrays(Run(beside).particle(number), particle)
        (beside / "posterior").replace(place)
    except OSError as error:
        raise not_saved(place, error, 0) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def load_posterior(folder: str | Path) -> Posterior:
    """Read every particle of `folder/posterior/`, in order.

    Raises:
        RunError: If there is none, one is missing in between, or one is damaged.

    >>> load_posterior("nowhere")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere/posterior: holds no particle; was the run started?
    """
    run = Run(Path(folder))
    count = len(list((run.folder / "posterior").glob("*.safetensors")))
    if count == 0:
        raise RunError(f"{run.folder / 'posterior'}: holds no particle; was the run started?")
    return Posterior(tuple(load_arrays(run.particle(number))[0] for number in range(count)))


def _plain(config: Any) -> Any:
    """Give the config as JSON will give it back."""
    try:
        return json.loads(json.dumps(config, default=_fields))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config: {error}; use plain numbers, strings, lists and dicts") from error


def _fields(value: Any) -> dict[str, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is not plain")


def _difference(saved: Any, asked: Any, name: str = "") -> str:
    if not (isinstance(saved, dict) and isinstance(asked, dict)):
        return f"{name or 'the config'} was {saved}, is now {asked}"
    names = [key for key in {**saved, **asked} if saved.get(key) != asked.get(key)]
    return ", ".join(_difference(saved.get(key), asked.get(key), f"{name}.{key}".lstrip(".")) for key in names)
