"""Draws of how each next variable moves, given a draw of its parents: independent Dirichlets, one for each row.

`sample` is for people; all else is traced, and leaves float64 to the program around it.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayes_persona.cpsrl.compiled import Candidates, Sizes, candidates, sizes
from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.cpsrl.structure import State
from bayes_persona.errors import needs_extra

with needs_extra("jax"):
    import jax
    import jax.numpy as jnp

NEGLIGIBLE = 60.0
"""Cells that are e^-60 below the largest of their row do not change it in float64."""
FEW = 4096
"""Cells that are drawn at once, whether they matter or not."""


def sample(
    prior: GraphPrior, state: State, choice: Int[np.ndarray, " outputs"], alpha: float, seed: int
) -> tuple[Float[np.ndarray, "x _"], ...]:
    """Draw p_j(y_j | x) for each output j, for every x.

    Args:
        prior: The candidates.
        state: What was seen.
        choice: The number of the candidate drawn for each output (`structure.sample`).
        alpha: The Dirichlet's parameter for each cell.
        seed: Names the draw.

    >>> from bayes_persona.cpsrl import env, graph, structure
    >>> prior = graph.known(env.lamp(), graph.nx.DiGraph([("switch", "lamp'")]))
    >>> (factor,) = sample(prior, structure.init(prior), np.array([0]), alpha=1.0, seed=0)
    >>> factor.shape, bool((factor[[0, 1]] == factor[[2, 3]]).all())  # the lamp itself is no parent here
    ((4, 2), True)
    """
    with jax.enable_x64(True):
        drawn = draw(candidates(prior), sizes(prior), state, choice, alpha, jax.random.key(seed))
        return tuple(np.asarray(factor) for factor in drawn)


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

    Where parameters are tiny, U^(1/a) alone tells which few cells of a row can matter, and the others' Gamma(a + 1) is
    not drawn.

    >>> dirichlet(jax.random.key(0), jnp.full((3, 500), 1e-5)).sum(axis=1).round(5).tolist()
    [1.0, 1.0, 1.0]
    """
    shape = jnp.asarray(shape)
    left, right = jax.random.split(key)
    logs = -jax.random.exponential(left, shape.shape, shape.dtype) / shape
    near = (logs >= logs.max(axis=1, keepdims=True) - NEGLIGIBLE).ravel()
    cells, flat = shape.size, (shape + 1).ravel()
    room = cells if cells < FEW else cells // 8  # of near cells at once: exact however many there are

    def some(carry):
        round, logs, near = carry
        chosen = jnp.nonzero(near, size=room, fill_value=cells)[0]
        draws = gamma(jax.random.fold_in(right, round), flat[jnp.minimum(chosen, cells - 1)])
        logs = logs.at[chosen].add(jnp.log(draws), mode="drop")
        return round + 1, logs, near.at[chosen].set(False, mode="drop")

    logs = jax.lax.while_loop(lambda carry: carry[2].any(), some, (0, logs.ravel(), near))[1]
    return jax.nn.softmax(logs.reshape(shape.shape), axis=1)


def gamma(key: Any, shape: Float[Any, " n"]) -> Any:
    """Draw from Gamma(a), a ≥ 1 (Marsaglia & Tsang, "A simple method for generating gamma variables", 2000).

    jax's own sampler waits for each number's rejections by itself. Here all are proposed at once, about one in
    thirty is refused, and only these are gathered and proposed again.

    >>> bool(abs(gamma(jax.random.key(0), jnp.full(10_000, 2.5)).mean() - 2.5) < 0.1)
    True
    """
    shape = jnp.asarray(shape)
    n, dtype = len(shape), shape.dtype
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
