"""Draws of how each next variable moves, given a draw of its parents: independent Dirichlets, one for each row.

`sample` is for people; all else is traced, and leaves float64 to the program around it.
"""

from collections.abc import Sequence
from functools import partial
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
MANY = 65536
"""Of so many cells all are drawn, whether they matter or not; of more, those that matter."""
FEW = 16
"""At least so many cells are drawn again at once."""


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
        drawn = _draw(candidates(prior), sizes(prior), state, choice, alpha, seed)
        return tuple(np.asarray(factor) for factor in drawn)


def draw(known: Candidates, shape: Sizes, state: State, choice, alpha, key: Any) -> tuple[Any, ...]:
    """Draw p_j(y_j | x) for each output j and every x, given its parents: `factors.sample`.

    >>> from bayes_persona.cpsrl import env, graph, structure
    >>> prior = graph.complete(env.lamp())
    >>> start = structure.init(prior)
    >>> draw(candidates(prior), sizes(prior), start, np.array([0]), 1.0, jax.random.key(0))[0].shape
    (4, 2)
    """
    settings, shapes = _settings(shape), []
    for j, (values, height) in enumerate(zip(shape.outputs, shape.heights, strict=True)):
        # a shorter table is read on into the next one: rows that are drawn in vain, and never looked at
        rows = known.starts[j, choice[j]] + jnp.arange(height)
        shapes.append(alpha + jnp.take(jnp.asarray(state.counts), rows, axis=0, mode="clip")[:, :values])
    tables = dirichlets(key, shapes)
    return tuple(table[known.strides[j, choice[j]] @ settings] for j, table in enumerate(tables))


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


def dirichlets(key: Any, shapes: Sequence[Any]) -> list[Any]:
    """Draw each row of each (rows, values) table from its Dirichlet, all together.

    In logarithms, Gamma(a) = Gamma(a + 1) U^(1/a) never underflows. Where parameters are tiny, U^(1/a) alone tells
    which few cells of a row can matter, and the others' Gamma(a + 1) is not drawn.

    >>> one, two = dirichlets(jax.random.key(0), [jnp.full((3, 500), 1e-5), jnp.full((1, 2), 3.0)])
    >>> one.sum(axis=1).round(5).tolist(), two.shape
    ([1.0, 1.0, 1.0], (1, 2))
    """
    shapes = [jnp.asarray(shape) for shape in shapes]
    flat, ends = jnp.concatenate([shape.ravel() for shape in shapes]), np.cumsum([shape.size for shape in shapes])

    def tables(cells):
        parts = zip(jnp.split(cells, ends[:-1]), shapes, strict=True)
        return [part.reshape(shape.shape) for part, shape in parts]

    left, right = jax.random.split(key)
    # one call where all cells are proposed: each is compiled by itself, and takes longer to compile than to run
    uniform = jax.random.uniform(left, (3 if len(flat) <= MANY else 1, len(flat)), flat.dtype)
    logs = jnp.log1p(-uniform[0]) / flat
    near = [(table >= table.max(axis=1, keepdims=True) - NEGLIGIBLE).ravel() for table in tables(logs)]
    logs += jnp.log(gamma(right, 1 + flat, jnp.concatenate(near), uniform[1:] if len(flat) <= MANY else None))
    return [jax.nn.softmax(table, axis=1) for table in tables(logs)]


def gamma(key: Any, shape: Float[Any, " n"], wanted: Any = None, uniform: Any = None) -> Any:
    """Draw from Gamma(a), a ≥ 1 (Marsaglia & Tsang, "A simple method for generating gamma variables", 2000).

    jax's own sampler waits for each number's rejections by itself. Here many are proposed at once, and the few that are
    refused are proposed again with the next many.

    Args:
        key: Names the draws.
        shape: a.
        wanted: (n,) which to draw, all by default; the others are 1.
        uniform: (2, n) independent numbers between 0 and 1 to propose each from at first, if they are drawn already.

    >>> bool(abs(gamma(jax.random.key(0), jnp.full(10_000, 2.5)).mean() - 2.5) < 0.1)
    True
    """
    shape = jnp.asarray(shape)
    n = len(shape)
    wanted, values = jnp.ones(n, bool) if wanted is None else wanted, jnp.ones(n, shape.dtype)
    if uniform is not None:  # proposed in place: most are accepted, and nothing has to be found and put back
        proposed, accepted = _propose(uniform, shape)
        values, wanted = jnp.where(wanted & accepted, proposed, values), wanted & ~accepted
    room = max(FEW, n // 8)

    def again(carry):
        number, values, wanted = carry
        chosen = jnp.nonzero(wanted, size=room, fill_value=n)[0]
        drawn = jax.random.uniform(jax.random.fold_in(key, number), (2, room), shape.dtype)
        proposed, accepted = _propose(drawn, shape[jnp.minimum(chosen, n - 1)])
        values = values.at[chosen].set(proposed, mode="drop")  # those refused are set again next time
        return number + 1, values, wanted.at[chosen].set(~accepted, mode="drop")

    return jax.lax.while_loop(lambda carry: carry[2].any(), again, (1, values, wanted))[1]


def _propose(uniform: Any, shape: Any) -> tuple[Any, Any]:
    """Propose a number of each Gamma(a), a ≥ 1, and say which are accepted."""
    normal = jax.scipy.special.ndtri(0.5 * jnp.finfo(shape.dtype).epsneg + uniform[0])  # never of 0
    d = shape - 1 / 3
    v = (1 + normal / jnp.sqrt(9 * d)) ** 3
    bound = 0.5 * normal**2 + d * (1 - v + jnp.log(jnp.where(v > 0, v, 1.0)))
    return d * v, (v > 0) & (jnp.log(uniform[1]) < bound)


@partial(jax.jit, static_argnums=1)
def _draw(known, shape, state, choice, alpha, seed):
    return draw(known, shape, state, choice, alpha, jax.random.key(seed))


def _settings(shape: Sizes) -> Int[np.ndarray, "inputs x"]:
    return np.indices(shape.inputs).reshape(len(shape.inputs), -1)
