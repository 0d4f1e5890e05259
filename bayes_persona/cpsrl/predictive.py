"""Whether the model could have made what was seen: posterior predictive checks (Gelman, Meng & Stern, 1996).

Worlds are drawn from the posterior, each moves again from the same settings, and what it makes is compared with what
was seen. A p-value near 0 says that the data are stranger than anything the model makes: a cause that was forbidden or
left out, a hidden variable, a law that changed. The data were used to learn, so p-values crowd around one half, and
a small one means more than it would in a test.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bayes_persona.cpsrl import factors, structure
from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.cpsrl.structure import State
from bayes_persona.errors import ConfigError, DataError, MismatchError
from bayes_persona.seeds import child, generator


class Check(NamedTuple):
    """How often the model makes something stranger than what was seen.

    >>> Check(counts=np.array([0.5]), pairs=np.array([[0.5, 0.001]])).pairs.argmin()
    np.int64(1)
    """

    counts: Float[np.ndarray, " outputs"]
    """By the counts of each output's values."""
    pairs: Float[np.ndarray, "outputs inputs"]
    """By those counts for each value of one input: small where an output follows an input that it should not."""


def posterior_predictive(
    prior: GraphPrior, state: State, x: Int[np.ndarray, "t inputs"], *, alpha: float, seed: int, draws: int
) -> Int[np.ndarray, "draws t outputs"]:
    """Draw next settings: each draw from one world, which is drawn from the posterior.

    Args:
        prior: The candidates.
        state: What was seen.
        x: The settings to move from.
        alpha: The Dirichlet's parameter for each cell.
        seed: Names the draws.
        draws: How many.

    Raises:
        ConfigError: If there is nothing to draw.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.complete(env.lamp())
    >>> posterior_predictive(prior, structure.init(prior), np.array([[0, 1]]), alpha=1.0, seed=0, draws=3).shape
    (3, 1, 1)
    """
    laws = (_laws(prior, state, x, alpha, child(seed, "world", draw)) for draw in range(_positive(draws)))
    return np.stack([_moves(law, child(seed, "world", draw)) for draw, law in enumerate(laws)])


def check(
    prior: GraphPrior,
    state: State,
    x: Int[np.ndarray, "t inputs"],
    y: Int[np.ndarray, "t outputs"],
    *,
    alpha: float,
    seed: int,
    draws: int = 200,
) -> Check:
    """Compare what was seen with what worlds drawn from the posterior make, by the chi-square of their counts.

    Args:
        prior: The candidates.
        state: What was seen, these moves included.
        x: Settings of the inputs.
        y: The settings of the outputs that followed.
        alpha: The Dirichlet's parameter for each cell.
        seed: Names the draws.
        draws: How many worlds.

    Raises:
        ConfigError: If there is nothing to draw.
        DataError: If there are no moves.
        MismatchError: If x and y do not fit the prior's variables.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.known(env.lamp(), {"lamp'": ["lamp"]})  # wrong: the switch is forbidden
    >>> x = np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (10, 1))
    >>> y = x.sum(axis=1, keepdims=True) % 2
    >>> state = structure.update(prior, structure.init(prior), x, y, 1.0)
    >>> found = check(prior, state, x, x[:, 1:], alpha=1.0, seed=0)
    >>> bool(found.pairs[0, 1] < 0.01 < found.counts[0])
    True
    """
    if len(x) == 0:
        raise DataError("x: empty; a check needs moves")
    if x.shape[1] != len(prior.spec.inputs) or y.shape != (len(x), len(prior.spec.outputs)):
        raise MismatchError(
            f"x, y: expected columns {list(prior.spec.inputs)} and {list(prior.spec.outputs)}, "
            f"got shapes {x.shape} and {y.shape}"
        )
    sizes = list(prior.spec.inputs.values())
    groups = np.concatenate([np.eye(size)[column] for size, column in zip(sizes, x.T, strict=True)], axis=1).T
    starts = np.cumsum([0, *sizes[:-1]])
    stranger = np.zeros((len(prior.spec.outputs), len(sizes) + 1))
    for draw in range(_positive(draws)):
        name = child(seed, "world", draw)
        laws = _laws(prior, state, x, alpha, name)
        again = _moves(laws, name)
        for output, law in enumerate(laws):
            seen, made = (np.eye(law.shape[1])[moves[:, output]] for moves in (y, again))
            stranger[output] += _misfit(made, law, groups, starts) >= _misfit(seen, law, groups, starts)
    return Check(stranger[:, -1] / draws, stranger[:, :-1] / draws)


def _positive(draws: int) -> int:
    if draws < 1:
        raise ConfigError(f"draws: expected at least 1, got {draws}")
    return draws


def _laws(prior: GraphPrior, state: State, x: np.ndarray, alpha: float, seed: int) -> list[np.ndarray]:
    """Give p(y_j | x) of one world for each output and setting."""
    choice = np.asarray(structure.sample(prior, state, child(seed, "graph")))
    world = factors.sample(prior, state, choice, alpha, child(seed, "factors"))
    number = np.ravel_multi_index(tuple(x.T), list(prior.spec.inputs.values()))
    return [np.asarray(factor, dtype=np.float64)[number] for factor in world]


def _moves(laws: list[np.ndarray], seed: int) -> Int[np.ndarray, "t outputs"]:
    luck = generator(seed, "moves").random((len(laws), len(laws[0]), 1))
    columns = [(toss > law[:, :-1].cumsum(axis=1)).sum(axis=1) for law, toss in zip(laws, luck, strict=True)]
    return np.stack(columns, axis=1)


def _misfit(
    hits: Float[np.ndarray, "t values"],
    law: Float[np.ndarray, "t values"],
    groups: Float[np.ndarray, "settings t"],
    starts: Int[np.ndarray, " inputs"],
) -> Float[np.ndarray, " misfits"]:
    """Give Σ (observed − expected)² / expected, for the moves split by each input, and for all together."""
    # one more group, of all moves
    groups = np.concatenate([groups, np.ones((1, len(law)))])
    gap, expected = groups @ (hits - law), groups @ law
    chi_square = np.divide(gap**2, expected, out=np.zeros_like(gap), where=expected > 0).sum(axis=-1)
    return np.add.reduceat(chi_square, np.append(starts, len(groups) - 1))
