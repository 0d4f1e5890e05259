"""The posterior over parent sets of data that came all at once, where there may be too many inputs for `structure`.

Where enumeration is too much, `walk` samples, and `screen` first forbids all inputs but those that predict best alone.
Screening is no sampler: two inputs that matter only together (as in x xor y) may both be lost; give one to the prior.
"""

import warnings
from typing import NamedTuple

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, Int

from bayes_persona.cpsrl.beliefs import Beliefs, candidates, without
from bayes_persona.cpsrl.evidence import moves_of
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.export import to_networkx
from bayes_persona.seeds import generator


class Found(NamedTuple):
    """Draws of parent sets, and the posterior probability of each edge.

    >>> Found(np.zeros((1, 9, 1, 2), dtype=bool), np.zeros((1, 2))).marginals.tolist()
    [[0.0, 0.0]]
    """

    members: Bool[np.ndarray, "chains draws outputs inputs"]
    marginals: Float[np.ndarray, "outputs inputs"]


def screen(
    known: Beliefs, x: Int[np.ndarray, "t inputs"], y: Int[np.ndarray, "t outputs"], *, alpha: float, keep: int
) -> Beliefs:
    """Forbid all free edges of each output but those that explain it best alone, beside the required ones.

    Args:
        known: The prior.
        x: Settings of the inputs.
        y: The settings of the outputs that followed.
        alpha: The Dirichlet's parameter for each cell.
        keep: How many free edges each output keeps: those with the largest Bayes factors.

    Returns:
        The prior, given that no other edge is there; `exact` takes it, and `beliefs.candidates`.

    Raises:
        ConfigError: If nothing is to be kept, or no parent set is left.
        MismatchError: If the data do not fit the prior.

    >>> from bayes_persona.cpsrl.beliefs import beliefs
    >>> from bayes_persona.cpsrl.env import lamp
    >>> x = np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (5, 1))
    >>> screen(beliefs(lamp(), {}, max_parents=2), x, x[:, 1:], alpha=1.0, keep=1).free.tolist()
    [[False, True]]
    """
    if keep < 1:
        raise ConfigError(f"keep: expected at least 1, got {keep}")
    forbidden = np.zeros_like(known.free)
    for output, evidence in enumerate(moves_of(known, x, y, alpha)):
        free = np.flatnonzero(known.free[output])
        masks = np.tile(known.required[output], (len(free), 1))
        masks[np.arange(len(free)), free] = True
        order = np.argsort(-evidence.logs(masks), kind="stable")
        forbidden[output, free[order[keep:]]] = True
    return without(known, forbidden)


def exact(
    known: Beliefs,
    x: Int[np.ndarray, "t inputs"],
    y: Int[np.ndarray, "t outputs"],
    *,
    alpha: float,
    draws: int,
    seed: int,
) -> Found:
    """Enumerate the parent sets: exact marginals, and independent draws (as one chain).

    Raises:
        ConfigError: If there are too many sets to enumerate; `screen` first.
        MismatchError: If the data do not fit the prior.

    >>> from bayes_persona.cpsrl.beliefs import beliefs
    >>> from bayes_persona.cpsrl.env import lamp
    >>> nothing = np.zeros((0, 2), dtype=int), np.zeros((0, 1), dtype=int)
    >>> exact(beliefs(lamp(), {("lamp", "lamp'"): 0.2}, max_parents=2), *nothing, alpha=1.0, draws=9, seed=0).marginals
    array([[0.2, 0.5]])
    """
    members = np.zeros((1, draws, len(known.outputs), len(known.inputs)), dtype=bool)
    marginals = np.zeros(known.log_odds.shape)
    for output, (name, evidence) in enumerate(zip(known.outputs, moves_of(known, x, y, alpha), strict=True)):
        masks, logs = candidates(known, output)
        logs = logs + evidence.logs(masks)
        probs = np.exp(logs - np.logaddexp.reduce(logs))
        probs /= probs.sum()
        marginals[output] = np.minimum(probs @ masks, 1.0)
        members[0, :, output] = masks[generator(seed, "exact", name).choice(len(masks), size=draws, p=probs)]
    return Found(members, marginals)


def compare_with_exact(
    known: Beliefs, found: Found, x: Int[np.ndarray, "t inputs"], y: Int[np.ndarray, "t outputs"], *, alpha: float
) -> float:
    """Give the largest error of an edge's probability, where all sets can be enumerated.

    Raises:
        ConfigError: If there are too many sets to enumerate.
        MismatchError: If the data do not fit the prior.

    >>> from bayes_persona.cpsrl.beliefs import beliefs
    >>> from bayes_persona.cpsrl.env import lamp
    >>> known, x = beliefs(lamp(), {}, max_parents=2), np.array([[0, 1]])
    >>> found = exact(known, x, x[:, :1], alpha=1.0, draws=1000, seed=0)
    >>> by_draws = found._replace(marginals=found.members.mean(axis=(0, 1)))
    >>> compare_with_exact(known, by_draws, x, x[:, :1], alpha=1.0) < 0.1
    True
    """
    truth = exact(known, x, y, alpha=alpha, draws=1, seed=0).marginals
    return float(np.abs(found.marginals - truth).max())


def edge_marginals(known: Beliefs, found: Found) -> nx.DiGraph:
    """Give the graph of all edges, each with its posterior `probability`, as `structure.edge_marginals` does.

    >>> from bayes_persona.cpsrl.beliefs import beliefs
    >>> from bayes_persona.cpsrl.env import lamp
    >>> known = beliefs(lamp(), {"lamp'": ["switch"]}, max_parents=1)
    >>> nothing = np.zeros((0, 2), dtype=int), np.zeros((0, 1), dtype=int)
    >>> list(edge_marginals(known, exact(known, *nothing, alpha=1.0, draws=1, seed=0)).edges(data="probability"))
    [('lamp', "lamp'", 0.0), ('switch', "lamp'", 1.0)]
    """
    return to_networkx(
        {
            (cause, effect): float(found.marginals[row, column])
            for row, effect in enumerate(known.outputs)
            for column, cause in enumerate(known.inputs)
        }
    )


def r_hat(found: Found) -> Float[np.ndarray, "outputs inputs"]:
    """Give ArviZ's R-hat of each edge: above 1.01, the walks do not yet agree on it, and should be longer.

    An edge that no walk ever changed has R-hat 1 if all have it or none, and infinity if they differ.

    Raises:
        MissingExtraError: If ArviZ is not installed.

    >>> rng = np.random.default_rng(0)
    >>> found = Found(rng.random((4, 500, 1, 2)) < [0.5, 0.0], np.array([[0.5, 0.0]]))
    >>> r_hat(found).round(1).tolist()
    [[1.0, 1.0]]
    """
    return _diagnostic(found, "rhat", np.inf)


def ess(found: Found) -> Float[np.ndarray, "outputs inputs"]:
    """Give ArviZ's effective sample size of each edge: how many independent draws would say as much.

    An edge that no walk ever changed counts all its draws if the walks agree, and none if they differ.

    Raises:
        MissingExtraError: If ArviZ is not installed.

    >>> rng = np.random.default_rng(0)
    >>> bool(ess(Found(rng.random((4, 500, 1, 1)) < 0.5, np.array([[0.5]])))[0, 0] > 1000)
    True
    """
    return _diagnostic(found, "ess", 0.0)


def _diagnostic(found: Found, name: str, stuck: float) -> Float[np.ndarray, "outputs inputs"]:
    with needs_extra("export"), warnings.catch_warnings():
        # It announces its next major version once a day, which the bound on ours keeps out.
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
        import arviz
    chains, draws = found.members.shape[:2]
    # not by ranks: those of a thing that is there or not say no more
    measure, method, agreed = {
        "rhat": (arviz.rhat, "split", 1.0),
        "ess": (arviz.ess, "mean", float(chains * draws)),
    }[name]
    values = np.full(found.marginals.shape, agreed)
    for place in np.ndindex(values.shape):
        edge = found.members[:, :, *place]
        if (edge == edge[:, :1]).all():
            values[place] = agreed if (edge == edge[0, 0]).all() else stuck
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(measure(edge.astype(float), method=method))
        values[place] = stuck if np.isnan(value) else value
    return values
