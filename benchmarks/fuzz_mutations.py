"""What a file may become: damaged bytes, and files that are whole and signed but say what they should not."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bayes_persona.errors import DataError
from bayes_persona.files import load_arrays, save_arrays

Rng = np.random.Generator
JUNK: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**70, -(2**63), 0.5, 1e308, float("nan"), float("inf")),
    *("", "a", "../../a", "\0", "\ud800", "a" * 5000, [], {}, [[]], {"": None}, [1, "a"], {"a": {"b": [0.1]}}),
)
"""What may stand where something else is expected."""
WORDS = (
    *(b"\0" * 8, b"\xff" * 8, b"{", b"}", b"[" * 20_000, b'{"a":' * 5_000, b"null", b"NaN", b"1e999", b'"', b"\n"),
    *(b"__metadata__", b"BF16", b"F8_E4M3", b"I64", b"<!DOCTYPE a>", b"<graph", b"</", b"&a;", b"IHDR", b"\xff\xd8"),
    *(b"-1", b"9" * 5_000, b"../", b"\xf0\x9f\x98\x80", b"\xed\xa0\x80"),
)
"""What may come between other bytes."""


def pick(rng: Rng, some: Any) -> Any:
    return some[int(rng.integers(len(some)))]


def damaged(rng: Rng, content: bytes) -> bytes:
    """Give bytes that are not what was written, by one to four accidents."""
    for _ in range(int(rng.integers(1, 5))):
        content = pick(rng, (_flip, _cut, _drop, _put, _repeat, _number, _shuffle))(rng, content)
    return content


def _place(rng: Rng, content: bytes) -> int:
    if rng.random() < 0.5:  # what is at the beginning says what the rest is
        return int(rng.integers(min(len(content), 300) + 1))
    return int(rng.integers(len(content) + 1))


def _flip(rng: Rng, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        if changed:
            changed[min(_place(rng, content), len(changed) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(rng: Rng, content: bytes) -> bytes:
    return content[: _place(rng, content)]


def _drop(rng: Rng, content: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + content[at + int(rng.integers(1, 40)) :]


def _put(rng: Rng, content: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + pick(rng, WORDS) + content[at:]


def _repeat(rng: Rng, content: bytes) -> bytes:
    at, size = _place(rng, content), int(rng.integers(1, 200))
    return content[:at] + content[at : at + size] * int(rng.integers(2, 6)) + content[at + size :]


def _number(rng: Rng, content: bytes) -> bytes:
    at, value = _place(rng, content), pick(rng, (0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1, 100_000_001))
    return content[:at] + struct.pack("<Q", value) + content[at + 8 :]


def _shuffle(rng: Rng, content: bytes) -> bytes:
    at, size = _place(rng, content), int(rng.integers(2, 60))
    return content[:at] + bytes(rng.permutation(list(content[at : at + size])).tolist()) + content[at + size :]


def _changed(rng: Rng, value: Any) -> Any:
    """Give a JSON value with one or more of its nodes replaced."""
    if rng.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return pick(rng, JUNK)
    if isinstance(value, list):
        at = int(rng.integers(len(value)))
        return [*value[:at], *([_changed(rng, value[at])] if rng.random() < 0.8 else []), *value[at + 1 :]]
    key = pick(rng, list(value))
    if rng.random() < 0.2:
        return {name: one for name, one in value.items() if name != key} | ({"a": 1} if rng.random() < 0.3 else {})
    return {**value, key: _changed(rng, value[key])}


def said(rng: Rng, content: bytes) -> bytes:
    """Give JSON that is whole, and says something else; or damaged bytes."""
    if rng.random() < 0.3:
        return damaged(rng, content)
    try:
        return json.dumps(_changed(rng, json.loads(content))).encode()
    except ValueError:
        return damaged(rng, content)


def lines(rng: Rng, content: bytes) -> bytes:
    """Give a log one of whose lines says something else; or damaged bytes."""
    every = content.splitlines()
    if rng.random() < 0.3 or not every:
        return damaged(rng, content)
    at = int(rng.integers(len(every)))
    every[at] = said(rng, every[at])
    return b"\n".join(every) + b"\n"


def _array(rng: Rng, array: np.ndarray) -> np.ndarray:
    ways: tuple[Callable[[], np.ndarray], ...] = (
        lambda: array[:0] if array.ndim else array,
        lambda: array[None],
        lambda: array.reshape(-1),
        lambda: array.reshape(-1)[:1].reshape(()) if array.size else np.zeros(()),
        lambda: array.astype(pick(rng, ["f2", "f4", "f8", "i1", "i8", "u1", "?"])),
        lambda: np.full(array.shape, pick(rng, [0, -1, 2**31 - 1])).astype(array.dtype),
        lambda: np.full(array.shape, pick(rng, [np.nan, np.inf, 1e308])),
        lambda: np.zeros(rng.integers(0, 4, size=int(rng.integers(0, 4)))),
    )
    with np.errstate(all="ignore"):
        return pick(rng, ways)()


def signed(rng: Rng, content: bytes, folder: Path) -> bytes:
    """Give a file of ours with a checksum that fits, and other arrays or other metadata; or a changed header."""
    chance = rng.random()
    if chance < 0.25:
        return damaged(rng, content)
    if chance < 0.4:
        return _header(rng, content)
    place = folder / "signed"
    place.write_bytes(content)
    arrays, about = load_arrays(place)
    for _ in range(int(rng.integers(1, 3))):
        if arrays and rng.random() < 0.5:
            name = pick(rng, list(arrays))
            if rng.random() < 0.3:
                arrays[pick(rng, ["a", "", "0.mean", "log.regret", "../a", "\x7f"])] = arrays.pop(name)
            elif rng.random() < 0.3:
                del arrays[name]
            else:
                arrays[name] = _array(rng, arrays[name])
        else:
            changed = _changed(rng, about)
            about = changed if isinstance(changed, dict) else {"": changed}
    try:
        save_arrays(place, arrays, about)
    except (DataError, ValueError):  # what cannot be written so
        return damaged(rng, content)
    return place.read_bytes()


def _header(rng: Rng, content: bytes) -> bytes:
    """Give a safetensors file whose header says something else, and is as long as it says."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    key = pick(rng, list(header))
    if key == "__metadata__":
        header[key] = {name: said(rng, text.encode()).decode(errors="replace") for name, text in header[key].items()}
    else:
        header[key] = _changed(rng, header[key]) if rng.random() < 0.5 else {**header[key], "dtype": pick(rng, DTYPES)}
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + content[8 + size :]


DTYPES = ("BF16", "F8_E4M3", "F8_E5M2", "F4", "C64", "I16", "U64", "BOOL", "F64", "F16")
"""Kinds of numbers that safetensors knows, and ours do not all."""
