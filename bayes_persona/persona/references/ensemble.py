"""Deep ensembles: plain fine-tuning, several times over."""

from dataclasses import replace
from typing import Any

from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.errors import needs_extra
from bayes_persona.persona.base_measure import Shown
from bayes_persona.persona.bootstrap import Config
from bayes_persona.persona.posterior import personalize
from bayes_persona.persona.references.mode import PLAIN
from bayes_persona.posterior import Posterior

with needs_extra("diffusion"):
    from diffusers import DiffusionPipeline


def ensemble(
    pipe: DiffusionPipeline, adapter: Adapter, photos: Shown, config: Config | None = None, **where: Any
) -> Posterior:
    """Fine-tune several times, each from its own start with its own noise (Lakshminarayanan et al., NeurIPS 2017).

    Args:
        pipe: The base model.
        adapter: The method.
        photos: Of the subject.
        config: How; weights and prior are those of plain fine-tuning.
        where: Seed, folder and title, as `personalize` takes them.

    >>> import numpy as np
    >>> from bayes_persona.diffusion import pipelines
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",))
    >>> quick = Config(particles=2, steps=1, rows=1)
    >>> len(ensemble(pipelines.load(), TextualInversion(Subject("robot")), black, quick))
    2
    """
    return personalize(pipe, adapter, photos, replace(Config() if config is None else config, **PLAIN), **where)
