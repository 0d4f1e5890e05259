"""Train the embedded base model: `python -m bayes_persona.world.train_base --folder runs/base`.

Five stages, each resumed where it was killed: draw captioned pictures, train the autoencoder, teach the text encoder to
read captions, train the U-Net at a constant rate, cool the rate down. The fourth can be lengthened at any time
(`--steps`); what is shipped is the moving average at the end of the fifth.
"""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona import __version__, loop, ranges
from bayes_persona.diffusion import covariance, pipelines, train
from bayes_persona.errors import needs_extra
from bayes_persona.files import load_arrays, load_json, save_arrays, save_json, write
from bayes_persona.metrics import mean_interval
from bayes_persona.seeds import child, generator
from bayes_persona.world import base_model, base_scores, oracles, reader, splits
from bayes_persona.world.captioned import Captioned
from bayes_persona.world.cores import chunks

with needs_extra("diffusion"):
    import torch
    from torch.func import functional_call

FEW = 4
"""Pictures a step of the autoencoder: their pixels are many, and many small steps learn faster than few large ones."""
CAPTIONS = 4_000
"""Captions that the covariance of the text encoder is the mean of: about 60,000 tokens."""
CLOCK = 50
"""Steps between two looks at the clock."""
Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Net = TypeVar("Net", bound=torch.nn.Module)


@dataclass(frozen=True)
class Config:
    """How the base model is made; sizes of the networks are `base_model.Config`'s.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Config(steps=0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: steps: expected at least 1, got 0
    """

    folder: Path = Path("runs/base")
    """Where checkpoints, logs and at last the model lie."""
    pictures: int = 80_000
    """Captioned pictures to train on."""
    autoencoder_steps: int = 8_000
    """Steps of the autoencoder."""
    reader_steps: int = 3_000
    """Steps of the text encoder, of `reader_batch` captions each."""
    reader_batch: int = 64
    """Captions a step."""
    steps: int = 6_000
    """Steps of the U-Net at a constant rate."""
    cooldown: int = 1_500
    """Steps over which their rate then falls to nothing."""
    batch: int = 32
    """Pictures a step."""
    rate: float = 1e-3
    """Learning rate of text encoder, and of U-Net."""
    drop: float = 0.1
    """Share of captions left empty, for classifier-free guidance."""
    device: str = "cpu"
    """`cpu`, or `cuda`: then steps are computed in bfloat16, and larger batches and more steps are worth it."""
    judged: int = 400
    """Pictures of each kind of prompt that the finished model is judged on."""
    seed: int = 0
    """Names the whole run."""
    threads: int = 2
    """Threads of torch; results depend on their number."""

    def __post_init__(self):
        ranges.at_least(self, 1, "pictures", "autoencoder_steps", "reader_steps", "reader_batch")
        ranges.at_least(self, 1, "steps", "cooldown", "batch", "threads")
        ranges.positive(self, "rate")
        ranges.below_one(self, "drop")
        ranges.at_least(self, base_scores.FEWEST, "judged")  # not after hours of training


def main(config: Config) -> Path:
    """Train, judge, write the model card, and give the folder of the finished model."""
    place = fit(config)
    measure_text(config, place)
    describe(config, place)
    return place


def measure_text(config: Config, place: Path) -> None:
    """Write the covariance of the finished text encoder beside it: Perfusion asks for it."""
    examples = (splits.sample(splits.Config(), i, seed=child(config.seed, "covariance")) for i in range(CAPTIONS))
    found = covariance.estimate(pipelines.load(place), [example.caption for example in examples])
    covariance.save(place / covariance.NAME, found)


def fit(config: Config) -> Path:
    """Train, going on from where the folder stands, and give the folder of the model."""
    torch.set_num_threads(config.threads)
    sizes = base_model.Config()
    drawn = pictures(config)
    encoder = fit_autoencoder(config, sizes, drawn.pixels)
    latents = encode(config, encoder, drawn.pixels)
    text_encoder = fit_reader(config, sizes, drawn)
    unet = fit_unet(config, sizes, text_encoder, latents, drawn)
    place = config.folder / "model"
    pipe = base_model.pipeline(encoder, text_encoder, unet, sizes)
    with pipelines.quiet():
        pipe.to(dtype=torch.float16).save_pretrained(place)
    return place


def describe(config: Config, place: Path) -> None:
    """Judge the finished model as users will load it, and write its model card."""
    pipe = pipelines.load(place)
    found = base_scores.scores(pipe, config.judged, seed=child(config.seed, "judged"))
    numbers = {name: mean_interval(values) for name, values in found.followed.items()}
    lines = [f"| {name} | {mean:.3f} | {low:.3f} to {high:.3f} |" for name, (mean, low, high) in numbers.items()]
    seen = oracles.load().about["held out"]
    lines.append(f"| identity of named people, R² | {found.named.mean:.3f} | |")
    command = " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in asdict(config).items() if name != "folder"
    )
    card = Template((files("bayes_persona.world") / "assets" / "card.md").read_text()).substitute(
        command=f"python -m bayes_persona.world.train_base {command}",
        scores="\n".join(lines),
        oracles=f"identity R² {seen['identity_r2']:.3f}, worst attribute {seen['attributes_min']:.3f}",
        judged=config.judged,
        megabytes=f"{sum(file.stat().st_size for file in place.rglob('*') if file.is_file()) / 1e6:.1f}",
        machine=f"{os.cpu_count()} cores ({platform.machine()}), {config.threads} threads, {config.device}",
        hours=f"{load_json(config.folder / 'clock.json')['seconds'] / 3600:.1f}",
        version=__version__,
    )
    write(place / "README.md", card.encode())


def pictures(config: Config) -> Captioned:
    """Draw the pictures, or read them if they lie there."""
    place = config.folder / f"pictures_{config.pictures}_{config.seed}.safetensors"
    if not place.exists():
        parts = chunks(partial(_draw, seed=config.seed), config.pictures, title="pictures")
        save_arrays(place, vars(Captioned.joined(list(parts))))
    return Captioned(**load_arrays(place)[0])


def fit_autoencoder(config: Config, sizes: base_model.Config, pixels: UInt8[np.ndarray, "n s s 3"]):
    """Train the autoencoder: absolute error of pixels and of their edges, latents of mean zero and variance one."""
    net = base_model.autoencoder(sizes, config.seed)

    def loss(params: train.Tensors, batch: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        with _precision(config.device):
            return _autoencoder_loss(net, params, batch.to(config.device), noise)

    def batch(step: int) -> torch.Tensor:
        rows = generator(config.seed, "autoencoder", step).integers(len(pixels), size=FEW)
        return _signed(pixels[rows])

    steps = config.autoencoder_steps
    walk = train.Config(rate=2e-3, average=0.99, cooldown_at=steps // 2, cooldown=max(1, steps // 2))
    kernel = train.AdamW(dict(net.named_parameters()), loss, walk, device=config.device)
    return _averaged(net, _run(config, "autoencoder", kernel, batch, steps, {"steps": steps}))


def _autoencoder_loss(net, params, target, noise) -> torch.Tensor:
    # functional_call wants one forward; the two halves are called through their common parent's names
    latents = functional_call(net.encoder, _below(params, "encoder."), (target,))
    jitter = 0.05 * torch.randn(latents.shape, generator=noise, device=latents.device)
    drawn = functional_call(net.decoder, _below(params, "decoder."), (latents + jitter,))
    off = drawn - target
    edges = off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()
    mean, spread = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    return off.abs().mean() + edges + 0.1 * (mean.square() + (spread - 1).square()).mean()


@torch.no_grad()
def encode(config: Config, net, pixels: UInt8[np.ndarray, "n s s 3"]) -> Float[np.ndarray, "n c h w"]:
    """Give the latents of all pictures, in half precision to fit into memory."""
    place = config.folder / f"latents_{config.pictures}_{config.seed}.safetensors"
    if place.exists():
        return load_arrays(place)[0]["latents"]
    net = net.to(config.device)
    latents = np.concatenate(
        [
            net.encode(_signed(pixels[i : i + 256]).to(config.device)).latents.half().cpu().numpy()
            for i in range(0, len(pixels), 256)
        ]
    )
    net.to("cpu")
    save_arrays(place, {"latents": latents})
    return latents


def fit_reader(config: Config, sizes: base_model.Config, drawn: Captioned):
    """Teach the text encoder to read captions; it stays as it is while the U-Net learns."""
    net = reader.Reader(sizes, config.seed).to(config.device)

    def loss(params: train.Tensors, batch: Three, noise: torch.Generator) -> torch.Tensor:
        tokens, labels, z = (part.to(config.device) for part in batch)
        answers, read = functional_call(net, params, (tokens,))
        return reader.loss(answers, read, labels, z)

    def batch(step: int) -> Three:
        rows = generator(config.seed, "reader", step).integers(len(drawn.tokens), size=config.reader_batch)
        tokens, labels, z = (torch.from_numpy(part[rows]) for part in (drawn.tokens, drawn.labels, drawn.z))
        return tokens.long(), labels.long(), z

    steps = config.reader_steps
    walk = train.Config(rate=config.rate, average=0.99, cooldown_at=steps // 2, cooldown=max(1, steps // 2))
    kernel = train.AdamW(dict(net.named_parameters()), loss, walk, device=config.device)
    said = {"steps": steps, "batch": config.reader_batch, "rate": config.rate}
    return _averaged(net, _run(config, "reader", kernel, batch, steps, said)).text_encoder


def fit_unet(config: Config, sizes: base_model.Config, text_encoder, latents, drawn: Captioned):
    """Train the U-Net: first at a constant rate, then cooling down."""
    net = base_model.unet(sizes, config.seed)
    alphas = base_model.scheduler().alphas_cumprod.to(config.device)
    empty = torch.tensor(base_model.tokenizer(sizes)("", padding="max_length").input_ids)
    # faces are learned from those whom captions call by name: half of every batch has one
    called = np.flatnonzero(np.isfinite(drawn.z).any(axis=(1, 2)))

    def loss(params: train.Tensors, batch: Three, noise: torch.Generator) -> torch.Tensor:
        clean, tokens, weights = (part.to(config.device) for part in batch)
        # one time in each of as many equal parts of the schedule as there are pictures: a batch sees all of it
        where = torch.arange(len(clean), device=config.device)
        part = (where + torch.rand(len(clean), generator=noise, device=config.device)) / len(clean)
        time = (part * len(alphas)).long().clamp(max=len(alphas) - 1)
        signal, spread = (part[:, None, None, None] for part in (alphas[time].sqrt(), (1 - alphas[time]).sqrt()))
        error = torch.randn(clean.shape, generator=noise, device=config.device)
        with _precision(config.device):
            words = text_encoder(tokens).last_hidden_state
            guess = functional_call(net, params, (signal * clean + spread * error, time, words)).sample
        return ((guess.float() - (signal * error - spread * clean)).square() * weights[:, None]).mean()

    def batch(step: int) -> Three:
        rng = generator(config.seed, "U-Net", step)
        rows = rng.integers(len(latents), size=config.batch)
        rows[: config.batch // 2] = rng.choice(called, size=config.batch // 2)
        blank = torch.from_numpy(rng.random(config.batch) < config.drop)[:, None]
        tokens = torch.where(blank, empty, torch.from_numpy(drawn.tokens[rows]).long())
        # channels last: a tenth faster on a CPU
        clean = torch.from_numpy(latents[rows]).float().contiguous(memory_format=torch.channels_last)
        return clean, tokens, torch.from_numpy(drawn.weights[rows]).float()

    text_encoder.to(config.device)
    walk = train.Config(rate=config.rate, average=0.999, warmup=200)
    said = {"batch": config.batch, "rate": config.rate, "drop": config.drop, "pictures": config.pictures}
    kernel = train.AdamW(dict(net.named_parameters()), loss, walk, device=config.device)
    state = _run(config, "U-Net", kernel, batch, config.steps, said)
    cooler = replace(walk, cooldown_at=config.steps, cooldown=config.cooldown)
    kernel = train.AdamW(state, loss, cooler, device=config.device)
    said |= {"from": config.steps, "over": config.cooldown}
    # the same U-Net can be cooled down from several of its steps
    stage = f"cooldown_{config.steps}_{config.cooldown}"
    state = _run(config, stage, kernel, lambda step: batch(config.steps + step), config.cooldown, said)
    text_encoder.to("cpu")
    return _averaged(net, state)


def _run(config: Config, stage: str, kernel: train.AdamW, batch: Callable, steps: int, said: dict) -> train.State:
    """Run a stage to its end, going on from where its folder stands."""
    folder, seed = config.folder / stage, child(config.seed, stage)
    state, _ = loop.run(kernel, _timed(config, batch), steps=steps, seed=seed, folder=folder, config=said, title=stage)
    return state


def _averaged(net: Net, state: train.State) -> Net:
    net.load_state_dict({name: torch.as_tensor(value) for name, value in state.average.items()})
    return net.eval().requires_grad_(False)


def _draw(chunk: range, seed: int) -> Captioned:
    return Captioned.of([splits.sample(splits.Config(), i, seed=seed) for i in chunk])


def _signed(pixels: UInt8[np.ndarray, "n s s 3"]) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def _below(params: train.Tensors, prefix: str) -> train.Tensors:
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def _timed(config: Config, batches: Callable[[int], Any]) -> Callable[[int], Any]:
    """Count the seconds between batches in `clock.json`, whatever kills a sitting; the model card gives their sum."""
    place = config.folder / "clock.json"
    before = load_json(place)["seconds"] if place.exists() else 0.0
    started = time.perf_counter()

    def batch(step: int) -> Any:
        if step % CLOCK == 0:
            save_json(place, {"seconds": round(before + time.perf_counter() - started)})
        return batches(step)

    return batch


def _precision(device: str):
    return torch.autocast(device, torch.bfloat16, enabled=device != "cpu")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
