"""Laws of captions: a sentence says what is in the scene, and nothing that is not a sentence passes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_persona import ConfigError
from bayes_persona.world import captions, facts, splits
from bayes_persona.world.captions import Description, Mention
from bayes_persona.world.draw import Identity, Scene, Subject

LONGEST = 36
"""Words; what a text encoder for this world has to take."""


def values(attribute):
    return st.sampled_from(facts.choices(attribute))


values_of_a_subject = st.fixed_dictionaries(
    {name: values(name) for name in facts.ATTRIBUTES if name != "background"}
    | {"superclass": st.sampled_from(facts.superclasses()), "name": st.none() | st.sampled_from(sorted(splits.named()))}
)
casts = st.lists(values_of_a_subject, min_size=1, max_size=2)


def scene_of(cast, background):
    """A scene with these subjects, and their names."""
    subjects = []
    for told in cast:
        attributes = {name: told[name] for name in facts.ATTRIBUTES if name != "background"}
        subjects.append(Subject(Identity(told["superclass"], (0.5,) * len(facts.factors())), **attributes))
    return Scene(tuple(subjects), background), [told["name"] for told in cast]


@settings(derandomize=True, max_examples=80, deadline=None)
@given(casts, values("background"), st.integers(0, 2**32))
def test_parsing_a_caption_gives_back_what_is_in_the_scene(cast, background, seed):
    scene, names = scene_of(cast, background)
    text = captions.caption(scene, names, seed=seed)
    assert captions.parse(text) == captions.describe(scene, names)
    assert set(text.split()) <= set(captions.vocabulary())
    assert len(text.split()) <= LONGEST


@settings(derandomize=True, max_examples=50, deadline=None)
@given(casts, values("background"), st.integers(0, 2**32), st.floats(0.1, 1))
def test_a_caption_that_leaves_things_out_says_nothing_that_is_not_so(cast, background, seed, drop):
    scene, names = scene_of(cast, background)
    said = captions.parse(captions.caption(scene, names, seed=seed, drop=drop))
    assert said.allows(captions.describe(scene, names))
    assert [who.superclass for who in said.subjects] == [told["superclass"] for told in cast]


def test_all_that_may_be_left_out_can_be():
    scene = Scene((Subject(Identity("cat", (0.5,) * 12)),))
    assert captions.caption(scene, seed=0, drop=1.0) in ("a cat", "a picture of a cat")


def test_captions_vary_with_the_seed():
    scene = Scene((Subject(Identity("cat", (0.5,) * 12), accessory="hat"),))
    assert len({captions.caption(scene, seed=seed) for seed in range(60)}) == 3 * 3 * 2


def test_sentences_by_hand():
    ada = Mention("woman", "ada brook", "happy", "left", "red", "hat")
    cat = Mention("cat", None, "sad", None, None, "none")
    told = "happy ada brook the woman with a hat wearing red facing left"
    assert captions.parse(f"{told} and a sad cat at night") == Description((ada, cat), "night")
    assert captions.parse(f"a cat looking sad on the right and {told} on the left") == Description((ada, cat), None)
    assert captions.parse(f"in the city a sad cat next to {told}") == Description((cat, ada), "city")


def test_the_vocabulary_is_closed_small_and_free_of_double_meanings():
    words = captions.vocabulary()
    assert words == tuple(sorted(set(words)))
    assert 240 < len(words) < 400
    assert all(word.isalpha() and word.islower() for word in words)
    table = facts.table("names")
    named = [word for first in table["first"].values() for word in first] + table["last"]
    assert len(set(named)) == len(named)
    scene_words = {word for seed in range(150) for word in _unnamed(seed).split()}
    assert not scene_words & set(named)


def _unnamed(seed):
    return splits.sample(splits.Config(named=0.0), seed, seed=0).caption


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it ends after ''; expected a, a name"),
        ("a dog", r"'dog' \(word 2\) is not in the vocabulary; see captions.vocabulary\(\)"),
        ("a cat facing", "it ends after 'a cat facing'; expected front, left or right"),
        ("cat on the beach", r"'cat' \(word 1\) cannot begin one; expected a, a name"),
        ("a cat and a", "it ends after 'a cat and a'; expected .*robot"),
        ("a cat wearing with a hat", r"'with' \(word 4\) cannot follow 'a cat wearing'; expected black, blue"),
        ("a cat at night at night", r"'at' \(word 5\) cannot follow 'a cat at night'; expected the end"),
        ("ada ada the woman", r"'ada' \(word 1\) cannot begin one"),
        ("a cat and a cat and a cat", r"'and' \(word 6\) cannot follow"),
    ],
)
def test_what_is_not_a_caption_is_refused_with_the_word_and_its_place(text, complaint):
    with pytest.raises(ConfigError, match=f"caption: {complaint}"):
        captions.parse(text)


def test_scenes_that_cannot_be_told_are_refused():
    scene = Scene((Subject(Identity("cat", (0.5,) * 12)),))
    with pytest.raises(ConfigError, match="scene: a caption needs a subject"):
        captions.caption(Scene(()), seed=0)
    with pytest.raises(ConfigError, match="names: expected one for each of 1 subjects, got 2"):
        captions.caption(scene, ["ada brook", None], seed=0)
    for name in ("ada", "brook ada", "ada brook the", "Ada Brook", ""):
        with pytest.raises(ConfigError, match=f"names: {name!r} is not a first and a last word"):
            captions.caption(scene, [name], seed=0)
