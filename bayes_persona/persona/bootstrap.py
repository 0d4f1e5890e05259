"""The posterior bootstrap's rows: which picture a member sees at a step, under which noise, and how much it counts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from bayes_persona import ranges
from bayes_persona.diffusion.adapter import Adapter, Batch
from bayes_persona.diffusion.latents import encode
from bayes_persona.diffusion.pipelines import device
from bayes_persona.diffusion.text import tokens
from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.persona.base_measure import Shown, believed, generated
from bayes_persona.seeds import child, generator
from bayes_persona.weights import dirichlet_process

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Config:
    """How a posterior over personalizations is drawn.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Config(particles=0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: particles: expected at least 1, got 0
    """

    particles: int = 8
    """Members of the posterior."""
    alpha: float = 1.0
    """How many photos the prior is worth; 0 trusts the photos alone."""
    base_measure: Literal["generated", "distilled"] = "generated"
    """What the prior is: pictures of anyone that the base model makes, or what it predicts for anyone on the photos'
    own noised latents, which takes no pictures but a prediction at each step."""
    pseudo: int = 16
    """Atoms of the base measure: pictures that are made, or copies of the photos that are looked at so."""
    weights: Literal["dirichlet", "even"] = "dirichlet"
    """`dirichlet` draws weights for each member; `even` gives every member the mean ones, as people do today."""
    prior: Literal["subject", "superclass"] = "subject"
    """Who the atoms are said to show: the subject (the prior is on it), or, as in DreamBooth, anyone."""
    steps: int = 200
    """Steps of training, which all members take together."""
    rows: int = 4
    """Rows a member sees in each step."""
    rate: float = 1e-2
    """Learning rate; what is good for new words is far too much for low-rank changes."""
    snr: float | None = None
    """Weight steps of little noise as if their signal-to-noise ratio were this at most (Min-SNR, Hang et al., ICCV
    2023; 5 is usual); None weights all alike."""

    def __post_init__(self):
        ranges.at_least(self, 1, "particles", "steps", "rows")
        ranges.at_least(self, 0, "alpha")
        ranges.positive(self, "snr")
        if self.alpha > 0 and self.pseudo < 1:
            raise ConfigError(
                f"pseudo: a prior worth {self.alpha} photos needs at least one picture, got {self.pseudo}"
            )


class Rows:
    """Batches of every member's rows; what member k gets at a step depends on seed, k and step alone.

    Photos and atoms of the base measure are picked as often as the prior's share says, so few rows are spent on what
    hardly counts, and each picked row is weighted by its member's weight over the chance of picking it: on average one.

    >>> from bayes_persona.diffusion import pipelines
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot at night",))
    >>> few = Config(particles=3, rows=2, alpha=0.0)
    >>> Rows(pipelines.load(), TextualInversion(Subject("robot")), black, few, seed=0)(step=0).member.tolist()
    [0, 0, 1, 1, 2, 2]
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        adapter: Adapter,
        photos: Shown,
        config: Config,
        seed: int,
        folder: str | Path | None = None,
    ):
        subject, n = adapter.subject, len(photos.pixels)
        m = config.pseudo if config.alpha else 0
        texts = [subject.prompt(caption) for caption in photos.captions]
        self.pipe, self.config, self.seed, self.device, self.anyone = pipe, config, seed, device(pipe), None
        if config.base_measure == "generated":
            made = generated(pipe, subject, photos.captions, m, seed, folder)
            self.latents = encode(pipe, np.concatenate([photos.pixels, made.pixels])).float()
            said = made.captions
        else:
            own = encode(pipe, photos.pixels).float()
            self.latents = torch.cat([own, own[torch.arange(m) % n]])
            said = tuple(photos.captions[j % n] for j in range(m))
            asked = [subject.anyone(text) for text in (*photos.captions, *said)]
            self.anyone = _tokens(pipe, adapter, asked, seed).to(device(pipe))
        self.times = pipe.scheduler.config.num_train_timesteps
        self.snr = None if config.snr is None else _min_snr(pipe, config.snr)
        texts += [subject.prompt(text) if config.prior == "subject" else subject.anyone(text) for text in said]
        self.tokens = _tokens(pipe, adapter, texts, seed).to(device(pipe))
        share = config.alpha / (config.alpha + n)
        self.photos = n
        self.masks = None if photos.masks is None else _pooled(photos, m, self.latents)
        self.chance = np.concatenate([np.full(n, (1 - share) / n), np.full(m, share / max(m, 1))])
        self.weights = np.stack([self._weights(k, n, m) for k in range(config.particles)])

    def __call__(self, step: int) -> Batch:
        """Give the batch of a step."""
        parts = [self._member(k, step) for k in range(self.config.particles)]
        picked, noise, time, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
        member = np.repeat(np.arange(self.config.particles), self.config.rows)
        tensors = (torch.from_numpy(part).to(self.device) for part in (noise, time, member, weight))
        noise, time, member, weight = tensors
        mask = None if self.masks is None else self.masks[picked]
        latents = self.latents[picked]
        if self.anyone is not None and (atom := torch.from_numpy(picked >= self.photos).to(self.device)).any():
            words = self.anyone[picked][atom]
            latents[atom], noise[atom] = believed(self.pipe, latents[atom], noise[atom], time[atom], words)
        return Batch(latents, noise, time, self.tokens[picked], member, weight, mask)

    def _member(self, k: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        rng = generator(self.seed, "member", k, "step", step)
        n = self.config.rows
        picked = rng.choice(len(self.chance), size=n, p=self.chance)
        # Times spread evenly over the schedule with one common shift: the same mean as independent ones, less noise.
        time = ((rng.random() + np.arange(n) / n) % 1 * self.times).astype(np.int64)
        noise = rng.standard_normal((n, *self.latents.shape[1:]), dtype=np.float32)
        weight = (self.weights[k] / self.chance)[picked]
        weight = weight if self.snr is None else weight * self.snr[time]
        return picked, noise, time, weight.astype(np.float32)

    def _weights(self, k: int, n: int, m: int) -> Float[np.ndarray, " all"]:
        if self.config.weights == "even":
            return self.chance
        draw = dirichlet_process(n, m, self.config.alpha, child(self.seed, "member", k, "weights"))
        return np.concatenate([draw.real, draw.pseudo])


def _min_snr(pipe: DiffusionPipeline, most: float) -> Float[np.ndarray, " times"]:
    """Give each time's weight: min(SNR, most) / SNR for noise that is predicted, over SNR + 1 for v."""
    signal = pipe.scheduler.alphas_cumprod.double().cpu().numpy()
    snr = signal / (1 - signal)
    return np.minimum(snr, most) / np.maximum(snr + (pipe.scheduler.config.prediction_type == "v_prediction"), 1e-12)


def _pooled(photos: Shown, made: int, latents: torch.Tensor) -> Float[torch.Tensor, "n h w"]:
    """Give every picture's mask on the grid of the latents; atoms of the base measure count everywhere."""
    masks = torch.as_tensor(np.asarray(photos.masks, np.float32), device=latents.device)
    if masks.shape != photos.pixels.shape[:3] or not bool(torch.isfinite(masks).all()) or bool((masks < 0).any()):
        raise DataError(f"masks: expected numbers of at least 0 of shape {photos.pixels.shape[:3]}, got {masks.shape}")
    if empty := [i for i, mask in enumerate(masks) if not mask.any()]:
        raise DataError(f"masks: the subject is nowhere in photo {empty[0]}; leave the photo out, or give no masks")
    small = torch.nn.functional.adaptive_avg_pool2d(masks[:, None], (latents.shape[2], latents.shape[3]))[:, 0]
    small = small / small.amax(dim=(1, 2), keepdim=True)
    return torch.cat([small, torch.ones(made, *latents.shape[2:], device=latents.device)])


def _tokens(pipe: DiffusionPipeline, adapter: Adapter, texts: list[str], seed: int) -> torch.Tensor:
    """Tokenize with the adapter's words known."""
    start = adapter.init(pipe, 1, seed)
    with adapter.attached(pipe, start, torch.zeros(1, dtype=torch.long)):
        words: Any = pipe.tokenizer
        return torch.tensor([tokens(pipe, str(pipe.maybe_convert_prompt(text, words))) for text in texts])
