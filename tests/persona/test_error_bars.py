"""Error bars: on draws from the very law that they assume they hold as often as they say."""

import numpy as np
import pytest
from scipy import integrate, stats

from bayes_persona import DataError
from bayes_persona.persona import calibration
from bayes_persona.seeds import generator


def people(n, members, factor=1.0, seed=0):
    """Truths, and members drawn around the same centre as the truth, `factor` times too close to it."""
    rng = generator(seed, "people")
    centre = rng.normal(size=(n, 1, 5))
    sd = rng.uniform(0.2, 2.0, size=(n, 1, 5))
    truth = centre + sd * rng.normal(size=(n, 1, 5))
    return centre + sd / factor * rng.normal(size=(n, members, 5)), truth[:, 0]


@pytest.mark.parametrize("members", [3, 8, 50])
def test_intervals_hold_what_they_say_when_the_truth_is_one_more_draw(members):
    read, truth = people(4000, members)
    found = calibration.judge(calibration.spread(read), truth)
    for level in calibration.LEVELS:
        assert found.coverage[level] == pytest.approx(level, abs=0.012)
    assert found.width[0.95] > found.width[0.8] > found.width[0.5]


def test_one_constant_mends_intervals_that_are_too_narrow_on_other_people_too():
    mended, reported = (calibration.spread(people(3000, 8, factor=3.0, seed=s)[0]) for s in (1, 2))
    truths = [people(3000, 8, factor=3.0, seed=s)[1] for s in (1, 2)]
    raw = calibration.judge(reported, truths[1])
    assert raw.coverage[0.8] < 0.5
    constant = calibration.constant(mended, truths[0])
    again = calibration.judge(reported, truths[1], constant=constant)
    assert again.coverage[0.8] == pytest.approx(0.8, abs=0.015)
    assert again.crps < raw.crps


@pytest.mark.parametrize(("mean", "sd", "truth"), [(0.0, 1.0, 0.0), (0.3, 0.7, -1.1), (2.0, 3.0, 9.0)])
def test_crps_is_the_integral_that_defines_it(mean, sd, truth):
    def squared(x):
        return (stats.norm.cdf(x, mean, sd) - (x >= truth)) ** 2

    want = sum(integrate.quad(squared, *ends)[0] for ends in ((mean - 12 * sd, truth), (truth, mean + 12 * sd)))
    have = calibration.crps(*(np.array([value]) for value in (mean, sd, truth)))
    assert have[0] == pytest.approx(want, rel=1e-6)
    assert calibration.crps(np.zeros(1), np.zeros(1), np.full(1, 0.4))[0] == 0.4


def test_factors_that_do_not_count_change_nothing():
    read, truth = people(50, 8)
    counts = np.zeros(truth.shape, bool)
    counts[:, :2] = True
    wrong = np.where(counts, truth, 1e6)
    said = calibration.spread(read)
    assert calibration.judge(said, truth, counts) == calibration.judge(said, wrong, counts)
    assert calibration.constant(said, truth, counts) == calibration.constant(said, wrong, counts)


def test_what_cannot_be_judged_is_refused():
    read, truth = people(5, 4)
    with pytest.raises(DataError, match="one cannot disagree with itself"):
        calibration.spread(read[:, :1])
    with pytest.raises(DataError, match=r"truth: expected shape \(5, 5\), got \(4, 5\)"):
        calibration.judge(calibration.spread(read), truth[:4])
    with pytest.raises(DataError, match="no factor counts"):
        calibration.judge(calibration.spread(read), truth, np.zeros(truth.shape, bool))
    with pytest.raises(DataError, match="agree to the last digit"):
        calibration.constant(calibration.spread(np.repeat(read[:, :1], 4, axis=1)), truth)


def test_a_constant_is_found_though_some_intervals_have_no_width():
    read, truth = people(400, 8)
    read[:20, :, 0] = 0.3  # such as factors that the oracles read as out of their range
    mostly = calibration.spread(read)
    found = calibration.constant(mostly, truth)
    assert calibration.judge(mostly, truth, constant=found).coverage[0.8] == pytest.approx(0.8, abs=0.001)
