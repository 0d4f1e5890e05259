"""A network of machines, and one person who can reboot one of them at a time."""

import numpy as np

from bayes_persona.cpsrl.local import Local, LocalSpec
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona_envs.factored_world import FactoredWorld
from bayes_persona_envs.vector import FactoredVector

with needs_extra("envs"):
    from gymnasium.vector import AutoresetMode

STAYS, HELPED, RECOVERS = 0.45, 0.5, 0.05
"""A working machine stays up with STAYS + HELPED · (share of it and its neighbours that are up); a broken one comes
back by itself with RECOVERS."""

TOPOLOGIES = ("ring", "star")


class SysAdmin(FactoredWorld):
    """The network administrator of Guestrin, Koller, Parr & Venkataraman (JAIR 2003), with numbers of our own.

    A machine that is rebooted is up next. Another that is up stays up with probability 0.45 + 0.5 (1 + u) / (1 + n), if
    u of its n neighbours are up: with 0.95 if all are, with 0.7 if its only neighbour is down. One that is down comes
    back with probability 0.05. The reward is the share of machines that are up before the move. At first all are, and
    episodes do not end.

    In a ring the neighbour of a machine is the one before it. In a star all have one neighbour, machine 0, the server,
    which has none itself.

    Args:
        machines: How many. Beyond ten the world still moves, and `cpsrl.mcts` plans in its `local_spec`, but it is too
            large to be listed in `fmdp_spec`.
        topology: "ring" or "star".
        render_mode: As for any `FactoredWorld`.

    Raises:
        ConfigError: If there are fewer than two machines, or there is no such topology.

    >>> SysAdmin(machines=3).fmdp_spec().parents["machine1'"]
    ('machine0', 'machine1', 'reboot')
    """

    def __init__(self, machines: int = 8, topology: str = "ring", render_mode: str | None = None):
        if not (isinstance(machines, int) and machines >= 2):
            raise ConfigError(f"machines: expected a whole number of at least 2, got {machines!r}")
        if topology not in TOPOLOGIES:
            raise ConfigError(f"topology: expected one of {TOPOLOGIES}, got {topology!r}")
        names = [f"machine{number}" for number in range(machines)]
        words = {**dict.fromkeys(names, ("down", "up")), "reboot": (*names, "nothing")}
        super().__init__(_rules(names, topology), render_mode, words)


def vector(
    num_envs: int = 1,
    machines: int = 8,
    topology: str = "ring",
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
) -> FactoredVector:
    """Give many networks that step at once: what `gymnasium.make_vec` calls.

    >>> vector(num_envs=3, machines=30).reset(seed=0)[0].shape
    (3, 30)
    """
    return FactoredVector(SysAdmin(machines, topology, render_mode), num_envs, max_episode_steps, autoreset_mode)


def _rules(names: list[str], topology: str) -> LocalSpec:
    factors = []
    for number, name in enumerate(names):
        neighbour = names[number - 1] if topology == "ring" else names[0]
        parents = (name,) if neighbour == name else (neighbour, name)
        up = np.indices([2] * len(parents)).mean(axis=0)  # the share of the machine and its neighbour that is up
        works = np.where(np.indices(up.shape)[-1] == 1, STAYS + HELPED * up, RECOVERS)
        works = np.repeat(works[..., None], len(names) + 1, axis=-1)
        works[..., number] = 1.0
        factors.append(Local((*parents, "reboot"), np.stack([1 - works, works], axis=-1)))
    rewards = tuple(Local((name,), np.array([0.0, 1 / len(names)])) for name in names)
    first = tuple(np.array([0.0, 1.0]) for _ in names)
    return LocalSpec(dict.fromkeys(names, 2), {"reboot": len(names) + 1}, tuple(factors), rewards, (), first)
