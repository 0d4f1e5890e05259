"""A picture of a factored world: what was before and was done on the left, what is now on the right, causes between.

A chip is the darker the higher its value. Lines run from each variable to those that it makes a difference to.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from bayes_persona.cpsrl.local import LocalSpec
from bayes_persona.errors import needs_extra
from bayes_persona_envs.factored_world import word

with needs_extra("envs"):
    from PIL import Image, ImageDraw, ImageFont

INK, QUIET, PAPER, FAINT = "#22262e", "#8a8f98", "#ffffff", "#f1f3f6"
STATE, ACTION = (31, 95, 191), (217, 130, 43)
"""Colours of variables of the world, and of those that the agent sets."""
FINE = 2
"""Drawn this many times as large, then shrunk, so that edges are smooth."""
Place = tuple[int | float, int | float]
"""Pixels from the left, and from the top."""
ROW, CHIP, GAP, MARGIN, LETTER = 34, 26, 190, 18, 13
"""Pixels: a row and its chip, the space that the lines cross, the rim, and the height of letters."""


def causes(
    rules: LocalSpec,
    words: Mapping[str, Sequence[str]],
    before: np.ndarray | None,
    state: np.ndarray,
    reward: float,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw a move and the graph of its causes.

    Args:
        rules: The world.
        words: What values are called.
        before: The values of state and action variables before the move, or None if there was no move.
        state: The values of the state variables now.
        reward: What the move earned.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> causes(LocalSpec.of(lamp()), {}, np.array([0, 1]), np.array([1]), 0.0).dtype
    dtype('uint8')
    """
    names, chip = _widths(rules, words)
    left, right = MARGIN + names + chip, MARGIN + names + chip + GAP
    heights = {name: MARGIN + ROW * (row + 1.5) for row, name in enumerate(rules.inputs)}
    lower = ROW * len(rules.actions) / 2  # outputs stand in the middle of the inputs
    heights |= {name: MARGIN + ROW * (row + 1.5) + lower for row, name in enumerate(rules.outputs)}
    pen = _Pen(right + chip + names + MARGIN, round(2 * MARGIN + ROW * (len(rules.inputs) + 2)))
    for effect, (parents, _) in zip(rules.outputs, rules.factors, strict=True):
        for cause in parents:
            pen.line((left + 4, heights[cause]), (right - 4, heights[effect]), _colour(rules, cause))
    then = [None] * len(rules.inputs) if before is None else before
    for (name, size), value in zip(rules.inputs.items(), then, strict=True):
        pen.text((left - chip - 8, heights[name]), name, "rm")
        pen.chip((left - chip / 2, heights[name]), chip, _colour(rules, name), size, value, _said(words, name, value))
    for (name, size), value in zip(rules.states.items(), state, strict=True):
        pen.text((right + chip + 8, heights[f"{name}'"]), f"{name}'", "lm")
        centre = (right + chip / 2, heights[f"{name}'"])
        pen.chip(centre, chip, STATE, size, value, _said(words, name, value))
    pen.text((left - chip / 2, MARGIN + ROW * 0.5), "before", "mm", QUIET)
    pen.text((right + chip / 2, MARGIN + ROW * 0.5), "now", "mm", QUIET)
    if before is not None:
        pen.text(((left + right) / 2, pen.height - MARGIN - ROW * 0.4), f"reward {reward:.3g}", "mm")
    return pen.pixels()


def _widths(rules: LocalSpec, words: Mapping[str, Sequence[str]]) -> tuple[int, int]:
    """Give the room that names and chips need."""
    font = ImageFont.load_default(LETTER)
    said = [_said(words, name, value) for name, size in rules.inputs.items() for value in range(size)]
    names = max(font.getlength(f"{name}'") for name in rules.inputs)
    return round(names) + 16, max(CHIP + 10, round(max(font.getlength(text) for text in said)) + 16)


def _said(words: Mapping[str, Sequence[str]], name: str, value: int | np.integer | None) -> str:
    return "" if value is None else word(words, name, value)


def _colour(rules: LocalSpec, name: str) -> tuple[int, int, int]:
    return ACTION if name in rules.actions else STATE


class _Pen:
    """A sheet, and what is drawn on it; all places and sizes are in pixels of the finished picture."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self._image = Image.new("RGB", (width * FINE, height * FINE), PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._font = ImageFont.load_default(LETTER * FINE)

    def text(self, at: Place, text: str, anchor: str, colour: str = INK) -> None:
        self._draw.text((at[0] * FINE, at[1] * FINE), text, fill=colour, font=self._font, anchor=anchor)

    def line(self, start: Place, end: Place, colour: tuple[int, int, int]) -> None:
        """Draw a curve that leaves and arrives level, and a small head."""
        t = np.linspace(0, 1, 40)
        bend = t * t * (3 - 2 * t)
        x, y = start[0] + t * (end[0] - start[0]), start[1] + bend * (end[1] - start[1])
        pale = _mixed(colour, 0.45)
        self._draw.line([(a * FINE, b * FINE) for a, b in zip(x, y, strict=True)], fill=pale, width=3, joint="curve")
        head = [(0, 0), (-7, -3.5), (-7, 3.5)]
        self._draw.polygon([((end[0] + a) * FINE, (end[1] + b) * FINE) for a, b in head], fill=pale)

    def chip(
        self,
        centre: Place,
        width: int,
        colour: tuple[int, int, int],
        size: int,
        value: int | np.integer | None,
        text: str,
    ) -> None:
        strength = 0.0 if value is None or size == 1 else 0.12 + 0.88 * float(value) / (size - 1)
        x, y = centre
        box = [(x - width / 2) * FINE, (y - CHIP / 2) * FINE, (x + width / 2) * FINE, (y + CHIP / 2) * FINE]
        fill = FAINT if value is None else _mixed(colour, strength)
        self._draw.rounded_rectangle(box, 7 * FINE, fill=fill, outline=_mixed(colour, 0.6), width=FINE)
        self.text(centre, text, "mm", PAPER if strength > 0.5 else INK)

    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        return np.array(self._image.resize((self.width, self.height), Image.Resampling.LANCZOS))


def _mixed(colour: tuple[int, int, int], strength: float) -> tuple[int, int, int]:
    """Give the colour on white paper, thinned."""
    red, green, blue = (round(255 + strength * (channel - 255)) for channel in colour)
    return red, green, blue
