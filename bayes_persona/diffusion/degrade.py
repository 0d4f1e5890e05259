"""What old, small and much-copied photos look like: random blur, shrinking, noise and JPEG, once or twice over.

`Config` is the first-order model of face restorers, y = larger(JPEG(smaller(blur(x)) + noise)), with the ranges of
Dual-Pivot Tuning (Chari et al. 2023, arXiv 2312.17234). `SecondOrder` goes through two passes (Real-ESRGAN, Wang et al.
2021, arXiv 2107.10833). Everything random is drawn first: a recipe is a tuple of steps with their numbers.
"""

import io
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.seeds import child, generator

with needs_extra("diffusion"):
    import torch
    from PIL import Image
    from scipy.signal import fftconvolve
    from scipy.special import j1

Range = tuple[float, float]
KINDS = ("gaussian", "gaussian", "generalized", "generalized", "plateau", "plateau")
"""Shapes of blur kernels, each once round and once drawn out in a direction, in the order of `Pass.kinds`."""
MODES = ("area", "bilinear", "bicubic")
"""Ways to resize."""


@dataclass(frozen=True)
class Config:
    """Ranges of the first-order model.

    Raises:
        ConfigError: If a range is upside down or out of bounds.

    >>> Config(quality=(100, 60))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: quality: expected 1 ≤ low ≤ high ≤ 100, got (100, 60)
    """

    size: int = 41
    """Pixels along a side of the blur kernel, odd."""
    sigma: Range = (0.1, 10.0)
    """Deviation of the blur in pixels."""
    drawn_out: float = 0.5
    """Share of kernels that blur more in one direction."""
    shrink: Range = (0.8, 8.0)
    """How many times smaller the picture gets before it is made as large as it was."""
    noise: Range = (0.0, 20.0)
    """Deviation of the noise, of 255."""
    quality: tuple[int, int] = (60, 100)
    """JPEG quality."""

    def __post_init__(self):
        _require_odd("size", (self.size, self.size))
        _require("sigma", self.sigma, 0.01)
        _require("drawn_out", (0, self.drawn_out), 0, 1)
        _require("shrink", self.shrink, 0.01)
        _require("noise", self.noise, 0)
        _require("quality", self.quality, 1, 100)


@dataclass(frozen=True)
class Pass:
    """Ranges of one of the two passes of the second-order model; the defaults are the first pass's.

    Raises:
        ConfigError: If a range is upside down or out of bounds.

    >>> Pass(blur=2.0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: blur: expected 0 ≤ low ≤ high ≤ 1, got (0, 2.0)
    """

    blur: float = 1.0
    """Share of pictures that are blurred."""
    sizes: tuple[int, int] = (7, 21)
    """Pixels along a side of the blur kernel, odd."""
    kinds: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Share of each kind of kernel, in the order of `KINDS`."""
    sigma: Range = (0.2, 3.0)
    """Deviation of the blur in pixels."""
    generalized: Range = (0.5, 4.0)
    """Shape of generalized Gaussian kernels."""
    plateau: Range = (1.0, 2.0)
    """Shape of plateau kernels."""
    sinc: float = 0.1
    """Share of kernels that cut off high frequencies, and so leave rings."""
    resize: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Share of pictures that get larger, smaller, or stay."""
    scale: Range = (0.15, 1.5)
    """How many times larger they get, from below 1 to above."""
    gaussian: float = 0.5
    """Share of pictures with Gaussian noise; the others' is Poisson."""
    noise: Range = (1.0, 30.0)
    """Deviation of Gaussian noise, of 255."""
    poisson: Range = (0.05, 3.0)
    """Scale of Poisson noise."""
    grey: float = 0.4
    """Share of pictures whose noise has no colour."""
    quality: tuple[int, int] = (30, 95)
    """JPEG quality."""

    def __post_init__(self):
        for name in ("blur", "sinc", "gaussian", "grey"):
            _require(name, (0, getattr(self, name)), 0, 1)
        for name, count in (("kinds", len(KINDS)), ("resize", 3)):
            shares = getattr(self, name)
            if len(shares) != count or min(shares) < 0 or not math.isclose(sum(shares), 1):
                raise ConfigError(f"{name}: expected {count} shares that add up to 1, got {shares}")
        for name in ("sigma", "generalized", "plateau"):
            _require(name, getattr(self, name), 0.01)
        for name in ("noise", "poisson"):
            _require(name, getattr(self, name), 0)
        _require_odd("sizes", self.sizes)
        _require("quality", self.quality, 1, 100)
        if not 0.01 <= self.scale[0] <= 1 <= self.scale[1]:
            raise ConfigError(f"scale: expected a range from below 1 to above, got {self.scale}")


@dataclass(frozen=True)
class SecondOrder:
    """Ranges of the second-order model.

    >>> SecondOrder().second.sigma
    (0.2, 1.5)
    """

    first: Pass = field(default_factory=Pass)
    """The first pass."""
    second: Pass = field(
        default_factory=lambda: Pass(
            blur=0.8, sigma=(0.2, 1.5), resize=(0.3, 0.4, 0.3), scale=(0.3, 1.2), noise=(1.0, 25.0), poisson=(0.05, 2.5)
        )
    )
    """The second pass, at the smaller size."""
    shrink: float = 4.0
    """How many times smaller the picture is at the end, before it is made as large as it was."""
    sinc: float = 0.8
    """Share of pictures with rings at the end."""

    def __post_init__(self):
        _require("shrink", (self.shrink, self.shrink), 0.01)
        _require("sinc", (0, self.sinc), 0, 1)


class Step(NamedTuple):
    """One thing that happens to a picture, with all its numbers.

    >>> Step("jpeg", {"quality": 80}).what
    'jpeg'
    """

    what: str
    numbers: dict[str, Any]


Recipe = tuple[Step, ...]


def degrade(
    pixels: UInt8[np.ndarray, "n h w 3"], config: Config | SecondOrder, seed: int
) -> UInt8[np.ndarray, "n h w 3"]:
    """Degrade pictures, each in a way of its own that depends on seed and place alone, not on the other pictures.

    >>> white = np.full((2, 8, 8, 3), 255, np.uint8)
    >>> bool((degrade(white, Config(noise=(0.0, 0.0)), seed=0) == 255).all())
    True
    """
    rows = [apply(row, draw(config, child(seed, "picture", i))) for i, row in enumerate(pixels)]
    return np.stack(rows) if rows else pixels.copy()


def draw(config: Config | SecondOrder, seed: int) -> Recipe:
    """Draw what will happen to a picture.

    >>> [step.what for step in draw(Config(), seed=0)]
    ['blur', 'resize', 'gaussian', 'jpeg', 'resize']
    """
    rng = generator(seed, "degrade")
    if isinstance(config, SecondOrder):
        return _second_order(config, rng)
    kind = rng.choice(2, p=[1 - config.drawn_out, config.drawn_out])
    return (
        _blur(rng, int(kind), config.size, config.sigma, beta=1.0),
        Step("resize", {"scale": 1 / rng.uniform(*config.shrink), "mode": "bilinear"}),
        Step("gaussian", {"level": rng.uniform(*config.noise), "grey": False, "seed": int(rng.integers(2**62))}),
        _jpeg(rng, config.quality),
        Step("resize", {"scale": 1.0, "mode": "bilinear"}),
    )


def apply(pixels: UInt8[np.ndarray, "h w 3"], recipe: Recipe) -> UInt8[np.ndarray, "h w 3"]:
    """Do to a picture what a recipe says; scales are those of the picture as it is given.

    Raises:
        ConfigError: If the recipe has a step that is not known.

    >>> apply(np.zeros((4, 4, 3), np.uint8), (Step("gaussian", {"level": 5.0, "grey": False, "seed": 0}),)).shape
    (4, 4, 3)
    """
    image = pixels.astype(np.float64)
    for what, numbers in recipe:
        if what not in _DO:
            raise ConfigError(f"recipe: no step is called {what}; there are {', '.join(_DO)}")
        image = _DO[what](image, pixels.shape[:2], **numbers)
    return image.round().clip(0, 255).astype(np.uint8)


def kernel(kind: str, size: int, sigma: Range, angle: float, beta: float) -> Float[np.ndarray, "size size"]:
    """Give a blur kernel that adds up to 1: Gaussian, generalized Gaussian (exponent beta) or plateau.

    >>> kernel("gaussian", 3, (0.5, 0.5), 0.0, 1.0).round(2).tolist()
    [[0.01, 0.08, 0.01], [0.08, 0.62, 0.08], [0.01, 0.08, 0.01]]
    """
    y, x = np.mgrid[:size, :size] - size // 2
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = (along / sigma[0]) ** 2 + (across / sigma[1]) ** 2
    weights = 1 / (1 + distance**beta) if kind == "plateau" else np.exp(-0.5 * distance**beta)
    return weights / weights.sum()


def sinc(size: int, cutoff: float) -> Float[np.ndarray, "size size"]:
    """Give the kernel that lets frequencies below `cutoff` (radians a pixel) through, cut to a square.

    >>> sinc(7, np.pi / 2).sum().round(6)
    np.float64(1.0)
    """
    y, x = np.mgrid[:size, :size] - size // 2
    distance = np.hypot(x, y)
    distance[size // 2, size // 2] = 1.0
    weights = cutoff * j1(cutoff * distance) / (2 * np.pi * distance)
    weights[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    return weights / weights.sum()


def _second_order(config: SecondOrder, rng: np.random.Generator) -> Recipe:
    small = 1 / config.shrink
    shrunk = [Step("resize", {"scale": small, "mode": str(rng.choice(MODES))})]
    if rng.random() < config.sinc:
        shrunk.append(_sinc(rng, int(rng.choice(np.arange(7, 22, 2))), np.pi / 3))
    copied = [_jpeg(rng, config.second.quality)]
    last = [*shrunk, *copied] if rng.random() < 0.5 else [*copied, *shrunk]
    first = [*_pass(config.first, rng, 1.0), _jpeg(rng, config.first.quality)]
    return (*first, *_pass(config.second, rng, small), *last, Step("resize", {"scale": 1.0, "mode": "bicubic"}))


def _pass(config: Pass, rng: np.random.Generator, size: float) -> list[Step]:
    """Blur, resizing (relative to `size`) and noise of one pass."""
    steps = []
    side = int(rng.choice(np.arange(config.sizes[0], config.sizes[1] + 1, 2)))
    if rng.random() < config.blur:
        kind = int(rng.choice(len(KINDS), p=config.kinds))
        low, high = config.plateau if KINDS[kind] == "plateau" else config.generalized
        lower = low < 1 and rng.random() < 0.5  # as often below 1 as above
        beta = rng.uniform(low, min(1, high)) if lower else rng.uniform(max(1, low), max(1, high))
        ringing = rng.random() < config.sinc
        steps.append(
            _sinc(rng, side, np.pi / 3 if side < 13 else np.pi / 5)
            if ringing
            else _blur(rng, kind, side, config.sigma, 1.0 if KINDS[kind] == "gaussian" else beta)
        )
    low, high = ((1, config.scale[1]), (config.scale[0], 1), (1, 1))[int(rng.choice(3, p=config.resize))]
    steps.append(Step("resize", {"scale": size * rng.uniform(low, high), "mode": str(rng.choice(MODES))}))
    gaussian = rng.random() < config.gaussian
    level = rng.uniform(*(config.noise if gaussian else config.poisson))
    noise = {"level": level, "grey": bool(rng.random() < config.grey), "seed": int(rng.integers(2**62))}
    return [*steps, Step("gaussian" if gaussian else "poisson", noise)]


def _blur(rng: np.random.Generator, kind: int, size: int, sigma: Range, beta: float) -> Step:
    one, other, angle = rng.uniform(*sigma), rng.uniform(*sigma), rng.uniform(-np.pi, np.pi)
    pair = (one, other) if kind % 2 else (one, one)
    return Step("blur", {"kind": KINDS[kind], "size": size, "sigma": pair, "angle": angle, "beta": float(beta)})


def _sinc(rng: np.random.Generator, size: int, lowest: float) -> Step:
    return Step("sinc", {"size": size, "cutoff": rng.uniform(lowest, np.pi)})


def _jpeg(rng: np.random.Generator, quality: tuple[int, int]) -> Step:
    return Step("jpeg", {"quality": int(rng.integers(quality[0], quality[1] + 1))})


def _convolved(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    edge = len(weights) // 2
    padded = np.pad(image, ((edge, edge), (edge, edge), (0, 0)), mode="reflect" if min(image.shape[:2]) > 1 else "edge")
    return fftconvolve(padded, weights[:, :, None], mode="valid", axes=(0, 1))


def _resized(image: np.ndarray, full: tuple[int, ...], scale: float, mode: str) -> np.ndarray:
    sides = [max(1, round(side * scale)) for side in full]
    if sides == list(image.shape[:2]):
        return image
    smooth = {} if mode == "area" else {"align_corners": False}
    rows = torch.from_numpy(image).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(rows, sides, mode=mode, **smooth)[0].permute(1, 2, 0).numpy()


def _noisy(image: np.ndarray, level: float, grey: bool, seed: int) -> np.ndarray:
    shape = (*image.shape[:2], 1 if grey else 3)
    return (image + level * generator(seed).standard_normal(shape)).clip(0, 255)


def _grainy(image: np.ndarray, level: float, grey: bool, seed: int) -> np.ndarray:
    light = image.clip(0, 255).round() / 255
    if grey:
        light = light @ np.array([[0.299], [0.587], [0.114]])
    photons = 2 ** np.ceil(np.log2(len(np.unique(light))))  # as many as there are shades, as in Real-ESRGAN
    return (image + 255 * level * (generator(seed).poisson(light * photons) / photons - light)).clip(0, 255)


def _copied(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image.round().clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).astype(np.float64)


_DO = {
    "blur": lambda image, full, **numbers: _convolved(image, kernel(**numbers)),
    "sinc": lambda image, full, **numbers: _convolved(image, sinc(**numbers)),
    "resize": _resized,
    "gaussian": lambda image, full, **numbers: _noisy(image, **numbers),
    "poisson": lambda image, full, **numbers: _grainy(image, **numbers),
    "jpeg": lambda image, full, **numbers: _copied(image, **numbers),
}


def _require(name: str, have: tuple[Any, Any], least: Any, most: Any = math.inf) -> None:
    if not least <= have[0] <= have[1] <= most:
        bound = f" ≤ {most:g}" if most < math.inf else ""
        raise ConfigError(f"{name}: expected {least:g} ≤ low ≤ high{bound}, got {have}")


def _require_odd(name: str, have: tuple[int, int]) -> None:
    if not 1 <= have[0] <= have[1] or have[0] % 2 == 0 or have[1] % 2 == 0:
        raise ConfigError(f"{name}: expected odd numbers, low ≤ high, got {have}")
