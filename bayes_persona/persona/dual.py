"""Dual-Pivot Tuning as a posterior: the same bootstrap twice, one pivot after the other, all members in one pass."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bayes_persona import ranges
from bayes_persona.diffusion import degrade
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.dual_pivot.method import DualPivot
from bayes_persona.diffusion.restoration import guide as guides
from bayes_persona.errors import ConfigError
from bayes_persona.persona.base_measure import Shown, generated
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import personalize
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child
from bayes_persona.world import degraded


@dataclass(frozen=True)
class Config:
    """How both pivots are found, besides what is said of the posterior.

    Raises:
        ConfigError: If a number is too small.

    >>> Config(steps=0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: steps: expected at least 1, got 0
    """

    first: Literal["in context", "out of context"] = "in context"
    """Whether the generator learns with the guide attached, as the paper draws it, or without, as its code does."""
    text: Literal["fixed", "captions"] = "fixed"
    """What the generator is told: the same of every picture, as the paper, or each photo's caption."""
    second: Literal["anyone", "person"] = "anyone"
    """Whose pictures the guide learns on: other people's, as the paper says, or the person's own photos, as the authors
    advise users of their code."""
    steps: int = 40
    """Steps of the second pivot; for none, call `first_pivot` alone."""
    rate: float = 1e-3
    """Its learning rate: a fifth of the first's, for at the same rate the guide learns to talk the generator out of the
    person."""
    pictures: int = 16
    """Pictures of anyone that the base model makes for it, where none are given."""

    def __post_init__(self):
        ranges.at_least(self, 1, "steps", "pictures")
        ranges.positive(self, "rate")


def method(pipe: Any, subject: Subject, folder: Path | None = None, *, embedded: bool) -> DualPivot:
    """Give the method for a pipeline, with damage that suits the size of its pictures.

    Args:
        pipe: The base model.
        subject: Who is learned.
        folder: Of its guide.
        embedded: Whether the pipeline is the embedded one, which has a guide of its own.

    Raises:
        ConfigError: If another model has no guide.

    >>> method(None, Subject("person"), embedded=False)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: guide: this model needs one to restore photos; give the folder of its guide
    """
    if folder is None and not embedded:
        raise ConfigError("guide: this model needs one to restore photos; give the folder of its guide")
    ranges = degraded.small() if embedded else degrade.Config()
    return DualPivot(subject, guides.load(pipe, folder), damage=ranges)


def fit(
    pipe: Any,
    method: DualPivot,
    photos: Shown,
    draw: Draw | None = None,
    config: Config | None = None,
    *,
    anyone: Shown | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    title: str | None = None,
) -> Posterior:
    """Find the first pivot and then the second.

    Args:
        pipe: The base model.
        method: The method; its own stage does not matter.
        photos: Clear photos of the person; they are damaged on the way.
        draw: Members, weights, steps and rate of the first pivot.
        config: How.
        anyone: Pictures of other people for the second pivot; None has the base model make them.
        seed: Names the run.
        folder: Where to keep checkpoints; a run that was killed goes on from there.
        title: Name beside the progress bars; None shows none.

    >>> import numpy as np
    >>> from bayes_persona.diffusion.pipelines import load
    >>> from bayes_persona.diffusion.restoration.guide import Guide
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",))
    >>> quick, pipe = Draw(particles=1, steps=1, rows=1, alpha=0.0), load()
    >>> method = DualPivot(Subject("robot"), Guide.of(pipe))
    >>> len(fit(pipe, method, black, quick, Config(steps=1), anyone=black))
    1
    """
    draw, config = Draw() if draw is None else draw, Config() if config is None else config
    found = first_pivot(pipe, method, photos, draw, config, seed=seed, folder=folder, title=title)
    return second_pivot(pipe, method, found, photos, draw, config, anyone=anyone, seed=seed, folder=folder, title=title)


def first_pivot(
    pipe: Any,
    method: DualPivot,
    photos: Shown,
    draw: Draw,
    config: Config,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    title: str | None = None,
) -> Posterior:
    """Teach the generator the person; the guide stays as it is.

    >>> import numpy as np
    >>> from bayes_persona.diffusion.pipelines import load
    >>> black, pipe = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",)), load()
    >>> quick, learns = Draw(particles=1, steps=1, rows=1, alpha=0.0), method(pipe, Subject("robot"), embedded=True)
    >>> found = first_pivot(pipe, learns, black, quick, Config())
    >>> {name.partition(".")[0] for name, value in found[0].items() if name.endswith("up") and value.any()}
    {'generator'}
    """
    one = replace(method, stage="generator" if config.first == "in context" else "generator alone")
    shown = photos if config.text == "captions" else _all_called(photos)
    place = None if folder is None else Path(folder) / "generator"
    return personalize(pipe, one, shown, draw, seed=child(seed, "generator"), folder=place, title=_titled(title, "1"))


def second_pivot(
    pipe: Any,
    method: DualPivot,
    start: Posterior,
    photos: Shown,
    draw: Draw,
    config: Config,
    *,
    anyone: Shown | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    title: str | None = None,
) -> Posterior:
    """Teach the guide to be understood by each member's generator, which stays as it is.

    >>> import numpy as np
    >>> from bayes_persona.diffusion.pipelines import load
    >>> black, pipe = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",)), load()
    >>> quick, learns = Draw(particles=1, steps=1, rows=1, alpha=0.0), method(pipe, Subject("robot"), embedded=True)
    >>> found = first_pivot(pipe, learns, black, quick, Config())
    >>> both = second_pivot(pipe, learns, found, black, quick, Config(steps=1), anyone=black)
    >>> sorted({name.partition(".")[0] for name, value in both[0].items() if name.endswith("up") and value.any()})
    ['generator', 'guide']
    """
    if config.second == "person":
        anyone = photos
    elif anyone is None:
        anyone = generated(pipe, method.subject, photos.captions, config.pictures, child(seed, "anyone"))
    plain = replace(draw, steps=config.steps, rate=config.rate, alpha=0.0, weights="even")
    place = None if folder is None else Path(folder) / "guide"
    return personalize(
        pipe,
        replace(method, stage="guide"),
        _all_called(anyone),  # anyone is told of as the person is: what the guide says is then all that differs
        plain,
        start=start,
        seed=child(seed, "guide"),
        folder=place,
        title=_titled(title, "2"),
    )


def _all_called(shown: Shown) -> Shown:
    return shown._replace(captions=("{subject}",) * len(shown.pixels))


def _titled(title: str | None, pivot: str) -> str | None:
    return None if title is None else f"{title}, pivot {pivot}"
