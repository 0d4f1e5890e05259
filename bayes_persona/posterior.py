"""What learning leaves: a set of equally likely draws of the parameters."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bayes_persona.errors import ConfigError
from bayes_persona.named import require_finite, require_like
from bayes_persona.types import Params


@dataclass(frozen=True, eq=False)  # comparing arrays has no one answer
class Posterior(Sequence[Params]):
    """Particles with the same names and shapes, checked once, here.

    Args:
        particles: The draws, at least one.

    Raises:
        ConfigError: If there is no particle.
        MismatchError: If a particle has other names or shapes than the first.
        DataError: If a number is NaN or infinite.

    >>> posterior = Posterior(({"w": np.zeros(2)}, {"w": np.ones(2)}))
    >>> len(posterior), posterior.mean()["w"].tolist(), posterior.stacked()["w"].shape
    (2, [0.5, 0.5], (2, 2))
    """

    particles: tuple[Params, ...]

    def __post_init__(self):
        if not self.particles:
            raise ConfigError("particles: a posterior needs at least one")
        for number, particle in enumerate(self.particles):
            require_like(particle, self.particles[0], f"particle {number}")
            require_finite(particle, f"particle {number}")

    def __len__(self) -> int:
        return len(self.particles)

    def __getitem__(self, index):
        return self.particles[index]

    def __iter__(self) -> Iterator[Params]:
        return iter(self.particles)

    def stacked(self) -> Params:
        """Give every parameter once, with a leading axis of particles."""
        return {name: np.stack([particle[name] for particle in self]) for name in self.particles[0]}

    def mean(self) -> Params:
        """Give the average of the parameters (a *soup*), which is not the average of the predictions."""
        return {name: np.asarray(stack.mean(axis=0)) for name, stack in self.stacked().items()}
