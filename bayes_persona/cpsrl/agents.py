"""Posterior sampling agents: each episode follows the best policy of one world drawn from the posterior.

One kernel is four agents, by its prior over graphs: C-PSRL knows some edges (`graph.prior`), F-PSRL knows all
(`graph.known`), PSRL learns no structure (`graph.complete`), and flat PSRL sees no variables (`env.flat`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bayes_persona.cpsrl import factors, planner, regret, structure
from bayes_persona.cpsrl.env import FactoredSpec, spec_of
from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.errors import ConfigError, MismatchError, needs_extra
from bayes_persona.seeds import child
from bayes_persona.types import Info, Kernel

with needs_extra("jax"):
    import gymnasium


@dataclass(frozen=True)
class Config:
    """What a posterior sampling agent is told.

    >>> Config(horizon=30, alpha=0.0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: alpha: expected a finite number above 0, got 0.0
    """

    horizon: int = 30
    """Steps that an episode lasts at most, and that the agent plans for."""
    alpha: float = 1.0
    """How many times each value of a next variable was seen before the data, for each setting of its parents."""

    def __post_init__(self):
        if self.horizon < 1:
            raise ConfigError(f"horizon: expected at least 1 step, got {self.horizon}")
        if not (np.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigError(f"alpha: expected a finite number above 0, got {self.alpha}")


def psrl(config: Config, env: gymnasium.Env, prior: GraphPrior) -> Kernel[structure.State, Any]:
    """Build the agent. One step is one episode: draw a graph, draw its factors, plan, act, and take in what happened.

    The batch that a step is given is not looked at. The info of a step:

    - `return`: the rewards of the episode, summed;
    - `regret`: what its policy loses to the best one in the true world, in expectation;
    - `p_true`: posterior probability of the true graph, after the episode;
    - `p_supergraph`: posterior probability of all graphs that contain the true one, after the episode.

    Args:
        config: What the agent is told.
        env: A Gymnasium environment whose `unwrapped` has `fmdp_spec()`; wrappers are stepped through.
        prior: What is known of the graph of that spec, or of `env.flat` of it.

    Raises:
        ConfigError: If the environment does not say how it is factored.
        MismatchError: If the prior is for a world with other numbers of states or actions.

    >>> import bayes_persona_envs
    >>> from bayes_persona.cpsrl import graph
    >>> taxi = gymnasium.make("bayes_persona/Taxi-v0")
    >>> spec = spec_of(taxi)
    >>> kernel = psrl(Config(horizon=5), taxi, graph.known(spec, graph.true_graph(spec)))
    >>> state, info = kernel.step(0, kernel.init(0), None)
    >>> list(info), info["p_true"]
    (['return', 'regret', 'p_true', 'p_supergraph'], 1.0)
    """
    spec = spec_of(env)
    have = (prior.spec.state_count, prior.spec.action_count)
    want = (spec.state_count, spec.action_count)
    if have != want:
        raise MismatchError(
            f"prior: expected one for {want} states and actions, got {have}; build it from this env's spec"
        )
    return _Psrl(config, env, prior, spec, regret.optimum(spec, horizon=config.horizon))


@dataclass(frozen=True)
class _Psrl:
    config: Config
    env: gymnasium.Env
    prior: GraphPrior
    truth: FactoredSpec
    optimum: float

    def init(self, seed: int) -> structure.State:
        return structure.init(self.prior)

    def step(self, seed: int, state: structure.State, batch: Any) -> tuple[structure.State, Info]:
        prior, alpha = self.prior, self.config.alpha
        choice = structure.sample(prior, state, child(seed, "graph"))
        drawn = factors.sample(prior, state, choice, alpha, child(seed, "factors"))
        policy = planner.plan(drawn, prior.spec.reward, prior.spec.terminal, horizon=self.config.horizon).policy
        x, y, total = self._episode(policy, child(seed, "episode"))
        state = structure.update(prior, state, x, y, alpha)
        p_true, p_supergraph = structure.truth_probability(prior, state)
        info = {"return": total, "regret": self.optimum - regret.value(self.truth, policy)}
        return state, {**info, "p_true": p_true, "p_supergraph": p_supergraph}

    def _episode(self, policy: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Follow the policy, and give the moves x and y in the prior's variables, and the return."""
        sizes, actions = list(self.truth.states.values()), list(self.truth.actions.values())
        moves, total = [], 0.0
        observation, _ = self.env.reset(seed=seed)
        state = np.ravel_multi_index(observation, sizes)
        for now in policy:
            chosen = now[state]
            action = chosen if len(actions) == 1 else np.array(np.unravel_index(chosen, actions))
            observation, reward, terminated, truncated, _ = self.env.step(action)
            after = np.ravel_multi_index(observation, sizes)
            moves.append((state * self.truth.action_count + chosen, after))
            state, total = after, total + float(reward)
            if terminated:
                break
            if truncated and len(moves) < len(policy):
                raise ConfigError(
                    f"horizon: the environment stops episodes after {len(moves)} steps; "
                    f"lower the horizon from {len(policy)}, or raise max_episode_steps"
                )
        view = self.prior.spec
        x, after = np.array(moves).T
        x = np.stack(np.unravel_index(x, list(view.inputs.values())), axis=-1)
        return x, np.stack(np.unravel_index(after, list(view.states.values())), axis=-1), total
