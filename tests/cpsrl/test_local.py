import re

import numpy as np
import pytest
from bayes_persona_envs.random_factored import random_rules
from bayes_persona_envs.sepsis import Sepsis
from bayes_persona_envs.sysadmin import SysAdmin

from bayes_persona.cpsrl import env, graph
from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.cpsrl.local import Local, LocalSpec
from bayes_persona.errors import ConfigError

MOOD = Local((), np.array([0.2, 0.3, 0.5]))


def noisy_lamp(**changes):
    """A lamp that may fail, with rewards and ends in all the places where they may be."""
    law = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.3, 0.7], [1.0, 0.0]]])
    parts = {
        "states": {"lamp": 2, "mood": 3},
        "actions": {"switch": 2},
        "factors": (Local(("switch", "lamp"), law), MOOD),
        "rewards": (Local(("lamp",), np.array([0.0, 1.0])), Local(("mood", "lamp'"), np.arange(6.0).reshape(3, 2))),
        "ends": (Local(("mood'",), np.array([False, False, True])),),
        "initial": (np.array([0.5, 0.5]), np.array([1.0, 0.0, 0.0])),
    }
    return LocalSpec(**{**parts, **changes})


def small(seed, reward="x", terminal="x"):
    """A listed world with sizes that differ and an outcome of each shape."""
    rng, sizes = np.random.default_rng(seed), [2, 3, 2, 2]
    shapes = {"x": (24,), "y": (1, 6), "xy": (24, 6)}
    factors = (rng.dirichlet(np.ones(2), 24), np.repeat(rng.dirichlet(np.ones(3), 12), 2, axis=0))
    return FactoredSpec(
        dict(zip("ab", sizes[:2], strict=True)),
        dict(zip("cd", sizes[2:], strict=True)),
        rng.normal(size=shapes[reward]),
        rng.random(shapes[terminal]) < 0.3,
        rng.dirichlet(np.ones(6)),
        factors,
    )


def network(machines):
    return SysAdmin(machines).local_spec()


def settings(sizes):
    return np.indices(sizes).reshape(len(sizes), -1).T


SHAPES = [("x", "y"), ("y", "xy"), ("xy", "x")]
WORLDS = {
    "lamp": noisy_lamp(),
    "network": network(3),
    **{f"listed {reward} {terminal}": LocalSpec.of(small(1, reward, terminal)) for reward, terminal in SHAPES},
}


@pytest.mark.parametrize(("reward", "terminal"), SHAPES)
def test_a_listed_world_survives_the_way_to_tables_and_back(reward, terminal):
    spec = small(0, reward, terminal)
    again = LocalSpec.of(spec).dense()
    assert (again.states, again.actions, again.parents) == (spec.states, spec.actions, spec.parents)
    np.testing.assert_array_equal(again.reward, spec.reward)
    np.testing.assert_array_equal(again.terminal, spec.terminal)
    np.testing.assert_array_equal(again.initial, spec.initial)
    for have, want in zip(again.factors, spec.factors, strict=True):
        np.testing.assert_allclose(have, want)
    assert LocalSpec.of(spec).factors[1].parents == ("a", "b", "c")


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_listed_world_says_the_same_of_every_move(world):
    listed = world.dense()
    assert listed.parents == world.parents
    inputs, outputs = (settings(list(sizes.values())) for sizes in (world.inputs, world.outputs))
    x, y = (grid.ravel() for grid in np.indices([len(inputs), len(outputs)]))
    np.testing.assert_allclose(world.earned(inputs[x], outputs[y]), env.outcome(listed.reward, x, y))
    np.testing.assert_array_equal(world.ended(inputs[x], outputs[y]), env.outcome(listed.terminal, x, y))


@pytest.mark.parametrize(("world", "numbers"), [(noisy_lamp(), [5, 8]), (LocalSpec.of(small(2)), [5, 22])])
def test_moves_are_as_frequent_as_is_listed(world, numbers):
    rng, copies = np.random.default_rng(0), 20_000
    before = np.repeat(settings(list(world.inputs.values()))[numbers], copies, axis=0)
    after = world.move(before, rng.random((len(before), 2)))
    for part, law in zip(np.split(after, 2), env.joint(world.dense().factors)[numbers], strict=True):
        seen = np.bincount(np.ravel_multi_index(tuple(part.T), (2, 3)), minlength=6) / copies
        np.testing.assert_allclose(seen, law, atol=4 * np.sqrt(0.25 / copies))


@pytest.mark.parametrize(
    "world", [noisy_lamp(), LocalSpec.of(small(3)), random_rules(0, states=3, values=3, parents=1)]
)
def test_first_states_are_as_frequent_as_is_listed(world):
    law = world.dense().initial
    first = world.first(np.random.default_rng(0).random((20_000, world.first_draws)))
    numbers = np.ravel_multi_index(tuple(first.T), list(world.states.values()))
    np.testing.assert_allclose(np.bincount(numbers, minlength=len(law)) / 20_000, law, atol=0.01)
    assert law[numbers].min() > 0
    assert noisy_lamp().dense().initial.tolist() == [0.5, 0, 0, 0.5, 0, 0]


@pytest.mark.parametrize("number", [0.0, np.nextafter(1.0, 0.0)])
def test_what_cannot_happen_does_not_even_with_the_least_and_largest_number(number):
    world = Sepsis().local_spec()
    before = settings(list(world.inputs.values()))[::7]
    after = world.move(before, np.full((len(before), 8), number))
    for column, (parents, table) in enumerate(world.factors):
        at = tuple(before[:, list(world.inputs).index(name)] for name in parents)
        assert table[(*at, after[:, column])].min() > 0
    first = world.first(np.array([[number]]))
    assert world.initial.reshape(*world.states.values())[tuple(first[0])] > 0


def test_a_sum_of_local_rewards_is_their_sum():
    world = random_rules(4, states=4, actions=2, parents=2)
    before = settings([2] * 6)
    total = sum(
        table[tuple(before[:, list(world.inputs).index(name)] for name in parents)] for parents, table in world.rewards
    )
    np.testing.assert_allclose(world.dense().reward, total)


def test_a_prior_needs_no_more_of_a_world_than_local_tables():
    world = network(3)
    for make in (graph.complete, lambda spec: graph.known(spec, graph.true_graph(spec))):
        one, other = make(world), make(world.dense())
        np.testing.assert_array_equal(one.members, other.members)
        np.testing.assert_array_equal(one.truth, other.truth)


def test_a_world_too_large_to_list_says_so():
    with pytest.raises(ConfigError, match="dense: the variables have 45,079,976,738,816 settings"):
        network(40).dense()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": {"lamp": 2, "lamp'": 3}}, "names: ['lamp', \"lamp'\", 'switch'"),
        ({"states": {"lamp": 2, "mood": 1}}, "states: mood: expected at least 2 values, got 1"),
        ({"actions": {}}, "actions: expected at least one variable, got none"),
        ({"initial": np.full(5, 0.2)}, "initial: expected a law of {'lamp': 2, 'mood': 3}, got [5] values"),
        ({"initial": np.full(6, 0.2)}, "initial: expected probabilities that sum to 1"),
        ({"factors": (Local(("door",), np.eye(2)), MOOD)}, "factor lamp': 'door' is none of the variables"),
        (
            {"factors": (Local(("lamp",), np.ones((2, 3)) / 3), MOOD)},
            "factor lamp': its variables' sizes ask for shape (2, 2), got (2, 3)",
        ),
        ({"factors": ()}, "factors: expected one for each of ['lamp', 'mood'], got 0"),
        ({"rewards": (Local(("mod",), np.zeros(3)),)}, "rewards: table 0: 'mod' is none of the variables"),
        ({"rewards": (Local(("mood",), np.zeros(2)),)}, "rewards: table 0: its variables' sizes ask for shape (3,)"),
        ({"rewards": (Local(("mood", "mood"), np.eye(3)),)}, "the parents ['mood', 'mood'] are not all different"),
        ({"rewards": (Local((), np.array(np.nan)),)}, "rewards: expected finite numbers"),
        ({"ends": (Local((), np.array(1.0)),)}, "ends: expected tables of yes or no"),
        ({"initial": (np.array([0.5, 0.6]), np.ones(3) / 3)}, "initial: expected probabilities that sum to 1"),
        ({"initial": (np.array([0.5, 0.5]),)}, "initial: expected a law of {'lamp': 2, 'mood': 3}, got [2] values"),
        (
            {"factors": (Local((), np.array([0.5, 0.6])), MOOD)},
            "factor lamp': expected probabilities that sum to 1",
        ),
    ],
)
def test_what_is_wrong_with_a_world_is_said(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        noisy_lamp(**changes)
