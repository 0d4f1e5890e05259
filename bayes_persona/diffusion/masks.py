"""Where in a photo the subject is: masks that people drew, or that a segmenter finds by the superclass's name.

A mask says where the loss looks (`persona.posterior.Shown`), so that a subject is learned and not the room behind it.
Any function from pictures and a word to numbers between 0 and 1 is a segmenter.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.diffusion.photos import SUFFIXES, picture
from bayes_persona.diffusion.pipelines import frozen
from bayes_persona.errors import DataError, needs_extra

with needs_extra("diffusion"):
    import torch
    from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

FOLDER = "masks"
"""Folder among the photos where masks lie, under their photos' names."""
TEMPLATES = ("a photo of a {}", "a good photo of a {}", "the photo of a {}", "an image of a {}", "a photograph of a {}")
"""A superclass is looked for in several sentences, and what is found is averaged."""
Segmenter = Callable[[UInt8[np.ndarray, "n h w 3"], str], Float[np.ndarray, "n h w"]]
"""Pictures and a word in, how much of each pixel is that word's out."""


def read(folder: str | Path, names: Sequence[str], size: int) -> Float[np.ndarray, "n size size"] | None:
    """Read the masks that lie in a folder of photos, cut and resized as the photos are; None if there are none.

    Args:
        folder: The photos' folder; masks are in `masks` inside it, `masks/me.png` for `me.jpg`: white is the subject.
        names: The photos' names.
        size: Pixels along a side.

    Raises:
        DataError: If only some photos have one, or one is no picture.

    >>> import tempfile
    >>> from PIL import Image
    >>> photos = Path(tempfile.mkdtemp())
    >>> (photos / "masks").mkdir()
    >>> Image.new("L", (8, 8), 255).save(photos / "masks" / "me.png")
    >>> read(photos, ["me.jpg"], 4).mean(), read(photos / "masks", ["me.jpg"], 4)
    (np.float64(1.0), None)
    """
    place = Path(folder) / FOLDER
    if not place.is_dir():
        return None
    found = {path.stem: path for path in sorted(place.iterdir()) if path.suffix.lower() in SUFFIXES}
    if missing := sorted(name for name in names if Path(name).stem not in found):
        raise DataError(f"{place}: no mask for {missing[0]}; draw one for every photo, or take the folder away")
    return np.stack([picture(found[Path(name).stem], size).mean(axis=2) / 255 for name in names])


class ClipSeg:
    """A segmenter that knows words (Lüddecke & Ecker, CVPR 2022, arXiv 2112.10003), by transformers.

    Args:
        folder: Its weights, as `save_pretrained` writes them; nothing is looked for anywhere else.

    Raises:
        RunError: If the folder is absent or damaged.

    >>> ClipSeg("nowhere")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere: there is no such folder; download the model and name where it is
    """

    def __init__(self, folder: str | Path):
        self.net, self.processor = frozen(folder, CLIPSegForImageSegmentation, CLIPSegProcessor)

    @torch.no_grad()
    def __call__(self, pixels: UInt8[np.ndarray, "n h w 3"], word: str) -> Float[np.ndarray, "n h w"]:
        """Give how much of each pixel is the word's, mean over several sentences."""
        texts, rows = [template.format(word) for template in TEMPLATES], []
        size = (pixels.shape[1], pixels.shape[2])
        for photo in pixels:
            asked = self.processor(text=texts, images=[photo] * len(texts), padding=True, return_tensors="pt")
            logits = self.net(**asked).logits.reshape(len(texts), 1, -1)  # of a square that the net chooses
            side = math.isqrt(logits.shape[-1])
            found = logits.unflatten(-1, (side, side)).sigmoid().mean(dim=0)
            rows.append(torch.nn.functional.interpolate(found[None], size, mode="bilinear")[0, 0].double().numpy())
        return np.stack(rows)
