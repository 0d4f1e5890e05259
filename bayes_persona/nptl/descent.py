"""How a net descends, whatever computes it: the rates and the order of examples of stochastic gradient descent."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from bayes_persona import ranges
from bayes_persona.errors import ConfigError


@dataclass(frozen=True)
class Descent:
    """Stochastic gradient descent with Nesterov momentum.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Descent(steps=4, lr=1.0).rates().round(3).tolist()
    [1.0, 0.854, 0.5, 0.146]
    """

    steps: int = 300
    """Gradient steps of one fit."""
    batch: int = 64
    """Examples a step; all of them, if there are fewer."""
    lr: float = 0.02
    """Learning rate at the start."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 0.0
    """Pull of every parameter towards zero. The posterior bootstrap has none; comparisons use the same for all."""
    anchor: float = 0.0
    """Pull of every parameter towards the pretrained one: L2-SP (Li et al. 2018)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What becomes of the learning rate: it falls to nothing, or stays."""

    def __post_init__(self):
        ranges.at_least(self, 1, "steps", "batch")
        ranges.positive(self, "lr")
        ranges.below_one(self, "momentum")
        ranges.at_least(self, 0, "weight_decay", "anchor")
        if self.schedule not in ("cosine", "constant"):
            raise ConfigError(f"schedule: expected cosine or constant, got {self.schedule!r}")

    def rates(self) -> Float[np.ndarray, " steps"]:
        """Give the learning rate of every step."""
        if self.schedule == "constant":
            return np.full(self.steps, self.lr)
        return self.lr * (1 + np.cos(np.pi * np.arange(self.steps) / self.steps)) / 2

    def rows(self, n: int, seed: int) -> Int[np.ndarray, "steps batch"]:
        """Give the examples of every step: whole passes over `n` of them in random order, one after another.

        >>> sorted(Descent(steps=2, batch=2).rows(n=4, seed=0).ravel().tolist())
        [0, 1, 2, 3]
        """
        size = min(self.batch, n)
        rng = np.random.default_rng(seed)
        order = np.concatenate([rng.permutation(n) for _ in range(-(-self.steps * size // n))])
        return order[: self.steps * size].reshape(self.steps, size)
