"""Real downstream tasks: few labelled examples to learn from, many to judge, some from elsewhere to be unsure of.

Settings are chosen on examples of part "tuning"; what is reported comes from part "report", which shares none with it.
"""

import csv
import gzip
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import nn

from bayes_persona.errors import ConfigError
from bayes_persona.nptl.corruptions import SEVERITIES, corrupt
from bayes_persona.seeds import child, generator
from benchmarks.transfer import minilm, mobilenet

Part = Literal["report", "tuning"]
SIZE, CUT = 96, 25
"""Pixels of MobileNet's pictures; its first layer that is fine-tuned."""
JUDGED, SENTENCES = 2000, 600
"""Pictures that judge, at most, and sentences."""


@dataclass(frozen=True)
class Split:
    """One few-shot problem."""

    x: Any
    y: np.ndarray
    x_test: Any
    y_test: np.ndarray
    outside: Any
    """Inputs of another kind, for out-of-distribution scores."""
    shifted: dict[str, Any] = field(default_factory=dict)
    """The test inputs, corrupted: "corruption severity" to inputs."""


@dataclass(frozen=True)
class Target:
    """A task and the pretrained net that is transferred to it."""

    name: str
    classes: int
    net: Callable[[], nn.Module]
    """Makes the part of the net that is fine-tuned, with a fresh head."""
    split: Callable[[int, Part], Split]
    steps: int = 100
    """Gradient steps of one fit."""
    batch: int = 50
    """Examples a step."""


def cifar(data: Path, shots: int = 50, corrupted: int = 0) -> Target:
    """ImageNet's MobileNet on CIFAR-10, `shots` pictures of each class; so many of the test pictures corrupted, too."""
    trunk, _ = _mobilenet(data, 10)
    arrays = np.load(data / "images" / "cifar10_subset.npz")
    x, y, x_test, y_test = (arrays[name] for name in ("train_x", "train_y", "test_x", "test_y"))
    digits = np.repeat(_mnist(data)[0][:1000, ..., None], 3, axis=-1)
    outside = mobilenet.activations(trunk, digits, SIZE)
    known = mobilenet.activations(trunk, x, SIZE)
    judged = mobilenet.activations(trunk, x_test, SIZE)
    pools = _pools(y)

    def split(seed: int, part: Part) -> Split:
        learn, rest = _few(y, pools[part], 10, shots, seed)
        if part == "tuning":
            return Split(known[learn], y[learn], known[rest], y[rest], outside)
        some = generator(seed, "judged").permutation(len(y_test))[:JUDGED]
        shifted = {}
        for name in SEVERITIES if corrupted else ():
            for severity in range(1, 6):
                pictures = corrupt(x_test[some[:corrupted]], name, severity, child(seed, "corrupted"))
                shifted[f"{name} {severity}"] = mobilenet.activations(trunk, pictures, SIZE)
        return Split(known[learn], y[learn], judged[some], y_test[some], outside, shifted)

    return Target("cifar", 10, lambda: _mobilenet(data, 10)[1], split)


def characters(data: Path, shots: int = 5, classes: int = 50) -> Target:
    """ImageNet's MobileNet on handwritten characters (Omniglot), `shots` drawings of each of `classes` letters."""
    trunk, _ = _mobilenet(data, classes)
    pictures, letters = _omniglot(data)
    digits = np.repeat(255 - _mnist(data)[0][:1000, ..., None], 3, axis=-1)  # ink is black on Omniglot
    outside = mobilenet.activations(trunk, digits, SIZE)
    known = mobilenet.activations(trunk, pictures, SIZE)
    half = letters.max() // 2

    def split(seed: int, part: Part) -> Split:
        mine = np.arange(half) if part == "tuning" else np.arange(half, letters.max() + 1)
        chosen = generator(seed, "letters").permutation(mine)[:classes]
        rows = np.flatnonzero(np.isin(letters, chosen))
        y = np.searchsorted(np.sort(chosen), letters)
        learn, rest = _few(y, rows, classes, shots, seed)
        return Split(known[learn], y[learn], known[rest], y[rest], outside)

    return Target("characters", classes, lambda: _mobilenet(data, classes)[1], split)


def sentences(data: Path, shots: int = 100) -> Target:
    """MiniLM on SST-2, `shots` sentences of each sentiment: its last layer and a head are fine-tuned."""
    x, y = _sst2(data, "train")
    x_test, y_test = _sst2(data, "test")
    pools = _pools(y)
    names = minilm.activations((data / "text" / "wiki_names_v2.txt").read_text(encoding="utf-8").split("\n")[:200])
    some = generator(0, "judged").permutation(len(y_test))[:SENTENCES]
    judged = minilm.activations([x_test[row] for row in some])

    def split(seed: int, part: Part) -> Split:
        learn, rest = _few(y, pools[part], 2, shots, seed)
        learned = minilm.activations([x[row] for row in learn])
        if part == "tuning":
            rest = rest[: SENTENCES // 2]
            return Split(learned, y[learn], minilm.activations([x[row] for row in rest]), y[rest], names)
        return Split(learned, y[learn], judged, y_test[some], names)

    # thirty steps are three passes over two hundred sentences, each as costly as ten of MobileNet's
    return Target("sentences", 2, lambda: minilm.tail(2), split, steps=30, batch=20)


def folder(pictures: Path, net: str, shots: int) -> Target:
    """A user's own pictures, a folder a class, on an image classifier of transformers from a path."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    names = sorted(place.name for place in pictures.iterdir() if place.is_dir())
    files = [(file, label) for label, name in enumerate(names) for file in sorted((pictures / name).iterdir())]
    y = np.array([label for _, label in files])
    processor = AutoImageProcessor.from_pretrained(net, local_files_only=True)
    images = [Image.open(file).convert("RGB") for file, _ in files]
    x = {"pixel_values": processor(images, return_tensors="np")["pixel_values"].astype(np.float32)}

    def split(seed: int, part: Part) -> Split:
        learn, rest = _few(y, np.arange(len(y)), len(names), shots, child(seed, part))
        learned, judged = ({"pixel_values": x["pixel_values"][rows]} for rows in (learn, rest))
        noise = generator(seed, "outside").normal(size=judged["pixel_values"].shape).astype(np.float32)
        return Split(learned, y[learn], judged, y[rest], {"pixel_values": noise})

    def model() -> nn.Module:
        return AutoModelForImageClassification.from_pretrained(
            net, num_labels=len(names), ignore_mismatched_sizes=True, local_files_only=True
        )

    return Target("folder", len(names), model, split)


def _pools(y: np.ndarray) -> dict[Part, np.ndarray]:
    """Part examples at random, since files may be in the order of their labels: two fifths to tune on."""
    order = generator(0, "pools").permutation(len(y))
    return {"tuning": order[: 2 * len(y) // 5], "report": order[2 * len(y) // 5 :]}


def _few(y: np.ndarray, pool: np.ndarray, classes: int, shots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pick so many of every class from the pool, and give these and at most `JUDGED` of the others."""
    order, labels = generator(seed, "few").permutation(pool), np.unique(y[pool])
    if len(labels) != classes:
        raise ConfigError(f"split: expected examples of {classes} classes, got {len(labels)}")
    learn = np.concatenate([order[y[order] == label][:shots] for label in labels])
    return learn, np.setdiff1d(order, learn, assume_unique=True)[:JUDGED]


def _mobilenet(data: Path, classes: int):
    return mobilenet.load(data / "nets" / "mobilenet_v1_0.5_160.safetensors", CUT, classes)


def _mnist(data: Path) -> tuple[np.ndarray, np.ndarray]:
    def read(kind: str, offset: int) -> np.ndarray:
        packed = (data / "images" / f"mnist-t10k-{kind}-ubyte.gz").read_bytes()
        return np.frombuffer(gzip.decompress(packed), np.uint8, offset=offset)

    return read("images-idx3", 16).reshape(-1, 28, 28), read("labels-idx1", 8)


def _omniglot(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Give drawings (n, 105, 105, 3) and the number of each one's letter; the two archives share some alphabets."""
    drawings: dict[str, tuple[str, bytes]] = {}
    for number in (1, 2):
        with zipfile.ZipFile(data / "images" / f"omniglot-images_background_small{number}.zip") as archive:
            for name in archive.namelist():
                if name.endswith(".png") and not name.startswith("__"):
                    place = Path(name)
                    drawings["/".join(place.parts[-3:])] = ("/".join(place.parts[-3:-1]), archive.read(name))
    letters = sorted({letter for letter, _ in drawings.values()})
    pictures = [np.asarray(Image.open(io.BytesIO(drawings[name][1])).convert("RGB")) for name in sorted(drawings)]
    return np.stack(pictures), np.array([letters.index(drawings[name][0]) for name in sorted(drawings)])


def _sst2(data: Path, part: str) -> tuple[list[str], np.ndarray]:
    with (data / "text" / f"sst2_{part}.tsv").open(encoding="utf-8") as file:
        rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if len(row) == 2]
    rows = [row for row in rows if row[1] in ("0", "1")]  # without the header
    return [text for text, _ in rows], np.array([int(label) for _, label in rows])
