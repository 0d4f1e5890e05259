"""A genuine shift from synthetic to real: digits printed in fonts upstream, digits written by people downstream.

Both are 8×8 pictures in [0, 1] made in the same way: a 32×32 bitmap whose inked pixels are counted in blocks of 4×4,
which is how the handwritten set that comes with scikit-learn was made (Alpaydin & Kaynak 1998).
"""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.files import load_arrays
from bayes_persona.seeds import generator

with needs_extra("demo"):
    import matplotlib
    import torch
    from PIL import Image, ImageDraw, ImageFont
    from sklearn.datasets import load_digits
    from torch import nn

CLASSES = 10
TUNING = 500
Part = Literal["report", "tuning"]
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"),
    *("STIXGeneralBolIta", "cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
"""The faces that come with matplotlib, so that the upstream task can be made anywhere."""


class Split(NamedTuple):
    """A few labelled handwritten digits to learn from, and the many that judge."""

    x: Float[np.ndarray, "n 1 8 8"]
    y: Int[np.ndarray, " n"]
    x_test: Float[np.ndarray, "m 1 8 8"]
    y_test: Int[np.ndarray, " m"]


class DigitNet(nn.Module):
    """Three convolutions and a linear head: 11 thousand parameters, no BatchNorm.

    >>> DigitNet()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # 4 × 4
            *(nn.Conv2d(16, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # 2 × 2
            nn.Flatten(),
        )
        self.head = nn.Linear(4 * 48, CLASSES)

    def forward(self, x):
        """Give the logits of pictures (n, 1, 8, 8)."""
        return self.head(self.body(x))


def pretrained() -> DigitNet:
    """Give the net trained on printed digits, whose weights come with the package.

    >>> sum(parameter.numel() for parameter in pretrained().parameters())
    11370
    """
    params, _ = load_arrays(Path(str(files("bayes_persona.demo") / "assets" / "digit_net.safetensors")))
    net = DigitNet()
    net.load_state_dict({name: torch.from_numpy(array) for name, array in params.items()})
    return net


def handwritten(n: int, seed: int, part: Part = "report") -> Split:
    """Give `n` handwritten digits to learn from and the others of the same part to judge, split at random by `seed`.

    Args:
        n: How many digits to learn from.
        seed: Names the split.
        part: Settings are chosen on "tuning" (500 digits); what is shown comes from "report" (the other 1,297).

    Raises:
        ConfigError: If `n` leaves nothing to judge.

    >>> [len(array) for array in handwritten(100, seed=0)]
    [100, 100, 1197, 1197]
    """
    x, y = (np.asarray(array) for array in load_digits(return_X_y=True))
    parting = generator(0, "handwritten parts").permutation(len(y))
    mine = parting[:TUNING] if part == "tuning" else parting[TUNING:]
    if not 1 <= n < len(mine):
        raise ConfigError(f"n: expected 1 to {len(mine) - 1} of the {len(mine)} digits of part {part!r}, got {n}")
    order = generator(seed, "handwritten").permutation(mine)
    x = (x.reshape(-1, 1, 8, 8) / 16).astype(np.float32)[order]
    y = y[order]
    return Split(x[:n], y[:n], x[n:], y[n:])


def printed(n: int, seed: int) -> tuple[Float[np.ndarray, "n 1 8 8"], Int[np.ndarray, " n"]]:
    """Print `n` random digits in random fonts, sizes, slants and places.

    >>> x, y = printed(3, seed=0)
    >>> x.shape, y.shape, bool(x.max() <= 1)
    ((3, 1, 8, 8), (3,), True)
    """
    rng = generator(seed, "printed")
    y = rng.integers(CLASSES, size=n)
    return np.stack([_print(str(digit), rng)[None] for digit in y]), y


def _print(digit: str, rng: np.random.Generator) -> Float[np.ndarray, "8 8"]:
    stroke = int(rng.integers(0, 3))
    page = Image.new("L", (128, 128))
    ImageDraw.Draw(page).text(
        (64, 64), digit, fill=255, font=_font(rng.choice(FONTS)), anchor="mm", stroke_width=stroke
    )
    slant, turn = rng.uniform(-0.25, 0.25), rng.uniform(-12, 12)
    page = page.transform(
        page.size, Image.Transform.AFFINE, (1, slant, -64 * slant, 0, 1, 0), Image.Resampling.BILINEAR
    )
    page = page.rotate(turn, Image.Resampling.BILINEAR)
    page = page.crop(page.getbbox())
    # As in the handwritten set, the digit fills the height of its bitmap; its width varies.
    height = int(rng.integers(27, 33))
    width = min(32, max(4, round(page.width * height / page.height * rng.uniform(0.8, 1.3))))
    page = page.resize((width, height), Image.Resampling.BILINEAR)
    bitmap = Image.new("L", (32, 32))
    left = int(np.clip((32 - width) // 2 + rng.integers(-3, 4), 0, 32 - width))
    bitmap.paste(page, (left, int(rng.integers(0, 33 - height))))
    inked = np.asarray(bitmap) > 127
    return inked.reshape(8, 4, 8, 4).sum(axis=(1, 3)).astype(np.float32) / 16


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf", 64)
