"""The `personalize` command: photos in; a personalization, pictures and a page out."""

import html
import os
import platform
import shlex
import time
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from bayes_persona import __version__
from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import generate, masks, photos, pipelines
from bayes_persona.diffusion.adapter import Adapter, Subject
from bayes_persona.diffusion.adapters.dual_pivot.method import DualPivot
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.errors import DataError, needs_extra
from bayes_persona.files import save_json, write
from bayes_persona.persona import celebrities, dual, lipe, plots, uncertainty
from bayes_persona.persona.config import Config
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.seeds import child

with needs_extra("diffusion"):
    from PIL import Image

RATES = {"textual_inversion": 2e-2, "low_rank": 1e-2, "perfusion": 5e-3, "celeb_basis": 2e-2}
RATES |= {"lipe": 1e-2, "dual_pivot": 5e-3}
"""Learning rates: what benchmarks/world.py found good for the first two, and first guesses for the others."""
EMBEDDED, WEB = "{token} the {superclass}", "{token} {superclass}"
"""How a prompt names the subject: in the embedded model's grammar, and for models of the web's captions."""


def run(config: Config, console: Console) -> dict[str, Any]:
    """Personalize, print what happens, write `personalization.safetensors`, pictures and `index.html`."""
    started = time.perf_counter()
    pipe = pipelines.load(config.base)
    subject = Subject(config.superclass, config.token, EMBEDDED if config.base is None else WEB)
    prompts = [
        subject.prompt(text) for text in config.prompts
    ]  # a prompt without a subject is found out before training
    _warn(config, pipe, prompts, console)
    shown, skipped = _photos(config, pipe, console)
    adapter = _adapter(config, pipe, subject, shown)
    draw = Draw(
        particles=config.particles,
        alpha=config.alpha,
        steps=config.steps,
        snr=config.snr,
        rate=RATES[config.method] if config.rate is None else config.rate,
    )
    console.print(f"{len(shown.pixels)} photos, {config.particles} members, {config.steps} steps …")
    where: Any = {"seed": config.seed, "folder": config.out / "run", "title": "personalizing"}
    if isinstance(adapter, DualPivot):
        second = dual.Config()
        second = replace(second, steps=min(second.steps, config.steps))
        posterior = dual.fit(pipe, adapter, shown, draw, second, **where)
    else:
        posterior = personalize(pipe, adapter, shown, draw, **where)
    place = config.out / "personalization.safetensors"
    adapters.save(place, adapter, posterior, base=pipelines.fingerprint(pipe), alpha=config.alpha, seed=config.seed)
    sampling = generate.Config(guidance=_guidance(config))
    start = generate.noise(pipe, config.pictures, child(config.seed, "pictures"))
    figures, numbers = [], {}
    for number, prompt in enumerate(prompts):
        members = uncertainty.pictures(pipe, adapter, posterior, prompt, start, sampling)
        averaged = uncertainty.averaged(pipe, adapter, posterior, [prompt] * len(start), start, sampling)
        _save_pictures(config, number, members, averaged)
        spread = float((members / 255).std(axis=0).mean())
        numbers[prompt] = {"disagreement": spread}
        console.print(f"{escape(prompt)}: members disagree by {spread:.3f} a pixel")
        figures.append(_section(prompt, plots.posterior(averaged, members), spread))
    seconds = time.perf_counter() - started
    _page(config, shown, skipped, figures, seconds)
    said = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    save_json(config.out / "results.json", {"config": said, "seconds": round(seconds, 1), "prompts": numbers})
    console.print(f"{seconds:.0f} seconds. Open [bold]{escape(str(config.out / 'index.html'))}[/bold]")
    return numbers


def _adapter(config: Config, pipe: Any, subject: Subject, shown: Shown) -> Adapter:
    if config.method == "celeb_basis":
        return celebrities.method(pipe, subject, shown.pixels, embedded=config.base is None)
    if config.method == "lipe":
        return lipe.method(pipe, subject, config.photos, config.out / "others", embedded=config.base is None)
    if config.method == "dual_pivot":
        return dual.method(pipe, subject, config.guide, embedded=config.base is None)
    return {"textual_inversion": TextualInversion, "low_rank": LowRank, "perfusion": Perfusion}[config.method](subject)


def _photos(config: Config, pipe: Any, console: Console) -> tuple[Shown, tuple[tuple[str, str], ...]]:
    found = photos.read(config.photos, pipelines.size(pipe))
    for name, reason in found.skipped:
        console.print(f"[yellow]skipped[/yellow] {escape(name)}: {escape(reason)}")
    if config.method == "lipe":
        captions = lipe.said(found, config.superclass, embedded=config.base is None)
    else:
        captions = tuple("{subject}" if caption is None else caption for caption in found.captions)
    where = masks.read(config.photos, found.names, pipelines.size(pipe))
    if where is None and config.segmenter is not None:
        where = masks.ClipSeg(config.segmenter)(found.pixels, config.superclass)
    return Shown(found.pixels, captions, where), found.skipped


def _warn(config: Config, pipe: Any, prompts: list[str], console: Console) -> None:
    """The embedded model reads a closed vocabulary; a word outside it falls into letters that mean nothing."""
    if config.base is not None:
        return
    words = {word for prompt in prompts for word in prompt.split()} - {config.token}
    unknown = sorted(word for word in words if len(pipe.tokenizer(word, add_special_tokens=False).input_ids) != 1)
    if config.superclass in unknown:
        raise DataError(f"superclass: the embedded model knows man, woman, cat and robot, not {config.superclass!r}")
    if unknown:
        console.print(
            f"[yellow]the embedded model does not know[/yellow] {escape(', '.join(unknown))}; see docs/world.md"
        )


def _guidance(config: Config) -> float:
    if config.guidance is not None:
        return config.guidance
    return 3.0 if config.base is None else 7.5


def _save_pictures(config: Config, prompt: int, members: np.ndarray, averaged: np.ndarray) -> None:
    folder = config.out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(averaged):
        Image.fromarray(picture).save(folder / f"prompt{prompt}_average_{number}.png")
        for k, pictures in enumerate(members):
            Image.fromarray(pictures[number]).save(folder / f"prompt{prompt}_member{k}_{number}.png")


def _section(prompt: str, figure: str, spread: float) -> str:
    caption = (
        "Every row begins with the same noise: what differs along it is the person. The first picture averages the "
        f"members' predictions at every step; the last shows where they part ({spread:.3f} of the range on average)."
    )
    return f"<h2>{html.escape(prompt)}</h2><figure>{figure}<figcaption>{caption}</figcaption></figure>"


def _page(config: Config, shown: Shown, skipped: tuple, figures: list[str], seconds: float) -> None:
    template = Template((files("bayes_persona.persona") / "assets" / "page.html").read_text())
    left_out = "".join(f"; left out: {html.escape(name)} ({html.escape(reason)})" for name, reason in skipped)
    page = template.substitute(
        superclass=html.escape(config.superclass),
        photos_count=len(shown.pixels),
        particles=config.particles,
        method=config.method.replace("_", " "),
        alpha=f"{config.alpha:g}",
        photos=plots.photo_strip(shown.pixels[:12]),
        skipped=left_out + ".",
        prompts="".join(figures),
        made=f"{seconds:.0f} seconds on {os.cpu_count()} cores ({platform.machine()}), version {__version__}",
        command=html.escape(_command(config)),
    )
    write(config.out / "index.html", page.encode())


def _command(config: Config) -> str:
    plain = Config(config.photos, config.superclass)
    words = ["bayes-persona", "personalize"]
    for name, value in asdict(config).items():
        if name in {"photos", "superclass"} or value != getattr(plain, name):
            for one in value if isinstance(value, tuple) else (value,):
                words += [f"--{name}", str(one)]
    return shlex.join(words)
