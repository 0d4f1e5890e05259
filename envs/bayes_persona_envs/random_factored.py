"""Random factored worlds, drawn from the very prior that agents assume: what Bayesian regret is measured on."""

import numpy as np

from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.cpsrl.local import Local, LocalSpec
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.seeds import generator
from bayes_persona_envs.factored_world import FactoredWorld
from bayes_persona_envs.vector import FactoredVector

with needs_extra("envs"):
    from gymnasium.vector import AutoresetMode

CELLS = 1_000_000
"""The most numbers in the table of one variable."""


class RandomFactored(FactoredWorld):
    """A world drawn by `random_rules`; its episodes do not end.

    Args:
        instance_seed: Names the world. Seeds of `reset` only say what happens in it.
        states: Number of state variables, `s0`, `s1`, ….
        actions: Number of action variables, `a0`, `a1`, ….
        values: Number of values of every variable.
        parents: Number of parents of every next variable.
        render_mode: As for any `FactoredWorld`.

    >>> RandomFactored(instance_seed=7).fmdp_spec().reward.shape
    (512,)
    """

    def __init__(
        self,
        instance_seed: int = 0,
        states: int = 6,
        actions: int = 3,
        values: int = 2,
        parents: int = 5,
        render_mode: str | None = None,
    ):
        super().__init__(random_rules(instance_seed, states, actions, values, parents), render_mode)


def vector(
    num_envs: int = 1,
    instance_seed: int = 0,
    states: int = 6,
    actions: int = 3,
    values: int = 2,
    parents: int = 5,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
) -> FactoredVector:
    """Give many copies of one world, that step at once: what `gymnasium.make_vec` calls.

    >>> vector(num_envs=3, states=2, parents=1).reset(seed=0)[0].shape
    (3, 2)
    """
    world = RandomFactored(instance_seed, states, actions, values, parents, render_mode)
    return FactoredVector(world, num_envs, max_episode_steps, autoreset_mode)


def random_rules(seed: int, states: int = 6, actions: int = 3, values: int = 2, parents: int = 5) -> LocalSpec:
    """Draw a world: parents uniformly, laws from Dirichlet(1), and a reward for each setting of each set of parents.

    The reward is a sum of one number for each next variable, uniform in [0, 1] over the number of next variables, so
    it is in [0, 1] itself. The first state is uniform.

    Raises:
        ConfigError: If a number is too small, or more parents are asked for than there are variables.

    >>> [len(parents) for parents, _ in random_rules(seed=0).factors]
    [5, 5, 5, 5, 5, 5]
    """
    for name, number, least in [
        ("instance_seed", seed, 0),
        ("states", states, 1),
        ("actions", actions, 1),
        ("values", values, 2),
        ("parents", parents, 0),
    ]:
        if not (isinstance(number, int) and number >= least):
            raise ConfigError(f"{name}: expected a whole number of at least {least}, got {number!r}")
    if parents > states + actions:
        raise ConfigError(f"parents: there are {states + actions} variables, got {parents}; lower it")
    if values ** (parents + 1) > CELLS:
        raise ConfigError(f"parents: {values}^{parents + 1} cells a table are more than {CELLS:,}; lower it or values")
    inputs = [*(f"s{number}" for number in range(states)), *(f"a{number}" for number in range(actions))]
    factors, rewards = [], []
    for number in range(states):
        rng = generator(seed, "factor", number)
        chosen = tuple(inputs[place] for place in sorted(rng.choice(len(inputs), parents, replace=False)))
        shape = (values,) * parents
        factors.append(Local(chosen, rng.dirichlet(np.ones(values), shape)))
        rewards.append(Local(chosen, rng.uniform(size=shape) / states))
    sizes = dict.fromkeys(inputs, values)
    return LocalSpec(
        {name: sizes[name] for name in inputs[:states]},
        {name: sizes[name] for name in inputs[states:]},
        tuple(factors),
        tuple(rewards),
        (),
        tuple(np.full(values, 1 / values) for _ in range(states)),
    )


def random_spec(seed: int, states: int = 6, actions: int = 3, values: int = 2, parents: int = 5) -> FactoredSpec:
    """List the world that `random_rules` draws.

    >>> random_spec(seed=0).state_count
    64
    """
    return random_rules(seed, states, actions, values, parents).dense()
