"""The noise that a picture comes from: deterministic DDIM run backwards (Song et al. 2021, arXiv 2010.02502).

A step of DDIM is linear in the latents and in what the U-Net predicts: x_next = keep · x + add · prediction(x). Going
back means solving for x, of which the prediction is taken at x itself. Plain inversion takes it at x_next instead;
`refinements` solve by fixed-point iteration, much as AIDI (Pan et al. 2023, arXiv 2309.04907) and ReNoise (Garibi et
al. 2024, arXiv 2403.14602) do. diffusers' DDIMInverseScheduler agrees with that for noise prediction, but for
v-prediction it turns v into noise with the wrong step's level, so its fixed point is not the inverse.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float

from bayes_persona import ranges
from bayes_persona.errors import ConfigError, MismatchError, needs_extra

with needs_extra("diffusion"):
    import torch
    from diffusers import DDIMScheduler, DiffusionPipeline

Latents = Float[torch.Tensor, "n c h w"]
Texts = Float[torch.Tensor, "m words width"]
Empty = Float[torch.Tensor, "_m _words _width"]


@dataclass(frozen=True)
class Config:
    """How to walk between a picture and its noise; both directions need the same one.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Config(steps=1)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: steps: expected at least 2, got 1
    """

    steps: int = 50
    """Steps between picture and noise."""
    guidance: float = 1.0
    """Classifier-free guidance; 1 is none. Much more than that is hard to invert."""
    refinements: int = 0
    """Evaluations of the U-Net, beyond the first, that make each step back more exact; 3 to 5 do a lot."""

    def __post_init__(self):
        ranges.at_least(self, 2, "steps")
        ranges.at_least(self, 0, "refinements", "guidance")


@torch.no_grad()
def invert(
    pipe: DiffusionPipeline,
    latents: Latents,
    prompts: Texts,
    config: Config | None = None,
    empty: Empty | None = None,
    *,
    added: Mapping[str, Any] | None = None,
) -> Float[torch.Tensor, "k n c h w"]:
    """Give the way from clean latents to the noise that they come from.

    Args:
        pipe: The model, whatever is attached to it included.
        latents: Clean latents, as `latents.encode` gives them.
        prompts: Encoded prompt of each picture.
        config: How to walk.
        empty: Encoded empty prompts; needed with guidance.
        added: What else the U-Net is called with, as `text.added` gives it for SDXL.

    Returns:
        `steps + 1` latents: the first are the clean ones, the last the noise.

    Raises:
        ConfigError: If the model's schedule cannot be walked back, or guidance lacks the empty prompts.
        MismatchError: If there are not as many prompts as pictures.

    >>> from diffusers import StableDiffusionPipeline
    >>> pipe = StableDiffusionPipeline(None, None, None, None, None, None, None, requires_safety_checker=False)
    >>> invert(pipe, torch.zeros(2, 4, 8, 8), torch.zeros(2, 5, 16), Config(guidance=2.0))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: empty: guidance of 2.0 needs encoded empty prompts
    """
    config = Config() if config is None else config
    predict = _Guided(pipe, latents, prompts, config, empty, added)
    path = [latents]
    for step in reversed(list(walk(pipe, config.steps))):
        x = path[-1]
        for _ in range(1 + config.refinements):
            x = (path[-1] - step.add * predict(x, step.time)) / step.keep
        path.append(x)
    return torch.stack(path)


@torch.no_grad()
def regenerate(
    pipe: DiffusionPipeline,
    noise: Latents,
    prompts: Texts,
    config: Config | None = None,
    empty: Empty | None = None,
    *,
    added: Mapping[str, Any] | None = None,
) -> Latents:
    """Give the clean latents that come from noise, as the pipeline would with a DDIM scheduler.

    Args:
        pipe: The model, whatever is attached to it included.
        noise: Where to start, such as `invert(…)[-1]`.
        prompts: Encoded prompt of each picture.
        config: How to walk.
        empty: Encoded empty prompts; needed with guidance.
        added: What else the U-Net is called with, as `text.added` gives it for SDXL.

    Raises:
        ConfigError: If the model's schedule cannot be walked, or guidance lacks the empty prompts.
        MismatchError: If there are not as many prompts as pictures.

    >>> from diffusers import StableDiffusionPipeline
    >>> pipe = StableDiffusionPipeline(None, None, None, None, None, None, None, requires_safety_checker=False)
    >>> regenerate(pipe, torch.zeros(2, 4, 8, 8), torch.zeros(1, 5, 16))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.MismatchError: prompts: 1 for 2 pictures; give one for each
    """
    config = Config() if config is None else config
    predict = _Guided(pipe, noise, prompts, config, empty, added)
    x = noise
    for step in walk(pipe, config.steps):
        x = step.keep * x + step.add * predict(x, step.time)
    return x


class Walk(NamedTuple):
    """One step of DDIM from noise towards the picture: `keep · x + add · prediction(x, time)`.

    >>> Walk(time=999, to=979, keep=1.0, add=-0.1).to
    979
    """

    time: int
    to: int
    keep: float
    add: float


def walk(pipe: DiffusionPipeline, steps: int) -> Iterator[Walk]:
    """Give the steps of a model's schedule, from noise to picture; the times are those of diffusers' DDIMScheduler.

    Raises:
        ConfigError: If the schedule clips, predicts pictures, or predicts noise where nothing but noise is left.

    >>> from diffusers import StableDiffusionPipeline
    >>> schedule = DDIMScheduler(steps_offset=1, clip_sample=False)
    >>> pipe = StableDiffusionPipeline(None, None, None, None, schedule, None, None, requires_safety_checker=False)
    >>> [(step.time, step.to) for step in walk(pipe, 2)]
    [(501, 1), (1, -499)]
    """
    said = pipe.scheduler.config
    if said.get("clip_sample") or said.get("thresholding"):
        raise ConfigError("scheduler: clips its predictions, which cannot be undone; set clip_sample=False")
    scheduler: Any = DDIMScheduler.from_config(said, clip_sample=False, thresholding=False)
    scheduler.set_timesteps(steps)
    stride = scheduler.config.num_train_timesteps // steps
    kind = scheduler.config.prediction_type
    for time in scheduler.timesteps.tolist():
        alpha = scheduler.alphas_cumprod[time].double()
        after = scheduler.final_alpha_cumprod if time < stride else scheduler.alphas_cumprod[time - stride]
        signal, spread, signal_after, spread_after = (
            float(part.sqrt()) for part in (alpha, 1 - alpha, after.double(), 1 - after.double())
        )
        if kind == "v_prediction":  # x0 = signal·x − spread·v, noise = signal·v + spread·x
            keep = signal_after * signal + spread_after * spread
            add = spread_after * signal - signal_after * spread
        elif kind == "epsilon" and signal > 0:  # x0 = (x − spread·noise) / signal
            keep = signal_after / signal
            add = spread_after - signal_after * spread / signal
        else:
            raise ConfigError(
                f"scheduler: predicts {kind} at signal {signal:.2g}, from which no picture follows; use v_prediction"
            )
        yield Walk(time, time - stride, keep, add)


class _Guided:
    """The U-Net's prediction with classifier-free guidance, in the pipeline's own order: empty prompts first."""

    def __init__(self, pipe: Any, latents: Any, prompts: Any, config: Config, empty: Any, added: Any = None):
        self.unet, self.guidance, self.added = pipe.unet, config.guidance, {} if added is None else added
        if len(prompts) != len(latents):
            raise MismatchError(f"prompts: {len(prompts)} for {len(latents)} pictures; give one for each")
        if config.guidance == 1:
            self.texts = prompts
        elif empty is None:
            raise ConfigError(f"empty: guidance of {config.guidance} needs encoded empty prompts")
        elif empty.shape != prompts.shape:
            raise MismatchError(f"empty: expected shape {tuple(prompts.shape)}, got {tuple(empty.shape)}")
        else:
            self.texts = torch.cat([empty, prompts])

    def __call__(self, x: torch.Tensor, time: int) -> torch.Tensor:
        blocks = len(self.texts) // max(len(x), 1)
        rows = torch.cat([x] * blocks)
        guess = self.unet(rows, time, encoder_hidden_states=self.texts, return_dict=False, **self.added)[0]
        if blocks == 1:
            return guess
        without, with_text = guess.chunk(2)
        return without + self.guidance * (with_text - without)
