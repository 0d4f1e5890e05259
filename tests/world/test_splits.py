"""Laws of the splits: what is held out is never trained on, and example i is example i."""

from collections import Counter

import numpy as np
import pytest

from bayes_persona import ConfigError
from bayes_persona.world import captions, facts, splits
from bayes_persona.world.splits import Config


def stream(n, config=None, part="base"):
    config = Config() if config is None else config
    return [splits.sample(config, k, seed=0, part=part) for k in range(n)]


def test_there_are_two_hundred_and_more_named_identities_and_no_two_share_a_name_or_a_face():
    people = splits.named()
    assert len(people) >= 200
    assert len({who.z for who in people.values()}) == len(people)
    assert set(Counter(who.superclass for who in people.values()).values()) == {len(people) // 4}
    assert all(captions.parse(f"{name} the {who.superclass}").subjects[0].name == name for name, who in people.items())


def test_every_word_of_a_name_is_shared_so_that_neither_alone_says_who_it_is():
    first, last = (Counter(name.split()[place] for name in splits.named()) for place in (0, 1))
    assert set(first.values()) == set(last.values()) == {2}


def test_another_world_has_other_people_under_other_names():
    assert splits.named(0) == splits.named(0)
    assert set(splits.named(1)) != set(splits.named(0))


def test_nobody_in_training_is_held_out():
    assert all(splits.is_held_out(who) for seed in range(3) for who in splits.held_out(200, seed))
    assert not any(splits.is_held_out(who) for seed in range(3) for who in splits.base(200, seed))
    assert not any(splits.is_held_out(who) for who in splits.named().values())
    for example in stream(120):
        assert not splits.is_held_out(example.scene)
        assert not any(splits.is_held_out(who.identity) for who in example.scene.subjects)


def test_the_held_out_stream_holds_nothing_that_was_trained_on_but_the_named():
    for example in stream(120, part="held out"):
        assert splits.is_held_out(example.scene)
        for who, name in zip(example.scene.subjects, example.names, strict=True):
            assert splits.is_held_out(who.identity) if name is None else splits.named()[name] == who.identity


def test_every_pair_of_attribute_values_is_seen_in_training():
    seen = set()
    for example in stream(1200, config=Config(pairs=0.0)):
        who = example.scene.subjects[0]
        told = {"background": example.scene.background}
        told |= {name: getattr(who, name) for name in facts.ATTRIBUTES if name != "background"}
        seen |= {((a, told[a]), (b, told[b])) for a in told for b in told if a < b}
    sizes = {name: len(facts.choices(name)) for name in facts.ATTRIBUTES}
    assert len(seen) == sum(sizes[a] * sizes[b] for a in sizes for b in sizes if a < b)


def test_held_out_identities_fill_the_whole_cube():
    z = np.array([who.z for who in splits.held_out(2000, seed=0)])
    assert np.abs(z.mean(axis=0) - 0.5).max() < 0.03
    assert np.abs(z.std(axis=0) - 12**-0.5).max() < 0.02
    assert np.abs(np.corrcoef(z.T) - np.eye(z.shape[1])).max() < 0.1


def test_an_example_depends_on_its_number_alone():
    forwards, backwards = stream(20), [splits.sample(Config(), k, seed=0) for k in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len({example.caption for example in forwards}) == 20
    assert (forwards[3].render().pixels == backwards[-4].render().pixels).all()


def test_more_identities_begin_with_the_same_ones():
    assert splits.held_out(20, seed=4)[:7] == splits.held_out(7, seed=4)
    assert splits.held_out(7, seed=4) != splits.held_out(7, seed=5)


def test_the_mixture_is_as_asked():
    examples = stream(800, config=Config(named=0.7, pairs=0.2))
    assert np.mean([len(example.names) == 2 for example in examples]) == pytest.approx(0.2, abs=0.04)
    assert np.mean([name is not None for e in examples for name in e.names]) == pytest.approx(0.7, abs=0.04)
    kinds = Counter(who.identity.superclass for example in examples for who in example.scene.subjects)
    assert min(kinds.values()) > 0.2 * kinds.total()


def test_photos_show_one_identity_in_many_situations():
    me = splits.held_out(3, seed=0)[2]
    album = splits.photos(me, 12, seed=0)
    assert {who.identity for photo in album for who in photo.scene.subjects} == {me}
    assert len({photo.scene for photo in album}) == 12
    assert splits.photos(me, 4, seed=0) == album[:4]
    assert all(captions.parse(photo.caption) == captions.describe(photo.scene) for photo in album)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="named: expected 0 to 1, got -1"):
        Config(named=-1.0)
    with pytest.raises(ConfigError, match="n: expected a number of identities, got -2"):
        splits.held_out(-2, seed=0)
