"""From pictures of a subject to one vector: any function will do, as long as the mixture was trained with it.

PersonaWorld's is `world.face.encode`. For models of the web's pictures there is CLIP's (Radford et al., 2021).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.diffusion.pipelines import frozen
from bayes_persona.errors import DataError, needs_extra

with needs_extra("diffusion"):
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

Encoder = Callable[[UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, "n d"]]
"""Pictures in, a vector of each out."""


def feature(encoder: Encoder, photos: UInt8[np.ndarray, "n h w 3"]) -> tuple[float, ...]:
    """Give what is known of a subject: the mean over photos.

    Raises:
        DataError: If there is no photo, or the encoder gives no finite vector for each.

    >>> feature(lambda photos: photos.mean(axis=(1, 2)), np.full((2, 8, 8, 3), 7, np.uint8))
    (7.0, 7.0, 7.0)
    """
    if not len(photos):
        raise DataError("photos: there is none; the encoder needs at least one of each subject")
    found = np.asarray(encoder(photos))
    if found.ndim != 2 or len(found) != len(photos) or not np.isfinite(found).all():
        raise DataError(f"encoder: gives shape {found.shape} for {len(photos)} photos; expected finite vectors")
    return tuple(found.mean(axis=0).astype(float).tolist())


class Clip:
    """CLIP's vision tower and its projection, vectors scaled to the square root of their length, by transformers.

    Args:
        folder: Its weights, as `save_pretrained` writes them; nothing is looked for anywhere else.

    Raises:
        RunError: If the folder is absent or damaged.

    >>> Clip("nowhere")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere: there is no such folder; download the model and name where it is
    """

    def __init__(self, folder: str | Path):
        self.net, self.processor = frozen(folder, CLIPVisionModelWithProjection, CLIPImageProcessor)

    @torch.no_grad()
    def __call__(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
        """Give the vector of each picture; one of its numbers is 1 on average."""
        found = self.net(**self.processor(images=list(pixels), return_tensors="pt")).image_embeds
        return (found / found.square().mean(dim=1, keepdim=True).sqrt()).float().numpy()
