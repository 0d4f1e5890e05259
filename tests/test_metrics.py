import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from bayes_persona import metrics
from bayes_persona.errors import ConfigError, DataError, MismatchError
from bayes_persona.seeds import generator

few = settings(max_examples=30, derandomize=True, deadline=None)


@pytest.fixture
def unchecked():
    """Outside the tests nothing looks at shapes before the function itself does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def predicted():
    rng = generator(0, "metrics")
    probs = rng.dirichlet(np.full(5, 0.5), 400)
    y = np.array([rng.choice(5, p=row) for row in 0.7 * probs + 0.06])
    return probs, y


def gap_by_definition(probs, y, bins):
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == y
    gap = 0.0
    for low, high in zip(np.linspace(0, 1, bins + 1)[:-1], np.linspace(0, 1, bins + 1)[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return gap


def test_scores_are_those_of_scikit_learn(predicted):
    probs, y = predicted
    assert metrics.accuracy(probs, y) == pytest.approx(sklearn_metrics.accuracy_score(y, probs.argmax(axis=1)))
    assert metrics.nll(probs, y) == pytest.approx(sklearn_metrics.log_loss(y, probs))
    assert metrics.brier(probs, y) == pytest.approx(((probs - np.eye(5)[y]) ** 2).sum() / len(y))
    two = np.stack([1 - probs[:, 0], probs[:, 0]], axis=1)
    one = (y == 0).astype(int)
    # scikit-learn's score of two classes looks at one of them
    assert metrics.brier(two, one) == pytest.approx(2 * sklearn_metrics.brier_score_loss(one, two[:, 1]))


def test_single_precision_scores_as_double_does(predicted):
    probs, y = predicted
    single = probs.astype(np.float32)
    for score in (metrics.accuracy, metrics.nll, metrics.brier, metrics.ece):
        assert score(single, y) == pytest.approx(score(probs, y), abs=1e-6)


def test_a_label_thought_impossible_costs_a_finite_price():
    assert metrics.nll(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-12))


def test_the_worst_brier_score_is_two():
    assert metrics.brier(np.array([[1.0, 0.0, 0.0]]), np.array([2])) == 2.0


def test_the_calibration_error_is_its_definition(predicted):
    probs, y = predicted
    for bins in (1, 7, 15):
        assert metrics.ece(probs, y, bins=bins) == pytest.approx(gap_by_definition(probs, y, bins))


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    curve = metrics.reliability(np.array([[0.5, 0.5], [0.51, 0.49], [1.0, 0.0]]), np.array([0, 0, 0]), bins=2)
    assert curve.counts.tolist() == [1, 2]


def test_an_empty_bin_has_no_accuracy():
    curve = metrics.reliability(np.array([[1.0, 0.0]]), np.array([0]), bins=3)
    assert curve.counts.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(curve.accuracy, [np.nan, np.nan, 1.0])
    np.testing.assert_array_equal(curve.confidence, [np.nan, np.nan, 1.0])


def test_bins_of_equal_mass_by_hand():
    confidence = np.array([0.95, 0.55, 0.65, 0.85])
    probs, y = np.stack([confidence, 1 - confidence], axis=1), np.array([0, 1, 0, 1])
    curve = metrics.reliability(probs, y, bins=2, width="mass")
    np.testing.assert_allclose(curve.confidence, [0.60, 0.90])
    assert curve.accuracy.tolist() == [0.5, 0.5]
    assert metrics.ece(probs, y, bins=2, width="mass") == pytest.approx(0.25)


def test_bins_of_equal_mass_differ_by_one_example_at_most(predicted):
    counts = metrics.reliability(*predicted, width="mass").counts
    assert counts.sum() == 400
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("width", ["equal", "mass"])
def test_the_order_of_the_data_does_not_matter(width):
    rng = generator(0, "ties")
    confidence = rng.choice([0.5, 0.7, 0.9], 100)
    probs, y = np.stack([confidence, 1 - confidence], axis=1), rng.integers(0, 2, 100)
    want = metrics.ece(probs, y, width=width)
    for _ in range(5):
        order = rng.permutation(100)
        assert metrics.ece(probs[order], y[order], width=width) == pytest.approx(want)


def test_one_certainty_for_all_is_one_full_bin():
    curve = metrics.reliability(np.tile([0.8, 0.2], (10, 1)), np.array([0] * 8 + [1] * 2), width="mass")
    assert sorted(curve.counts.tolist()) == [0] * 14 + [10]
    assert metrics.ece(np.tile([0.8, 0.2], (10, 1)), np.array([0] * 8 + [1] * 2), width="mass") == pytest.approx(0)


def test_a_model_that_tells_its_true_chances_is_calibrated():
    rng = generator(1, "calibrated")
    probs = rng.dirichlet(np.ones(3), 20_000)
    y = (rng.random((20_000, 1)) > probs.cumsum(axis=1)[:, :-1]).sum(axis=1)
    boast = probs**3 / (probs**3).sum(axis=1, keepdims=True)
    for width in ("equal", "mass"):  # chance alone gives about 0.01
        assert metrics.ece(probs, y, width=width) < 0.02
        assert metrics.ece(boast, y, width=width) > 0.1


@few
@given(st.lists(st.tuples(st.sampled_from([-1.5, 0.0, 0.25, 1.0]), st.booleans()), min_size=2, max_size=30))
def test_detection_scores_are_those_of_scikit_learn(pairs):
    scores, positive = np.array([score for score, _ in pairs]), np.array([sort for _, sort in pairs])
    if positive.all() or not positive.any():
        positive[0] = not positive[0]
    assert metrics.auroc(scores, positive) == pytest.approx(sklearn_metrics.roc_auc_score(positive, scores))
    assert metrics.aupr(scores, positive) == pytest.approx(sklearn_metrics.average_precision_score(positive, scores))


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = generator(2, "pairs")
    scores, positive = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.3
    above = scores[positive][:, None] - scores[~positive]
    assert metrics.auroc(scores, positive) == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())


def test_infinite_scores_only_rank_first_or_last():
    scores, positive = np.array([np.inf, 0.0, -np.inf]), np.array([True, True, False])
    assert metrics.auroc(scores, positive) == metrics.aupr(scores, positive) == 1.0


def test_a_score_that_tells_nothing_gets_the_share_of_positives():
    positive = np.array([True, False, False, False])
    assert metrics.auroc(np.zeros(4), positive) == 0.5
    assert metrics.aupr(np.zeros(4), positive) == 0.25


def test_entropy_finds_mistakes_and_strangers(predicted):
    probs, y = predicted
    assert metrics.auroc(metrics.entropy(probs), metrics.mistakes(probs, y)) > 0.6
    strangers = np.full((50, 5), 0.2)
    scores = np.concatenate([metrics.entropy(probs), metrics.entropy(strangers)])
    assert metrics.auroc(scores, np.repeat([False, True], [400, 50])) == 1.0


def test_entropy_is_that_of_scipy(predicted):
    np.testing.assert_allclose(metrics.entropy(predicted[0]), stats.entropy(predicted[0], axis=1))


@few
@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 6), st.floats(0.01, 10), st.integers(0, 99))
def test_uncertainty_has_two_parts_and_neither_is_negative(particles, n, k, spread, seed):
    members = generator(seed, "members").dirichlet(np.full(k, spread), (particles, n))
    split = metrics.uncertainty(members)
    np.testing.assert_array_equal(split.total, split.aleatoric + split.epistemic)
    assert (split.epistemic >= 0).all()
    np.testing.assert_allclose(split.total, metrics.entropy(members.mean(axis=0)), atol=1e-12)


def test_particles_that_agree_leave_only_chance():
    row = np.array([[0.1, 0.2, 0.7]])
    split = metrics.uncertainty(np.stack([row, row, row]))
    assert split.epistemic[0] == pytest.approx(0, abs=1e-15)
    assert split.aleatoric[0] == pytest.approx(stats.entropy(row[0]))


def test_the_epistemic_part_is_the_mean_divergence_from_the_average():
    members = generator(3, "members").dirichlet(np.ones(4), (5, 3))
    divergence = stats.entropy(members, members.mean(axis=0)[None], axis=2).mean(axis=0)
    np.testing.assert_allclose(metrics.uncertainty(members).epistemic, divergence)


@pytest.mark.parametrize("count", [2, 3, 5, 30, 1000])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_the_interval_is_student_s(count, level):
    values = generator(count, "values").normal(size=count)
    low, high = stats.t.interval(level, count - 1, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(metrics.mean_interval(values, level), [values.mean(), low, high], rtol=1e-6)


def test_one_seed_has_no_interval():
    np.testing.assert_array_equal(metrics.mean_interval(np.array([2.0])), [2.0, np.nan, np.nan])


good, labels = np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("probs", "y", "error", "message"),
    [
        (np.array([0.5, 0.5]), labels, MismatchError, r"probs: expected shape \(examples, classes\), got \(2,\)"),
        (np.zeros((0, 3)), np.zeros(0, int), DataError, "probs: empty"),
        (np.array([[0.5, np.nan], [0.5, 0.5]]), labels, DataError, "probs: 1 of 4 numbers are NaN"),
        (np.array([[0.5, 0.5], [0.5, 0.6]]), labels, DataError, r"probs: row 1 has sum 1\.1 .* logits"),
        (np.array([[1.5, -0.5], [0.5, 0.5]]), labels, DataError, r"probs: row 0 .* smallest entry -0\.5"),
        (good, np.array([0, 2]), DataError, r"y: label 2 is outside the 2 classes \(0 to 1\)"),
        (good, np.array([0, -1]), DataError, "y: label -1 is outside"),
        (good, np.array([0, 1, 1]), MismatchError, r"y: expected 2 class indices.* got shape \(3,\)"),
        (good, np.eye(2, dtype=int), MismatchError, r"y: expected 2 class indices.* got shape \(2, 2\)"),
        (good, np.array([0.0, 1.0]), DataError, "y: expected integer class indices, got float64"),
    ],
)
def test_what_cannot_be_scored_is_named(probs, y, error, message):
    for score in (metrics.accuracy, metrics.nll, metrics.brier, metrics.ece, metrics.reliability, metrics.mistakes):
        with pytest.raises(error, match=message):
            score(probs, y)


def test_rows_may_miss_one_by_a_thousandth():
    assert metrics.accuracy(np.array([[0.5996, 0.4]]), np.array([0])) == 1.0
    with pytest.raises(DataError, match="row 0"):
        metrics.accuracy(np.array([[0.598, 0.4]]), np.array([0]))


@pytest.mark.usefixtures("unchecked")
def test_particles_that_are_not_probabilities_are_named():
    with pytest.raises(MismatchError, match="members: expected shape"):
        metrics.uncertainty(good)
    with pytest.raises(DataError, match="probs: row 3 has sum 2"):
        metrics.uncertainty(np.stack([good, [[0.5, 0.5], [1.0, 1.0]]]))


@pytest.mark.usefixtures("unchecked")
def test_detection_that_cannot_be_scored_is_named():
    one, both = np.array([True, True]), np.array([True, False])
    for score in (metrics.auroc, metrics.aupr):
        with pytest.raises(DataError, match="positive: 2 of 2 are True"):
            score(np.zeros(2), one)
        with pytest.raises(DataError, match="scores: 1 of 2 numbers are NaN"):
            score(np.array([0.0, np.nan]), both)
        with pytest.raises(MismatchError, match=r"got \(3,\) and \(2,\)"):
            score(np.zeros(3), both)
        with pytest.raises(DataError, match="positive: expected bool, got int64"):
            score(np.zeros(2), np.array([0, 1]))


def test_settings_that_make_no_sense_are_refused():
    for setting in ({"bins": 0}, {"width": "depth"}):
        with pytest.raises((ConfigError, jaxtyping.TypeCheckError), match=r"bins|width"):
            metrics.ece(good, labels, **setting)
    with pytest.raises(ConfigError, match="level"):
        metrics.mean_interval(np.ones(3), level=95.0)
    with pytest.raises(DataError, match="values: empty"):
        metrics.mean_interval(np.zeros(0))
    with pytest.raises(DataError, match="values: 1 of 2"):
        metrics.mean_interval(np.array([1.0, np.nan]))
