import gymnasium
import numpy as np
import pytest
from bayes_persona_envs.factored_world import FactoredWorld
from bayes_persona_envs.random_factored import RandomFactored
from bayes_persona_envs.sepsis import Sepsis
from bayes_persona_envs.sysadmin import SysAdmin
from bayes_persona_envs.taxi import Taxi
from bayes_persona_envs.vector import FactoredVector
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from bayes_persona.cpsrl.env import lamp, spec_of
from bayes_persona.errors import ConfigError

WORLDS = {
    "random": lambda: RandomFactored(states=4, actions=2, parents=2),
    "sepsis": Sepsis,
    "network": lambda: SysAdmin(machines=6),
    "taxi": lambda: Taxi(size=3, fail=0.2),
    "large network": lambda: SysAdmin(machines=300),  # a step takes more numbers than are drawn ahead
}


def same(have, want):
    """Whether infos, or what steps return, are equal, and of the same types."""
    if isinstance(want, dict):
        return have.keys() == want.keys() and all(same(have[key], want[key]) for key in want)
    if isinstance(want, tuple):
        return len(have) == len(want) and all(same(one, other) for one, other in zip(have, want, strict=True))
    if isinstance(want, np.ndarray) and want.dtype == object:
        return have.dtype == object and all(
            one is other is None or same(one, other) for one, other in zip(have, want, strict=True)
        )
    return have.dtype == want.dtype and have.shape == want.shape and bool((have == want).all())


def both(make, copies, steps, mode):
    ours = FactoredVector(make(), copies, max_episode_steps=steps, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: TimeLimit(make(), steps)] * copies, autoreset_mode=mode)
    assert ours.action_space == theirs.action_space
    assert ours.observation_space == theirs.observation_space
    assert ours.metadata == theirs.metadata
    return ours, theirs


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", WORLDS)
def test_copies_move_as_gymnasiums_own_vector_of_single_worlds(name, mode):
    ours, theirs = both(WORLDS[name], 4, 9, mode)
    assert same(ours.reset(seed=11), theirs.reset(seed=11))
    ours.action_space.seed(0)
    ends = 0
    for _ in range(40 if name == "large network" else 130):
        actions = ours.action_space.sample()
        have, want = ours.step(actions), theirs.step(actions)
        assert same(have, want)
        over = want[2] | want[3]
        ends += over.sum()
        if mode == AutoresetMode.DISABLED and over.any():
            assert same(ours.reset(options={"reset_mask": over}), theirs.reset(options={"reset_mask": over}))
    assert ends > 4


def test_seeds_may_be_given_one_by_one_or_not_at_all():
    ours, theirs = both(Sepsis, 3, 5, AutoresetMode.NEXT_STEP)
    assert same(ours.reset(seed=[5, 3, 9]), theirs.reset(seed=[5, 3, 9]))
    assert same(ours.reset(), theirs.reset())
    assert same(ours.reset(seed=[None, 4, None]), theirs.reset(seed=[None, 4, None]))
    free = FactoredVector(RandomFactored(states=20, parents=1), 2)
    assert len({tuple(row) for row in free.reset()[0]}) == 2


@pytest.mark.parametrize("name", ["RandomFactored", "Sepsis", "SysAdmin", "Taxi"])
def test_gymnasium_makes_many_copies_by_name(name):
    ours = gymnasium.make_vec(f"bayes_persona/{name}-v0", num_envs=3, max_episode_steps=4)
    theirs = gymnasium.make_vec(f"bayes_persona/{name}-v0", num_envs=3, vectorization_mode="sync", max_episode_steps=4)
    assert isinstance(ours, FactoredVector)
    assert isinstance(theirs, SyncVectorEnv)
    assert same(ours.reset(seed=1), theirs.reset(seed=1))
    ours.action_space.seed(0)
    for _ in range(12):
        actions = ours.action_space.sample()
        assert same(ours.step(actions), theirs.step(actions))
    assert gymnasium.make_vec(f"bayes_persona/{name}-v0", autoreset_mode="SameStep").autoreset_mode.value == "SameStep"
    ours.close()


def test_what_is_returned_is_the_callers_to_change():
    vector = FactoredVector(FactoredWorld(lamp()), 2)
    vector.reset(seed=0)[0][:] = 1
    observations, rewards, *_ = vector.step(np.array([0, 1]))
    assert observations.tolist() == [[0], [1]]
    assert rewards.tolist() == [0, 0]


def test_each_copy_is_drawn_as_the_world_draws_itself():
    vector = gymnasium.make_vec("bayes_persona/Sepsis-v0", num_envs=2, render_mode="ansi")
    assert spec_of(vector).states == vector.unwrapped.local_spec().states
    single = Sepsis(render_mode="ansi")
    vector.reset(seed=6)
    single.reset(seed=7)
    assert vector.render()[1] == single.render()
    vector.step(np.array([[1, 0, 1], [0, 1, 0]]))
    single.step(np.array([0, 1, 0]))
    assert vector.render()[1] == single.render()


def test_mistakes_of_the_caller_are_said():
    vector = FactoredVector(Taxi(), 2, max_episode_steps=1, autoreset_mode=AutoresetMode.DISABLED)
    for premature in (lambda: vector.step(np.zeros(2, dtype=int)), vector.render):
        with pytest.raises(gymnasium.error.ResetNeeded):
            premature()
    with pytest.raises(ConfigError, match="seed: expected 2 seeds"):
        vector.reset(seed=[1, 2, 3])
    with pytest.raises(ConfigError, match="reset_mask: expected a boolean array for 2 copies"):
        vector.reset(options={"reset_mask": np.array([False, False])})
    vector.reset(seed=0)
    with pytest.raises(ConfigError, match="actions: expected a member of"):
        vector.step(np.array([0, 6]))
    with pytest.raises(ConfigError, match="actions: expected a member of"):
        vector.step(np.array([0.5, 0.0]))
    vector.step(np.zeros(2, dtype=int))
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"reset copies \[0, 1\]"):
        vector.step(np.zeros(2, dtype=int))
    with pytest.raises(ConfigError, match="num_envs: expected at least 1, got 0"):
        FactoredVector(Taxi(), 0)
    with pytest.raises(ConfigError, match="autoreset_mode: expected one of"):
        FactoredVector(Taxi(), 1, autoreset_mode="never")
