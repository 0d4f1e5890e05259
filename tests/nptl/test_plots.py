"""Pictures show the numbers that they are drawn from."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex

from bayes_persona import ConfigError, DataError, metrics
from bayes_persona.nptl import plots


@pytest.fixture(scope="module")
def predicted():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(4, 0.4), 500)
    y = (rng.random((500, 1)) > (0.7 * probs + 0.075).cumsum(axis=1)).sum(axis=1)
    return probs, y


@pytest.fixture(scope="module")
def drawn(predicted):
    probs, y = predicted
    rng = np.random.default_rng(1)
    flat = np.sqrt(probs) / np.sqrt(probs).sum(axis=1, keepdims=True)
    honest = {"members": np.zeros((3, 400, 2)), "noise": np.ones((3, 2)), "y": rng.normal(size=(400, 2))}
    return {
        "reliability": lambda ax=None: plots.reliability(probs, y, title="NPTL", ax=ax),
        "rejection": lambda ax=None: plots.rejection({"NPTL": (probs, metrics.entropy(probs))}, y, ax=ax),
        "entropies": lambda ax=None: plots.entropies(probs[:250], flat, ax=ax),
        "severities": lambda ax=None: plots.severities({"NPTL": rng.random((3, 6)), "MAP": rng.random((1, 6))}, ax=ax),
        "coverage": lambda ax=None: plots.coverage(**honest, ax=ax),
    }


PICTURES = ("reliability", "rejection", "entropies", "severities", "coverage")


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_goes_where_it_is_told_and_can_be_saved(drawn, name, assert_drawn):
    assert_drawn(drawn[name])


def test_pictures_are_kept_nowhere_but_in_the_callers_hands():
    code = "import sys, bayes_persona.nptl.plots; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_bars_reach_from_nothing_to_right_and_on_to_what_was_said(predicted):
    probs, y = predicted
    curve = metrics.reliability(probs, y, bins=10)
    axes = plots.reliability(probs, y, bins=10)
    full = curve.counts > 0
    assert axes.get_title(loc="left") == f"ECE {metrics.ece(probs, y, bins=10):.3f}"
    assert axes.get_title(loc="right") == "500 examples"
    tops = {}
    for bar in axes.patches:
        place = round(bar.get_x(), 6)
        tops.setdefault(place, []).append(bar.get_y() + bar.get_height())
    ends = np.array([sorted(tops[place]) for place in sorted(tops)])
    both = np.sort(np.stack([curve.confidence[full], curve.accuracy[full]], axis=1), axis=1)
    assert np.allclose(ends, both)
    strip = axes.child_axes[0]
    assert [bar.get_height() for bar in strip.patches] == curve.counts[full].tolist()


def test_a_model_that_is_too_sure_is_told_so():
    sure, half = np.tile([[0.99, 0.01]], (40, 1)), np.tile([0, 1], 20)
    assert "right less often than it says" in [text.get_text() for text in plots.reliability(sure, half).texts]
    modest = np.tile([[0.6, 0.4]], (40, 1))
    notes = [text.get_text() for text in plots.reliability(modest, np.zeros(40, int)).texts]
    assert notes == ["right more often than it says"]


def test_rejecting_starts_at_the_accuracy_and_an_oracle_ends_at_one(predicted):
    probs, y = predicted
    wrong = metrics.mistakes(probs, y)
    scores = {"oracle": (probs, wrong.astype(float)), "worst": (probs, -wrong.astype(float))}
    oracle, worst = (line.get_ydata() for line in plots.rejection(scores, y).lines)
    assert oracle[0] == worst[0] == pytest.approx(metrics.accuracy(probs, y))
    assert oracle[-1] == 1
    assert worst[-1] == 0
    assert (np.diff(oracle) >= 0).all()


def test_every_curve_is_named_in_its_colour_and_names_keep_apart():
    methods = {f"method {k}": np.tile(0.5 + 0.001 * k - 0.05 * np.arange(6), (3, 1)) for k in range(6)}
    axes = plots.severities(methods)
    named = {text.get_text(): text for text in axes.texts}
    assert list(named) == list(methods)
    for line, name in zip(axes.lines, methods, strict=True):
        assert to_hex(named[name].get_color()) == to_hex(line.get_color())
    places = np.sort([text.xy[1] for text in axes.texts])
    bottom, top = axes.get_ylim()
    assert (np.diff(places) > 0.05 * (top - bottom)).all()
    assert places[-1] <= top


def test_bands_are_intervals_over_repeats_and_one_repeat_has_none():
    values = np.random.default_rng(0).random((5, 3))
    axes = plots.severities({"five": values, "one": values[:1]}, metric="NLL")
    assert axes.get_ylabel() == "NLL"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["clean", "1", "2"]
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    for place, column in enumerate(values.T):
        ends = metrics.mean_interval(column)
        heights = corners[corners[:, 0] == place, 1]
        assert np.allclose([heights.min(), heights.max()], [ends.low, ends.high])


def test_entropies_of_foreign_examples_are_told_apart_as_the_title_says(predicted):
    probs, _ = predicted
    title = plots.entropies(probs, np.full((10, 4), 0.25), title="NPTL").get_title(loc="left")
    assert title == "NPTL: AUROC 1.000"


def test_an_honest_gaussian_lies_on_the_diagonal_and_a_narrow_one_below():
    rng = np.random.default_rng(0)
    members = 0.5 * rng.normal(size=(4, 1, 1)) + np.zeros((1, 3000, 1))
    pick = rng.integers(4, size=3000)
    y = members[pick, np.arange(3000)] + 0.7 * rng.normal(size=(3000, 1))
    for noise, low, high in ((0.49, -0.03, 0.03), (0.04, -1.0, -0.2), (4.0, 0.15, 1.0)):
        line = plots.coverage(members, np.full((4, 1), noise), y).lines[-1]
        gap = line.get_ydata()[50] - 0.5
        assert low < gap < high


def test_what_cannot_be_drawn_is_named(predicted):
    probs, y = predicted
    with pytest.raises(ConfigError, match="methods: expected at least one"):
        plots.severities({})
    with pytest.raises(ConfigError, match="there are 6 colours that can be told apart, got 7 methods"):
        plots.severities({str(k): np.zeros((1, 2)) for k in range(7)})
    with pytest.raises(DataError, match="needs more than 20 examples, got 5"):
        plots.rejection({"a": (probs[:5], np.zeros(5))}, y[:5])
