import re
from dataclasses import replace

import numpy as np
import pytest

from bayes_persona.cpsrl import env, graph, local
from bayes_persona.cpsrl.local import Local, LocalSpec
from bayes_persona.errors import ConfigError


def noisy_lamp(**changes):
    """A lamp that may fail, with rewards and ends in all the places where they may be."""
    law = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.3, 0.7], [1.0, 0.0]]])
    parts = {
        "states": {"lamp": 2, "mood": 3},
        "actions": {"switch": 2},
        "factors": (Local(("switch", "lamp"), law), Local((), np.array([0.2, 0.3, 0.5]))),
        "rewards": (Local(("lamp",), np.array([0.0, 1.0])), Local(("mood", "lamp'"), np.arange(6.0).reshape(3, 2))),
        "ends": (Local(("mood'",), np.array([False, False, True])),),
        "initial": (np.array([0.5, 0.5]), np.array([1.0, 0.0, 0.0])),
    }
    return LocalSpec(**{**parts, **changes})


def test_a_listed_world_says_the_same_of_every_move():
    for world in (noisy_lamp(), local.ring(3)):
        listed = world.dense()
        assert listed.parents == world.parents
        inputs, outputs = (list(sizes.values()) for sizes in (world.inputs, world.outputs))
        before = np.indices(inputs).reshape(len(inputs), -1).T
        for y in range(listed.state_count):
            after = np.tile(np.unravel_index(y, outputs), (len(before), 1))
            numbers = np.arange(len(before))
            np.testing.assert_allclose(world.earned(before, after), env.outcome(listed.reward, numbers, y))
            np.testing.assert_array_equal(world.ended(before, after), env.outcome(listed.terminal, numbers, y))


def test_moves_and_first_states_have_the_law_that_is_listed():
    world, rng, copies = noisy_lamp(), np.random.default_rng(0), 20_000
    x = 5  # lamp 0, mood 2, switch 1
    before = np.tile(np.unravel_index(x, list(world.inputs.values())), (copies, 1))
    moved = world.move(before, rng.random((copies, 2)))
    law = env.joint(world.dense().factors)[x]
    found = np.bincount(np.ravel_multi_index(tuple(moved.T), (2, 3)), minlength=6) / copies
    assert np.abs(found - law).max() < 0.02
    first = world.first(rng.random((copies, world.first_draws)))
    assert abs(first[:, 0].mean() - 0.5) < 0.02
    assert first[:, 1].max() == 0
    joint = replace(world, initial=world.dense().initial)
    assert np.abs(joint.first(rng.random((copies, 1))).mean(axis=0) - first.mean(axis=0)).max() < 0.02


def test_a_prior_needs_no_more_of_a_world_than_local_tables():
    world = local.ring(3)
    for make in (graph.complete, lambda spec: graph.known(spec, graph.true_graph(spec))):
        one, other = make(world), make(world.dense())
        np.testing.assert_array_equal(one.members, other.members)
        np.testing.assert_array_equal(one.truth, other.truth)


def test_a_world_too_large_to_list_says_so():
    with pytest.raises(ConfigError, match="dense: the variables have 45,079,976,738,816 settings"):
        local.ring(40).dense()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": {"lamp": 2, "lamp'": 3}}, "names: ['lamp', \"lamp'\", 'switch'"),
        ({"states": {"lamp": 2, "mood": 1}}, "states: expected variables of at least 2 values, got mood with 1"),
        ({"actions": {}}, "actions: expected variables of at least 1 values, got none"),
        ({"factors": ()}, "factors: expected one for each of ['lamp', 'mood'], got 0"),
        ({"rewards": (Local(("mod",), np.zeros(3)),)}, "rewards: table 0: 'mod' is none of the variables"),
        ({"rewards": (Local(("mood",), np.zeros(2)),)}, "rewards: table 0: its variables' sizes ask for shape (3,)"),
        ({"rewards": (Local(("mood", "mood"), np.eye(3)),)}, "the parents ['mood', 'mood'] are not all different"),
        ({"rewards": (Local((), np.array(np.nan)),)}, "rewards: expected finite numbers"),
        ({"ends": (Local((), np.array(1.0)),)}, "ends: expected tables of yes or no"),
        ({"initial": (np.array([0.5, 0.6]), np.ones(3) / 3)}, "initial: expected probabilities that sum to 1"),
        ({"initial": (np.array([0.5, 0.5]),)}, "initial: expected a law of {'lamp': 2, 'mood': 3}, got [2] values"),
        (
            {"factors": (Local((), np.array([0.5, 0.6])), Local((), np.ones(3) / 3))},
            "factor lamp': expected probabilities that sum to 1",
        ),
    ],
)
def test_what_is_wrong_with_a_world_is_said(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        noisy_lamp(**changes)
