"""Laplace's approximation: a normal around plain fine-tuning."""

from typing import Any

import numpy as np

from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.errors import needs_extra
from bayes_persona.persona.base_measure import Shown
from bayes_persona.persona.bootstrap import Config
from bayes_persona.persona.references.mode import Likelihood, Mode
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline


def laplace(
    pipe: DiffusionPipeline,
    adapter: Adapter,
    photos: Shown,
    config: Config | None = None,
    likelihood: Likelihood | None = None,
    **where: Any,
) -> Posterior:
    """Draw from a normal around plain fine-tuning, its precisions those of the prior and the diagonal Fisher's.

    The empirical Fisher information is the mean square of single rows' gradients, times what the photos are worth
    (MacKay 1992; for adapters of language models Yang et al., ICLR 2024). Every row of a batch is a member of its own,
    so one backward pass gives all rows' gradients.

    Args:
        pipe: The base model.
        adapter: The method.
        photos: Of the subject.
        config: How fine-tuning goes, and how many draws there are.
        likelihood: What a photo is worth.
        where: Seed and title, as `Mode` takes them.

    >>> from bayes_persona.diffusion import pipelines
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",))
    >>> quick, robot = Config(particles=2, steps=2, rows=1), TextualInversion(Subject("robot"))
    >>> len(laplace(pipelines.load(), robot, black, quick, Likelihood(steps=2)))
    2
    """
    at = Mode(pipe, adapter, photos, config, likelihood, **where)
    squares = {name: np.zeros(value.shape) for name, value in at.found.items()}
    with bar(at.title, total=at.likelihood.steps) as advance:
        for step in range(at.likelihood.steps):
            batch = at.rows(step)
            n = len(batch.member)
            tiled = {name: torch.from_numpy(np.repeat(value[None], n, axis=0)) for name, value in at.found.items()}
            leaves = {name: tiled[name].to(pipe.device).requires_grad_() for name in at.learned}
            loss = adapter.loss(pipe, {**tiled, **leaves}, batch._replace(member=torch.arange(n)))
            for name, grad in zip(leaves, torch.autograd.grad(loss.sum(), list(leaves.values())), strict=True):
                squares[name] += grad.double().square().mean(dim=0).cpu().numpy() / at.likelihood.steps
            advance(loss=loss.mean().item())
    # of −½ · worth · ℓ / ℓ̂, once for each photo
    scale = at.count * (0.5 * at.likelihood.worth / at.loss) ** 2
    sd = {name: 1 / np.sqrt(scale * squares[name] + at.width[name] ** -2) for name in at.learned}
    return at.around(at.found, sd)
