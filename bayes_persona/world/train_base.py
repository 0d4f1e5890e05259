"""Train the embedded base model: `python -m bayes_persona.world.train_base --folder runs/base`.

Four stages, each resumed where it was killed: draw captioned pictures, train the autoencoder, train text encoder and
U-Net at a constant rate, cool the rate down. The third can be lengthened at any time (`--steps`); what is shipped is
the moving average at the end of the fourth.
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
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from bayes_persona import __version__, loop
from bayes_persona.diffusion import pipelines, train
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.files import load_arrays, load_json, save_arrays, save_json, write
from bayes_persona.metrics import mean_interval
from bayes_persona.seeds import child, generator
from bayes_persona.world import base_model, base_scores, oracles, splits
from bayes_persona.world.cores import chunks

with needs_extra("diffusion"):
    import torch
    from torch.func import functional_call

FEW = 4
"""Pictures a step of the autoencoder: their pixels are many, and many small steps learn faster than few large ones."""
CLOCK = 50
"""Steps between two looks at the clock."""


@dataclass(frozen=True)
class Config:
    """How the base model is made; sizes of the networks are `base_model.Config`'s.

    Raises:
        ConfigError: If a number of steps or pictures is too small.

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
    steps: int = 6_000
    """Steps of text encoder and U-Net at a constant rate."""
    cooldown: int = 1_500
    """Steps over which their rate then falls to nothing."""
    batch: int = 32
    """Pictures a step."""
    rate: float = 1e-3
    """Learning rate of text encoder and U-Net."""
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
        for name in ("pictures", "autoencoder_steps", "steps", "cooldown", "batch", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")


def main(config: Config) -> Path:
    """Train, judge, write the model card, and give the folder of the finished model."""
    place = fit(config)
    describe(config, place)
    return place


def fit(config: Config) -> Path:
    """Train, going on from where the folder stands, and give the folder of the model."""
    torch.set_num_threads(config.threads)
    sizes = base_model.Config()
    pixels, tokens = pictures(config)
    encoder = fit_autoencoder(config, sizes, pixels)
    latents = encode(config, encoder, pixels)
    denoiser = fit_denoiser(config, sizes, latents, tokens)
    place = config.folder / "model"
    pipe = base_model.pipeline(encoder, denoiser, sizes)
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


def pictures(config: Config) -> tuple[UInt8[np.ndarray, "n s s 3"], Int[np.ndarray, "n words"]]:
    """Draw the pictures and write their captions as tokens, or read them if they lie there."""
    place = config.folder / f"pictures_{config.pictures}.safetensors"
    if place.exists():
        arrays, _ = load_arrays(place)
        return arrays["pixels"], arrays["tokens"]
    parts = chunks(partial(_draw, seed=config.seed), config.pictures, title="pictures")
    pixels, tokens = map(np.concatenate, zip(*parts, strict=True))
    save_arrays(place, {"pixels": pixels, "tokens": tokens}, {})
    return pixels, tokens


def fit_autoencoder(config: Config, sizes: base_model.Config, pixels: UInt8[np.ndarray, "n s s 3"]):
    """Train the autoencoder: absolute error of pixels and of their edges, latents of mean zero and variance one."""
    net = base_model.autoencoder(sizes, config.seed)

    def loss(params: train.Tensors, batch: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        with _precision(config.device):
            return _autoencoder_loss(net, params, batch.to(config.device), noise)

    kernel = train.AdamW(
        dict(net.named_parameters()),
        loss,
        train.Config(
            rate=2e-3, average=0.99, cooldown_at=config.autoencoder_steps // 2, cooldown=config.autoencoder_steps // 2
        ),
        device=config.device,
    )

    def batch(step: int) -> torch.Tensor:
        rows = generator(config.seed, "autoencoder", step).integers(len(pixels), size=FEW)
        return _signed(pixels[rows])

    state, _ = loop.run(
        kernel,
        _timed(config, batch),
        steps=config.autoencoder_steps,
        seed=child(config.seed, "autoencoder"),
        folder=config.folder / "autoencoder",
        config={"steps": config.autoencoder_steps},
        title="autoencoder",
    )
    net.load_state_dict({name: torch.as_tensor(value) for name, value in state.average.items()})
    return net.eval().requires_grad_(False)


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
    place = config.folder / f"latents_{config.pictures}.safetensors"
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
    save_arrays(place, {"latents": latents}, {})
    return latents


def fit_denoiser(config: Config, sizes: base_model.Config, latents, tokens) -> base_model.Denoiser:
    """Train text encoder and U-Net together: first at a constant rate, then cooling down."""
    net = base_model.Denoiser(sizes, config.seed)
    alphas = base_model.scheduler().alphas_cumprod.to(config.device)
    empty = torch.tensor(base_model.tokenizer(sizes)("", padding="max_length").input_ids)

    def loss(params: train.Tensors, batch: tuple[torch.Tensor, torch.Tensor], noise: torch.Generator) -> torch.Tensor:
        clean, prompts = (part.to(config.device) for part in batch)
        time = torch.randint(len(alphas), (len(clean),), generator=noise, device=config.device)
        signal, spread = (part[:, None, None, None] for part in (alphas[time].sqrt(), (1 - alphas[time]).sqrt()))
        error = torch.randn(clean.shape, generator=noise, device=config.device)
        with _precision(config.device):
            guess = functional_call(net, params, (signal * clean + spread * error, time, prompts))
        return (guess.float() - (signal * error - spread * clean)).square().mean()

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = generator(config.seed, "denoiser", step)
        rows = rng.integers(len(latents), size=config.batch)
        blank = torch.from_numpy(rng.random(config.batch) < config.drop)[:, None]
        prompts = torch.where(blank, empty, torch.from_numpy(tokens[rows]).long())
        # channels last: a tenth faster on a CPU
        return torch.from_numpy(latents[rows]).float().contiguous(memory_format=torch.channels_last), prompts

    settings = train.Config(rate=config.rate, average=0.999, warmup=200)
    said = {"batch": config.batch, "rate": config.rate, "drop": config.drop, "pictures": config.pictures}
    state, _ = loop.run(
        train.AdamW(dict(net.named_parameters()), loss, settings, device=config.device),
        _timed(config, batch),
        steps=config.steps,
        seed=child(config.seed, "denoiser"),
        folder=config.folder / "denoiser",
        config=said,
        title="text encoder and U-Net",
    )
    settings = replace(settings, cooldown_at=config.steps, cooldown=config.cooldown)
    state, _ = loop.run(
        train.AdamW(state, loss, settings, device=config.device),
        _timed(config, lambda step: batch(config.steps + step)),
        steps=config.cooldown,
        seed=child(config.seed, "cooldown"),
        folder=config.folder / f"cooldown_{config.steps}_{config.cooldown}",
        config={**said, "from": config.steps, "over": config.cooldown},
        title="cooling down",
    )
    net.load_state_dict({name: torch.as_tensor(value) for name, value in state.average.items()})
    return net.eval().requires_grad_(False)


def _draw(chunk: range, seed: int) -> tuple[np.ndarray, np.ndarray]:
    examples = [splits.sample(splits.Config(), i, seed=seed) for i in chunk]
    words = base_model.tokenizer(base_model.Config())
    tokens = words([example.caption for example in examples], padding="max_length").input_ids
    return np.stack([example.render().pixels for example in examples]), np.array(tokens, np.int32)


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
