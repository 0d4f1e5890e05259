"""A picture as polygons of numbered inks: drawn once at four times the size, then read as colours and as owners.

Every ink knows its colour and who it belongs to, so the masks are not drawn a second time and cannot disagree with the
picture. The picture is reduced by averaging blocks of 4×4: unlike Lanczos, whose ringing reaches three pixels, a block
touches nothing outside itself, which is what makes the masks exact.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.world.facts import Colour

with needs_extra("diffusion"):
    from PIL import Image, ImageDraw

Number = float | int
FINE = 4
"""How many drawn pixels make one side of a pixel of the picture."""
CORNERS = 32
"""Of an oval: at this many, the largest is nowhere off by half a drawn pixel."""
INKS = 256
"""How many different inks fit on one canvas: a drawn pixel is a byte."""


class Canvas:
    """A square picture under way; x and y run from -1 (left, top) to 1.

    >>> canvas = Canvas(16)
    >>> canvas.fill(box(0, 0, 2, 2), (0, 0, 255), owner=0)        # the whole background
    >>> canvas.fill(box(-0.5, 0, 0.5, 1), (255, 0, 0), owner=1)   # the left half
    >>> canvas.pixels()[0, 0].tolist(), canvas.pixels()[0, 15].tolist()
    ([255, 0, 0], [0, 0, 255])
    >>> int(canvas.mask(1).sum())
    128
    """

    def __init__(self, size: int):
        self._half = size * FINE / 2
        self._image = Image.new("L", (size * FINE, size * FINE))
        self._draw = ImageDraw.Draw(self._image)
        self._inks: dict[tuple[Colour, int], int] = {((0, 0, 0), 0): 0}  # blank paper is black, and nobody's

    def fill(self, points: Float[np.ndarray, "corners 2"], colour: Colour, owner: int) -> None:
        """Fill a polygon; what is drawn later covers what was drawn before."""
        ink = self._inks.setdefault((colour, owner), len(self._inks))
        if ink >= INKS:
            raise ConfigError(f"data: a scene needs more than {INKS} inks; use fewer colours in its background")
        self._draw.polygon(((points + 1) * self._half).ravel().tolist(), fill=ink)  # Pillow cuts to whole fine pixels

    def pixels(self) -> UInt8[np.ndarray, "size size 3"]:
        """Give the picture's colours."""
        picture = self._image.copy()
        picture.putpalette([channel for colour, _ in self._inks for channel in colour])
        return np.asarray(picture.convert("RGB").reduce(FINE))

    def mask(self, owner: int) -> Bool[np.ndarray, "size size"]:
        """Say which pixels show an owner on more than half of their area: so no pixel has two."""
        block = FINE * FINE
        mine = [block if who == owner else 0 for _, who in self._inks]
        area = self._image.point(mine + [0] * (INKS - len(mine))).reduce(FINE)
        return np.asarray(area) > block // 2


class Pen(NamedTuple):
    """Draws for one owner in coordinates of its own; `pen` makes one.

    >>> canvas = Canvas(16)
    >>> pen(canvas, owner=3, x=0.5, y=0.5, scale=0.5, tilt=0.0).fill(box(0, 0, 1, 1), (9, 9, 9))
    >>> int(canvas.mask(3).sum())  # a quarter of the picture
    64
    """

    canvas: Canvas
    owner: int
    axes: Float[np.ndarray, "2 2"]
    origin: Float[np.ndarray, " 2"]

    def fill(self, points: Float[np.ndarray, "corners 2"], colour: Colour) -> None:
        """Fill a polygon."""
        self.canvas.fill(points @ self.axes + self.origin, colour, self.owner)


def pen(canvas: Canvas, owner: int, x: float, y: float, scale: float, tilt: float) -> Pen:
    """Give a pen whose origin is at (x, y), and whose axes are scaled, and turned by `tilt` radians.

    >>> pen(Canvas(16), owner=1, x=0.0, y=0.5, scale=2.0, tilt=0.0).axes.tolist()
    [[2.0, 0.0], [-0.0, 2.0]]
    """
    cos, sin = scale * math.cos(tilt), scale * math.sin(tilt)
    return Pen(canvas, owner, np.array(((cos, sin), (-sin, cos))), np.array((x, y)))


@cache
def _circle() -> Float[np.ndarray, "corners 2"]:
    angle = np.arange(CORNERS) * (2 * math.pi / CORNERS)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points.flags.writeable = False
    return points


def oval(
    x: Number, y: Number, width: Number, height: Number, top: Number = 1, bottom: Number = 1
) -> Float[np.ndarray, "corners 2"]:
    """Give an oval by its centre and *half* sizes.

    `top` and `bottom` say how it bends above and below: 0 is a box, 1 an ellipse, 2 a diamond, and between them is the
    superellipse |x|^(2 / bend) + |y|^(2 / bend) = 1.

    >>> oval(1, 0, 0.5, 2).max(axis=0).tolist()
    [1.5, 2.0]
    """
    circle = _circle()
    if top == bottom == 1:  # most of them; powers are dear
        return circle * (width, height) + (x, y)
    bend = np.where(circle[:, 1:] < 0, top, bottom)
    return np.sign(circle) * np.abs(circle) ** bend * (width, height) + (x, y)


def arch(x: Number, y: Number, width: Number, height: Number, top: Number = 1) -> Float[np.ndarray, "corners 2"]:
    """Give the upper half of an oval, from the left end over the top to just before the right end.

    >>> arch(0, 0, 1, 2)[[0, CORNERS // 4]].round(9).astype(int).tolist()
    [[-1, 0], [0, -2]]
    """
    return oval(x, y, width, height, top)[CORNERS // 2 :]


def above(points: Float[np.ndarray, "corners 2"], y: Number) -> Float[np.ndarray, "cut 2"]:
    """Cut a convex polygon along a horizontal line and give the part above: from left to right if it is an oval.

    Cutting rather than choosing among the corners is what keeps a picture smooth in the place of the cut.

    >>> above(polygon((0, 2), (0, 0), (2, 0), (2, 2)), 1).tolist()
    [[0.0, 1.0], [0.0, 0.0], [2.0, 0.0], [2.0, 1.0]]
    """
    following = np.roll(points, -1, axis=0)
    inside = points[:, 1] < y
    kept, cut = np.flatnonzero(inside), np.flatnonzero(inside != np.roll(inside, -1))
    share = (y - points[cut, 1]) / (following[cut, 1] - points[cut, 1])
    ends = points[cut] + share[:, None] * (following[cut] - points[cut])
    return np.concatenate([points[kept], ends])[np.argsort(np.concatenate([kept, cut + 0.5]))]


def box(x: Number, y: Number, width: Number, height: Number) -> Float[np.ndarray, "4 2"]:
    """Give a rectangle by its centre and half sizes.

    >>> box(0, 0, 1, 2).tolist()
    [[-1.0, -2.0], [1.0, -2.0], [1.0, 2.0], [-1.0, 2.0]]
    """
    return polygon((x - width, y - height), (x + width, y - height), (x + width, y + height), (x - width, y + height))


def triangle(x: Number, y: Number, width: Number, height: Number) -> Float[np.ndarray, "3 2"]:
    """Give a triangle that stands on its base, by the centre and half sizes of the box around it.

    >>> triangle(0, 0, 1, 1).tolist()
    [[0.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]
    """
    return polygon((x, y - height), (x + width, y + height), (x - width, y + height))


def line(start: Sequence[Number], end: Sequence[Number], width: Number) -> Float[np.ndarray, "4 2"]:
    """Give a straight stroke.

    >>> line((0, 0), (2, 0), width=1).tolist()
    [[0.0, 0.5], [2.0, 0.5], [2.0, -0.5], [0.0, -0.5]]
    """
    (ax, ay), (bx, by) = start, end
    share = width / 2 / math.hypot(bx - ax, by - ay)
    dx, dy = (ay - by) * share, (bx - ax) * share
    return polygon((ax + dx, ay + dy), (bx + dx, by + dy), (bx - dx, by - dy), (ax - dx, ay - dy))


def polygon(*corners: tuple[Number, Number]) -> Float[np.ndarray, "corners 2"]:
    """Give the polygon with these corners.

    >>> polygon((0, 0), (1, 0), (0, 1)).shape
    (3, 2)
    """
    return np.array(corners, dtype=float)
