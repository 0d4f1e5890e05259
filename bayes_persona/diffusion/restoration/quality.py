"""How near a restored picture is to the true one: PSNR and SSIM of our own, and a place for anything with weights."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.errors import MismatchError, needs_extra

with needs_extra("diffusion"):
    from scipy.ndimage import gaussian_filter

LUMA = (0.299, 0.587, 0.114)
"""Red, green and blue in brightness: BT.601's, of the whole range 0 to 255."""


@runtime_checkable
class Metric(Protocol):
    """Compares pictures with the true ones: LPIPS, a face embedder's cosine, FID; no weights come with the package.

    >>> isinstance(psnr, Metric)
    True
    """

    def __call__(
        self, pixels: UInt8[np.ndarray, "n h w 3"], truth: UInt8[np.ndarray, "m _h _w 3"], /
    ) -> Float[np.ndarray, " n"] | float:
        """Give a number for each picture, or one for all where it compares sets."""
        ...


def psnr(pixels: UInt8[np.ndarray, "n h w 3"], truth: UInt8[np.ndarray, "m _h _w 3"]) -> Float[np.ndarray, " n"]:
    """Give the peak signal-to-noise ratio of each picture in dB, over all three channels; equal pictures have inf.

    Raises:
        MismatchError: If pictures differ in shape.

    >>> psnr(np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 51, np.uint8)).round(2).tolist()
    [13.98]
    """
    _require(pixels, truth)
    errors = np.square(pixels / 255 - truth / 255).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(errors)


def ssim(pixels: UInt8[np.ndarray, "n h w 3"], truth: UInt8[np.ndarray, "m _h _w 3"]) -> Float[np.ndarray, " n"]:
    """Give the structural similarity of each picture, of brightness (Y) alone: 1 is equal.

    Wang et al. (IEEE TIP 2004): an 11×11 Gaussian window of deviation 1.5, K = (0.01, 0.03), where it fits in whole.

    Raises:
        MismatchError: If pictures differ in shape, or are smaller than the window.

    >>> one = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    >>> ssim(one, one).round(6).tolist()
    [1.0]
    """
    _require(pixels, truth)
    if min(pixels.shape[1:3]) < 11:
        raise MismatchError(f"pixels: SSIM's window is 11×11, pictures are {pixels.shape[2]}×{pixels.shape[1]}")
    one, two = pixels @ np.array(LUMA), truth @ np.array(LUMA)
    mean_one, mean_two = _window(one), _window(two)
    spread = _window(one * one) - mean_one**2 + _window(two * two) - mean_two**2
    together = _window(one * two) - mean_one * mean_two
    light, contrast = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    same = (2 * mean_one * mean_two + light) * (2 * together + contrast)
    return (same / ((mean_one**2 + mean_two**2 + light) * (spread + contrast))).mean(axis=(1, 2))


def report(
    pixels: UInt8[np.ndarray, "n h w 3"],
    truth: UInt8[np.ndarray, "m _h _w 3"],
    metrics: Mapping[str, Metric] | None = None,
) -> dict[str, float]:
    """Give the mean of every metric: PSNR and SSIM always, and yours.

    Raises:
        MismatchError: If pictures differ in shape.

    >>> one = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    >>> found = report(one, one, {"off": lambda pixels, truth: (pixels != truth).mean(axis=(1, 2, 3))})
    >>> found["psnr"], round(found["ssim"], 6), found["off"]
    (inf, 1.0, 0.0)
    """
    asked: dict[str, Metric] = {"psnr": psnr, "ssim": ssim, **({} if metrics is None else metrics)}
    return {name: float(np.mean(metric(pixels, truth))) for name, metric in asked.items()}


def _window(rows: np.ndarray) -> np.ndarray:
    blurred = gaussian_filter(rows, (0, 1.5, 1.5), radius=(0, 5, 5))
    return blurred[:, 5:-5, 5:-5]


def _require(pixels: np.ndarray, truth: np.ndarray) -> None:
    if pixels.shape != truth.shape:
        raise MismatchError(f"truth: expected shape {pixels.shape}, got {truth.shape}")
