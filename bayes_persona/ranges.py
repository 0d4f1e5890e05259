"""What numbers of a config may be, said once: each check names the field, the range and what it got.

A field that is None is not asked.
"""

import math
from collections.abc import Callable
from typing import Any

from bayes_persona.errors import ConfigError


def at_least(config: Any, least: int, *names: str) -> None:
    """Check that fields are finite and no less than a number.

    Raises:
        ConfigError: If one is not.

    >>> from types import SimpleNamespace
    >>> at_least(SimpleNamespace(steps=0, rows=4), 1, "rows", "steps")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: steps: expected at least 1, got 0
    """
    for name in names:
        finite = "a finite number of " if isinstance(getattr(config, name), float) else ""
        _require(config, name, lambda value: least <= value < math.inf, f"{finite}at least {least}")


def positive(config: Any, *names: str) -> None:
    """Check that fields are finite and more than 0.

    Raises:
        ConfigError: If one is not.

    >>> from types import SimpleNamespace
    >>> positive(SimpleNamespace(rate=0.0), "rate")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: rate: expected a finite number above 0, got 0.0
    """
    for name in names:
        _require(config, name, lambda value: 0 < value < math.inf, "a finite number above 0")


def share(config: Any, *names: str) -> None:
    """Check that fields are between 0 and 1, both included.

    Raises:
        ConfigError: If one is not.

    >>> from types import SimpleNamespace
    >>> share(SimpleNamespace(drop=1.5), "drop")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: drop: expected 0 to 1, got 1.5
    """
    for name in names:
        _require(config, name, lambda value: 0 <= value <= 1, "0 to 1")


def below_one(config: Any, *names: str) -> None:
    """Check that fields are between 0 and 1, with 1 left out: of a memory of 1, nothing would ever change.

    Raises:
        ConfigError: If one is not.

    >>> from types import SimpleNamespace
    >>> below_one(SimpleNamespace(momentum=1.0), "momentum")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: momentum: expected 0 to 1 (exclusive), got 1.0
    """
    for name in names:
        _require(config, name, lambda value: 0 <= value < 1, "0 to 1 (exclusive)")


def _require(config: Any, name: str, holds: Callable[[float], bool], expected: str) -> None:
    value = getattr(config, name)
    if value is not None and not holds(value):
        raise ConfigError(f"{name}: expected {expected}, got {value}")
