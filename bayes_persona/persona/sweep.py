"""The `sweep` command: a subject of Perfusion at many gates, and the front between who it is and what was asked."""

import time
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.markup import escape

from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import generate, photos, pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.files import save_json
from bayes_persona.persona import page, plots, scorers
from bayes_persona.persona.opened import opened
from bayes_persona.persona.scorers import Scorer
from bayes_persona.persona.sweep_config import Config
from bayes_persona.pictures import COLOURS, QUIET, axes
from bayes_persona.progress import bar
from bayes_persona.seeds import child

with needs_extra("diffusion"):
    import torch
    from matplotlib.figure import Figure


class Point(NamedTuple):
    """One gate, and the mean scores of its pictures.

    >>> Point(0.5, 0.15, identity=0.9, prompt=0.8).beta
    0.5
    """

    beta: float
    tau: float
    identity: float
    prompt: float


def run(config: Config, console: Console) -> list[Point]:
    """Draw pictures at every gate, judge them, write the front and the pictures.

    Raises:
        ConfigError: If pictures of a model of the user's own have no judge.
        DataError: If the file is of another method, or has no such member.
        MismatchError: If it was trained on another base model.

    >>> from pathlib import Path
    >>> run(Config(Path("nowhere.safetensors"), Path("photos")), Console(quiet=True))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere.safetensors: there is no such file
    """
    started = time.perf_counter()
    pipe = opened(config.base, config.held)
    posterior, about = adapters.load(config.file, base=pipelines.fingerprint(pipe))
    if about["method"] != "perfusion":
        raise DataError(f"{config.file}: holds {about['method']}, which has no gate to turn; sweep Perfusion")
    if not 0 <= config.member < len(posterior):
        raise DataError(f"{config.file}: has no member {config.member}, but {len(posterior)}, counted from 0")
    scorer = scorers.usual(config.base, config.clip)
    if scorer is None:
        raise ConfigError("clip: pictures of this model need a judge; give the folder of a CLIP model")
    subject = Perfusion(Subject(**about["subject"]), **about["settings"])
    known = photos.read(config.photos, pipelines.size(pipe)).pixels
    member = {name: value[None] for name, value in posterior[config.member].items()}
    points, shown = [], []
    with bar("sweep", total=len(config.betas) * len(config.taus)) as advance:
        for tau, beta in product(config.taus, config.betas):
            at = replace(subject, beta=beta, tau=tau)
            pixels, plain = _pictures(config, pipe, at, member)
            scores = scorer(pixels, plain, known)
            points.append(Point(beta, tau, float(scores.identity.mean()), float(scores.prompt.mean())))
            shown.append(pixels[:: config.pictures])
            advance(identity=points[-1].identity, prompt=points[-1].prompt)
    config.out.mkdir(parents=True, exist_ok=True)
    front(points, scorer).savefig(config.out / "pareto.png", dpi=150)
    _sheet(points, shown).savefig(config.out / "pictures.png", dpi=150)
    seconds, found = round(time.perf_counter() - started, 1), [point._asdict() for point in points]
    save_json(config.out / "results.json", {"config": page.numbers(config), "seconds": seconds, "points": found})
    console.print(f"{len(points)} gates. Open [bold]{escape(str(config.out / 'pareto.png'))}[/bold]")
    return points


def front(points: list[Point], scorer: Scorer) -> Figure:
    """Draw the points, a line for each softness, and ring those that no other point beats in both numbers.

    >>> len(front([Point(0.3, 0.15, 0.9, 0.7), Point(0.7, 0.15, 0.8, 0.9)], scorers.Oracle()).axes)
    1
    """
    ax = axes(None, "The gate trades who it is for what was asked for", size=(6.4, 4.4))
    ax.grid(color="#e2e5ea", linewidth=0.8)
    for number, tau in enumerate(dict.fromkeys(point.tau for point in points)):
        own, colour = [point for point in points if point.tau == tau], COLOURS[number % len(COLOURS)]
        ax.plot([p.prompt for p in own], [p.identity for p in own], color=colour, marker="o", label=f"τ = {tau:g}")
        for point in own:
            at = {"xytext": (6, 5), "textcoords": "offset points", "fontsize": 9, "color": colour}
            ax.annotate(f"β = {point.beta:g}", (point.prompt, point.identity), **at)
    best = pareto(points)
    rings = {"s": 130, "facecolors": "none", "edgecolors": QUIET, "label": "not beaten in both"}
    ax.scatter([p.prompt for p in best], [p.identity for p in best], **rings)
    ax.set(xlabel=scorer.prompt, ylabel=scorer.identity)
    ax.legend(frameon=False, fontsize=9)
    figure = ax.figure
    assert isinstance(figure, Figure)
    return figure


def pareto(points: list[Point]) -> list[Point]:
    """Give the points that no other is at least as good as in both numbers and better in one.

    >>> [point.beta for point in pareto([Point(1, 1, 0.9, 0.7), Point(2, 1, 0.8, 0.9), Point(3, 1, 0.8, 0.6)])]
    [1, 2]
    """

    def beaten(mine: Point) -> bool:
        return any(
            other.identity >= mine.identity and other.prompt >= mine.prompt and other[2:] != mine[2:]
            for other in points
        )

    return [point for point in points if not beaten(point)]


def _pictures(
    config: Config, pipe: Any, subject: Perfusion, params: Any
) -> tuple[UInt8[np.ndarray, "n h w 3"], list[str]]:
    """Give the pictures of every prompt, and what the prompts say of anyone."""
    texts = [text for text in config.prompt or ("{subject}",) for _ in range(config.pictures)]
    prompts = [subject.subject.prompt(text) for text in texts]
    start = generate.noise(pipe, len(prompts), child(config.seed, "sweep"))
    sampling = generate.Config(guidance=3.0 if config.base is None else 7.5)
    with subject.attached(pipe, params, torch.zeros(1, dtype=torch.long)):
        pixels = generate.sample(pipe, prompts, start, sampling)
    return pixels, [subject.subject.anyone(text) for text in texts]


def _sheet(points: list[Point], shown: list[np.ndarray]) -> Figure:
    """Show each prompt's first picture at every gate, a row a prompt."""
    rows, columns = len(shown[0]), len(points)
    figure = Figure(figsize=(1.5 * columns, 1.6 * rows + 0.3), layout="constrained")
    for column, (point, pixels) in enumerate(zip(points, shown, strict=True)):
        for row, picture in enumerate(pixels):
            title = f"β = {point.beta:g}, τ = {point.tau:g}" if row == 0 else ""
            plots.show(figure.add_subplot(rows, columns, row * columns + column + 1), picture, title)
    return figure
