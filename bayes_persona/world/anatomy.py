"""Where things are on a figure: what body parts and accessories must agree on.

Coordinates are the subject's own: the head's centre is the origin, and 1 is half a picture. Left and right are the
viewer's.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bayes_persona.world.canvas import Number, Pen, oval
from bayes_persona.world.facts import Colour, Look

TURN = 0.27
"""How far a face moves when the head turns, in half widths of the face."""
EDGE = 0.028
"""How wide the darker rim around heads, hair and clothes is: just under a pixel."""


class Act(NamedTuple):
    """What a subject does: the numbers of its expression, where its face points (-1, 0, 1), and what it wears.

    >>> Act({"mouth_open": 0.1}, yaw=-1.0, clothing=(0, 0, 255)).yaw
    -1.0
    """

    mood: dict[str, float]
    yaw: float
    clothing: Colour


Part = Callable[[Pen, Look, Act], None]
"""Draws one part of a subject, given who it is and what it does."""


def turned(look: Look, act: Act, depth: float = 1.0) -> float:
    """Give how far to the right the turn of the head takes a thing: a nose further than eyes, ears the other way.

    >>> round(turned(Look({"face_width": 0.4}, {}), Act({}, yaw=1.0, clothing=(0, 0, 0)), depth=0.5), 3)
    0.054
    """
    return act.yaw * TURN * depth * look.numbers["face_width"]


def crown_of(look: Look) -> float:
    """Give the height where the head ends, hair included: hats sit there.

    >>> crown_of(Look({"face_height": 0.5, "hair_height": 0.25}, {}))
    -0.75
    """
    return -look.numbers["face_height"] - look.numbers["hair_height"]


def eye_places(look: Look, act: Act) -> list[tuple[int, float, float]]:
    """Give side, x and half width of both eyes; the far one of a turned head is narrower and closer.

    >>> look = Look({"eye_spacing": 0.5, "face_width": 0.4, "eye_size": 0.1}, {})
    >>> eye_places(look, Act({}, yaw=0.0, clothing=(0, 0, 0)))
    [(-1, -0.2, 0.1), (1, 0.2, 0.1)]
    """
    near = {side: 1.0 - 0.16 * max(act.yaw * side, 0.0) for side in (-1, 1)}
    apart = look.numbers["eye_spacing"] * look.numbers["face_width"] * (1.0 - 0.1 * abs(act.yaw))
    return [
        (side, side * apart * near[side] + turned(look, act), look.numbers["eye_size"] * near[side]) for side in (-1, 1)
    ]


def ring(x: Number, y: Number, width: Number, height: Number, thick: Number) -> Float[np.ndarray, "corners 2"]:
    """Give an ellipse with a hole, by its centre, outer half sizes and thickness.

    >>> ring(0, 0, 1, 1, 0.2).shape
    (66, 2)
    """
    outer, inner = oval(x, y, width, height), oval(x, y, width - thick, height - thick)
    return np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])


def darker(colour: Colour, share: float = 0.7) -> Colour:
    """Give the colour of a rim or a shadow.

    >>> darker((100, 200, 0), 0.5)
    (50, 100, 0)
    """
    red, green, blue = (round(channel * share) for channel in colour)
    return red, green, blue
