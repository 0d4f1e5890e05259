"""Photos: whatever a camera or a program wrote comes out upright, in colour and square, or is named with a reason."""

import json
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageCms

from bayes_persona import ConfigError, DataError, MismatchError, RunError
from bayes_persona.diffusion.photos import picture, read

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
CORNERS = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)


def corners(side=32):
    """A picture with another colour in each quarter."""
    return Image.fromarray(np.kron(CORNERS, np.ones((side // 2, side // 2, 1), np.uint8)))


def png_header(width, height):
    """A PNG that claims to be this large, and holds nothing."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_a_photo_of_the_right_size_comes_back_as_it_was(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path, 16).pixels[0], pixels)


# where the four quarters of the stored picture are seen: EXIF 2.32, tag 274
SEEN = {
    1: [[0, 1], [2, 3]],
    2: [[1, 0], [3, 2]],
    3: [[3, 2], [1, 0]],
    4: [[2, 3], [0, 1]],
    5: [[0, 2], [1, 3]],
    6: [[2, 0], [3, 1]],
    7: [[3, 1], [2, 0]],
    8: [[1, 3], [0, 2]],
}


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_photos_are_turned_upright(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[274] = orientation
    corners().save(tmp_path / f"a.{suffix}", exif=exif, **({"quality": 100} if suffix == "jpg" else {}))
    seen = picture(tmp_path / f"a.{suffix}", 32)[8::16, 8::16].astype(int)
    want = CORNERS.reshape(4, 3)[np.array(SEEN[orientation])]
    assert np.abs(seen - want).max() < 6


def swapped_colours():
    """sRGB's own profile, with the places of red and green in its table exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_what_the_profile_says(tmp_path, mode):
    for name, profile in (("a", None), ("b", swapped_colours()), ("c", b"not a profile")):
        Image.new(mode, (16, 16), "red").save(tmp_path / f"{name}.png", icc_profile=profile)
    plain, swapped, unreadable = read(tmp_path, 8).pixels[:, 0, 0].astype(int)
    assert plain.tolist() == unreadable.tolist() == [255, 0, 0]
    assert abs(swapped - [0, 255, 0]).max() <= 3


def test_the_middle_square_is_kept(tmp_path):
    wide = np.full((10, 30, 3), 255, np.uint8)
    wide[:, 10:20] = RED
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    assert (read(tmp_path, 10).pixels == RED).all()


@pytest.mark.parametrize(
    ("mode", "colour", "want"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, WHITE),
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("LA", (0, 128), (127, 127, 127)),
        ("I;16", 0x8080, (128, 128, 128)),
    ],
)
def test_every_kind_of_png_comes_out_in_colour(tmp_path, mode, colour, want):
    Image.new(mode, (8, 8), colour).save(tmp_path / "a.png")
    assert np.abs(picture(tmp_path / "a.png", 8).astype(int) - want).max() <= 1


def test_palettes_with_and_without_transparency(tmp_path):
    corners().quantize(4).save(tmp_path / "a.png")
    corners().quantize(4).save(tmp_path / "b.gif")
    clear = Image.new("P", (32, 32), 0)
    clear.putpalette([255, 0, 0, 0, 255, 0])
    clear.save(tmp_path / "c.png", transparency=bytes([0, 255]))
    pixels = read(tmp_path, 32).pixels
    assert np.array_equal(pixels[0], np.asarray(corners()))
    assert np.array_equal(pixels[1], np.asarray(corners()))
    assert (pixels[2] == 255).all()


def test_cmyk_jpegs_and_deep_tiffs(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    Image.fromarray(np.full((16, 16), 65535, np.uint16)).save(tmp_path / "b.tif")
    pixels = read(tmp_path, 8).pixels.astype(int)
    assert np.abs(pixels[0] - RED).max() < 6
    assert (pixels[1] == 255).all()


def test_samples_of_32_bits_are_refused_with_advice(tmp_path):
    Image.fromarray(np.full((8, 8), 70000, np.int32)).save(tmp_path / "a.tif")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(DataError, match=r"a.tif: has 32-bit samples; save.*b.tif: has floating-point samples"):
        read(tmp_path, 8)


def test_large_jpegs_are_read_faster_and_alike(tmp_path):
    corners(1024).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(picture(tmp_path / "a.jpg", 32)[8::16, 8::16].astype(int) - CORNERS).max() < 6


def test_pictures_that_claim_to_be_huge_are_not_opened(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (tmp_path / "large.png").write_bytes(png_header(9_500, 9_500))
    corners().save(tmp_path / "fine.png")
    photos = read(tmp_path, 8)
    assert photos.names == ("fine.png",)
    assert [name for name, _ in photos.skipped] == ["bomb.png", "large.png"]
    assert all("more than 80,000,000 pixels" in reason for _, reason in photos.skipped)
    with pytest.raises(DataError, match=r"fine.png: 32×32 is more than 1,000 pixels; make it smaller"):
        picture(tmp_path / "fine.png", 8, limit=1000)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_truncated_files_are_skipped_and_named(tmp_path, suffix, keep):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(tmp_path / f"cut.{suffix}")
    whole = (tmp_path / f"cut.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    corners().save(tmp_path / "fine.png")
    photos = read(tmp_path, 8)
    assert photos.names == ("fine.png",)
    assert photos.skipped[0][0] == f"cut.{suffix}"


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    for suffix in ("jpg", "png", "webp", "gif", "tif"):
        corners().save(tmp_path / f"a.{suffix}")
        whole = np.frombuffer((tmp_path / f"a.{suffix}").read_bytes(), np.uint8)
        for _ in range(40):
            bad = whole.copy()
            bad[rng.integers(len(bad), size=8)] = rng.integers(256, size=8)
            (tmp_path / f"a.{suffix}").write_bytes(bad.tobytes())
            with suppress(DataError):
                assert picture(tmp_path / f"a.{suffix}", 8).shape == (8, 8, 3)


def test_heic_is_refused_with_advice(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(DataError, match="HEIC is not supported; save it as JPEG"):
        read(tmp_path, 8)


def test_files_that_run_programs_when_opened_are_not_opened(tmp_path):
    corners().save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(DataError, match="not a picture"):
        picture(tmp_path / "a.png", 8)


def test_other_files_are_left_alone_and_names_decide_the_order(tmp_path):
    for name in ("b.JPG", "a.png", "c.webp"):
        corners().save(tmp_path / name)
    for name in ("notes.md", ".DS_Store", "._b.JPG", "movie.mp4"):
        (tmp_path / name).write_bytes(b"\0")
    (tmp_path / "more.png").mkdir()
    photos = read(tmp_path, 8)
    assert photos.names == ("a.png", "b.JPG", "c.webp")
    assert photos.skipped == ()


def test_files_are_taken_in_the_order_given(tmp_path):
    for name in ("a.png", "b.png"):
        corners().save(tmp_path / name)
    assert read([tmp_path / "b.png", str(tmp_path / "a.png")], 8).names == ("b.png", "a.png")
    assert read([tmp_path / "b.png", tmp_path / "no.png"], 8).skipped == (("no.png", "there is no such file"),)


def test_captions_come_from_beside_the_photos(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        corners().save(tmp_path / name)
    (tmp_path / "captions.json").write_text(json.dumps({"a.png": "me, once", "b.png": "me, twice"}))
    (tmp_path / "b.txt").write_text("﻿me at sea\n", encoding="utf-8")
    assert read(tmp_path, 8).captions == ("me, once", "me at sea", None)
    assert read([tmp_path / "a.png"], 8).captions == ("me, once",)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('{"z.png": "who"}', MismatchError, "names z.png, which is no photo in this folder"),
        ('["a"]', DataError, "expected texts by name"),
        ('{"a.png": 3}', DataError, "expected texts by name"),
        ("{", RunError, "not valid JSON"),
    ],
)
def test_captions_that_cannot_be_meant_are_refused(tmp_path, text, error, words):
    corners().save(tmp_path / "a.png")
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(error, match=words):
        read(tmp_path, 8)


def test_folders_without_photos_are_refused(tmp_path):
    with pytest.raises(DataError, match="no photo that can be used"):
        read(tmp_path, 8)
    with pytest.raises(DataError, match="there is no such folder"):
        read(tmp_path / "gone", 8)
    with pytest.raises(ConfigError, match="size: expected at least 1, got 0"):
        read(tmp_path, 0)
