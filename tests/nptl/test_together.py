"""Many fits in one pass: the numbers of one after another, whatever the net, the task and what is trained."""

import numpy as np
import pytest
import torch
from torch import nn

from bayes_persona import ConfigError, Data, DataError, MismatchError, nptl
from bayes_persona.nptl.learner_torch import Config, TorchLearner
from bayes_persona.nptl.method import GROUP, Fit
from bayes_persona.posterior import Posterior
from tests.engines import compared

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 1, 4, 4)).astype(np.float32)
CLASSES = nptl.classification(X, RNG.integers(3, size=30), classes=3)
NUMBERS = nptl.regression(X, RNG.normal(size=(30, 3)))
LABELS = nptl.multilabel(X, RNG.integers(2, size=(30, 3)))


def net(*extra):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), *extra, nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def equal(one: Posterior, other: Posterior, tolerance=2e-5):
    for name, stack in one.stacked().items():
        np.testing.assert_allclose(other.stacked()[name], stack, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("likelihood", "data"), [("categorical", CLASSES), ("gaussian", NUMBERS), ("bernoulli", LABELS)]
)
def test_one_pass_gives_the_particles_of_one_after_another(likelihood, data):
    learner = TorchLearner(net(), Config(steps=12, batch=8, weight_decay=0.01, anchor=0.02), likelihood=likelihood)
    base = nptl.linear_probe(learner, data)
    serial, together = (
        nptl.NPTL(particles=4).sample(learner, base, data, seed=3, engine=engine) for engine in ("serial", "together")
    )
    equal(serial, together)
    assert np.abs(serial.stacked()["3.weight"].std(axis=0)).max() > 1e-3  # and they are not all the same one


def test_processes_give_the_particles_of_one_after_another_to_the_bit():
    assert compared("processes(2)") == "equal"


@pytest.mark.parametrize("trainable", [("3.*",), ("0.*", "3.*"), ("*.bias",)])
def test_so_it_does_for_a_part_of_the_parameters_and_for_the_head_alone(trainable):
    learner = TorchLearner(net(), Config(steps=10, batch=8), trainable=trainable)
    base = nptl.zero_shot(learner, CLASSES)
    serial, together = (
        nptl.NPTL(particles=3).sample(learner, base, CLASSES, seed=3, engine=engine)
        for engine in ("serial", "together")
    )
    assert set(serial[0]) == set(learner.params) <= set(TorchLearner(net()).params)
    equal(serial, together)


def test_frozen_batchnorm_is_computed_together_and_learning_one_is_not():
    frozen = TorchLearner(net(nn.BatchNorm2d(4)), Config(steps=8, batch=8))
    fits = [Fit(frozen.params, CLASSES, seed) for seed in range(3)]
    for fit, found in zip(fits, frozen.fit_many(fits), strict=True):
        alone = frozen.fit(*fit)
        for name in alone:
            np.testing.assert_allclose(found[name], alone[name], atol=2e-5)
    learning = frozen.with_config(batch_norm="learned")
    assert "1.running_mean" in learning.params
    assert "1.running_mean" not in frozen.params
    assert not learning.prefers_together(CLASSES)
    with pytest.raises(ConfigError, match="BatchNorm need a pass for each member"):
        learning.fit_many([Fit(learning.params, CLASSES, 0)])


def test_learning_batchnorm_moves_its_statistics():
    learner = TorchLearner(net(nn.BatchNorm2d(4)), Config(steps=8, batch=8, batch_norm="learned"))
    fitted = learner.fit(learner.params, CLASSES, 0)
    assert np.abs(fitted["1.running_mean"] - learner.params["1.running_mean"]).max() > 1e-3
    assert fitted["1.num_batches_tracked"] == 8


def test_different_inputs_for_every_member_are_kept_apart():
    learner = TorchLearner(net(), Config(steps=6, batch=8))
    fits = [Fit(learner.params, CLASSES._replace(x=X + shift), seed=1) for shift in (0, 1)]
    together = learner.fit_many(fits)
    for fit, found in zip(fits, together, strict=True):
        alone = learner.fit(*fit)
        assert max(np.abs(found[name] - alone[name]).max() for name in alone) < 2e-5
    with pytest.raises(MismatchError, match="equally many examples"):
        learner.fit_many([fits[0], fits[1]._replace(data=nptl.classification(X[:5], np.zeros(5, int), 3))])


def test_a_resumed_group_gives_the_same_particles_to_the_bit(tmp_path):
    learner = TorchLearner(net(), Config(steps=5, batch=8))
    base = nptl.linear_probe(learner, CLASSES)
    method = nptl.NPTL(particles=GROUP + 2)
    straight = method.sample(learner, base, CLASSES, seed=3, engine="together", folder=tmp_path)
    for lost in (1, GROUP):
        (tmp_path / "posterior" / f"{lost:05d}.safetensors").unlink()
    resumed = method.sample(learner, base, CLASSES, seed=3, engine="together", folder=tmp_path)
    for one, other in zip(straight, resumed, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_small_nets_go_together_and_large_ones_and_dropout_do_not():
    assert TorchLearner(net(), Config(batch=8)).prefers_together(CLASSES)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(16, 4000), nn.ReLU(), nn.Linear(4000, 1000), nn.Linear(1000, 3))
    assert not TorchLearner(wide).prefers_together(CLASSES)
    assert TorchLearner(wide, trainable=("4.*",)).prefers_together(CLASSES)  # nothing but a matrix product
    assert not TorchLearner(net(nn.Dropout(0.1))).prefers_together(CLASSES)


def test_a_learner_that_cannot_is_named():
    class Mean:
        def fit(self, params, data, seed):
            return {"mean": np.average(data.y, axis=0, weights=data.weights)}

        def predict(self, params, x):
            return np.tile(params["mean"], (len(x), 1))

    base = nptl.BaseMeasure({}, CLASSES.y)
    with pytest.raises(ConfigError, match="Mean cannot fit several together"):
        nptl.NPTL(2).sample(Mean(), base, CLASSES, seed=0, engine="together")


class Sometimes:
    """Fails on the draws whose first label weighs more than its share."""

    def fit(self, params, data, seed):
        if data.weights[0] > 1:
            raise DataError("fit: the loss at step 3 is not finite")
        return {"mean": np.average(data.y, axis=0, weights=data.weights)}

    def predict(self, params, x):
        return np.tile(params["mean"], (len(x), 1))


def test_a_draw_that_diverges_is_an_error_unless_such_draws_are_excluded():
    base = nptl.BaseMeasure({}, CLASSES.y)
    with pytest.raises(DataError, match=r"draw \d+: fit: the loss at step 3"):
        nptl.NPTL(particles=20).sample(Sometimes(), base, CLASSES, seed=0)
    with pytest.warns(UserWarning, match=r"\d+ of 20 draws failed and are left out; the first: draw"):
        kept = nptl.NPTL(particles=20, exclude_failed=True).sample(Sometimes(), base, CLASSES, seed=0)
    assert 0 < len(kept) < 20
    heavy = CLASSES._replace(weights=np.r_[1e9, np.ones(29)])
    with pytest.raises(DataError, match="all 3 draws failed"):
        nptl.NPTL(particles=3, exclude_failed=True).sample(Sometimes(), base, heavy, seed=0)


def test_one_member_that_diverges_leaves_the_others_as_they_are():
    learner = TorchLearner(net(), Config(steps=20, batch=30, lr=0.05))
    wild = Data(X * 1e12, CLASSES.y, CLASSES.weights)
    fits = [Fit(learner.params, data, seed=1) for data in (CLASSES, wild)]
    good, bad = learner.fit_many(fits)
    assert isinstance(bad, DataError)
    alone = learner.fit(*fits[0])
    assert max(np.abs(good[name] - alone[name]).max() for name in alone) < 2e-5
