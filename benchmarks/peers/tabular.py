"""A world as agents of tables see it: numbered states and actions, and a step."""

from typing import NamedTuple

import numpy as np

from bayes_persona.cpsrl.env import FactoredSpec


class Table(NamedTuple):
    """The law of a world without variables, and how long one lives in it."""

    probs: np.ndarray
    """States × actions × next states; agents only draw from it."""
    reward: np.ndarray
    """States × actions, in 0 to 1."""
    initial: np.ndarray
    horizon: int
    episodes: int

    def first(self, rng: np.random.Generator) -> int:
        """Draw the first state of an episode."""
        return int(rng.choice(len(self.initial), p=self.initial))

    def step(self, state: int, action: int, rng: np.random.Generator) -> int:
        """Draw the next state."""
        return int(np.searchsorted(np.cumsum(self.probs[state, action]), rng.random()).clip(max=len(self.initial) - 1))


def table_of(spec: FactoredSpec, horizon: int, episodes: int) -> Table:
    """Multiply the factors out."""
    probs = spec.factors[0]
    for factor in spec.factors[1:]:
        probs = (probs[:, :, None] * factor[:, None, :]).reshape(len(probs), -1)
    shape = spec.state_count, spec.action_count
    return Table(probs.reshape(*shape, -1), np.asarray(spec.reward).reshape(shape), spec.initial, horizon, episodes)


def backward(probs: np.ndarray, reward: np.ndarray, horizon: int) -> np.ndarray:
    """Give the best policy of a world, a row for each step."""
    value, policy = np.zeros(len(probs)), []
    for _ in range(horizon):
        scores = reward + probs @ value
        value = scores.max(axis=1)
        policy.append(scores.argmax(axis=1))
    return np.array(policy[::-1])
