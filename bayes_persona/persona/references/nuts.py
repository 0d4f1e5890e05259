"""Hamiltonian Monte Carlo, by Pyro."""

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
    from pyro import infer


def nuts(
    pipe: DiffusionPipeline,
    adapter: Adapter,
    photos: Shown,
    config: Config | None = None,
    likelihood: Likelihood | None = None,
    **where: Any,
) -> Posterior:
    """Walk the posterior by Pyro's NUTS (Hoffman & Gelman 2014), where there are few parameters and much time.

    The loss is that of one fixed batch: a noisy one would be no energy.

    Args:
        pipe: The base model.
        adapter: The method.
        photos: Of the subject.
        config: How fine-tuning, where the walk starts, goes; and how many draws are kept, evenly spread.
        likelihood: What a photo is worth, and the walk.
        where: Seed and title, as `Mode` takes them.

    >>> import numpy as np
    >>> from bayes_persona.diffusion import pipelines
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",))
    >>> quick, robot = Config(particles=2, steps=2, rows=1), TextualInversion(Subject("robot"))
    >>> len(nuts(pipelines.load(), robot, black, quick, Likelihood(steps=2, warm_up=1, depth=1)))
    2
    """
    at = Mode(pipe, adapter, photos, config, likelihood, **where)
    draws, batch = max(at.likelihood.steps, at.members), at.rows(0)

    def energy(now: dict[str, torch.Tensor]) -> torch.Tensor:
        z = now["z"]
        return 0.5 * z.square().sum() - at.log_likelihood(z.expand(at.members, -1), batch).mean()

    with (
        own_randomness(str(pipe.device), child(at.seed, "nuts")),
        bar(at.title, total=draws + at.likelihood.warm_up) as advance,
    ):
        kernel = infer.NUTS(potential_fn=energy, max_tree_depth=at.likelihood.depth)
        walk = infer.MCMC(
            kernel, draws, at.likelihood.warm_up, initial_params={"z": at.standard()}, disable_progbar=True,
            hook_fn=lambda *_: advance(),
        )  # fmt: skip
        walk.run()
        every = walk.get_samples()["z"]
    picked = every[torch.linspace(0, len(every) - 1, at.members).round().long()]
    return Posterior(tuple(at.params(z) for z in picked))
