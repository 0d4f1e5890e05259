"""Draws of how each next variable moves, given a draw of its parents: independent Dirichlets, one for each row."""

import numpy as np
from jaxtyping import Float, Int

from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.cpsrl.structure import State
from bayes_persona.seeds import child, generator

NEGLIGIBLE = 60.0
"""Cells that are e^-60 below the largest of their row do not change it in float64, and are not drawn."""


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
    sizes = list(prior.spec.inputs.values())
    settings = np.indices(sizes).reshape(len(sizes), -1)
    drawn = []
    for number, (name, values) in enumerate(prior.spec.outputs.items()):
        start, height = prior.starts[number, choice[number]], prior.heights[number, choice[number]]
        counts = state.counts[start : start + height, :values]
        table = dirichlet(alpha + counts, child(seed, name))
        drawn.append(table[prior.strides[number, choice[number]] @ settings])
    return tuple(drawn)


def dirichlet(shape: Float[np.ndarray, "rows values"], seed: int) -> Float[np.ndarray, "rows values"]:
    """Draw each row from its Dirichlet, in time that small parameters make shorter.

    Gamma(a) = Gamma(a + 1) · U^(1/a), so logarithms never underflow; and where a is small the second term alone tells
    which few cells of a row can matter.

    >>> tiny = dirichlet(np.full((3, 500), 1e-5), seed=0)
    >>> tiny.sum(axis=1).round(12).tolist()
    [1.0, 1.0, 1.0]
    """
    rng = generator(seed, "dirichlet")
    waits = rng.standard_exponential(shape.shape) / shape  # −ln U^(1/a)
    waits -= waits.min(axis=1, keepdims=True)
    near = np.flatnonzero(waits < NEGLIGIBLE)
    masses = np.zeros(shape.size)
    masses[near] = np.exp(-waits.ravel()[near]) * rng.standard_gamma(shape.ravel()[near] + 1)
    table = masses.reshape(shape.shape)
    return table / table.sum(axis=1, keepdims=True)
