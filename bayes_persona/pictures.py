"""What all pictures share: colours, plain axes, titles that fit, and curves that are named where they end.

Colours differ in lightness too, so that no pair looks alike to the colour-blind: ours is blue, its rival orange.
"""

from collections.abc import Sequence
from textwrap import wrap
from typing import NamedTuple

from bayes_persona.errors import needs_extra

with needs_extra("pictures"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, FAINT, GRID, WRONG = "#22262e", "#6f7580", "#b8bcc4", "#e2e5ea", "#c0392b"
COLOURS = ("#1f5fbf", "#d9822b", "#6b7280", "#3a9188", "#8e6bb0", "#a9823f")
"""In the order of what is compared."""
SIZE = (5.4, 4.2)
"""Inches of new axes, where what is drawn does not say otherwise."""
LETTER, LINE = 6.2, 0.2
"""Points that a letter of a title takes, and a bit; inches that a line of it takes."""


class Name(NamedTuple):
    """A curve's name, and where the curve ends.

    >>> Name(1.0, 0.5, "NPTL", COLOURS[0]).text
    'NPTL'
    """

    x: float
    y: float
    text: str
    colour: str


def axes(ax: Axes | None, title: str = "", *, size: tuple[float, float] = SIZE, pad: float = 8.0) -> Axes:
    """Give plain axes with a title in as many lines as they are narrow; new ones are the higher for it.

    Args:
        ax: Where to draw; None makes new axes.
        title: Put above.
        size: Inches of new axes.
        pad: Points between the title and the axes.

    >>> axes(None, "what was lost").get_title(loc="left")
    'what was lost'
    """
    own = ax is None
    ax = Figure(figsize=size, layout="constrained").subplots() if ax is None else ax
    figure = ax.figure.get_figure(root=True)
    assert figure is not None
    inches = ax.get_position().width * figure.get_figwidth()
    lines = wrap(title, max(8, int(inches * 72 / LETTER)), break_on_hyphens=False)
    if own:
        figure.set_figheight(size[1] + LINE * max(0, len(lines) - 1))
    ax.set_title("\n".join(lines), fontsize=11, color=INK, loc="left", pad=pad)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(color=INK, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(color=FAINT, labelcolor=INK, labelsize=9)
    ax.set_axisbelow(True)
    return ax


def name_ends(ax: Axes, names: Sequence[Name]) -> None:
    """Write each curve's name beside its end, moved apart where they would overlap.

    >>> ax = axes(None)
    >>> name_ends(ax, [Name(1.0, 0.5, "one", INK), Name(1.0, 0.5, "other", INK)])
    >>> bool(ax.texts[0].xy[1] < ax.texts[1].xy[1])
    True
    """
    bottom, top = ax.get_ylim()
    need = 0.062 * (top - bottom)
    order = sorted(names, key=lambda name: name.y)
    places: list[float] = []
    for name in order:
        places.append(max(name.y, places[-1] + need) if places else name.y)
    # those that were pushed above the axes push back
    limit = top
    for number in reversed(range(len(places))):
        places[number] = min(places[number], limit)
        limit = places[number] - need
    for name, place in zip(order, places, strict=True):
        ax.annotate(
            name.text,
            (name.x, place),
            xytext=(8, 0),
            textcoords="offset points",
            color=name.colour,
            fontsize=10,
            va="center",
            annotation_clip=False,
        )
