from collections.abc import Sequence
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from bayes_persona.errors import ConfigError, DataError, MismatchError
from bayes_persona.posterior import Posterior

first = {"net.weight": np.arange(6.0).reshape(2, 3), "scale": np.array(1.0)}
second = {"scale": np.array(3.0), "net.weight": np.zeros((2, 3))}  # another order of names


def test_a_posterior_is_a_sequence_of_particles():
    posterior = Posterior((first, second))
    assert isinstance(posterior, Sequence)
    assert len(posterior) == 2
    assert posterior[0] is first
    assert posterior[-1] is second
    assert [particle is want for particle, want in zip(posterior, (first, second), strict=True)] == [True, True]
    with pytest.raises(IndexError):
        posterior[2]


def test_stacking_keeps_order_shape_and_kind():
    counts = [{"counts": np.array([number, 2], np.int32)} for number in range(3)]
    stacked = Posterior(tuple(counts)).stacked()["counts"]
    assert (stacked.shape, stacked.dtype) == ((3, 2), np.int32)
    assert stacked[:, 0].tolist() == [0, 1, 2]


def test_names_are_matched_and_not_positions():
    stacked = Posterior((first, second)).stacked()
    assert stacked["scale"].tolist() == [1.0, 3.0]
    assert stacked["net.weight"].shape == (2, 2, 3)


def test_the_mean_is_that_of_each_number():
    mean = Posterior((first, second)).mean()
    assert mean["scale"] == 2.0
    np.testing.assert_array_equal(mean["net.weight"], first["net.weight"] / 2)


def test_single_precision_stays_single():
    assert Posterior(({"w": np.ones(2, np.float32)},)).mean()["w"].dtype == np.float32


def test_a_posterior_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Posterior((first,)).particles = ()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"scale": np.array(1.0)}, MismatchError, "particle 1: net.weight is missing"),
        ({**first, "bias": np.zeros(2)}, MismatchError, "particle 1: bias is not a name of this model"),
        ({**first, "scale": np.zeros(1)}, MismatchError, r"particle 1: scale: expected shape \(\), got \(1,\)"),
        ({**first, "scale": np.array(np.nan)}, DataError, "particle 1: scale: 1 of 1 numbers are NaN or infinite"),
        ({**first, "scale": np.array(-np.inf)}, DataError, "particle 1: scale: 1 of 1 numbers are NaN or infinite"),
    ],
)
def test_a_particle_that_does_not_fit_is_named(wrong, error, message):
    with pytest.raises(error, match=message):
        Posterior((first, wrong))


def test_no_particles_are_no_posterior():
    with pytest.raises(ConfigError, match="at least one"):
        Posterior(())
