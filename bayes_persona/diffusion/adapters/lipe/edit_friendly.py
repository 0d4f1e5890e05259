"""Edit-friendly DDPM inversion (Huberman-Spiegelglas, Kulikov, Michaeli, CVPR 2024, arXiv 2304.06140).

Every latent on the way to noise is drawn by itself, x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε_t, and what DDPM's mean misses of the
one before is kept: r_t = x_{t−1} − μ_t(x_t), their σ_t z_t. Walking forth adds it again, so the picture comes back
exactly, whatever the model; under another prompt means change and what is kept holds the layout.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Float

from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.seeds import child

with needs_extra("diffusion"):
    import torch
    from diffusers import DDIMScheduler


class Kept(NamedTuple):
    """The way from a picture to noise, and what DDPM's means miss on it.

    >>> Kept(torch.zeros(3, 1, 4, 2, 2), {1: torch.zeros(1, 4, 2, 2)}).path.shape[0]
    3
    """

    path: Float[torch.Tensor, "k n c h w"]
    """Clean latents first, noise last."""
    missed: Mapping[int, Float[torch.Tensor, "n c h w"]]
    """By time."""


@torch.no_grad()
def invert(
    scheduler: DDIMScheduler,
    latents: Float[torch.Tensor, "n c h w"],
    predict: Callable[[torch.Tensor, int], torch.Tensor],
    steps: int,
    *,
    seed: int = 0,
) -> Kept:
    """Draw the way to noise, and keep what the model's means miss.

    Args:
        scheduler: The model's schedule.
        latents: Clean ones.
        predict: Gives the U-Net's prediction for latents at a time, guidance included.
        steps: Steps between picture and noise.
        seed: Names the noises; step k's depends on the seed and k alone, and is the same for all pictures.

    Raises:
        ConfigError: If the model predicts neither noise nor v, or noise where nothing but noise is left.

    >>> scheduler = DDIMScheduler(clip_sample=False)
    >>> kept = invert(scheduler, torch.ones(1, 4, 2, 2), lambda x, time: 0.1 * x, steps=4)
    >>> sorted(kept.missed), bool((kept.path[0] == 1).all())
    ([0, 250, 500, 750], True)
    """
    scheduler.set_timesteps(steps, device=latents.device)
    times = scheduler.timesteps.tolist()
    path = [latents]
    for number, time in enumerate(reversed(times)):
        generator = torch.Generator().manual_seed(child(seed, "edit friendly", number))
        noise = torch.randn(latents.shape[1:], generator=generator).to(latents).expand_as(latents)
        at: Any = torch.full((len(latents),), time, device=latents.device)
        path.append(scheduler.add_noise(latents, noise, at))
    missed = {}
    for number, time in enumerate(times):
        here, before = path[len(times) - number], path[len(times) - number - 1]
        missed[time] = before - _mean(scheduler, predict(here, time), time, here)
    return Kept(torch.stack(path), missed)


class Replay(DDIMScheduler):
    """A scheduler that adds what was missed: give it to a pipeline, or to `generate.sample`.

    It is a subclass because diffusers asks for one of its own.

    >>> scheduler = DDIMScheduler(clip_sample=False)
    >>> kept = invert(scheduler, torch.ones(1, 4, 2, 2), lambda x, time: 0.1 * x, steps=4)
    >>> again, x = Replay.of(scheduler, kept), kept.path[-1]
    >>> again.set_timesteps(4)
    >>> for time in again.timesteps:
    ...     x = again.step(0.1 * x, time, x)[0]
    >>> float((x - 1).abs().max()) < 1e-5
    True
    """

    kept: Kept

    @classmethod
    def of(cls, scheduler: DDIMScheduler, kept: Kept) -> "Replay":
        """Make one of a scheduler's schedule."""
        made: Any = cls.from_config(scheduler.config)
        made.kept = kept
        return made

    def step(self, model_output: Any, timestep: Any, sample: Any, *_: Any, **__: Any) -> Any:
        """Give DDPM's mean and what was missed at that time; nothing is drawn, whatever else is asked for."""
        missed = self.kept.missed[int(timestep)]
        return (_mean(self, model_output, int(timestep), sample) + missed.to(sample),)


def _mean(scheduler: Any, guess: torch.Tensor, time: int, x: torch.Tensor) -> torch.Tensor:
    """Give DDPM's mean of the latents before; diffusers' own step is NaN where the last signal is zero."""
    said, alphas = scheduler.config, scheduler.alphas_cumprod.double()
    to = time - said.num_train_timesteps // scheduler.num_inference_steps
    alpha, after = float(alphas[time]), float(alphas[to] if to >= 0 else scheduler.final_alpha_cumprod)
    signal, spread = alpha**0.5, (1 - alpha) ** 0.5
    if said.prediction_type == "v_prediction":
        clean, noise = signal * x - spread * guess, signal * guess + spread * x
    elif said.prediction_type == "epsilon" and signal > 0:
        clean, noise = (x - spread * guess) / signal, guess
    else:
        kind = f"{said.prediction_type} at signal {signal:.2g}"
        raise ConfigError(f"scheduler: predicts {kind}, from which no picture follows; use v_prediction")
    variance = (1 - after) / (1 - alpha) * (1 - alpha / after)
    return after**0.5 * clean + max(0.0, 1 - after - variance) ** 0.5 * noise
