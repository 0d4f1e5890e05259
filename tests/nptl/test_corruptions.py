"""Laws of corruptions: seeded by place, worse with severity, and nothing at severity zero."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bayes_persona import ConfigError
from bayes_persona.nptl.corruptions import SEVERITIES, corrupt


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    waves = gaussian_filter(rng.normal(size=(24, 32, 32, 3)), (0, 2.5, 2.5, 0.7))
    waves = 0.5 + 0.22 * waves / waves.std(axis=(1, 2, 3), keepdims=True)
    return (255 * waves).clip(0, 255).astype(np.uint8)


def change(one, other):
    return float(((one.astype(float) - other) ** 2).mean())


def test_they_are_the_fifteen_with_five_severities_each():
    assert len(SEVERITIES) == 15
    assert all(len(numbers) == 5 for numbers in SEVERITIES.values())


@pytest.mark.parametrize("name", SEVERITIES)
def test_severity_zero_changes_nothing_and_the_callers_pictures_stay(pictures, name):
    before = pictures.copy()
    same = corrupt(pictures, name, 0, seed=0)
    assert np.array_equal(same, before)
    assert not np.shares_memory(same, pictures)
    corrupt(pictures[:2], name, 5, seed=0)
    assert np.array_equal(pictures, before)


@pytest.mark.parametrize("name", SEVERITIES)
def test_more_severity_is_more_change(pictures, name):
    changes = [change(corrupt(pictures, name, severity, seed=1), pictures) for severity in range(6)]
    assert changes[0] == 0
    assert changes[1] > 0
    # ImageMagick's radius, all that tells motion blur 4 from 3, cuts off what is nothing by then
    assert (np.diff(changes) >= 0).all()
    assert changes[5] > 1.3 * changes[1]


@pytest.mark.parametrize("name", SEVERITIES)
def test_a_picture_is_corrupted_alike_wherever_the_others_are(pictures, name):
    whole = corrupt(pictures[:3], name, 3, seed=5)
    assert np.array_equal(corrupt(pictures[:3], name, 3, seed=5), whole)
    assert np.array_equal(corrupt(pictures[:1], name, 3, seed=5)[0], whole[0])


RANDOM = set(SEVERITIES) - {
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
}


@pytest.mark.parametrize("name", SEVERITIES)
def test_what_is_random_differs_by_seed_and_place_and_the_rest_does_not(pictures, name):
    twins = np.stack([pictures[0], pictures[0]])
    one, other = corrupt(twins, name, 4, seed=0), corrupt(twins, name, 4, seed=1)
    assert np.array_equal(one[0], one[1]) == (name not in RANDOM)
    assert np.array_equal(one, other) == (name not in RANDOM)


@pytest.mark.parametrize("name", SEVERITIES)
@pytest.mark.parametrize("shape", [(20, 33), (7, 5)])
def test_pictures_of_other_shapes_are_taken(name, shape):
    rng = np.random.default_rng(0)
    odd = rng.integers(256, size=(2, *shape, 3), dtype=np.uint8)
    out = corrupt(odd, name, 5, seed=0)
    assert out.shape == odd.shape
    assert corrupt(odd[:0], name, 5, seed=0).shape == (0, *shape, 3)


@pytest.mark.parametrize("name", SEVERITIES)
def test_black_pictures_are_borne(name):
    assert corrupt(np.zeros((1, 32, 32, 3), np.uint8), name, 5, seed=0).shape == (1, 32, 32, 3)


def test_noise_has_the_spread_of_its_table():
    grey = np.full((8, 32, 32, 3), 128, np.uint8)
    for severity in (1, 5):
        spread = (corrupt(grey, "gaussian_noise", severity, seed=0) / 255 - 128 / 255).std()
        assert spread == pytest.approx(SEVERITIES["gaussian_noise"][severity - 1][0], rel=0.02)
        hit = (corrupt(grey, "impulse_noise", severity, seed=0) != 128).mean()
        assert hit == pytest.approx(SEVERITIES["impulse_noise"][severity - 1][0], rel=0.1)


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform"])
def test_what_moves_light_about_adds_none(name):
    grey = np.full((2, 32, 32, 3), 100, np.uint8)
    assert np.array_equal(corrupt(grey, name, 5, seed=0), grey)


def test_brightness_keeps_the_hue_and_contrast_the_mean(pictures):
    lighter = corrupt(np.full((1, 4, 4, 3), [100, 50, 25], np.uint8), "brightness", 3, seed=0)[0, 0, 0]
    assert np.abs(lighter / lighter[0] - [1, 0.5, 0.25]).max() < 0.02
    paler = corrupt(pictures, "contrast", 4, seed=0)
    assert np.abs(paler.mean(axis=(1, 2)) - pictures.mean(axis=(1, 2))).max() < 0.5


def test_what_there_is_not_is_named(pictures):
    with pytest.raises(ConfigError, match="there is no corruption 'rain'; there are gaussian_noise, shot_noise"):
        corrupt(pictures, "rain", 1, seed=0)
    with pytest.raises(ConfigError, match=r"severity: expected 0 \(none\) to 5, got 6"):
        corrupt(pictures, "fog", 6, seed=0)
