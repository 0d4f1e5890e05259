"""Pictures of anyone in every pose, made by the base model: what LIPE learns beside the photos.

They are kept as a folder of PNGs with captions.json, to look at, and made once for a base model.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from bayes_persona.diffusion import generate, photos, pipelines
from bayes_persona.diffusion.adapter import Batch
from bayes_persona.diffusion.adapters.lipe.sampling import sample
from bayes_persona.diffusion.latents import encode
from bayes_persona.diffusion.text import tokens
from bayes_persona.errors import DataError, MismatchError, needs_extra
from bayes_persona.files import load_json, save_json
from bayes_persona.named import fingerprint
from bayes_persona.progress import bar
from bayes_persona.seeds import child

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from PIL import Image

ABOUT = "about.json"
"""Says of a folder which base model, prompts and seed its pictures are of."""
AT_ONCE = 8
"""Pictures that are made in one go."""


class Others:
    """Pictures with what they show, as the base model's latents and tokens.

    Raises:
        DataError: If there is none, or not as many captions as pictures.

    >>> pipe = pipelines.load()
    >>> others = Others(pipe, np.zeros((2, 64, 64, 3), np.uint8), ["a happy robot", "a robot facing left"])
    >>> others.latents.shape, len(others.fingerprint)
    (torch.Size([2, 8, 16, 16]), 32)
    """

    latents: Float[torch.Tensor, "m c h w"]
    tokens: Int[torch.Tensor, "m words"]
    fingerprint: str
    """Stands for them in files."""

    def __init__(self, pipe: DiffusionPipeline, pixels: UInt8[np.ndarray, "m h w 3"], captions: Sequence[str]):
        if not len(pixels) or len(pixels) != len(captions):
            raise DataError(f"others: {len(pixels)} pictures, {len(captions)} captions; expected as many, at least 1")
        self.latents = encode(pipe, pixels).float()
        self.tokens = torch.tensor([tokens(pipe, text) for text in captions], device=self.latents.device)
        self.fingerprint = fingerprint({"pixels": pixels, "tokens": self.tokens.cpu().numpy()})

    def beside(self, batch: Batch) -> Batch:
        """Give a batch of twice as many rows: after its own as many of anyone, with the same noise, time and member.

        Which picture a row gets depends on its noise alone.
        """
        picked = torch.tensor([_number(row) % len(self.latents) for row in batch.noise], device=self.latents.device)
        latents, ids = self.latents[picked].to(batch.latents), self.tokens[picked].to(batch.tokens)
        both = [torch.cat([field, field]) for field in (batch.noise, batch.time, batch.member, batch.weight)]
        noise, time, member, weight = both
        mask = None if batch.mask is None else torch.cat([batch.mask, torch.ones_like(batch.mask)])
        own, said = torch.cat([batch.latents, latents]), torch.cat([batch.tokens, ids])
        return Batch(own, noise, time, said, member, weight, mask)


def made(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    folder: str | Path,
    config: generate.Config | None = None,
    *,
    seed: int = 0,
    title: str | None = None,
) -> Others:
    """Let the base model make a picture of each prompt, once: what is in the folder already is read.

    Args:
        pipe: The base model, with nothing attached.
        prompts: What the pictures show, such as `captions.grid` gives them.
        folder: Where they are kept; a run that was killed goes on from there.
        config: How they are sampled.
        seed: Names them; picture i depends on the seed, i and its prompt alone.
        title: Name beside the progress bar; None shows none.

    Raises:
        MismatchError: If the folder holds pictures of another base model, other prompts or another seed.

    >>> import tempfile
    >>> pipe, folder, quick = pipelines.load(), tempfile.mkdtemp(), generate.Config(steps=2)
    >>> first = made(pipe, ["a happy robot"], folder, quick)
    >>> made(pipe, ["a happy robot"], folder, quick).fingerprint == first.fingerprint
    True
    """
    config, folder = generate.Config() if config is None else config, Path(folder)
    about = {"base": pipelines.fingerprint(pipe), "prompts": list(prompts), "seed": seed}
    about |= {"steps": config.steps, "guidance": config.guidance}
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / ABOUT).is_file() and load_json(folder / ABOUT) != about:
        raise MismatchError(f"{folder}: holds pictures of another model, other prompts or another seed; name another")
    save_json(folder / ABOUT, about)
    places = [folder / f"{i:04}.png" for i in range(len(prompts))]
    left = [i for i, place in enumerate(places) if not place.is_file()]
    with bar(title, total=len(places), done=len(places) - len(left)) as advance:
        for some in (left[i : i + AT_ONCE] for i in range(0, len(left), AT_ONCE)):
            start = torch.cat([generate.noise(pipe, 1, child(seed, "others", i)) for i in some])
            for i, picture in zip(some, sample(pipe, [prompts[i] for i in some], start, config), strict=True):
                Image.fromarray(picture).save(places[i])
                advance()
    save_json(folder / photos.CAPTIONS, {place.name: text for place, text in zip(places, prompts, strict=True)})
    found = photos.read(places, pipelines.size(pipe))
    return Others(pipe, found.pixels, prompts)


def _number(noise: Float[torch.Tensor, "c h w"]) -> int:
    return int.from_bytes(hashlib.blake2b(noise.float().cpu().numpy().tobytes(), digest_size=7).digest(), "big")
