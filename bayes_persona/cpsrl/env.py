"""Factored worlds: what an agent may know of one, and the truth that it is measured against.

x is a setting of the state variables, then of the action variables; y is the next setting of the state variables,
whose names then carry a prime. Given x they are independent: p(y | x) = Π_j p_j(y_j | x[parents of j]). A move earns
r(x, y), and may end the episode: its value is E_y[ r(x, y) + (1 − terminal(x, y)) · V(y) ]. Everywhere in this room
settings are numbered with the first variable as the most significant digit, as `np.ravel_multi_index` does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from bayes_persona.cpsrl.variables import TOLERANCE, Variables, require_probs
from bayes_persona.errors import ConfigError

Outcome = Float[np.ndarray, " x"] | Float[np.ndarray, "1 s"] | Float[np.ndarray, "x s"]
"""A number that a move has, in the smallest shape that says it: f(x), or f(y) in one row, or f(x, y)."""

End = Bool[np.ndarray, " x"] | Bool[np.ndarray, "1 s"] | Bool[np.ndarray, "x s"]
"""A yes or no that a move has, in the same three shapes."""

Table = Mapping[int, Mapping[int, Sequence[tuple]]]
"""`P[state][action]` of Gymnasium's toy worlds: lists of (probability, next state, reward, terminated)."""


@dataclass(frozen=True, eq=False)
class FactoredSpec(Variables):
    """A factored world. All but `factors` (and so `parents`) is known to every agent.

    Raises:
        ConfigError: If names repeat, a variable has too few values, an array has the wrong size, or a number is not a
            reward or probability.

    >>> spec = lamp()
    >>> spec.outputs, spec.parents
    ({"lamp'": 2}, {"lamp'": ('lamp', 'switch')})
    """

    reward: Outcome
    """What a move earns: r(x) as shape (x,), r(y) as (1, s), or r(x, y) as (x, s)."""
    terminal: End
    """Whether the episode ends with a move: in the same three shapes, and not always in the same one as the reward."""
    initial: Float[np.ndarray, " s"]
    """The law of the first state."""
    factors: tuple[Float[np.ndarray, "x _"], ...]
    """The truth, p_j(y_j | x) for each next-state variable: only to measure an agent with."""

    def __post_init__(self):
        super().__post_init__()
        if len(self.factors) != len(self.outputs):
            raise ConfigError(f"factors: expected one for each of {list(self.outputs)}, got {len(self.factors)}")
        x = self.state_count * self.action_count
        _require_outcome("reward", self.reward, x, self.state_count)
        _require_outcome("terminal", self.terminal, x, self.state_count)
        if not np.isfinite(self.reward).all():
            where = self._where(np.argwhere(~np.isfinite(self.reward))[0].tolist())
            raise ConfigError(f"reward: at {where} expected a finite number, got NaN or infinity")
        _require_shape("initial", self.initial, (self.state_count,))
        require_probs("initial", self.initial)
        for (name, size), factor in zip(self.outputs.items(), self.factors, strict=True):
            _require_shape(f"factor {name}", factor, (x, size))
            require_probs(f"factor {name}", factor)

    @cached_property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """The truth: the inputs that make a difference to each output, for some setting of the other inputs."""
        sizes = list(self.inputs.values())
        return {
            output: tuple(
                name
                for axis, name in enumerate(self.inputs)
                if np.ptp(factor.reshape(*sizes, -1), axis=axis).max() > TOLERANCE
            )
            for output, factor in zip(self.outputs, self.factors, strict=True)
        }

    def _where(self, index: Sequence[int]) -> str:
        """Say which entry of an array in one of the three shapes is meant."""
        moves = len(self.reward) > 1 or self.reward.ndim == 1
        before = [describe(self.inputs, index[0])] if moves else []
        return ", ".join(before + [describe(self.outputs, y) for y in index[1:]])


@runtime_checkable
class FactoredEnv(Protocol):
    """A Gymnasium environment, its observations `MultiDiscrete`, that says how it is factored.

    >>> import bayes_persona_envs, gymnasium
    >>> isinstance(gymnasium.make("bayes_persona/Taxi-v0").unwrapped, FactoredEnv)
    True
    """

    def fmdp_spec(self) -> FactoredSpec:
        """Give what an agent may know, and the truth."""
        ...


def spec_of(env: Any) -> FactoredSpec:
    """Give the factored spec of a Gymnasium environment, that of the outermost wrapper that has one.

    Raises:
        ConfigError: If the environment does not say how it is factored.

    >>> import bayes_persona_envs, gymnasium
    >>> spec_of(gymnasium.make("bayes_persona/Taxi-v0")).parents["row'"]
    ('row', 'action')
    """
    return outermost(env, FactoredEnv, "fmdp_spec(); cpsrl.env.from_table makes one from a table").fmdp_spec()


def outermost(env: Any, kind: type, what: str) -> Any:
    """Give the outermost layer of a Gymnasium environment that is of a kind.

    Args:
        env: The environment, in whatever wrappers.
        kind: A runtime-checkable protocol.
        what: What the environment lacks if no layer is, for the error.

    Raises:
        ConfigError: If no layer is.

    >>> import bayes_persona_envs, gymnasium
    >>> taxi = gymnasium.make("bayes_persona/Taxi-v0")
    >>> outermost(taxi, FactoredEnv, "fmdp_spec()") is taxi.unwrapped
    True
    """
    layer = env
    while not isinstance(layer, kind):
        if layer is layer.unwrapped:
            raise ConfigError(f"env: {layer} has no {what}")
        layer = layer.env
    return layer


def from_table(
    states: Mapping[str, int], actions: Mapping[str, int], table: Table, initial: Float[np.ndarray, " s"]
) -> FactoredSpec:
    """Find the factors of a tabular world, and refuse it if it has none.

    Rewards and ends are kept in the smallest shape that says them: by x if they can, else by y, else by both.

    Args:
        states: Name and size of each state variable; states are numbered with the first as the most significant digit.
        actions: Name and size of each action variable, numbered likewise.
        table: `table[state][action]` lists (probability, next state, reward, terminated).
        initial: The law of the first state.

    Raises:
        ConfigError: If the sizes do not fit the table, probabilities do not sum to 1, a move from one state to another
            by one action has two rewards, or two next-state variables are dependent given state and action.

    >>> coins = {s: {0: [(0.5, 0, 0.0, False), (0.5, 3, 0.0, False)]} for s in range(4)}  # both fall alike
    >>> from_table({"a": 2, "b": 2}, {"toss": 1}, coins, np.full(4, 0.25))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: table: a' and b' are not independent given a=0, b=0, toss=0; merge these \
variables into one, or take away what couples them
    """
    probs, rewards, ends = _dense(states, actions, table)
    reward, terminal = (_smallest(array, probs != 0) for array in (rewards, ends))
    moves = probs.reshape(-1, *states.values())
    axes = set(range(1, moves.ndim))
    factors = tuple(moves.sum(axis=tuple(axes - {axis})) for axis in sorted(axes))
    errors = np.abs(joint(factors) - probs).max(axis=1)
    if errors.max() > TOLERANCE:
        x = int((errors > TOLERANCE).argmax())
        names = [f"{name}'" for name in states]
        coupled = " and ".join(names[j] for j in _dependent(moves[x], [factor[x] for factor in factors]))
        raise ConfigError(
            f"table: {coupled} are not independent given {describe({**states, **actions}, x)}; "
            "merge these variables into one, or take away what couples them"
        )
    return FactoredSpec(states, actions, reward, terminal, initial, factors)


def flat(spec: FactoredSpec) -> FactoredSpec:
    """Give the same world seen without its factors: inputs `state` and `action`, output `state'`.

    Everything is numbered as before, so an agent with this view acts in the same environment. With the complete graph
    it is the PSRL of Osband, Russo & Van Roy (2013).

    >>> flat(lamp()).parents
    {"state'": ('state', 'action')}
    """
    return replace(
        spec,
        states={"state": spec.state_count},
        actions={"action": spec.action_count},
        factors=(joint(spec.factors),),
    )


def joint(factors: Sequence[Float[np.ndarray, "x _"]]) -> Float[np.ndarray, "x s"]:
    """Multiply factors into p(y | x), one column for each next state.

    >>> joint((np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]))).tolist()
    [[0.5, 0.0, 0.5, 0.0]]
    """
    product = np.ones((len(factors[0]), 1))
    for factor in factors:
        product = (product[:, :, None] * factor[:, None, :]).reshape(len(factor), -1)
    return product


def outcome(array: Any, x: Any, y: Any) -> Any:
    """Look up a reward or an end, in whichever of the three shapes it is kept.

    Args:
        array: `spec.reward` or `spec.terminal`, of numpy or of jax.
        x: Numbers of settings of state and action: one, or an array of them.
        y: Numbers of the next states.

    >>> arrived = np.array([[0.0, 1.0]])  # state 1 earns 1, from wherever
    >>> float(outcome(arrived, 3, 1)), float(outcome(lamp().reward, 3, 0))
    (1.0, 1.0)
    """
    if array.ndim == 1:
        return array[x]
    return array[0, y] if len(array) == 1 else array[x, y]


def lamp() -> FactoredSpec:
    """Give the smallest world with something to learn: a lamp, which earns 1 while lit, and its switch.

    >>> lamp().factors[0].argmax(axis=1).tolist()  # lamp' = lamp xor switch
    [0, 1, 1, 0]
    """
    reward = np.array([0.0, 0.0, 1.0, 1.0])
    move = np.eye(2)[[0, 1, 1, 0]]
    return FactoredSpec({"lamp": 2}, {"switch": 2}, reward, np.zeros(4, dtype=bool), np.array([1.0, 0.0]), (move,))


def describe(inputs: Mapping[str, int], x: int) -> str:
    """Say in words which setting of the inputs has the number x.

    >>> describe({"row": 5, "action": 6}, 13)
    'row=2, action=1'
    """
    digits = np.unravel_index(x, list(inputs.values()))
    return ", ".join(f"{name}={digit}" for name, digit in zip(inputs, digits, strict=True))


def _dense(states: Mapping[str, int], actions: Mapping[str, int], table: Table):
    """Give p(s' | x), r(x, s') and terminal(x, s') as arrays; the last two are 0 where s' cannot follow x."""
    state_count, action_count = math.prod(states.values()), math.prod(actions.values())
    if len(table) != state_count:
        raise ConfigError(f"states: {dict(states)} make {state_count} states, but the table has {len(table)}")
    probs = np.zeros((state_count * action_count, state_count))
    reward, terminal = np.zeros(probs.shape), np.zeros(probs.shape, dtype=bool)
    for x in range(len(probs)):
        row = table[x // action_count]
        if len(row) != action_count:
            raise ConfigError(f"actions: {dict(actions)} make {action_count} actions, but the table has {len(row)}")
        where = describe({**states, **actions}, x)
        for probability, state, *result in row[x % action_count]:
            if not 0 <= state < state_count:
                raise ConfigError(f"table: at {where} next state {state} is none of the {state_count} states")
            if probability == 0:
                continue
            have, new = (float(reward[x, state]), bool(terminal[x, state])), (float(result[0]), bool(result[1]))
            if probs[x, state] != 0 and new != have:
                raise ConfigError(
                    f"table: at {where}, next {describe(states, state)} expected one (reward, terminated), got {have} "
                    f"and {new}; give what tells them apart a state variable"
                )
            probs[x, state] += probability
            reward[x, state], terminal[x, state] = new
        require_probs(f"table: at {where}", probs[x])
    return probs, reward, terminal


def _smallest(array: np.ndarray, possible: Bool[np.ndarray, "x s"]) -> np.ndarray:
    """Say the same of all possible moves in the smallest shape: (x,), else (1, s), else (x, s) as it was."""
    for axis in (1, 0):
        first = np.take_along_axis(array, np.expand_dims(possible.argmax(axis), axis), axis)
        if ((array == first) | ~possible).all():
            return first[:, 0] if axis == 1 else first
    return array


def _dependent(probs: Float[np.ndarray, "..."], margins: Sequence[Float[np.ndarray, " _"]]) -> Sequence[int]:
    """Give the first two variables that are dependent, or all if no two are."""
    for pair in combinations(range(probs.ndim), 2):
        both = probs.sum(axis=tuple(set(range(probs.ndim)) - set(pair)))
        if np.abs(both - np.outer(*(margins[j] for j in pair))).max() > TOLERANCE:
            return pair
    return range(probs.ndim)


def _require_outcome(name: str, array: np.ndarray, x: int, s: int) -> None:
    if array.shape not in ((x,), (1, s), (x, s)):
        raise ConfigError(
            f"{name}: the variables' sizes ask for shape {(x,)}, or {(1, s)} if it depends on the next state alone, "
            f"or {(x, s)} if on both; got {array.shape}"
        )


def _require_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ConfigError(f"{name}: the variables' sizes ask for shape {shape}, got {array.shape}")
