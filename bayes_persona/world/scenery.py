"""Backgrounds: layers of sky, ground and scattered things, as `data/backgrounds.json` lists them.

The seed moves and sizes the things and the horizon; which place it is stays plain to see.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from bayes_persona.world.canvas import Canvas, box, oval, triangle
from bayes_persona.world.facts import Colour, blend, rgb, table

OWNER = 0
"""Whom the background's pixels belong to; subjects count from 1."""
BANDS = 8
"""In how many steps a sky or a ground goes from its first colour to its last."""
SHAPES = {"oval": oval, "box": box, "triangle": triangle}


def paint(canvas: Canvas, background: str, rng: np.random.Generator) -> None:
    """Cover the whole canvas with a background.

    >>> canvas = Canvas(16)
    >>> paint(canvas, "night", np.random.default_rng(0))
    >>> bool(canvas.mask(OWNER).all())
    True
    """
    for layer in table("backgrounds")[background]:
        _LAYERS[layer["kind"]](canvas, layer, rng)


def _sky(canvas: Canvas, layer: Mapping[str, Any], rng: np.random.Generator) -> None:
    _fade(canvas, layer["colours"], -1.0, layer["to"])


def _ground(canvas: Canvas, layer: Mapping[str, Any], rng: np.random.Generator) -> None:
    _fade(canvas, layer["colours"], rng.uniform(*layer["from"]), 1.0)


def _fade(canvas: Canvas, colours: list[str], top: float, bottom: float) -> None:
    for band, colour in enumerate(_shades(tuple(colours))):
        low = top + band * (bottom - top) / BANDS
        end = (
            1.2 if band == BANDS - 1 else low + 1.2 * (bottom - top) / BANDS
        )  # bands overlap, the last one ends beyond
        canvas.fill(box(0, (low + end) / 2, 1.2, (end - low) / 2), colour, OWNER)


@cache
def _shades(colours: tuple[str, ...]) -> tuple[Colour, ...]:
    stops = [rgb(code) for code in colours]
    return tuple(blend(stops, band / (BANDS - 1)) for band in range(BANDS))


def _scatter(canvas: Canvas, layer: Mapping[str, Any], rng: np.random.Generator) -> None:
    count = int(rng.integers(layer["count"][0], layer["count"][1] + 1))
    # One thing in each slice of the width, in any order: chance alone would leave half the place empty.
    left, right = layer["x"]
    slices = left + (right - left) * (rng.permutation(count) + rng.uniform(0.2, 0.8, count)) / count
    for x in slices.tolist():
        y, size = rng.uniform(*layer["y"]), rng.uniform(*layer["size"])
        for shape, dx, dy, width, height, code in layer["shapes"]:
            points = SHAPES[shape](x + dx * size, y + dy * size, width * size, height * size)
            canvas.fill(points, rgb(code), OWNER)


_LAYERS = {"sky": _sky, "ground": _ground, "scatter": _scatter}
