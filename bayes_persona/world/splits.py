"""Who is for training and who is held out, and an endless stream of captioned scenes of either sort.

Held-out identities and held-out combinations of attributes are disjoint from the others by construction, whatever the
seeds. The cube of identities is cut into cells, each factor into four; where the cell's numbers add up to a multiple of
eight, it is held out. Combinations of attributes likewise: one in ten, but every pair of values is seen in training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from bayes_persona import ranges
from bayes_persona.errors import ConfigError
from bayes_persona.seeds import generator
from bayes_persona.world import facts
from bayes_persona.world.captions import caption
from bayes_persona.world.draw import Identity, Picture, Scene, Subject, render

Part = Literal["base", "held out"]
CELLS = 4
"""Into how many cells the lattice cuts each factor."""
FOLDS = 8
"""One of so many cells belongs to the held-out identities."""
EVERY = 10
"""One of so many combinations of attributes is held out."""


@dataclass(frozen=True)
class Config:
    """How a stream of examples is mixed.

    Raises:
        ConfigError: If a share is not between 0 and 1.

    >>> Config(pairs=1.5)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: pairs: expected 0 to 1, got 1.5
    """

    named: float = 0.5
    """Share of subjects who are one of the named identities, and called by name."""
    pairs: float = 0.3
    """Share of scenes with two subjects."""
    drop: float = 0.1
    """How likely each phrase of a caption that may be left out is left out."""
    world: int = 0
    """Names who the named identities are; models trained on one world do not know those of another."""

    def __post_init__(self):
        ranges.share(self, "named", "pairs", "drop")


class Example(NamedTuple):
    """A scene, what a caption says of it, and the seed that it is drawn with.

    >>> sample(Config(), 0, seed=0).render().pixels.shape
    (64, 64, 3)
    """

    scene: Scene
    names: tuple[str | None, ...]
    caption: str
    seed: int

    def render(self, size: int = 64) -> Picture:
        """Draw it."""
        return render(self.scene, self.seed, size)


def named(seed: int = 0) -> Mapping[str, Identity]:
    """Give the named identities of a world: two-word names, both words in the vocabulary, as many of each superclass.

    First words say the superclass, last words do not; two identities share every first word, and two every last word.

    >>> len(named()), named()["ada finch"].superclass
    (240, 'woman')
    """
    return _named(seed)


def base(n: int, seed: int) -> tuple[Identity, ...]:
    """Give identities for training, superclasses in turn.

    >>> [who.superclass for who in base(5, seed=0)]
    ['man', 'woman', 'cat', 'robot', 'man']
    """
    return _identities(n, seed, "base")


def held_out(n: int, seed: int) -> tuple[Identity, ...]:
    """Give identities that no training stream ever holds, superclasses in turn.

    >>> all(is_held_out(who) for who in held_out(8, seed=0)) and not any(is_held_out(who) for who in base(8, seed=0))
    True
    """
    return _identities(n, seed, "held out")


def is_held_out(thing: Identity | Scene) -> bool:
    """Say whether an identity, or a scene's combination of attributes, is kept out of training.

    >>> me = Subject(base(1, seed=0)[0], pose="front")
    >>> is_held_out(me.identity), is_held_out(Scene((me,), "night")), is_held_out(Scene((me,), "beach"))
    (False, True, False)
    """
    if isinstance(thing, Identity):
        return sum(int(value * CELLS) for value in thing.z) % FOLDS == 0
    places = [facts.choices("background").index(thing.background)]
    for who in thing.subjects:
        places += [facts.choices(name).index(getattr(who, name)) for name in facts.ATTRIBUTES if name != "background"]
    return sum(places) % EVERY == 0


def sample(config: Config, i: int, *, seed: int, part: Part = "base") -> Example:
    """Give example `i` of an endless stream; it depends on nothing but the arguments.

    Args:
        config: The mixture.
        i: Which example.
        seed: Names the stream.
        part: In `"base"`, neither identities nor combinations of attributes are held out; in `"held out"` both are, but
            for the named identities, who are always those of the world.

    >>> sample(Config(), 7, seed=0).caption == sample(Config(), 7, seed=0).caption
    True
    """
    rng = generator(seed, "example", part, i)
    count = 2 if rng.random() < config.pairs else 1
    pick = rng.choice(len(named(config.world)), size=count, replace=False)
    names = tuple(tuple(named(config.world))[k] if rng.random() < config.named else None for k in pick.tolist())
    kinds = facts.superclasses()
    who = [
        _identity(kinds[int(rng.integers(len(kinds)))], rng, part) if name is None else named(config.world)[name]
        for name in names
    ]
    return _example(who, names, rng, part, config.drop)


def photos(identity: Identity, n: int, *, seed: int) -> tuple[Example, ...]:
    """Give `n` pictures of one identity in different situations: what a personalization method is shown.

    Captions call the subject by its superclass and leave nothing out.

    >>> me = held_out(1, seed=0)[0]
    >>> {example.scene.subjects[0].identity == me for example in photos(me, 4, seed=0)}
    {True}
    """
    return tuple(
        _example([identity], (None,), generator(seed, "photo", identity.superclass, repr(identity.z), k), "base", 0.0)
        for k in range(n)
    )


@cache
def _named(seed: int) -> Mapping[str, Identity]:
    table = facts.table("names")
    firsts = [(kind, first) for kind, words in table["first"].items() for first in words]
    order = generator(seed, "last words").permutation(len(table["last"]))
    people = {}
    for turn in range(2):
        for k, (kind, first) in enumerate(firsts):
            # Half the list further on in the second turn, so that no pair of words comes back.
            last = table["last"][order[(k + turn * len(order) // 2) % len(order)]]
            name = f"{first} {last}"
            people[name] = _identity(kind, generator(seed, "named", name), "base")
    return MappingProxyType(people)


def _identities(n: int, seed: int, part: Part) -> tuple[Identity, ...]:
    if n < 0:
        raise ConfigError(f"n: expected a number of identities, got {n}")
    kinds = facts.superclasses()
    return tuple(_identity(kinds[k % len(kinds)], generator(seed, part, k), part) for k in range(n))


def _identity(superclass: str, rng: np.random.Generator, part: Part) -> Identity:
    while True:
        who = Identity(superclass, tuple(rng.random(len(facts.factors())).tolist()))
        if is_held_out(who) == (part == "held out"):
            return who


def _example(
    who: list[Identity], names: tuple[str | None, ...], rng: np.random.Generator, part: Part, drop: float
) -> Example:
    while True:
        scene = Scene(tuple(Subject(one, **_attributes(rng)) for one in who), _any("background", rng))
        if is_held_out(scene) == (part == "held out"):
            break
    seed = int(rng.integers(2**63))
    return Example(scene, names, caption(scene, names, seed=seed, drop=drop), seed)


def _attributes(rng: np.random.Generator) -> dict[str, str]:
    return {name: _any(name, rng) for name in facts.ATTRIBUTES if name != "background"}


def _any(attribute: str, rng: np.random.Generator) -> str:
    among = facts.choices(attribute)
    return among[int(rng.integers(len(among)))]
