"""Factored worlds kept as small tables, one for each next variable over its own parents: as large as you like.

A `FactoredSpec` lists every setting of all variables; a `LocalSpec` never does, so a world of forty machines (10¹²
states) moves as easily as one of four. Priors of graphs and what is learned of them need no more of a world than this;
`mcts` plans in it. Many copies move at once: a row of each array is one copy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from bayes_persona.cpsrl.env import FactoredSpec, joint, outermost
from bayes_persona.cpsrl.variables import TOLERANCE, Variables, require_probs
from bayes_persona.errors import ConfigError

SETTINGS = 20_000
"""The most settings of state and action that `LocalSpec.dense` lists."""
CERTAIN = 1 - 1e-12
"""A cumulative probability above this is 1, so that what cannot happen does not, whatever the rounding."""


class Local(NamedTuple):
    """A table over few variables: of the law of one next variable (its last axis), or of a number.

    >>> Local(("switch",), np.eye(2)).table.shape  # settings of the switch, values of the lamp
    (2, 2)
    """

    parents: tuple[str, ...]
    table: np.ndarray


@dataclass(frozen=True, eq=False)
class LocalSpec(Variables):
    """A factored world in local tables. All but `factors` (and so `parents`) is known to every agent.

    Raises:
        ConfigError: If names repeat, a variable has too few values, or a table does not fit its variables or holds
            other things than probabilities, finite rewards and yes or no.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> world = LocalSpec.of(lamp())
    >>> world.move(np.array([[0, 1], [1, 1]]), np.array([[0.5], [0.5]])).tolist()  # switched, in two copies
    [[1], [0]]
    """

    factors: tuple[Local, ...]
    """The law of each next variable given its parents among states and actions: shape (values of each parent, its own
    values)."""
    rewards: tuple[Local, ...]
    """What a move earns is their sum. Parents are states, actions and next states (primed)."""
    ends: tuple[Local, ...]
    """A move ends the episode if any of these says so. Parents as for rewards."""
    initial: Float[np.ndarray, " s"] | tuple[Float[np.ndarray, " _"], ...]
    """The law of the first state, or, if its variables are independent, one of each."""

    def __post_init__(self):
        super().__post_init__()
        if len(self.factors) != len(self.states):
            raise ConfigError(f"factors: expected one for each of {list(self.states)}, got {len(self.factors)}")
        for (name, size), local in zip(self.outputs.items(), self.factors, strict=True):
            _require_fit(f"factor {name}", local, self.inputs, size)
            require_probs(f"factor {name}", local.table)
        for what, tables in {"rewards": self.rewards, "ends": self.ends}.items():
            for number, local in enumerate(tables):
                _require_fit(f"{what}: table {number}", local, {**self.inputs, **self.outputs})
        if any(table.dtype != bool for _, table in self.ends):
            raise ConfigError("ends: expected tables of yes or no (bool)")
        if not all(np.isfinite(table).all() for _, table in self.rewards):
            raise ConfigError("rewards: expected finite numbers, got NaN or infinity")
        self._require_initial()

    def _require_initial(self) -> None:
        laws = self.initial if isinstance(self.initial, tuple) else (self.initial,)
        sizes = list(self.states.values()) if isinstance(self.initial, tuple) else [self.state_count]
        if [len(law) for law in laws] != sizes:
            raise ConfigError(
                f"initial: expected a law of {dict(self.states)}, got {[len(law) for law in laws]} values"
            )
        for law in laws:
            require_probs("initial", law)

    @classmethod
    def of(cls, spec: FactoredSpec) -> "LocalSpec":
        """Give a listed world in local tables: each next variable's over its true parents.

        >>> from bayes_persona.cpsrl.env import lamp
        >>> LocalSpec.of(lamp()).factors[0].parents
        ('lamp', 'switch')
        """
        sizes = list(spec.inputs.values())
        factors = []
        for parents, factor in zip(spec.parents.values(), spec.factors, strict=True):
            kept = tuple(slice(None) if name in parents else 0 for name in spec.inputs)
            factors.append(Local(parents, factor.reshape(*sizes, -1)[kept]))
        reward, terminal = (_number(spec, array) for array in (spec.reward, spec.terminal))
        return cls(spec.states, spec.actions, tuple(factors), (reward,), (terminal,), spec.initial)

    @cached_property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """The truth: the inputs that make a difference to each output, for some setting of the other inputs."""
        causes = {}
        for output, (names, table) in zip(self.outputs, self.factors, strict=True):
            matter = {name for axis, name in enumerate(names) if np.ptp(table, axis=axis).max() > TOLERANCE}
            causes[output] = tuple(name for name in self.inputs if name in matter)
        return causes

    @cached_property
    def span(self) -> float:
        """A bound on the difference between what two moves earn."""
        return float(sum(np.ptp(table) for _, table in self.rewards))

    @property
    def first_draws(self) -> int:
        """How many uniform numbers a first state is made from."""
        return len(self.initial) if isinstance(self.initial, tuple) else 1

    def first(self, uniforms: Float[np.ndarray, "copies draws"]) -> Int[np.ndarray, "copies states"]:
        """Give first states, each from `first_draws` uniform numbers."""
        laws = self.initial if isinstance(self.initial, tuple) else (self.initial,)
        drawn = [
            np.searchsorted(_rising(law), numbers, side="right") for law, numbers in zip(laws, uniforms.T, strict=True)
        ]
        if isinstance(self.initial, tuple):
            return np.stack(drawn, axis=1)
        return np.stack(np.unravel_index(drawn[0], list(self.states.values())), axis=1)

    def move(
        self, before: Int[np.ndarray, "copies inputs"], uniforms: Float[np.ndarray, "copies states"]
    ) -> Int[np.ndarray, "copies states"]:
        """Give next states, from settings of state and action and one uniform number for each next variable."""
        return (uniforms[..., None] >= self._laws.read(before)).sum(axis=-1)

    def earned(
        self, before: Int[np.ndarray, "copies inputs"], after: Int[np.ndarray, "copies states"]
    ) -> Float[np.ndarray, " copies"]:
        """Give what moves earned."""
        return self._earned.read(np.concatenate([before, after], axis=1)).sum(axis=(1, 2)).astype(float)

    def ended(
        self, before: Int[np.ndarray, "copies inputs"], after: Int[np.ndarray, "copies states"]
    ) -> Bool[np.ndarray, " copies"]:
        """Say which moves ended their episode."""
        if not self.ends:
            return np.zeros(len(before), dtype=bool)
        return np.asarray(self._ended.read(np.concatenate([before, after], axis=1)).any(axis=(1, 2)))

    def dense(self) -> FactoredSpec:
        """List the world for every setting of all variables.

        Raises:
            ConfigError: If there are more than `SETTINGS` of them.

        >>> from bayes_persona.cpsrl.env import lamp
        >>> LocalSpec.of(lamp()).dense().reward.tolist()
        [0.0, 0.0, 1.0, 1.0]
        """
        count = math.prod(self.inputs.values())
        if count > SETTINGS:
            raise ConfigError(
                f"dense: the variables have {count:,} settings, more than the {SETTINGS:,} that can be listed; "
                "plan with cpsrl.mcts, or make the world smaller"
            )
        factors = tuple(_spread(local, self.inputs).reshape(count, -1).astype(float) for local in self.factors)
        reward = self._listed(self.rewards).sum(axis=0).astype(float)
        terminal = np.asarray(self._listed(self.ends).any(axis=0))
        whole = self.initial
        law = joint([part[None] for part in whole])[0] if isinstance(whole, tuple) else whole
        return FactoredSpec(self.states, self.actions, reward, terminal, law, factors)

    @cached_property
    def _laws(self) -> "_Stack":
        width = max(self.states.values()) - 1
        steps = []
        for parents, table in self.factors:
            rising = _rising(table).reshape(-1, table.shape[-1] - 1)
            steps.append((parents, np.pad(rising, ((0, 0), (0, width - rising.shape[1])), constant_values=1.0)))
        return _stack(self.inputs, steps)

    @cached_property
    def _earned(self) -> "_Stack":
        return _stack({**self.inputs, **self.outputs}, [(names, table.reshape(-1, 1)) for names, table in self.rewards])

    @cached_property
    def _ended(self) -> "_Stack":
        return _stack({**self.inputs, **self.outputs}, [(names, table.reshape(-1, 1)) for names, table in self.ends])

    def _listed(self, numbers: Sequence[Local]) -> np.ndarray:
        """Give each table in the smallest of a spec's shapes that holds all: f(x), f(y) in one row, or f(x, y)."""
        named = {name for parents, _ in numbers for name in parents}
        if named <= self.inputs.keys():
            variables, shape = self.inputs, (-1,)
        elif named <= self.outputs.keys():
            variables, shape = self.outputs, (1, -1)
        else:
            variables, shape = {**self.inputs, **self.outputs}, (math.prod(self.inputs.values()), -1)
        nothing = Local((), np.zeros((), dtype=np.result_type(*(table for _, table in numbers), bool)))
        return np.stack([_spread(local, variables).reshape(shape) for local in (nothing, *numbers)])


World = FactoredSpec | LocalSpec
"""A factored world, listed or in local tables: whatever a graph can be about."""


@runtime_checkable
class LocalEnv(Protocol):
    """A Gymnasium environment, its observations `MultiDiscrete`, that says how it is factored in local tables.

    >>> import bayes_persona_envs, gymnasium
    >>> isinstance(gymnasium.make("bayes_persona/Taxi-v0").unwrapped, LocalEnv)
    True
    """

    def local_spec(self) -> LocalSpec:
        """Give what an agent may know, and the truth."""
        ...


def spec_of(env: Any) -> LocalSpec:
    """Give the local tables of a Gymnasium environment, those of the outermost wrapper that has some.

    Raises:
        ConfigError: If the environment has none.

    >>> import bayes_persona_envs, gymnasium
    >>> spec_of(gymnasium.make("bayes_persona/SysAdmin-v0", machines=40)).state_count
    1099511627776
    """
    what = "local_spec(), which says how it is factored in local tables"
    return outermost(env, LocalEnv, what).local_spec()


class _Stack(NamedTuple):
    """Tables in one: row `starts[i] + setting @ strides[:, i]` is that of table i."""

    strides: Int[np.ndarray, "variables tables"]
    starts: Int[np.ndarray, " tables"]
    rows: np.ndarray

    def read(self, settings: Int[np.ndarray, "copies variables"]) -> np.ndarray:
        """Give the row of each table, for each copy."""
        return self.rows[settings @ self.strides + self.starts]


def _stack(variables: Mapping[str, int], tables: Sequence[tuple[tuple[str, ...], np.ndarray]]) -> _Stack:
    names = list(variables)
    strides = np.zeros((len(names), len(tables)), dtype=int)
    for number, (parents, _) in enumerate(tables):
        stride = 1
        for name in reversed(parents):
            strides[names.index(name), number] = stride
            stride *= variables[name]
    heights = [len(rows) for _, rows in tables]
    starts = np.cumsum([0, *heights])[:-1]
    return _Stack(strides, starts, np.concatenate([rows for _, rows in tables]) if tables else np.zeros((0, 1)))


def _rising(law: np.ndarray) -> np.ndarray:
    """Give where the uniform numbers of one value end and those of the next begin."""
    rising = np.cumsum(law, axis=-1)[..., :-1]
    return np.where(rising > CERTAIN, 1.0, rising)  # no uniform number is as large as 1


def _spread(local: Local, variables: Mapping[str, int]) -> np.ndarray:
    """Repeat a table for every setting of the variables that it does not depend on, and put all in their order."""
    names = [name for name in variables if name in local.parents]
    values = local.table.shape[len(local.parents) :]  # of a law, none of a number
    axes = [local.parents.index(name) for name in names]
    table = np.transpose(local.table, [*axes, *range(len(axes), local.table.ndim)])
    table = table.reshape(*(size if name in local.parents else 1 for name, size in variables.items()), *values)
    return np.broadcast_to(table, (*variables.values(), *values))


def _number(spec: FactoredSpec, array: np.ndarray) -> Local:
    """Give a spec's reward or end as a table over the variables that its shape names."""
    before = {} if array.ndim == 2 and len(array) == 1 else spec.inputs
    variables = {**before, **({} if array.ndim == 1 else spec.outputs)}
    return Local(tuple(variables), array.reshape(list(variables.values())))


def _require_fit(what: str, local: Local, variables: Mapping[str, int], *values: int) -> None:
    strange = [name for name in local.parents if name not in variables]
    if strange:
        raise ConfigError(f"{what}: {strange[0]!r} is none of the variables {list(variables)}")
    if len(set(local.parents)) < len(local.parents):
        raise ConfigError(f"{what}: the parents {list(local.parents)} are not all different; name each once")
    shape = (*(variables[name] for name in local.parents), *values)
    if local.table.shape != shape:
        raise ConfigError(f"{what}: its variables' sizes ask for shape {shape}, got {local.table.shape}")
