import numpy as np
import pytest

from bayes_persona.bma import average, predictions, standard_error
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import generator


class Softmax:
    """A learner of one linear layer that is never fitted."""

    def fit(self, params, data, seed):
        return params

    def predict(self, params, x):
        logits = np.exp(x @ params["weight"])
        return logits / logits.sum(axis=1, keepdims=True)


@pytest.fixture
def posterior():
    rng = generator(0, "bma")
    return Posterior(tuple({"weight": rng.normal(size=(3, 4))} for _ in range(6)))


def test_every_particle_predicts_every_example_in_its_place(posterior):
    x = generator(1, "x").normal(size=(5, 3))
    members = predictions(Softmax(), posterior, x)
    assert members.shape == (6, 5, 4)
    for number, particle in enumerate(posterior):
        np.testing.assert_array_equal(members[number], Softmax().predict(particle, x))


def test_the_average_is_of_probabilities_and_not_of_logits(posterior):
    x = generator(1, "x").normal(size=(5, 3))
    probs = average(predictions(Softmax(), posterior, x))
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    assert not np.allclose(probs, Softmax().predict(posterior.mean(), x))


def test_averaging_by_hand():
    members = np.array([[[1.0, 0.0]], [[0.2, 0.8]], [[0.3, 0.7]]])
    np.testing.assert_allclose(average(members), [[0.5, 0.5]])
    np.testing.assert_allclose(standard_error(members), [[np.sqrt(0.19 / 3)] * 2])


def test_the_average_never_scores_worse_than_its_particles_do_on_average(posterior):
    # Jensen: -log of a mean is at most the mean of -log
    members = predictions(Softmax(), posterior, generator(2, "x").normal(size=(50, 3)))
    assert (-np.log(average(members)) <= -np.log(members).mean(axis=0) + 1e-12).all()


def test_the_standard_error_tells_how_far_averages_scatter():
    members = generator(3, "members").dirichlet(np.ones(3), (2000, 40, 1)).astype(float)
    averages = members.mean(axis=1)
    told = np.mean([standard_error(repeat) for repeat in members[:200]], axis=0)
    np.testing.assert_allclose(told, averages.std(axis=0), rtol=0.05)


def test_one_particle_cannot_tell_its_own_error():
    assert np.isnan(standard_error(np.array([[[0.5, 0.5]]]))).all()
