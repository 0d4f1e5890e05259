"""Pictures from any Stable Diffusion by DDIM: `generate.sample` where it can, the pipeline itself of SDXL."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.diffusion import generate
from bayes_persona.diffusion.latents import decode
from bayes_persona.errors import needs_extra

with needs_extra("diffusion"):
    import torch
    from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline


def sample(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    start: Float[torch.Tensor, "n c h w"],
    config: generate.Config,
    on_step: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
) -> UInt8[np.ndarray, "n height width 3"]:
    """Make one picture of each prompt; as `generate.sample`, and of SDXL, too.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe = load()
    >>> sample(pipe, ["a robot"], generate.noise(pipe, 1, seed=0), generate.Config(steps=2)).shape
    (1, 64, 64, 3)
    """
    if isinstance(pipe, StableDiffusionPipeline):
        return generate.sample(pipe, prompts, start, config, on_step=on_step)

    def callback(_: Any, number: int, time: Any, said: dict[str, Any]) -> dict[str, Any]:
        return {} if on_step is None else {"latents": on_step(number, said["latents"])}

    call: Any = pipe
    latents = call(
        list(prompts),
        negative_prompt=[config.negative] * len(prompts),
        num_inference_steps=config.steps,
        guidance_scale=config.guidance,
        latents=start,
        output_type="latent",
        callback_on_step_end=callback,
    ).images
    return decode(pipe, latents)


@contextmanager
def ddim(pipe: DiffusionPipeline, scheduler: DDIMScheduler | None = None) -> Iterator[DDIMScheduler]:
    """Give a pipeline a DDIM scheduler of its own schedule inside the block: steps that can be walked back.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe = load()
    >>> before = pipe.scheduler
    >>> with ddim(pipe) as scheduler:
    ...     pipe.scheduler is scheduler
    True
    >>> pipe.scheduler is before
    True
    """
    own: Any = pipe.scheduler
    plain: Any = DDIMScheduler.from_config(own.config, clip_sample=False, thresholding=False)
    try:
        pipe.scheduler = plain if scheduler is None else scheduler
        yield pipe.scheduler
    finally:
        pipe.scheduler = own
