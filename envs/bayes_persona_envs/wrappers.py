"""Two ways to look at an environment: as variables, or as one number."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from bayes_persona.cpsrl.env import FactoredSpec, flat, from_table, joint, outcome, spec_of
from bayes_persona.cpsrl.local import LocalSpec
from bayes_persona.errors import ConfigError, needs_extra

with needs_extra("envs"):
    import gymnasium
    from gymnasium.spaces import Discrete, MultiDiscrete
    from gymnasium.utils import RecordConstructorArgs


class Flat(gymnasium.Wrapper, RecordConstructorArgs):
    """See a factored world as tabular agents do: the state is one number, and so is the action.

    Args:
        env: An environment with `MultiDiscrete` observations, and `MultiDiscrete` or `Discrete` actions.

    Raises:
        ConfigError: If the environment has other spaces, or an action is none of its own.

    >>> import bayes_persona_envs
    >>> taxi = Flat(gymnasium.make("bayes_persona/Taxi-v0"))
    >>> taxi.observation_space, taxi.P[0][4]
    (Discrete(500), [(1.0, 16, -1.0, False)])
    """

    def __init__(self, env: gymnasium.Env):
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self._states = _sizes("observation", env.observation_space, MultiDiscrete)
        self._actions = _sizes("action", env.action_space, MultiDiscrete, Discrete)
        self.observation_space = Discrete(math.prod(self._states))
        self.action_space = Discrete(math.prod(self._actions))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._numbered(observation), info

    def step(self, action: int | np.integer) -> tuple[int, Any, bool, bool, dict[str, Any]]:
        """Take the action of that number."""
        digits = _digits(_required(self.action_space, action), self._actions)
        observation, reward, terminated, truncated, info = self.env.step(_inside(self.env.action_space, digits))
        return self._numbered(observation), reward, terminated, truncated, info

    def fmdp_spec(self) -> FactoredSpec:
        """Give the world with one state variable and one action variable."""
        return flat(spec_of(self.env))

    def local_spec(self) -> LocalSpec:
        """Give the same in one table."""
        return LocalSpec.of(self.fmdp_spec())

    def _numbered(self, observation: np.ndarray) -> int:
        return _number(observation - _start(self.env.observation_space), self._states)

    @cached_property
    def P(self) -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:  # noqa: N802
        """The table of Gymnasium's toy worlds: `P[state][action]` lists (probability, next, reward, terminated)."""
        spec = spec_of(self.env)
        probs = joint(spec.factors)
        table: dict[int, dict[int, list[tuple[float, int, float, bool]]]] = {}
        for x, row in enumerate(probs):
            state, action = divmod(x, spec.action_count)
            table.setdefault(state, {})[action] = [
                (float(row[y]), int(y), float(outcome(spec.reward, x, y)), bool(outcome(spec.terminal, x, y)))
                for y in np.flatnonzero(row)
            ]
        return table


class Factored(gymnasium.Wrapper, RecordConstructorArgs):
    """See an environment as variables, given their names and sizes.

    A number is taken apart as `np.unravel_index` does, the first variable being the most significant digit.

    Args:
        env: An environment with `Discrete` or `MultiDiscrete` observations and actions.
        states: Name and number of values of each state variable.
        actions: Name and number of values of each action variable; if None, the one or more that there are.

    Raises:
        ConfigError: If the sizes do not multiply to what the environment has, or an action is none of its own.

    >>> cliff = Factored(gymnasium.make("CliffWalking-v1"), states={"row": 4, "column": 12})
    >>> cliff.reset(seed=0)[0].tolist()
    [3, 0]
    >>> cliff.fmdp_spec().parents["column'"]
    ('row', 'column', 'action')
    """

    def __init__(self, env: gymnasium.Env, states: Mapping[str, int], actions: Mapping[str, int] | None = None):
        RecordConstructorArgs.__init__(self, states=dict(states), actions=None if actions is None else dict(actions))
        gymnasium.Wrapper.__init__(self, env)
        have = _sizes("action", env.action_space, Discrete, MultiDiscrete)
        if actions is None:
            actions = {"action": have[0]} if len(have) == 1 else {f"action{at}": size for at, size in enumerate(have)}
        self.states, self.actions = dict(states), dict(actions)
        self._shape = _sizes("observation", env.observation_space, Discrete, MultiDiscrete)
        self._act = have
        _require_product("states", self.states, self._shape)
        _require_product("actions", self.actions, have)
        self.observation_space = MultiDiscrete(list(self.states.values()))
        sizes = list(self.actions.values())
        self.action_space = Discrete(sizes[0]) if len(sizes) == 1 else MultiDiscrete(sizes)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Take the action."""
        number = _number(_required(self.action_space, action), list(self.actions.values()))
        inside = _inside(self.env.action_space, _digits(number, self._act))
        observation, reward, terminated, truncated, info = self.env.step(inside)
        return self._seen(observation), reward, terminated, truncated, info

    def fmdp_spec(self) -> FactoredSpec:
        """Find the factors in the environment's own table, `unwrapped.P`.

        Raises:
            ConfigError: If it has no such table, or its next variables are not independent.
        """
        world = self.env.unwrapped
        table, initial = getattr(world, "P", None), getattr(world, "initial_state_distrib", None)
        if table is None or initial is None:
            raise ConfigError(
                f"env: {world} has no table P of its moves with an initial_state_distrib, so the truth is not known; "
                "an agent can learn in this view, but nothing can be measured against the truth"
            )
        return from_table(self.states, self.actions, table, np.asarray(initial, dtype=float))

    def local_spec(self) -> LocalSpec:
        """Give the same in local tables."""
        return LocalSpec.of(self.fmdp_spec())

    def _seen(self, observation: Any) -> np.ndarray:
        number = _number(observation - _start(self.env.observation_space), self._shape)
        return _digits(number, list(self.states.values()))


def _sizes(what: str, space: gymnasium.Space, *kinds: type) -> list[int]:
    if not isinstance(space, kinds):
        raise ConfigError(f"{what}: expected a space that is {' or '.join(k.__name__ for k in kinds)}, got {space}")
    if isinstance(space, Discrete):
        return [int(space.n)]
    if isinstance(space, MultiDiscrete) and space.nvec.ndim == 1:
        return space.nvec.tolist()
    raise ConfigError(f"{what}: expected a space of one axis, got {space}")


def _start(space: gymnasium.Space) -> Any:
    """Give the least member, from which the others are counted."""
    assert isinstance(space, Discrete | MultiDiscrete)
    return space.start


def _inside(space: gymnasium.Space, digits: np.ndarray) -> Any:
    """Give the member of the space with these digits."""
    if isinstance(space, Discrete):
        return np.int64(digits[0] + space.start)
    return digits + _start(space)


def _required(space: gymnasium.Space, action: Any) -> Any:
    if not space.contains(action):
        raise ConfigError(f"action: expected one of {space}, got {action!r}")
    return action


def _number(digits: Any, sizes: list[int]) -> int:
    return int(np.ravel_multi_index(tuple(np.atleast_1d(digits)), sizes))


def _digits(number: int | np.integer, sizes: list[int]) -> np.ndarray:
    return np.array(np.unravel_index(int(number), sizes))


def _require_product(what: str, named: Mapping[str, int], sizes: list[int]) -> None:
    if math.prod(named.values()) != math.prod(sizes) or (len(sizes) > 1 and list(named.values()) != sizes):
        raise ConfigError(f"{what}: {dict(named)} do not multiply to the {sizes} values that the environment has")
