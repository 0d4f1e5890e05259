"""The demo's pictures, as SVG text that goes straight into the page."""

import numpy as np

from bayes_persona.demo import portrait, taxi, transfer
from bayes_persona.demo.config import Config
from bayes_persona.demo.digits import handwritten
from bayes_persona.errors import needs_extra
from bayes_persona.metrics import mean_interval, reliability
from bayes_persona.persona.plots import heat, show, svg
from bayes_persona.pictures import COLOURS as METHODS
from bayes_persona.pictures import FAINT, GRID, INK, QUIET, WRONG

with needs_extra("demo"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

(OURS, RIVAL), PLAIN = METHODS[:2], QUIET
COLOURS = {"NPTL": OURS, "C-PSRL": OURS, "deep ensemble": RIVAL, "flat PSRL": RIVAL, "PSRL without structure": PLAIN}
"""Ours is blue, its rival orange, everything else grey: in every picture."""


def reliability_diagram(result: transfer.Result) -> str:
    """Draw how often each method is right when it says that it is p sure; on the diagonal it means what it says."""
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    curve, counts = figure.subplots(1, 2)
    curve.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    for method in ("fine-tuning", "deep ensemble", "NPTL"):
        bins = reliability(result.outcomes[method].probs, result.y, bins=10)
        full = bins.counts >= 20  # a bin of a few digits is noise, not a curve
        colour = COLOURS.get(method, PLAIN)
        curve.plot(bins.confidence[full], bins.accuracy[full], "o-", color=colour, label=method, markersize=5)
        counts.plot(bins.confidence[full], bins.counts[full], "o-", color=colour, markersize=4, linewidth=1)
    curve.set(xlabel="how sure it says it is", ylabel="how often it is right", xlim=(0, 1.02), ylim=(0, 1.02))
    curve.legend(frameon=False, loc="upper left")
    counts.set(xlabel="how sure it says it is", ylabel="digits", yscale="log", xlim=(0, 1.02))
    return svg(figure)


def score_intervals(result: transfer.Result) -> str:
    """Draw every method's mean and 95 % interval over splits, a panel a score."""
    panels = {"accuracy": "accuracy (high is good)", "nll": "NLL (low is good)", "ece": "ECE (low is good)"}
    figure = Figure(figsize=(10.4, 2.9), layout="constrained")
    for axis, (score, title) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        _draw_scores(axis, result, score)
        axis.set_title(title, fontsize=11)
    return svg(figure)


def doubtful_digits(config: Config, result: transfer.Result) -> str:
    """Show the digits of the first split that the particles disagree most about, and least about."""
    digits = handwritten(config.examples, transfer.split_seed(config, 0))
    here = result.outcomes["NPTL"].epistemic[: len(digits.y_test)]
    order = np.argsort(-here)
    rows = {"in doubt": order[:10], "sure": order[-10:]}
    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    for axes, (title, chosen) in zip(figure.subplots(2, 10), rows.items(), strict=True):
        for axis, number in zip(axes, chosen, strict=True):
            probs = result.outcomes["NPTL"].probs[number]
            axis.imshow(digits.x_test[number, 0], cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            first, second = np.argsort(-probs)[:2]
            said = f"{first}: {probs[first]:.0%}" + (f"\n{second}: {probs[second]:.0%}" if title == "in doubt" else "")
            right = first == digits.y_test[number]
            axis.set_title(said, fontsize=9, color=INK if right else WRONG)
            for spine in axis.spines.values():
                spine.set_color("#d4d7dd")
        axes[0].set_ylabel(title)
    return svg(figure)


def regret_curves(result: taxi.Result) -> str:
    """Draw what each agent has lost so far, mean and 95 % interval over drivers."""
    figure = Figure(figsize=(6.2, 4.4), layout="constrained")
    _draw_regret(figure.subplots(), result)
    return svg(figure)


def causal_graph(result: taxi.Result) -> str:
    """Draw every possible edge as strongly as the agent believes in it, and mark those that are true."""
    figure = Figure(figsize=(6.2, 4.4), layout="constrained")
    _draw_graph(figure.subplots(), result)
    return svg(figure)


def overview(digits: transfer.Result, rides: taxi.Result, person: portrait.Result) -> str:
    """Draw the demo in one picture: surprise, regret and what was learned; below it a person, and where it is open."""
    figure = Figure(figsize=(13.5, 6.2), layout="constrained", facecolor="white")
    halves = figure.add_gridspec(2, 1, height_ratios=(4.2, 1.9))
    above, below = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    scores, regret, graph = above.subplots(1, 3, width_ratios=(1.15, 1.2, 1.2))
    _draw_scores(scores, digits, "nll")
    scores.set_title("NPTL: NLL on handwriting (low is good)", fontsize=11)
    _draw_regret(regret, rides)
    regret.set_title("C-PSRL: regret in Gymnasium's Taxi", fontsize=11)
    _draw_graph(graph, rides)
    graph.set_title("C-PSRL: what causes what", fontsize=11)
    _draw_person(below, person)
    return svg(figure, transparent=False)


def _draw_person(figure: SubFigure, result: portrait.Result) -> None:
    """Photos, the average, some members, and where they differ: a person in one row."""
    scene, few = result.scenes[0], 4
    photos, members = result.photos[:few], scene.members[:few]
    axes = figure.subplots(1, len(photos) + len(members) + 2)
    for number, (axis, picture) in enumerate(zip(axes, photos, strict=False)):
        show(axis, picture, f"photo {number + 1}")
    rest = axes[len(photos) :]
    show(rest[0], scene.averaged[0], "model average")
    for k, pictures in enumerate(members):
        show(rest[k + 1], pictures[0], f"member {k + 1}")
    spread = (scene.members[:, 0] / 255).std(axis=0).mean(axis=-1)
    heat(rest[-1], spread, float(spread.max()), "disagreement")
    figure.suptitle("persona: a person from a few pictures, never seen by the base model", fontsize=11)


def _draw_scores(axis: Axes, result: transfer.Result, score: str) -> None:
    methods = list(result.outcomes)[::-1]
    for place, method in enumerate(methods):
        values = result.outcomes[method].scores[score]
        mean, low, high = mean_interval(values)
        colour = COLOURS.get(method, PLAIN)
        axis.plot(values, np.full(len(values), place), "|", color=colour, alpha=0.45, markersize=9)
        axis.plot([low, high], [place, place], color=colour, linewidth=2)
        axis.plot(mean, place, "o", color=colour, markersize=7)
    axis.set(yticks=range(len(methods)), yticklabels=methods, ylim=(-0.6, len(methods) - 0.4))
    axis.grid(axis="x", color=GRID)


def _draw_regret(axis: Axes, result: taxi.Result) -> None:
    for agent, outcome in result.outcomes.items():
        total = outcome.regret.cumsum(axis=1)
        mean, low, high = np.array([mean_interval(column) for column in total.T]).T
        episode = np.arange(1, total.shape[1] + 1)
        axis.plot(episode, mean, color=COLOURS[agent], label=agent)
        axis.fill_between(episode, low, high, color=COLOURS[agent], alpha=0.18, linewidth=0)
    episodes = max(outcome.regret.shape[1] for outcome in result.outcomes.values())
    idle = {"color": FAINT, "linewidth": 1, "linestyle": (0, (4, 3)), "label": "driving about"}
    axis.plot([0, episodes], [0, episodes * result.idle], **idle)
    axis.set(xlabel="episode", ylabel="regret so far", xlim=(0, None), ylim=(0, None))
    axis.legend(frameon=False, loc="upper left")


def _draw_graph(axis: Axes, result: taxi.Result) -> None:
    causes, effects = (list(dict.fromkeys(ends)) for ends in zip(*result.learned.edges, strict=True))
    place = {name: (0.0, -float(number)) for number, name in enumerate(causes)}
    place |= {name: (3.0, -(number + 0.5)) for number, name in enumerate(effects)}
    for cause, effect, probability in result.learned.edges(data="probability"):
        (x, y), (x_end, y_end) = place[cause], place[effect]
        known, true = taxi.KNOWN.has_edge(cause, effect), result.truth.has_edge(cause, effect)
        colour = INK if known else OURS if true else WRONG
        if true and probability < 0.05:
            axis.plot([x, x_end], [y, y_end], color=OURS, linewidth=1, linestyle=(0, (1, 3)), alpha=0.7)
        strength = {"linewidth": 0.4 + 3 * probability, "alpha": 0.05 + 0.85 * probability}
        axis.plot([x, x_end], [y, y_end], color=colour, **strength)
        if not known and probability >= 0.05:
            spot = (x + 0.7 * (x_end - x), y + 0.7 * (y_end - y))
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axis.text(*spot, f"{probability:.2f}", color=colour, fontsize=8, ha="center", va="center", bbox=box)
    for name, (x, y) in place.items():
        left = x == 0
        axis.text(x + (-0.12 if left else 0.12), y, name, ha="right" if left else "left", va="center", fontsize=11)
        axis.plot(x, y, "o", color=INK, markersize=6)
    for colour, label in ((INK, "told"), (OURS, "learned, true"), (WRONG, "believed, not true")):
        axis.plot([], [], color=colour, linewidth=3, label=label)
    axis.plot([], [], color=OURS, linewidth=1, linestyle=(0, (1, 3)), label="true, not believed")
    axis.legend(frameon=False, loc="upper center", ncols=2, bbox_to_anchor=(0.5, 0.02), fontsize=9)
    axis.set(xlim=(-1.1, 4.2))
    axis.axis("off")
