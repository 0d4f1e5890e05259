"""Everything that is written to disk: atomically, in formats that cannot run code, and checked when read back.

A run folder *is* `config.json`, `log.jsonl`, `state.safetensors` and `posterior/*.safetensors`; resuming means reading
it. A file is first written beside its place and then moved there, so that it is whole or absent, after a crash too.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bayes_persona.errors import MismatchError, RunError
from bayes_persona.posterior import Posterior
from bayes_persona.types import Params

FORMAT = 1
"""Version of the folder layout. A newer one is refused; an older one is read for ever."""


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
    config = json.loads(json.dumps(asdict(config) if _is_dataclass_instance(config) else config))
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


def save_arrays(path: str | Path, arrays: Params, metadata: Mapping[str, Any] | None = None) -> None:
    """Write named arrays to a safetensors file, with a checksum of names, shapes and numbers.

    Raises:
        RunError: If the disk is full or the place cannot be written; what was there before is untouched.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> save_arrays(path, {"w": np.arange(3)}, {"step": 7})
    >>> arrays, metadata = load_arrays(path)
    >>> arrays["w"].tolist(), metadata["step"]
    ([0, 1, 2], 7)
    """
    # asarray keeps 0-d arrays 0-d, which ascontiguousarray does not
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header = {
        key: json.dumps(value) for key, value in {"format": FORMAT, **({} if metadata is None else metadata)}.items()
    }
    write(path, save(arrays, {**header, "checksum": _checksum(arrays, header)}))


def load_arrays(path: str | Path) -> tuple[Params, dict[str, Any]]:
    """Read named arrays and their metadata back.

    Raises:
        RunError: If the file is absent, truncated, changed since it was written, or of a newer format.

    >>> load_arrays("nowhere.safetensors")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere.safetensors: there is no such file
    """
    path = Path(path)
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except OSError as error:
        raise _not_read(path, error) from error
    except SafetensorError as error:
        raise RunError(f"{path}: truncated or not safetensors ({error}); restore it or make it anew") from error
    checksum = header.pop("checksum", None)
    if checksum is None:
        raise RunError(f"{path}: has no checksum, so bayes_persona did not write it; load it with safetensors itself")
    if checksum != _checksum(arrays, header):
        raise RunError(f"{path}: the checksum does not fit: changed after writing; restore it or make it anew")
    metadata = {key: json.loads(value) for key, value in header.items()}
    if metadata.pop("format") > FORMAT:
        raise RunError(f"{path}: written by a newer version; upgrade with: pip install -U bayes-persona")
    return arrays, metadata


def save_posterior(folder: str | Path, posterior: Posterior) -> None:
    """Write every particle to `folder/posterior/`, in place of what was there before.

    Raises:
        RunError: If the disk is full or the place cannot be written; what was there before is untouched.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> save_posterior(folder, Posterior(({"w": np.zeros(2)}, {"w": np.ones(2)})))
    >>> load_posterior(folder)[1]["w"].tolist()
    [1.0, 1.0]
    """
    place = Path(folder) / "posterior"
    # All of them beside their place first: half of a new posterior among an old one would look whole.
    new, old = (Path(folder) / f".{word}.{os.getpid()}.part" for word in ("new", "old"))
    try:
        for number, particle in enumerate(posterior):
            save_arrays(Run(new).particle(number), particle)
        if place.exists():
            place.replace(old)
        (new / "posterior").replace(place)
    except OSError as error:
        raise _not_saved(place, error, 0) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


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


def save_json(path: str | Path, value: Any) -> None:
    """Write one JSON value, atomically.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> save_json(path, {"a": [1, 2]})
    >>> load_json(path)
    {'a': [1, 2]}
    """
    write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def load_json(path: str | Path) -> Any:
    """Read one JSON value.

    Raises:
        RunError: If the file is absent or not JSON.

    >>> load_json("nowhere.json")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere.json: there is no such file
    """
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise _not_read(Path(path), error) from error
    except ValueError as error:
        raise RunError(f"{path}: not valid JSON ({error}); restore it or make it anew") from error


def write(path: str | Path, content: bytes) -> None:
    """Put `content` at `path`, wholly or not at all.

    Raises:
        RunError: If the disk is full or the place cannot be written; what was there before is untouched.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "deep" / "a.txt"
    >>> write(path, b"whole")
    >>> path.read_bytes()
    b'whole'
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise _not_saved(path, error, len(content)) from error


def append_lines(path: str | Path, lines: list[str]) -> None:
    """Add lines to a log. A line may be torn by a crash: readers take as many as the state beside the log vouches for.

    Raises:
        RunError: If the disk is full or the place cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> append_lines(path, ["1", "2"])
    >>> append_lines(path, ["3"])
    >>> path.read_text().split()
    ['1', '2', '3']
    """
    content = "".join(f"{line}\n" for line in lines).encode()
    try:
        with Path(path).open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _not_saved(Path(path), error, len(content)) from error


def _not_saved(path: Path, error: OSError, size: int) -> RunError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = f"free at least {size:,} bytes and resume" if full else "check the path and its permissions"
    return RunError(f"{path}: could not be saved ({error.strerror}); what was there before is untouched; {advice}")


def _not_read(path: Path, error: OSError) -> RunError:
    if isinstance(error, FileNotFoundError):
        return RunError(f"{path}: there is no such file")
    return RunError(f"{path}: could not be read ({error.strerror or error}); check the path and its permissions")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(arrays: Params, header: Mapping[str, str]) -> str:
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _is_dataclass_instance(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _difference(saved: Any, asked: Any) -> str:
    if not (isinstance(saved, dict) and isinstance(asked, dict)):
        return f"the config was {saved}, is now {asked}"
    names = [name for name in {**saved, **asked} if saved.get(name) != asked.get(name)]
    return ", ".join(f"{name} was {saved.get(name)}, is now {asked.get(name)}" for name in names)
