"""A Gymnasium environment that moves by the rules of a factored world."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Int

from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.cpsrl.local import LocalSpec
from bayes_persona.errors import ConfigError, needs_extra

with needs_extra("envs"):
    import gymnasium
    from gymnasium.spaces import Discrete, MultiDiscrete


class FactoredWorld(gymnasium.Env[np.ndarray, Any]):
    """A world whose state is some variables, each of which moves by a law of its own.

    Observations are the state variables in order. An action is one number if there is one action variable, else an
    array of the action variables.

    Args:
        rules: How it moves, in local tables or listed.
        render_mode: "ansi" for a table in words, "rgb_array" for a picture of causes and effects; nothing if None.
        words: What the values of some variables are called, where a number would say less.

    Raises:
        ConfigError: If there is no such render mode, or an action is none of the world's.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> world = FactoredWorld(lamp(), render_mode="ansi", words={"lamp": ("dark", "lit")})
    >>> _ = world.reset(seed=0)
    >>> observation, reward, *_ = world.step(np.int64(1))
    >>> observation.tolist(), reward
    ([1], 0.0)
    >>> print(world.render())
    lamp   = lit
    switch = 1 (just done)
    reward = 0
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012, as Gymnasium has it

    def __init__(
        self,
        rules: LocalSpec | FactoredSpec,
        render_mode: str | None = None,
        words: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ):
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            modes = self.metadata["render_modes"]
            raise ConfigError(f"render_mode: expected None or one of {modes}, got {render_mode!r}")
        self.rules = LocalSpec.of(rules) if isinstance(rules, FactoredSpec) else rules
        self.render_mode = render_mode
        self.words = words
        self.observation_space = MultiDiscrete(list(self.rules.states.values()))
        sizes = list(self.rules.actions.values())
        self.action_space = Discrete(sizes[0]) if len(sizes) == 1 else MultiDiscrete(sizes)
        self._shown: tuple[np.ndarray | None, np.ndarray, float] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a first state."""
        super().reset(seed=seed)
        state = self.rules.first(self.np_random.random((1, self.rules.first_draws)))
        self.show(None, state[0], 0.0)
        return state[0].copy(), self._info(state)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Draw the next value of every variable."""
        if self._shown is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        if not self.action_space.contains(action):
            raise ConfigError(f"action: expected one of {self.action_space}, got {action!r}")
        _, state, _ = self._shown
        before = np.concatenate([state, np.atleast_1d(action)])[None]
        after = self.rules.move(before, self.np_random.random((1, len(state))))
        reward, terminated = float(self.rules.earned(before, after)[0]), bool(self.rules.ended(before, after)[0])
        self.show(before[0], after[0], reward)
        return after[0].copy(), reward, terminated, False, self._info(after)

    def show(self, before: Int[np.ndarray, " _"] | None, state: Int[np.ndarray, " _"], reward: float) -> None:
        """Put the world in a state, as if a move had led there.

        Args:
            before: The values of state and action variables before the move, or None if there was no move.
            state: The values of the state variables now.
            reward: What the move earned.
        """
        self._shown = (before, state, reward)

    def render(self) -> Any:
        """Give the table in words or the picture, as `render_mode` says."""
        if self.render_mode is None:
            gymnasium.logger.warn("render: this world was made without a render_mode; nothing is drawn")
            return None
        if self._shown is None:
            raise gymnasium.error.ResetNeeded("call reset() before render()")
        return self.drawn(*self._shown)

    def drawn(self, before: np.ndarray | None, state: np.ndarray, reward: float) -> Any:
        """Draw what `show` was told, in the render mode."""
        if self.render_mode == "ansi":
            return in_words(self.rules, self.words, before, state, reward)
        from bayes_persona_envs import picture  # pictures alone need pillow

        return picture.causes(self.rules, self.words, before, state, reward)

    def local_spec(self) -> LocalSpec:
        """Give what an agent may know, and the truth, in local tables."""
        return self.rules

    def fmdp_spec(self) -> FactoredSpec:
        """List what an agent may know, and the truth.

        Raises:
            ConfigError: If the world has too many settings to list.
        """
        return self.rules.dense()

    def infos(self, states: Int[np.ndarray, "copies states"]) -> dict[str, np.ndarray]:
        """Say more of states, a row of each array for a row of `states`. Here there is no more to say."""
        return {}

    def _info(self, states: np.ndarray) -> dict[str, Any]:
        return {name: rows[0] for name, rows in self.infos(states).items()}


def in_words(
    rules: LocalSpec,
    words: Mapping[str, Sequence[str]],
    before: np.ndarray | None,
    state: np.ndarray,
    reward: float,
) -> str:
    """Give a line for each state variable, then what was done and what that earned.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> in_words(LocalSpec.of(lamp()), {}, None, np.array([1]), 0.0)
    'lamp = 1'
    """
    lines = [(name, word(words, name, value), "") for name, value in zip(rules.states, state, strict=True)]
    if before is not None:
        done = zip(rules.actions, before[len(state) :], strict=True)
        lines += [(name, word(words, name, value), " (just done)") for name, value in done]
        lines.append(("reward", f"{reward:.3g}", ""))
    width = max(len(name) for name, _, _ in lines)
    return "\n".join(f"{name:{width}} = {value}{note}" for name, value, note in lines)


def word(words: Mapping[str, Sequence[str]], name: str, value: int | np.integer) -> str:
    """Say what a value of a variable is called.

    >>> word({"lamp": ("dark", "lit")}, "lamp", 1), word({}, "lamp", 1)
    ('lit', '1')
    """
    return words[name][int(value)] if name in words else str(value)
