"""The linear probe is a convex problem, so its answer is known."""

import numpy as np
import pytest
import torch
from torch import nn

from bayes_persona import ConfigError, Data, DataError, MismatchError
from bayes_persona.nptl import classification, linear_probe, regression, zero_shot
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.nptl.likelihood import NOISE


def digits(n=120, width=5, classes=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, width)) * [1, 10, 0.1, 1, 1] + 3
    return x, (x[:, 0] - 3 + 0.1 * (x[:, 1] - 3) + rng.normal(size=n) > 0).astype(int) + (x[:, 3] > 3.5)


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


def linear_net():
    torch.manual_seed(0)
    return TorchLearner(nn.Linear(5, 3))


def test_cross_fitted_beliefs_have_not_seen_their_label():
    x, y = digits(n=60)
    data = classification(x.astype(np.float32), y, classes=3)
    base = linear_probe(linear_net(), data, folds=5)
    for i in (0, 17, 59):
        flipped = y.copy()
        flipped[i] = (y[i] + 1) % 3
        other = linear_probe(linear_net(), classification(data.x, flipped, classes=3), folds=5)
        assert np.abs(other.labels[i] - base.labels[i]).max() < 1e-9
        assert np.abs(other.labels - base.labels).max() > 1e-4
    plain = linear_probe(linear_net(), data)
    assert np.array_equal(base.params["weight"], plain.params["weight"])  # draws start from the probe of all
    true = np.arange(60), y
    assert np.log(base.labels[true]).mean() < np.log(plain.labels[true]).mean()  # honest is less sure
    for folds in (1, 61):
        with pytest.raises(ConfigError, match=f"folds: expected 0, or 2 to 60 .*, got {folds}"):
            linear_probe(linear_net(), data, folds=folds)


def test_a_net_that_knows_the_task_is_believed_as_it_is():
    x, y = digits(n=10)
    data, learner = classification(x.astype(np.float32), y, classes=3), linear_net()
    base = zero_shot(learner, data)
    assert np.array_equal(base.labels, learner.predict(learner.params, data.x))
    with pytest.raises(MismatchError, match="the net has 3 outputs, the labels 4 columns"):
        zero_shot(learner, classification(data.x, y, classes=4))


def test_the_prior_of_a_regression_believes_in_noise():
    x, _ = digits(n=400)
    y = x[:, :3] @ np.array([1.0, 0.1, 2.0]) + 0.3 * np.random.default_rng(2).normal(size=400)
    learner = TorchLearner(nn.Linear(5, 1), likelihood="gaussian")
    base = linear_probe(learner, regression(x.astype(np.float32), y), penalty=1e-6)
    assert base.params[NOISE] == pytest.approx(0.09, rel=0.2)
    assert np.corrcoef(base.labels[:, 0], y)[0, 1] > 0.95
