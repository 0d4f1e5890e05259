import json
import warnings

import bayes_persona_envs
import gymnasium
import numpy as np
import pytest
from gymnasium.envs.toy_text.taxi import TaxiEnv
from gymnasium.utils.env_checker import check_env

from bayes_persona.cpsrl import regret
from bayes_persona.cpsrl.env import joint, spec_of

gymnasium.register_envs(bayes_persona_envs)


@pytest.fixture(scope="module")
def spec():
    return spec_of(gymnasium.make("bayes_persona/Taxi-v0"))


def test_the_product_of_the_factors_is_gymnasiums_own_table(spec):
    table = TaxiEnv().P
    have = joint(spec.factors)
    for state, action in np.ndindex(500, 6):
        [(probability, after, reward, terminated)] = table[state][action]
        x = 6 * state + action
        assert (have[x, after], have[x].sum()) == (probability, 1)
        assert (spec.reward[x], spec.terminal[x]) == (reward, terminated)


def test_the_true_parents_are_those_of_the_game(spec):
    assert spec.parents == {
        "row'": ("row", "action"),
        "column'": ("row", "column", "action"),
        "passenger'": ("row", "column", "passenger", "action"),
        "destination'": ("destination",),
    }


def test_the_best_policy_earns_793(spec):
    assert regret.optimum(spec, horizon=30) == pytest.approx(7.93, abs=0.005)
    assert np.count_nonzero(spec.initial) == 300


def test_gymnasium_finds_nothing_wrong_with_it():
    taxi = gymnasium.make("bayes_persona/Taxi-v0", render_mode="ansi")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(taxi.unwrapped, skip_render_check=True)


def test_it_moves_as_gymnasiums_taxi_does():
    ours, theirs = gymnasium.make("bayes_persona/Taxi-v0"), TaxiEnv()
    observation, _ = ours.reset(seed=5)
    state, _ = theirs.reset(seed=5)
    for action in [0, 4, 2, 1, 1, 3, 5, 0, 4]:
        assert tuple(observation) == theirs.decode(state)
        observation, reward, terminated, *_ = ours.step(action)
        state, expected, ended, *_ = theirs.step(action)
        assert (reward, terminated) == (expected, ended)


def test_it_can_be_drawn_and_described():
    taxi = gymnasium.make("bayes_persona/Taxi-v0", render_mode="ansi")
    taxi.reset(seed=0)
    assert "+---------+" in taxi.render()
    assert taxi.spec.max_episode_steps == 200
    assert json.loads(taxi.spec.to_json())["id"] == "bayes_persona/Taxi-v0"
    taxi.close()
