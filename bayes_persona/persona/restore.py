"""The `restore` command: a bad photo and a person in, a picture that could have been the photo out."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.markup import escape

from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import photos, pipelines
from bayes_persona.diffusion.adapters.dual_pivot.method import restored
from bayes_persona.diffusion.restoration import guide as guides
from bayes_persona.diffusion.restoration import quality
from bayes_persona.diffusion.restoration.restore import Config as Sampling
from bayes_persona.diffusion.restoration.restore import require_large, restore
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.files import save_json
from bayes_persona.persona import page, plots
from bayes_persona.persona.opened import opened
from bayes_persona.persona.restore_config import Config
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar

with needs_extra("diffusion"):
    import torch
    from PIL import Image


def run(config: Config, console: Console) -> dict[str, dict[str, float]]:
    """Restore, write `before.png`, `after.png`, `anyone.png` and `index.html`, and give scores where the truth is told.

    Raises:
        ConfigError: If a model of the user's own has no guide.
        DataError: If the photo cannot be read or is too small, or the file is of another method.
        MismatchError: If the person was learned on another base model, or with another guide.

    >>> run(Config(Path("old.jpg"), Path("nowhere.safetensors")), Console(quiet=True))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere.safetensors: there is no such file
    """
    started = time.perf_counter()
    posterior, about = adapters.load(config.person)
    pipe = opened(config.base, config.held)
    adapters.require_base(config.person, about, pipelines.fingerprint(pipe))
    if config.base is not None and config.guide is None:
        raise ConfigError("guide: this model needs one to restore photos; give the folder of its guide")
    guide = guides.load(pipe, config.guide)
    method = restored(pipe, guide, about)
    before = _photo(pipe, config.photo)
    truth = None if config.truth is None else _photo(pipe, config.truth)
    prompt = method.subject.prompt(config.prompt)
    sampling = Sampling(config.steps, config.guidance, scale=config.scale, colour=config.colour)
    made: dict[str, np.ndarray] = {}
    with bar("restoring", total=(3 if len(posterior) > 1 else 2) * config.steps) as advance:

        def on_step(number: int, latents: torch.Tensor) -> torch.Tensor:
            advance()
            return latents

        how: Any = {"config": sampling, "seed": config.seed, "on_step": on_step}
        made["the restorer alone"] = restore(pipe, guide, before, [method.subject.anyone(config.prompt)], **how)
        with method.attached(pipe, posterior.stacked(), torch.arange(len(posterior))):
            made["restored"] = restore(pipe, guide, before, [prompt], average=len(posterior), **how)
        members = _members(pipe, guide, method, posterior, before, prompt, how) if len(posterior) > 1 else None
    scores = {} if truth is None else {name: quality.report(one, truth) for name, one in made.items()}
    _save(config, before, made, truth, members)
    seconds = time.perf_counter() - started
    _page(config, prompt, before, made, truth, members, scores, seconds)
    said = page.numbers(config)
    save_json(config.out / "results.json", {"config": said, "seconds": round(seconds, 1), "scores": scores})
    for name, found in scores.items():
        console.print(f"{name}: PSNR {found['psnr']:.2f} dB, SSIM of brightness {found['ssim']:.3f}")
    console.print(f"{seconds:.0f} seconds. Open [bold]{escape(str(config.out / 'index.html'))}[/bold]")
    return scores


def _photo(pipe: Any, path: Path) -> UInt8[np.ndarray, "1 h w 3"]:
    """Read a photo at the model's size, if it is of any size at all."""
    pixels = photos.picture(path, pipelines.size(pipe))
    with Image.open(path) as image:
        require_large(pipe, image.height, image.width)
    return pixels[None]


def _members(pipe: Any, guide: Any, method: Any, posterior: Posterior, before: np.ndarray, prompt: str, how: Any):
    """Restore by every member, from the same noise."""
    found = []
    for k, member in enumerate(posterior):
        params = {name: value[None] for name, value in member.items()}
        silent = {**how, "on_step": how["on_step"] if k == 0 else None}
        with method.attached(pipe, params, torch.zeros(1, dtype=torch.long)):
            found.append(restore(pipe, guide, before, [prompt], **silent))
    return np.stack(found)


def _save(config: Config, before: np.ndarray, made: dict[str, np.ndarray], truth: Any, members: Any) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    named = {"before": before, "after": made["restored"], "anyone": made["the restorer alone"]}
    named |= {} if members is None else {f"member{k}": one for k, one in enumerate(members)}
    for name, pixels in named.items():
        Image.fromarray(pixels[0]).save(config.out / f"{name}.png")


def _page(
    config: Config,
    prompt: str,
    before: np.ndarray,
    made: dict[str, np.ndarray],
    truth: np.ndarray | None,
    members: np.ndarray | None,
    scores: dict[str, dict[str, float]],
    seconds: float,
) -> None:
    shown = {"before": before, **made} | ({} if truth is None else {"truth": truth})
    titles = tuple(f"{name}\n{scores[name]['psnr']:.1f} dB" if name in scores else name for name in shown)
    pictures = page.figure(
        plots.photo_strip(np.concatenate(list(shown.values())), titles),
        "The restorer alone has never seen the person. Nothing here is evidence of how the photo was.",
    )
    page.write(
        config.out,
        "A photo, restored",
        f"{config.photo.name}, as “{prompt}”. What a bad photo has lost is made up: by what was learned of the person, "
        "or else by what people look like in general.",
        pictures, "" if members is None else _spread(made["restored"], members),
        verb="restore", config=config, seconds=seconds,
    )  # fmt: skip


def _spread(averaged: np.ndarray, members: np.ndarray) -> str:
    caption = (
        "The first picture averages the members' predictions at every step. Where the members differ, neither the "
        "photo nor what was learned says how the person looked there: do not read anything into it."
    )
    return page.section("How sure it is", page.figure(plots.posterior(averaged, members), caption))
