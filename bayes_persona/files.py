"""Files that are whole or absent, in formats that cannot run code, and checked when read back.

A file is first written beside its place and then moved there, so a crash or a full disk leaves what was there before.
Arrays go to safetensors, which notices truncation but not a flipped bit: a checksum rides in its metadata.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bayes_persona.errors import ConfigError, DataError, MismatchError, RunError
from bayes_persona.named import fingerprint
from bayes_persona.types import Params

FORMAT = 1
"""Version of what is written here. A newer one is refused; an older one is read for ever."""
HEADER = "bayes_persona"
"""The one key of our metadata: safetensors puts several in random order, and files should be reproducible."""


def save_arrays(path: str | Path, arrays: Params, metadata: Mapping[str, Any] | None = None) -> None:
    """Write named arrays to a safetensors file, with a checksum of names, shapes, numbers and metadata.

    Raises:
        DataError: If an array holds other things than real numbers; the message names it.
        RunError: If the disk is full or the place cannot be written; what was there before is untouched.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> save_arrays(path, {"w": np.arange(3)}, {"step": 7})
    >>> arrays, metadata = load_arrays(path)
    >>> arrays["w"].tolist(), metadata["step"]
    ([0, 1, 2], 7)
    """
    arrays = {name: _storable(name, array) for name, array in arrays.items()}
    about = json.dumps({"format": FORMAT, **({} if metadata is None else metadata)}, sort_keys=True)
    header = json.dumps({"about": about, "checksum": _checksum(arrays, about)})
    write(path, save(arrays, {HEADER: header}))


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
            header = (file.metadata() or {}).get(HEADER)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except OSError as error:
        raise _not_read(path, error) from error
    except SafetensorError as error:
        raise RunError(f"{path}: truncated or not safetensors ({error}); restore it or make it anew") from error
    if header is None:
        raise RunError(f"{path}: has no checksum, so bayes_persona did not write it; load it with safetensors itself")
    try:
        parts = json.loads(header)
        about, checksum = str(parts["about"]), parts["checksum"]
        metadata = dict(json.loads(about))
        newer = metadata.pop("format") > FORMAT
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"{path}: its metadata was changed after writing; restore it or make it anew") from error
    if checksum != _checksum(arrays, about):
        raise RunError(f"{path}: the checksum does not fit: changed after writing; restore it or make it anew")
    if newer:
        raise RunError(f"{path}: written by a newer version; upgrade with: pip install -U bayes-persona")
    return arrays, metadata


@contextmanager
def understood(path: str | Path, what: str) -> Iterator[None]:
    """Take the content of a whole file apart inside the block; what does not fit is one error that names the file.

    A checksum says that a file is as it was written, not that whoever wrote it meant what is looked for.

    Args:
        path: The file.
        what: What it should hold.

    Raises:
        DataError: If it holds something else.

    >>> with understood("a.safetensors", "basis"):
    ...     {}["tokens"]
    Traceback (most recent call last):
    ...
    bayes_persona.errors.DataError: a.safetensors: holds no basis, or one that was changed (KeyError: 'tokens')
    """
    try:
        yield
    except (ConfigError, DataError, MismatchError, RunError):
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: holds no {what}, or one that was changed ({found})") from error


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
    except (ValueError, RecursionError) as error:
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
        raise not_saved(path, error, len(content)) from error


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
        raise not_saved(Path(path), error, len(content)) from error


def _storable(name: str, array: np.ndarray) -> np.ndarray:
    # asarray keeps 0-d arrays 0-d, which ascontiguousarray does not
    array = np.asarray(array, order="C")
    if array.dtype.kind not in "biuf" or name == "__metadata__":
        raise DataError(f"{name}: {array.dtype} cannot be stored so; save real numbers, under dotted names")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _checksum(arrays: Params, about: str) -> str:
    return hashlib.blake2b((about + fingerprint(arrays)).encode(), digest_size=16).hexdigest()


def not_saved(path: Path, error: OSError, size: int) -> RunError:
    """Give the error that says why a file could not be saved, and what to do.

    >>> not_saved(Path("a.json"), OSError(errno.ENOSPC, "No space left on device"), size=1000)
    RunError('a.json: could not be saved (No space left on device); what was there before is untouched; \
free at least 1,000 bytes and resume')
    """
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
