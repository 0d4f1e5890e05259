"""Train the oracles: `python -m bayes_persona.world.train_oracles --autoencoder runs/base/model/vae`.

Four stages, each resumed where it was killed: draw pictures, train on them as they are and as blur, noise, colour casts
and JPEG would leave them; then cool the rate down, with pictures that went through the autoencoder among them, for the
oracles are to read generated pictures too; stretch the error bars until they are right on held-out identities.
"""

import os
import platform
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int, UInt8

from bayes_persona import loop, ranges
from bayes_persona.diffusion import train
from bayes_persona.errors import needs_extra
from bayes_persona.files import load_arrays, save_arrays, save_json
from bayes_persona.metrics import auroc
from bayes_persona.seeds import child, generator
from bayes_persona.world import facts, oracle_net, oracle_scores, oracles, splits, wear
from bayes_persona.world.cores import chunks
from bayes_persona.world.oracle_net import SPREAD, Net
from bayes_persona.world.oracles import Oracles

with needs_extra("diffusion"):
    import torch
    from diffusers import AutoencoderTiny
    from torch.func import functional_call
    from torch.nn import functional

SHIFT = 2
"""Pixels that a picture is moved by at most."""
TRIPS = 0.35
"""Share of pictures that went through the autoencoder, in the second half of training."""


@dataclass(frozen=True)
class Config:
    """How the oracles are made; sizes of the net are `oracle_net.Config`'s.

    Raises:
        ConfigError: If a number is too small.

    >>> Config(batch=0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: batch: expected at least 1, got 0
    """

    folder: Path = Path("runs/oracles")
    """Where pictures, checkpoints and logs lie."""
    out: Path = Path("runs/oracles/model")
    """Where the finished oracles go: oracles.safetensors and oracles.json."""
    autoencoder: Path | None = None
    """A diffusers folder of an AutoencoderTiny; without it, no picture takes a round trip."""
    pictures: int = 40_000
    """Pictures to train on."""
    round_trips: int = 6_000
    """So many of them also as the autoencoder gives them back."""
    steps: int = 2_400
    """Steps at a constant rate, on pictures that took no round trip."""
    cooldown: int = 8_000
    """Steps over which the rate then falls to nothing, with round trips."""
    polish: int = 5_000
    """Steps over which half the rate falls to nothing once more, on pictures that are less worn."""
    batch: int = 32
    """Pictures a step."""
    rate: float = 2e-3
    """Learning rate."""
    held_out: int = 2_000
    """Pictures that error bars are made with, and as many others that the scores are of."""
    seed: int = 0
    """Names the whole run; that of error bars and that of scores are its children."""
    threads: int = 2
    """Threads of torch; results depend on their number."""

    def __post_init__(self):
        ranges.at_least(self, 1, "pictures", "round_trips", "steps", "cooldown", "polish", "batch", "held_out")
        ranges.at_least(self, 1, "threads")


@dataclass(frozen=True)
class Drawn:
    """Pictures and what is to be read from them; -1 is a question that a picture does not answer.

    >>> drawn = Drawn.of([splits.sample(splits.Config(named=0.0, pairs=1.0), 0, seed=0)])
    >>> list(oracle_net.questions()).index("pose"), drawn.labels[0, 0].tolist()[2], drawn.labels[0, 1].tolist()[2] >= 0
    (2, -1, True)
    """

    pixels: UInt8[np.ndarray, "n size size 3"]
    """The pictures."""
    z: Float[np.ndarray, "n 3 factors"]
    """Identity factors of the only subject of each of the three views of a picture; NaN if there is none."""
    labels: Int[np.ndarray, "n 3 questions"]
    """Class indices."""

    @classmethod
    def of(cls, examples: list[splits.Example]) -> "Drawn":
        """Draw examples."""
        pixels = np.stack([example.render().pixels for example in examples])
        z = np.full((len(examples), 3, len(facts.factors())), np.nan, np.float32)
        labels = np.full((len(examples), 3, len(oracle_net.questions())), -1, np.int8)
        for k, example in enumerate(examples):
            for place, view in enumerate(get_args(oracle_net.View)):
                identity, answers = oracle_scores.truth(example.scene, view)
                if identity is not None:
                    z[k, place] = identity.z
                for column, (question, among) in enumerate(oracle_net.questions().items()):
                    if question in answers:
                        labels[k, place, column] = among.index(answers[question])
        return cls(pixels, z, labels)


def main(config: Config) -> Path:
    """Train, going on from where the folder stands, and give the folder of the finished oracles.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> few = Config(folder, folder / "model", pictures=16, steps=1, cooldown=1, polish=1, batch=4, held_out=24)
    >>> oracles.load(main(few)).about["how"]["steps"]
    3
    """
    torch.set_num_threads(config.threads)
    net = fit(config, oracle_net.Config(), _pictures(config))
    arrays, metadata = oracles.saved(net, _error_bars(config, net), oracle_net.Config())
    save_arrays(config.out / oracles.WEIGHTS, arrays, metadata)
    save_json(config.out / oracles.ABOUT, _report(config))
    return config.out


def fit(config: Config, sizes: oracle_net.Config, drawn: Drawn) -> Net:
    """Train a net: first at a constant rate, then cooling down, with round trips if there is an autoencoder.

    >>> import tempfile
    >>> drawn = Drawn.of([splits.sample(splits.Config(named=0.0), i, seed=0) for i in range(8)])
    >>> net = fit(Config(Path(tempfile.mkdtemp()), steps=1, cooldown=1, polish=1, batch=4), oracle_net.Config(), drawn)
    >>> net.training
    False
    """
    net = Net(sizes, config.seed)
    said = {name: getattr(config, name) for name in ("pictures", "round_trips", "batch", "rate")}
    settings = train.Config(rate=config.rate, warmup=200, average=0.995, decay=0.02)
    state: Any = dict(net.named_parameters())
    trips, done = None, 0
    again = config.steps + config.cooldown
    # how long, how fast, and which share of the pictures is worn down
    stages = {
        "constant rate": (config.steps, settings, 0.5),
        "cooling down": (config.cooldown, replace(settings, cooldown_at=config.steps, cooldown=config.cooldown), 0.5),
        "polish": (
            config.polish,
            replace(settings, rate=config.rate / 2, cooldown_at=again, cooldown=config.polish),
            0.25,
        ),
    }
    for stage, (steps, walk, share) in stages.items():
        if done:
            trips = _round_trips(config, drawn.pixels)
        state, _ = loop.run(
            train.AdamW(state, partial(_step_loss, net, share), walk),
            partial(_batch, config, drawn, trips, done),
            steps=steps,
            seed=child(config.seed, stage),
            folder=config.folder / stage,
            config={**said, "steps": steps, "after": done, "autoencoder": trips is not None},
            title=f"oracles, {stage}",
        )
        done += steps
    net.load_state_dict({name: torch.as_tensor(value) for name, value in state.average.items()})
    return net.eval().requires_grad_(False)


class Batch(NamedTuple):
    """What one step learns from; NaN and -1 are not to be read.

    >>> Batch(torch.zeros(2, 3, 64, 64), torch.full((2, 12), torch.nan), torch.full((2, 9), -1)).labels.shape
    torch.Size([2, 9])
    """

    pixels: torch.Tensor
    z: torch.Tensor
    labels: torch.Tensor


def through(autoencoder: AutoencoderTiny, seed: int, jitter: tuple[float, float] = (0.05, 0.2)):
    """Give the function that sends pictures through an autoencoder, noise of a random size added to their latents.

    >>> widths = (8, 8, 8, 8)
    >>> net = AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths)
    >>> trip = through(net, seed=0)
    >>> trip(np.zeros((2, 64, 64, 3), np.uint8)).shape
    (2, 64, 64, 3)
    """
    net = autoencoder.float().eval()

    @torch.no_grad()
    def trip(pixels: np.ndarray) -> np.ndarray:
        noise = torch.Generator().manual_seed(child(seed, "jitter"))
        back = []
        for some in oracle_net.floats(pixels).split(oracles.BATCH):
            (latents,) = net.encode(2 * some - 1, return_dict=False)
            size = jitter[0] + (jitter[1] - jitter[0]) * torch.rand((len(some), 1, 1, 1), generator=noise)
            (drawn,) = net.decode(latents + size * torch.randn(latents.shape, generator=noise), return_dict=False)
            back.append((drawn.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
        return np.concatenate(back)

    return trip


def _pictures(config: Config) -> Drawn:
    """Draw the pictures, or read them if they lie there."""
    place = config.folder / f"pictures_{config.pictures}.safetensors"
    if not place.exists():
        parts = list(chunks(partial(_draw, seed=config.seed), config.pictures, title="pictures"))
        columns = {name: [getattr(part, name) for part in parts] for name in ("pixels", "z", "labels")}
        save_arrays(place, {name: np.concatenate(column) for name, column in columns.items()}, {"seed": config.seed})
    return Drawn(**load_arrays(place)[0])


def _draw(chunk: range, seed: int) -> Drawn:
    return Drawn.of([splits.sample(splits.Config(named=0.0), i, seed=seed) for i in chunk])


def _trip(autoencoder: Path, seed: int) -> Any:
    """Give the way through an autoencoder and back; its folder is read, and nothing is looked for anywhere else."""
    return through(AutoencoderTiny.from_pretrained(autoencoder, use_safetensors=True, local_files_only=True), seed)


def _round_trips(config: Config, pixels: np.ndarray) -> np.ndarray | None:
    if config.autoencoder is None:
        return None
    place = config.folder / f"round_trips_{config.round_trips}.safetensors"
    if not place.exists():
        trip = _trip(config.autoencoder, config.seed)
        save_arrays(place, {"pixels": trip(pixels[: config.round_trips])})
    return load_arrays(place)[0]["pixels"]


def _batch(config: Config, drawn: Drawn, trips: np.ndarray | None, done: int, step: int) -> Batch:
    size, rng = config.batch, generator(config.seed, "batch", done + step)
    rows = rng.integers(len(drawn.pixels), size=size)
    pixels = drawn.pixels[rows]
    if trips is not None:
        back = rng.random(size) < TRIPS
        rows[back] = rng.integers(len(trips), size=back.sum())
        pixels = np.where(back[:, None, None, None], trips[rows % len(trips)], drawn.pixels[rows])
    # Pictures of two are read as a whole in one of three cases, and by halves in the others
    alone = ~np.isnan(drawn.z[rows, 0, 0])
    view = np.where(alone, 0, rng.integers(3, size=size))
    whole = oracle_net.floats(pixels)
    views = torch.stack([oracle_net.viewed(whole, name) for name in get_args(oracle_net.View)])
    return Batch(
        views[torch.from_numpy(view), torch.arange(size)],
        torch.from_numpy(drawn.z[rows, view]),
        torch.from_numpy(drawn.labels[rows, view]).long(),
    )


def _step_loss(net: Net, share: float, params: train.Tensors, batch: Batch, noise: torch.Generator) -> torch.Tensor:
    by = torch.randint(-SHIFT, SHIFT + 1, (2, len(batch.pixels)), generator=noise)
    moved = oracle_net.shifted(batch.pixels, by)
    few = round(share * len(moved))
    return _loss(functional_call(net, params, (torch.cat([wear.down(moved[:few], noise), moved[few:]]),)), batch)


def _loss(seen: train.Tensors, batch: Batch) -> torch.Tensor:
    """Squared errors of factors, likelihoods of error bars around factors held still, cross entropies of answers."""
    known = ~batch.z.isnan()
    off = ((seen["z"] - batch.z.nan_to_num()) / SPREAD) * known
    logs = seen["log sd"] - np.log(SPREAD)
    likelihood = (logs + 0.5 * (off.detach() / logs.exp()).square()) * known
    total = (2 * off.square().sum() + 0.2 * likelihood.sum()) / known.sum().clamp(min=1)
    for column, name in enumerate(oracle_net.questions()):
        asked = batch.labels[:, column]
        # a batch in which nobody asks has no mean, but every parameter needs a gradient
        wrong = functional.cross_entropy(seen[name], asked, ignore_index=-1, reduction="sum")
        total = total + 0.3 * wrong / (asked >= 0).sum().clamp(min=1)
    return total


def _error_bars(config: Config, net: Net) -> Float[np.ndarray, " factors"]:
    """Give what to stretch error bars with: root mean square of errors in units of them, on held-out identities."""
    mixture, seed = splits.Config(named=0.0, pairs=0.0), child(config.seed, "error bars")
    examples = [splits.sample(mixture, i, seed=seed, part="held out") for i in range(config.held_out)]
    z = np.array([example.scene.subjects[0].identity.z for example in examples])
    reading = Oracles(net, np.ones(z.shape[1]), {}).read(np.stack([example.render().pixels for example in examples]))
    return np.sqrt((((reading.z - z) / reading.sd) ** 2).mean(axis=0))


def _report(config: Config) -> dict[str, Any]:
    finished = Oracles(*oracles.restored(config.out / oracles.WEIGHTS), {})
    seed = child(config.seed, "scores")
    measured = partial(oracle_scores.scores, n=config.held_out, seed=seed, reader=finished)

    def worn_down(pixels: np.ndarray) -> np.ndarray:
        changed = wear.down(oracle_net.floats(pixels), torch.Generator().manual_seed(seed))
        return (changed * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    tripped = None
    if config.autoencoder is not None:
        tripped = measured(through=_trip(config.autoencoder, seed))
    places = ("folder", "out")
    given = {key: value for key, value in vars(config).items() if key not in places and value != getattr(Config, key)}
    options = [
        f"--{key.replace('_', '-')} {'PATH' if isinstance(value, Path) else value}" for key, value in given.items()
    ]
    begun = (config.folder / "constant rate" / "config.json").stat().st_mtime
    return {
        "sizes": vars(oracle_net.Config()),
        "questions": oracle_net.questions(),
        "bytes": (config.out / oracles.WEIGHTS).stat().st_size,
        "held out": measured(),
        "held out, worn down": measured(through=worn_down),
        "held out, through the autoencoder": tripped,
        "held out, same or another identity": _verification(config, finished),
        "how": {
            "command": " ".join(["python -m bayes_persona.world.train_oracles", *options]),
            "seed": config.seed,
            "steps": config.steps + config.cooldown + config.polish,
            "pictures": config.pictures,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {config.threads} threads",
            "seconds, pauses included": round(time.time() - begun),
            "torch": torch.__version__,
        },
    }


def _verification(config: Config, finished: Oracles) -> dict[str, float]:
    """Say how well embeddings tell whether two pictures show one identity, or another of the same superclass."""
    people = splits.held_out(min(config.held_out, 400) // 4 * 4, seed=child(config.seed, "verification"))
    albums = [splits.photos(who, 2, seed=config.seed) for who in people]
    pixels = [np.stack([album[k].render().pixels for album in albums]) for k in range(2)]
    first, second = (finished.read(some).embedding for some in pixels)
    same, other = (first * second).sum(axis=1), (first * np.roll(second, 4, axis=0)).sum(axis=1)
    told_apart = auroc(np.concatenate([same, other]), np.repeat([True, False], len(people)))
    return {"auroc": told_apart, "same": float(same.mean()), "other": float(other.mean()), "n": len(people)}


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
