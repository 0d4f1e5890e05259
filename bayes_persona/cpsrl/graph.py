"""Causal priors: what is known, forbidden or half believed of who causes what, as a networkx graph or a dict.

Edges run from the inputs (state and action variables) to the outputs (next-state variables, primed). So there are no
cycles to avoid, and the parents of different outputs are independent, before the data and after. How edges and numbers
of parents make a prior is in `beliefs`; here all its parent sets are enumerated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, Int

from bayes_persona.cpsrl.beliefs import ROUNDING, Known, Sizes, as_graph, beliefs, candidates
from bayes_persona.cpsrl.local import World
from bayes_persona.errors import ConfigError

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

    spec: World
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


def prior(spec: World, graph: Known, *, max_parents: int | Mapping[str, int], sizes: Sizes = "sets") -> GraphPrior:
    """Enumerate the parent sets that agree with what is known.

    Args:
        spec: The world whose variables the graph speaks of.
        graph: Edges from inputs to (primed) outputs, as a DiGraph or a dict. An edge is certain, unless it has an
            attribute `probability`: 0 forbids it, 1 requires it, anything between makes it more or less likely (or
            `odds`, likewise). Other edges are open. See `beliefs.beliefs`.
        max_parents: The largest parent set, for all outputs or for each by name.
        sizes: How probable each number of parents is: `"sets"` lets all sets weigh the same but for their odds, which
            favours middling sizes; `"uniform"` all sizes; or give the probability of each size.

    Raises:
        ConfigError: If the graph is not a DiGraph or dict, joins other things than inputs to outputs, says two things
            of one edge, has an impossible probability, requires more than `max_parents`, or leaves too many sets to
            enumerate.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> prior(lamp(), {"lamp'": ["switch"]}, max_parents=2).members.astype(int).tolist()
    [[[0, 1], [1, 1]]]
    """
    known = beliefs(spec, graph, max_parents=max_parents, sizes=sizes)
    return _assembled(spec, [candidates(known, number) for number in range(len(spec.outputs))])


def explicit(spec: World, sets: Mapping[str, Mapping[Any, float]]) -> GraphPrior:
    """Take a list of parent sets for each output, with the probability of each.

    Args:
        spec: The world whose variables the sets speak of.
        sets: For each output, the probability of each tuple (or frozenset) of parents.

    Raises:
        ConfigError: If an output or its sets are missing, a variable is unknown, a set is listed twice, or the
            probabilities of an output do not sum to 1.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> two = explicit(lamp(), {"lamp'": {("switch",): 0.25, ("lamp", "switch"): 0.75}})
    >>> two.members.astype(int).tolist(), np.exp(two.log_prior).round(3).tolist()
    ([[[0, 1], [1, 1]]], [[0.25, 0.75]])
    """
    if sets.keys() != spec.outputs.keys():
        raise ConfigError(f"sets: expected some for each of {list(spec.outputs)}, got {list(sets)}")
    return _assembled(spec, [_listed(spec, output, sets[output]) for output in spec.outputs])


def known(spec: World, graph: Known) -> GraphPrior:
    """Take the graph for the whole truth: with the true graph this is F-PSRL's prior.

    Raises:
        ConfigError: If an edge is neither certain nor forbidden.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> known(lamp(), true_graph(lamp())).members.astype(int).tolist()
    [[[1, 1]]]
    """
    said = graph if isinstance(graph, nx.Graph) else as_graph(graph)
    edges = beliefs(spec, said, max_parents=len(spec.inputs))
    for row, effect in enumerate(spec.outputs):
        for column, cause in enumerate(spec.inputs):
            if edges.free[row, column] and said.has_edge(cause, effect):
                raise ConfigError(
                    f"graph: edge {cause!r} -> {effect!r} is only probable; here all must be certain, "
                    "so leave it out, or make its probability 0 or 1"
                )
    return _assembled(spec, [(mask[None], np.zeros(1)) for mask in edges.required])


def complete(spec: World) -> GraphPrior:
    """Let every input be a parent of every output: PSRL without a structure to learn.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> complete(lamp()).members.astype(int).tolist()
    [[[1, 1]]]
    """
    return known(spec, {effect: list(spec.inputs) for effect in spec.outputs})


def empty(spec: World, *, max_parents: int | Mapping[str, int], sizes: Sizes = "sets") -> GraphPrior:
    """Know nothing but a bound on the number of parents.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> empty(lamp(), max_parents=1).members.astype(int).tolist()
    [[[0, 0], [1, 0], [0, 1]]]
    """
    return prior(spec, {}, max_parents=max_parents, sizes=sizes)


def true_graph(spec: World) -> nx.DiGraph:
    """Give the true causes, which an agent is not supposed to look at.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> list(true_graph(lamp()).edges)
    [('lamp', "lamp'"), ('switch', "lamp'")]
    """
    return nx.DiGraph([(cause, effect) for effect, causes in spec.parents.items() for cause in causes])


def _listed(
    spec: World, output: str, sets: Mapping[Any, float]
) -> tuple[Bool[np.ndarray, "candidates inputs"], Float[np.ndarray, " candidates"]]:
    names, masks = list(spec.inputs), np.zeros((len(sets), len(spec.inputs)), dtype=bool)
    for mask, parents in zip(masks, sets, strict=True):
        if not isinstance(parents, tuple | frozenset):
            raise ConfigError(f"sets: {output}: expected a tuple of inputs, got {parents!r}; one alone is ('name',)")
        for parent in parents:
            if parent not in names:
                raise ConfigError(f"sets: {output}: {parent!r} is not an input; the inputs are {names}")
            if mask[names.index(parent)]:
                raise ConfigError(f"sets: {output}: {parents!r} names {parent!r} twice")
            mask[names.index(parent)] = True
    if len(np.unique(masks, axis=0)) < len(masks):
        raise ConfigError(f"sets: {output}: one set is listed twice, in another order; take one away")
    total = math.fsum(sets.values())
    if not all(isinstance(p, Real) and 0 <= p <= 1 for p in sets.values()) or abs(total - 1) > ROUNDING:
        raise ConfigError(f"sets: {output}: expected probabilities that sum to 1, got {list(sets.values())}")
    probs = np.array([float(p) for p in sets.values()]) / total
    return masks[probs > 0], np.log(probs[probs > 0])


def _assembled(spec: World, sets: Sequence[tuple[np.ndarray, np.ndarray]]) -> GraphPrior:
    """Put the candidates of all outputs side by side, filled up to one number."""
    members = np.zeros((len(sets), max(len(masks) for masks, _ in sets), len(spec.inputs)), dtype=bool)
    log_prior = np.full(members.shape[:2], -np.inf)
    for number, (masks, logs) in enumerate(sets):
        members[number, : len(masks)] = masks
        log_prior[number, : len(masks)] = logs - np.logaddexp.reduce(logs)
    enumerated = GraphPrior(spec, members, log_prior)
    cells = int(enumerated.heights.sum()) * max(spec.outputs.values())
    if cells > CELLS:
        raise ConfigError(
            f"graph: the tables of all parent sets hold {cells:,} counts, more than {CELLS:,}; "
            "lower max_parents, or require or forbid more edges"
        )
    return enumerated
