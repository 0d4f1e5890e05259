"""A folder of photos as one array: upright, in colour, square, of one size, each with its caption if it has one.

A photo that cannot be used is never dropped silently: `skipped` names it and says why.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.files import load_json

with needs_extra("diffusion"):
    from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".jfif",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
"""What a picture's name may end in; other files of a folder are left alone."""
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever the name says. HEIF needs a Pillow plugin; formats that run programs (EPS) are not here."""
LIMIT = 80_000_000
"""Pixels of the largest picture that is opened: a small file can claim to hold more than fits into memory."""
CAPTIONS = "captions.json"
"""Name of the file that maps names of photos to captions. A photo's own `NAME.txt` comes before it."""


class Photos(NamedTuple):
    """Photos that belong together, in the order of their names.

    >>> Photos(np.zeros((1, 8, 8, 3), np.uint8), ("a.png",), (None,), ()).pixels.shape
    (1, 8, 8, 3)
    """

    pixels: UInt8[np.ndarray, "n size size 3"]
    names: tuple[str, ...]
    captions: tuple[str | None, ...]
    skipped: tuple[tuple[str, str], ...]
    """Names of files that could not be used, and why."""


def read(source: str | Path | Sequence[str | Path], size: int, *, limit: int = LIMIT) -> Photos:
    """Read photos: turned upright, in sRGB, over white where transparent, cut to the middle square, resized by Lanczos.

    Args:
        source: A folder, whose pictures are taken in the order of their names (folders in it are left alone), or files,
            which are taken in the order given. Links are followed.
        size: Pixels along a side of the result.
        limit: Pixels of the largest picture that is opened.

    Raises:
        ConfigError: If `size` or `limit` is less than 1.
        DataError: If there is no such folder, no usable photo, or a caption is not text.
        MismatchError: If captions.json names a photo that is not in the folder.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (30, 20), "red").save(folder / "me.png")
    >>> _ = (folder / "me.txt").write_text("a red wall")
    >>> photos = read(folder, 8)
    >>> photos.pixels[0, 0, 0].tolist(), photos.names, photos.captions
    ([255, 0, 0], ('me.png',), ('a red wall',))
    """
    for name, value in (("size", size), ("limit", limit)):
        if value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
    paths = _listed(Path(source)) if isinstance(source, str | Path) else [Path(path) for path in source]
    rows, names, captions, skipped = [], [], [], []
    for path in paths:
        caption = _caption(path)
        try:
            rows.append(picture(path, size, limit=limit))
        except DataError as error:
            skipped.append((path.name, str(error).removeprefix(f"{path}: ")))
        else:
            names.append(path.name)
            captions.append(caption)
    if not rows:
        why = "; ".join(f"{name}: {reason}" for name, reason in skipped) or "no files that end like pictures"
        raise DataError(f"{source}: no photo that can be used ({why}); give JPEG, PNG or WebP files")
    return Photos(np.stack(rows), tuple(names), tuple(captions), tuple(skipped))


def picture(path: str | Path, size: int, *, limit: int = LIMIT) -> UInt8[np.ndarray, "size size 3"]:
    """Read one photo as `read` does.

    Raises:
        DataError: If it is absent, damaged, too large or not a picture.

    >>> picture("nowhere.jpg", 8)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.DataError: nowhere.jpg: there is no such file
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow: odd EXIF data, and sizes that are checked here
            with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                width, height = image.size
                if width * height > limit:
                    raise DataError(f"{path}: {width}×{height} is more than {limit:,} pixels; make it smaller")
                image.draft(image.mode, (2 * size, 2 * size))  # large JPEGs: decode fewer pixels, still twice too many
                square = ImageOps.fit(_coloured(path, _srgb(_upright(image))), (size, size), Image.Resampling.LANCZOS)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: {_unknown(path)}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: more than {limit:,} pixels ({error}); make it smaller") from error
    except Exception as error:  # decoders raise all sorts of things at damaged bytes
        raise DataError(f"{path}: damaged ({error}); copy it again from where it came") from error
    return np.asarray(square)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError, LookupError):  # orientation is unreadable, the picture may be fine
        return image


def _srgb(image: Image.Image) -> Image.Image:
    """Convert from the camera's colours, such as Display P3, if the picture says what they are."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # the profile is unreadable, the picture may be fine
        return image


def _coloured(path: Path, image: Image.Image) -> Image.Image:
    """Give 8-bit RGB."""
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(float)
        if deep.min() < 0 or deep.max() > 65535:
            raise DataError(f"{path}: has 32-bit samples; save it with 8 or 16 bits")
        return Image.fromarray((deep / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError(f"{path}: has floating-point samples; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _unknown(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if (start[4:8] == b"ftyp" and start[8:12] != b"avif") or path.suffix.lower() in (".heic", ".heif"):
        return "HEIC is not supported; save it as JPEG (iPhone: Settings, Camera, Formats, Most Compatible)"
    return "not a picture, or damaged in its first bytes; save it as JPEG or PNG"


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; a single photo goes into a list")
    shown = (path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    paths = sorted(path for path in shown if path.suffix.lower() in SUFFIXES)
    if unknown := _captions(folder).keys() - {path.name for path in paths}:
        raise MismatchError(f"{folder / CAPTIONS}: names {min(unknown)}, which is no photo in this folder; correct it")
    return paths


def _captions(folder: Path) -> dict[str, Any]:
    path = folder / CAPTIONS
    captions = load_json(path) if path.is_file() else {}
    if not isinstance(captions, dict) or not all(isinstance(text, str) for text in captions.values()):
        raise DataError(f'{path}: expected texts by name, such as {{"me.jpg": "me on a beach"}}')
    return captions


def _caption(path: Path) -> str | None:
    own = path.with_suffix(".txt")
    if not own.is_file():
        return _captions(path.parent).get(path.name, "").strip() or None
    try:
        return own.read_text(encoding="utf-8-sig").strip() or None
    except UnicodeDecodeError as error:
        raise DataError(f"{own}: not UTF-8 text ({error}); save it as UTF-8") from error
