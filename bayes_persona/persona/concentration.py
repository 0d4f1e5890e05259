"""How many photos is the prior worth? Each photo is left out in turn, and α is what tells it best from the others."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.diffusion.pipelines import device
from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.persona.base_measure import Shown
from bayes_persona.persona.bootstrap import Config, Rows
from bayes_persona.persona.posterior import personalize
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar
from bayes_persona.seeds import child

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline

ALPHAS = (0.0, 0.5, 2.0, 8.0)
"""What is tried if nothing else is said."""
LOOKS = 32
"""Noises and times at which a photo that was left out is looked at; the same for all α."""


class Chosen(NamedTuple):
    """A concentration, and what it was chosen by.

    >>> Chosen(2.0, (0.0, 2.0), np.array([[0.2, 0.1], [0.3, 0.2]])).losses.mean(axis=0).round(2).tolist()
    [0.25, 0.15]
    """

    alpha: float
    alphas: tuple[float, ...]
    losses: Float[np.ndarray, "photos alphas"]
    """Loss of each photo by what was learned without it, mean over members."""


def choose(
    pipe: DiffusionPipeline,
    adapter: Adapter,
    photos: Shown,
    alphas: Sequence[float] = ALPHAS,
    config: Config | None = None,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    title: str | None = None,
) -> Chosen:
    """Choose α by photos that are left out, one after the other.

    A method's own loss bounds the photo's negative log likelihood up to scale (Ho et al., NeurIPS 2020), and the mean
    over members that of their mixture.

    Args:
        pipe: The base model.
        adapter: The method.
        photos: Of the subject, at least two. Training is repeated for each photo and α.
        alphas: To choose from.
        config: How members are drawn; its own α does not matter.
        seed: Names the run.
        folder: Where to keep checkpoints; a run that was killed goes on from there. None keeps nothing.
        title: Name beside the progress bar; None shows none.

    Raises:
        DataError: If there is only one photo.
        ConfigError: If there is no α to choose from.

    >>> from bayes_persona.diffusion import pipelines
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",))
    >>> choose(pipelines.load(), TextualInversion(Subject("robot")), black)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.DataError: photos: with one photo none can be left out; say yourself what the prior is worth
    """
    config = Config() if config is None else config
    n = len(photos.pixels)
    if n < 2:
        raise DataError("photos: with one photo none can be left out; say yourself what the prior is worth")
    if not alphas:
        raise ConfigError("alphas: expected at least one to choose from, got none")
    losses = np.zeros((n, len(alphas)))
    with bar(title, total=losses.size) as advance:
        for i in range(n):
            others = _picked(photos, [k for k in range(n) if k != i])
            for j, alpha in enumerate(alphas):
                place = None if folder is None else Path(folder) / f"without{i}_alpha{alpha:g}"
                draw = replace(config, alpha=float(alpha))
                learned = personalize(pipe, adapter, others, draw, seed=child(seed, "without", i), folder=place)
                losses[i, j] = loss_of(pipe, adapter, learned, _picked(photos, [i]), seed=child(seed, "look", i))
                advance(loss=losses[i, j])
    best = int(losses.mean(axis=0).argmin())
    return Chosen(float(alphas[best]), tuple(map(float, alphas)), losses)


@torch.no_grad()
def loss_of(pipe: DiffusionPipeline, adapter: Adapter, posterior: Posterior, photos: Shown, *, seed: int = 0) -> float:
    """Give a method's loss on photos, mean over members, noises and times.

    Args:
        pipe: The base model.
        adapter: The method.
        posterior: Its members.
        photos: To look at.
        seed: Names noises and times.

    >>> from bayes_persona.diffusion import pipelines
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> pipe, method = pipelines.load(), LowRank(Subject("robot"), rank=1)
    >>> nothing = Posterior(({name: value[0] for name, value in method.init(pipe, 1, seed=0).items()},))
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",))
    >>> 0 < loss_of(pipe, method, nothing, black) < 1
    True
    """
    one = Config(particles=1, alpha=0.0, weights="even", steps=1, rows=LOOKS)
    batch = Rows(pipe, adapter, photos, one, seed)(0)
    params = {name: torch.from_numpy(value).to(device(pipe)) for name, value in posterior.stacked().items()}
    own = [
        adapter.loss(pipe, params, batch._replace(member=torch.full_like(batch.member, k))).mean().item()
        for k in range(len(posterior))
    ]
    return float(np.mean(own))


def _picked(photos: Shown, which: list[int]) -> Shown:
    masks = None if photos.masks is None else photos.masks[which]
    return Shown(photos.pixels[which], tuple(photos.captions[k] for k in which), masks)
