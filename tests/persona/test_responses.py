"""How qualities respond to knobs: against multivariate normals that are written out whole."""

import itertools

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from bayes_persona import ConfigError
from bayes_persona.persona.responses import Responses, Scales, Seen

SIZES = (2, 3)
PLACES = list(itertools.product(*map(range, SIZES)))
SETS = ((), (0,), (1,), (0, 1))
MEMBERS = np.array([[[knob in one for knob in range(2)] for one in SETS]] * 2)
LOG_PRIOR = np.log([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])
SCALES = Scales(0.3, 0.25, 0.1, 0.15, 0.12, 0.07, 0.06)


def covariance(one, other, causes):
    """Of two responses, each of a subject at a setting, without noise."""
    (p, x), (r, z) = one, other
    alike, equal = all(PLACES[x][k] == PLACES[z][k] for k in causes), x == z
    common = SCALES.level**2 + SCALES.causes**2 * alike + SCALES.rest**2 * equal
    own = SCALES.own_level**2 + SCALES.own_causes**2 * alike + SCALES.own_rest**2 * equal
    return common + own * (p == r)


def table(ones, others, causes):
    return np.array([[covariance(one, other, causes) for other in others] for one in ones])


@pytest.fixture(scope="module")
def seen():
    rng = np.random.default_rng(0)
    n = 14  # of six settings and three subjects, so some were seen twice
    return Seen(rng.integers(6, size=n), rng.integers(3, size=n), rng.uniform(size=(n, 2)))


@pytest.fixture(scope="module")
def written_out(seen):
    """Probabilities of sets, and means and covariances of the new subject's responses given each, one datum a row."""
    data = list(zip(seen.subjects, seen.settings, strict=True))
    new = [(0, x) for x in range(6)]
    probs, means, spreads = np.exp(LOG_PRIOR), np.zeros((2, 4, 6)), np.zeros((4, 6, 6))
    for number, causes in enumerate(SETS):
        between = table(data, data, causes) + SCALES.noise**2 * np.eye(len(data))
        gain = table(new, data, causes) @ np.linalg.inv(between)
        spreads[number] = table(new, new, causes) - gain @ table(data, new, causes)
        for quality in range(2):
            y = seen.shares[:, quality]
            probs[quality, number] *= multivariate_normal(np.full(len(y), 0.5), between).pdf(y)
            means[quality, number] = 0.5 + gain @ (y - 0.5)
    return probs / probs.sum(axis=1, keepdims=True), means, spreads


def test_the_posterior_over_causes_is_that_of_normals_written_out(seen, written_out):
    told = Responses(SIZES, MEMBERS, LOG_PRIOR, seen, SCALES)
    np.testing.assert_allclose(told.posterior, written_out[0], rtol=1e-8)
    marginals = np.stack([written_out[0][:, [1, 3]].sum(axis=1), written_out[0][:, [2, 3]].sum(axis=1)], axis=1)
    np.testing.assert_allclose(told.marginals, marginals, rtol=1e-8)


def test_what_is_expected_is_the_mean_over_causes(seen, written_out):
    probs, means, _ = written_out
    told = Responses(SIZES, MEMBERS, LOG_PRIOR, seen, SCALES)
    np.testing.assert_allclose(told.expected(), np.einsum("qc,qcx->xq", probs, means), rtol=1e-8)


@pytest.mark.parametrize("number", range(4))
def test_draws_given_causes_have_their_mean_and_covariance(seen, written_out, number):
    _, means, spreads = written_out
    told = Responses(SIZES, MEMBERS[:, number : number + 1], np.zeros((2, 1)), seen, SCALES)
    draws = np.stack([told.sample(seed) for seed in range(1200)])
    for quality in range(2):
        error = draws[:, :, quality].mean(axis=0) - means[quality, number]
        assert np.abs(error / np.sqrt(np.diag(spreads[number]) / len(draws))).max() < 4.5
        np.testing.assert_allclose(np.cov(draws[:, :, quality].T), spreads[number], atol=0.2 * spreads[number].max())


def test_causes_are_drawn_as_often_as_they_are_probable():
    either = np.array([[[False], [True]]])
    told = Responses([2], either, np.log([[0.25, 0.75]]), Seen.nothing(1), Scales(causes=10.0, own_causes=10.0))
    far = [np.ptp(told.sample(seed)) > 1 for seed in range(1500)]
    assert np.mean(far) == pytest.approx(0.75 * 0.95, abs=0.04)  # of a table's two cells, 1 in 20 pairs is that near


def test_before_any_data_nothing_is_known_but_the_prior():
    told = Responses(SIZES, MEMBERS, LOG_PRIOR, Seen.nothing(2), SCALES)
    np.testing.assert_allclose(told.posterior, np.exp(LOG_PRIOR))
    np.testing.assert_allclose(told.expected(), np.full((6, 2), 0.5))


def test_sets_that_are_impossible_stay_so(seen):
    log_prior = np.where(np.arange(4) == 3, -np.inf, LOG_PRIOR)
    told = Responses(SIZES, MEMBERS, log_prior, seen, SCALES)
    assert (told.posterior[:, 3] == 0).all()
    np.testing.assert_allclose(told.posterior.sum(axis=1), 1.0)


def test_ones_own_generations_tell_more_than_anothers():
    shares = np.array([[0.9, 0.9]])
    own, others = (Seen(np.array([2]), np.array([subject]), shares) for subject in (0, 1))
    mine, theirs = (Responses(SIZES, MEMBERS, LOG_PRIOR, one, SCALES).expected()[2] for one in (own, others))
    assert (theirs > 0.5).all()
    assert (theirs < mine).all()


def test_scales_are_above_nothing():
    with pytest.raises(ConfigError, match="own_causes: expected"):
        Scales(own_causes=-0.1)
