"""The closed language of the world: scenes to sentences, and every sentence back to what it says.

The rules of `grammar` are walked forwards by `caption` and backwards by `parse`, so they cannot disagree. The slots
`{left}` and `{right}` are subjects, and say where they stand; left and right are the viewer's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from bayes_persona.errors import ConfigError
from bayes_persona.seeds import generator
from bayes_persona.world import facts
from bayes_persona.world.draw import Scene
from bayes_persona.world.grammar import NOTHING, Group, Rule, Slot, is_name, phrase, rules, vocabulary

PLACES = {1: ("subject",), 2: ("left", "right")}
"""Which slots hold the subjects, by how many there are."""


@dataclass(frozen=True)
class Mention:
    """What a caption says of one subject; `None` is what it leaves open.

    >>> Mention("cat", pose="left").clothing is None
    True
    """

    superclass: str
    name: str | None = None
    expression: str | None = None
    pose: str | None = None
    clothing: str | None = None
    accessory: str = NOTHING


@dataclass(frozen=True)
class Description:
    """What a caption says: its subjects from left to right, and the background if it mentions one.

    >>> parse("a cat at night").background
    'night'
    """

    subjects: tuple[Mention, ...]
    background: str | None = None

    def allows(self, other: "Description") -> bool:
        """Say whether all that this description mentions holds in another.

        >>> parse("a cat at night").allows(parse("a sad cat facing left at night"))
        True
        >>> parse("a cat at night").allows(parse("a cat on the beach"))
        False
        """
        pairs = [(self.background, other.background)]
        for mine, theirs in zip(self.subjects, other.subjects, strict=False):
            pairs += [(getattr(mine, field.name), getattr(theirs, field.name)) for field in fields(Mention)]
        told = all(mine is None or mine == theirs for mine, theirs in pairs)
        return told and len(self.subjects) == len(other.subjects)


Told = dict[str, Any]


def caption(scene: Scene, names: Sequence[str | None] = (), *, seed: int, drop: float = 0.0) -> str:
    """Say what is in a scene, in one of the ways that the grammar has.

    Args:
        scene: One or two subjects before a background.
        names: For each subject its two-word name, or `None` to call it by its superclass; empty is `None` for all.
        seed: Names the choice of words.
        drop: How likely each phrase that may be left out is left out. Accessories never are: silence means none.

    Raises:
        ConfigError: If there is no subject, a name is not two known words, or names and subjects differ in number.

    >>> from bayes_persona.world.draw import Identity, Subject
    >>> ada = Subject(Identity("woman", (0.5,) * 12), expression="happy", clothing="red", accessory="hat")
    >>> text = caption(Scene((ada,), background="beach"), ["ada brook"], seed=1)
    >>> text
    'a picture of ada brook the woman looking happy with a hat wearing red facing front on the beach'
    >>> parse(text) == describe(Scene((ada,), background="beach"), ["ada brook"])
    True
    """
    told = describe(scene, names)
    values: Told = {"background": told.background}
    values |= dict(zip(PLACES[len(told.subjects)], told.subjects, strict=True))
    writer = _Writer(generator(seed, "caption"), drop)
    return " ".join(writer.say("one" if len(told.subjects) == 1 else "two", values))


def describe(scene: Scene, names: Sequence[str | None] = ()) -> Description:
    """Give all that a caption of a scene can say: what `parse` gives back when nothing was left out.

    Raises:
        ConfigError: As `caption`.

    >>> from bayes_persona.world.draw import Identity, Subject
    >>> describe(Scene((Subject(Identity("cat", (0.5,) * 12)),))).subjects[0].clothing
    'blue'
    """
    if not scene.subjects:
        raise ConfigError("scene: a caption needs a subject, this scene has none")
    names = names if len(names) else [None] * len(scene.subjects)
    if len(names) != len(scene.subjects):
        raise ConfigError(f"names: expected one for each of {len(scene.subjects)} subjects, got {len(names)}")
    for name in names:
        if name is not None and not is_name(name.split(" ")):
            raise ConfigError(f"names: {name!r} is not a first and a last word of data/names.json")
    mentions = [
        Mention(who.identity.superclass, name, who.expression, who.pose, who.clothing, who.accessory)
        for who, name in zip(scene.subjects, names, strict=True)
    ]
    return Description(tuple(mentions), scene.background)


def parse(text: str) -> Description:
    """Give what a caption says.

    Raises:
        ConfigError: If a word is not in the vocabulary, or the words do not make a caption; it names the place.

    >>> both = parse("a robot on the right and ada brook the woman wearing red on the left")
    >>> [(who.superclass, who.name) for who in both.subjects]
    [('woman', 'ada brook'), ('robot', None)]
    >>> parse("a cat facing up")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: caption: 'up' (word 4) is not in the vocabulary; see captions.vocabulary()
    >>> parse("a cat facing red")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: caption: 'red' (word 4) cannot follow 'a cat facing'; \
expected front, left or right
    """
    words = text.split()
    known = set(vocabulary())
    for number, word in enumerate(words, start=1):
        if word not in known:
            advice = "see captions.vocabulary()"
            raise ConfigError(f"caption: {word!r} (word {number}) is not in the vocabulary; {advice}")
    reader = _Reader(words)
    for count, slots in PLACES.items():
        for end, told in reader.read("one" if count == 1 else "two", 0):
            if end == len(words):
                return Description(tuple(told[slot] for slot in slots), told.get("background"))
            reader.miss(end, "the end")
    raise ConfigError(f"caption: {reader.complaint()}")


class _Writer(NamedTuple):
    """Walks the grammar forwards."""

    rng: np.random.Generator
    drop: float

    def say(self, name: str, values: Told) -> list[str]:
        """Give the words of one of the rules of a name, chosen by chance."""
        ways = rules(name)
        return self._walk(ways[int(self.rng.integers(len(ways)))], values)

    def _walk(self, rule: Rule, values: Told) -> list[str]:
        words: list[str] = []
        for part in rule:
            if isinstance(part, str):
                words.append(part)
            elif isinstance(part, Slot):
                words += self._fill(part.name, values)
            elif not self._left_out(part, values):
                words += self._walk(part.parts, values)
        return words

    def _fill(self, slot: str, values: Told) -> list[str]:
        if slot == "who":
            return self.say("who" if values["name"] is None else "who by name", values)
        value = values[slot]
        return self.say("subject", asdict(value)) if isinstance(value, Mention) else list(phrase(slot, value))

    def _left_out(self, group: Group, values: Told) -> bool:
        slots = [part.name for part in group.parts if isinstance(part, Slot)]
        if "accessory" in slots:
            return values["accessory"] == NOTHING
        return bool(self.rng.random() < self.drop)


class _Reader:
    """Walks the grammar backwards, every way that fits, and remembers how far any of them came."""

    def __init__(self, words: Sequence[str]):
        self._words = words
        self._furthest = 0
        self._expected: set[str] = set()

    def read(self, name: str, start: int) -> Iterator[tuple[int, Told]]:
        """Give each end, and what is told until there, of the rules of a name."""
        for rule in rules(name):
            yield from self._walk(rule, start, {})

    def miss(self, at: int, expected: str) -> None:
        """Remember that something else would have been needed here."""
        if at > self._furthest:
            self._furthest, self._expected = at, set()
        if at == self._furthest:
            self._expected.add(expected)

    def complaint(self) -> str:
        """Say where the words stop making sense, and what could stand there."""
        at, words = self._furthest, self._words
        before = f"cannot follow {' '.join(words[:at])!r}" if at else "cannot begin one"
        found = f"{words[at]!r} (word {at + 1}) {before}" if at < len(words) else f"it ends after {' '.join(words)!r}"
        *others, last = sorted(self._expected)
        few = f"{', '.join(others)} or {last}" if others else last
        return f"{found}; expected {few}"

    def _walk(self, rule: Rule, at: int, told: Told) -> Iterator[tuple[int, Told]]:
        if not rule:
            yield at, told
            return
        part, rest = rule[0], rule[1:]
        if isinstance(part, Group):
            yield from self._walk(part.parts + rest, at, told)
            yield from self._walk(rest, at, told)
        elif isinstance(part, Slot):
            for end, more in self._slot(part.name, at):
                yield from self._walk(rest, end, told | more)
        elif self._word(at, part):
            yield from self._walk(rest, at + 1, told)

    def _word(self, at: int, word: str) -> bool:
        if self._words[at : at + 1] == [word]:
            return True
        self.miss(at, word)
        return False

    def _slot(self, slot: str, at: int) -> Iterator[tuple[int, Told]]:
        if slot == "who":
            yield from self.read("who", at)
            yield from self.read("who by name", at)
        elif slot in ("subject", "left", "right"):
            for end, told in self.read("subject", at):
                yield end, {slot: Mention(**told)}
        elif slot == "name":
            if is_name(self._words[at : at + 2]):
                yield at + 2, {"name": " ".join(self._words[at : at + 2])}
            self.miss(at, "a name")
        else:
            for value in facts.superclasses() if slot == "superclass" else facts.choices(slot):
                wanted = phrase(slot, value)
                if wanted and all(self._word(at + step, word) for step, word in enumerate(wanted)):
                    yield at + len(wanted), {slot: value}
