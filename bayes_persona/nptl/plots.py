"""Pictures of how good, how sure and how honest predictions are.

Every function draws on the axes that it is given, or on new ones, and gives them back: `axes.figure.savefig("a.png")`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from bayes_persona import metrics
from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.pictures import COLOURS, FAINT, GRID, INK, QUIET, WRONG, Name, axes, name_ends

with needs_extra("pictures"):
    from matplotlib.axes import Axes
    from matplotlib.ticker import PercentFormatter
    from scipy.special import ndtr
    from scipy.stats import binom

FEWEST = 20
"""Accuracy of fewer examples is noise, not a curve."""


def reliability(
    probs: Float[np.ndarray, "n k"],
    y: Integer[np.ndarray, " n"],
    *,
    bins: int = 15,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw how often predictions are right (bars) when they say how sure they are; on the diagonal they are honest.

    What is missing to what was said is pale red, what is over it pale blue; the strip above shows how many examples
    there are at each confidence.

    Args:
        probs: Predicted probabilities.
        y: Class indices.
        bins: Number of bins of confidence.
        title: Put before the expected calibration error.
        ax: Where to draw.

    >>> axes = reliability(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]), title="coin")
    >>> axes.get_title(loc="left")
    'coin: ECE 0.400'
    """
    curve, error = metrics.reliability(probs, y, bins=bins), metrics.ece(probs, y, bins=bins)
    ax = axes(ax, f"{title}: ECE {error:.3f}" if title else f"ECE {error:.3f}", pad=42.0)
    full = np.flatnonzero(curve.counts)
    low, width, counts = full / bins, 0.92 / bins, curve.counts[full]
    said, right = curve.confidence[full], curve.accuracy[full]
    ax.bar(low, np.minimum(said, right), width, align="edge", color=COLOURS[0], alpha=0.85)
    gap = right - said
    height = 0.96
    for word, there, colour in (("less", gap < 0, WRONG), ("more", gap > 0, COLOURS[0])):
        bottom, off = np.minimum(said, right)[there], np.abs(gap)[there]
        ax.bar(low[there], off, width, bottom, align="edge", color=colour, alpha=0.3, linewidth=0)
        if (counts[there] * off).sum() > 0.01 * counts.sum():  # its part of the ECE
            ax.text(0.03, height, f"right {word} often than it says", color=colour, alpha=0.85, fontsize=9, va="top")
            height -= 0.06
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    ax.set(xlabel="how sure it says it is", ylabel="how often it is right", xlim=(0, 1), ylim=(0, 1))
    strip = ax.inset_axes((0, 1.03, 1, 0.11))
    strip.bar(low, counts, width, align="edge", color=FAINT)
    strip.set(xlim=(0, 1), ylim=(0, counts.max()))
    strip.axis("off")
    ax.set_title(f"{counts.sum():,} examples", loc="right", color=QUIET, fontsize=8, pad=42.0)
    return ax


def rejection(
    methods: Mapping[str, tuple[Float[np.ndarray, "_ k"], Float[np.ndarray, " _"]]],
    y: Integer[np.ndarray, " n"],
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw how accuracy rises as the examples that a method is least sure of are left to somebody else.

    Args:
        methods: By name: predicted probabilities, and a score of every example that is higher where less is known.
        y: Class indices.
        title: Put above.
        ax: Where to draw.

    Raises:
        ConfigError: If there is no method.
        DataError: If there are twenty examples or fewer.

    >>> probs, y = np.tile([[0.9, 0.1], [0.6, 0.4]], (20, 1)), np.tile([0, 1], 20)
    >>> axes = rejection({"sure": (probs, metrics.entropy(probs))}, y)
    >>> [round(float(accuracy), 2) for accuracy in axes.lines[0].get_ydata()[[0, -1]]]
    [0.5, 1.0]
    """
    _require_some(methods)
    if len(y) <= FEWEST:
        raise DataError(f"y: a rejection curve needs more than {FEWEST} examples, got {len(y)}")
    ax = axes(ax, title)
    names = []
    for (name, (probs, score)), colour in zip(methods.items(), _colours(len(methods)), strict=True):
        order = np.argsort(score, kind="stable")
        right = ~metrics.mistakes(probs, y)[order]
        kept = np.arange(len(y), max(FEWEST, len(y) // 50) - 1, -1)
        accuracy = right.cumsum()[kept - 1] / kept
        rejected = 1 - kept / len(y)
        ax.plot(rejected, accuracy, color=colour, linewidth=1.8, solid_capstyle="round")
        names.append(Name(float(rejected[-1]), float(accuracy[-1]), name, colour))
    ax.set(xlabel="share of examples left to somebody else", ylabel="accuracy on the rest", xlim=(0, names[0].x))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    name_ends(ax, names)
    return ax


def entropies(
    inside: Float[np.ndarray, "n k"],
    outside: Float[np.ndarray, "m k"],
    *,
    bins: int = 30,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw how unsure predictions are of examples like those learned from, and of examples from elsewhere.

    Args:
        inside: Predicted probabilities of examples like those learned from.
        outside: Predicted probabilities of others.
        bins: Number of bins from 0 to log k.
        title: Put before the AUROC of telling them apart by entropy.
        ax: Where to draw.

    >>> axes = entropies(np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]]))
    >>> axes.get_title(loc="left")
    'AUROC 1.000'
    """
    values = [metrics.entropy(probs) for probs in (inside, outside)]
    foreign = np.repeat([False, True], [len(part) for part in values])
    area = metrics.auroc(np.concatenate(values), foreign)
    ax = axes(ax, f"{title}: AUROC {area:.3f}" if title else f"AUROC {area:.3f}")
    most = float(np.log(inside.shape[1]))
    edges = np.linspace(0, most, bins + 1)
    sides = (("like those learned from", 0.02, "left"), ("from elsewhere", 0.98, "right"))
    for part, colour, (name, place, side) in zip(values, COLOURS, sides, strict=False):
        share = np.histogram(part.clip(0, most), edges)[0] / len(part)
        ax.stairs(share, edges, fill=True, color=colour, alpha=0.3, linewidth=0)
        ax.stairs(share, edges, color=colour, linewidth=1.5)
        ax.text(place, 0.99, name, color=colour, ha=side, va="top", fontsize=10, transform=ax.transAxes)
    ax.set(xlabel="entropy of the prediction (nats)", ylabel="share of examples", xlim=(0, most), yticks=[])
    ax.set_ylim(0, 1.15 * ax.get_ylim()[1])  # room for the names
    return ax


def severities(
    methods: Mapping[str, Float[np.ndarray, "_ severities"]],
    *,
    metric: str = "accuracy",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a metric by the severity of a corruption: means over repeats, with 95 % bands where there are several.

    Args:
        methods: By name: the metric in every repeat, at severity 0, 1, 2, …
        metric: What the numbers are.
        title: Put above.
        ax: Where to draw.

    Raises:
        ConfigError: If there is no method.

    >>> axes = severities({"NPTL": np.array([[0.9, 0.8, 0.6]])})
    >>> axes.lines[0].get_ydata().tolist(), axes.texts[0].get_text()
    ([0.9, 0.8, 0.6], 'NPTL')
    """
    _require_some(methods)
    ax = axes(ax, title)
    names, last = [], 0
    for (name, values), colour in zip(methods.items(), _colours(len(methods)), strict=True):
        mean, low, high = np.array([metrics.mean_interval(column) for column in values.T]).T
        place = np.arange(values.shape[1])
        ax.plot(place, mean, "o-", color=colour, linewidth=1.8, markersize=4.5, zorder=3)
        if len(values) > 1:
            ax.fill_between(place, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)
        last = max(last, place[-1])
        names.append(Name(float(place[-1]), float(mean[-1]), name, colour))
    ax.set(xlabel="severity", ylabel=metric, xticks=range(last + 1), xlim=(-0.15, last + 0.1))
    ax.set_xticks(range(last + 1), ["clean", *map(str, range(1, last + 1))])
    ax.grid(axis="y", color=GRID)
    name_ends(ax, names)
    return ax


def coverage(
    members: Float[np.ndarray, "particles n k"],
    noise: Float[np.ndarray, "particles k"],
    y: Float[np.ndarray, "n k"],
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw how many targets lie in central predictive intervals of every level; on the diagonal as many as promised.

    The predictive is the mixture of the particles' gaussians. In the grey band (95 %) an honest model would be.

    Args:
        members: What every particle expects.
        noise: Variance of every particle's noise (its `noise.variance`).
        y: The targets.
        title: Put before the mean gap to the diagonal.
        ax: Where to draw.

    >>> rng = np.random.default_rng(0)
    >>> axes = coverage(np.zeros((1, 500, 1)), np.ones((1, 1)), rng.normal(size=(500, 1)))
    >>> axes.get_title(loc="left")
    'mean gap 0.0...'
    """
    below = ndtr((y - members) / np.sqrt(noise)[:, None, :]).mean(axis=0)
    # the interval of level c is where the mixture's distribution function is within c/2 of one half
    level_needed = np.abs(2 * below - 1).ravel()
    levels = np.linspace(0, 1, 101)
    inside = (level_needed <= levels[:, None]).mean(axis=1)
    gap = float(np.abs(inside - levels).mean())
    ax = axes(ax, f"{title}: mean gap {gap:.3f}" if title else f"mean gap {gap:.3f}")
    low, high = (binom.ppf(end, level_needed.size, levels) / level_needed.size for end in (0.025, 0.975))
    ax.fill_between(levels, low, high, color=GRID, linewidth=0, zorder=1)
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
    ax.plot(levels, inside, color=COLOURS[0], linewidth=2, solid_capstyle="round", zorder=3)
    ax.text(0.04, 0.95, "wider than needed", color=QUIET, fontsize=9, va="top")
    ax.text(0.96, 0.05, "too narrow", color=QUIET, fontsize=9, ha="right")
    ax.set(xlabel="share of targets promised", ylabel="share of targets inside", xlim=(0, 1), ylim=(0, 1))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return ax


def _colours(count: int) -> Sequence[str]:
    if count > len(COLOURS):
        raise ConfigError(f"methods: there are {len(COLOURS)} colours that can be told apart, got {count} methods")
    return COLOURS[:count]


def _require_some(methods: Mapping[str, Any]) -> None:
    if not methods:
        raise ConfigError("methods: expected at least one")
