"""Degradation: numbers stay in their ranges, each step does what its name says, and a seed always does the same."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from bayes_persona import ConfigError
from bayes_persona.diffusion.degrade import (
    KINDS,
    Config,
    Pass,
    SecondOrder,
    Step,
    apply,
    degrade,
    draw,
    kernel,
    sinc,
)

NOISE = np.random.default_rng(0).integers(0, 256, (4, 40, 48, 3), np.uint8)
GREY = np.full((64, 64, 3), 128, np.uint8)
SMOOTH = np.asarray(Image.radial_gradient("L").resize((48, 40)).convert("RGB"))
BOTH = [Config(), SecondOrder()]


def spread_of(weights):
    """Deviations of a kernel along its two axes, and its tilt."""
    y, x = np.mgrid[: len(weights), : len(weights)] - len(weights) // 2
    return np.sqrt((weights * x**2).sum()), np.sqrt((weights * y**2).sum()), (weights * x * y).sum()


@pytest.mark.parametrize("config", BOTH)
def test_a_seed_always_does_the_same_and_another_something_else(config):
    first = degrade(NOISE, config, seed=0)
    assert first.shape == NOISE.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, degrade(NOISE, config, seed=0))
    assert not np.array_equal(first, degrade(NOISE, config, seed=1))
    assert draw(config, 0) == draw(config, 0) != draw(config, 1)


@pytest.mark.parametrize("config", BOTH)
def test_a_picture_does_not_depend_on_the_others(config):
    assert np.array_equal(degrade(NOISE, config, seed=0)[:2], degrade(NOISE[:2], config, seed=0))
    other = NOISE.copy()
    other[0] = 0
    assert np.array_equal(degrade(NOISE, config, seed=0)[1:], degrade(other, config, seed=0)[1:])


@pytest.mark.parametrize("config", BOTH)
def test_what_is_given_is_not_written_to(config):
    before = NOISE.copy()
    degrade(NOISE, config, seed=0)
    assert np.array_equal(NOISE, before)
    assert degrade(NOISE[:0], config, seed=0).shape == (0, 40, 48, 3)


def within(values, low, high, share=0.1):
    """All inside a range, and coming close to both of its ends."""
    edge = share * (high - low)
    return low <= min(values) <= low + edge and high - edge <= max(values) <= high


def test_the_first_orders_numbers_fill_their_ranges():
    recipes = [draw(Config(), seed) for seed in range(500)]
    blurs, shrunk, noises, copies, last = ([recipe[i].numbers for recipe in recipes] for i in range(5))
    assert within([sigma for blur in blurs for sigma in blur["sigma"]], 0.1, 10)
    assert within([blur["angle"] for blur in blurs], -np.pi, np.pi)
    assert {blur["size"] for blur in blurs} == {41}
    assert 0.4 < np.mean([blur["sigma"][0] == blur["sigma"][1] for blur in blurs]) < 0.6
    assert within([1 / resize["scale"] for resize in shrunk], 0.8, 8)
    assert within([noise["level"] for noise in noises], 0, 20)
    assert {copy["quality"] for copy in copies} == set(range(60, 101))
    assert all(resize == {"scale": 1.0, "mode": "bilinear"} for resize in last)


def test_the_second_orders_numbers_fill_their_ranges():
    recipes = [draw(SecondOrder(), seed) for seed in range(1000)]
    steps = {what: [s.numbers for r in recipes for s in r if s.what == what] for what in ("blur", "sinc", "jpeg")}
    first = [next(s.numbers for s in r if s.what == "resize") for r in recipes]
    assert {blur["size"] for blur in steps["blur"]} == set(range(7, 22, 2))
    assert {blur["kind"] for blur in steps["blur"]} == set(KINDS)
    assert within([sigma for blur in steps["blur"] for sigma in blur["sigma"]], 0.2, 3)
    assert within([blur["beta"] for blur in steps["blur"] if blur["kind"] == "generalized"], 0.5, 4)
    assert within([blur["beta"] for blur in steps["blur"] if blur["kind"] == "plateau"], 1, 2)
    assert within([low["cutoff"] for low in steps["sinc"]], np.pi / 5, np.pi)
    assert all(low["cutoff"] >= np.pi / 3 for low in steps["sinc"] if low["size"] < 13)
    assert {copy["quality"] for copy in steps["jpeg"]} == set(range(30, 96))
    assert within([resize["scale"] for resize in first], 0.15, 1.5)
    shares = [np.mean([way(resize["scale"], 1) for resize in first]) for way in (np.greater, np.less, np.equal)]
    assert np.allclose(shares, (0.2, 0.7, 0.1), atol=0.04)
    for what, low, high in (("gaussian", 1, 30), ("poisson", 0.05, 3)):
        noises = [s.numbers for r in recipes for s in r if s.what == what]
        assert within([noise["level"] for noise in noises], low, high)
        assert 0.35 < np.mean([noise["grey"] for noise in noises]) < 0.45
        assert abs(len(noises) / 2000 - 0.5) < 0.04
    ends = [tuple(step.what for step in recipe[-4:-1]) for recipe in recipes]
    assert {end[-1] for end in ends} == {"jpeg", "sinc", "resize"}
    assert abs(np.mean([end[-1] == "jpeg" for end in ends]) - 0.5) < 0.04
    assert all(recipe[-1] == Step("resize", {"scale": 1.0, "mode": "bicubic"}) for recipe in recipes)


@pytest.mark.parametrize("kind", ["gaussian", "generalized", "plateau"])
def test_kernels_add_up_to_one_and_are_symmetric(kind):
    weights = kernel(kind, 21, (1.0, 3.0), 0.4, 1.5)
    assert np.isclose(weights.sum(), 1)
    assert np.allclose(weights, weights[::-1, ::-1])
    assert weights.argmax() == weights.size // 2


def test_a_kernel_spreads_as_far_as_its_sigma_in_its_direction():
    assert np.allclose(spread_of(kernel("gaussian", 41, (2.0, 4.0), 0.0, 1.0)), (2, 4, 0), atol=0.01)
    assert np.allclose(spread_of(kernel("gaussian", 41, (2.0, 4.0), np.pi / 2, 1.0)), (4, 2, 0), atol=0.01)
    turned = spread_of(kernel("gaussian", 61, (4.0, 2.0), np.pi / 4, 1.0))
    assert np.allclose(turned, (np.sqrt(10), np.sqrt(10), 6), atol=0.01)  # (16 ± 4) / 2
    assert np.allclose(*(kernel(kind, 9, (1.0, 2.0), 0.3, 1.0) for kind in ("generalized", "gaussian")))


def test_round_gaussian_blur_is_scipys():
    step = Step("blur", {"kind": "gaussian", "size": 21, "sigma": (1.5, 1.5), "angle": 0.0, "beta": 1.0})
    want = gaussian_filter(NOISE[0].astype(float), (1.5, 1.5, 0), mode="mirror", radius=(10, 10, 0))
    assert np.abs(apply(NOISE[0], (step,)) - want).max() <= 0.5 + 1e-6


def test_the_sinc_kernel_lets_low_frequencies_through():
    answer = np.abs(np.fft.fft2(sinc(21, np.pi / 2), (64, 64)))
    assert answer[0, :8].min() > 0.85
    assert answer[0, 26:32].max() < 0.15


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
def test_a_flat_picture_stays_flat(mode):
    blur = Step("blur", {"kind": "plateau", "size": 41, "sigma": (9.0, 3.0), "angle": 1.0, "beta": 1.5})
    low = Step("sinc", {"size": 21, "cutoff": 1.2})
    sizes = tuple(Step("resize", {"scale": scale, "mode": mode}) for scale in (0.13, 1.4, 1.0))
    assert np.array_equal(apply(GREY, (blur, low, *sizes, Step("jpeg", {"quality": 90}))), GREY)


def test_noise_has_its_level_and_its_colour():
    def off(what, level, grey):
        step = Step(what, {"level": level, "grey": grey, "seed": 7})
        return apply(np.full((128, 128, 3), 128, np.uint8), (step,)).astype(float) - 128

    assert abs(off("gaussian", 10.0, False).std() - 10) < 0.2
    assert np.array_equal(*off("gaussian", 10.0, True).T[:2])
    assert not np.array_equal(*off("gaussian", 10.0, False).T[:2])
    assert np.array_equal(*off("poisson", 0.1, True).T[:2])
    # one shade of grey is one photon a pixel at most: mean 128/255, and so variance 128·255·level²
    assert abs(off("poisson", 0.1, False).std() - 0.1 * np.sqrt(128 * 255)) < 0.5


def test_jpeg_costs_more_at_lower_quality():
    losses = [np.abs(apply(SMOOTH, (Step("jpeg", {"quality": q}),)).astype(float) - SMOOTH).mean() for q in (95, 50, 5)]
    assert losses == sorted(losses)
    assert losses[0] < 2


def test_stronger_settings_lose_more():
    losses = []
    for shrink, sigma in ((1.0, 0.1), (2.0, 1.0), (8.0, 5.0)):
        config = Config(shrink=(shrink, shrink), sigma=(sigma, sigma), noise=(0.0, 0.0), quality=(95, 95))
        losses.append(np.abs(degrade(NOISE, config, seed=0).astype(float) - NOISE).mean())
    assert losses == sorted(losses)


def test_tiny_pictures_survive():
    for config in BOTH:
        for side in (1, 2, 5):
            assert degrade(np.zeros((2, side, side, 3), np.uint8), config, seed=0).shape == (2, side, side, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Config(size=40), "size: expected odd"),
        (lambda: Config(sigma=(3.0, 1.0)), r"sigma: expected 0\.01 ≤ low ≤ high, got \(3\.0, 1\.0\)"),
        (lambda: Config(drawn_out=1.5), "drawn_out"),
        (lambda: Pass(kinds=(0.5, 0.5)), "kinds: expected 6 shares that add up to 1"),
        (lambda: Pass(resize=(0.5, 0.5, 0.5)), "resize: expected 3 shares"),
        (lambda: Pass(scale=(1.2, 1.5)), "scale: expected a range from below 1 to above"),
        (lambda: SecondOrder(shrink=0.0), "shrink"),
        (lambda: apply(GREY, (Step("melt", {}),)), "no step is called melt; there are blur, sinc"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
