"""The jax learner: the same contract, and the same descent as torch's."""

import numpy as np
import pytest
import torch
from torch import nn

from bayes_persona import ConfigError, DataError, MismatchError, nptl
from bayes_persona.contracts import check_learner
from bayes_persona.nptl.descent import Descent
from bayes_persona.nptl.learner_jax import Head, JaxLearner
from bayes_persona.nptl.learner_torch import Config, TorchLearner
from bayes_persona.nptl.likelihood import NOISE
from bayes_persona.nptl.method import Fit

jax = pytest.importorskip("jax")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype(np.float32)
DATA = nptl.classification(X, RNG.integers(3, size=24), classes=3)
TASKS = {
    "categorical": DATA,
    "gaussian": nptl.regression(X, RNG.normal(size=(24, 3))),
    "bernoulli": nptl.multilabel(X, RNG.integers(2, size=(24, 3))),
}


def body(params, x):
    return jax.nn.tanh(x @ params["body"]["kernel"] + params["body"]["bias"])


def apply(params, x):
    return body(params, x) @ params["head"]["kernel"] + params["head"]["bias"]


def pair(likelihood="categorical", **settings):
    """The same net in both frameworks."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    params = {
        "body": {"kernel": weights["0.weight"].T, "bias": weights["0.bias"]},
        "head": {"kernel": weights["2.weight"].T, "bias": weights["2.bias"]},
    }
    settings = {"steps": 30, "batch": 8, "lr": 0.1, **settings}
    head = Head(body, "head.kernel", "head.bias")
    return (
        JaxLearner(apply, params, Descent(**settings), head=head, likelihood=likelihood),
        TorchLearner(net, Config(**settings), likelihood=likelihood),
    )


def test_the_learner_keeps_the_contract():
    learner, _ = pair(steps=5)
    check_learner(learner, learner.params, DATA)


@pytest.mark.parametrize("likelihood", TASKS)
def test_it_descends_as_torch_does(likelihood):
    ours, theirs = pair(likelihood, weight_decay=0.01, anchor=0.02)
    data = TASKS[likelihood]
    found, other = ours.fit(ours.params, data, seed=3), theirs.fit(theirs.params, data, seed=3)
    np.testing.assert_allclose(found["body.kernel"], other["0.weight"].T, atol=1e-5)
    np.testing.assert_allclose(ours.predict(found, X), theirs.predict(other, X), atol=1e-5)
    if likelihood == "gaussian":
        np.testing.assert_allclose(found[NOISE], other[NOISE], rtol=1e-4)


def test_a_posterior_is_the_same_in_either_framework_and_engine():
    ours, theirs = pair()
    draws = []
    for learner, engine in ((ours, "serial"), (ours, "together"), (theirs, "together")):
        base = nptl.linear_probe(learner, DATA)
        posterior = nptl.NPTL(particles=3).sample(learner, base, DATA, seed=1, engine=engine)
        draws.append(np.stack([learner.predict(particle, X) for particle in posterior]))
    np.testing.assert_allclose(draws[0], draws[1], atol=1e-5)
    np.testing.assert_allclose(draws[0], draws[2], atol=1e-4)
    assert draws[0].std(axis=0).max() > 0.01


def test_small_nets_go_together():
    assert pair()[0].prefers_together(DATA)


def test_a_diverging_member_fails_alone():
    learner, _ = pair(lr=0.1)
    fits = [Fit(learner.params, DATA._replace(x=X * scale), seed=0) for scale in (1.0, np.inf)]
    good, bad = learner.fit_many(fits)
    assert isinstance(bad, DataError)
    assert np.isfinite(good["head.kernel"]).all()
    with pytest.raises(DataError, match="the loss at step 0 is not finite; lower lr"):
        learner.fit(*fits[1])


def test_what_cannot_be_is_named():
    learner, _ = pair()
    with pytest.raises(ConfigError, match=r"'top' is not among the parameters; there are: body.bias"):
        JaxLearner(apply, learner._template, head=Head(body, "top", "head.bias"))
    with pytest.raises(ConfigError, match="was not told where its head is"):
        JaxLearner(apply, learner._template).features(learner.params, X)
    with pytest.raises(MismatchError, match="the net has 3 outputs, the labels 7 columns"):
        learner.fit(learner.params, nptl.classification(X, np.zeros(24, int), 7), 0)
    with pytest.raises(MismatchError, match=r"head: head.kernel: expected shape \(8, 3\), got \(5, 3\)"):
        learner.with_head(learner.params, np.zeros((3, 5)), np.zeros(3))
    with pytest.raises(MismatchError, match=r"the net fails on examples of shape \(5,\)"):
        learner.predict(learner.params, np.zeros((2, 5), np.float32))
    with pytest.raises(DataError, match="no example to predict"):
        learner.predict(learner.params, X[:0])
