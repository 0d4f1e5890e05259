"""The posterior bootstrap over an adapter's parameters: K members trained in one pass, each on its own weights.

A few photos of a subject are the data; what the pretrained model believes about the subject's superclass is the prior,
as pictures it makes itself. A draw of the posterior is the adapter that minimises its loss under Dirichlet weights on
photos and made-up pictures together. α reads as *how many photos the prior is worth*: α = 0 is the Bayesian bootstrap
(Rubin 1981), even weights with α = 0 plain fine-tuning, and even weights with α = n DreamBooth's prior preservation.
"""

from dataclasses import asdict
from pathlib import Path

from bayes_persona import loop
from bayes_persona.diffusion import pipelines, train
from bayes_persona.diffusion.adapter import Adapter, rates_of, settings
from bayes_persona.errors import DataError, MismatchError, needs_extra
from bayes_persona.named import fingerprint as fingerprint_arrays
from bayes_persona.named import flatten
from bayes_persona.persona.base_measure import Shown
from bayes_persona.persona.bootstrap import Config, Rows
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline

HALF_SCALE = 1024.0
"""What a loss is multiplied by in fp16, whose smallest number is 6e-8: a gradient of one pixel is not far above it."""


def personalize(
    pipe: DiffusionPipeline,
    adapter: Adapter,
    photos: Shown,
    config: Config | None = None,
    *,
    start: Posterior | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    title: str | None = None,
) -> Posterior:
    """Draw a posterior over an adapter's parameters, all members in one pass.

    Args:
        pipe: The base model, which stays as it is.
        adapter: The method.
        photos: Photos of the subject, of the pipeline's size.
        config: How.
        start: Where each member starts; None is where the adapter does.
        seed: Names the run. Member k depends on seed and k, not on how many there are.
        folder: Where to keep checkpoints; a run that was killed goes on from there to the same numbers.
        title: Name beside the progress bar; None shows none.

    Raises:
        DataError: If there is no photo, or a caption does not say where the subject is.
        MismatchError: If there are more or fewer starts than members.
        MismatchError: If the folder holds a run with other photos, settings or another base model.

    >>> import numpy as np
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> pipe, black = pipelines.load(), Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot at night",))
    >>> quick = Config(particles=2, steps=2, rows=1, alpha=0.0)
    >>> posterior = personalize(pipe, TextualInversion(Subject("robot")), black, quick)
    >>> len(posterior), posterior[0]["embedding"].shape
    (2, (2, 128))
    """
    config = Config() if config is None else config
    if not len(photos.pixels) or len(photos.pixels) != len(photos.captions):
        raise DataError(
            f"photos: {len(photos.pixels)} pictures and {len(photos.captions)} captions; expected as many, at least 1"
        )
    masks = {} if photos.masks is None else {"masks": photos.masks}
    said = {
        "config": asdict(config),
        "adapter": {"method": adapter.method, "subject": asdict(adapter.subject), **settings(adapter)},
        "photos": fingerprint_arrays({"pixels": photos.pixels, **masks}),
        "captions": list(photos.captions),
        "base": pipelines.fingerprint(pipe),
    }
    if start is None:
        first = adapter.init(pipe, config.particles, child(seed, "start"))
    else:
        first = start.stacked()
        said["start"] = fingerprint_arrays(first)
        if len(start) != config.particles:
            raise MismatchError(f"start: expected {config.particles} members, got {len(start)}")
    kernel = train.AdamW(
        first,
        lambda params, batch, _: (batch.weight * adapter.loss(pipe, params, batch)).sum() / config.rows,
        train.Config(
            rate=config.rate,
            warmup=max(1, min(20, config.steps // 10)),
            cooldown_at=config.steps // 2,
            cooldown=config.steps - config.steps // 2,
            members=True,
            scale=HALF_SCALE if pipe.unet.dtype == torch.float16 else 1.0,
        ),
        rates=rates_of(adapter, first),
        after=lambda params, batch: adapter.track(pipe, params, batch),
        device=str(pipelines.device(pipe)),
    )
    with pipelines.at_hand(pipe):
        rows = Rows(pipe, adapter, photos, config, seed, folder)
        state, _ = loop.run(
            kernel, rows, steps=config.steps, seed=child(seed, "train"), folder=folder, config=said, title=title
        )
    params = flatten(state.params)
    return Posterior(tuple({name: value[k] for name, value in params.items()} for k in range(config.particles)))
