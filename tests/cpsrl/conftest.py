"""Small worlds with random factors, and an environment that moves by any factored spec."""

import gymnasium
import numpy as np
import pytest

from bayes_persona.cpsrl.env import FactoredSpec


class World(gymnasium.Env):
    """A real Gymnasium environment that does what a spec says."""

    def __init__(self, spec, stops_after=None):
        self.truth = spec
        self.stops_after = stops_after
        self.observation_space = gymnasium.spaces.MultiDiscrete(list(spec.states.values()))
        self.action_space = gymnasium.spaces.MultiDiscrete(list(spec.actions.values()))

    def fmdp_spec(self):
        return self.truth

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        first = self.np_random.choice(self.truth.state_count, p=self.truth.initial)
        self.state = np.array(np.unravel_index(first, list(self.truth.states.values())))
        return self.state, {}

    def step(self, action):
        self.steps += 1
        setting = [*self.state, *np.atleast_1d(action)]
        x = np.ravel_multi_index(setting, list(self.truth.inputs.values()))
        self.state = np.array([self.np_random.choice(len(f[x]), p=f[x]) for f in self.truth.factors])
        truncated = self.steps == self.stops_after
        return self.state, float(self.truth.reward[x]), bool(self.truth.terminal[x]), truncated, {}


def random_spec(seed, states=None, actions=None, parents=2):
    rng = np.random.default_rng(seed)
    states = {"a": 2, "b": 3, "c": 2} if states is None else states
    actions = {"left": 2, "right": 2} if actions is None else actions
    sizes = np.array([*states.values(), *actions.values()])
    digits = np.indices(sizes).reshape(len(sizes), -1)
    x, factors = digits.shape[1], []
    for size in states.values():
        chosen = np.sort(rng.choice(len(sizes), parents, replace=False))
        row = np.ravel_multi_index(tuple(digits[chosen]), tuple(sizes[chosen]))
        factors.append(rng.dirichlet(np.ones(size), row.max() + 1)[row])
    initial = rng.dirichlet(np.ones(int(np.prod(list(states.values())))))
    return FactoredSpec(states, actions, rng.normal(size=x), rng.random(x) < 0.2, initial, tuple(factors))


@pytest.fixture(scope="session")
def world():
    return World


@pytest.fixture(scope="session")
def spec():
    """Give a random spec: `spec(seed)`, or with other variables or numbers of parents."""
    return random_spec
