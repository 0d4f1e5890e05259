"""A linear head is a convex problem, so its answer is known; its penalty is told by what it was not fitted on."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from bayes_persona import Data
from bayes_persona.nptl import multilabel, regression
from bayes_persona.nptl.head import PENALTIES, choose_penalty, fit_head
from bayes_persona.seeds import generator


def digits(n=120, width=5, classes=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, width)) * [1, 10, 0.1, 1, 1] + 3
    return x, (x[:, 0] - 3 + 0.1 * (x[:, 1] - 3) + rng.normal(size=n) > 0).astype(int) + (x[:, 3] > 3.5)


def test_the_head_is_the_logistic_regression_of_scikit_learn():
    x, y = digits()
    penalty = 0.05
    weight, bias = fit_head(x, Data(x, np.eye(3)[y], np.ones(len(y))), penalty)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    reference = LogisticRegression(C=1 / (penalty * len(y)), tol=1e-8, max_iter=5000).fit(scaled, y)
    ours = x @ weight.T + bias
    theirs = reference.decision_function(scaled)
    assert (
        np.abs((ours - ours.mean(axis=1, keepdims=True)) - (theirs - theirs.mean(axis=1, keepdims=True))).max() < 1e-3
    )


def test_weights_count_like_repeated_examples():
    x, y = digits(n=40)
    repeats = np.arange(40) % 3
    weighted = fit_head(x, Data(x, np.eye(3)[y], repeats.astype(float)), 0.05)
    repeated_x, repeated_y = np.repeat(x, repeats, axis=0), np.repeat(y, repeats)
    repeated = fit_head(repeated_x, Data(repeated_x, np.eye(3)[repeated_y], np.ones(len(repeated_y))), 0.05)
    # The penalty is on standardised weights, and weights do not enter the standardisation: so compare loosely.
    assert np.abs(weighted[0] - repeated[0]).max() < 0.15 * np.abs(repeated[0]).max()


def test_a_feature_that_never_moves_gets_no_weight():
    x, y = digits()
    x[:, 2] = 7.0
    weight, bias = fit_head(x, Data(x, np.eye(3)[y], np.ones(len(y))), 0.05)
    assert np.abs(weight[:, 2]).max() < 1e-9
    assert np.isfinite(bias).all()


def test_the_gaussian_head_is_the_ridge_regression_of_scikit_learn():
    x, _ = digits()
    targets = np.random.default_rng(1).normal(size=(120, 2)) + x[:, :1]
    weight, bias = fit_head(x, regression(x, targets), 0.05, "gaussian")
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    reference = Ridge(alpha=0.05 * len(x)).fit(scaled, targets)
    assert np.abs(x @ weight.T + bias - reference.predict(scaled)).max() < 1e-8


def test_several_labels_are_as_many_logistic_regressions():
    x, y = digits()
    together = fit_head(x, multilabel(x, np.eye(3)[y]), 0.05, "bernoulli")
    for label in range(3):
        alone = fit_head(x, multilabel(x, np.eye(3)[y][:, [label]]), 0.05, "bernoulli")
        assert np.abs(together[0][label] - alone[0][0]).max() < 1e-3


def test_features_that_do_not_move_get_no_weight():
    """A dead feature of 1e-31, or one that only rounding moves, would get a weight that no training survives."""
    rng = np.random.default_rng(0)
    useful = rng.normal(size=(40, 2))
    dead = 1e-31 * rng.normal(size=(40, 1))
    rounded = (1e3 + 5e-5 * rng.normal(size=(40, 1))).astype(np.float32).astype(float)
    data = Data(None, np.eye(2)[(useful[:, 0] > 0).astype(int)], np.ones(40))
    weight, bias = fit_head(np.hstack([useful, dead, rounded]), data, penalty=0.01)
    alone = fit_head(useful, data, penalty=0.01)
    np.testing.assert_allclose(weight[:, :2], alone[0], atol=1e-6)
    np.testing.assert_allclose(bias, alone[1], atol=1e-6)
    assert not weight[:, 2:].any()


def held_out_loss(features, data, penalty, folds=5):
    """By the book: every fold's examples, by a head that is fitted on the others alone."""
    order = generator(0, "folds of penalties").permutation(len(data.y))
    order = order[data.y[order].argmax(axis=1).argsort(kind="stable")]
    losses = np.zeros(len(data.y))
    for fold in range(folds):
        judge = order[fold::folds]
        learn = np.setdiff1d(order, judge)
        seen = Data(None, data.y[learn], data.weights[learn] / data.weights[learn].mean())
        weight, bias = fit_head(features[learn], seen, penalty)
        logits = features[judge] @ weight.T + bias
        logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        losses[judge] = -data.weights[judge] * (data.y[judge] * logs).sum(axis=1)
    return losses.sum()


@pytest.mark.parametrize("signal", [0.2, 1.0, 4.0])
def test_the_penalty_is_the_one_that_others_examples_prefer(signal):
    rng = np.random.default_rng(3)
    y = rng.integers(3, size=75)
    features = rng.normal(size=(75, 20)) + signal * rng.normal(size=(3, 20))[y]
    data = Data(None, np.eye(3)[y], rng.uniform(0.5, 1.5, size=75))
    losses = {penalty: held_out_loss(features, data, penalty) for penalty in PENALTIES}
    assert choose_penalty(features, data) == min(losses, key=lambda penalty: losses[penalty])


def test_the_more_features_say_the_less_they_are_held_back():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=100)
    said = [rng.normal(size=(100, 10)) + signal * np.eye(2, 10)[y] for signal in (0.0, 1.0, 8.0)]
    chosen = [choose_penalty(features, Data(None, np.eye(2)[y], np.ones(100))) for features in said]
    assert chosen[0] == max(PENALTIES)
    assert chosen[2] == min(PENALTIES)
    assert chosen == sorted(chosen, reverse=True)
    target = 3 * said[2][:, :2] + 0.01 * rng.normal(size=(100, 2))
    assert choose_penalty(said[2], regression(said[2], target), "gaussian") == min(PENALTIES)
    assert choose_penalty(said[0], regression(said[0], rng.normal(size=100)), "gaussian") == max(PENALTIES)
    assert choose_penalty(said[2], multilabel(said[2], np.eye(2)[y]), "bernoulli") == min(PENALTIES)


def test_examples_that_cannot_tell_leave_the_middle_of_the_grid():
    middle = PENALTIES[len(PENALTIES) // 2]
    features = np.random.default_rng(0).normal(size=(4, 3))
    assert choose_penalty(features[:1], Data(None, np.eye(2)[[0]], np.ones(1))) == middle
    assert choose_penalty(features, Data(None, np.eye(4), np.ones(4))) == middle  # one of each class
    lonely = Data(None, np.eye(2)[[0, 0, 1, 1]], np.array([4.0, 0.0, 0.0, 0.0]))  # one that counts
    assert choose_penalty(features, lonely) == middle


def test_a_class_with_one_example_does_not_decide():
    """Whoever is left out alone is a surprise to every strength: to the weakest the largest, whatever it is worth."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 50)
    features = rng.normal(size=(100, 10)) + 8 * np.eye(2, 10)[y]
    alone = choose_penalty(features, Data(None, np.eye(3)[y], np.ones(100)))
    more = np.vstack([features, rng.normal(size=(1, 10))])
    assert choose_penalty(more, Data(None, np.eye(3)[[*y, 2]], np.ones(101))) == alone
