"""Factored worlds: what an agent may know of one, and the truth that it is measured against.

x is a setting of the state variables, then of the action variables; y is the next setting of the state variables,
whose names then carry a prime. Given x they are independent: p(y | x) = Π_j p_j(y_j | x[parents of j]). Everywhere in
this room settings are numbered with the first variable as the most significant digit, as `np.ravel_multi_index` does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from bayes_persona.errors import ConfigError

TOLERANCE = 1e-9
"""Probabilities closer than this are the same."""

Table = Mapping[int, Mapping[int, Sequence[tuple]]]
"""`P[state][action]` of Gymnasium's toy worlds: lists of (probability, next state, reward, terminated)."""


@dataclass(frozen=True, eq=False)
class FactoredSpec:
    """A factored world. All but `factors` (and so `parents`) is known to every agent.

    Raises:
        ConfigError: If names repeat, an array has the wrong size, or a number is not a reward or probability.

    >>> spec = lamp()
    >>> spec.outputs, spec.parents
    ({"lamp'": 2}, {"lamp'": ('lamp', 'switch')})
    """

    states: Mapping[str, int]
    """Name and number of values of each state variable."""
    actions: Mapping[str, int]
    """Name and number of values of each action variable."""
    reward: Float[np.ndarray, " x"]
    """r(x)."""
    terminal: Bool[np.ndarray, " x"]
    """Whether the episode ends after x."""
    initial: Float[np.ndarray, " s"]
    """The law of the first state."""
    factors: tuple[Float[np.ndarray, "x _"], ...]
    """The truth, p_j(y_j | x) for each next-state variable: only to measure an agent with."""

    def __post_init__(self):
        names = [*self.states, *self.actions, *self.outputs]
        if len(set(names)) < len(names):
            raise ConfigError(f"names: {names} are not all different; rename one")
        if len(self.factors) != len(self.outputs):
            raise ConfigError(f"factors: expected one for each of {list(self.outputs)}, got {len(self.factors)}")
        x = self.state_count * self.action_count
        _require_shape("reward", self.reward, (x,))
        _require_shape("terminal", self.terminal, (x,))
        if not np.isfinite(self.reward).all():
            where = describe(self.inputs, int((~np.isfinite(self.reward)).argmax()))
            raise ConfigError(f"reward: at {where} expected a finite number, got NaN or infinity")
        _require_shape("initial", self.initial, (self.state_count,))
        _require_probs("initial", self.initial)
        for (name, size), factor in zip(self.outputs.items(), self.factors, strict=True):
            _require_shape(f"factor {name}", factor, (x, size))
            _require_probs(f"factor {name}", factor)

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
    """Give the factored spec of a Gymnasium environment, whatever wrappers are around it.

    Raises:
        ConfigError: If the environment does not say how it is factored.

    >>> import bayes_persona_envs, gymnasium
    >>> spec_of(gymnasium.make("bayes_persona/Taxi-v0")).parents["row'"]
    ('row', 'action')
    """
    world = env.unwrapped
    if not isinstance(world, FactoredEnv):
        raise ConfigError(f"env: {world} has no fmdp_spec(); cpsrl.env.from_table makes one from a table")
    return world.fmdp_spec()


def from_table(
    states: Mapping[str, int], actions: Mapping[str, int], table: Table, initial: Float[np.ndarray, " s"]
) -> FactoredSpec:
    """Find the factors of a tabular world, and refuse it if it has none.

    Args:
        states: Name and size of each state variable; states are numbered with the first as the most significant digit.
        actions: Name and size of each action variable, numbered likewise.
        table: `table[state][action]` lists (probability, next state, reward, terminated).
        initial: The law of the first state.

    Raises:
        ConfigError: If the sizes do not fit the table, probabilities do not sum to 1, reward or termination depends on
            more than state and action, or two next-state variables are dependent given state and action.

    >>> coins = {s: {0: [(0.5, 0, 0.0, False), (0.5, 3, 0.0, False)]} for s in range(4)}  # both fall alike
    >>> from_table({"a": 2, "b": 2}, {"toss": 1}, coins, np.full(4, 0.25))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: table: a' and b' are not independent given a=0, b=0, toss=0; merge these \
variables into one, or take away what couples them
    """
    probs, reward, terminal = _dense(states, actions, table)
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
    """Give p(s' | x), r(x) and terminal(x) as arrays, after checking that the table is no more than that."""
    state_count, action_count = math.prod(states.values()), math.prod(actions.values())
    if len(table) != state_count:
        raise ConfigError(f"states: {dict(states)} make {state_count} states, but the table has {len(table)}")
    probs = np.zeros((state_count * action_count, state_count))
    reward, terminal = np.zeros(len(probs)), np.zeros(len(probs), dtype=bool)
    for x in range(len(probs)):
        row = table[x // action_count]
        if len(row) != action_count:
            raise ConfigError(f"actions: {dict(actions)} make {action_count} actions, but the table has {len(row)}")
        moves = [move for move in row[x % action_count] if move[0] != 0]
        where = describe({**states, **actions}, x)
        outcomes = {(float(move[2]), bool(move[3])) for move in moves}
        if len(outcomes) != 1:
            raise ConfigError(
                f"table: at {where} expected one (reward, terminated), got {sorted(outcomes)}; "
                "both may depend on state and action only"
            )
        reward[x], terminal[x] = outcomes.pop()
        for probability, state, *_ in moves:
            if not 0 <= state < state_count:
                raise ConfigError(f"table: at {where} next state {state} is none of the {state_count} states")
            probs[x, state] += probability
        _require_probs(f"table: at {where}", probs[x])
    return probs, reward, terminal


def _dependent(probs: Float[np.ndarray, "..."], margins: Sequence[Float[np.ndarray, " _"]]) -> Sequence[int]:
    """Give the first two variables that are dependent, or all if no two are."""
    for pair in combinations(range(probs.ndim), 2):
        both = probs.sum(axis=tuple(set(range(probs.ndim)) - set(pair)))
        if np.abs(both - np.outer(*(margins[j] for j in pair))).max() > TOLERANCE:
            return pair
    return range(probs.ndim)


def _require_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ConfigError(f"{name}: the variables' sizes ask for shape {shape}, got {array.shape}")


def _require_probs(name: str, probs: np.ndarray) -> None:
    if not (probs.min() >= 0 and np.abs(probs.sum(axis=-1) - 1).max() <= TOLERANCE):
        raise ConfigError(f"{name}: expected probabilities that sum to 1")
