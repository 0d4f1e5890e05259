"""Mean-field variational inference, by Pyro."""

from typing import Any

from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.errors import needs_extra
from bayes_persona.nptl.compute_torch import own_randomness
from bayes_persona.persona.base_measure import Shown
from bayes_persona.persona.bootstrap import Config
from bayes_persona.persona.references.mode import Likelihood, Mode
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar
from bayes_persona.seeds import child

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline

with needs_extra("pyro"):
    import pyro
    from pyro import distributions, infer, poutine
    from pyro.optim.optim import PyroOptim


def variational(
    pipe: DiffusionPipeline,
    adapter: Adapter,
    photos: Shown,
    config: Config | None = None,
    likelihood: Likelihood | None = None,
    **where: Any,
) -> Posterior:
    """Fit a normal of independent parameters by Pyro (mean-field variational inference), and draw from it.

    What Wu et al. (arXiv 2405.19931) do to whole networks, for an adapter's parameters; the descent starts at plain
    fine-tuning.

    Args:
        pipe: The base model.
        adapter: The method.
        photos: Of the subject.
        config: How fine-tuning goes, and how many draws there are.
        likelihood: What a photo is worth, and the descent.
        where: Seed and title, as `Mode` takes them.

    >>> import numpy as np
    >>> from bayes_persona.diffusion import pipelines
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",))
    >>> quick, robot = Config(particles=2, steps=2, rows=1), TextualInversion(Subject("robot"))
    >>> len(variational(pipelines.load(), robot, black, quick, Likelihood(steps=2)))
    2
    """
    at = Mode(pipe, adapter, photos, config, likelihood, **where)
    members, mode = at.members, at.standard()

    def model(step: int) -> None:
        z = pyro.sample("z", distributions.Normal(torch.zeros(members, len(mode)), 1.0).to_event(2))
        pyro.factor("photos", at.log_likelihood(z, at.rows(step)).sum())

    def guide(step: int) -> None:
        mean = pyro.param("mean", mode.clone())
        sd = pyro.param("sd", torch.full_like(mode, 0.1), constraint=distributions.constraints.positive)
        pyro.sample("z", distributions.Normal(mean.expand(members, -1), sd.expand(members, -1)).to_event(2))

    with pyro.get_param_store().scope(), own_randomness(str(pipe.device), child(at.seed, "variational")):
        descent = infer.SVI(
            poutine.scale(model, 1 / members),
            poutine.scale(guide, 1 / members),
            PyroOptim(torch.optim.Adam, {"lr": at.likelihood.rate}),
            infer.Trace_ELBO(),
        )
        with bar(at.title, total=at.likelihood.steps) as advance:
            for step in range(at.likelihood.steps):
                advance(loss=descent.step(step))
        mean, sd = (pyro.param(name).detach() for name in ("mean", "sd"))
    return at.around(at.params(mean), at.scaled(sd))
