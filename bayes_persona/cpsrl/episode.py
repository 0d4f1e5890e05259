"""One episode as a compiled program: believe, plan, act in a world that is simulated, and learn from it.

A seed names what is drawn: the same seed draws the same episode step by step, in a loop, or beside a thousand others.
"""

from typing import Any, NamedTuple

import numpy as np

from bayes_persona.cpsrl import compiled, factors, planner, regret, rewards
from bayes_persona.cpsrl.config import Config
from bayes_persona.cpsrl.env import FactoredSpec, outcome
from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.cpsrl.structure import State
from bayes_persona.errors import needs_extra

with needs_extra("jax"):
    import jax
    import jax.numpy as jnp

LOG = ("return", "regret", "p_true", "p_supergraph")
"""What `measure` gives, in the order of the log."""


class Setup(NamedTuple):
    """What a program is compiled for.

    >>> from bayes_persona.cpsrl import env, graph
    >>> setup(Config(), graph.complete(env.lamp()), env.lamp()).actions
    2
    """

    config: Config
    shape: compiled.Sizes
    states: tuple[int, ...]
    """Values of each state variable of the world, which an agent may see as one."""
    actions: int


class Problem(NamedTuple):
    """A world, and what an agent is told of it, as arrays, which `jax.vmap` maps over.

    >>> from bayes_persona.cpsrl import env, graph
    >>> problem(Config(horizon=3), graph.complete(env.lamp()), env.lamp()).optimum.item()
    2.0
    """

    known: compiled.Candidates
    reward: Any
    terminal: Any
    moves: planner.Law
    cumulative: Any  # (x, outputs, values): of the true factors
    first: Any  # (s,): of the first state's law, cumulative
    initial: Any  # (s,)
    optimum: Any


class Moves(NamedTuple):
    """What happened in an episode, step by step; an episode that ended early is filled up with moves that did not.

    >>> Moves(np.array([1]), np.array([1]), np.array([0.0]), np.array([True])).happened.sum()
    np.int64(1)
    """

    x: Any
    y: Any
    earned: Any
    happened: Any


def setup(config: Config, prior: GraphPrior, truth: FactoredSpec) -> Setup:
    """Give what a program for this agent in this world is compiled for.

    >>> from bayes_persona.cpsrl import env, graph
    >>> setup(Config(), graph.complete(env.lamp()), env.lamp()).states
    (2,)
    """
    return Setup(config, compiled.sizes(prior), tuple(truth.states.values()), truth.action_count)


def problem(config: Config, prior: GraphPrior, truth: FactoredSpec) -> Problem:
    """Give a world and what an agent is told of it as arrays.

    >>> from bayes_persona.cpsrl import env, graph
    >>> problem(Config(), graph.complete(env.lamp()), env.lamp()).cumulative[0].tolist()  # off stays off
    [[1.0, 2.0]]
    """
    values = max(truth.outputs.values())
    cumulative = np.full((len(truth.factors[0]), len(truth.factors), values), 2.0)  # beyond what a uniform draw can be
    for j, factor in enumerate(truth.factors):
        cumulative[:, j, : factor.shape[1] - 1] = factor.cumsum(axis=1)[:, :-1]
    with jax.enable_x64(True):
        moves = planner.Law(*(np.asarray(half) for half in planner.law(truth.factors)))
    optimum = regret.optimum(truth, horizon=config.horizon)
    told = (compiled.candidates(prior), truth.reward, truth.terminal)
    return Problem(*told, moves, cumulative, truth.initial.cumsum(), truth.initial, np.float64(optimum))


def decide(setup: Setup, told: Problem, state: State, key: Any) -> Any:
    """Give the policy (horizon, s) of an agent that believes what is in `state`.

    >>> from bayes_persona.cpsrl import env, graph, structure
    >>> prior = graph.complete(env.lamp())
    >>> told = problem(Config(), prior, env.lamp())
    >>> decide(setup(Config(), prior, env.lamp()), told, structure.init(prior), jax.random.key(0)).shape
    (30, 2)
    """
    config, shape = setup.config, setup.shape
    graph_key, table_key, reward_key, noise_key, wander_key = jax.random.split(key, 5)
    drawing = config.method in ("psrl", "map")
    if drawing:
        choice = compiled.choose(told.known, state, graph_key, probable=config.method == "map")
        tables = factors.draw(told.known, shape, state, choice, config.alpha, table_key)
    else:
        tables = factors.mean(told.known, shape, state, config.alpha)
    reward, extra, most = told.reward, None, None
    if config.reward != "known":
        reward = (
            rewards.draw(config.reward, state.rewards, reward_key)
            if drawing
            else rewards.mean(config.reward, state.rewards)
        )
    if config.method in ("ucbvi", "rlsvi"):
        extra, most = _explore(setup, told, state, noise_key), reward.max()
    policy, _ = planner.backward(
        planner.law(tables), reward, told.terminal, horizon=config.horizon, extra=extra, most=most
    )
    if config.epsilon > 0:  # each state is met at most once at each step, so this is a fresh coin at every step
        coin, action = jax.random.split(wander_key)
        wander = jax.random.uniform(coin, policy.shape) < config.epsilon
        policy = jnp.where(wander, jax.random.randint(action, policy.shape, 0, setup.actions, policy.dtype), policy)
    return policy


def act(setup: Setup, world: Problem, policy: Any, key: Any) -> Moves:
    """Follow a policy through an episode of the true world.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.complete(env.lamp())
    >>> arrays = jax.tree.map(jnp.asarray, problem(Config(), prior, env.lamp()))
    >>> moves = act(setup(Config(), prior, env.lamp()), arrays, jnp.zeros((30, 2), int), jax.random.key(0))
    >>> int(moves.x.sum()), float(moves.earned.sum())  # off, and never switched on
    (0, 0.0)
    """
    horizon, dtype = setup.config.horizon, jnp.asarray(world.first).dtype
    strides = jnp.array([int(np.prod(setup.states[j + 1 :])) for j in range(len(setup.states))])
    last = len(world.first) - 1  # a cumulative sum may stay below 1 by a rounding error
    # one call for all that happens: each is compiled by itself, and takes longer to compile than to run
    drawn = jax.random.uniform(key, (1 + horizon * len(setup.states),), dtype)
    start, uniform = jnp.minimum((world.first <= drawn[0]).sum(), last), drawn[1:].reshape(horizon, -1)

    def step(carry, now):
        state, going = carry
        actions, uniform = now
        x = state * setup.actions + actions[state]
        y = (world.cumulative[x] <= uniform[:, None]).sum(axis=-1) @ strides
        move = Moves(x, y, jnp.where(going, outcome(world.reward, x, y), 0.0), going)
        return (y, going & ~outcome(world.terminal, x, y)), move

    return jax.lax.scan(step, (start, jnp.array(True)), (policy, uniform))[1]


def learn(setup: Setup, told: Problem, state: State, moves: Moves, key: Any) -> State:
    """Take in what happened.

    >>> from bayes_persona.cpsrl import env, graph, structure
    >>> prior = graph.complete(env.lamp())
    >>> moves = Moves(np.array([1]), np.array([1]), np.array([0.0]), np.array([True]))
    >>> told = problem(Config(), prior, env.lamp())
    >>> start = structure.init(prior)
    >>> learn(setup(Config(), prior, env.lamp()), told, start, moves, jax.random.key(0)).counts.tolist()
    [[0, 0], [0, 1], [0, 0], [0, 0]]
    """
    config, shape = setup.config, setup.shape
    x = jnp.stack(jnp.unravel_index(moves.x, shape.inputs), axis=-1)
    y = jnp.stack(jnp.unravel_index(moves.y, shape.outputs), axis=-1)
    seen = rewards.learn(config.reward, state.rewards, moves.x, moves.earned, moves.happened, key)
    return compiled.learn(told.known, shape, state, x, y, moves.happened, config.alpha)._replace(rewards=seen)


def measure(told: Problem, state: State, policy: Any, moves: Moves) -> dict[str, Any]:
    """Give the numbers of an episode's log: return, regret, p_true and p_supergraph.

    >>> from bayes_persona.cpsrl import env, graph, structure
    >>> prior = graph.complete(env.lamp())
    >>> told = problem(Config(horizon=3), prior, env.lamp())
    >>> moves = Moves(np.array([1]), np.array([1]), np.array([0.0]), np.array([True]))
    >>> float(measure(told, structure.init(prior), np.zeros((3, 2), int), moves)["regret"])
    2.0
    """
    value = told.initial @ planner.follow(told.moves, told.reward, told.terminal, policy)
    p_true, p_supergraph = compiled.truth_shares(told.known, state)
    loss = told.optimum - value
    return {"return": moves.earned.sum(), "regret": loss, "p_true": p_true, "p_supergraph": p_supergraph}


def episode(setup: Setup, world: Problem, state: State, seed: Any) -> tuple[State, dict[str, Any]]:
    """Play and learn from one episode.

    >>> from bayes_persona.cpsrl import env, graph, structure
    >>> prior = graph.complete(env.lamp())
    >>> world = jax.tree.map(jnp.asarray, problem(Config(), prior, env.lamp()))
    >>> state, info = episode(setup(Config(), prior, env.lamp()), world, structure.init(prior), 0)
    >>> int(state.counts.sum())
    30
    """
    plan_key, act_key, learn_key = keys(seed)
    policy = decide(setup, world, state, plan_key)
    moves = act(setup, world, policy, act_key)
    state = learn(setup, world, state, moves, learn_key)
    return state, measure(world, state, policy, moves)


def keys(seed: Any) -> Any:
    """Give the keys of an episode: of its plan, of what happens, and of what is learned.

    >>> keys(0).shape
    (3,)
    """
    return jax.random.split(jax.random.key(seed), 3)


def _explore(setup: Setup, told: Problem, state: State, key: Any) -> Any:
    """Give UCBVI's bonus, or RLSVI's noise, for each step and x."""
    config = setup.config
    choice = (told.known.log_prior + state.log_evidence).argmax(axis=-1)
    seen = factors.visits(told.known, setup.shape, state, choice)
    left = jnp.arange(config.horizon, 0, -1)[:, None]
    span = config.scale * (told.reward.max() - told.reward.min()) * left
    if config.method == "rlsvi":
        rarest = seen.min(axis=0)
        return span * jax.random.normal(key, (config.horizon, len(rarest)), told.initial.dtype) / jnp.sqrt(1 + rarest)
    sure = jnp.log(20.0 * seen.shape[1] * config.horizon)  # that all bounds hold at once, with 95 %
    return span * jnp.sqrt(sure / jnp.maximum(1, seen)).sum(axis=0)
