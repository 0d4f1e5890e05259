"""The grammar of captions as it is read from `data/captions.json`, and the closed list of its words.

A rule is words, `{slots}` and `[phrases that may be left out]`. A slot is another rule, a name, or an attribute's
value.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from bayes_persona.world import facts

NOTHING = "none"
"""The value that is told by silence: a caption that mentions no accessory means that there is none."""


class Slot(NamedTuple):
    """A place in a rule that something fills.

    >>> rules("who by name")[1][0]
    Slot(name='name')
    """

    name: str


class Group(NamedTuple):
    """A phrase of a rule that may be left out.

    >>> rules("who by name")[1][-1]
    Group(parts=('looking', Slot(name='expression')))
    """

    parts: tuple["str | Slot | Group", ...]


Rule = tuple[str | Slot | Group, ...]


@cache
def rules(name: str) -> tuple[Rule, ...]:
    """Give the alternatives of a name.

    >>> len(rules("two"))
    4
    """
    return tuple(_compiled(text) for text in facts.table("captions")["rules"][name])


@cache
def vocabulary() -> tuple[str, ...]:
    """Give every word of every caption, in alphabetical order: a word's place can be its token.

    >>> "beach" in vocabulary(), "beaches" in vocabulary()
    (True, False)
    """
    words = {word for first in facts.table("names")["first"].values() for word in first} | set(
        facts.table("names")["last"]
    )
    words |= set(facts.superclasses())
    for slot in facts.ATTRIBUTES:
        words |= {word for value in facts.choices(slot) for word in phrase(slot, value)}
    words |= {word for name in facts.table("captions")["rules"] for rule in rules(name) for word in _words(rule)}
    return tuple(sorted(words))


def is_name(words: Sequence[str]) -> bool:
    """Say whether these are a first and a last word; any two make a name, whether somebody has it or not.

    >>> is_name(["ada", "brook"]), is_name(["brook", "ada"])
    (True, False)
    """
    if len(words) != 2:
        return False
    names = facts.table("names")
    return any(words[0] in first for first in names["first"].values()) and words[1] in names["last"]


def phrase(slot: str, value: str) -> tuple[str, ...]:
    """Give the words for a value: its phrase, if the grammar has one, or else its name.

    >>> phrase("background", "beach"), phrase("pose", "left"), phrase("accessory", "none")
    (('on', 'the', 'beach'), ('left',), ())
    """
    if value == NOTHING:
        return ()
    return tuple(facts.table("captions")["phrases"].get(slot, {}).get(value, value).split())


def _compiled(text: str) -> Rule:
    stack: list[list[str | Slot | Group]] = [[]]
    for token in text.replace("[", " [ ").replace("]", " ] ").split():
        if token == "[":
            stack.append([])
        elif token == "]":
            group = Group(tuple(stack.pop()))
            stack[-1].append(group)
        else:
            stack[-1].append(Slot(token[1:-1]) if token.startswith("{") else token)
    return tuple(stack[0])


def _words(rule: Rule) -> Iterator[str]:
    for part in rule:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Group):
            yield from _words(part.parts)
