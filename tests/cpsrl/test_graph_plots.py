"""Pictures show the numbers that they are drawn from."""

import subprocess
import sys

import networkx as nx
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bayes_persona.cpsrl import calibration, graph, plots, structure
from bayes_persona.errors import ConfigError, DataError

TRUTH = nx.DiGraph([("row", "row'"), ("action", "row'"), ("action", "column'")])
LEARNED = nx.DiGraph()
for cause, effect, belief in (
    ("row", "row'", 0.95),
    ("column", "row'", 0.3),
    ("action", "row'", 0.0),
    ("row", "column'", 0.004),
    ("column", "column'", 0.6),
    ("action", "column'", 1.0),
):
    LEARNED.add_edge(cause, effect, probability=belief)


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    ranks = calibration.Ranks(rng.random(200), rng.random((200, 2, 3)), rng.random((200, 2)))
    return {
        "regret": lambda ax=None: plots.regret({"C-PSRL": rng.random((4, 50)), "PSRL": rng.random((1, 30))}, ax=ax),
        "graph": lambda ax=None: plots.graph(LEARNED, truth=TRUTH, title="Taxi", ax=ax),
        "edges": lambda ax=None: plots.edges(LEARNED, truth=TRUTH, title="Taxi", ax=ax),
        "calibration": lambda ax=None: plots.calibration(ranks, title="Taxi", ax=ax),
    }


@pytest.mark.parametrize("name", ["regret", "graph", "edges", "calibration"])
def test_a_picture_goes_where_it_is_told_and_can_be_saved(drawn, name, assert_drawn):
    assert_drawn(drawn[name])


@pytest.mark.parametrize("draw", [plots.graph, plots.edges])
@pytest.mark.parametrize("beside", [False, True])
def test_a_long_title_is_broken_and_stays_clear_of_the_rest(draw, beside):
    title = "bayes_persona/RandomFactored-v0: what an agent believes after two hundred episodes, on average"
    ax = Figure(figsize=(9.0, 3.5), layout="constrained").subplots(1, 2)[1] if beside else None
    axes = draw(LEARNED, truth=TRUTH, title=title, ax=ax)
    axes.figure.draw_without_rendering()
    said = next(text for text in axes.get_children() if getattr(text, "get_text", str)().startswith("bayes_persona"))
    assert "".join(said.get_text().split()) == "".join(title.split())
    place, whole = said.get_window_extent(), axes.figure.bbox
    assert place.x1 <= whole.x1
    assert place.y1 <= whole.y1
    others = [*axes.texts, axes.xaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()]
    assert not any(place.overlaps(text.get_window_extent()) for text in others if text.get_text())


def test_pictures_are_kept_nowhere_but_in_the_callers_hands():
    code = "import sys, bayes_persona.cpsrl.plots; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_regret_band_is_the_interval_of_the_seeds():
    lost = np.random.default_rng(0).random((5, 3))
    axes = plots.regret({"C-PSRL": lost})
    total = lost.sum(axis=1)
    half = 2.776445 * total.std(ddof=1) / np.sqrt(5)  # Student's t, 4 degrees of freedom
    corners = axes.collections[0].get_paths()[0].vertices
    at_end = corners[corners[:, 0] == 3, 1]
    assert (at_end.min(), at_end.max()) == pytest.approx((total.mean() - half, total.mean() + half), rel=1e-6)
    assert axes.lines[0].get_ydata()[-1] == pytest.approx(total.mean())
    assert axes.get_ylim()[0] == 0


def test_edges_are_as_wide_as_they_are_probable_and_true_ones_have_their_colour():
    axes = plots.graph(LEARNED, truth=TRUTH)
    lines = [line for line in axes.lines if len(line.get_xdata())]
    # of six, one is too improbable to draw; one is improbable but true, and dashed
    assert [to_hex(line.get_color()) for line in lines] == [plots.COLOURS[k] for k in (0, 1, 1, 0, 0)]
    assert [line.is_dashed() for line in lines] == [True, False, False, False, False]
    widths = [line.get_linewidth() for line in lines[1:]]
    assert widths == sorted(widths)
    assert len({text.get_text() for text in axes.texts}) == 5


def test_a_picture_without_a_truth_takes_no_side(spec):
    prior = graph.empty(spec(0), max_parents=2)
    learned = structure.edge_marginals(prior, structure.init(prior))
    axes = plots.graph(learned)
    assert {to_hex(line.get_color()) for line in axes.lines} == {plots.COLOURS[0]}
    assert axes.get_legend() is None
    assert not plots.edges(learned).patches


def test_the_map_has_the_probabilities_and_frames_what_is_true():
    axes = plots.edges(LEARNED, truth=TRUTH)
    assert [text.get_text() for text in axes.texts] == [".95", ".30", "0", "<.01", ".60", "1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["row'", "column'"]
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [(int(frame.get_x()), int(frame.get_y())) for frame in frames] == [(0, 0), (2, 0), (2, 1)]


def test_a_true_edge_that_nobody_thought_of_is_there_too():
    known = nx.DiGraph([("row", "row'")])
    assert [text.get_text() for text in plots.edges(known, truth=TRUTH).texts] == ["1", "0", "0", "0"]


def test_what_is_wrong_with_a_picture_is_said():
    with pytest.raises(ConfigError, match="agents: expected 1 to 6"):
        plots.regret({})
    with pytest.raises(DataError, match="agents: C-PSRL: expected at least one episode"):
        plots.regret({"C-PSRL": np.zeros((3, 0))})
    for name in (plots.graph, plots.edges):
        with pytest.raises(ConfigError, match="learned: expected edges from inputs to outputs"):
            name(nx.DiGraph())
        with pytest.raises(ConfigError, match="no name on both sides"):
            name(nx.DiGraph([("a", "b"), ("b", "c")]))
