"""The net that reads pictures, and what it is shown: the whole of one, or one of its two subjects enlarged."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from bayes_persona.errors import DataError, needs_extra
from bayes_persona.seeds import child
from bayes_persona.world import facts

with needs_extra("diffusion"):
    import torch
    from torch import nn
    from torch.nn import functional

SPREAD = 12**-0.5
"""Standard deviation of a factor before anything is seen: it is uniform between 0 and 1."""
View = Literal["whole", "left", "right"]
"""What of a picture is read: all of it, or the left or the right one of its two subjects."""


@dataclass(frozen=True)
class Config:
    """Sizes of the net.

    >>> Config().size
    64
    """

    size: int = 64
    """Pixels along the side of what it reads; other pictures are resized."""
    widths: tuple[int, ...] = (24, 48, 96)
    """Channels at a half, a quarter and an eighth of the picture's side."""
    squeezed: int = 32
    """Channels that are left of the last ones, each of whose pixels is then looked at."""
    identity: int = 256
    """Features that identity factors are read from."""
    attributes: int = 128
    """Features that attributes are read from."""


class Net(nn.Module):
    """A small residual net with one answer for each identity factor, its error bar, and each question.

    >>> out = Net(Config(), seed=0)(torch.zeros(2, 3, 64, 64))
    >>> out["z"].shape, out["log sd"].shape, out["count"].shape
    (torch.Size([2, 12]), torch.Size([2, 12]), torch.Size([2, 2]))
    """

    def __init__(self, config: Config, seed: int):
        super().__init__()
        fine, middle, coarse = config.widths
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(child(seed, "oracles"))
            self.trunk = nn.Sequential(
                nn.PixelUnshuffle(2),
                nn.Conv2d(12, fine, 3, padding=1),
                _Block(fine),
                nn.Conv2d(fine, middle, 3, stride=2, padding=1),
                _Block(middle),
                nn.Conv2d(middle, coarse, 3, stride=2, padding=1),
                _Block(coarse),
                nn.ReLU(),
                nn.Conv2d(coarse, config.squeezed, 1),
                nn.ReLU(),
                nn.Flatten(),
            )
            pixels = config.squeezed * (config.size // 8) ** 2
            self.identity = nn.Sequential(nn.Linear(pixels, config.identity), nn.ReLU())
            self.z = nn.Linear(config.identity, len(facts.factors()))
            self.log_sd = nn.Linear(config.identity, len(facts.factors()))
            self.attributes = nn.Sequential(nn.Linear(pixels, config.attributes), nn.ReLU())
            self.heads = nn.ModuleList([nn.Linear(config.attributes, len(among)) for among in questions().values()])

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Read pictures `(n, 3, 64, 64)` between 0 and 1: factors, logarithms of their spread, logits by question."""
        seen = self.trunk((2 * pixels - 1).contiguous(memory_format=torch.channels_last))
        who, what = self.identity(seen), self.attributes(seen)
        read = {"z": 0.5 + SPREAD * self.z(who), "log sd": self.log_sd(who).clamp(-4, 1) + np.log(SPREAD)}
        return read | {name: head(what) for name, head in zip(questions(), self.heads, strict=True)}


@cache
def questions() -> dict[str, tuple[str, ...]]:
    """Give the possible answers to each question; `left` and `right` ask for superclasses where there are two subjects.

    >>> questions()["count"], questions()["pose"]
    (('1', '2'), ('left', 'front', 'right'))
    """
    among = {"superclass": facts.superclasses(), **{name: facts.choices(name) for name in facts.ATTRIBUTES}}
    return {**among, "count": ("1", "2"), "left": facts.superclasses(), "right": facts.superclasses()}


def floats(pixels: np.ndarray, size: int = 64) -> torch.Tensor:
    """Turn bytes `(n, height, width, 3)` into what the net reads: `(n, 3, 64, 64)` between 0 and 1.

    Raises:
        DataError: If there are no pictures, or they are of another type or shape.

    >>> floats(np.full((1, 128, 128, 3), 255, np.uint8)).shape
    torch.Size([1, 3, 64, 64])
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        have = f"{pixels.dtype} of shape {pixels.shape}"
        raise DataError(f"pixels: expected uint8 of shape (n, height, width, 3), n at least 1, got {have}")
    channels = torch.from_numpy(pixels.astype(np.float32) / 255).permute(0, 3, 1, 2).contiguous()
    if channels.shape[2:] == (size, size):
        return channels
    return functional.interpolate(channels, (size, size), mode="bilinear", antialias=True).clamp(0, 1)


def viewed(pixels: torch.Tensor, view: View) -> torch.Tensor:
    """Enlarge the square around the left or the right one of two subjects, or leave the whole.

    >>> viewed(torch.zeros(1, 3, 64, 64), "right").shape
    torch.Size([1, 3, 64, 64])
    """
    if view == "whole":
        return pixels
    size = pixels.shape[-1]
    placement = facts.table("subjects")["placement"]["two"]
    # As much of the world around the subject as a picture of one shows, moved into the picture
    width = round(placement["scale"] * size)
    top = min(round((1 + placement["y"]) * size / 2 - width / 2), size - width)
    left = 0 if view == "left" else size - width
    window = pixels[:, :, top : top + width, left : left + width]
    return functional.interpolate(window, (size, size), mode="bilinear", align_corners=False)


def shifted(pixels: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Move each picture up and to the left by its own whole pixels, `(2, n)`; its edge is repeated.

    >>> line = torch.arange(4.0).expand(1, 1, 4, 4)
    >>> shifted(line, torch.tensor([[0], [1]]))[0, 0, 0].tolist()
    [1.0, 2.0, 3.0, 3.0]
    """
    n, channels, size, _ = pixels.shape
    rows, columns = (torch.arange(size) + by[:, :, None]).clamp(0, size - 1)
    every, each = torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None]
    return pixels[every, each, rows[:, None, :, None], columns[:, None, None, :]]


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.widen = nn.Conv2d(width, width, 3, padding=1)
        self.again = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + self.again(functional.relu(self.widen(functional.relu(self.norm(maps)))))
