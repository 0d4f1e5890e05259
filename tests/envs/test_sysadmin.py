import gymnasium
import numpy as np
import pytest
from bayes_persona_envs.sysadmin import SysAdmin

from bayes_persona.cpsrl.env import joint
from bayes_persona.errors import ConfigError


def stays_up(up, machine, reboot, topology):
    if reboot == machine:
        return 1.0
    if not up[machine]:
        return 0.05
    neighbour = machine - 1 if topology == "ring" else 0
    if topology == "star" and machine == 0:
        return 0.95
    return 0.95 if up[neighbour] else 0.7


@pytest.mark.parametrize("topology", ["ring", "star"])
def test_the_law_is_that_of_the_rules(topology):
    spec = SysAdmin(machines=4, topology=topology).fmdp_spec()
    law = joint(spec.factors)
    for state, reboot, after in np.ndindex(16, 5, 16):
        up, next_up = ([value >> 3 - machine & 1 for machine in range(4)] for value in (state, after))
        chances = [stays_up(up, machine, reboot, topology) for machine in range(4)]
        want = np.prod([chance if now else 1 - chance for chance, now in zip(chances, next_up, strict=True)])
        assert law[5 * state + reboot, after] == pytest.approx(want)
        assert spec.reward[5 * state + reboot] == pytest.approx(sum(up) / 4)
    assert spec.initial[-1] == 1
    assert not spec.terminal.any()


def test_parents_are_the_machine_its_neighbour_and_the_reboot():
    ring, star = SysAdmin(machines=3).fmdp_spec().parents, SysAdmin(machines=3, topology="star").fmdp_spec().parents
    assert ring["machine0'"] == ("machine0", "machine2", "reboot")
    assert ring["machine2'"] == ("machine1", "machine2", "reboot")
    assert star["machine0'"] == ("machine0", "reboot")
    assert star["machine2'"] == ("machine0", "machine2", "reboot")


def test_thirty_machines_move_but_are_not_listed():
    network = gymnasium.make("bayes_persona/SysAdmin-v0", machines=30)
    network.reset(seed=0)
    network.action_space.seed(0)
    total = sum(network.step(network.action_space.sample())[1] for _ in range(100)) / 100
    assert 0.05 < total < 0.9
    with pytest.raises(ConfigError, match=r"settings, more than the 20,000 .* plan with cpsrl.mcts"):
        network.unwrapped.fmdp_spec()


def test_the_local_tables_are_the_world():
    network = SysAdmin(machines=4)
    spec, local = network.fmdp_spec(), network.local_spec()
    for truth, (parents, table) in zip(spec.parents.values(), local.factors, strict=True):
        assert set(parents) == set(truth)
        assert table.shape == (2, 2, 5, 2)
    assert sum(table.max() for _, table in local.rewards) == pytest.approx(1)


def test_a_reboot_is_up_next_and_a_ring_left_alone_goes_down():
    network = SysAdmin(machines=8)
    network.reset(seed=0)
    for _ in range(200):
        observation, *_ = network.step(8)
    assert observation.sum() < 7
    down = int(np.flatnonzero(observation == 0)[0])
    assert network.step(down)[0][down] == 1
