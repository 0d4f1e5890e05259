"""What is known, forbidden or half believed of each edge before any data, as numbers.

The prior of a parent set z is P(z) ∝ s(|z|) Π_{i in z} w_i / (1 − w_i), where w_i is the probability of the edge and s
a weight of its size. A set that lacks a required edge, has a forbidden one or is too large has no probability. The
normaliser is a sum over sizes of elementary symmetric polynomials, so it is known without enumerating the sets.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from numbers import Integral, Real
from typing import Any, Literal

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, Int

from bayes_persona.cpsrl.local import World
from bayes_persona.errors import ConfigError

CANDIDATES = 100_000
"""How many parent sets one output may have, where all are enumerated."""
ROUNDING = 1e-6
"""Probabilities that sum to 1 within this are taken to sum to 1, and are scaled."""

Known = nx.DiGraph | Mapping[Any, Any]
"""A graph, or a dict of certain parents `{output: [inputs]}`, of probabilities `{(input, output): 0.9}`, or of both."""
Sizes = Literal["sets", "uniform"] | Mapping[int, float] | Sequence[float]
"""How probable a number of parents is: `"sets"` lets all sets weigh the same, `"uniform"` all sizes."""


@dataclass(frozen=True)
class Names:
    """Variables alone, for data with more inputs than a whole world could be written down for.

    >>> Names(inputs={"lamp": 2, "switch": 2}, outputs={"lamp'": 2}).outputs
    {"lamp'": 2}
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


Named = World | Names
"""Whatever has named inputs and outputs, and their numbers of values."""


@dataclass(frozen=True, eq=False)
class Beliefs:
    """The prior of each output's parent set, normalised.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> known = beliefs(lamp(), {"lamp'": ["switch"]}, max_parents=2)
    >>> known.log_odds.tolist(), known.required.tolist()
    ([[0.0, inf]], [[False, True]])
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    log_odds: Float[np.ndarray, "outputs inputs"]
    """ln w / (1 − w) of each edge: infinite for a required one, minus infinite for a forbidden one."""
    limits: Int[np.ndarray, " outputs"]
    """The most parents that each output may have."""
    log_sizes: Float[np.ndarray, "outputs sizes"]
    """What a set of 0, 1, 2, … parents adds to its log odds, to make its log probability."""

    @cached_property
    def required(self) -> Bool[np.ndarray, "outputs inputs"]:
        """The edges that every set has."""
        return self.log_odds == np.inf

    @cached_property
    def free(self) -> Bool[np.ndarray, "outputs inputs"]:
        """The edges that a set may have or not."""
        return np.isfinite(self.log_odds)

    def log_prior(self, output: int, masks: Bool[np.ndarray, "sets inputs"]) -> Float[np.ndarray, " sets"]:
        """Give the log probability of some parent sets of one output."""
        free = self.free[output]
        logs = masks[:, free] @ self.log_odds[output, free] + self.log_sizes[output, masks.sum(axis=1)]
        possible = (masks[:, ~free] == self.required[output, ~free]).all(axis=1)
        return np.where(possible, logs, -np.inf)


def beliefs(variables: Named, graph: Known, *, max_parents: int | Mapping[str, int], sizes: Sizes = "sets") -> Beliefs:
    """Check what is known, and write it as numbers.

    Args:
        variables: The inputs and outputs that the graph speaks of.
        graph: Edges from inputs to (primed) outputs. An edge is certain, unless it has an attribute `probability` (0
            forbids it, 1 requires it, anything between makes it more or less likely) or `odds`, w / (1 − w). Edges not
            named are open, with even odds.
        max_parents: The largest parent set, for all outputs or for each by name.
        sizes: How probable each number of parents is, required ones counted: `"sets"` (all sets alike, but for the
            odds), `"uniform"` (all possible sizes alike), or the probability of each size. Given a size, sets go by
            their odds. Sizes that an output cannot have are left out, and the rest scaled to sum to 1.

    Raises:
        ConfigError: If the graph joins other things than inputs to outputs, says two things of one edge, has an
            impossible probability, or requires more than `max_parents`; or if no possible size has a probability.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> known = beliefs(lamp(), {("lamp", "lamp'"): 0.2}, max_parents=2, sizes=[0.5, 0.5])
    >>> np.exp(known.log_prior(0, np.array([[False, False], [True, False], [False, True]]))).round(3).tolist()
    [0.5, 0.1, 0.4]
    """
    log_odds = _log_odds(variables, graph if isinstance(graph, nx.Graph) else as_graph(graph))
    limits = _limits(variables, max_parents)
    log_sizes = np.full((len(log_odds), len(variables.inputs) + 1), -np.inf)
    for row, (name, odds) in enumerate(zip(variables.outputs, log_odds, strict=True)):
        needed, free = int((odds == np.inf).sum()), odds[np.isfinite(odds)]
        room = min(int(limits[row]) - needed, len(free))
        if room < 0:
            raise ConfigError(
                f"max_parents: {name}: the graph requires {needed} parents, more than {limits[row]}; raise it"
            )
        log_sizes[row, needed : needed + room + 1] = _size_terms(name, needed, _polynomials(free, room), sizes)
    return Beliefs(variables.inputs, variables.outputs, log_odds, limits, log_sizes)


def as_graph(known: Mapping[Any, Any]) -> nx.DiGraph:
    """Give the graph that a dict speaks of.

    Args:
        known: Certain parents by output, `{"row'": ["row", "action"]}`; or probabilities by edge,
            `{("column", "row'"): 0.1}`. One dict may hold both.

    Raises:
        ConfigError: If a key or value is of neither form, or the dict says two things of one edge.

    >>> as_graph({"row'": ["row", "action"], ("column", "row'"): 0.1}).edges["column", "row'"]
    {'probability': 0.1}
    """
    graph = nx.DiGraph()
    for key, value in known.items():
        for cause, effect, probability in _edges(key, value):
            if not graph.has_edge(cause, effect):
                graph.add_edge(cause, effect, probability=probability)
                continue
            said = graph.edges[cause, effect]["probability"]
            both = f"{said!r} and {probability!r}"
            if {said, probability} == {0, 1}:
                raise ConfigError(f"graph: edge {cause!r} -> {effect!r} is both required and forbidden; take one away")
            raise ConfigError(f"graph: edge {cause!r} -> {effect!r} is named twice, with {both}; take one away")
    return graph


def candidates(
    known: Beliefs, output: int
) -> tuple[Bool[np.ndarray, "candidates inputs"], Float[np.ndarray, " candidates"]]:
    """Give all parent sets of one output, smaller ones first, and the log probability of each.

    Raises:
        ConfigError: If there are too many to enumerate.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> masks, log_prior = candidates(beliefs(lamp(), {}, max_parents=1), 0)
    >>> masks.astype(int).tolist(), np.exp(log_prior).round(3).tolist()
    ([[0, 0], [1, 0], [0, 1]], [0.333, 0.333, 0.333])
    """
    name, limit = list(known.outputs)[output], known.limits[output]
    certain, free = known.required[output], np.flatnonzero(known.free[output])
    room = min(int(limit - certain.sum()), len(free))
    total = sum(math.comb(len(free), size) for size in range(room + 1))
    if total > CANDIDATES:
        raise ConfigError(
            f"max_parents: {name}: there are {total:,} parent sets of at most {limit}, more than {CANDIDATES:,}; "
            "lower max_parents, or require or forbid more edges"
        )
    chosen = [subset for size in range(room + 1) for subset in combinations(free, size)]
    masks = np.tile(certain, (total, 1))
    for mask, subset in zip(masks, chosen, strict=True):
        mask[list(subset)] = True
    logs = known.log_prior(output, masks)
    return masks[logs > -np.inf], logs[logs > -np.inf]


def without(known: Beliefs, forbidden: Bool[np.ndarray, "outputs inputs"]) -> Beliefs:
    """Forbid some free edges, and leave the odds of all sets that remain as they were.

    Raises:
        ConfigError: If a required edge is to be forbidden, or no parent set is left.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> open_edges = beliefs(lamp(), {}, max_parents=2)
    >>> masks, _ = candidates(without(open_edges, np.array([[True, False]])), 0)
    >>> masks.astype(int).tolist()
    [[0, 0], [0, 1]]
    """
    if (forbidden & known.required).any():
        row, column = np.argwhere(forbidden & known.required)[0]
        edge = f"{list(known.inputs)[column]!r} -> {list(known.outputs)[row]!r}"
        raise ConfigError(f"forbidden: edge {edge} is both required and forbidden; take one away")
    log_odds = np.where(forbidden, -np.inf, known.log_odds)
    log_sizes = known.log_sizes.copy()
    for row, odds in enumerate(log_odds):
        needed, free = int((odds == np.inf).sum()), odds[np.isfinite(odds)]
        room = min(int(known.limits[row]) - needed, len(free))
        log_sizes[row, needed + room + 1 :] = -np.inf
        total = np.logaddexp.reduce(log_sizes[row, needed : needed + room + 1] + _polynomials(free, room))
        if total == -np.inf:
            raise ConfigError(f"forbidden: {list(known.outputs)[row]}: no parent set is left; forbid fewer edges")
        log_sizes[row] -= total
    return replace(known, log_odds=log_odds, log_sizes=log_sizes)


def _edges(key: Any, value: Any) -> list[tuple[str, str, float]]:
    if isinstance(key, tuple) and len(key) == 2 and isinstance(value, Real):
        return [(*key, float(value))]
    if isinstance(key, str) and isinstance(value, Sequence | set | frozenset) and not isinstance(value, str):
        if len(set(value)) < len(value):
            raise ConfigError(f"graph: {key}: the parents {list(value)} are not all different; name each once")
        return [(cause, key, 1.0) for cause in value]
    raise ConfigError(
        f"graph: expected {{output: [inputs]}} or {{(input, output): probability}}, got {{{key!r}: {value!r}}}"
    )


def _log_odds(variables: Named, graph: nx.Graph) -> Float[np.ndarray, "outputs inputs"]:
    if not isinstance(graph, nx.DiGraph) or graph.is_multigraph():
        raise ConfigError(f"graph: expected a networkx.DiGraph, got {type(graph).__name__}")
    inputs, outputs = list(variables.inputs), list(variables.outputs)
    known = f"the inputs are {inputs}, the outputs {outputs}"
    for name in graph.nodes:
        if name not in inputs and name not in outputs:
            raise ConfigError(f"graph: {name!r} is not a variable; {known}")
    log_odds = np.zeros((len(outputs), len(inputs)))
    for cause, effect, said in graph.edges(data=True):
        if cause not in inputs or effect not in outputs:
            raise ConfigError(
                f"graph: edge {cause!r} -> {effect!r} must run from an input to an output, for time runs one way; "
                f"{known}"
            )
        log_odds[outputs.index(effect), inputs.index(cause)] = _edge(f"graph: edge {cause!r} -> {effect!r}", said)
    return log_odds


def _edge(where: str, said: Mapping[str, Any]) -> float:
    """Give the log odds of one edge."""
    probability, odds = said.get("probability"), said.get("odds")
    if probability is not None and not (isinstance(probability, Real) and 0 <= float(probability) <= 1):
        raise ConfigError(f"{where}: expected a probability in [0, 1], got {probability!r}")
    if odds is not None and not (isinstance(odds, Real) and float(odds) >= 0):
        raise ConfigError(f"{where}: expected odds of at least 0, got {odds!r}")
    with np.errstate(divide="ignore"):
        if odds is None:
            weight = np.float64(1.0 if probability is None else probability)
            return float(np.log(weight) - np.log1p(-weight))
        implied = 1.0 if odds == math.inf else float(odds) / (1 + float(odds))
        if probability is not None and abs(implied - float(probability)) > ROUNDING:
            raise ConfigError(
                f"{where}: odds {odds!r} are a probability of {implied:.6g}, not {probability!r}; give one"
            )
        return float(np.log(np.float64(odds)))


def _limits(variables: Named, max_parents: int | Mapping[str, int]) -> Int[np.ndarray, " outputs"]:
    limits = max_parents if isinstance(max_parents, Mapping) else dict.fromkeys(variables.outputs, max_parents)
    if limits.keys() != variables.outputs.keys():
        raise ConfigError(f"max_parents: expected a number for each of {list(variables.outputs)}, got {list(limits)}")
    for output, limit in limits.items():
        if not (isinstance(limit, Integral) and limit >= 0):
            raise ConfigError(f"max_parents: {output}: expected a whole number of at least 0, got {limit!r}")
    return np.array([int(limits[output]) for output in variables.outputs])


def _polynomials(log_odds: Float[np.ndarray, " free"], degree: int) -> Float[np.ndarray, " sizes"]:
    """Give ln e_k, the log of the summed odds of all sets of k free edges, for k = 0 … degree."""
    logs = np.full(degree + 1, -np.inf)
    logs[0] = 0.0
    for odds in log_odds:
        logs[1:] = np.logaddexp(logs[1:], logs[:-1] + odds)
    return logs


def _size_terms(
    name: str, needed: int, polynomials: Float[np.ndarray, " sizes"], sizes: Sizes
) -> Float[np.ndarray, " sizes"]:
    if isinstance(sizes, str):
        if sizes == "sets":
            return np.full(len(polynomials), -np.logaddexp.reduce(polynomials))
        if sizes == "uniform":
            return -np.log(len(polynomials)) - polynomials
        raise ConfigError(f'sizes: expected "sets", "uniform" or probabilities, got {sizes!r}')
    table = sizes if isinstance(sizes, Mapping) else dict(enumerate(sizes))
    if not all(isinstance(size, Integral) and size >= 0 for size in table):
        raise ConfigError(f"sizes: expected whole numbers of at least 0, got {list(table)}")
    if not all(isinstance(p, Real) and 0 <= p <= 1 for p in table.values()) or abs(sum(table.values()) - 1) > ROUNDING:
        raise ConfigError(f"sizes: expected probabilities that sum to 1, got {dict(table)}")
    possible = np.array([float(table.get(needed + size, 0.0)) for size in range(len(polynomials))])
    if possible.sum() == 0:
        raise ConfigError(
            f"sizes: {name} has {needed} to {needed + len(polynomials) - 1} parents, "
            "but none of these sizes has a probability"
        )
    with np.errstate(divide="ignore"):
        return np.log(possible / possible.sum()) - polynomials
