"""A picture of a small town: its walls and stands, the taxi, and who wants to go where."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from bayes_persona.errors import needs_extra

with needs_extra("envs"):
    from PIL import Image, ImageDraw, ImageFont

COLOURS = {"R": "#d64545", "G": "#3a9a5b", "Y": "#e0b12f", "B": "#2f6fc4"}
INK, ROAD, KERB, PAPER, TAXI = "#22262e", "#eceff3", "#d4d9e0", "#ffffff", "#f5c518"
CELL, RIM, FINE = 96, 16, 2
"""Pixels of a cell and of the rim around all, and how many times as large it is drawn before it is shrunk."""


def streets(
    town: Sequence[str], row: int, column: int, passenger: int, destination: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw a map in the manner of Gymnasium's, whose destination has a ring and whose passenger is a dot.

    Args:
        town: Lines of the map.
        row: Where the taxi is.
        column: Where the taxi is.
        passenger: The stand where the passenger waits, or 4 if in the taxi.
        destination: The stand that the passenger wants to go to.

    >>> streets(("+-----+", "|R: |G|", "| : : |", "|Y| :B|", "+-----+"), 1, 1, 4, 0).shape
    (320, 320, 3)
    """
    size = len(town) - 2
    side = size * CELL + 2 * RIM
    image = Image.new("RGB", (side * FINE, side * FINE), PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(20 * FINE)
    stands = {town[1 + r][2 * c + 1]: (r, c) for r in range(size) for c in range(size)}
    for r in range(size):
        for c in range(size):
            draw.rectangle(_box(r, c, 1), fill=ROAD, outline=KERB, width=FINE)
    for number, letter in enumerate(COLOURS):
        place = stands[letter]
        draw.rounded_rectangle(_box(*place, 9), 12 * FINE, fill=COLOURS[letter])
        if number == destination:
            draw.rounded_rectangle(_box(*place, 3), 16 * FINE, outline=INK, width=4 * FINE)
        left, top, *_ = _box(*place, 16)
        draw.text((left + 2 * FINE, top), letter, fill=PAPER, font=font)
    draw.rectangle((RIM * FINE, RIM * FINE, (side - RIM) * FINE, (side - RIM) * FINE), outline=INK, width=3 * FINE)
    for r in range(size):
        for c in range(size - 1):
            if town[1 + r][2 * c + 2] == "|":
                left, top, right, bottom = _box(r, c, 0)
                draw.line((right, top, right, bottom), fill=INK, width=8 * FINE)
    left, top, right, bottom = _box(row, column, 0)
    across, down = (left + right) / 2, (top + bottom) / 2 + 12 * FINE
    _car(draw, across, down)
    if passenger < 4:
        left, top, right, bottom = _box(*stands[list(COLOURS)[passenger]], 0)
        across, down = right - 26 * FINE, top + 26 * FINE
    else:
        down -= 5 * FINE
    draw.circle((across, down), 9 * FINE, fill=INK, outline=PAPER, width=2 * FINE)
    return np.array(image.resize((side, side), Image.Resampling.LANCZOS))


def _box(row: int, column: int, inset: int) -> tuple[int, int, int, int]:
    left, top = RIM + column * CELL, RIM + row * CELL
    right, bottom = left + CELL - inset, top + CELL - inset
    return (left + inset) * FINE, (top + inset) * FINE, right * FINE, bottom * FINE


def _car(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    def box(*edges: int | float) -> tuple[float, float, float, float]:
        left, top, right, bottom = edges
        return x + left * FINE, y + top * FINE, x + right * FINE, y + bottom * FINE

    draw.rounded_rectangle(box(-18, -20, 18, 4), 8 * FINE, fill=PAPER, outline=INK, width=3 * FINE)
    draw.rounded_rectangle(box(-30, -3, 30, 17), 7 * FINE, fill=TAXI, outline=INK, width=3 * FINE)
    for wheel in (-17, 17):
        draw.ellipse(box(wheel - 7, 10, wheel + 7, 24), fill=INK)
        draw.ellipse(box(wheel - 2.5, 14.5, wheel + 2.5, 19.5), fill=PAPER)
