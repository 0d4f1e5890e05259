"""How good what was learned is: of the moves, of the graph, and in other people's formats.

Everything here is exact, given the posterior, and measured against the truth that a `FactoredSpec` holds. What it
costs an agent is in `regret`; how probable the true graph and its super-graphs are, in `structure`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from bayes_persona import export, metrics
from bayes_persona.cpsrl import factors, structure
from bayes_persona.cpsrl.env import joint
from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.cpsrl.structure import State
from bayes_persona.errors import ConfigError, MismatchError
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child

if TYPE_CHECKING:
    import arviz

CELLS = 4_000_000
"""How many probabilities of next states are held at a time (32 MB)."""


class Edge(NamedTuple):
    """One row of the table of edges.

    >>> Edge("switch", "lamp'", before=0.5, after=0.99, true=True).after
    0.99
    """

    cause: str
    effect: str
    before: float
    """Its probability before the data."""
    after: float
    """Its probability given the data."""
    true: bool


def model_error(drawn: Sequence[Any], truth: Sequence[Any]) -> float:
    """Give the L1 distance between two laws of the next state, averaged over all x: 0 is equal, 2 is disjoint.

    Args:
        drawn: p_j(y_j | x) for each next-state variable j, as `factors.sample` gives them.
        truth: Those of the truth, `spec.factors`.

    Raises:
        MismatchError: If the factors are of worlds of different sizes.

    >>> coin, coins = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    >>> model_error([coin, coin], [coin, coins])  # (1/4, 1/4, 1/4, 1/4) and (1/2, 0, 1/2, 0)
    1.0
    """
    both = [[np.asarray(factor, dtype=np.float64) for factor in law] for law in (drawn, truth)]
    shapes = [[factor.shape for factor in law] for law in both]
    if shapes[0] != shapes[1]:
        raise MismatchError(f"drawn: expected factors of shapes {shapes[1]}, got {shapes[0]}")
    settings, states = len(both[0][0]), int(np.prod([factor.shape[1] for factor in both[0]]))
    step = max(1, CELLS // states)
    total = 0.0
    for start in range(0, settings, step):
        one, other = (joint([factor[start : start + step] for factor in law]) for law in both)
        total += float(np.abs(one - other).sum())
    return total / settings


def edges(prior: GraphPrior, state: State) -> list[Edge]:
    """Give every edge with what is thought of it, the most probable first: a table for any program.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.prior(env.lamp(), {"lamp'": ["switch"]}, max_parents=2)
    >>> for edge in edges(prior, structure.init(prior)):
    ...     edge.cause, edge.after, edge.true
    ('switch', 1.0, True)
    ('lamp', 0.5, True)
    """
    before, after = marginals(prior, structure.init(prior)), marginals(prior, state)
    rows = [
        Edge(cause, effect, float(before[j, i]), float(after[j, i]), bool(prior.truth[j, i]))
        for j, effect in enumerate(prior.spec.outputs)
        for i, cause in enumerate(prior.spec.inputs)
    ]
    return sorted(rows, key=lambda edge: -edge.after)


def marginals(prior: GraphPrior, state: State) -> Float[np.ndarray, "outputs inputs"]:
    """Give the posterior probability of each edge: the numbers of `structure.edge_marginals`.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.empty(env.lamp(), max_parents=1)
    >>> marginals(prior, structure.init(prior)).round(3).tolist()
    [[0.333, 0.333]]
    """
    probs = np.asarray(structure.posterior(prior, state), dtype=np.float64)
    return np.minimum(np.einsum("jc,jci->ji", probs, prior.members), 1.0)


def edge_auroc(prior: GraphPrior, state: State) -> float:
    """Give the chance that a true edge is thought more probable than a false one, among those the prior left open.

    Raises:
        DataError: If all open edges are true, or all false.

    >>> from dataclasses import replace
    >>> from bayes_persona.cpsrl import env, graph
    >>> spec = replace(env.lamp(), factors=(np.eye(2)[[0, 1, 0, 1]],))  # the lamp does as the switch says
    >>> prior = graph.prior(spec, {("lamp", "lamp'"): 0.2}, max_parents=2)
    >>> edge_auroc(prior, structure.init(prior))
    1.0
    """
    return metrics.auroc(*_open_edges(prior, state))


def edge_average_precision(prior: GraphPrior, state: State) -> float:
    """Give the area under the precision-recall curve of edges (as steps), among those the prior left open.

    Raises:
        DataError: If all open edges are true, or all false.

    >>> from dataclasses import replace
    >>> from bayes_persona.cpsrl import env, graph
    >>> spec = replace(env.lamp(), factors=(np.eye(2)[[0, 1, 0, 1]],))  # the lamp does as the switch says
    >>> prior = graph.empty(spec, max_parents=2)
    >>> edge_average_precision(prior, structure.init(prior))  # one of two alike is true
    0.5
    """
    return metrics.aupr(*_open_edges(prior, state))


def expected_shd(prior: GraphPrior, state: State) -> float:
    """Give the expected structural Hamming distance: how many edges a graph drawn has wrong, missing or too many.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.prior(env.lamp(), {"lamp'": ["switch"]}, max_parents=2)
    >>> expected_shd(prior, structure.init(prior))
    0.5
    """
    return float(np.abs(marginals(prior, state) - prior.truth).sum())


def draws(prior: GraphPrior, state: State, *, alpha: float, count: int, seed: int) -> Posterior:
    """Draw worlds from the posterior, as named arrays.

    Args:
        prior: The candidates.
        state: What was seen.
        alpha: The Dirichlet's parameter for each cell.
        count: How many worlds.
        seed: Names the draws.

    Returns:
        For each output `row'`, `edges.row'` holds 1.0 for each parent, and `factors.row'` holds p(row' | x).

    Raises:
        ConfigError: If there is no world to draw.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.complete(env.lamp())
    >>> worlds = draws(prior, structure.init(prior), alpha=1.0, count=3, seed=0)
    >>> {name: array.shape for name, array in worlds.stacked().items()}
    {"edges.lamp'": (3, 2), "factors.lamp'": (3, 4, 2)}
    """
    if count < 1:
        raise ConfigError(f"count: expected at least 1, got {count}")
    worlds = []
    for number in range(count):
        choice = np.asarray(structure.sample(prior, state, child(seed, "graph", number)))
        tables = factors.sample(prior, state, choice, alpha, child(seed, "factors", number))
        world = {}
        for row, (name, table) in enumerate(zip(prior.spec.outputs, tables, strict=True)):
            world[f"edges.{name}"] = prior.members[row, choice[row]].astype(np.float64)
            world[f"factors.{name}"] = np.asarray(table)
        worlds.append(world)
    return Posterior(tuple(worlds))


def to_inference_data(
    prior: GraphPrior, state: State, *, alpha: float, count: int = 1000, seed: int = 0
) -> "arviz.InferenceData":
    """Give `draws` as ArviZ knows them, for `az.summary` and its plots.

    Draws are independent: of the diagnostics, `r_hat` stays NaN.

    Raises:
        ConfigError: If there is no world to draw.
        MissingExtraError: If ArviZ is not installed.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.complete(env.lamp())
    >>> data = to_inference_data(prior, structure.init(prior), alpha=1.0, count=3)
    >>> data.posterior["edges.lamp'"].shape
    (1, 3, 2)
    """
    return export.to_inference_data(draws(prior, state, alpha=alpha, count=count, seed=seed))


def _open_edges(prior: GraphPrior, state: State) -> tuple[Float[np.ndarray, " edges"], Bool[np.ndarray, " edges"]]:
    possible = prior.log_prior > -np.inf
    some = (prior.members & possible[..., None]).any(axis=1)
    certain = (prior.members | ~possible[..., None]).all(axis=1)
    left = some & ~certain
    return marginals(prior, state)[left], prior.truth[left]
