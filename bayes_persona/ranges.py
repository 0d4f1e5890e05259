"""What numbers of a config may be, said once: each check names the field, the range and what it got."""

import math
from typing import Any

from bayes_persona.errors import ConfigError


def at_least(config: Any, least: int, *names: str) -> None:
    """Check that fields are finite and no less than a number; a field that is None is not asked.

    Raises:
        ConfigError: If one is not.

    >>> from types import SimpleNamespace
    >>> at_least(SimpleNamespace(steps=0, rows=4), 1, "rows", "steps")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: steps: expected at least 1, got 0
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not least <= value < math.inf:
            finite = "a finite number of " if isinstance(value, float) else ""
            raise ConfigError(f"{name}: expected {finite}at least {least}, got {value}")


def positive(config: Any, *names: str) -> None:
    """Check that fields are finite and more than 0; a field that is None is not asked.

    Raises:
        ConfigError: If one is not.

    >>> from types import SimpleNamespace
    >>> positive(SimpleNamespace(rate=0.0), "rate")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: rate: expected a finite number above 0, got 0.0
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{name}: expected a finite number above 0, got {value}")


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
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{name}: expected 0 to 1, got {getattr(config, name)}")


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
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"{name}: expected 0 to 1 (exclusive), got {getattr(config, name)}")
