"""Where references stand: plain fine-tuning, a prior around where it began, and what a photo is worth.

A denoising loss is no likelihood: how much a photo says has to be said. Here log p(photos | φ) = −½ · worth · n · ℓ(φ)
/ ℓ(φ̂), with ℓ the mean loss of the n photos and φ̂ plain fine-tuning: as if a photo were `worth` independent numbers,
each with the variance that is left at φ̂. The prior is normal around where the method starts, and as wide, param by
param, as plain fine-tuning moved.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from bayes_persona import ranges
from bayes_persona.diffusion.adapter import Adapter, Batch, rates_of
from bayes_persona.diffusion.train import Tensors
from bayes_persona.errors import needs_extra
from bayes_persona.persona.base_measure import Shown
from bayes_persona.persona.bootstrap import Config, Rows
from bayes_persona.persona.posterior import personalize
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child, generator
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline

PLAIN: Mapping[str, Any] = {"alpha": 0.0, "weights": "even"}
"""Settings of plain fine-tuning: the photos alone, all alike."""


@dataclass(frozen=True)
class Likelihood:
    """How much photos say, and how long a reference may look.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Likelihood(worth=0.0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: worth: expected a finite number above 0, got 0.0
    """

    worth: float = 100.0
    """Independent numbers that a photo is worth; as many as a picture's latents have would be far too sure."""
    steps: int = 100
    """Steps of the descent of `variational`, batches of the Fisher information of `laplace`, or draws of `nuts`."""
    warm_up: int = 20
    """Draws of `nuts` that are thrown away."""
    depth: int = 3
    """Largest depth of a tree of `nuts`: at most 2^depth − 1 gradients for a draw."""
    rate: float = 0.05
    """Learning rate of `variational`, of the standardised parameters."""

    def __post_init__(self):
        ranges.positive(self, "worth", "rate")
        ranges.at_least(self, 1, "steps", "warm_up", "depth")


class Mode:
    """Plain fine-tuning, and what is needed to look around it: rows, the prior, the likelihood, and units of the prior.

    Args:
        pipe: The base model.
        adapter: The method.
        photos: Of the subject.
        config: How fine-tuning goes; its particles are the members that losses are asked of.
        likelihood: What a photo is worth.
        seed: Names the run.
        title: Name beside the progress bars; None shows none.

    >>> from bayes_persona.diffusion import pipelines
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",))
    >>> quick = Config(particles=2, steps=1, rows=1)
    >>> at = Mode(pipelines.load(), TextualInversion(Subject("robot")), black, quick, None)
    >>> z = at.standard()
    >>> bool(np.allclose(at.params(z)["embedding"], at.found["embedding"])), z.square().mean().round().item()
    (True, 1.0)
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        adapter: Adapter,
        photos: Shown,
        config: Config | None,
        likelihood: Likelihood | None,
        *,
        seed: int = 0,
        title: str | None = None,
    ):
        config = replace(Config() if config is None else config, **PLAIN)
        self.likelihood = Likelihood() if likelihood is None else likelihood
        self.pipe, self.adapter, self.seed, self.title = pipe, adapter, seed, title
        self.count, self.members = len(photos.pixels), config.particles
        start = adapter.init(pipe, 1, child(seed, "start"))  # where `personalize` begins
        self.start: Params = {name: value[0] for name, value in start.items()}
        self.found: Params = personalize(pipe, adapter, photos, replace(config, particles=1), seed=seed, title=title)[0]
        self.learned = [name for name, rate in rates_of(adapter, start).items() if rate > 0]
        self.width = {name: max(_size(self.found[name] - self.start[name]), 1e-8) for name in self.learned}
        self.rows = Rows(pipe, adapter, photos, config, child(seed, "reference"))
        with torch.no_grad():
            self.loss = float(self._losses(self.standard().expand(self.members, -1), self.rows(0)).mean())

    def standard(self) -> Float[torch.Tensor, " d"]:
        """Give plain fine-tuning in units of the prior, of which the prior is a standard normal."""
        parts = [((self.found[name] - self.start[name]) / self.width[name]).ravel() for name in self.learned]
        return torch.from_numpy(np.concatenate(parts)).float().to(self.pipe.device)

    def params(self, z: Float[torch.Tensor, " d"]) -> Params:
        """Give params from units of the prior; what is not learned stays as fine-tuning left it."""
        moved = self.scaled(z)
        new = {name: (self.start[name] + moved[name]).astype(self.found[name].dtype) for name in moved}
        return {**self.found, **new}

    def scaled(self, z: Float[torch.Tensor, " d"]) -> Params:
        """Give distances, such as standard deviations, from units of the prior."""
        parts = z.split([self.found[name].size for name in self.learned])
        return {
            name: self.width[name] * part.cpu().numpy().reshape(self.found[name].shape)
            for name, part in zip(self.learned, parts, strict=True)
        }

    def log_likelihood(self, z: Float[torch.Tensor, "members d"], batch: Batch) -> Float[torch.Tensor, " members"]:
        """Give that of each member, from as many rows of a batch."""
        return -0.5 * self.likelihood.worth * self.count * self._losses(z, batch) / self.loss

    def around(self, mean: Params, sd: Mapping[str, Float[np.ndarray, "..."]]) -> Posterior:
        """Draw members from independent normals; what has no standard deviation stays."""
        draws = []
        for k in range(self.members):
            rng, draw = generator(self.seed, "reference", k), dict(mean)
            for name in sd:
                noise = rng.standard_normal(mean[name].shape)
                draw[name] = (mean[name] + sd[name] * noise).astype(mean[name].dtype)
            draws.append(draw)
        return Posterior(tuple(draws))

    def _losses(self, z: torch.Tensor, batch: Batch) -> torch.Tensor:
        repeated = {name: np.repeat(value[None], len(z), axis=0) for name, value in self.found.items()}
        params: Tensors = {name: torch.from_numpy(value).to(z.device) for name, value in repeated.items()}
        parts = z.split([self.found[name].size for name in self.learned], dim=1)
        for name, part in zip(self.learned, parts, strict=True):
            origin = torch.from_numpy(self.start[name]).to(z)
            params[name] = origin + self.width[name] * part.reshape(len(z), *origin.shape)
        return self.adapter.loss(self.pipe, params, batch).reshape(len(z), -1).mean(dim=1)


def _size(moved: np.ndarray) -> float:
    return float(np.sqrt(np.mean(moved.astype(np.float64) ** 2)))
