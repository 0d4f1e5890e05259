"""What is believed before any photo: the atoms of the base measure, from what the base model makes of the superclass.

`generated` lets the model make pictures, once, and keeps them. `believed` needs none: on the photos' own noised latents
it takes what the base model predicts for anyone of the superclass as the truth, as distillation does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from bayes_persona.diffusion import generate, pipelines
from bayes_persona.diffusion.adapter import Subject, levels, noised
from bayes_persona.diffusion.text import conditions, hidden
from bayes_persona.errors import MismatchError, needs_extra
from bayes_persona.files import load_arrays, save_arrays
from bayes_persona.seeds import child

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline

FILE = "base_measure.safetensors"
"""In the folder of a run."""


class Shown(NamedTuple):
    """Pictures with what is said of them; `{subject}`, or the superclass with an article, is who they show.

    >>> Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot at night",)).pixels.shape
    (1, 64, 64, 3)
    """

    pixels: UInt8[np.ndarray, "n h w 3"]
    captions: tuple[str, ...]
    masks: Float[np.ndarray, "n h w"] | None = None
    """Where the loss looks: numbers of at least 0, of which each mask's largest counts as 1; None is everywhere."""


def generated(
    pipe: DiffusionPipeline,
    subject: Subject,
    captions: Sequence[str],
    n: int,
    seed: int,
    folder: str | Path | None = None,
) -> Shown:
    """Give the base measure's atoms: what the base model makes of the superclass in the photos' situations.

    Args:
        pipe: The base model.
        subject: Names the superclass.
        captions: Those of the photos, used in turn.
        n: Number of pictures.
        seed: Names them; picture i depends on seed and i alone.
        folder: Where they are kept, so that a run that goes on need not make them again; None keeps nothing.

    Raises:
        MismatchError: If the folder holds pictures of another base model, other captions or another seed.

    >>> generated(pipelines.load(), Subject("robot"), ["a robot at night"], 0, seed=0).pixels.shape
    (0, 64, 64, 3)
    """
    if n == 0:
        size = pipelines.size(pipe)
        return Shown(np.zeros((0, size, size, 3), np.uint8), ())
    turn = tuple(captions[i % len(captions)] for i in range(n))
    prompts = [subject.anyone(caption) for caption in turn]
    about = {"base": pipelines.fingerprint(pipe), "prompts": prompts, "seed": seed}
    place = None if folder is None else Path(folder) / FILE
    if place is not None and place.is_file():
        arrays, told = load_arrays(place)
        if told != about or set(arrays) != {"pixels"}:
            raise MismatchError(f"{place}: holds pictures of another model, other prompts or another seed; remove it")
        return Shown(arrays["pixels"], turn)
    pixels = generate.sample(pipe, prompts, generate.noise(pipe, n, child(seed, "base measure")))
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(place, {"pixels": pixels}, about)
    return Shown(pixels, turn)


@torch.no_grad()
def believed(
    pipe: DiffusionPipeline,
    latents: Float[torch.Tensor, "n c h w"],
    noise: Float[torch.Tensor, "n c h w"],
    time: Int[torch.Tensor, " n"],
    tokens: Int[torch.Tensor, "n words"],
) -> tuple[Float[torch.Tensor, "n c h w"], Float[torch.Tensor, "n c h w"]]:
    """Give the picture and the noise that the base model sees in noised latents.

    Noised again at the same time they are the same noised latents, and what should be predicted of them is what the
    base model predicts: so any method's loss, given them in place of a photo and its noise, is a loss of distillation.

    Args:
        pipe: The base model, with nothing attached.
        latents: The photos'.
        noise: What they are noised with.
        time: When.
        tokens: What is said of them: anyone of the superclass.

    >>> pipe, latents = pipelines.load(), torch.ones(1, 8, 16, 16)
    >>> time, words = torch.tensor([500]), torch.zeros(1, 40, dtype=torch.long)
    >>> picture, noise = believed(pipe, latents, -latents, time, words)
    >>> before, after = (pipe.scheduler.add_noise(*pair, time) for pair in ((latents, -latents), (picture, noise)))
    >>> bool((before - after).abs().max() < 1e-4)
    True
    """
    noisy, (signal, scatter) = noised(pipe, latents, noise, time), levels(pipe, latents, time)
    guess = pipe.unet(noisy.to(pipe.unet.dtype), time, **conditions(pipe, hidden(pipe, tokens))).sample.to(noisy)
    if pipe.scheduler.config.prediction_type == "v_prediction":
        return signal * noisy - scatter * guess, scatter * noisy + signal * guess
    return (noisy - scatter * guess) / signal, guess
