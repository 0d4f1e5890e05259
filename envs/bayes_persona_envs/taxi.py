"""Gymnasium's Taxi (Dietterich, 2000), dry, with its state seen as four variables."""

from typing import Any, SupportsFloat

import numpy as np

from bayes_persona.cpsrl.env import FactoredSpec, from_table
from bayes_persona.errors import needs_extra

with needs_extra("envs"):
    import gymnasium
    from gymnasium.envs.toy_text.taxi import TaxiEnv
    from gymnasium.spaces import Discrete, MultiDiscrete

STATES = {"row": 5, "column": 5, "passenger": 5, "destination": 4}
"""The state variables. Passengers 0 to 3 wait at a stand, 4 is in the taxi."""
ACTIONS = {"action": 6}
"""South, north, east, west, pick up, drop off."""


class Taxi(gymnasium.Env[np.ndarray, int | np.int64]):
    """The taxi world of Gymnasium, which does all the work, with observations [row, column, passenger, destination].

    Args:
        render_mode: One of Gymnasium's Taxi: "human" and "rgb_array" need pygame, "ansi" does not.

    >>> Taxi().reset(seed=0)[0].shape
    (4,)
    """

    metadata = TaxiEnv.metadata

    def __init__(self, render_mode: str | None = None):
        self._taxi = TaxiEnv(render_mode=render_mode)
        self.render_mode = render_mode
        self.observation_space = MultiDiscrete(list(STATES.values()))
        self.action_space = Discrete(ACTIONS["action"])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Put taxi, passenger and destination in random places."""
        super().reset(seed=seed)
        self._taxi.np_random = self.np_random  # one source of randomness, not two
        state, info = self._taxi.reset(options=options)
        return self._observe(state), info

    def step(self, action: int | np.int64) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Drive, pick up or drop off."""
        state, reward, terminated, truncated, info = self._taxi.step(int(action))
        return self._observe(state), reward, terminated, truncated, info

    def render(self):
        """Draw the world as Gymnasium does."""
        self._taxi.spec = self.spec  # its warning about a missing render mode names the environment
        return self._taxi.render()

    def close(self):
        """Close the window, if there is one."""
        self._taxi.close()

    def fmdp_spec(self) -> FactoredSpec:
        """Give the variables, the reward, and the truth found in Gymnasium's own table."""
        return from_table(STATES, ACTIONS, self._taxi.P, self._taxi.initial_state_distrib)

    def _observe(self, state: int) -> np.ndarray:
        return np.array(np.unravel_index(state, list(STATES.values())))
