"""Keep what took long: each result in a small file, so that a benchmark that was stopped goes on where it was."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bayes_persona.files import load_json, save_json

FOLDER = Path("runs") / "kept"
VERSION = 1
"""Raise it when methods change what they compute."""


def kept(name: str, said: Any, make: Callable[[], Any]) -> Any:
    """Give the result of a computation, from its file if it was made before.

    Args:
        name: What is computed.
        said: All that it depends on, as plain values.
        make: Computes it: plain values again.
    """
    text = json.dumps([VERSION, name, said], sort_keys=True, default=str)
    path = FOLDER / name / f"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_json(path, {"said": json.loads(text)[2], "found": make()})
    return load_json(path)["found"]
