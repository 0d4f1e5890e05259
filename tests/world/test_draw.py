"""Laws of pictures: what is told is drawn, where it belongs and nowhere else."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import bayes_persona
from bayes_persona import ConfigError
from bayes_persona.world import facts, splits
from bayes_persona.world.draw import Identity, Scene, Subject, render

KINDS = facts.superclasses()
MIDDLE = (0.5,) * len(facts.factors())
SEEDS = range(3)


def somebody(kind, seed=0, **attributes):
    people = [who for who in splits.base(4 * len(KINDS), seed=seed) if who.superclass == kind]
    return Subject(people[0], **attributes)


def portrait(who, seed=0, background="meadow"):
    return render(Scene((who,), background), seed)


def differ(one, other):
    """The pixels that are not the same."""
    return (one.pixels != other.pixels).any(axis=2)


def grown(mask):
    """A mask and two pixels around it: edges and the tips of thin things, less than half covered, reach no further."""
    wide = np.pad(mask, 2)
    return np.any([wide[dy : dy + 64, dx : dx + 64] for dy in range(5) for dx in range(5)], axis=0)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_the_same_scene_and_seed_are_the_same_picture():
    scene = Scene((somebody("woman"), somebody("cat")), "city")
    one, other = render(scene, seed=3), render(scene, seed=3)
    assert not differ(one, other).any()
    assert (one.masks == other.masks).all()


def test_another_seed_is_another_picture_of_the_same_scene():
    scene = Scene((somebody("woman"),), "city")
    assert differ(render(scene, seed=3), render(scene, seed=4)).mean() > 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mask_is_where_the_picture_is_not_its_background(kind, seed):
    for background in ("night", "meadow"):
        picture, empty = portrait(somebody(kind), seed, background), render(Scene((), background), seed)
        changed = differ(picture, empty)
        assert not (changed & ~grown(picture.masks[0])).any()
        assert (picture.masks[0] & ~changed).sum() <= 3  # an eye as white as a cloud


@pytest.mark.parametrize("seed", range(5))
def test_masks_of_two_are_disjoint_and_together_are_all_that_is_not_background(seed):
    scene = Scene((somebody(KINDS[seed % 4], accessory="hat"), somebody(KINDS[(seed // 2) % 4], seed)), "night")
    picture, empty = render(scene, seed), render(Scene((), "night"), seed)
    both = picture.masks.any(axis=0)
    assert not picture.masks.all(axis=0).any()
    assert not (differ(picture, empty) & ~grown(both)).any()
    assert (both & ~differ(picture, empty)).sum() <= 3


@pytest.mark.parametrize("seed", range(5))
def test_a_change_of_one_subject_leaves_the_other_alone(seed):
    left, right = somebody("cat", clothing="red"), somebody("robot")
    before = render(Scene((left, right), "room"), seed)
    after = render(Scene((replace(left, clothing="green"), right), "room"), seed)
    assert (before.masks == after.masks).all()
    assert differ(before, after).any()
    assert not (differ(before, after) & ~grown(before.masks[0])).any()


def test_both_of_two_are_well_visible_and_stand_where_the_scene_says():
    for seed in range(20):
        masks = render(Scene((somebody("woman", seed), somebody("man", seed)), "beach"), seed).masks
        across = np.arange(64)
        centres = [(mask.sum(axis=0) * across).sum() / mask.sum() for mask in masks]
        assert (masks.mean(axis=(1, 2)) > 0.15).all()
        assert centres[0] < 28
        assert centres[1] > 36


def test_one_of_two_stands_in_front_and_is_whole_and_the_seed_says_who():
    behind = set()
    for seed in range(12):
        before = render(Scene((somebody("man"), somebody("man")), "night"), seed).masks
        # Other neighbours cover other parts of the one behind, and none of the one in front.
        left = render(Scene((somebody("man"), somebody("cat")), "night"), seed).masks
        right = render(Scene((somebody("cat"), somebody("man")), "night"), seed).masks
        covered = ((before[0] != left[0]).any(), (before[1] != right[1]).any())
        assert covered != (True, True)
        behind.add(covered)
    assert behind >= {(True, False), (False, True)}


def test_the_colour_of_clothes_changes_nothing_but_the_clothes(kind):
    pictures = [portrait(somebody(kind, clothing=colour)) for colour in facts.choices("clothing")]
    for one, other in pairwise(pictures):
        assert (one.masks == other.masks).all()
        changed = differ(one, other)
        assert changed[44:].sum() > 150  # below the chin
        assert not (changed & ~grown(one.masks[0])).any()
        assert not changed[:34].any()


def test_the_background_changes_nothing_inside_the_subject(kind):
    pictures = [portrait(somebody(kind), background=place) for place in facts.choices("background")]
    for one, other in pairwise(pictures):
        assert (one.masks == other.masks).all()
        inside = ~grown(~one.masks[0])
        assert not (differ(one, other) & inside).any()
        assert differ(one, other)[~one.masks[0]].mean() > 0.8


@pytest.mark.parametrize("attribute", ["expression", "pose", "accessory"])
def test_every_value_of_an_attribute_looks_different_on_everybody(kind, attribute):
    pictures = [portrait(replace(somebody(kind), **{attribute: value})) for value in facts.choices(attribute)]
    for k, one in enumerate(pictures):
        for other in pictures[:k]:
            apart = np.abs(one.pixels.astype(int) - other.pixels).max(axis=2)
            assert (apart > 48).sum() >= 12
            assert not (differ(one, other) & ~grown(one.masks[0] | other.masks[0])).any()


def test_an_expression_changes_the_face_alone(kind):
    calm, grumpy = (portrait(somebody(kind, expression=mood)) for mood in ("calm", "grumpy"))
    assert (calm.masks == grumpy.masks).all()
    assert not differ(calm, grumpy)[54:].any()


@pytest.mark.parametrize("pose", ["front", "left"])
def test_a_factor_shows_if_it_is_said_to_be_visible_and_else_changes_nothing(kind, pose):
    for number, factor in enumerate(facts.factors()):
        ends = [tuple(value if k == number else 0.5 for k in range(len(MIDDLE))) for value in (0.0, 1.0)]
        low, high = (portrait(Subject(Identity(kind, z), pose=pose)) for z in ends)
        strong = (np.abs(low.pixels.astype(int) - high.pixels).max(axis=2) > 32).sum()
        assert strong >= 8 if factor in facts.visible(kind) else not differ(low, high).any(), factor


def test_every_superclass_shows_at_least_ten_factors(kind):
    assert len(facts.visible(kind)) >= 10


def test_nearby_identities_look_nearly_the_same(kind):
    rng = np.random.default_rng(0)
    for _ in range(5):
        z, other = rng.random((2, len(MIDDLE)))
        path = [z + step * (other - z) for step in (0, 0.01, 0.02, 1)]
        first, *near, far = (portrait(Subject(Identity(kind, tuple(at.tolist())))).pixels.astype(float) for at in path)
        steps = [np.abs(b - a).mean() for a, b in pairwise([first, *near])]
        assert max(steps) < 0.15 * np.abs(far - first).mean() + 0.1


def test_colours_can_be_read_off_the_pictures():
    examples = [splits.sample(splits.Config(named=0.0, pairs=0.0), k, seed=0) for k in range(520)]
    examples = [example for example in examples if example.scene.subjects[0].identity.superclass in ("man", "robot")]
    pixels = np.array([example.render().pixels for example in examples]).astype(float)
    x = pixels.reshape(-1, 16, 4, 16, 4, 3).mean(axis=(2, 4)).reshape(len(pixels), -1) / 255
    who = [example.scene.subjects[0] for example in examples]
    coat = np.array([one.identity.z[facts.factors().index("coat")] for one in who])
    clothes = np.array([facts.rgb(facts.table("subjects")["clothing"][one.clothing]) for one in who]) / 255
    assert len(x) > 200
    for y in (coat, *clothes.T):
        assert Ridge(alpha=3.0).fit(x[:-80], y[:-80]).score(x[-80:], y[-80:]) > 0.5


@pytest.mark.parametrize("size", [16, 48, 128])
def test_a_picture_can_have_any_size(size):
    picture = render(Scene((somebody("cat"),)), seed=0, size=size)
    assert picture.pixels.shape == (size, size, 3)
    assert picture.masks.mean() == pytest.approx(portrait(somebody("cat")).masks.mean(), abs=0.03)


def test_a_fifth_superclass_is_an_entry_in_a_file(tmp_path):
    package = Path(shutil.copytree(Path(bayes_persona.__file__).parent, tmp_path / "bayes_persona"))
    path = package / "world" / "data" / "subjects.json"
    data = json.loads(path.read_text())
    fox = json.loads(json.dumps(data["superclasses"]["cat"]))
    fox["look"]["skin"] = ["coat", "#f07020", "#a03010"]
    fox["look"]["muzzle_width"] = fox["look"]["muzzle_height"] = 0.25
    data["superclasses"]["fox"] = fox
    path.write_text(json.dumps(data))
    code = (
        "from bayes_persona.world import captions, draw, facts\n"
        "fox = draw.Subject(draw.Identity('fox', (0.5,) * 12))\n"
        "assert draw.render(draw.Scene((fox,)), seed=0).masks.mean() > 0.2\n"
        "assert captions.parse('a sad fox at night').subjects[0].superclass == 'fox'\n"
        "print(*sorted(set(facts.factors()) - set(facts.visible('fox'))))"
    )
    where = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=tmp_path, env=where, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "jaw mark"


def test_what_cannot_be_drawn_is_refused_with_the_choices():
    me = Identity("cat", MIDDLE)
    with pytest.raises(ConfigError, match="superclass: there is no 'dog'; choose from man, woman, cat, robot"):
        Identity("dog", MIDDLE)
    with pytest.raises(ConfigError, match=r"z: expected 12 numbers, .* got 3"):
        Identity("cat", MIDDLE[:3])
    for bad in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"z: 'crest colour' is .*, outside \[0, 1\]; clip it"):
            Identity("cat", (0.5, bad, *MIDDLE[2:]))
    with pytest.raises(ConfigError, match="clothing: there is no 'pink'; choose from red, orange"):
        Subject(me, clothing="pink")
    with pytest.raises(ConfigError, match="background: there is no 'moon'; choose from beach"):
        Scene((Subject(me),), "moon")
    with pytest.raises(ConfigError, match="subjects: a scene holds at most 2, got 3"):
        Scene((Subject(me),) * 3)
    with pytest.raises(ConfigError, match="size: expected at least 16 pixels a side, got 8"):
        render(Scene(()), seed=0, size=8)
    with pytest.raises(ConfigError, match="attribute: there is no 'mood'"):
        facts.choices("mood")
