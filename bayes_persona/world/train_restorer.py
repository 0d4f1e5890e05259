"""Train the guide that restores bad photos: `python -m bayes_persona.world.train_restorer --folder runs/restorer`.

Three stages, each resumed where it was killed: draw pictures and damage each in several ways, train the guide at a
constant rate while the base model stays as it is, cool the rate down. What is shipped is the moving average.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayes_persona import loop, ranges
from bayes_persona.diffusion import degrade, pipelines, train
from bayes_persona.diffusion.latents import encode
from bayes_persona.diffusion.restoration import guide as guides
from bayes_persona.diffusion.restoration.guide import Guide
from bayes_persona.diffusion.text import tokens
from bayes_persona.errors import needs_extra
from bayes_persona.files import load_arrays, save_arrays
from bayes_persona.progress import bar
from bayes_persona.seeds import child, generator
from bayes_persona.world import degraded, splits

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from torch.func import functional_call

CHUNK = 200
"""Pictures that are drawn, damaged and encoded in one go."""
Four = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Config:
    """How the guide is made.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Config(steps=0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: steps: expected at least 1, got 0
    """

    folder: Path = Path("runs/restorer")
    """Where checkpoints, logs and at last the guide lie."""
    pictures: int = 8_000
    """Pictures to train on."""
    damages: int = 2
    """Ways in which each of them is damaged."""
    second_order: float = 0.3
    """Share of the second-order model among the damages."""
    pairs: float = 0.1
    """Share of pictures with two subjects."""
    steps: int = 2_000
    """Steps at a constant rate."""
    cooldown: int = 500
    """Steps over which the rate then falls to nothing."""
    batch: int = 8
    """Pictures a step."""
    rate: float = 5e-4
    """Learning rate."""
    captioned: float = 0.3
    """Share of pictures whose caption the base model reads; half of the others have `a man`, half nothing."""
    seed: int = 0
    """Names the whole run."""
    threads: int = 1
    """Threads of torch; results depend on their number."""

    def __post_init__(self):
        ranges.at_least(self, 1, "pictures", "damages", "steps", "cooldown", "batch", "threads")
        ranges.share(self, "second_order", "pairs", "captioned")
        ranges.positive(self, "rate")


@dataclass(frozen=True)
class Pool:
    """Pictures and what damage leaves of them, as latents, and two prompts for each.

    >>> Pool.drawn(Config(pictures=2, damages=1), pipelines.load(), range(2)).damaged.shape
    (2, 1, 8, 16, 16)
    """

    clean: Float[np.ndarray, "n c h w"]
    damaged: Float[np.ndarray, "n d c h w"]
    captions: Int[np.ndarray, "n words"]
    plain: Int[np.ndarray, "n words"]

    @classmethod
    def drawn(cls, config: Config, pipe: DiffusionPipeline, chunk: range) -> "Pool":
        """Draw, damage and encode some pictures; each depends on seed and number alone."""
        mixture = splits.Config(pairs=config.pairs)
        examples = [splits.sample(mixture, i, seed=child(config.seed, "restorer")) for i in chunk]
        pixels = np.stack([example.render().pixels for example in examples])
        bad = np.stack([_damages(config, row, i) for row, i in zip(pixels, chunk, strict=True)])
        latents = encode(pipe, np.concatenate([pixels, bad.reshape(-1, *pixels.shape[1:])])).half().numpy()
        kinds = [" and ".join(f"a {who.identity.superclass}" for who in example.scene.subjects) for example in examples]
        return cls(
            clean=latents[: len(pixels)],
            damaged=latents[len(pixels) :].reshape(len(pixels), config.damages, *latents.shape[1:]),
            captions=np.array([tokens(pipe, example.caption) for example in examples], np.int32),
            plain=np.array([tokens(pipe, kind) for kind in kinds], np.int32),
        )


def main(config: Config) -> Path:
    """Train, and give the folder of the guide."""
    torch.set_num_threads(config.threads)
    pipe = pipelines.load()
    found = pool(config, pipe)
    guide = fit(config, pipe, found)
    place = config.folder / "guide"
    facts = {"pictures": config.pictures, "damages": config.damages, "steps": config.steps + config.cooldown}
    guides.save(place, guide, base=pipelines.fingerprint(pipe), half=True, batch=config.batch, **facts)
    return place


def pool(config: Config, pipe: DiffusionPipeline) -> Pool:
    """Draw what is trained on, or read it if it lies there."""
    place = config.folder / f"pool_{config.pictures}_{config.damages}_{config.seed}.safetensors"
    if not place.exists():
        parts, starts = [], range(0, config.pictures, CHUNK)
        with bar("pictures", total=len(starts)) as advance:
            for start in starts:
                parts.append(vars(Pool.drawn(config, pipe, range(start, min(start + CHUNK, config.pictures)))))
                advance()
        place.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(place, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return Pool(**load_arrays(place)[0])


def fit(config: Config, pipe: DiffusionPipeline, found: Pool) -> Guide:
    """Train the guide: first at a constant rate, then cooling down. The base model learns nothing."""
    guide = Guide.of(pipe)
    pipe.unet.to(memory_format=torch.channels_last)  # a tenth faster on a CPU
    loss, batch = partial(_loss, pipe, guide), partial(_batch, config, pipe, found)
    walk = train.Config(rate=config.rate, average=0.998, warmup=200)
    said = {"batch": config.batch, "rate": config.rate, "pictures": config.pictures, "captioned": config.captioned}
    kernel = train.AdamW(dict(guide.named_parameters()), loss, walk)
    state = _run(config, "guide_steps", kernel, batch, config.steps, said)
    cooler = replace(walk, cooldown_at=config.steps, cooldown=config.cooldown)
    stage = f"cooldown_{config.steps}_{config.cooldown}"  # the same guide can be cooled down from several of its steps
    kernel = train.AdamW(state, loss, cooler)
    said |= {"from": config.steps, "over": config.cooldown}
    state = _run(config, stage, kernel, lambda step: batch(config.steps + step), config.cooldown, said)
    guide.load_state_dict({**guide.state_dict(), **{name: torch.as_tensor(v) for name, v in state.average.items()}})
    return guide


def _loss(
    pipe: DiffusionPipeline, guide: Guide, params: train.Tensors, batch: Four, noise: torch.Generator
) -> torch.Tensor:
    clean, damaged, text, part = batch
    alphas = pipe.scheduler.alphas_cumprod
    time = (part * len(alphas)).long().clamp(max=len(alphas) - 1)
    error = torch.randn(clean.shape, generator=noise)
    noisy = pipe.scheduler.add_noise(clean, error, time)
    down, mid = functional_call(guide, params, (noisy, time, text, damaged), {"return_dict": False})
    more = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": mid}
    guess = pipe.unet(noisy, time, text, **more).sample
    return (guess - pipe.scheduler.get_velocity(clean, error, time)).square().mean()


def _batch(config: Config, pipe: DiffusionPipeline, found: Pool, step: int) -> Four:
    rng = generator(config.seed, "restorer", step)
    rows = rng.integers(len(found.clean), size=config.batch)
    way = rng.integers(config.damages, size=config.batch)
    kind = rng.random(config.batch)
    half = (1 + config.captioned) / 2
    empty = np.array(tokens(pipe, ""), np.int32)
    said = np.where((kind < half)[:, None], found.plain[rows], empty)
    said = np.where((kind < config.captioned)[:, None], found.captions[rows], said)
    # one time in each of as many equal parts of the schedule as there are pictures: a batch sees all of it
    part = torch.from_numpy((np.arange(config.batch) + rng.random(config.batch)) / config.batch)
    with torch.no_grad():
        text = pipe.text_encoder(torch.from_numpy(said).long())[0]
    latents = (torch.from_numpy(some).float() for some in (found.clean[rows], found.damaged[rows, way]))
    clean, damaged = (some.contiguous(memory_format=torch.channels_last) for some in latents)
    return clean, damaged, text, part


def _damages(config: Config, pixels: np.ndarray, i: int) -> np.ndarray:
    seeds = [child(config.seed, "damage", i, k) for k in range(config.damages)]
    twice = [generator(seed, "order").random() < config.second_order for seed in seeds]
    ways = [degraded.small_second_order() if two else degraded.small() for two in twice]
    return np.stack([degrade.degrade(pixels[None], way, seed)[0] for way, seed in zip(ways, seeds, strict=True)])


def _run(
    config: Config, stage: str, kernel: train.AdamW, batch: Callable[[int], Four], steps: int, said: dict[str, Any]
) -> train.State:
    """Run a stage to its end, going on from where its folder stands."""
    folder, seed = config.folder / stage, child(config.seed, stage)
    state, _ = loop.run(kernel, batch, steps=steps, seed=seed, folder=folder, config=said, title=stage)
    return state


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
