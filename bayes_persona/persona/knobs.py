"""What can be turned when an adapted pipeline makes a picture: gates, an adapter's own knobs, and guidance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.errors import ConfigError

GUIDANCE = "guidance"
"""The knob that every pipeline has."""


@dataclass(frozen=True)
class Knob:
    """One thing to turn, and the places that it may be turned to.

    Raises:
        ConfigError: If there are fewer than two places.

    >>> Knob("mid", (0.0, 1.0), gates=("mid.key", "mid.value")).values
    (0.0, 1.0)
    """

    name: str
    """`guidance`, a knob of the adapter, or whatever its gates together are called."""
    values: tuple[float, ...]
    """Its places."""
    gates: tuple[str, ...] = ()
    """The adapter's gates that it sets, all alike."""

    def __post_init__(self):
        if len(set(self.values)) < 2:
            raise ConfigError(f"{self.name}: expected at least two different places, got {list(self.values)}")


class Turned(NamedTuple):
    """An adapter with its knobs turned, values of its gates, and guidance if a knob says so.

    >>> Turned(None, {"embedding": 0.5}, None).gates
    {'embedding': 0.5}
    """

    adapter: Any
    gates: dict[str, float]
    guidance: float | None


def turned(adapter: Adapter, knobs: Sequence[Knob], places: Sequence[int] | np.ndarray) -> Turned:
    """Turn knobs.

    Args:
        adapter: Whose.
        knobs: What to turn.
        places: For each knob the number of its place.

    Raises:
        ConfigError: If the adapter has no such gate or knob, or there are not as many places as knobs.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> found = turned(LowRank(Subject("robot")), [Knob("scale", (0.5, 1.0)), Knob("guidance", (1.0, 3.0))], [0, 1])
    >>> found.adapter.scale, found.guidance
    (0.5, 3.0)
    """
    require(adapter, knobs)
    if len(places) != len(knobs) or any(not 0 <= k < len(knob.values) for k, knob in zip(places, knobs, strict=False)):
        sizes = {knob.name: len(knob.values) for knob in knobs}
        raise ConfigError(f"places: expected one of each of {sizes}, got {list(map(int, places))}")
    gates, own, guidance = {}, {}, None
    for knob, place in zip(knobs, places, strict=True):
        value = float(knob.values[place])
        if knob.gates:
            gates |= dict.fromkeys(knob.gates, value)
        elif knob.name == GUIDANCE:
            guidance = value
        else:
            own[knob.name] = value
    return Turned(replace(adapter, **own) if own else adapter, gates, guidance)  # pyright: ignore[reportArgumentType]


def require(adapter: Adapter, knobs: Sequence[Knob]) -> None:
    """Check that an adapter has these knobs.

    Raises:
        ConfigError: If it has not, or two are called the same.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> require(LowRank(Subject("robot")), [Knob("beta", (0.5, 1.0))])
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: beta: low_rank has no such knob; it has scale, guidance
    """
    names = [knob.name for knob in knobs]
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"knobs: expected some, all of different names, got {names}")
    for knob in knobs:
        if strange := sorted(set(knob.gates) - set(adapter.gates)):
            raise ConfigError(
                f"{knob.name}: {adapter.method} has no gate {strange[0]}; it has {', '.join(adapter.gates)}"
            )
        if not knob.gates and knob.name != GUIDANCE and knob.name not in adapter.knobs:
            have = ", ".join([*adapter.knobs, GUIDANCE])
            raise ConfigError(f"{knob.name}: {adapter.method} has no such knob; it has {have}")


def usual(adapter: Adapter, guidance: Sequence[float] = (1.5, 3.0, 5.0)) -> tuple[Knob, ...]:
    """Give what there is to turn on an adapter: its gates by third of the U-Net, its own knobs, and guidance.

    Args:
        adapter: Whose.
        guidance: The places of guidance; Stable Diffusion wants about (4, 7.5, 11).

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> [knob.name for knob in usual(LowRank(Subject("robot")))]
    ['down', 'mid', 'up', 'scale', 'guidance']
    """
    return (*gates(adapter), *own(adapter), Knob(GUIDANCE, tuple(guidance)))


def gates(adapter: Adapter, depth: int = 1) -> tuple[Knob, ...]:
    """Give knobs that open (1) and shut (0) gates.

    Args:
        adapter: Whose.
        depth: How many words of gates' names are told apart: 1 turns all of a third of the U-Net together.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> [knob.name for knob in gates(LowRank(Subject("robot")), depth=2)][:3]
    ['down.self', 'down.cross', 'mid.self']
    """
    groups: dict[str, list[str]] = {}
    for gate in adapter.gates:
        groups.setdefault(".".join(gate.split(".")[:depth]), []).append(gate)
    return tuple(Knob(name, (0.0, 1.0), tuple(members)) for name, members in groups.items())


def own(adapter: Adapter) -> tuple[Knob, ...]:
    """Give an adapter's own knobs: half way down, where it is, and half way up.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> own(LowRank(Subject("robot")))[0].values
    (0.5, 1.0, 1.25)
    """
    found = []
    for name, (low, high) in adapter.knobs.items():
        now = float(getattr(adapter, name))
        values = sorted({(low + now) / 2, now, (now + high) / 2})
        if len(values) > 1:
            found.append(Knob(name, tuple(values)))
    return tuple(found)


def start(adapter: Adapter, knobs: Sequence[Knob], guidance: float = 3.0) -> tuple[int, ...]:
    """Give the places of an adapter as it is: gates open, knobs where they are, guidance as near as there is.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> robot = LowRank(Subject("robot"))
    >>> start(robot, usual(robot))
    (1, 1, 1, 1, 1)
    """
    places = []
    for knob in knobs:
        now = 1.0 if knob.gates else guidance if knob.name == GUIDANCE else float(getattr(adapter, knob.name))
        places.append(int(np.argmin([abs(value - now) for value in knob.values])))
    return tuple(places)


def settings(knobs: Sequence[Knob]) -> int:
    """Count the settings of all knobs together.

    >>> settings([Knob("scale", (0.5, 1.0)), Knob("guidance", (1.0, 3.0, 5.0))])
    6
    """
    return math.prod(len(knob.values) for knob in knobs)


def described(knobs: Sequence[Knob], places: Sequence[int] | np.ndarray) -> dict[str, float]:
    """Say in numbers where knobs are.

    >>> described([Knob("guidance", (1.0, 3.0))], [1])
    {'guidance': 3.0}
    """
    return {knob.name: float(knob.values[place]) for knob, place in zip(knobs, places, strict=True)}


def as_json(knobs: Sequence[Knob]) -> list[Mapping[str, Any]]:
    """Give knobs as plain values.

    >>> as_json([Knob("guidance", (1.0, 3.0))])
    [{'name': 'guidance', 'values': [1.0, 3.0], 'gates': []}]
    """
    return [{"name": knob.name, "values": list(knob.values), "gates": list(knob.gates)} for knob in knobs]
