import gymnasium
import numpy as np
import pytest
from bayes_persona_envs.wrappers import Factored, Flat
from gymnasium.envs.registration import EnvSpec
from gymnasium.envs.toy_text.taxi import TaxiEnv
from gymnasium.spaces import Discrete, MultiDiscrete

from bayes_persona.cpsrl.env import flat, joint, spec_of
from bayes_persona.errors import ConfigError

GRID = {"row": 4, "column": 4}
TAXI = {"row": 5, "column": 5, "passenger": 5, "destination": 4}


class Counter(gymnasium.Env):
    """Counts what it is told, from numbers that do not begin at 0; it has no table."""

    observation_space = Discrete(6, start=10)
    action_space = MultiDiscrete([2, 3], start=[1, 5])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 10, {}

    def step(self, action):
        assert self.action_space.contains(action)
        return 10 + int(3 * (action[0] - 1) + action[1] - 5), 1.0, False, False, {}


def test_a_slippery_lake_is_refused_and_the_coupling_is_named():
    lake = Factored(gymnasium.make("FrozenLake-v1", is_slippery=True), states=GRID)
    with pytest.raises(ConfigError, match="row' and column' are not independent given row=0, column=0, action=1"):
        spec_of(lake)
    observation, _ = lake.reset(seed=0)
    assert observation.tolist() == [0, 0]
    assert lake.step(1)[0] in lake.observation_space  # an agent can learn all the same


def test_a_lake_that_is_not_slippery_has_factors():
    spec = spec_of(Factored(gymnasium.make("FrozenLake-v1", is_slippery=False), states=GRID))
    assert spec.parents == {"row'": ("row", "column", "action"), "column'": ("row", "column", "action")}
    assert spec.initial[0] == 1
    assert spec.reward.sum() == 1


@pytest.mark.parametrize(
    ("name", "states"), [("FrozenLake-v1", GRID), ("CliffWalking-v1", {"row": 4, "column": 12}), ("Taxi-v4", TAXI)]
)
def test_the_factors_are_those_of_the_environments_own_table(name, states):
    env = gymnasium.make(name, is_slippery=False) if name == "FrozenLake-v1" else gymnasium.make(name)
    spec, table = spec_of(Factored(env, states=states)), env.unwrapped.P
    law = joint(spec.factors)
    for state, moves in table.items():
        for action, [(_, after, reward, ends)] in moves.items():
            x = state * spec.action_count + action
            assert (law[x, after], spec.reward[x], spec.terminal[x]) == (1, reward, ends)


def test_gymnasiums_taxi_as_variables_is_our_taxi():
    ours = spec_of(gymnasium.make("bayes_persona/Taxi-v0"))
    theirs = spec_of(Factored(TaxiEnv(), states=TAXI))
    assert ours.parents == theirs.parents
    np.testing.assert_array_equal(ours.reward, theirs.reward)
    np.testing.assert_array_equal(ours.terminal, theirs.terminal)
    np.testing.assert_allclose(ours.initial, theirs.initial)


def test_variables_and_numbers_are_two_views_of_one_history():
    world = gymnasium.make("bayes_persona/Sepsis-v0")
    seen = Factored(
        Flat(gymnasium.make("bayes_persona/Sepsis-v0")), world.unwrapped.local_spec().states, dict.fromkeys("abc", 2)
    )
    assert seen.observation_space == world.observation_space
    assert seen.action_space == world.action_space
    (have, _), (want, _) = seen.reset(seed=8), world.reset(seed=8)
    assert have.tolist() == want.tolist()
    world.action_space.seed(0)
    for _ in range(30):
        action = world.action_space.sample()
        (have, *rest), (want, *others) = seen.step(action), world.step(action)
        assert (have.tolist(), rest) == (want.tolist(), others)


def test_the_flat_table_is_the_flat_world():
    env = Flat(gymnasium.make("bayes_persona/RandomFactored-v0", states=3, actions=2, parents=2))
    spec = env.fmdp_spec()
    assert spec.inputs == {"state": 8, "action": 4}
    law = flat(spec).factors[0]
    for state, action in np.ndindex(8, 4):
        moves = env.P[state][action]
        assert sum(move[0] for move in moves) == pytest.approx(1)
        for chance, after, reward, ends in moves:
            assert chance == law[4 * state + action, after]
            assert (reward, ends) == (spec.reward[4 * state + action], False)
    assert {type(part) for part in env.P[0][0][0]} == {float, int, bool}


def test_numbers_that_do_not_begin_at_zero_are_understood():
    counter = Factored(Counter(), states={"tens": 2, "ones": 3})
    assert counter.actions == {"action0": 2, "action1": 3}
    assert counter.reset()[0].tolist() == [0, 0]
    for action in np.ndindex(2, 3):
        assert counter.step(np.array(action))[0].tolist() == list(action)


def test_an_action_that_is_one_number_may_be_taken_apart():
    taxi = Factored(TaxiEnv(), states=TAXI, actions={"kind": 2, "which": 3})
    plain = TaxiEnv()
    taxi.reset(seed=1)
    plain.reset(seed=1)
    for action in np.ndindex(2, 3):
        state = plain.step(3 * action[0] + action[1])[0]
        assert tuple(taxi.step(np.array(action))[0]) == plain.decode(state)


def test_without_a_table_the_view_works_and_the_truth_is_refused():
    counter = Factored(Counter(), states={"tens": 2, "ones": 3})
    with pytest.raises(ConfigError, match=r"has no table P .* an agent can learn in this view"):
        spec_of(counter)


def test_sizes_and_spaces_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"states: \{'row': 4, 'column': 5\} do not multiply to the \[16\] values"):
        Factored(gymnasium.make("FrozenLake-v1"), states={"row": 4, "column": 5})
    with pytest.raises(ConfigError, match=r"actions: .* do not multiply to the \[4\] values"):
        Factored(gymnasium.make("FrozenLake-v1"), states=GRID, actions={"a": 3})
    with pytest.raises(ConfigError, match="observation: expected a space that is Discrete or MultiDiscrete, got Box"):
        Factored(gymnasium.make("CartPole-v1"), states=GRID)
    with pytest.raises(ConfigError, match="observation: expected a space that is MultiDiscrete, got Discrete"):
        Flat(TaxiEnv())
    lake = Factored(gymnasium.make("FrozenLake-v1"), states=GRID)
    lake.reset(seed=0)
    with pytest.raises(ConfigError, match=r"action: expected one of Discrete\(4\), got 4"):
        lake.step(4)


def test_wrapped_worlds_are_made_again_from_their_description():
    lake = Factored(gymnasium.make("FrozenLake-v1", is_slippery=False), states=GRID)
    again = gymnasium.make(EnvSpec.from_json(lake.spec.to_json()))
    assert again.observation_space == lake.observation_space
    number = Flat(gymnasium.make("bayes_persona/Taxi-v0", size=3))
    assert gymnasium.make(EnvSpec.from_json(number.spec.to_json())).observation_space == Discrete(180)
