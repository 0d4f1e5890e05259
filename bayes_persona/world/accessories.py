"""What subjects wear on their heads: drawn like body parts, after all of them.

Their colours are their own, so that a caption's "hat" is the same for everybody; where they sit is the identity's.
"""

import numpy as np

from bayes_persona.world.anatomy import EDGE, Act, Part, crown_of, eye_places, ring, turned
from bayes_persona.world.canvas import Pen, arch, box, line, oval, polygon
from bayes_persona.world.facts import Look, rgb


def accessory(name: str) -> Part:
    """Give the accessory of a name.

    >>> accessory("hat").__name__
    '_hat'
    """
    return _ACCESSORIES[name]


def _glasses(pen: Pen, look: Look, act: Act) -> None:
    frame, y = (30, 30, 36), look.numbers["eye_height"] * look.numbers["face_height"]
    for side, x, width in eye_places(look, act):
        pen.fill(ring(x, y, width + 0.065, look.numbers["eye_size"] + 0.065, 0.04), frame)
        pen.fill(line((x + side * (width + 0.06), y), (side * look.numbers["face_width"], y - 0.03), 0.04), frame)
    (_, left, width), (_, right, other) = eye_places(look, act)
    pen.fill(line((left + width, y), (right - other, y), 0.045), frame)


def _hat(pen: Pen, look: Look, act: Act) -> None:
    x, y, width = turned(look, act, 0.3), crown_of(look) + 0.1, look.numbers["face_width"]
    pen.fill(oval(x, y - 0.12, width * 0.54, 0.2, 0.4, 0.4), rgb("#1f6f78"))
    pen.fill(box(x, y - 0.03, width * 0.54, 0.05), rgb("#f2c14e"))
    pen.fill(oval(x, y + 0.03, width * 0.88, 0.06), rgb("#174f57"))


def _crown(pen: Pen, look: Look, act: Act) -> None:
    x, y, width = turned(look, act, 0.3), crown_of(look) + 0.1, look.numbers["face_width"] * 0.68
    teeth = [(x + width * step / 3, y - (0.26 if step % 2 else 0.12)) for step in range(-3, 4)]
    for grow, colour in ((EDGE, rgb("#a8741a")), (0.0, rgb("#ffd23f"))):
        points = polygon((x - width, y), *teeth, (x + width, y))
        middle = points.mean(axis=0)
        pen.fill(middle + (points - middle) * (1 + grow * 3), colour)
    for step in (-1, 0, 1):
        pen.fill(oval(x + step * width * 0.55, y - 0.06, 0.035, 0.035), rgb("#d7263d"))


def _headphones(pen: Pen, look: Look, act: Act) -> None:
    width, top = look.numbers["face_width"] + 0.07, crown_of(look)
    band = np.concatenate([arch(0, 0, width + 0.03, 0.05 - top), arch(0, 0, width - 0.06, -0.04 - top)[::-1]])
    pen.fill(band, rgb("#2b2d42"))
    for side in (-1, 1):
        x = side * width - turned(look, act, 0.15)
        pen.fill(oval(x, 0.03, 0.11, 0.17, 0.65, 0.65), rgb("#2b2d42"))
        pen.fill(oval(x, 0.03, 0.065, 0.12, 0.65, 0.65), rgb("#ef476f"))


def _flower(pen: Pen, look: Look, act: Act) -> None:
    x = 0.72 * look.numbers["face_width"] + turned(look, act, 0.2)
    y = -0.78 * look.numbers["face_height"]
    for petal in np.linspace(0, 2 * np.pi, 6)[:-1]:
        px, py = x + 0.095 * np.cos(petal), y + 0.095 * np.sin(petal)
        pen.fill(oval(px, py, 0.085, 0.085), rgb("#ff7ac0"))
    pen.fill(oval(x, y, 0.07, 0.07), rgb("#ffd23f"))


_ACCESSORIES: dict[str, Part] = {
    "none": lambda own, look, act: None,
    "crown": _crown,
    "flower": _flower,
    "glasses": _glasses,
    "hat": _hat,
    "headphones": _headphones,
}
