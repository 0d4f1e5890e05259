"""What there is in the world: superclasses, identity factors and attribute values, read from the JSON in `data/`.

A superclass is an entry of `data/subjects.json`: the parts it is drawn with, in order, and its *look*, the numbers and
colours that the parts ask for. A value of a look is a constant, or a ramp `[factor, stop, stop, …]` that an identity
factor in [0, 1] walks along. So the factors that show in a superclass are those its look mentions, and a new superclass
is a new entry.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from bayes_persona.errors import ConfigError

Colour = tuple[int, int, int]

_WHERE = {"expression": "expressions", "pose": "poses", "clothing": "clothing", "accessory": "accessories"}
ATTRIBUTES = (*_WHERE, "background")
"""What a caption sets; all else is identity (who) or chance (the seed)."""


class Look(NamedTuple):
    """The numbers and colours that the parts of one subject are drawn with.

    >>> look("robot", (0.0,) * len(factors())).colours["hair"]  # the antennae's
    (224, 58, 48)
    """

    numbers: dict[str, float]
    colours: dict[str, Colour]


@cache
def table(name: str) -> Mapping[str, Any]:
    """Give one of the JSON files: `"subjects"`, `"backgrounds"`, `"captions"` or `"names"`. Read it, never write to it.

    >>> sorted(table("names"))
    ['first', 'last']
    """
    return json.loads((files("bayes_persona.world") / "data" / f"{name}.json").read_text(encoding="utf-8"))


def superclasses() -> tuple[str, ...]:
    """Name the kinds of subject.

    >>> superclasses()
    ('man', 'woman', 'cat', 'robot')
    """
    return tuple(table("subjects")["superclasses"])


def factors() -> tuple[str, ...]:
    """Name the coordinates of an identity; each lies in [0, 1].

    >>> len(factors()), factors()[:2]
    (12, ('coat', 'crest colour'))
    """
    return tuple(table("subjects")["factors"])


def visible(superclass: str) -> tuple[str, ...]:
    """Name the factors that show in a superclass: what can be recovered from its pictures, and the only fair score.

    >>> set(factors()) - set(visible("robot"))
    {'nose size'}
    """
    ramps = _kind(superclass)["look"].values()
    shown = {ramp[0] for ramp in ramps if isinstance(ramp, list)}
    return tuple(factor for factor in factors() if factor in shown)


def choices(attribute: str) -> tuple[str, ...]:
    """Name the values of one attribute, in a fixed order: an index into them is a class label.

    Raises:
        ConfigError: If there is no such attribute.

    >>> choices("pose")
    ('left', 'front', 'right')
    """
    require_choice("attribute", attribute, ATTRIBUTES)
    if attribute == "background":
        return tuple(table("backgrounds"))
    return tuple(table("subjects")[_WHERE[attribute]])


def parts(superclass: str) -> tuple[str, ...]:
    """Name the parts that a superclass is drawn with, from the back to the front.

    >>> parts("cat")[:3]
    ('body', 'pointed ears', 'head')
    """
    return tuple(_kind(superclass)["parts"])


def look(superclass: str, z: Sequence[float]) -> Look:
    """Walk every ramp of a superclass to where an identity is.

    Args:
        superclass: One of `superclasses()`.
        z: One number in [0, 1] for each of `factors()`.

    >>> round(look("cat", (0.5,) * len(factors())).numbers["ear_size"], 3)
    0.32
    """
    place = dict(zip(factors(), z, strict=True))
    numbers, colours = {}, {}
    for name, value in _kind(superclass)["look"].items():
        ramp, at = (value[1:], place[value[0]]) if isinstance(value, list) else ([value], 0.0)
        if isinstance(ramp[0], str):
            colours[name] = blend([rgb(stop) for stop in ramp], at)
        else:
            numbers[name] = ramp[0] + at * (ramp[-1] - ramp[0])
    return Look(numbers, colours)


@cache
def rgb(code: str) -> Colour:
    """Read a colour.

    >>> rgb("#ff8000")
    (255, 128, 0)
    """
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def blend(stops: Sequence[Colour], at: float) -> Colour:
    """Give the colour at a place in [0, 1] along evenly spaced stops.

    >>> blend([(0, 0, 0), (100, 0, 0), (100, 200, 0)], 0.75)
    (100, 100, 0)
    """
    step = min(int(at * (len(stops) - 1)), max(len(stops) - 2, 0))
    share = at * (len(stops) - 1) - step
    low, high = stops[step], stops[min(step + 1, len(stops) - 1)]
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def require_choice(field: str, value: str, among: Sequence[str]) -> None:
    """Refuse a value that is not among the choices, and list them.

    >>> require_choice("pose", "up", choices("pose"))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: pose: there is no 'up'; choose from left, front, right
    """
    if value not in among:
        raise ConfigError(f"{field}: there is no {value!r}; choose from {', '.join(among)}")


def _kind(superclass: str) -> Mapping[str, Any]:
    require_choice("superclass", superclass, superclasses())
    return table("subjects")["superclasses"][superclass]
