"""Train the embedded mixture of attention: `python -m bayes_persona.world.train_moa --folder runs/moa`.

Two stages, each resumed where it was killed: draw pictures of people whom nobody knows by name, and other pictures of
the same people; train experts, routers and the subjects' words on them, while the base model stays as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayes_persona import loop, ranges
from bayes_persona.diffusion import pipelines, train
from bayes_persona.diffusion.adapters.moa import losses, mixture
from bayes_persona.diffusion.adapters.moa.now import Now
from bayes_persona.diffusion.latents import encode
from bayes_persona.errors import needs_extra
from bayes_persona.files import load_arrays, save_arrays
from bayes_persona.seeds import child, generator
from bayes_persona.world import face, splits, well_known
from bayes_persona.world.cores import chunks
from bayes_persona.world.introduced import Introduced

with needs_extra("diffusion"):
    import torch

SHIPPED = Path(__file__).parent / "assets" / "moa.safetensors"

ROUTERS = 3.0
"""Learning rate of the routers over that of all else."""
OUTSIDE = ("folder", "threads", "settling", "settled")
"""Settings that the first steps do not depend on."""


@dataclass(frozen=True)
class Config:
    """How the mixture is trained.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Config(steps=0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: steps: expected at least 1, got 0
    """

    folder: Path = Path("runs/moa")
    """Where pictures, checkpoints, logs and at last the mixture lie."""
    stage: str = "mixture"
    """Folder of the training inside it: one for every choice of the settings below."""
    pictures: int = 6_000
    """Pictures to train on, each of other people."""
    references: int = 2
    """Other pictures of everyone."""
    pairs: float = 0.35
    """Share of pictures that show two people."""
    words: int = 300
    """Steps in which the subjects' words first learn to say what names say; 0 leaves them out."""
    steps: int = 1_600
    """Steps of training."""
    settling: int = 250
    """Steps in which routers then learn alone; 0 leaves them out."""
    settled: float = 1.0
    """What the routers' loss counts in these."""
    batch: int = 8
    """Pictures a step."""
    rate: float = 2e-3
    """Learning rate."""
    router: float = 0.2
    """What the routers' loss counts: the background is the prior's."""
    inside: float = 0.1
    """What its counterpart counts: subjects are the experts'; the paper has none."""
    located: float = 0.01
    """What the loss of looking at each subject for itself counts."""
    skip: int = 0
    """Transformer blocks at either end of the U-Net whose routers are free; the paper leaves out two of sixteen."""
    drop: float = 0.1
    """Share of pictures without text and subjects, for classifier-free guidance."""
    conditioned: bool = True
    """The subjects' words depend on time and layer."""
    lean: float = 0.0
    """The routers' first logit."""
    rank: int | None = None
    """Of low-rank experts; None trains full ones."""
    seed: int = 0
    """Names the whole run."""
    threads: int = 1
    """Threads of torch."""

    def __post_init__(self):
        ranges.at_least(self, 1, "pictures", "references", "steps", "batch", "threads")
        ranges.at_least(self, 0, "router", "inside", "located", "skip", "words", "settling", "settled")
        ranges.share(self, "pairs", "drop")
        ranges.positive(self, "rate")


class Rows(NamedTuple):
    """A batch.

    >>> Rows(*[torch.zeros(1)] * 7).keep.tolist()
    [0.0]
    """

    latents: torch.Tensor
    states: torch.Tensor
    """The encoded captions, as the prior reads them."""
    marks: torch.Tensor
    """1 where a subject's noun is."""
    who: torch.Tensor
    masks: torch.Tensor
    weights: torch.Tensor
    keep: torch.Tensor
    """0 for rows without text and subjects."""


def main(config: Config) -> Path:
    """Train, and give the file of the mixture."""
    torch.set_num_threads(config.threads)
    pipe = pipelines.load()
    drawn = pictures(config)
    trained = fit(config, pipe, drawn)
    place = config.folder / config.stage / "moa.safetensors"
    trained.save(place)
    return place


def pictures(config: Config) -> Introduced:
    """Draw the pictures, or read them if they lie there."""
    name = f"pictures_{config.pictures}_{config.references}_{config.pairs:g}_{config.seed}.safetensors"
    place = config.folder / name
    if not place.exists():
        part = partial(_draw, references=config.references, pairs=config.pairs, seed=config.seed)
        save_arrays(place, vars(Introduced.joined(list(chunks(part, config.pictures, title="pictures")))))
    return Introduced(**load_arrays(place)[0])


def fit(config: Config, pipe, drawn: Introduced) -> mixture.Mixture:
    """Train the mixture, going on from where the folder stands."""
    shape = mixture.Config(
        feature=face.WIDTH, rank=config.rank, lean=config.lean, frequencies=256 if config.conditioned else 0
    )
    start = mixture.build(pipe, shape, encoder="world", seed=config.seed)
    first = well_known.words(pipe, start, steps=config.words, seed=config.seed) if config.words else {}
    walk = train.Config(
        rate=config.rate,
        warmup=100,
        average=0.99,
        cooldown_at=config.steps // 2,
        cooldown=config.steps - config.steps // 2,
    )
    # one logit for all pixels of a layer: it sees far more of them than any other parameter
    rates = {name: ROUTERS for name in start.params if ".router." in name}
    kernel = train.AdamW({**start.params, **first}, partial(loss, config, pipe, shape), walk, rates=rates)
    rows = batches(config, pipe, drawn)
    state = _run(config, config.stage, kernel, rows, config.steps)
    if config.settling:
        last = replace(config, router=config.settled)
        walk = replace(walk, rate=config.rate / 2, warmup=10, cooldown_at=0, cooldown=config.settling)
        rates = {name: ROUTERS if ".router." in name else 0.0 for name in start.params}
        kernel = train.AdamW(state.average, partial(loss, last, pipe, shape), walk, rates=rates)
        stage = f"{config.stage}_settled_{config.settling}_{config.settled:g}"
        state = _run(config, stage, kernel, lambda step: rows(config.steps + step), config.settling)
    params = {name: np.asarray(value) for name, value in state.average.items()}
    return mixture.Mixture(shape, params, start.base, start.encoder)


def _run(config: Config, stage: str, kernel: train.AdamW, rows: Callable[[int], Rows], steps: int) -> train.State:
    """Run a stage to its end, going on from where its folder stands."""
    said = {name: value for name, value in vars(config).items() if name not in OUTSIDE}
    seed, folder = child(config.seed, "mixture"), config.folder / stage
    return loop.run(kernel, rows, steps=steps, seed=seed, folder=folder, config=said, title=stage)[0]


def loss(config: Config, pipe, shape: mixture.Config, params: train.Tensors, rows: Rows, noise: torch.Generator):
    """Give the loss of a batch: denoising where subjects are, the routers', and that of looking at the right one.

    Rows without text and subjects count everywhere: there the experts learn what the prior does.
    """
    n = len(rows.latents)
    schedule = pipe.scheduler
    times = schedule.config.num_train_timesteps
    # one time in each of as many equal parts of the schedule as there are pictures
    part = (torch.arange(n) + torch.rand(n, generator=noise)) / n
    time = (part * times).long().clamp(max=times - 1)
    error = torch.randn(rows.latents.shape, generator=noise)
    noisy = schedule.add_noise(rows.latents, error, time)
    now = Now(rows.who, torch.arange(n), times, everywhere=True, attention=config.located > 0)
    width = rows.states.shape[-1]
    with mixture.mixed(pipe.unet, shape, params, now):
        guess = pipe.unet(noisy, time, now.enter(noisy, time, torch.cat([rows.states, rows.marks], -1), width)).sample
    off = guess - schedule.get_velocity(rows.latents, error, time)
    union = rows.masks.amax(dim=1)
    told = rows.keep[:, None, None]
    denoising = losses.masked(off, rows.weights * torch.where(told > 0, union, torch.ones_like(union)))
    total = denoising + config.router * losses.router(now.routed, 1 - told * union, config.skip)
    if config.inside:
        total = total + config.inside * losses.inside(now.routed, told * union, config.skip)
    if config.located:
        total = total + config.located * rows.keep * losses.located(now.attended, rows.masks)
    return total.mean()


def batches(config: Config, pipe, drawn: Introduced) -> Callable[[int], Rows]:
    """Give the batch of each step; it depends on nothing but the step."""
    latents = encode(pipe, drawn.pixels)
    words = drawn.tokens.shape[1]
    empty = torch.tensor([pipe.tokenizer("", padding="max_length").input_ids])

    def batch(step: int) -> Rows:
        rng = generator(config.seed, "rows", step)
        rows = rng.integers(len(latents), size=config.batch)
        keep = torch.from_numpy(rng.random(config.batch) >= config.drop).float()
        tokens = torch.where(keep[:, None] > 0, torch.from_numpy(drawn.tokens[rows]).long(), empty)
        with torch.no_grad():
            states = pipe.text_encoder(tokens)[0]
        nouns = torch.from_numpy(drawn.nouns[rows]).long()
        marks = torch.nn.functional.one_hot(nouns.clamp(min=0), words) * (nouns >= 0)[..., None]
        # a mean over some of the references: at use there may be one, or several
        picked = rng.integers(1, 2**config.references, size=config.batch)[:, None] >> np.arange(config.references) & 1
        some = picked[:, None, :, None].astype(np.float32)
        who = torch.from_numpy((drawn.features[rows] * some).sum(axis=2) / some.sum(axis=2))
        return Rows(
            latents[rows],
            states,
            marks.mT.float() * keep[:, None, None],
            who.float(),
            torch.from_numpy(drawn.masks[rows]).float() * keep[:, None, None, None],
            torch.from_numpy(drawn.weights[rows]).float(),
            keep,
        )

    return batch


def _draw(chunk: range, references: int, pairs: float, seed: int) -> Introduced:
    torch.set_num_threads(1)
    config = splits.Config(named=0.0, pairs=pairs, drop=0.3)
    return Introduced.of([splits.sample(config, i, seed=seed) for i in chunk], references, seed)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
