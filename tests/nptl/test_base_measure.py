"""The linear probe is a convex problem, so its answer is known."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from bayes_persona import ConfigError, Data, DataError
from bayes_persona.nptl import classification, linear_probe
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.nptl.likelihood import fit_head


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


def test_the_base_measure_believes_what_the_probed_net_says():
    torch.manual_seed(0)
    x, y = digits()
    learner = TorchLearner(nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)), head="2")
    data = classification(x.astype(np.float32), y, classes=3)
    base = linear_probe(learner, data)
    assert np.abs(base.labels - learner.predict(base.params, data.x)).max() < 1e-5
    assert np.array_equal(base.params["0.weight"], learner.params["0.weight"])
    frequencies = np.bincount(y) / len(y)
    assert -np.log(base.labels[np.arange(len(y)), y]).mean() < -np.log(frequencies[y]).mean() - 0.05


def test_a_probe_without_penalty_is_refused():
    with pytest.raises(ConfigError, match="penalty: expected more than 0"):
        linear_probe(TorchLearner(nn.Linear(2, 2), head=""), Data(np.zeros((2, 2)), np.eye(2), np.ones(2)), penalty=0.0)


def test_features_that_overflow_are_named():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    nn.init.constant_(net[0].weight, 1e38)
    data = classification(np.full((2, 2), 1e3, np.float32), np.array([0, 1]), classes=2)
    with pytest.raises(DataError, match="NaN or infinite features"):
        linear_probe(TorchLearner(net, head="1"), data)
