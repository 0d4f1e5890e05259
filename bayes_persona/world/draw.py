"""From a scene, which says what there is, and a seed, which says the rest, to a picture with exact masks.

A subject is who (`Identity`), what it does (expression, pose) and what it wears (clothing, accessory); a scene is up to
two subjects before a background. The seed sets what no caption mentions: place, size and tilt of the subjects, who
stands in front, and the details of the background.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from bayes_persona.errors import ConfigError
from bayes_persona.seeds import generator
from bayes_persona.world import facts, scenery
from bayes_persona.world.accessories import accessory
from bayes_persona.world.anatomy import Act
from bayes_persona.world.canvas import Canvas, Pen, pen
from bayes_persona.world.parts import part

SMALLEST = 16
"""Pixels a side, below which a face is a blur."""


@dataclass(frozen=True)
class Identity:
    """Who somebody is: a superclass, and a place in the cube of identity factors.

    Raises:
        ConfigError: If there is no such superclass, or `z` has the wrong length or leaves [0, 1].

    >>> Identity("cat", (0.5,) * 12).superclass
    'cat'
    >>> Identity("cat", (0.5,) * 11)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: z: expected 12 numbers, one for each of facts.factors(), got 11
    """

    superclass: str
    """One of `facts.superclasses()`."""
    z: tuple[float, ...]
    """One number in [0, 1] for each of `facts.factors()`; those that are not `facts.visible` change nothing."""

    def __post_init__(self):
        facts.require_choice("superclass", self.superclass, facts.superclasses())
        names = facts.factors()
        if len(self.z) != len(names):
            raise ConfigError(f"z: expected {len(names)} numbers, one for each of facts.factors(), got {len(self.z)}")
        for name, value in zip(names, self.z, strict=True):
            if not 0 <= value <= 1:  # NaN is outside too
                raise ConfigError(f"z: {name!r} is {value}, outside [0, 1]; clip it")


@dataclass(frozen=True)
class Subject:
    """Somebody doing and wearing something.

    Raises:
        ConfigError: If an attribute has no such value.

    >>> Subject(Identity("cat", (0.5,) * 12), pose="up")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: pose: there is no 'up'; choose from left, front, right
    """

    identity: Identity
    expression: str = "calm"
    pose: str = "front"
    clothing: str = "blue"
    accessory: str = "none"

    def __post_init__(self):
        for attribute in ("expression", "pose", "clothing", "accessory"):
            facts.require_choice(attribute, getattr(self, attribute), facts.choices(attribute))


@dataclass(frozen=True)
class Scene:
    """Up to two subjects, from left to right, before a background.

    Without a subject it is the background alone, which tells what the subjects of another scene cover.

    Raises:
        ConfigError: If there are more than two subjects, or no such background.

    >>> Scene((), background="beach").subjects
    ()
    """

    subjects: tuple[Subject, ...]
    background: str = "meadow"

    def __post_init__(self):
        if len(self.subjects) > 2:
            raise ConfigError(f"subjects: a scene holds at most 2, got {len(self.subjects)}")
        facts.require_choice("background", self.background, facts.choices("background"))


class Picture(NamedTuple):
    """What a scene looks like, and which pixels show which subject, on more than half of their area.

    >>> render(Scene(()), seed=0).masks.shape
    (0, 64, 64)
    """

    pixels: UInt8[np.ndarray, "size size 3"]
    masks: Bool[np.ndarray, "subjects size size"]


def render(scene: Scene, seed: int, size: int = 64) -> Picture:
    """Draw a scene.

    Args:
        scene: What there is.
        seed: Names all that the scene leaves open. With one seed, scenes that differ in one thing differ there alone.
        size: Pixels a side.

    Raises:
        ConfigError: If `size` is too small to show a face.

    >>> somebody = Subject(Identity("robot", (0.5,) * 12), clothing="red")
    >>> picture = render(Scene((somebody,)), seed=0)
    >>> picture.pixels.shape, picture.masks.shape, bool(0.2 < picture.masks.mean() < 0.6)
    ((64, 64, 3), (1, 64, 64), True)
    """
    if size < SMALLEST:
        raise ConfigError(f"size: expected at least {SMALLEST} pixels a side, got {size}")
    canvas = Canvas(size)
    scenery.paint(canvas, scene.background, generator(seed, "background"))
    places = range(len(scene.subjects))
    # Who is drawn last stands in front.
    swap = len(places) == 2 and generator(seed, "order").random() < 0.5
    for place in reversed(places) if swap else places:
        _draw(_placed(canvas, place, len(places), seed), scene.subjects[place])
    masks = [canvas.mask(place + 1) for place in places]
    return Picture(canvas.pixels(), np.array(masks, dtype=bool).reshape(-1, size, size))


def _placed(canvas: Canvas, place: int, subjects: int, seed: int) -> Pen:
    """Give the pen of the subject at a place: its owner number, where it stands, its size and its tilt."""
    placement = facts.table("subjects")["placement"]
    spot, jitter = placement["two" if subjects == 2 else "one"], placement["jitter"]
    dx, dy, grow, tilt = generator(seed, "placement", place).uniform(-1, 1, size=4)
    return pen(
        canvas,
        owner=place + 1,
        x=spot["x"][place] + dx * jitter["x"],
        y=spot["y"] + dy * jitter["y"],
        scale=spot["scale"] * (1 + grow * jitter["scale"]),
        tilt=tilt * jitter["tilt"],
    )


def _draw(own: Pen, subject: Subject) -> None:
    identity, of = subject.identity, facts.table("subjects")
    act = Act(
        mood=of["expressions"][subject.expression],
        yaw=of["poses"][subject.pose],
        clothing=facts.rgb(of["clothing"][subject.clothing]),
    )
    look = facts.look(identity.superclass, identity.z)
    for name in facts.parts(identity.superclass):
        part(name)(own, look, act)
    accessory(subject.accessory)(own, look, act)
