"""The exact posterior over parent sets, kept up to date move by move.

Each row of each candidate's table has a symmetric Dirichlet(α) prior, so the evidence of a parent set is a product of
one-step predictions: a move to value v from the parents' setting u multiplies it by (α + n_uv) / (N α + n_u), where N
is the number of values. This needs no gamma function, and costs as much for the last move as for the first. The
posterior of a parent set is its prior times its evidence; that an agent chose the actions changes nothing.
"""

import itertools
import math
from typing import NamedTuple

import networkx as nx
import numpy as np
from jaxtyping import Float, Int

from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.errors import MismatchError
from bayes_persona.export import to_networkx
from bayes_persona.seeds import generator


class State(NamedTuple):
    """What was seen, once for each candidate parent set, and how well each predicted it.

    >>> State(counts=np.zeros((4, 2), dtype=np.int32), log_evidence=np.zeros((1, 1))).counts.sum()
    np.int64(0)
    """

    counts: Int[np.ndarray, "rows values"]
    log_evidence: Float[np.ndarray, "outputs candidates"]
    rewards: Float[np.ndarray, "x 3"] | tuple[()] = ()
    """What each x earned (`rewards`), where that is learned."""


def init(prior: GraphPrior) -> State:
    """Give the state before any data.

    >>> from bayes_persona.cpsrl import env, graph
    >>> init(graph.complete(env.lamp())).counts.shape  # a row for each setting of lamp and switch
    (4, 2)
    """
    rows, values = int(prior.heights.sum()), max(prior.spec.outputs.values())
    return State(np.zeros((rows, values), dtype=np.int32), np.zeros(prior.log_prior.shape))


def update(
    prior: GraphPrior, state: State, x: Int[np.ndarray, "t inputs"], y: Int[np.ndarray, "t outputs"], alpha: float
) -> State:
    """Take in some moves from x to y, one after the other.

    Raises:
        MismatchError: If a value is none of its variable's.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.empty(env.lamp(), max_parents=2)
    >>> x = np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (3, 1))
    >>> state = update(prior, init(prior), x, x.sum(1, keepdims=True) % 2, alpha=1.0)
    >>> posterior(prior, state).round(3).tolist()  # no parent, either, or both
    [[0.02, 0.012, 0.012, 0.955]]
    """
    _require_values("x", x, prior.spec.inputs)
    _require_values("y", y, prior.spec.outputs)
    counts, log_evidence = state.counts.copy(), state.log_evidence.copy()
    rows = prior.starts + np.einsum("ti,jci->tjc", x, prior.strides)
    flat_alpha = alpha * np.array(list(prior.spec.outputs.values()))[:, None]
    for row, value in zip(rows, y[:, :, None], strict=True):
        seen = counts[row, value]
        log_evidence += np.log((alpha + seen) / (flat_alpha + counts[row].sum(axis=-1)))
        counts[row, value] = seen + 1
    return state._replace(counts=counts, log_evidence=log_evidence)


def posterior(prior: GraphPrior, state: State) -> Float[np.ndarray, "outputs candidates"]:
    """Give the probability of each candidate parent set of each output.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.empty(env.lamp(), max_parents=2)
    >>> posterior(prior, init(prior)).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    logs = prior.log_prior + state.log_evidence
    probs = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return probs / probs.sum(axis=-1, keepdims=True)


def edge_marginals(prior: GraphPrior, state: State) -> nx.DiGraph:
    """Give the graph of all edges, each with its posterior `probability`: what `graph.prior` reads, after the data.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.prior(env.lamp(), nx.DiGraph([("switch", "lamp'")]), max_parents=2)
    >>> sorted(edge_marginals(prior, init(prior)).edges(data="probability"))
    [('lamp', "lamp'", 0.5), ('switch', "lamp'", 1.0)]
    """
    # A sum of probabilities may miss 1 by a rounding error, and a certain edge should read 1.
    certain = (prior.members | np.isneginf(prior.log_prior)[:, :, None]).all(axis=1)
    summed = np.einsum("jc,jci->ji", posterior(prior, state), prior.members)
    marginals = np.where(certain, 1.0, np.minimum(summed, 1.0))
    edges = itertools.product(prior.spec.outputs, prior.spec.inputs)
    return to_networkx({(cause, effect): p for (effect, cause), p in zip(edges, marginals.flat, strict=True)})


def truth_probability(prior: GraphPrior, state: State) -> tuple[float, float]:
    """Give the posterior probability of the true graph, and that of all graphs that contain it.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.empty(env.lamp(), max_parents=2)
    >>> truth_probability(prior, init(prior))
    (0.25, 0.25)
    """
    probs = posterior(prior, state)
    truth = prior.truth[:, None, :]
    exact = (prior.members == truth).all(axis=-1)
    super_graph = (prior.members | ~truth).all(axis=-1)
    return float((probs * exact).sum(axis=-1).prod()), float((probs * super_graph).sum(axis=-1).prod())


def sample(prior: GraphPrior, state: State, seed: int) -> Int[np.ndarray, " outputs"]:
    """Draw one graph: the number of a candidate for each output.

    >>> from bayes_persona.cpsrl import env, graph
    >>> prior = graph.complete(env.lamp())
    >>> sample(prior, init(prior), seed=0).tolist()
    [0]
    """
    cumulative = posterior(prior, state).cumsum(axis=-1)
    uniform = generator(seed, "parents").random((len(cumulative), 1)) * cumulative[:, -1:]
    return (cumulative <= uniform).sum(axis=-1)


def log_evidence(counts: Int[np.ndarray, "rows values"], alpha: float) -> float:
    """Give the evidence of a whole table in closed form, which the sequential updates must add up to.

    Σ_u ln Γ(Nα) − ln Γ(Nα + n_u) + Σ_v ln Γ(α + n_uv) − ln Γ(α); a row that was never visited adds exactly nothing.

    >>> round(log_evidence(np.array([[3, 1], [0, 2]]), alpha=1.0), 10)  # −ln 60
    -4.0943445622
    """
    values = counts.shape[1]
    rows = _log_gamma(np.array(values * alpha)) - _log_gamma(values * alpha + counts.sum(axis=1))
    return float((rows + (_log_gamma(alpha + counts) - _log_gamma(np.array(alpha))).sum(axis=1)).sum())


_log_gamma = np.vectorize(math.lgamma, otypes=[float])


def _require_values(name: str, settings: Int[np.ndarray, "t variables"], sizes: dict[str, int]) -> None:
    if settings.ndim != 2 or settings.shape[1] != len(sizes):
        raise MismatchError(f"{name}: expected shape (t, {len(sizes)}) for {list(sizes)}, got {settings.shape}")
    for variable, column in zip(sizes, settings.T, strict=True):
        outside = column[(column < 0) | (column >= sizes[variable])]
        if outside.size:
            raise MismatchError(
                f"{name}: {variable}: expected values from 0 to {sizes[variable] - 1}, got {outside[0]}"
            )
