"""The fifteen corruptions of CIFAR-10-C (Hendrycks & Dietterich 2019, arXiv 1903.12261), written anew.

These are **not the published files**, and scores on them do not compare with scores on those: pictures are regenerated
by recipes of our own, in numpy, scipy and Pillow, with the published severities where those get worse from step to step
(see `SEVERITIES`). What differs by more than rounding: frost is drawn, where the authors lay photographs of it over the
picture; fog's clouds come from a spectrum, not from midpoint displacement; and behind glass a pixel shows one of its
neighbours, where theirs change places.

A picture's random numbers depend on seed, corruption and place alone: they are the same at every severity, so that the
five are one corruption that gets worse, and differences between them are not noise.
"""

import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.seeds import generator

with needs_extra("pictures"):
    from PIL import Image, ImageDraw
    from scipy.ndimage import convolve, gaussian_filter, map_coordinates

Numbers = tuple[float, ...]
Picture = Float[np.ndarray, "h w c"]
"""Between 0 and 1."""

SEVERITIES: Mapping[str, tuple[Numbers, Numbers, Numbers, Numbers, Numbers]] = {
    # standard deviation
    "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    # photons of a white pixel
    "shot_noise": ((500,), (250,), (100,), (75,), (50,)),
    # share of values that become black or white
    "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    # radius, softness
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    # blur, share of the pixels that are moved, times; published are (blur, 1, times) with blurs that undo the damage
    "glass_blur": ((0.4, 0.5, 1), (0.4, 0.75, 1), (0.4, 1, 1), (0.4, 0.75, 2), (0.4, 1, 2)),
    # radius, blur
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    # the zoom's end
    "zoom_blur": ((1.06,), (1.11,), (1.16,), (1.21,), (1.26,)),
    # flakes' mean, spread, size, threshold, fall's radius and blur, share of the picture that is kept
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    # share of the picture, of the frost; published is 0.4 of frost at severity 4, as at 3
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.43), (0.75, 0.45)),
    # amount, how much fainter clouds of half the size are
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    # lightness added
    "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    # share of the contrast that is kept
    "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    # height and width of waves, jitter of the whole, as shares of the side; as published the jitter falls from 0.08 to
    # 0.03, and severity 5 changes pictures half as much as severity 1
    "elastic_transform": ((0, 0.2, 0.03), (0.05, 0.2, 0.05), (0.08, 0.06, 0.06), (0.1, 0.04, 0.07), (0.1, 0.03, 0.08)),
    # share of the pixels along a side
    "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    # quality
    "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),
}
"""What each severity from 1 to 5 means, for pictures of about 32 pixels: the numbers of CIFAR-10-C's own recipe
(github.com/hendrycks/robustness, Apache-2.0). Three tables differ where noted, since with the published ones pictures
change less at some severity than at the one before."""


def corrupt(images: UInt8[np.ndarray, "n h w 3"], name: str, severity: int, seed: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Corrupt pictures, each in a way of its own that depends on seed, corruption and place, not on the other pictures.

    Args:
        images: Pictures in RGB.
        name: One of `SEVERITIES`, named as the published files are.
        severity: 1 to 5; 0 changes nothing.
        seed: Names the random numbers.

    Raises:
        ConfigError: If there is no such corruption or severity.

    >>> grey = np.full((2, 32, 32, 3), 128, np.uint8)
    >>> [int(corrupt(grey, "brightness", severity, seed=0).mean()) for severity in (0, 1, 5)]
    [128, 141, 204]
    """
    if name not in SEVERITIES:
        raise ConfigError(f"name: there is no corruption {name!r}; there are {', '.join(SEVERITIES)}")
    if not 0 <= severity <= 5:
        raise ConfigError(f"severity: expected 0 (none) to 5, got {severity}")
    if severity == 0:
        return images.copy()
    numbers, do = [float(number) for number in SEVERITIES[name][severity - 1]], _DO[name]
    rows = [do(image / 255, generator(seed, "corruption", name, i), *numbers) for i, image in enumerate(images)]
    return (255 * np.reshape(rows, images.shape)).round().clip(0, 255).astype(np.uint8)


def _gaussian(image: Picture, rng: np.random.Generator, spread: float) -> Picture:
    return image + spread * rng.normal(size=image.shape)


def _shot(image: Picture, rng: np.random.Generator, photons: float) -> Picture:
    return rng.poisson(image * photons) / photons


def _impulse(image: Picture, rng: np.random.Generator, share: float) -> Picture:
    hit, salt = rng.random((2, *image.shape))
    return np.where(hit < share, (salt < 0.5).astype(float), image)


def _defocus(image: Picture, rng: np.random.Generator, radius: float, softness: float) -> Picture:
    y, x = np.mgrid[-3:4, -3:4]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    weights = gaussian_filter(disk / disk.sum(), softness, radius=1)
    return convolve(image, weights[:, :, None], mode="mirror")


def _glass(image: Picture, rng: np.random.Generator, blur: float, share: float, times: float) -> Picture:
    image = gaussian_filter(image, blur, axes=(0, 1))
    for _ in range(int(times)):
        dy, dx = rng.integers(-1, 2, (2, *image.shape[:2]))
        still = rng.random(image.shape[:2]) >= share
        image = _moved(image, np.where(still, 0, dy), np.where(still, 0, dx))
    return gaussian_filter(image, blur, axes=(0, 1))


def _motion(image: Picture, rng: np.random.Generator, radius: float, blur: float) -> Picture:
    return _dragged(image, radius, blur, rng.uniform(-np.pi / 4, np.pi / 4))


def _zoom(image: Picture, rng: np.random.Generator, end: float) -> Picture:
    zoomed = [_zoomed(image, factor) for factor in np.arange(1, end, 0.01)]
    return np.mean([image, *zoomed], axis=0)


def _snow(
    image: Picture,
    rng: np.random.Generator,
    mean: float,
    spread: float,
    size: float,
    threshold: float,
    radius: float,
    blur: float,
    kept: float,
) -> Picture:
    flakes = _zoomed(mean + spread * rng.normal(size=(*image.shape[:2], 1)), size)
    falling = rng.uniform(-0.75, -0.25) * np.pi
    flakes = _dragged(np.where(flakes < threshold, 0, flakes).clip(0, 1), radius, blur, falling)
    white = np.maximum(image, 1.5 * _grey(image) + 0.5)  # everything gets paler
    return kept * image + (1 - kept) * white + flakes + flakes[::-1, ::-1]


def _frost(image: Picture, rng: np.random.Generator, kept: float, share: float) -> Picture:
    return kept * image + share * _ice(image.shape[:2], rng)


def _fog(image: Picture, rng: np.random.Generator, amount: float, decay: float) -> Picture:
    clouds = _clouds(image.shape[:2], rng, decay)
    clouds = (clouds - clouds.min()) / np.ptp(clouds)
    top = image.max()
    return (image + amount * clouds[:, :, None]) * top / (top + amount)


def _brightness(image: Picture, rng: np.random.Generator, added: float) -> Picture:
    value = image.max(axis=2, keepdims=True)  # of HSV; the same factor for all channels keeps hue and saturation
    lighter = (value + added).clip(0, 1)
    return np.where(value > 0, image * lighter / np.where(value > 0, value, 1), lighter)


def _contrast(image: Picture, rng: np.random.Generator, kept: float) -> Picture:
    mean = image.mean(axis=(0, 1))
    return mean + kept * (image - mean)


def _elastic(image: Picture, rng: np.random.Generator, height: float, width: float, jitter: float) -> Picture:
    sides = np.array(image.shape[:2])
    side = sides.min()
    third = side // 3 * np.array([[1, 1], [1, -1], [-1, -1]])
    points = sides // 2 + third
    aims = points + jitter * side * rng.uniform(-1, 1, points.shape)
    affine = np.linalg.solve(np.column_stack([points, np.ones(3)]), aims)
    waves = [
        height * side * gaussian_filter(rng.uniform(-1, 1, sides), width * side, mode="reflect", truncate=3)
        for _ in range(2)
    ]
    aim = np.tensordot(affine[:2].T, np.indices(image.shape[:2]), 1) + affine[2][:, None, None] + waves
    return np.stack([map_coordinates(channel, aim, order=1, mode="mirror") for channel in image.transpose(2, 0, 1)], 2)


def _pixelate(image: Picture, rng: np.random.Generator, share: float) -> Picture:
    height, width = image.shape[:2]
    small = _photo(image).resize((max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / 255


def _jpeg(image: Picture, rng: np.random.Generator, quality: float) -> Picture:
    file = io.BytesIO()
    _photo(image).save(file, "JPEG", quality=int(quality))
    return np.asarray(Image.open(file)) / 255


def _photo(image: Picture) -> Image.Image:
    return Image.fromarray((255 * image).round().astype(np.uint8))


def _grey(image: Picture) -> Float[np.ndarray, "h w 1"]:
    return image @ np.array([[0.299], [0.587], [0.114]])


def _moved(image: Picture, dy: np.ndarray | int, dx: np.ndarray | int) -> Picture:
    """Show at every pixel what is (dy, dx) from it; what would lie outside is the edge."""
    rows, columns = np.indices(image.shape[:2])
    return image[(rows + dy).clip(0, len(image) - 1), (columns + dx).clip(0, image.shape[1] - 1)]


def _dragged(image: Picture, radius: float, blur: float, angle: float) -> Picture:
    """Blur to one side, as ImageMagick's motion blur: half a Gaussian, along whole pixels."""
    steps = np.arange(2 * np.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * blur**2))
    offsets = np.rint(np.outer(steps, [np.sin(angle), np.cos(angle)])).astype(int).tolist()
    moved = [_moved(image, dy, dx) for dy, dx in offsets]
    return np.tensordot(weights / weights.sum(), np.stack(moved), 1)


def _zoomed(image: Picture, factor: float) -> Picture:
    """Enlarge around the centre, by linear interpolation, and cut to size."""
    rows, columns = (_stretch(side, factor) for side in image.shape[:2])
    return columns @ np.tensordot(rows, image, 1)


def _stretch(side: int, factor: float) -> Float[np.ndarray, "side side"]:
    centre = (side - 1) / 2
    place = centre + (np.arange(side) - centre) / factor
    return (1 - np.abs(place[:, None] - np.arange(side))).clip(0)


def _clouds(sides: tuple[int, ...], rng: np.random.Generator, decay: float) -> Float[np.ndarray, "h w"]:
    """Draw random clouds: those of half the size are `decay` times fainter."""
    white = rng.normal(size=[2 * side for side in sides])  # a spectrum's clouds repeat: use less than a period
    frequency = np.hypot(*np.meshgrid(*(side * np.fft.fftfreq(side) for side in white.shape), indexing="ij"))
    # an octave holds as many waves as the square of its frequency
    strength = np.where(frequency > 0, np.maximum(frequency, 1), np.inf) ** -(1 + np.log2(decay))
    clouds = np.fft.ifft2(np.fft.fft2(white) * strength).real
    return clouds[: sides[0], : sides[1]]


def _ice(sides: tuple[int, ...], rng: np.random.Generator) -> Float[np.ndarray, "h w 3"]:
    """Draw frost on a window: ferns of ice that grow in from the edges, a haze between them, clear glass elsewhere."""
    fine = 4 * np.array(sides)  # lines are drawn large and made small, which makes them soft
    pane = Image.new("L", (fine[1], fine[0]))
    pen = ImageDraw.Draw(pane)
    for _ in range(7):
        root = rng.random(2)
        root[rng.integers(2)] = rng.integers(2)
        angle = np.arctan2(*(0.5 - root)) + rng.uniform(-1, 1)
        length = rng.uniform(0.25, 0.6) * fine.min()
        along = np.linspace(0, 1, 9)[:, None]
        stem = root * fine + along * length * [np.sin(angle), np.cos(angle)]
        shade = int(rng.uniform(120, 255))
        for turn in (-np.pi / 3, np.pi / 3):  # ice crystals branch at sixty degrees
            tips = stem + 0.4 * (1 - along) * length * [np.sin(angle + turn), np.cos(angle + turn)]
            for start, tip in zip(stem, tips, strict=True):
                pen.line([*start[::-1], *tip[::-1]], fill=shade, width=2)
        pen.line([*stem[0, ::-1], *stem[-1, ::-1]], fill=shade, width=4)
    ferns = np.asarray(pane.resize((sides[1], sides[0]), Image.Resampling.BOX)) / 255
    clouds = _clouds(sides, rng, 3.0)
    haze = 0.1 / (1 + np.exp(-2 * (clouds - clouds.mean()) / clouds.std()))
    return (haze + 1.6 * ferns).clip(0, 1)[:, :, None] * np.array([0.86, 0.94, 1.0])  # a little blue


_DO = {
    "gaussian_noise": _gaussian,
    "shot_noise": _shot,
    "impulse_noise": _impulse,
    "defocus_blur": _defocus,
    "glass_blur": _glass,
    "motion_blur": _motion,
    "zoom_blur": _zoom,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg,
}
