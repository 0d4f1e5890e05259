"""The posterior bootstrap over an adapter's parameters: K members trained in one pass, each on its own weights.

A few photos of a subject are the data; what the pretrained model believes about the subject's superclass is the prior,
as pictures it makes itself. A draw of the posterior is the adapter that minimises its loss under Dirichlet weights on
photos and made-up pictures together. α reads as *how many photos the prior is worth*: α = 0 is the Bayesian bootstrap
(Rubin 1981), even weights with α = 0 plain fine-tuning, and even weights with α = n DreamBooth's prior preservation.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona import loop
from bayes_persona.diffusion import generate, pipelines, train
from bayes_persona.diffusion.adapter import Adapter, Batch, Subject, rates_of, settings
from bayes_persona.diffusion.latents import encode
from bayes_persona.diffusion.text import tokens
from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.named import fingerprint as fingerprint_arrays
from bayes_persona.posterior import Posterior
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
    pseudo: int = 16
    """Pictures of the superclass, made by the base model, that stand for the prior."""
    weights: Literal["dirichlet", "even"] = "dirichlet"
    """`dirichlet` draws weights for each member; `even` gives every member the mean ones, as people do today."""
    prior: Literal["subject", "superclass"] = "subject"
    """Who the made-up pictures are said to show: the subject (the prior is on it), or, as in DreamBooth, anyone."""
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
        for name in ("particles", "steps", "rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not (np.isfinite(self.alpha) and self.alpha >= 0):
            raise ConfigError(f"alpha: expected a finite number of at least 0, got {self.alpha}")
        if self.snr is not None and not self.snr > 0:
            raise ConfigError(f"snr: expected a positive number or None, got {self.snr}")
        if self.alpha > 0 and self.pseudo < 1:
            raise ConfigError(
                f"pseudo: a prior worth {self.alpha} photos needs at least one picture, got {self.pseudo}"
            )


class Shown(NamedTuple):
    """Pictures with what is said of them; `{subject}`, or the superclass with an article, is who they show.

    >>> Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot at night",)).pixels.shape
    (1, 64, 64, 3)
    """

    pixels: UInt8[np.ndarray, "n h w 3"]
    captions: tuple[str, ...]
    masks: Float[np.ndarray, "n h w"] | None = None
    """Where the loss looks: numbers of at least 0, of which each mask's largest counts as 1; None is everywhere."""


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
    rows = Rows(pipe, adapter, photos, config, seed)
    kernel = train.AdamW(
        first,
        lambda params, batch, _: (batch.weight * adapter.loss(pipe, params, batch)).sum() / config.rows,
        train.Config(
            rate=config.rate,
            warmup=max(1, min(20, config.steps // 10)),
            cooldown_at=config.steps // 2,
            cooldown=config.steps - config.steps // 2,
            members=True,
        ),
        rates=rates_of(adapter, first),
        after=lambda params, batch: adapter.track(pipe, params, batch),
        device=str(pipe.device),
    )
    state, _ = loop.run(
        kernel, rows, steps=config.steps, seed=child(seed, "train"), folder=folder, config=said, title=title
    )
    params = {name: np.asarray(value) for name, value in state.params.items()}
    return Posterior(tuple({name: value[k] for name, value in params.items()} for k in range(config.particles)))


def generated(pipe: DiffusionPipeline, subject: Subject, captions: Sequence[str], n: int, seed: int) -> Shown:
    """Give the base measure's atoms: what the base model makes of the superclass in the photos' situations.

    Args:
        pipe: The base model.
        subject: Names the superclass.
        captions: Those of the photos, used in turn.
        n: Number of pictures.
        seed: Names them; picture i depends on seed and i alone.

    >>> generated(pipelines.load(), Subject("robot"), ["a robot at night"], 0, seed=0).pixels.shape
    (0, 64, 64, 3)
    """
    if n == 0:
        size = pipelines.size(pipe)
        return Shown(np.zeros((0, size, size, 3), np.uint8), ())
    turn = tuple(captions[i % len(captions)] for i in range(n))
    prompts = [subject.anyone(caption) for caption in turn]
    return Shown(generate.sample(pipe, prompts, generate.noise(pipe, n, child(seed, "base measure"))), turn)


class Rows:
    """Batches of every member's rows; what member k gets at a step depends on seed, k and step alone.

    Photos and made-up pictures are picked as often as the prior's share says, so few rows are spent on pictures that
    hardly count, and each picked row is weighted by its member's weight over the chance of picking it: on average one.

    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot at night",))
    >>> few = Config(particles=3, rows=2, alpha=0.0)
    >>> Rows(pipelines.load(), TextualInversion(Subject("robot")), black, few, seed=0)(step=0).member.tolist()
    [0, 0, 1, 1, 2, 2]
    """

    def __init__(self, pipe: DiffusionPipeline, adapter: Adapter, photos: Shown, config: Config, seed: int):
        subject, n = adapter.subject, len(photos.pixels)
        texts = [subject.prompt(caption) for caption in photos.captions]
        made = generated(pipe, subject, photos.captions, config.pseudo if config.alpha else 0, seed)
        self.config, self.seed, self.device = config, seed, pipe.device
        self.times = pipe.scheduler.config.num_train_timesteps
        self.snr = None if config.snr is None else _min_snr(pipe, config.snr)
        self.latents = encode(pipe, np.concatenate([photos.pixels, made.pixels])).float()
        texts += [subject.prompt(text) if config.prior == "subject" else subject.anyone(text) for text in made.captions]
        self.tokens = _tokens(pipe, adapter, texts, seed).to(pipe.device)
        share = config.alpha / (config.alpha + n)
        m = len(made.pixels)
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
        return Batch(self.latents[picked], noise, time, self.tokens[picked], member, weight, mask)

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
    """Give every picture's mask on the grid of the latents; made-up pictures count everywhere."""
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
