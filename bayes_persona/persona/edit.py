"""The `edit` command: a photo of someone who was learned, in another pose or mood, by LIPE's masked blending."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.markup import escape

from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import photos, pipelines
from bayes_persona.diffusion.adapter import Adapter, Subject
from bayes_persona.diffusion.adapters.lipe import nima
from bayes_persona.diffusion.adapters.lipe.method import Lipe
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.errors import DataError, needs_extra
from bayes_persona.files import save_json
from bayes_persona.persona import page, plots
from bayes_persona.persona.captioner import World
from bayes_persona.persona.edit_config import Config
from bayes_persona.persona.opened import opened
from bayes_persona.progress import bar

with needs_extra("diffusion"):
    import torch
    from PIL import Image

METHODS = {"lipe": Lipe, "low_rank": LowRank, "textual_inversion": TextualInversion}
"""Whose personalizations can be edited with."""


def run(config: Config, console: Console) -> nima.Edited:
    """Edit the photo, and write the edits, their masks and `index.html`.

    Raises:
        ConfigError: If a prompt or the caption does not name the subject.
        DataError: If the photo cannot be read, the file is of another method, or inversion diverges.
        MismatchError: If it was trained on another base model.

    >>> run(Config(Path("me.png"), Path("nobody.safetensors"), ("a happy robot",)), Console(quiet=True))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nobody.safetensors: there is no such file
    """
    started = time.perf_counter()
    pipe = opened(config.base, config.held)
    method, params = person(config.person, pipe, config.member)
    found = photos.read([config.photo], pipelines.size(pipe))
    caption = method.subject.prompt(_caption(config, method.subject, found))
    prompts = [method.subject.prompt(text) for text in config.prompt]
    console.print(f"The photo shows: {escape(caption)}")
    how = nima.Config(
        steps=config.steps,
        guidance=(1.5 if config.base is None else 7.5) if config.guidance is None else config.guidance,
        inversion=config.inversion,
        refinements=config.refinements,
        threshold_source=config.threshold,
        threshold_target=config.threshold,
        start=config.start,
        skip=config.skip,
        grow=int(config.base is not None) if config.grow is None else config.grow,
        feather=config.feather,
        seed=config.seed,
    )
    back = how.steps * (1 + (how.refinements if how.inversion == "ddim" else 0))
    before, phrase = np.repeat(found.pixels, len(prompts), axis=0), method.subject.phrase
    with method.attached(pipe, params, torch.zeros(1, dtype=torch.long)), _progress(pipe, back + how.steps):
        inverted = nima.invert(pipe, found.pixels, [caption], phrase, how)
        edited = nima.paint(pipe, inverted.repeat(len(prompts)), prompts, phrase, how, before)
    _save(config, caption, prompts, before, edited, time.perf_counter() - started)
    console.print(f"{len(prompts)} edits. Open [bold]{escape(str(config.out / 'index.html'))}[/bold]")
    return edited


def person(path: Path, pipe: Any, member: int = 0) -> tuple[Adapter, dict[str, np.ndarray]]:
    """Read one member of a personalization, as a method and params that can be attached.

    Raises:
        DataError: If it is of a method whose pictures cannot be edited, or has no such member.
        MismatchError: If it was trained on another base model.

    >>> person(Path("nobody.safetensors"), pipelines.load())
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nobody.safetensors: there is no such file
    """
    posterior, about = adapters.load(path, base=pipelines.fingerprint(pipe))
    if about["method"] not in METHODS:
        raise DataError(f"{path}: holds {about['method']}; editing needs one of {', '.join(METHODS)}")
    if not 0 <= member < len(posterior):
        raise DataError(f"{path}: has no member {member}, but {len(posterior)}, counted from 0")
    # what was learned beside the photos is not needed any more
    said = {name: value for name, value in about["settings"].items() if name != "others"}
    said |= {name: tuple(value) for name, value in said.items() if isinstance(value, list)}
    method = METHODS[about["method"]](Subject(**about["subject"]), **said)
    return method, {name: value[None] for name, value in posterior[member].items()}


def masks_shown(edited: nima.Edited) -> UInt8[np.ndarray, "n height width 3"]:
    """Give the masks as pictures of the photos' size, white where something was painted anew.

    >>> half = torch.eye(2, dtype=torch.bool)[None]
    >>> one = nima.Edited(np.zeros((1, 4, 4, 3), np.uint8), half, torch.zeros(1, 4, 2, 2))
    >>> masks_shown(one)[0, :, 0, 0].tolist()
    [255, 255, 0, 0]
    """
    size = edited.pixels.shape[1:3]
    large = torch.nn.functional.interpolate(edited.mask[:, None].float(), size, mode="nearest")
    return np.repeat((255 * large[:, 0, :, :, None]).cpu().numpy().astype(np.uint8), 3, axis=3)


def _caption(config: Config, subject: Subject, found: photos.Photos) -> str:
    if config.caption is not None:
        return config.caption
    if found.captions[0] is not None:
        return found.captions[0]
    return World()(found.pixels, subject.superclass)[0] if config.base is None else "{subject}"


@contextmanager
def _progress(pipe: Any, total: int) -> Iterator[None]:
    """Move a bar on whenever the U-Net has been evaluated."""
    with bar("editing", total=total) as advance:
        hook = pipe.unet.register_forward_hook(lambda *_: advance())
        try:
            yield
        finally:
            hook.remove()


def _save(
    config: Config, caption: str, prompts: list[str], before: np.ndarray, edited: nima.Edited, seconds: float
) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    sections, found, masks = [], {}, masks_shown(edited)
    for k, prompt in enumerate(prompts):
        Image.fromarray(edited.pixels[k]).save(config.out / f"edit_{k}.png")
        Image.fromarray(masks[k]).save(config.out / f"mask_{k}.png")
        share = float(edited.mask[k].float().mean())
        found[prompt] = {"painted": share}
        strip = plots.photo_strip(np.stack([before[k], masks[k], edited.pixels[k]]), ("before", "mask", "after"))
        sections.append(page.section(prompt, page.figure(strip, f"{share:.0%} of the photo was painted anew.")))
    page.write(
        config.out,
        "A photo, edited",
        f"The photo was said to show: {caption}. What is white in a mask was painted anew; all else is the photo's.",
        *sections, verb="edit", config=config, seconds=seconds,
    )  # fmt: skip
    save_json(
        config.out / "results.json", {"config": page.numbers(config), "seconds": round(seconds, 1), "prompts": found}
    )
