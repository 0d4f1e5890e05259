"""The variables of a factored world, which every description of one begins with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bayes_persona.errors import ConfigError

TOLERANCE = 1e-9
"""Probabilities closer than this are the same."""


@dataclass(frozen=True, eq=False)
class Variables:
    """State and action variables by name, and the next state's, whose names carry a prime.

    Raises:
        ConfigError: If names repeat, or a variable has too few values.

    >>> Variables({"lamp": 2}, {"switch": 2}).outputs
    {"lamp'": 2}
    """

    states: Mapping[str, int]
    """Name and number of values, at least 2, of each state variable."""
    actions: Mapping[str, int]
    """Name and number of values of each action variable."""

    def __post_init__(self):
        names = [*self.states, *self.actions, *self.outputs]
        if len(set(names)) < len(names):
            raise ConfigError(f"names: {names} are not all different; rename one")
        for what, sizes, least in (("states", self.states, 2), ("actions", self.actions, 1)):
            if not sizes:
                raise ConfigError(f"{what}: expected at least one variable, got none")
            for variable, size in sizes.items():
                if size < least:
                    advice = "; a variable with one value says nothing: drop it" if least > size == 1 else ""
                    raise ConfigError(f"{what}: {variable}: expected at least {least} values, got {size}{advice}")

    @cached_property
    def inputs(self) -> dict[str, int]:
        """The variables of x: the state's, then the action's."""
        return {**self.states, **self.actions}

    @cached_property
    def outputs(self) -> dict[str, int]:
        """The variables of y: the state's, primed."""
        return {f"{name}'": size for name, size in self.states.items()}

    @property
    def state_count(self) -> int:
        """How many states there are."""
        return math.prod(self.states.values())

    @property
    def action_count(self) -> int:
        """How many actions there are."""
        return math.prod(self.actions.values())


def require_probs(name: str, probs: np.ndarray) -> None:
    """Check that the last axis holds probabilities.

    Raises:
        ConfigError: If a number is negative, or they do not sum to 1.

    >>> require_probs("initial", np.array([0.5, 0.4]))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: initial: expected probabilities that sum to 1
    """
    if not (probs.min() >= 0 and np.abs(probs.sum(axis=-1) - 1).max() <= TOLERANCE):
        raise ConfigError(f"{name}: expected probabilities that sum to 1")
