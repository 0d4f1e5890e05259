"""Causal priors: what is known, forbidden or half believed of who causes what, as a networkx graph.

Edges run from the inputs (state and action variables) to the outputs (next-state variables, primed). So there are no
cycles to avoid, and the parents of different outputs are independent, before the data and after. The prior of a parent
set z is P(z) ∝ Π_{i in z} w_i / (1 − w_i), where w_i is the probability of the edge, 1/2 for an edge not in the graph.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from numbers import Integral, Real

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, Int

from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.errors import ConfigError

CANDIDATES = 100_000
"""How many parent sets one output may have, since all are enumerated."""
CELLS = 20_000_000
"""How many counts the tables of all parent sets may hold together (80 MB)."""


@dataclass(frozen=True, eq=False)
class GraphPrior:
    """Every parent set that an output may have, and how probable it is before any data.

    Each candidate has a table of counts with a row for each setting of its parents; all tables lie in one long array.
    Outputs with fewer candidates than others are filled up with empty sets of no probability.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> complete(lamp()).heights.tolist()  # one candidate, a row for each setting of lamp and switch
    [[4]]
    """

    spec: FactoredSpec
    members: Bool[np.ndarray, "outputs candidates inputs"]
    log_prior: Float[np.ndarray, "outputs candidates"]

    @cached_property
    def heights(self) -> Int[np.ndarray, "outputs candidates"]:
        """How many rows each candidate's table has."""
        return np.where(self.members, self._sizes, 1).prod(axis=-1)

    @cached_property
    def starts(self) -> Int[np.ndarray, "outputs candidates"]:
        """Where each candidate's table starts."""
        return (np.cumsum(self.heights) - self.heights.ravel()).reshape(self.heights.shape)

    @cached_property
    def strides(self) -> Int[np.ndarray, "outputs candidates inputs"]:
        """How many rows apart two settings are that differ by one in one input."""
        sizes = np.where(self.members, self._sizes, 1)
        return np.where(self.members, np.cumprod(sizes[..., ::-1], axis=-1)[..., ::-1] // sizes, 0)

    @cached_property
    def truth(self) -> Bool[np.ndarray, "outputs inputs"]:
        """Which inputs are the true parents of each output."""
        return np.array([[name in parents for name in self.spec.inputs] for parents in self.spec.parents.values()])

    @property
    def _sizes(self) -> Int[np.ndarray, " inputs"]:
        return np.array(list(self.spec.inputs.values()))


def prior(spec: FactoredSpec, graph: nx.DiGraph, *, max_parents: int | Mapping[str, int]) -> GraphPrior:
    """Enumerate the parent sets that agree with what is known.

    Args:
        spec: The world whose variables the graph speaks of.
        graph: Edges from inputs to (primed) outputs. An edge is certain, unless it has an attribute `probability`:
            0 forbids it, 1 requires it, anything between makes it more or less likely. Other edges are open.
        max_parents: The largest parent set, for all outputs or for each by name.

    Raises:
        ConfigError: If the graph is not a DiGraph, joins other things than inputs to outputs, has an impossible
            probability, requires more than `max_parents`, or leaves too many sets to enumerate.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> prior(lamp(), nx.DiGraph([("switch", "lamp'")]), max_parents=2).members.astype(int).tolist()
    [[[0, 1], [1, 1]]]
    """
    _require_bipartite(spec, graph)
    limits = _limits(spec, max_parents)
    sets = [_candidates(spec, graph, output, limits[output]) for output in spec.outputs]
    members = np.zeros((len(sets), max(len(masks) for masks, _ in sets), len(spec.inputs)), dtype=bool)
    log_prior = np.full(members.shape[:2], -np.inf)
    for number, (masks, log_odds) in enumerate(sets):
        members[number, : len(masks)] = masks
        log_prior[number, : len(masks)] = log_odds - np.logaddexp.reduce(log_odds)
    enumerated = GraphPrior(spec, members, log_prior)
    cells = int(enumerated.heights.sum()) * max(spec.outputs.values())
    if cells > CELLS:
        raise ConfigError(
            f"graph: the tables of all parent sets hold {cells:,} counts, more than {CELLS:,}; "
            "lower max_parents, or require or forbid more edges"
        )
    return enumerated


def known(spec: FactoredSpec, graph: nx.DiGraph) -> GraphPrior:
    """Take the graph for the whole truth: with the true graph this is F-PSRL's prior.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> known(lamp(), true_graph(lamp())).members.astype(int).tolist()
    [[[1, 1]]]
    """
    _require_bipartite(spec, graph)
    parents = {output: len(list(graph.predecessors(output))) if output in graph else 0 for output in spec.outputs}
    return prior(spec, nx.DiGraph(list(graph.edges)), max_parents=parents)


def complete(spec: FactoredSpec) -> GraphPrior:
    """Let every input be a parent of every output: PSRL without a structure to learn.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> complete(lamp()).members.astype(int).tolist()
    [[[1, 1]]]
    """
    return known(spec, nx.DiGraph([(cause, effect) for effect in spec.outputs for cause in spec.inputs]))


def empty(spec: FactoredSpec, *, max_parents: int | Mapping[str, int]) -> GraphPrior:
    """Know nothing but a bound on the number of parents.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> empty(lamp(), max_parents=1).members.astype(int).tolist()
    [[[0, 0], [1, 0], [0, 1]]]
    """
    return prior(spec, nx.DiGraph(), max_parents=max_parents)


def true_graph(spec: FactoredSpec) -> nx.DiGraph:
    """Give the true causes, which an agent is not supposed to look at.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> list(true_graph(lamp()).edges)
    [('lamp', "lamp'"), ('switch', "lamp'")]
    """
    return nx.DiGraph([(cause, effect) for effect, causes in spec.parents.items() for cause in causes])


def _require_bipartite(spec: FactoredSpec, graph: nx.DiGraph) -> None:
    if not isinstance(graph, nx.DiGraph) or graph.is_multigraph():
        raise ConfigError(f"graph: expected a networkx.DiGraph, got {type(graph).__name__}")
    variables = f"the inputs are {list(spec.inputs)}, the outputs {list(spec.outputs)}"
    for name in graph.nodes:
        if name not in spec.inputs and name not in spec.outputs:
            raise ConfigError(f"graph: {name!r} is not a variable; {variables}")
    for cause, effect, probability in graph.edges(data="probability", default=1):
        if cause not in spec.inputs or effect not in spec.outputs:
            raise ConfigError(f"graph: edge {cause!r} -> {effect!r} must run from an input to an output; {variables}")
        if not (isinstance(probability, Real) and 0 <= probability <= 1):
            raise ConfigError(
                f"graph: edge {cause!r} -> {effect!r}: expected a probability in [0, 1], got {probability!r}"
            )


def _limits(spec: FactoredSpec, max_parents: int | Mapping[str, int]) -> Mapping[str, int]:
    limits = max_parents if isinstance(max_parents, Mapping) else dict.fromkeys(spec.outputs, max_parents)
    if limits.keys() != spec.outputs.keys():
        raise ConfigError(f"max_parents: expected a number for each of {list(spec.outputs)}, got {list(limits)}")
    for output, limit in limits.items():
        if not (isinstance(limit, Integral) and limit >= 0):
            raise ConfigError(f"max_parents: {output}: expected a whole number of at least 0, got {limit!r}")
    return limits


def _candidates(spec: FactoredSpec, graph: nx.DiGraph, output: str, limit: int):
    """Give the parent sets of one output as rows of a mask, and the log odds of each."""
    # An edge that is not there has even odds; one without a probability is certain.
    edges = [graph.get_edge_data(cause, output, {"probability": 0.5}) for cause in spec.inputs]
    weights = np.array([edge.get("probability", 1) for edge in edges])
    certain, free = weights == 1, np.flatnonzero((weights > 0) & (weights < 1))
    needed = int(certain.sum())
    room = min(limit - needed, len(free))
    if room < 0:
        raise ConfigError(f"max_parents: {output}: the graph requires {needed} parents, more than {limit}; raise it")
    total = sum(math.comb(len(free), size) for size in range(room + 1))
    if total > CANDIDATES:
        raise ConfigError(
            f"max_parents: {output}: there are {total:,} parent sets of at most {limit}, more than {CANDIDATES:,}; "
            "lower max_parents, or require or forbid more edges"
        )
    masks = np.tile(certain, (total, 1))
    chosen = (subset for size in range(room + 1) for subset in combinations(free, size))
    for mask, subset in zip(masks, chosen, strict=True):
        mask[list(subset)] = True
    return masks, masks[:, free] @ (np.log(weights[free]) - np.log1p(-weights[free]))
