"""A posterior to act on: the same numbers in any batches, sums that add up, and folders that know their learner."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from bayes_persona import ConfigError, DataError, MismatchError, Posterior, RunError, average, nptl, predictions
from bayes_persona.metrics import entropy
from bayes_persona.nptl import Predictor, classification, model_nll, multilabel, regression
from bayes_persona.nptl.learner_torch import Config, TorchLearner

# ArviZ announces its next version on the first import of a day.
announced = pytest.mark.filterwarnings(r"ignore:\s*ArviZ is undergoing:FutureWarning")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3)).astype(np.float32)
WEIRD = (30 * RNG.normal(size=(50, 3))).astype(np.float32)
DATA = {
    "categorical": classification(X, (X[:, 0] + RNG.normal(size=50) > 0).astype(int), 2),
    "bernoulli": multilabel(X, (X[:, :2] + RNG.normal(size=(50, 2)) > 0).astype(int)),
    "gaussian": regression(X, X[:, :2] + 0.5 * RNG.normal(size=(50, 2))),
}


def fitted(likelihood, particles=4, rho=0.3):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    learner = TorchLearner(net, Config(steps=30, batch=16, lr=0.05), likelihood=likelihood)
    data = DATA[likelihood]
    method = nptl.NPTL(particles=particles, rho=rho)
    return Predictor(learner, method.sample(learner, nptl.linear_probe(learner, data), data, seed=0))


@pytest.fixture(scope="module")
def predictors():
    return {likelihood: fitted(likelihood) for likelihood in DATA}


class Counting:
    """Predicts, and remembers how many examples it was asked for at a time."""

    likelihood, params, settings = "categorical", {"p": np.full(2, 0.5)}, {}

    def __init__(self):
        self.asked = []

    def fit(self, params, data, seed):
        return params

    def predict(self, params, x):
        self.asked.append(len(x))
        return np.tile(params["p"], (len(x), 1))


@pytest.mark.parametrize("likelihood", DATA)
@pytest.mark.parametrize("batch", [1, 7, 50, 1000])
def test_batches_change_nothing(predictors, likelihood, batch):
    predictor = predictors[likelihood]
    assert np.allclose(predictor.predict(X, batch), average(predictions(predictor.learner, predictor.posterior, X)))
    for one, other in zip(predictor.uncertainty(X, batch), predictor.uncertainty(X), strict=True):
        assert np.allclose(one, other, atol=1e-6)
    data = DATA[likelihood]
    assert np.allclose(predictor.log_likelihood(data, batch), predictor.log_likelihood(data), atol=1e-5)


def test_never_more_than_one_batch_is_asked_for():
    learner = Counting()
    particle = {"p": np.array([0.25, 0.75])}
    predictor = Predictor(learner, Posterior((particle, particle)))
    assert predictor.predict(np.zeros((10, 1)), batch=4).shape == (10, 2)
    assert learner.asked == [4, 4, 4, 4, 2, 2]


def test_members_are_computed_when_they_are_asked_for():
    learner = Counting()
    members = Predictor(learner, Posterior(({"p": np.array([0.25, 0.75])},) * 3)).members(np.zeros((10, 1)))
    assert learner.asked == []
    assert next(members).shape == (10, 2)
    assert learner.asked == [10]
    assert len(list(members)) == 2


@pytest.mark.parametrize("likelihood", DATA)
def test_what_is_not_known_adds_up_and_is_never_negative(predictors, likelihood):
    total, aleatoric, epistemic = predictors[likelihood].uncertainty(X)
    assert total.shape == (50,)
    assert np.allclose(total, aleatoric + epistemic)
    assert (epistemic >= 0).all()
    assert (aleatoric > 0).all()


def test_of_classes_the_total_is_the_entropy_of_the_average(predictors):
    predictor = predictors["categorical"]
    assert np.allclose(predictor.uncertainty(X).total, entropy(predictor.predict(X)))


def test_of_one_yes_or_no_label_the_split_is_that_of_two_classes():
    members = RNG.random((5, 9, 1))
    posterior = Posterior(tuple({"p": member} for member in members))

    class Recall(Counting):
        def predict(self, params, x):
            return params["p"]

    class Two(Recall):
        def predict(self, params, x):
            return np.concatenate([1 - params["p"], params["p"]], axis=1)

    one, two = Recall(), Two()
    one.likelihood = "bernoulli"
    for kind in ("epistemic", "entropy", "confidence"):
        scores = [Predictor(learner, posterior).ood_score(np.zeros((9, 1)), kind) for learner in (one, two)]
        assert np.allclose(*scores)


def test_of_regression_the_total_is_the_variance_of_draws_from_the_mixture(predictors):
    predictor = predictors["gaussian"]
    members = np.stack(list(predictor.members(X)))
    noise = predictor.posterior.stacked()["noise.variance"]
    rng = np.random.default_rng(0)
    draws = members + np.sqrt(noise)[:, None] * rng.normal(size=(4000, *members.shape))
    expected = draws.reshape(-1, *members.shape[1:]).var(axis=0).sum(axis=1)
    assert np.abs(predictor.uncertainty(X).total / expected - 1).max() < 0.05


def test_a_single_particle_knows_no_lack_of_data(predictors):
    for likelihood, predictor in predictors.items():
        alone = Predictor(predictor.learner, Posterior(predictor.posterior[:1]))
        assert alone.uncertainty(X).epistemic.max() < 1e-9, likelihood


def test_examples_from_elsewhere_are_strange(predictors):
    assert predictors["gaussian"].ood_score(WEIRD).mean() > predictors["gaussian"].ood_score(X).mean()
    assert predictors["categorical"].ood_score(WEIRD).mean() > predictors["categorical"].ood_score(X).mean()


def test_scores_of_probabilities_are_refused_for_regression(predictors):
    with pytest.raises(ConfigError, match="'entropy' is of probabilities, and this is a regression"):
        predictors["gaussian"].ood_score(X, "entropy")


def test_impossible_batches_are_named(predictors):
    with pytest.raises(ConfigError, match="batch: expected at least 1, got 0"):
        predictors["categorical"].predict(X, 0)
    with pytest.raises(DataError, match="no example to predict"):
        predictors["categorical"].predict(X[:0])


@pytest.mark.parametrize("likelihood", DATA)
def test_the_log_likelihood_is_that_of_the_model_average(predictors, likelihood):
    predictor = predictors[likelihood]
    logs = predictor.log_likelihood(DATA[likelihood])
    assert logs.shape == (4, 50)
    averaged = np.log(np.exp(logs).mean(axis=0))
    assert -averaged.mean() == pytest.approx(model_nll(predictor.learner, predictor.posterior, DATA[likelihood]))


@announced
@pytest.mark.filterwarnings("ignore:The inplace keyword")  # ArviZ speaks to pandas as it once was
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto:UserWarning")  # of forty draws it is not sure
def test_arviz_leaves_one_out_and_compares():
    import arviz

    data, learnt = DATA["categorical"], fitted("categorical", particles=40, rho=3.0)
    rng, start = np.random.default_rng(0), learnt.learner.params
    guesses = [{name: p + 0.05 * rng.normal(size=p.shape) for name, p in start.items()} for _ in range(40)]
    exports = {
        "learnt": learnt.to_inference_data(data),
        "not learnt": Predictor(learnt.learner, Posterior(tuple(guesses))).to_inference_data(data),
    }
    loo = arviz.loo(exports["learnt"])
    assert (loo.n_samples, loo.n_data_points) == (40, 50)
    inside = -50 * model_nll(learnt.learner, learnt.posterior, data)
    assert inside - 5 < loo.elpd_loo <= inside  # to be left out costs something, and not much
    assert list(arviz.compare(exports).index) == ["learnt", "not learnt"]


def test_what_is_saved_is_loaded_to_the_bit(predictors, tmp_path):
    for likelihood, predictor in predictors.items():
        predictor.save(tmp_path / likelihood)
        again = Predictor.load(tmp_path / likelihood, predictor.learner)
        assert np.array_equal(again.predict(X), predictor.predict(X))


def test_another_learner_is_refused_by_the_name_of_the_setting(predictors, tmp_path):
    predictor = predictors["categorical"]
    predictor.save(tmp_path)
    with pytest.raises(MismatchError, match=r"lr was 0\.05, is now 0\.5; load it with a learner made as it was then"):
        Predictor.load(tmp_path, predictor.learner.with_config(lr=0.5))
    with pytest.raises(MismatchError, match="likelihood was categorical, is now gaussian"):
        Predictor.load(tmp_path, predictors["gaussian"].learner)
    head = TorchLearner(predictor.learner._net, predictor.learner.config, trainable=("2.*",))
    with pytest.raises(MismatchError, match=r"trained was .*, frozen was "):
        Predictor.load(tmp_path, head)


def test_a_net_of_another_width_is_refused(predictors, tmp_path):
    predictors["categorical"].save(tmp_path)
    wider = TorchLearner(
        nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 2)), predictors["categorical"].learner.config
    )
    with pytest.raises(MismatchError, match=r"net was .*, is now"):
        Predictor.load(tmp_path, wider)


def test_the_device_may_change(tmp_path):
    there, here = Counting(), Counting()
    there.settings, here.settings = {"device": "cuda", "lr": 1}, {"device": "cpu", "lr": 1}
    Predictor(there, Posterior((Counting.params,))).save(tmp_path)
    assert len(Predictor.load(tmp_path, here).posterior) == 1


def test_a_folder_is_never_overwritten_and_strange_ones_are_named(predictors, tmp_path):
    predictor = predictors["categorical"]
    predictor.save(tmp_path)
    with pytest.raises(RunError, match="holds a posterior already"):
        predictor.save(tmp_path)
    with pytest.raises(RunError, match="there is no such file"):
        Predictor.load(tmp_path / "nowhere", predictor.learner)
    path = tmp_path / "learner.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "format": 99}))
    with pytest.raises(RunError, match="newer version"):
        Predictor.load(tmp_path, predictor.learner)
    path.write_text("[1, 2]")
    with pytest.raises(RunError, match="not what a predictor saves"):
        Predictor.load(tmp_path, predictor.learner)
