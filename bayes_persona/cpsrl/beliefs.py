"""What `structure` and `factors` do, for compiled programs: parent sets as arrays, learned from and drawn from by jax.

Everything here is traced: it takes arrays of any kind, gives jax's, and leaves float64 to the program around it.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.cpsrl.structure import State
from bayes_persona.errors import needs_extra

with needs_extra("jax"):
    import jax
    import jax.numpy as jnp


class Sizes(NamedTuple):
    """Numbers that a program is compiled for; two priors with the same ones share it.

    >>> from bayes_persona.cpsrl import env, graph
    >>> sizes(graph.complete(env.lamp()))
    Sizes(inputs=(2, 2), outputs=(2,), heights=(4,))
    """

    inputs: tuple[int, ...]
    """Values of each input."""
    outputs: tuple[int, ...]
    """Values of each output."""
    heights: tuple[int, ...]
    """Rows of the longest table of each output."""


class Candidates(NamedTuple):
    """The parent sets of a prior as arrays, which `jax.vmap` maps over.

    >>> from bayes_persona.cpsrl import env, graph
    >>> candidates(graph.complete(env.lamp())).strides.tolist()
    [[[2, 1]]]
    """

    strides: Any  # (outputs, candidates, inputs)
    starts: Any  # (outputs, candidates)
    log_prior: Any  # (outputs, candidates)
    members: Any  # (outputs, candidates, inputs) bool
    truth: Any  # (outputs, inputs) bool: only to measure with


def sizes(prior: GraphPrior) -> Sizes:
    """Give what a program for this prior is compiled for.

    >>> from bayes_persona.cpsrl import env, graph
    >>> sizes(graph.empty(env.lamp(), max_parents=1)).heights
    (2,)
    """
    heights = (int(height) for height in prior.heights.max(axis=1))
    return Sizes(tuple(prior.spec.inputs.values()), tuple(prior.spec.outputs.values()), tuple(heights))


def candidates(prior: GraphPrior) -> Candidates:
    """Give the arrays of a prior.

    >>> from bayes_persona.cpsrl import env, graph
    >>> candidates(graph.empty(env.lamp(), max_parents=1)).starts.tolist()
    [[0, 1, 3]]
    """
    return Candidates(prior.strides, prior.starts, prior.log_prior, prior.members, prior.truth)


def learn(known: Candidates, shape: Sizes, state: State, x, y, happened, alpha) -> State:
    """Take in the moves of an episode at once: `structure.update`.

    How often a row was met before a move is how often it was met before the episode, and earlier in it.

    Args:
        known: The candidates.
        shape: Their sizes.
        state: What was seen before.
        x: (t, inputs) whole numbers.
        y: (t, outputs) whole numbers.
        happened: (t,) whether each move did; an episode may end early.
        alpha: The Dirichlet's parameter for each cell.

    >>> from bayes_persona.cpsrl import env, graph, structure
    >>> prior = graph.complete(env.lamp())
    >>> start, moves = structure.init(prior), (np.array([[0, 1]]), np.array([[1]]), np.array([True]))
    >>> state = learn(candidates(prior), sizes(prior), start, *moves, alpha=1.0)
    >>> state.counts.tolist(), round(float(state.log_evidence[0, 0]), 4)
    ([[0, 0], [0, 1], [0, 0], [0, 0]], -0.6931)
    """
    rows = known.starts + jnp.einsum("ti,jci->tjc", x, known.strides)
    value = y[:, :, None]
    counts = jnp.asarray(state.counts)
    earlier = happened[None, :] & jnp.tri(len(x), k=-1, dtype=bool)
    again = earlier[:, :, None, None] & (rows[:, None] == rows[None, :])
    alike = again & (value[:, None] == value[None, :])
    seen = counts[rows, value] + alike.sum(axis=1)
    total = counts[rows].sum(axis=-1) + again.sum(axis=1)
    gained = jnp.log((alpha + seen) / (alpha * jnp.array(shape.outputs)[:, None] + total))
    log_evidence = state.log_evidence + jnp.where(happened[:, None, None], gained, 0.0).sum(axis=0)
    counted = jnp.broadcast_to(happened[:, None, None], rows.shape).astype(counts.dtype)
    return state._replace(counts=counts.at[rows, value].add(counted), log_evidence=log_evidence)


def choose(known: Candidates, state: State, key: Any, *, probable: bool = False) -> Any:
    """Draw a candidate for each output, or take the most probable: `structure.sample`.

    >>> from bayes_persona.cpsrl import env, graph, structure
    >>> prior = graph.complete(env.lamp())
    >>> choose(candidates(prior), structure.init(prior), jax.random.key(0)).tolist()
    [0]
    """
    logs = known.log_prior + state.log_evidence
    return logs.argmax(axis=-1) if probable else jax.random.categorical(key, logs, axis=-1)


def truth_shares(known: Candidates, state: State) -> tuple[Any, Any]:
    """Give the posterior probability of the true graph, and of all that contain it: `structure.truth_probability`.

    >>> from bayes_persona.cpsrl import env, graph, structure
    >>> prior = graph.empty(env.lamp(), max_parents=2)
    >>> [float(share) for share in truth_shares(candidates(prior), structure.init(prior))]
    [0.25, 0.25]
    """
    probs = jax.nn.softmax(known.log_prior + state.log_evidence, axis=-1)
    truth = known.truth[:, None, :]
    exact, above = (known.members == truth).all(axis=-1), (known.members | ~truth).all(axis=-1)
    return (probs * exact).sum(axis=-1).prod(), (probs * above).sum(axis=-1).prod()


def draw(known: Candidates, shape: Sizes, state: State, choice, alpha, key: Any) -> tuple[Any, ...]:
    """Draw p_j(y_j | x) for each output j and every x, given its parents: `factors.sample`.

    >>> from bayes_persona.cpsrl import env, graph, structure
    >>> prior = graph.complete(env.lamp())
    >>> start = structure.init(prior)
    >>> draw(candidates(prior), sizes(prior), start, np.array([0]), 1.0, jax.random.key(0))[0].shape
    (4, 2)
    """
    settings, drawn = _settings(shape), []
    for j, (values, height) in enumerate(zip(shape.outputs, shape.heights, strict=True)):
        start, strides = known.starts[j, choice[j]], known.strides[j, choice[j]]
        # a shorter table is read on into the next one: rows that are drawn in vain, and never looked at
        counts = jnp.take(state.counts, start + jnp.arange(height), axis=0, mode="clip")[:, :values]
        table = dirichlet(jax.random.fold_in(key, j), alpha + counts)
        drawn.append(table[strides @ settings])
    return tuple(drawn)


def mean(known: Candidates, shape: Sizes, state: State, alpha) -> tuple[Any, ...]:
    """Give the posterior mean of p_j(y_j | x) over graphs and tables: what the next move is predicted to be.

    >>> from bayes_persona.cpsrl import env, graph, structure
    >>> prior = graph.empty(env.lamp(), max_parents=1)
    >>> mean(candidates(prior), sizes(prior), structure.init(prior), 1.0)[0].tolist()[0]
    [0.5, 0.5]
    """
    settings, means = _settings(shape), []
    probs = jax.nn.softmax(known.log_prior + state.log_evidence, axis=-1)
    for j, values in enumerate(shape.outputs):

        def add(total, candidate, values=values):
            prob, start, strides = candidate
            counts = alpha + jnp.asarray(state.counts)[start + strides @ settings][:, :values]
            return total + prob * counts / counts.sum(axis=1, keepdims=True), None

        nothing = jnp.zeros((settings.shape[1], values), probs.dtype)
        means.append(jax.lax.scan(add, nothing, (probs[j], known.starts[j], known.strides[j]))[0])
    return tuple(means)


def visits(known: Candidates, shape: Sizes, state: State, choice) -> Any:
    """Give how often the setting of each output's parents was met, (outputs, x).

    >>> from bayes_persona.cpsrl import env, graph, structure
    >>> prior = graph.complete(env.lamp())
    >>> visits(candidates(prior), sizes(prior), structure.init(prior), np.array([0])).tolist()
    [[0, 0, 0, 0]]
    """
    settings, outputs = _settings(shape), range(len(shape.outputs))
    rows = jnp.stack([known.starts[j, choice[j]] + known.strides[j, choice[j]] @ settings for j in outputs])
    return jnp.asarray(state.counts)[rows].sum(axis=-1)


def dirichlet(key: Any, shape: Float[Any, "rows values"]) -> Any:
    """Draw each row from its Dirichlet, in logarithms: Gamma(a) = Gamma(a + 1) U^(1/a), which never underflows.

    >>> dirichlet(jax.random.key(0), jnp.full((3, 500), 1e-5)).sum(axis=1).round(5).tolist()
    [1.0, 1.0, 1.0]
    """
    left, right = jax.random.split(key)
    logs = jnp.log(gamma(left, (shape + 1).ravel())).reshape(shape.shape)
    logs -= jax.random.exponential(right, shape.shape, logs.dtype) / shape
    return jax.nn.softmax(logs, axis=1)


def gamma(key: Any, shape: Float[Any, " n"]) -> Any:
    """Draw from Gamma(a), a ≥ 1 (Marsaglia & Tsang, "A simple method for generating gamma variables", 2000).

    jax's own sampler waits for each number's rejections by itself. Here all are proposed at once, about one in
    thirty is refused, and only these are gathered and proposed again.

    >>> bool(abs(gamma(jax.random.key(0), jnp.full(10_000, 2.5)).mean() - 2.5) < 0.1)
    True
    """
    n, dtype = len(shape), jnp.result_type(shape, float)
    room = n if n < 512 else n // 8  # of those that are proposed again together
    d = shape - 1 / 3
    c = 1 / jnp.sqrt(9 * d)

    def propose(key, d, c):
        one, two = jax.random.split(key)
        normal = jax.random.normal(one, d.shape, dtype)
        v = (1 + c * normal) ** 3
        bound = 0.5 * normal**2 + d * (1 - v + jnp.log(jnp.where(v > 0, v, 1.0)))
        return d * v, (v > 0) & (-jax.random.exponential(two, d.shape, dtype) < bound)

    def again(carry):
        round, values, accepted = carry
        refused = jnp.nonzero(~accepted, size=room, fill_value=n)[0]
        near = jnp.minimum(refused, n - 1)
        proposed, good = propose(jax.random.fold_in(key, round), d[near], c[near])
        values = values.at[refused].set(proposed, mode="drop")  # those still refused are set again next time
        return round + 1, values, accepted.at[refused].set(good, mode="drop")

    first = propose(key, d, c)
    return jax.lax.while_loop(lambda carry: ~carry[2].all(), again, (1, *first))[1]


def _settings(shape: Sizes) -> Int[np.ndarray, "inputs x"]:
    return np.indices(shape.inputs).reshape(len(shape.inputs), -1)
