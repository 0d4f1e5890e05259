import json
import warnings

import gymnasium
import numpy as np
import pytest
from bayes_persona_envs.factored_world import FactoredWorld
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from bayes_persona.cpsrl.env import joint, lamp, outcome, spec_of
from bayes_persona.errors import ConfigError

WORLDS = {
    "RandomFactored": {"instance_seed": 3, "states": 4, "actions": 2, "parents": 3},
    "Sepsis": {"glucose": "original"},
    "SysAdmin": {"machines": 5, "topology": "star"},
    "Taxi": {"size": 3, "fail": 0.25},
}


def made(name, **settings):
    return gymnasium.make(f"bayes_persona/{name}-v0", **WORLDS[name], **settings)


@pytest.mark.parametrize("name", WORLDS)
def test_gymnasium_finds_nothing_wrong_with_a_world_nor_with_its_pictures(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(made(name).unwrapped)


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_is_made_again_from_its_description(name):
    world = made(name)
    world.reset(seed=4)
    text = world.spec.to_json()
    assert json.loads(text)["kwargs"] == WORLDS[name]
    again = gymnasium.make(EnvSpec.from_json(text))
    again.reset(seed=4)
    world.action_space.seed(0)
    for _ in range(20):
        action = world.action_space.sample()
        (have, *rest), (want, *others) = again.step(action), world.step(action)
        assert have.tolist() == want.tolist()
        assert rest[:3] == others[:3]


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_moves_as_its_spec_says(name):
    world = made(name, max_episode_steps=60)
    spec = spec_of(world)
    law = joint(spec.factors)
    world.action_space.seed(1)
    for seed in range(3):
        observation, _ = world.reset(seed=seed)
        assert spec.initial[np.ravel_multi_index(observation, list(spec.states.values()))] > 0
        over = False
        while not over:
            action = world.action_space.sample()
            x = np.ravel_multi_index([*observation, *np.atleast_1d(action)], list(spec.inputs.values()))
            observation, reward, terminated, truncated, _ = world.step(action)
            y = np.ravel_multi_index(observation, list(spec.states.values()))
            assert law[x, y] > 0
            assert reward == pytest.approx(outcome(spec.reward, x, y))
            assert terminated == outcome(spec.terminal, x, y)
            assert [type(value) for value in (reward, terminated, truncated)] == [float, bool, bool]
            over = terminated or truncated


@pytest.mark.parametrize("name", WORLDS)
def test_pictures_change_with_the_world_and_words_name_its_variables(name):
    drawn = made(name, render_mode="rgb_array")
    drawn.reset(seed=0)
    frames = [drawn.render()]
    drawn.action_space.seed(0)
    for _ in range(5):
        drawn.step(drawn.action_space.sample())
        frames.append(drawn.render())
    assert {frame.dtype for frame in frames} == {np.dtype("uint8")}
    assert len({frame.shape for frame in frames}) == 1
    assert any((frame != frames[0]).any() for frame in frames)
    told = made(name, render_mode="ansi")
    told.reset(seed=0)
    assert all(
        key in told.render() for key in (told.unwrapped.local_spec().states if name != "Taxi" else ["Passenger"])
    )


def test_one_action_variable_is_a_number_and_several_are_an_array():
    assert made("SysAdmin").action_space == gymnasium.spaces.Discrete(6)
    assert made("RandomFactored").action_space == gymnasium.spaces.MultiDiscrete([2, 2])


def test_what_is_returned_is_the_callers_to_change():
    world = FactoredWorld(lamp())
    first, _ = world.reset(seed=0)
    first[:] = 1
    assert world.step(0)[0].tolist() == [0]


def test_the_same_seed_gives_the_same_history():
    histories = []
    for _ in range(2):
        world = made("RandomFactored")
        world.reset(seed=9)
        histories.append([world.step(np.array([1, 0]))[0].tolist() for _ in range(30)])
    assert histories[0] == histories[1]


def test_mistakes_of_the_caller_are_said():
    world = FactoredWorld(lamp(), render_mode="ansi")
    for premature in (lambda: world.step(0), world.render):
        with pytest.raises(gymnasium.error.ResetNeeded):
            premature()
    world.reset(seed=0)
    with pytest.raises(ConfigError, match=r"action: expected one of Discrete\(2\), got 2"):
        world.step(2)
    with pytest.raises(ConfigError, match=r"render_mode: expected None or one of .*, got 'film'"):
        FactoredWorld(lamp(), render_mode="film")
    mute = FactoredWorld(lamp())
    mute.reset(seed=0)
    with pytest.warns(UserWarning, match="made without a render_mode"):
        assert mute.render() is None


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("RandomFactored", {"parents": 10}, "parents: there are 9 variables, got 10"),
        ("RandomFactored", {"states": 0}, "states: expected a whole number of at least 1, got 0"),
        ("RandomFactored", {"values": 1}, "values: expected a whole number of at least 2, got 1"),
        ("RandomFactored", {"instance_seed": -1}, "instance_seed: expected a whole number of at least 0"),
        ("RandomFactored", {"states": 30, "parents": 25}, "cells a table are more than"),
        ("Sepsis", {"glucose": "sweet"}, "glucose: expected one of"),
        ("SysAdmin", {"machines": 1}, "machines: expected a whole number of at least 2, got 1"),
        ("SysAdmin", {"topology": "bus"}, "topology: expected one of"),
        ("Taxi", {"size": 4}, "size: expected one of"),
        ("Taxi", {"fail": 1.0}, "fail: expected a probability below 1"),
        ("Taxi", {"size": 3, "render_mode": "human"}, "render_mode: expected None or one of"),
    ],
)
def test_a_world_that_cannot_be_is_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        gymnasium.make(f"bayes_persona/{name}-v0", **settings)
