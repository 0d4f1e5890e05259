"""Pictures of what agents lose, and of what they think causes what.

Every function draws on the axes that it is given, or on new ones, and gives them back: `axes.figure.savefig("a.png")`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Float

from bayes_persona import metrics
from bayes_persona.cpsrl.calibration import Ranks, uniformity
from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.pictures import COLOURS, GRID, INK, QUIET, Name, axes, name_ends

with needs_extra("pictures"):
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import PercentFormatter

LEAST = 0.02
"""Edges less probable than this are not drawn."""
KOLMOGOROV = 1.358
"""95 % of uniform samples of n have a distribution function that is nowhere further off than this over √n."""


def regret(agents: Mapping[str, Float[np.ndarray, "_ episodes"]], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw what agents have lost by each episode: means over seeds, with 95 % bands (Student's t) where there are some.

    Args:
        agents: By name: the regret of every seed (rows) in every episode.
        title: Put above.
        ax: Where to draw.

    Raises:
        ConfigError: If there is no agent, or more than there are colours.
        DataError: If an agent has no seed or no episode, or a regret is not finite.

    >>> axes = regret({"C-PSRL": np.array([[2.0, 1.0, 0.0], [2.0, 1.0, 1.0]])})
    >>> axes.lines[0].get_ydata().tolist()
    [2.0, 3.0, 3.5]
    """
    if not 0 < len(agents) <= len(COLOURS):
        raise ConfigError(f"agents: expected 1 to {len(COLOURS)}, whose colours can be told apart; got {len(agents)}")
    ax = axes(ax, title)
    ends, lowest = [], 0.0
    for (name, lost), colour in zip(agents.items(), COLOURS, strict=False):
        if lost.shape[1] == 0:
            raise DataError(f"agents: {name}: expected at least one episode")
        mean, low, high = np.array([metrics.mean_interval(column) for column in lost.cumsum(axis=1).T]).T
        episode = np.arange(1, len(mean) + 1)
        ax.plot(episode, mean, color=colour, linewidth=1.9, solid_capstyle="round", zorder=3)
        if len(lost) > 1:
            ax.fill_between(episode, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)
        ends.append(Name(len(mean), float(mean[-1]), name, colour))
        lowest = min(lowest, float(mean.min()))
    longest = max(name.x for name in ends)
    ax.set(xlabel="episode", ylabel="regret so far", xlim=(0 if longest > 1 else 0.5, max(longest, 2)))
    if lowest >= 0:
        ax.set_ylim(bottom=0.0)
    ax.grid(axis="y", color=GRID)
    name_ends(ax, ends)
    return ax


def graph(learned: nx.DiGraph, *, truth: nx.DiGraph | None = None, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw causes on the left, effects on the right, and edges the stronger the more probable they are.

    With a truth, its edges are blue, those in doubt or error orange, and true edges that were given up dashed.

    Args:
        learned: Edges with their `probability`, as `structure.edge_marginals` gives them; 1 for an edge without.
        truth: The true edges, if they are known.
        title: Put above.
        ax: Where to draw.

    Raises:
        ConfigError: If there is no edge, or a variable is both cause and effect.

    >>> axes = graph(nx.DiGraph([("switch", "lamp'", {"probability": 0.9}), ("lamp", "lamp'", {"probability": 0.0})]))
    >>> [text.get_text() for text in axes.texts], len(axes.lines)
    (['switch', 'lamp', "lamp'"], 1)
    """
    causes, effects = _sides(learned, truth)
    ax = axes(ax, title, size=(4.6, 0.9 + 0.42 * max(len(causes), len(effects), 3)))
    heights = {**_spread(causes, effects), **_spread(effects, causes)}
    pairs = list(learned.edges(data="probability", default=1))
    true = set() if truth is None else set(truth.edges)
    pairs += [(*edge, 0.0) for edge in true - set(learned.edges)]
    for cause, effect, probability in sorted(pairs, key=lambda pair: pair[2]):  # the strongest on top
        is_true = (cause, effect) in true
        if probability < LEAST and not is_true:
            continue
        colour = COLOURS[0] if truth is None or is_true else COLOURS[1]
        missed = is_true and probability < LEAST
        ax.plot(
            [0, 1],
            [heights[cause], heights[effect]],
            color=colour,
            alpha=0.5 if missed else 0.12 + 0.88 * float(probability),
            linewidth=1.2 if missed else 0.7 + 3.3 * float(probability),
            linestyle=(0, (2, 3)) if missed else "solid",
            solid_capstyle="round",
            zorder=2 + float(probability),
        )
    for names, place, side, shift in ((causes, 0, "right", -9), (effects, 1, "left", 9)):
        ax.scatter([place] * len(names), [heights[name] for name in names], s=34, color=INK, zorder=5)
        for name in names:
            ax.annotate(
                name,
                (place, heights[name]),
                xytext=(shift, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=10,
                color=INK,
                annotation_clip=False,
            )
    ax.set(xlim=(-0.03, 1.03), ylim=(max(len(causes), len(effects)) - 0.4, -0.6))
    ax.axis("off")
    if truth is not None:
        _legend(ax)
    return ax


def edges(learned: nx.DiGraph, *, truth: nx.DiGraph | None = None, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the probability of every edge as a map, a row for each effect, with its number; true edges are framed.

    Args:
        learned: Edges with their `probability`, as `structure.edge_marginals` gives them; 1 for an edge without.
        truth: The true edges, if they are known.
        title: Put above.
        ax: Where to draw.

    Raises:
        ConfigError: If there is no edge, or a variable is both cause and effect.

    >>> axes = edges(nx.DiGraph([("switch", "lamp'", {"probability": 0.9}), ("lamp", "lamp'", {"probability": 0.25})]))
    >>> [text.get_text() for text in axes.texts]
    ['.90', '.25']
    """
    causes, effects = _sides(learned, truth)
    height = (1.3 if truth is None else 1.5) + 0.45 * max(len(effects), 2)
    ax = axes(ax, title, size=(1.6 + 0.55 * max(len(causes), 3), height))
    said = {(cause, effect): float(p) for cause, effect, p in learned.edges(data="probability", default=1)}
    table = np.array([[said.get((cause, effect), 0.0) for cause in causes] for effect in effects])
    ramp = LinearSegmentedColormap.from_list("belief", ["#f6f8fb", COLOURS[0], "#0d2f66"])
    # drawn as they are, one square each, so that no picture format blurs them
    ax.pcolormesh(table, cmap=ramp, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    for row, column in np.ndindex(table.shape):
        value = float(table[row, column])
        ax.text(
            column + 0.5,
            row + 0.5,
            _short(value),
            ha="center",
            va="center",
            fontsize=9,
            color="white" if value > 0.4 else INK if value >= LEAST else QUIET,
        )
        if truth is not None and truth.has_edge(causes[column], effects[row]):
            place = (column + 0.045, row + 0.045)
            ax.add_patch(Rectangle(place, 0.91, 0.91, fill=False, edgecolor=COLOURS[1], linewidth=2.2))
    ax.set_xticks(np.arange(len(causes)) + 0.5, causes)
    ax.set_yticks(np.arange(len(effects)) + 0.5, effects)
    if max(map(len, causes)) > 6:
        ax.tick_params(axis="x", labelrotation=40)
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    ax.set(ylim=(len(effects), 0), aspect="equal", anchor="NW")  # so that the layout knows where the title is
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if truth is not None:
        ax.set_xlabel("framed: true", fontsize=9, color=COLOURS[1], loc="right")
    return ax


def calibration(ranks: Ranks, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw by how much the share of truths below each level of the posterior misses it: an honest one stays in grey.

    Args:
        ranks: Where the truths lie, as `calibration.simulate` gives them.
        title: Put above, before the smallest p-value of `calibration.uniformity`.
        ax: Where to draw.

    Raises:
        ConfigError: If there are fewer than a hundred worlds.

    >>> even = (np.arange(1000) + 0.5) / 1000
    >>> axes = calibration(Ranks(even, even[:, None, None], even[:, None]))
    >>> axes.get_title(loc="left")
    'smallest p-value 1'
    """
    value = f"smallest p-value {min(uniformity(ranks).values()):.2g}"
    ax = axes(ax, f"{title}: {value}" if title else value)
    levels = np.linspace(0, 1, 201)
    edge = KOLMOGOROV / np.sqrt(len(ranks.graphs))
    ax.axhspan(-edge, edge, color=GRID, linewidth=0, zorder=1)
    ax.axhline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
    ends, largest = [], edge
    for (name, places), colour in zip(ranks._asdict().items(), COLOURS, strict=False):
        gap = np.searchsorted(np.sort(places.ravel()), levels, side="right") / places.size - levels
        ax.plot(levels, gap, color=colour, linewidth=1.9, zorder=3)
        furthest = int(np.abs(gap).argmax())
        ends.append((float(gap[furthest]), name, colour))
        largest = max(largest, float(np.abs(gap).max()))
    ax.set(xlabel="level of the posterior", ylabel="share of truths below, less the level", xlim=(0, 1))
    ax.set_ylim(-1.35 * largest, 1.35 * largest)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0 if largest > 0.03 or axis is ax.xaxis else 1))
    for place, (_, name, colour) in zip((0.02, 0.21, 0.36), ends, strict=True):
        ax.text(place, 0.98, name, color=colour, fontsize=10, va="top", transform=ax.transAxes)
    return ax


def _sides(learned: nx.DiGraph, truth: nx.DiGraph | None) -> tuple[list[Any], list[Any]]:
    """Give causes and effects, each in the order of the graph."""
    pairs = [*learned.edges, *([] if truth is None else truth.edges)]
    causes, effects = (list(dict.fromkeys(pair[end] for pair in pairs)) for end in (0, 1))
    if not pairs or set(causes) & set(effects):
        raise ConfigError("learned: expected edges from inputs to outputs, at least one, and no name on both sides")
    return causes, effects


def _spread(names: Sequence[Any], others: Sequence[Any]) -> dict[Any, float]:
    """Place the shorter side along the longer."""
    most = max(len(names), len(others)) - 1
    if len(names) == 1:
        return {names[0]: most / 2}
    inset = (most - (len(names) - 1)) / 4
    return dict(zip(names, np.linspace(inset, most - inset, len(names)).tolist(), strict=True))


def _short(probability: float) -> str:
    """Write a probability in as few signs as can be: .25, 0, 1."""
    if probability in (0, 1):
        return f"{probability:.0f}"
    return "<.01" if probability < 0.01 else ">.99" if probability > 0.99 else f"{probability:.2f}"[1:]


def _legend(ax: Axes) -> None:
    words = (
        ("true", COLOURS[0], "solid"),
        ("not true", COLOURS[1], "solid"),
        ("true, given up", COLOURS[0], (0, (2, 3))),
    )
    lines = [ax.plot([], [], color=colour, linestyle=style, linewidth=2)[0] for _, colour, style in words]
    ax.legend(
        lines,
        [word for word, *_ in words],
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.8,
        columnspacing=1.4,
    )
