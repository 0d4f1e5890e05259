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


def test_the_actions_that_change_something_are_gymnasiums(spec):
    ours, theirs = gymnasium.make("bayes_persona/Taxi-v0").unwrapped, TaxiEnv()
    masks = ours.infos(np.indices((5, 5, 5, 4)).reshape(4, -1).T)["action_mask"]
    assert masks.dtype == np.int8
    np.testing.assert_array_equal(masks, [theirs.action_mask(state) for state in range(500)])


@pytest.mark.parametrize("size", [3, 5])
def test_a_car_that_fails_stays_where_it_is_and_does_all_else_as_well(size):
    sure, unsure = (spec_of(gymnasium.make("bayes_persona/Taxi-v0", size=size, fail=fail)) for fail in (0.0, 0.3))
    stays = np.repeat(np.eye(sure.state_count), 6, axis=0)
    moves = np.tile(np.arange(6) < 4, sure.state_count)[:, None]
    want = np.where(moves, 0.7 * joint(sure.factors) + 0.3 * stays, joint(sure.factors))
    np.testing.assert_allclose(joint(unsure.factors), want, atol=1e-12)
    np.testing.assert_array_equal(unsure.reward, sure.reward)
    np.testing.assert_array_equal(unsure.terminal, sure.terminal)
    assert unsure.parents == sure.parents


def test_the_small_map_has_walls_stands_and_a_way_between_all():
    taxi = gymnasium.make("bayes_persona/Taxi-v0", size=3)
    spec = spec_of(taxi)
    assert (spec.state_count, np.count_nonzero(spec.initial)) == (180, 9 * 4 * 3)
    law = joint(spec.factors).reshape(3, 3, 5, 4, 6, 3, 3, 5, 4)
    walls = {(row, column) for row, column in np.ndindex(3, 2) if law[row, column, 0, 0, 2, row, column + 1, 0, 0] == 0}
    assert walls == {(0, 1), (2, 0)}
    back = {(row, column) for row, column in np.ndindex(3, 2) if law[row, column + 1, 0, 0, 3, row, column, 0, 0] == 0}
    assert back == walls
    assert regret.optimum(spec, horizon=40) > 0  # whoever drives well delivers, from wherever
    delivered = np.argwhere(spec.terminal.reshape(3, 3, 5, 4, 6))
    assert delivered.tolist() == [[0, 0, 4, 0, 5], [0, 2, 4, 1, 5], [2, 0, 4, 2, 5], [2, 2, 4, 3, 5]]
    assert set(spec.reward[spec.terminal]) == {20}


def test_the_small_map_can_be_drawn():
    taxi = gymnasium.make("bayes_persona/Taxi-v0", size=3, render_mode="ansi")
    taxi.reset(seed=0)
    lines = taxi.render().splitlines()
    assert [len(line) for line in lines[:5]] == [7] * 5
    assert sum(line.count("t") for line in lines[:5]) == 1
    picture = gymnasium.make("bayes_persona/Taxi-v0", size=3, render_mode="rgb_array")
    picture.reset(seed=0)
    assert picture.render().shape == (320, 320, 3)


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
