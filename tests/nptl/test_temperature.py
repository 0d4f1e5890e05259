"""Laws of temperature scaling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_persona import ConfigError, DataError
from bayes_persona.metrics import nll
from bayes_persona.nptl import fit_temperature, tempered
from bayes_persona.nptl.temperature import RANGE

few = settings(max_examples=40, derandomize=True, deadline=None)


def problem(seed, n=60, classes=4, sharpness=0.5):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, sharpness), n)
    return probs, rng.integers(classes, size=n)


@few
@given(st.integers(0, 10_000), st.floats(0.02, 50))
def test_the_most_probable_class_stays_the_most_probable(seed, temperature):
    probs, _ = problem(seed)
    after = tempered(probs, temperature)
    assert np.allclose(after.sum(axis=1), 1)
    # rounding may tie two classes that were 1e-16 apart, never swap them
    assert np.array_equal(after[np.arange(len(probs)), probs.argmax(axis=1)], after.max(axis=1))


@few
@given(st.integers(0, 10_000))
def test_a_temperature_of_one_changes_nothing(seed):
    probs, _ = problem(seed)
    assert np.abs(tempered(probs, 1.0) - probs).max() < 1e-9


@few
@given(st.integers(0, 10_000), st.floats(0.05, 5))
def test_a_fitted_temperature_is_never_worse_where_it_was_fitted(seed, sharpness):
    probs, y = problem(seed, sharpness=sharpness)
    assert nll(tempered(probs, fit_temperature(probs, y)), y) <= nll(probs, y) + 1e-9


def test_temperatures_multiply():
    probs, _ = problem(0, sharpness=2.0)
    assert np.allclose(tempered(tempered(probs, 2.0), 3.0), tempered(probs, 6.0))


def test_the_temperature_that_made_predictions_too_sure_is_found_again():
    rng = np.random.default_rng(0)
    honest = rng.dirichlet(np.ones(3), 20_000)
    y = (rng.random((20_000, 1)) > honest.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(tempered(honest, 1 / 2.5), y) == pytest.approx(2.5, rel=0.03)


def test_predictions_that_are_never_wrong_become_certain_and_cause_no_error():
    probs, y = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])
    temperature = fit_temperature(probs, y)
    assert temperature >= RANGE[0]
    assert nll(tempered(probs, temperature), y) < 1e-6


def test_a_label_thought_impossible_is_bearable():
    probs, y = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1])
    after = tempered(probs, fit_temperature(probs, y))
    assert np.isfinite(after).all()
    assert nll(after, y) < 1.0


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match=r"temperature: expected a finite number above 0, got 0\.0"):
        tempered(np.full((1, 2), 0.5), 0.0)
    with pytest.raises(DataError, match="are these logits"):
        fit_temperature(np.array([[3.0, -1.0]]), np.array([0]))
