"""What the comparisons with peers stand on: that a peer may be absent, and that both sides mean the same by a world."""

import numpy as np
from bayes_persona_envs.random_factored import random_spec

from bayes_persona.cpsrl import regret
from benchmarks.peers import by_numpy, by_rlberry, race, tabular


def test_a_peer_that_is_not_installed_is_left_out_with_a_message(capsys):
    assert not race.present("no_such_library")
    assert "no_such_library: left out" in capsys.readouterr().out


def test_a_table_means_what_its_factored_world_does():
    spec = random_spec(seed=0, states=3, actions=2, parents=2)
    table = tabular.table_of(spec, horizon=4, episodes=1)
    policy = tabular.backward(table.probs, table.reward, table.horizon)
    assert np.allclose(table.probs.sum(axis=-1), 1)
    assert np.isclose(regret.value(spec, policy), regret.optimum(spec, horizon=4))


def test_agents_of_tables_learn():
    spec = random_spec(seed=1, states=2, actions=1, parents=2)
    table, best = tabular.table_of(spec, horizon=5, episodes=60), regret.optimum(spec, horizon=5)
    for live in (by_numpy.live, by_rlberry.live):
        lost = [best - regret.value(spec, policy) for policy in live(table, 0.5, 0)]
        assert sum(lost[30:]) <= sum(lost[:30])


def test_a_median_lies_in_its_interval():
    row = race.median("a", [0.5, 1.0, 2.0], "", command="", seconds=0.0)
    assert row.low is not None
    assert row.high is not None
    assert row.low <= row.value == 1.0 <= row.high
