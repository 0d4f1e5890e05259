"""Agents that learn a factored world: each episode follows the best policy of what they believe of it.

One kernel is every agent, by what it knows and how it plans. What it knows is its prior: C-PSRL knows some edges
(`graph.prior`), F-PSRL all of them (`graph.known`), PSRL learns no structure (`graph.complete`), and flat agents see no
variables (`env.flat`). How it plans is `Config.method`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bayes_persona.cpsrl import episode, rewards, structure
from bayes_persona.cpsrl.config import Config
from bayes_persona.cpsrl.env import FactoredSpec, spec_of
from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.errors import ConfigError, MismatchError, needs_extra
from bayes_persona.seeds import child
from bayes_persona.types import Info, Kernel

with needs_extra("jax"):
    import gymnasium
    import jax


def kernel(config: Config, env: gymnasium.Env | FactoredSpec, prior: GraphPrior) -> Kernel[structure.State, Any]:
    """Build an agent. One step is one episode: believe something, plan, act, and take in what happened.

    The batch that a step is given is not looked at. The info of a step:

    - `return`: the rewards of the episode, summed;
    - `regret`: what its policy loses to the best one in the true world, in expectation;
    - `p_true`: posterior probability of the true graph, after the episode;
    - `p_supergraph`: posterior probability of all graphs that contain the true one, after the episode.

    Args:
        config: What the agent is told.
        env: A Gymnasium environment whose `unwrapped` has `fmdp_spec()`, wrappers being stepped through; or a spec,
            which is simulated, and whose steps are those of `experiment.run`.
        prior: What is known of the graph of that spec, or of `env.flat` of it.

    Raises:
        ConfigError: If the environment does not say how it is factored.
        MismatchError: If the prior is for a world with other numbers of states or actions.

    >>> import bayes_persona_envs
    >>> from bayes_persona.cpsrl import graph
    >>> taxi = gymnasium.make("bayes_persona/Taxi-v0")
    >>> spec = spec_of(taxi)
    >>> agent = kernel(Config(horizon=5), taxi, graph.known(spec, graph.true_graph(spec)))
    >>> state, info = agent.step(0, agent.init(0), None)
    >>> list(info), info["p_true"]
    (['return', 'regret', 'p_true', 'p_supergraph'], 1.0)
    """
    truth = env if isinstance(env, FactoredSpec) else spec_of(env)
    require_same(prior, truth)
    arrays = episode.setup(config, prior, truth), episode.problem(config, prior, truth)
    return _Simulated(prior, *arrays) if isinstance(env, FactoredSpec) else _Stepped(prior, *arrays, env, truth)


def require_same(prior: GraphPrior, truth: FactoredSpec) -> None:
    """Check that a prior is for a world of these numbers of states and actions.

    Raises:
        MismatchError: If it is not.

    >>> from bayes_persona.cpsrl import env, graph
    >>> require_same(graph.complete(env.flat(env.lamp())), env.lamp())
    """
    have = (prior.spec.state_count, prior.spec.action_count)
    want = (truth.state_count, truth.action_count)
    if have != want:
        raise MismatchError(
            f"prior: expected one for {want} states and actions, got {have}; build it from this env's spec"
        )


def init(config: Config, prior: GraphPrior) -> structure.State:
    """Give what an agent has seen before its first episode.

    >>> from bayes_persona.cpsrl import env, graph
    >>> init(Config(reward="normal_gamma"), graph.complete(env.lamp())).rewards.shape
    (4, 3)
    """
    x = prior.spec.state_count * prior.spec.action_count
    return structure.init(prior)._replace(rewards=rewards.init(config.reward, x))


@dataclass(frozen=True)
class _Simulated:
    """An agent in a world that is simulated."""

    prior: GraphPrior
    setup: episode.Setup
    problem: episode.Problem

    def init(self, seed: int) -> structure.State:
        return init(self.setup.config, self.prior)

    def step(self, seed: int, state: structure.State, batch: Any) -> tuple[structure.State, Info]:
        with jax.enable_x64(True):
            state, info = _episode(self.setup, self.problem, state, seed)
            return jax.tree.map(np.asarray, state), _numbers(info)


@dataclass(frozen=True)
class _Stepped:
    """An agent in a Gymnasium environment."""

    prior: GraphPrior
    setup: episode.Setup
    problem: episode.Problem
    env: gymnasium.Env
    truth: FactoredSpec

    def init(self, seed: int) -> structure.State:
        return init(self.setup.config, self.prior)

    def step(self, seed: int, state: structure.State, batch: Any) -> tuple[structure.State, Info]:
        with jax.enable_x64(True):
            policy = _decide(self.setup, self.problem, state, seed)
            moves = self._follow(np.asarray(policy), child(seed, "episode"))
            state, info = _finish(self.setup, self.problem, state, policy, moves, seed)
            return jax.tree.map(np.asarray, state), _numbers(info)

    def _follow(self, policy: np.ndarray, seed: int) -> episode.Moves:
        sizes, actions = list(self.truth.states.values()), list(self.truth.actions.values())
        horizon = len(policy)
        x, y, earned, happened = (np.zeros(horizon, kind) for kind in (int, int, float, bool))
        observation, _ = self.env.reset(seed=seed)
        state = np.ravel_multi_index(np.atleast_1d(observation), sizes)
        for step, now in enumerate(policy):
            chosen = now[state]
            action = chosen if len(actions) == 1 else np.array(np.unravel_index(chosen, actions))
            observation, reward, terminated, truncated, _ = self.env.step(action)
            x[step] = state * self.truth.action_count + chosen
            state = y[step] = np.ravel_multi_index(np.atleast_1d(observation), sizes)
            earned[step], happened[step] = float(reward), True
            if terminated:
                break
            if truncated and step + 1 < horizon:
                raise ConfigError(
                    f"horizon: the environment stops episodes after {step + 1} steps; "
                    f"lower the horizon from {horizon}, or raise max_episode_steps"
                )
        return episode.Moves(x, y, earned, happened)


@partial(jax.jit, static_argnums=0)
def _episode(setup, problem, state, seed):
    return episode.episode(setup, problem, state, seed)


@partial(jax.jit, static_argnums=0)
def _decide(setup, problem, state, seed):
    return episode.decide(setup, problem, state, episode.keys(seed)[0])


@partial(jax.jit, static_argnums=0)
def _finish(setup, problem, state, policy, moves, seed):
    state = episode.learn(setup, problem, state, moves, episode.keys(seed)[2])
    return state, episode.measure(problem, state, policy, moves)


def _numbers(info: dict[str, Any]) -> Info:
    return {name: float(info[name]) for name in episode.LOG}
