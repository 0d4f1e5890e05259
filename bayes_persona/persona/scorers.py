"""How good a personalized picture is, in two numbers: whether it is the subject, and whether it is what was asked for.

The embedded model's pictures are judged by PersonaWorld's oracles. For others `Clip` gives the usual similarities; any
class with the same call will do.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.diffusion.pipelines import frozen
from bayes_persona.errors import needs_extra
from bayes_persona.world import oracles

with needs_extra("diffusion"):
    import torch
    from transformers import CLIPModel, CLIPProcessor

SAID = ("expression", "pose", "clothing", "accessory", "background")
"""What of a prompt the oracles look for."""


class Scores(NamedTuple):
    """One number a picture, the higher the better.

    >>> Scores(np.ones(2), np.zeros(2)).identity.tolist()
    [1.0, 1.0]
    """

    identity: Float[np.ndarray, " n"]
    prompt: Float[np.ndarray, " n"]


@runtime_checkable
class Scorer(Protocol):
    """Judges pictures.

    >>> isinstance(Oracle(), Scorer)
    True
    """

    identity: str
    """What its first number is."""
    prompt: str
    """What its second number is."""

    def __call__(
        self, pixels: UInt8[np.ndarray, "n h w 3"], prompts: Sequence[str], photos: UInt8[np.ndarray, "m h w 3"]
    ) -> Scores:
        """Judge pictures of prompts that speak of anyone, beside photos of the subject."""
        ...


class Oracle:
    """PersonaWorld's oracles: cosine with the photos' identity, and the share of what a prompt says that shows.

    >>> blank = np.zeros((1, 64, 64, 3), np.uint8)
    >>> round(Oracle()(blank, ["a robot at night"], blank).identity.item(), 3)
    1.0
    """

    identity = "cosine with the photos' identity"
    prompt = "share of the prompt that shows"

    def vectors(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
        """Give who pictures show."""
        return oracles.load().read(pixels).embedding

    def __call__(
        self, pixels: UInt8[np.ndarray, "n h w 3"], prompts: Sequence[str], photos: UInt8[np.ndarray, "m h w 3"]
    ) -> Scores:
        """Judge pictures.

        Raises:
            ConfigError: If a prompt makes no sense in PersonaWorld.
        """
        known, seen = self.vectors(photos), self.vectors(pixels)
        who = known.mean(axis=0)
        found = np.stack([verdict for name, verdict in oracles.judge(pixels, prompts).items() if name in SAID])
        asked = ~np.isnan(found)
        followed = np.where(asked, found, 0).sum(axis=0) / np.maximum(asked.sum(axis=0), 1)
        return Scores(seen @ who / max(float(np.linalg.norm(who)), 1e-12), np.where(asked.any(axis=0), followed, 1.0))


class Clip:
    """CLIP's cosine with the photos, and with the prompt (Radford et al., 2021), by transformers.

    Args:
        folder: Its weights, as `save_pretrained` writes them; nothing is looked for anywhere else.

    Raises:
        RunError: If the folder is absent or damaged.

    >>> Clip("nowhere")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere: there is no such folder; download the model and name where it is
    """

    identity = "CLIP cosine with the photos"
    prompt = "CLIP cosine with the prompt"

    def __init__(self, folder: str | Path):
        self.net, self.processor = frozen(folder, CLIPModel, CLIPProcessor)

    @torch.no_grad()
    def vectors(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
        """Give what pictures show, to CLIP."""
        seen = self.processor(images=list(pixels), return_tensors="pt")
        found: Any = self.net.get_image_features(**seen)
        return found.pooler_output.double().numpy()

    @torch.no_grad()
    def __call__(
        self, pixels: UInt8[np.ndarray, "n h w 3"], prompts: Sequence[str], photos: UInt8[np.ndarray, "m h w 3"]
    ) -> Scores:
        """Judge pictures."""
        every = list(np.concatenate([pixels, photos]))
        found = self.net(**self.processor(text=list(prompts), images=every, padding=True, return_tensors="pt"))
        pictures, texts = found.image_embeds.double().numpy(), found.text_embeds.double().numpy()
        mine, known = pictures[: len(pixels)], pictures[len(pixels) :]
        return Scores((mine @ known.T).mean(axis=1), (mine * texts).sum(axis=1))


def usual(base: Path | None, folder: Path | None) -> Oracle | Clip | None:
    """Give the judge of a model's pictures: the embedded one's oracles, or CLIP where a folder of it is named.

    Args:
        base: Folder of the model; None is the embedded one.
        folder: Folder of CLIP.

    >>> usual(None, None).identity, usual(Path("sd"), None)
    ("cosine with the photos' identity", None)
    """
    if folder is not None:
        return Clip(folder)
    return Oracle() if base is None else None
