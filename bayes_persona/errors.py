"""The five errors that this package raises, and how a missing extra becomes one of them.

A message says what was wrong, where (the name of the field, leaf or file) and what to do about it.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class ConfigError(ValueError):
    """A setting, a graph or an argument asks for something that cannot be done.

    >>> raise ConfigError("particles: expected at least 1, got 0")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: particles: expected at least 1, got 0
    """


class DataError(ValueError):
    """The data cannot be learned from: empty, not finite, or with labels outside the classes.

    >>> raise DataError("y: label 12 is outside the 10 classes (0 to 9)")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.DataError: y: label 12 is outside the 10 classes (0 to 9)
    """


class MismatchError(ValueError):
    """Two things that must fit each other do not: shapes, names, or a run and its config.

    >>> raise MismatchError("head.weight: expected shape (10, 64), got (5, 64)")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.MismatchError: head.weight: expected shape (10, 64), got (5, 64)
    """


class RunError(RuntimeError):
    """A run folder cannot be read or written: damaged, too new, or the disk is full.

    >>> raise RunError("runs/a/state.safetensors: truncated; restore it or start in a new folder")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: runs/a/state.safetensors: truncated; restore it or start in a new folder
    """


class MissingExtraError(ImportError):
    """A room was entered whose optional packages are not installed.

    >>> raise MissingExtraError("torch is missing; install it with: pip install 'bayes-persona[torch]'")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.MissingExtraError: torch is missing; install it with: pip install 'bayes-persona[torch]'
    """


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a failed import inside the block into advice on which extra to install.

    Args:
        extra: Name of the optional dependency group in pyproject.toml.

    Raises:
        MissingExtraError: If an import in the block fails because a package is not installed.

    >>> with needs_extra("torch"):
    ...     import a_package_that_is_not_there
    Traceback (most recent call last):
    ...
    bayes_persona.errors.MissingExtraError: a_package_that_is_not_there is missing; install it with: \
pip install 'bayes-persona[torch]'
    """
    try:
        yield
    except (ModuleNotFoundError, MissingExtraError) as error:  # of nested blocks the outermost knows what is wanted
        advice = f"{error.name} is missing; install it with: pip install 'bayes-persona[{extra}]'"
        raise MissingExtraError(advice, name=error.name) from error
