"""Gymnasium's Taxi (Dietterich, 2000), dry, with its state seen as four variables; or a smaller one, or a worse car."""

from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayes_persona.cpsrl.local import Local, LocalSpec
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona_envs.factored_world import FactoredWorld
from bayes_persona_envs.vector import FactoredVector

with needs_extra("envs"):
    from gymnasium.envs.toy_text.taxi import MAP, TaxiEnv
    from gymnasium.vector import AutoresetMode

STATES = {"row": 5, "column": 5, "passenger": 5, "destination": 4}
"""The state variables of the large map. Passengers 0 to 3 wait at a stand, 4 is in the taxi."""
ACTIONS = {"action": 6}
"""South, north, east, west, pick up, drop off."""
SMALL = ("+-----+", "|R: |G|", "| : : |", "|Y| :B|", "+-----+")
"""The small map, in the manner of Gymnasium's: only a colon can be crossed from west to east."""
MAPS = {5: tuple(MAP), 3: SMALL}
STANDS = "RGYB"
"""In the order of their numbers."""
STEP, WRONG, DELIVERED = -1.0, -10.0, 20.0
"""Rewards: of any step, of picking up or dropping off where that cannot be done, and of the end."""


class Taxi(FactoredWorld):
    """The taxi world of Gymnasium, with observations [row, column, passenger, destination].

    A taxi fetches a passenger from one of four stands and brings them to another. Rules and rewards are those of
    Gymnasium, which also draws the large map.

    Args:
        render_mode: "ansi" and "rgb_array"; the large map has "human" too, and needs pygame for both but "ansi".
        size: Rows and columns of the map: Gymnasium's 5, or 3.
        fail: How likely a move to a neighbouring cell is to do nothing.

    Raises:
        ConfigError: If there is no such map, or `fail` is no probability below 1.

    >>> Taxi().reset(seed=0)[0].shape
    (4,)
    """

    metadata: dict[str, Any] = TaxiEnv.metadata

    def __init__(self, render_mode: str | None = None, size: int = 5, fail: float = 0.0):
        if size not in MAPS:
            raise ConfigError(f"size: expected one of {list(MAPS)}, got {size!r}")
        if not 0 <= fail < 1:
            raise ConfigError(f"fail: expected a probability below 1, got {fail!r}")
        if size != 5:
            self.metadata = FactoredWorld.metadata
        super().__init__(_rules(MAPS[size], fail), render_mode)
        self.size = size
        self._allowed = _allowed(MAPS[size])
        self._gymnasiums = TaxiEnv(render_mode=render_mode) if size == 5 else None

    def infos(self, states: Int[np.ndarray, "copies states"]) -> dict[str, np.ndarray]:
        """Give Gymnasium's `action_mask`: 1 for each action that can change something."""
        return {"action_mask": self._allowed[tuple(states.T)]}

    def drawn(self, before: np.ndarray | None, state: np.ndarray, reward: float) -> Any:
        """Draw the map: Gymnasium its own, and we the small one."""
        action = None if before is None else int(before[-1])
        if self._gymnasiums is not None:
            self._gymnasiums.spec = self.spec
            self._gymnasiums.s = int(np.ravel_multi_index(tuple(state), list(self.rules.states.values())))
            self._gymnasiums.lastaction = action
            return self._gymnasiums.render()
        if self.render_mode == "ansi":
            return _map_in_words(state, action)
        from bayes_persona_envs import streets  # pictures alone need pillow

        return streets.streets(SMALL, *(int(value) for value in state))

    def close(self):
        """Close the window, if there is one."""
        if self._gymnasiums is not None:
            self._gymnasiums.close()


def vector(
    num_envs: int = 1,
    render_mode: str | None = None,
    size: int = 5,
    fail: float = 0.0,
    max_episode_steps: int | None = None,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
) -> FactoredVector:
    """Give many taxis that step at once: what `gymnasium.make_vec` calls.

    >>> vector(num_envs=3).reset(seed=0)[0].shape
    (3, 4)
    """
    return FactoredVector(Taxi(render_mode, size, fail), num_envs, max_episode_steps, autoreset_mode)


def _stands(streets: tuple[str, ...]) -> list[tuple[int, int]]:
    """Give row and column of each stand."""
    places = {letter: (row, at // 2) for row, line in enumerate(streets[1:-1]) for at, letter in enumerate(line[1:])}
    return [places[letter] for letter in STANDS]


def _rules(streets: tuple[str, ...], fail: float) -> LocalSpec:
    size, stands = len(streets) - 2, _stands(streets)
    rows, columns = np.zeros((size, 6, size)), np.zeros((size, size, 6, size))
    for row, action in product(range(size), range(6)):
        after = {0: min(row + 1, size - 1), 1: max(row - 1, 0)}.get(action, row)
        rows[row, action, after] += 1 - fail
        rows[row, action, row] += fail
    for row, column, action in product(range(size), range(size), range(6)):
        line = streets[1 + row]
        after = column + (action == 2 and line[2 * column + 2] == ":") - (action == 3 and line[2 * column] == ":")
        columns[row, column, action, after] += 1 - fail
        columns[row, column, action, column] += fail
    passengers = np.zeros((size, size, 5, 6, 5))
    passengers[...] = np.eye(5)[:, None]
    # A place, where the passenger is, where they want to go, and what is done: worth a step, unless said otherwise.
    rewards = np.full((size, size, 5, 4, 6), STEP)
    rewards[..., 4:] = WRONG
    ends = np.zeros(rewards.shape, dtype=bool)
    for number, (row, column) in enumerate(stands):
        passengers[row, column, number, 4] = np.eye(5)[4]
        passengers[row, column, 4, 5] = np.eye(5)[number]
        rewards[row, column, number, :, 4] = STEP
        rewards[row, column, 4, :, 5] = STEP
        rewards[row, column, 4, number, 5] = DELIVERED
        ends[row, column, 4, number, 5] = True
    states = {"row": size, "column": size, "passenger": 5, "destination": 4}
    factors = (
        Local(("row", "action"), rows),
        Local(("row", "column", "action"), columns),
        Local(("row", "column", "passenger", "action"), passengers),
        Local(("destination",), np.eye(4)),
    )
    reward, end = (Local((*states, *ACTIONS), table) for table in (rewards, ends))
    return LocalSpec(states, ACTIONS, factors, (reward,), (end,), _initial(size))


def _initial(size: int) -> Float[np.ndarray, " s"]:
    """Give the law of the first state: the passenger waits at a stand that they do not want to go to."""
    law = np.zeros((size, size, 5, 4))
    law[:, :, :4] = 1 - np.eye(4)
    return law.ravel() / law.sum()


def _allowed(streets: tuple[str, ...]) -> Int[np.ndarray, "rows columns passengers destinations actions"]:
    """Give 1 for each action that can change something, in each state."""
    size, stands = len(streets) - 2, _stands(streets)
    allowed = np.zeros((size, size, 5, 4, 6), dtype=np.int8)
    for row, column in product(range(size), repeat=2):
        line, here = streets[1 + row], (row, column)
        moves = [row < size - 1, row > 0, line[2 * column + 2] == ":", line[2 * column] == ":"]
        allowed[row, column, ..., :4] = moves
        if here in stands:
            allowed[row, column, stands.index(here), :, 4] = 1
            allowed[row, column, 4, :, 5] = 1
    return allowed


def _map_in_words(state: np.ndarray, action: int | None) -> str:
    """Give the small map with the taxi as t, or T with the passenger in it, and a line that says the rest."""
    row, column, passenger, destination = (int(value) for value in state)
    lines = [list(line) for line in SMALL]
    lines[1 + row][2 * column + 1] = "T" if passenger == 4 else "t"
    where = "in the taxi" if passenger == 4 else f"at {STANDS[passenger]}"
    done = "" if action is None else f" ({('South', 'North', 'East', 'West', 'Pickup', 'Dropoff')[action]})"
    text = "\n".join("".join(letters) for letters in lines)
    return f"{text}\nPassenger {where}, to {STANDS[destination]}{done}\n"
