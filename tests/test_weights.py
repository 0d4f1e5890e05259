import re
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bayes_persona.errors import ConfigError
from bayes_persona.seeds import child, generator
from bayes_persona.weights import block_dirichlet_process, dirichlet_process

few = settings(max_examples=40, derandomize=True, deadline=None)
alphas = st.one_of(st.just(0.0), st.floats(1e-6, 1e6))


def agrees(values, want, errors=4.5):
    """Whether the mean of draws is the expectation, up to chance."""
    return (np.abs(values.mean(axis=0) - want) <= errors * values.std(axis=0, ddof=1) / np.sqrt(len(values))).all()


def has_law(values, law):
    """Whether draws may have this distribution: asked thirteen times, chance alone says no in about one per cent."""
    return stats.kstest(values, law).pvalue > 0.001


@few
@given(st.integers(1, 60), st.integers(1, 60), alphas, st.integers(0, 99))
def test_weights_sum_to_one_and_none_is_negative(n, m, alpha, seed):
    real, pseudo = dirichlet_process(n, m, alpha, seed)
    assert (real.shape, pseudo.shape) == ((n,), (m,))
    assert min(real.min(), pseudo.min()) >= 0
    assert real.sum() + pseudo.sum() == pytest.approx(1, abs=1e-12)


@few
@given(st.integers(1, 60), st.integers(1, 60), alphas, st.integers(0, 99))
def test_block_weights_sum_to_one_and_are_shared_in_even_blocks(n, blocks, alpha, seed):
    blocks = min(n, blocks)
    real, pseudo = block_dirichlet_process(n, alpha, blocks, seed)
    assert min(real.min(), pseudo.min()) >= 0
    assert real.sum() + pseudo.sum() == pytest.approx(1, abs=1e-12)
    values, sizes = np.unique(real, return_counts=True)
    assert len(values) == blocks
    assert sizes.max() - sizes.min() <= 1


def test_the_same_seed_gives_the_same_weights_and_another_others():
    for draw in (partial(dirichlet_process, 9, 9, 2.0), partial(block_dirichlet_process, 9, 2.0, 3)):
        np.testing.assert_array_equal(draw(1).real, draw(1).real)
        assert (draw(1).real != draw(2).real).any()


@pytest.mark.parametrize("alpha", [0.5, 6.0, 60.0])
def test_the_mean_weights_are_those_of_the_dirichlet(alpha):
    n = 6
    draws = [dirichlet_process(n, n, alpha, child(0, "moments", number)) for number in range(1000)]
    assert agrees(np.stack([draw.real for draw in draws]), 1 / (alpha + n))
    assert agrees(np.stack([draw.pseudo for draw in draws]), alpha / (n * (alpha + n)))


def test_a_single_weight_has_the_beta_law_of_the_dirichlet():
    n, alpha = 6, 3.0
    draws = [dirichlet_process(n, n, alpha, child(1, "margin", number)) for number in range(1000)]
    assert has_law([draw.real[0] for draw in draws], stats.beta(1, n - 1 + alpha).cdf)
    margin = stats.beta(alpha / n, n + alpha - alpha / n)
    assert has_law([draw.pseudo[0] for draw in draws], margin.cdf)


@pytest.mark.parametrize("alpha", [1.0, 20.0, 200.0])
def test_the_prior_mass_is_beta(alpha):
    n = 40
    law = stats.beta(alpha, n).cdf
    exact = [dirichlet_process(n, n, alpha, child(2, "mass", number)).pseudo.sum() for number in range(600)]
    block = [block_dirichlet_process(n, alpha, 8, child(3, "mass", number)).pseudo.sum() for number in range(600)]
    assert has_law(exact, law)
    assert has_law(block, law)


def test_the_number_of_atoms_does_not_change_what_the_prior_is_worth():
    for m in (1, 7, 400):
        masses = [dirichlet_process(10, m, 5.0, child(m, "atoms", number)).pseudo.sum() for number in range(600)]
        assert has_law(masses, stats.beta(5, 10).cdf)


def test_without_a_prior_it_is_the_bayesian_bootstrap():
    n = 5
    draws = [dirichlet_process(n, 0, 0.0, child(4, "bootstrap", number)) for number in range(1000)]
    assert all(draw.pseudo.size == 0 for draw in draws)
    assert has_law([draw.real[0] for draw in draws], stats.beta(1, n - 1).cdf)
    for draw in (dirichlet_process(n, n, 0.0, 0), block_dirichlet_process(n, 0.0, n, 0)):
        assert draw.pseudo.tolist() == [0.0] * n
        assert draw.real.sum() == pytest.approx(1)


def test_a_weak_prior_on_many_atoms_loses_nothing_that_a_double_can_hold():
    # A weight is about U^(n/alpha), and 1 - 745/50,000 of these lie below the smallest double: a weight of 0 is then
    # right. Single precision, where the limit is at 103, would lose 99.8 % (and a mass of 0 would give NaN).
    n, alpha = 50_000, 1.0
    draws = [dirichlet_process(n, n, alpha, child(5, "large", number)) for number in range(30)]
    lost = np.mean([(draw.pseudo == 0).mean() for draw in draws])
    assert lost == pytest.approx(np.exp(-745 * alpha / n), abs=0.002)
    masses = [draw.pseudo.sum() for draw in draws]
    assert min(masses) > 0
    assert has_law(masses, stats.beta(alpha, n).cdf)


@pytest.mark.parametrize(("alpha", "lost"), [(500.0, 0.0006), (50_000.0, 0.0)])
def test_a_stronger_prior_loses_almost_no_atom(alpha, lost):
    # plain gammas in single precision lose 36 % at alpha = 500
    assert (dirichlet_process(50_000, 50_000, alpha, 6).pseudo == 0).mean() == pytest.approx(lost, abs=0.0003)


@pytest.mark.parametrize("alpha", [1e-12, 1e-3, 1.0, 1e12])
def test_no_strength_of_the_prior_gives_nan(alpha):
    for draw in (dirichlet_process(50_000, 50_000, alpha, 7), block_dirichlet_process(50_000, alpha, 10, 7)):
        assert np.isfinite(draw.real).all()
        assert np.isfinite(draw.pseudo).all()
        assert draw.real.sum() + draw.pseudo.sum() == pytest.approx(1, abs=1e-9)


def theory(y, pseudo, alpha):
    """Mean and sd of Σ G_k z_k under a Dirichlet process with atoms z and masses G."""
    n = len(y)
    atoms = np.concatenate([y, pseudo])
    masses = np.concatenate([np.full(n, 1 / (alpha + n)), np.full(n, alpha / n / (alpha + n))])
    mean = masses @ atoms
    return mean, np.sqrt(masses @ (atoms - mean) ** 2 / (alpha + n + 1))


@pytest.mark.parametrize("alpha", [5.0, 50.0, 500.0])
@pytest.mark.parametrize("blocks", [None, 250, 50, 25])
def test_the_posterior_of_a_mean_is_that_of_the_theory(alpha, blocks):
    n, count = 500, 1000
    rng = generator(8, "toy")
    y, pseudo = np.sort(rng.normal(1, 2, n)), rng.normal(0.5, 1, n)  # sorted: blocks of neighbours would be wrong

    exact, block = partial(dirichlet_process, n, n, alpha), partial(block_dirichlet_process, n, alpha, blocks)
    draws = [(exact if blocks is None else block)(child(9, "toy", number)) for number in range(count)]
    means = np.array([weights.real @ y + weights.pseudo @ pseudo for weights in draws])
    mean, sd = theory(y, pseudo, alpha)
    assert means.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(count))
    assert means.std() == pytest.approx(sd, rel=0.08)  # chance alone: 2.2 %


@pytest.mark.parametrize(
    ("n", "m", "alpha", "message"),
    [
        (0, 3, 1.0, "n: expected at least one example, got 0"),
        (3, 3, -1.0, "alpha: expected a finite number of at least 0, got -1.0"),
        (3, 3, float("nan"), "alpha: expected a finite number of at least 0, got nan"),
        (3, 3, float("inf"), "alpha: expected a finite number of at least 0, got inf"),
        (3, 0, 1.0, "m: a prior worth alpha=1.0 examples needs at least one atom, got 0"),
    ],
)
def test_weights_that_do_not_exist_are_refused(n, m, alpha, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        dirichlet_process(n, m, alpha, 0)


@pytest.mark.parametrize("blocks", [0, 4])
def test_a_number_of_blocks_beyond_the_examples_is_refused(blocks):
    with pytest.raises(ConfigError, match=r"blocks: expected 1 to 3 .* got"):
        block_dirichlet_process(3, 1.0, blocks, 0)
