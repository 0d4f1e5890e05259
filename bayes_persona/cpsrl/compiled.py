"""What `structure` does, for compiled programs: parent sets as arrays, learned from and drawn from by jax.

Everything here is traced: it takes arrays of any kind, gives jax's, and leaves float64 to the program around it.
"""

from typing import Any, NamedTuple

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
    >>> start, moves = structure.init(prior), (jnp.array([[0, 1]]), jnp.array([[1]]), jnp.array([True]))
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
