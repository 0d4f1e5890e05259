"""The `personalize` command: photos in; a personalization, pictures and a page out."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import generate, masks, photos, pipelines
from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.diffusion.adapters.dual_pivot.method import DualPivot
from bayes_persona.errors import DataError, needs_extra
from bayes_persona.files import save_json
from bayes_persona.persona import concentration, dual, lipe, methods, page, report, scorers, uncertainty
from bayes_persona.persona import verdict as verdicts
from bayes_persona.persona.config import Config
from bayes_persona.persona.learned import Learned
from bayes_persona.persona.opened import opened
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.persona.soup import soup
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar
from bayes_persona.seeds import child

with needs_extra("diffusion"):
    from PIL import Image

PERSONALIZATION, SOUP = "personalization.safetensors", "soup.safetensors"


Part = Callable[[Config, Learned, Console], tuple[dict[str, Any], str]]
"""A part of the page: what it finds, for `results.json`, and how it is shown."""


def run(config: Config, console: Console) -> dict[str, Any]:
    """Personalize, print what happens, write `personalization.safetensors`, pictures, `results.json`, `index.html`."""
    return learn(config, console)[1]


def learn(config: Config, console: Console) -> tuple[Learned, dict[str, Any]]:
    """Do what `run` does, and give who was learned as well."""
    started = time.perf_counter()
    pipe, judge = opened(config.base, config.held), scorers.usual(config.base, config.judge)
    subject = methods.subject(config)
    _warn(config, pipe, [subject.prompt(text) for text in config.prompts], console)
    found = _photos(config, pipe, console)
    shown = _shown(config, pipe, found)
    adapter = methods.adapter(config, pipe, subject, shown)
    parts = _parts(config, judge, adapter)
    alpha, said, words = _alpha(config, pipe, adapter, shown)
    body = [report.photos(shown.pixels, found.skipped), words]
    console.print(f"{len(shown.pixels)} photos, {config.particles} members, {config.steps} steps, α = {alpha:g} …")
    posterior = _drawn(config, pipe, adapter, shown, replace(_draw(config), alpha=alpha))
    about = {"base": pipelines.fingerprint(pipe), "alpha": alpha, "seed": config.seed}
    adapters.save(config.out / PERSONALIZATION, adapter, posterior, **about)
    if len(posterior) > 1:
        adapters.save(config.out / SOUP, adapter, soup(posterior), **about)
    guidance = (3.0 if config.base is None else 7.5) if config.guidance is None else config.guidance
    learned = Learned(pipe, adapter, posterior, shown, generate.Config(config.sampling, guidance), judge)
    for part in parts:
        told, words = part(config, learned, console)
        said |= told
        body.append(words)
    seconds = time.perf_counter() - started
    worth = "1 photo" if alpha == 1 else f"{alpha:g} photos"
    page.write(
        config.out,
        f"A posterior over one {config.superclass}",
        f"{len(shown.pixels)} photos, {config.particles} members by {config.method.replace('_', ' ')}, and a prior "
        f"that is worth {worth}. Where the members differ, the photos leave the person open; more photos would "
        "narrow it.",
        *body, verb="personalize", config=config, seconds=seconds,
    )  # fmt: skip
    save_json(config.out / "results.json", {"config": page.numbers(config), "seconds": round(seconds, 1), **said})
    console.print(f"{seconds:.0f} seconds. Open [bold]{escape(str(config.out / 'index.html'))}[/bold]")
    return learned, said


def _photos(config: Config, pipe: Any, console: Console) -> photos.Photos:
    found = photos.read(config.photos, pipelines.size(pipe))
    for name, reason in found.skipped:
        console.print(f"[yellow]skipped[/yellow] {escape(name)}: {escape(reason)}")
    return found


def _shown(config: Config, pipe: Any, found: photos.Photos) -> Shown:
    if config.method == "lipe":
        captions = lipe.said(found, config.superclass, embedded=config.base is None)
    else:
        captions = tuple("{subject}" if caption is None else caption for caption in found.captions)
    where = masks.read(config.photos, found.names, pipelines.size(pipe))
    if where is None and config.segmenter is not None:
        where = masks.ClipSeg(config.segmenter)(found.pixels, config.superclass)
    return Shown(found.pixels, captions, where)


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


def _draw(config: Config) -> Draw:
    return Draw(
        particles=config.particles,
        base_measure=config.base_measure,
        steps=config.steps,
        snr=config.snr,
        rate=methods.rate(config),
    )


def _alpha(config: Config, pipe: Any, adapter: Adapter, shown: Shown) -> tuple[float, dict[str, Any], str]:
    """Give what the prior is worth, and how that was found if it was not said."""
    if config.alpha != "held-out":
        return config.alpha, {}, ""
    chosen = concentration.choose(
        pipe, adapter, shown, config=_draw(config), seed=config.seed, folder=config.out / "run" / "held-out",
        title="leaving photos out",
    )  # fmt: skip
    losses = dict(zip(map(str, chosen.alphas), chosen.losses.mean(axis=0).tolist(), strict=True))
    return chosen.alpha, {"alpha": {"chosen": chosen.alpha, "losses": losses}}, report.concentration(chosen)


def _drawn(config: Config, pipe: Any, adapter: Adapter, shown: Shown, draw: Draw) -> Posterior:
    where: Any = {"seed": config.seed, "folder": config.out / "run", "title": "personalizing"}
    if isinstance(adapter, DualPivot):
        second = dual.Config()
        return dual.fit(pipe, adapter, shown, draw, replace(second, steps=min(second.steps, config.steps)), **where)
    return personalize(pipe, adapter, shown, draw, **where)


def _parts(config: Config, judge: Any, adapter: Adapter) -> list[Part]:
    """Give what comes after training; what it needs is missed now, and not in an hour."""
    parts: list[Part] = [_prompts] if judge is None or config.particles < 2 else [_verdict, _prompts]
    if config.tune:
        from bayes_persona.persona import turning

        parts.append(partial(turning.part, earlier=turning.earlier(config, adapter)))
    return parts


def _prompts(config: Config, learned: Learned, console: Console) -> tuple[dict[str, Any], str]:
    """Make, keep and show the pictures of every prompt."""
    found, sections = {}, []
    with bar("pictures", total=len(config.prompts)) as advance:
        for number, text in enumerate(config.prompts):
            members, averaged = _pictures(config, learned, number, text)
            prompt, spread = learned.adapter.subject.prompt(text), float((members / 255).std(axis=0).mean())
            found[prompt] = {"disagreement": spread}
            console.print(f"{escape(prompt)}: members disagree by {spread:.3f} a pixel")
            sections.append(report.prompt(prompt, members, averaged))
            advance(disagreement=spread)
    return {"prompts": found}, "".join(sections)


def _pictures(config: Config, learned: Learned, number: int, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Give every member's pictures, and the model average's."""
    pipe, adapter, posterior = learned.pipe, learned.adapter, learned.posterior
    start = generate.noise(pipe, config.pictures, child(config.seed, "pictures"))
    members = uncertainty.pictures(pipe, adapter, posterior, text, start, learned.sampling)
    averaged = uncertainty.averaged(pipe, adapter, posterior, [text] * len(start), start, learned.sampling)
    folder = config.out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for k, picture in enumerate(averaged):
        Image.fromarray(picture).save(folder / f"prompt{number}_average_{k}.png")
        for member, pictures in enumerate(members):
            Image.fromarray(pictures[k]).save(folder / f"prompt{number}_member{member}_{k}.png")
    return members, averaged


def _verdict(config: Config, learned: Learned, console: Console) -> tuple[dict[str, Any], str]:
    """Say whether the person is known, and which photo would help most."""
    found = verdicts.judge(
        learned.pipe, learned.adapter, learned.posterior, learned.shown.pixels,
        verdicts.SITUATIONS if config.base is None else verdicts.WEB_SITUATIONS,
        seed=child(config.seed, "verdict"), reader=learned.judge.vectors, config=learned.sampling, title="verdict",
    )  # fmt: skip
    console.print(escape(found.text))
    said = {"text": found.text, "dispersion": found.dispersion, "situations": found.situations}
    return {"verdict": said}, report.verdict(found, borrowed=config.base is not None)
