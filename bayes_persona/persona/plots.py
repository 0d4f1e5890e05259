"""Pictures of a posterior over personalizations, as SVG text that goes straight into a page."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.errors import needs_extra
from bayes_persona.persona.uncertainty import Maps
from bayes_persona.pictures import COLOURS, FAINT, INK, QUIET
from bayes_persona.pictures import axes as plain_axes

with needs_extra("diffusion"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

FIRST = 8
"""Members that are shown; more would be too small to look at."""


def photo_strip(pixels: UInt8[np.ndarray, "n h w 3"], titles: tuple[str, ...] = ()) -> str:
    """Show the photos in a row.

    >>> photo_strip(np.zeros((2, 8, 8, 3), np.uint8))[:4]
    '<svg'
    """
    figure = Figure(figsize=(1.45 * len(pixels), 1.6), layout="constrained")
    for number, (axis, picture) in enumerate(
        zip(figure.subplots(1, len(pixels), squeeze=False)[0], pixels, strict=True)
    ):
        show(axis, picture, titles[number] if titles else "")
    return svg(figure)


def posterior(averaged: UInt8[np.ndarray, "s h w 3"], members: UInt8[np.ndarray, "k s h w 3"]) -> str:
    """Show the model average, the members' pictures and where they differ, a row for each common noise.

    >>> posterior(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((2, 1, 8, 8, 3), np.uint8))[:4]
    '<svg'
    """
    shown = members[:FIRST]
    columns, rows = len(shown) + 2, len(averaged)
    figure = Figure(figsize=(1.3 * columns + 0.6, 1.35 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    spread = (members / 255).std(axis=0).mean(axis=-1)
    top = max(0.05, float(spread.max()))
    for row in range(rows):
        show(axes[row, 0], averaged[row], "model average" if row == 0 else "")
        for k, pictures in enumerate(shown):
            show(axes[row, k + 1], pictures[row], f"member {k + 1}" if row == 0 else "")
        heat(axes[row, -1], spread[row], top, "disagreement" if row == 0 else "")
    scale = ScalarMappable(Normalize(0, top), "magma")
    figure.colorbar(scale, ax=axes[:, -1], shrink=0.9, label="sd over members")
    return svg(figure)


def maps(found: Maps) -> str:
    """Show what members disagree on, what they leave to the noise, and both, as standard deviations on one scale.

    >>> from bayes_persona.persona import uncertainty
    >>> maps(uncertainty.maps(np.zeros((2, 3, 8, 8, 3), np.uint8)))[:4]
    '<svg'
    """
    figure = Figure(figsize=(5.4, 1.9), layout="constrained")
    axes, top = figure.subplots(1, 3), max(0.05, float(np.sqrt(found.total.max())))
    for axis, variance, title in zip(axes, found, ("epistemic", "aleatoric", "total"), strict=True):
        heat(axis, np.sqrt(variance), top, title)
    figure.colorbar(ScalarMappable(Normalize(0, top), "magma"), ax=axes, shrink=0.9, label="sd, of the range")
    return svg(figure)


def concentration(alphas: Sequence[float], losses: Float[np.ndarray, "photos alphas"]) -> str:
    """Show how well photos that were left out are told at each worth of the prior.

    >>> concentration((0.0, 2.0), np.array([[0.2, 0.1], [0.3, 0.2]]))[:4]
    '<svg'
    """
    ax = plain_axes(None, size=(4.6, 2.6))
    places = np.arange(len(alphas))
    for one in losses:
        ax.plot(places, one, color=FAINT, linewidth=1)
    ax.plot(places, losses.mean(axis=0), color=COLOURS[0], marker="o", label="mean over photos")
    ax.set(xlabel="α: photos that the prior is worth", ylabel="loss of the left-out photo")
    ax.set_xticks(places, [f"{alpha:g}" for alpha in alphas])
    ax.legend(frameon=False, fontsize=9)
    return svg(ax.figure)


def situations(found: Mapping[str, float], sure: float) -> str:
    """Show how far members are apart in each situation, and where that begins to be too much.

    >>> situations({"a happy look": 0.1}, 0.05)[:4]
    '<svg'
    """
    ax = plain_axes(None, size=(5.4, 0.34 * len(found) + 0.9))
    names, values = list(found), list(found.values())
    ax.barh(names, values, color=[COLOURS[0] if value <= sure else COLOURS[1] for value in values], height=0.6)
    ax.axvline(sure, color=INK, linewidth=1, linestyle=":")
    ax.annotate("too much", (sure, 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=9, color=QUIET)
    ax.set(xlabel="disagreement of members", xlim=(0, 1.15 * max(*values, 1.3 * sure)))
    ax.invert_yaxis()
    return svg(ax.figure)


def routers(
    pixels: UInt8[np.ndarray, "n h w 3"], maps: Float[np.ndarray, "n layers y x"], names: tuple[str, ...]
) -> str:
    """Show pictures and, layer by layer, how much of each of their pixels came from the experts of a mixture.

    >>> routers(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 2, 4, 4)), ("down self", "down cross"))[:4]
    '<svg'
    """
    columns, rows = len(names) + 1, len(pixels)
    figure = Figure(figsize=(1.1 * columns + 0.6, 1.2 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        show(axes[row, 0], pixels[row])
        for k, name in enumerate(names):
            heat(axes[row, k + 1], maps[row, k], 1.0, name if row == 0 else "")
    figure.colorbar(ScalarMappable(Normalize(0, 1), "magma"), ax=axes[:, -1], shrink=0.9, label="share of the expert")
    return svg(figure)


def tuning(utilities: Float[np.ndarray, " n"], edges: nx.DiGraph) -> str:
    """Show the utility of every generation, the best one so far, and what was learned of which knob moves what.

    >>> tuning(np.array([0.2, 0.7]), nx.DiGraph([("scale", "identity", {"probability": 0.9})]))[:4]
    '<svg'
    """
    from bayes_persona.cpsrl import plots as causes  # only those who tune need the room of causes

    names = len({cause for cause, _ in edges.edges})
    figure = Figure(figsize=(9.0, max(2.8, 0.42 * names + 0.9)), layout="constrained")
    left, right = figure.subplots(1, 2)
    n = np.arange(1, len(utilities) + 1)
    left.scatter(n, utilities, s=22, color=COLOURS[0], alpha=0.6, label="one generation")
    left.step(n, np.maximum.accumulate(utilities), where="post", color=COLOURS[1], label="best so far")
    left.set(xlabel="generation", ylabel="utility", ylim=(0, 1))
    left.legend(frameon=False, fontsize=9, loc="lower right")
    causes.graph(edges, title="which knob moves which quality", ax=right)
    return svg(figure)


def show(axis: Axes, picture: UInt8[np.ndarray, "h w 3"], title: str = "") -> None:
    """Put a picture on an axis, without ticks.

    >>> show(axis := Figure().subplots(), np.zeros((8, 8, 3), np.uint8), "nobody")
    >>> axis.get_title()
    'nobody'
    """
    axis.imshow(picture, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)
    for spine in axis.spines.values():
        spine.set_visible(False)


def heat(axis: Axes, spread: Float[np.ndarray, "h w"], top: float, title: str = "") -> None:
    """Put a map on an axis, black where it is 0 and bright where it reaches `top`.

    >>> heat(axis := Figure().subplots(), np.zeros((8, 8)), top=1.0)
    >>> axis.images[0].get_clim() == (0, 1)
    True
    """
    axis.imshow(spread, cmap="magma", vmin=0, vmax=top)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)


def svg(figure: Any, *, transparent: bool = True) -> str:
    """Give a figure as SVG text: the same numbers give the same text.

    >>> svg(Figure())[:4]
    '<svg'
    """
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "bayes_persona", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=transparent)
    return text.getvalue()[text.getvalue().index("<svg") :]
