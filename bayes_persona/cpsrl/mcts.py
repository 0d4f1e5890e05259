"""C-PSRL where states are too many to enumerate: each decision is searched for in a world drawn from the posterior.

The search is UCT (Kocsis & Szepesvári, "Bandit based Monte-Carlo planning", 2006): simulated episodes, whose first
actions are those that promise most (upper confidence bounds in a tree of states that were met), and whose others a
default policy chooses. Simulations run side by side, and those that are under way count as visits already, so that they
spread (Liu et al., "Watch the unobserved", 2020). One world is drawn for an episode, with no table over all states.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bayes_persona import ranges
from bayes_persona.cpsrl import structure
from bayes_persona.cpsrl.env import joint
from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.cpsrl.local import Local, LocalSpec, spec_of
from bayes_persona.errors import ConfigError, MismatchError, needs_extra
from bayes_persona.metrics import Interval, mean_interval
from bayes_persona.seeds import child, generator
from bayes_persona.types import Info, Kernel

with needs_extra("jax"):
    import gymnasium

PAIRS = 2**20
"""The most settings and next states that `planner_gap` looks at."""
Policy = Callable[[LocalSpec, np.ndarray, np.random.Generator], np.ndarray]
"""What simulations do outside the tree: the number of an action for each row of states, in this world."""


@dataclass(frozen=True)
class Config:
    """What an agent is told, and how hard it searches.

    >>> Config(simulations=0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: simulations: expected at least 1, got 0
    """

    horizon: int = 30
    """Steps that an episode lasts at most."""
    alpha: float = 1.0
    """How many times each value of a next variable was seen before the data, for each setting of its parents."""
    simulations: int = 500
    """Simulated episodes before each decision."""
    exploration: float = 0.4
    """How far to trust what was seen, as a share of all that could be earned in the steps that are left."""
    lookahead: int | None = None
    """Steps that a simulation looks ahead; left out, to the end of the episode. Few make for less noise."""
    batch: int = 16
    """Simulations that run side by side: 1 is UCT to the letter, more are faster."""

    def __post_init__(self):
        ranges.at_least(self, 1, "horizon", "simulations", "lookahead", "batch")
        ranges.positive(self, "alpha")
        ranges.at_least(self, 0, "exploration")


class Gap(NamedTuple):
    """What searching loses in an episode beside the best policy, with a 95 % interval, and what the best policy earns.

    >>> Gap(Interval(0.1, 0.0, 0.2), 2.0).loss.mean
    0.1
    """

    loss: Interval
    optimum: float


def uniform(
    world: LocalSpec, states: Int[np.ndarray, "copies states"], rng: np.random.Generator
) -> Int[np.ndarray, " copies"]:
    """Do anything: the default policy of simulations.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> uniform(LocalSpec.of(lamp()), np.ones((4, 1), int), np.random.default_rng(0)).max() < 2
    np.True_
    """
    return rng.integers(world.action_count, size=len(states))


def kernel(
    config: Config, env: gymnasium.Env | LocalSpec, prior: GraphPrior, *, policy: Policy = uniform
) -> Kernel[structure.State, Any]:
    """Build an agent. One step is one episode: draw a world, search in it before each move, and take in what happened.

    The batch that a step is given is not looked at. The info of a step:

    - `return`: the rewards of the episode, summed;
    - `p_true`: posterior probability of the true graph, after the episode;
    - `p_supergraph`: posterior probability of all graphs that contain the true one, after the episode;
    - `simulations`: how many episodes were simulated.

    Args:
        config: What the agent is told, and how hard it searches.
        env: A Gymnasium environment with `local_spec()`, wrappers being stepped through; or a spec, which is simulated.
        prior: What is known of the graph of that spec.
        policy: What simulations do outside the tree.

    Raises:
        ConfigError: If the environment has no local tables, or there are more actions than simulations.
        MismatchError: If the prior is for other variables.

    >>> import bayes_persona_envs
    >>> from bayes_persona.cpsrl import graph
    >>> network = gymnasium.make("bayes_persona/SysAdmin-v0", machines=20)  # a million states
    >>> world = spec_of(network)
    >>> prior = graph.known(world, graph.true_graph(world))
    >>> agent = kernel(Config(horizon=2, simulations=30), network, prior)
    >>> agent.step(0, agent.init(0), None)[1]["simulations"]
    60.0
    """
    world = env if isinstance(env, LocalSpec) else spec_of(env)
    if (prior.spec.states, prior.spec.actions) != (world.states, world.actions):
        raise MismatchError(
            f"prior: expected one for {dict(world.states)} and {dict(world.actions)}; build it from this env's spec"
        )
    _require_simulations(config, world)
    return _Agent(config, world, prior, policy, None if isinstance(env, LocalSpec) else env)


def draw(world: LocalSpec, prior: GraphPrior, state: structure.State, alpha: float, seed: int) -> LocalSpec:
    """Draw a world from the posterior: a graph, and the tables of that graph alone.

    Args:
        world: Gives what is known: variables, rewards, ends and the first state's law.
        prior: The candidates.
        state: What was seen.
        alpha: The Dirichlet's parameter for each cell.
        seed: Names the draw.

    >>> from bayes_persona.cpsrl import env, graph
    >>> world = LocalSpec.of(env.lamp())
    >>> prior = graph.prior(world, {"lamp'": ["switch"]}, max_parents=1)
    >>> draw(world, prior, structure.init(prior), alpha=1.0, seed=0).factors[0].parents
    ('switch',)
    """
    choice = structure.sample(prior, state, child(seed, "graph"))
    factors = []
    for j, (candidate, values) in enumerate(zip(choice, world.outputs.values(), strict=True)):
        start = prior.starts[j, candidate]
        counts = state.counts[start : start + prior.heights[j, candidate], :values]
        names = [name for name, member in zip(world.inputs, prior.members[j, candidate], strict=True) if member]
        table = _dirichlet(alpha + counts, generator(seed, "table", j))
        factors.append(Local(tuple(names), table.reshape(*(world.inputs[name] for name in names), values)))
    return LocalSpec(world.states, world.actions, tuple(factors), world.rewards, world.ends, world.initial)


def decide(
    config: Config,
    world: LocalSpec,
    state: Int[np.ndarray, " states"],
    *,
    step: int,
    seed: int,
    policy: Policy = uniform,
) -> int:
    """Search a world for the best action: the number of the one whose simulations earned most on average.

    Args:
        config: How hard to search.
        world: Where to search.
        state: The values of the state variables.
        step: How many moves of the episode were made before.
        seed: Names the search.
        policy: What simulations do outside the tree.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> decide(Config(horizon=5), LocalSpec.of(lamp()), np.array([0]), step=0, seed=0)  # switch it on
    1
    """
    rng = generator(seed, "search")
    left = config.horizon - step if config.lookahead is None else min(config.lookahead, config.horizon - step)
    tree = _Tree(config, world, left)
    done = 0
    while done < config.simulations:
        copies = min(config.batch, config.simulations - done)
        tree.simulate(np.tile(state, (copies, 1)), policy, rng)
        done += copies
    visits, _, total = tree.levels[0][state.tobytes()]
    return int(np.where(visits > 0, total / np.maximum(visits, 1), -np.inf).argmax())


def planner_gap(config: Config, spec: LocalSpec, *, seeds: Sequence[int], policy: Policy = uniform) -> Gap:
    """Measure what searching loses in a world that is known and small enough to plan in exactly.

    Every seed is an episode in which each move is searched for. What is lost is the sum of the best policy's
    V(s) − Q(s, a) over the moves: on average that is exactly its value less that of searching, and with less noise than
    returns have.

    Args:
        config: How hard to search.
        spec: A world that `dense` can list.
        seeds: Names the episodes.
        policy: What simulations do outside the tree.

    Raises:
        ConfigError: If the world is too large to list, or there are more actions than simulations.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> planner_gap(Config(horizon=5), LocalSpec.of(lamp()), seeds=range(2))  # dark at first, then lit
    Gap(loss=Interval(mean=0.0, low=0.0, high=0.0), optimum=4.0)
    """
    _require_simulations(config, spec)
    scores, optimum = _scores(spec, config.horizon)
    losses, sizes = [], [list(variables.values()) for variables in (spec.states, spec.actions)]
    for seed in seeds:
        lost = 0.0
        for step, move in enumerate(_live(config, spec, spec, policy, None, seed)):
            state, action = np.split(move.before, [len(sizes[0])])
            at = scores[step][np.ravel_multi_index(tuple(state), sizes[0])]
            lost += at.max() - at[np.ravel_multi_index(tuple(action), sizes[1])]
        losses.append(lost)
    return Gap(mean_interval(np.array(losses)), optimum)


class _Move(NamedTuple):
    before: Int[np.ndarray, " inputs"]
    after: Int[np.ndarray, " states"]
    earned: float


@dataclass(frozen=True)
class _Agent:
    config: Config
    world: LocalSpec
    prior: GraphPrior
    policy: Policy
    env: gymnasium.Env | None  # None where the world itself is simulated

    def init(self, seed: int) -> structure.State:
        return structure.init(self.prior)

    def step(self, seed: int, state: structure.State, batch: Any) -> tuple[structure.State, Info]:
        believed = draw(self.world, self.prior, state, self.config.alpha, child(seed, "world"))
        moves = list(_live(self.config, self.world, believed, self.policy, self.env, seed))
        x, y = (np.stack([move[part] for move in moves]) for part in (0, 1))
        state = structure.update(self.prior, state, x, y, self.config.alpha)
        p_true, p_supergraph = structure.truth_probability(self.prior, state)
        earned, simulated = sum(move.earned for move in moves), float(self.config.simulations * len(moves))
        return state, {
            "return": earned,
            "p_true": p_true,
            "p_supergraph": p_supergraph,
            "simulations": simulated,
        }


def _live(
    config: Config, world: LocalSpec, believed: LocalSpec, policy: Policy, env: gymnasium.Env | None, seed: int
) -> Iterator[_Move]:
    """Play an episode, each move searched for in the world that is believed in."""
    rng, actions = generator(seed, "moves"), _actions(world)
    if env is None:
        state = world.first(rng.random((1, world.first_draws)))[0]
    else:
        state = np.atleast_1d(env.reset(seed=child(seed, "episode"))[0]).astype(int)
    for step in range(config.horizon):
        chosen = decide(config, believed, state, step=step, seed=child(seed, "decision", step), policy=policy)
        before = np.concatenate([state, actions[chosen]])
        if env is None:
            after = world.move(before[None], rng.random((1, len(state))))
            earned, ended = float(world.earned(before[None], after)[0]), bool(world.ended(before[None], after)[0])
            state, stopped = after[0], False
        else:
            action = chosen if len(world.actions) == 1 else actions[chosen]
            observation, reward, ended, stopped, _ = env.step(action)
            state, earned = np.atleast_1d(observation).astype(int), float(reward)
        yield _Move(before, state, earned)
        if ended:
            return
        if stopped and step + 1 < config.horizon:
            raise ConfigError(
                f"horizon: the environment stops episodes after {step + 1} steps; "
                f"lower the horizon from {config.horizon}, or raise max_episode_steps"
            )


class _Tree:
    """The states that simulations met, and for each action there: visits, visits under way, and returns summed."""

    def __init__(self, config: Config, world: LocalSpec, left: int):
        self.world, self.left, self.actions = world, left, _actions(world)
        self.trust = config.exploration * world.span
        self.levels: list[dict[bytes, np.ndarray]] = [{} for _ in range(left)]

    def simulate(self, states: Int[np.ndarray, "copies states"], policy: Policy, rng: np.random.Generator) -> None:
        """Simulate an episode from each state to its end, add the first new state of each, and note what was earned."""
        copies = len(states)
        if states[0].tobytes() not in self.levels[0]:
            self.levels[0][states[0].tobytes()] = np.zeros((3, len(self.actions)))
        inside, going = list(range(copies)), np.ones(copies, dtype=bool)
        earned = np.zeros((copies, self.left))
        path: list[tuple[np.ndarray, int, int, int]] = []
        for depth, level in enumerate(self.levels):
            chosen = policy(self.world, states, rng)
            stays = []
            for copy in inside:
                key = states[copy].tobytes()
                node = level.get(key)
                if node is None:  # here the tree ends; another copy may meet this state again at once
                    level[key] = np.zeros((3, len(self.actions)))
                    continue
                chosen[copy] = self._pick(node, self.left - depth, rng)
                node[1, chosen[copy]] += 1
                path.append((node, copy, depth, int(chosen[copy])))
                stays.append(copy)
            before = np.concatenate([states, self.actions[chosen]], axis=1)
            states = self.world.move(before, rng.random(states.shape))
            earned[:, depth] = np.where(going, self.world.earned(before, states), 0.0)
            going &= ~self.world.ended(before, states)
            if not going.any():
                break
            inside = [copy for copy in stays if going[copy]]
        returns = earned[:, ::-1].cumsum(axis=1)[:, ::-1]
        for node, copy, depth, action in path:
            node[0, action] += 1
            node[1, action] -= 1
            node[2, action] += returns[copy, depth]

    def _pick(self, node: np.ndarray, left: int, rng: np.random.Generator) -> int:
        """Choose an action by its upper confidence bound; those never tried come first, in random order."""
        visits, flying, total = node
        tried = visits + flying
        new = np.flatnonzero(tried == 0)
        if len(new):
            return int(new[int(rng.random() * len(new))])
        unknown = total.sum() / max(visits.sum(), 1)  # of actions whose first visit is under way
        mean = np.where(visits > 0, total / np.maximum(visits, 1), unknown)
        return int((mean + self.trust * left * np.sqrt(2 * np.log(tried.sum()) / tried)).argmax())


def _actions(world: LocalSpec) -> Int[np.ndarray, "actions variables"]:
    """Give what each number of an action is."""
    return np.stack(np.unravel_index(np.arange(world.action_count), list(world.actions.values())), axis=1)


def _scores(spec: LocalSpec, horizon: int) -> tuple[list[Float[np.ndarray, "s actions"]], float]:
    """Give the value of each action in each state at each step, if all that follow are best, and that of the best."""
    whole = spec.dense()
    if len(whole.factors[0]) * whole.state_count > PAIRS:
        raise ConfigError(f"spec: {whole.state_count:,} states are too many to compare with; take a smaller world")
    probs, value, scores = joint(whole.factors), np.zeros(whole.state_count), []
    reward = whole.reward if whole.reward.ndim == 1 else (probs * whole.reward).sum(axis=1)
    going = probs * ~(whole.terminal[:, None] if whole.terminal.ndim == 1 else whole.terminal)
    for _ in range(horizon):
        scores.append((reward + going @ value).reshape(whole.state_count, -1))
        value = scores[-1].max(axis=1)
    return scores[::-1], float(whole.initial @ value)


def _dirichlet(shape: Float[np.ndarray, "rows values"], rng: np.random.Generator) -> Float[np.ndarray, "rows values"]:
    """Draw each row from its Dirichlet, in logarithms: Gamma(a) = Gamma(a + 1) U^(1/a), which never underflows."""
    logs = np.log(rng.standard_gamma(shape + 1)) - rng.exponential(size=shape.shape) / shape
    probs = np.exp(logs - logs.max(axis=1, keepdims=True))
    return probs / probs.sum(axis=1, keepdims=True)


def _require_simulations(config: Config, world: LocalSpec) -> None:
    if config.simulations < world.action_count:
        raise ConfigError(
            f"simulations: expected one for each of the {world.action_count:,} actions at least, "
            f"got {config.simulations}"
        )
