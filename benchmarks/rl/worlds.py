"""The worlds that agents are compared in, and what they are told of them."""

from collections.abc import Callable

import networkx as nx
from bayes_persona_envs import random_factored, sepsis
from bayes_persona_envs.taxi import Taxi

from bayes_persona.cpsrl import env, graph
from bayes_persona.cpsrl.env import FactoredSpec
from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.seeds import child, generator

Told = Callable[[FactoredSpec], GraphPrior]
"""Gives what an agent is told of a world."""


def random_worlds(count: int, *, parents: int, seed: int = 0, **sizes: int) -> list[FactoredSpec]:
    """Draw instances from the prior that agents have of them."""
    seeds = [child(seed, "instance", number) % 2**31 for number in range(count)]
    return [random_factored.random_spec(seed, parents=parents, **sizes) for seed in seeds]


def taxi() -> FactoredSpec:
    """Give Gymnasium's dry taxi."""
    return Taxi().fmdp_spec()


def hospital() -> FactoredSpec:
    """Give the sepsis simulator."""
    return sepsis.Sepsis().fmdp_spec()


def everything(spec: FactoredSpec) -> GraphPrior:
    """Tell the true graph."""
    return graph.known(spec, graph.true_graph(spec))


def flat(spec: FactoredSpec) -> GraphPrior:
    """Tell nothing, and hide the variables."""
    return graph.complete(env.flat(spec))


def some(eta: int, *, max_parents: int, slack: int = 0) -> Told:
    """Tell so many true parents of each variable, chosen at random."""
    return lambda spec: graph.prior(spec, nx.DiGraph(_chosen(spec, eta)), max_parents=max_parents + slack)


def some_taken_for_all(eta: int) -> Told:
    """Tell so many true parents of each variable, and that there are no others."""
    return lambda spec: graph.known(spec, nx.DiGraph(_chosen(spec, eta)))


def one_wrong(*, max_parents: int, probability: float = 1.0) -> Told:
    """Tell one parent of each variable that is none: as certain, or as likely."""

    def tell(spec: FactoredSpec) -> GraphPrior:
        wrong = nx.DiGraph()
        for output, parents in spec.parents.items():
            others = [name for name in spec.inputs if name not in parents]
            cause = others[generator(len(others), "wrong", output).integers(len(others))]
            wrong.add_edge(cause, output, probability=probability)
        return graph.prior(spec, wrong, max_parents=max_parents)

    return tell


def taxi_graph(max_parents: int = 4) -> Told:
    """Tell that everything depends on itself, and but for the destination on the action."""
    known: nx.DiGraph = nx.DiGraph()
    known.add_edge("destination", "destination'")
    for name in ("row", "column", "passenger"):
        known.add_edges_from([(name, f"{name}'"), ("action", f"{name}'")])
    return lambda spec: graph.prior(spec, known, max_parents=max_parents)


def _chosen(spec: FactoredSpec, eta: int) -> list[tuple[str, str]]:
    """Pick true edges: the same for the same world, and those of a smaller number among those of a larger."""
    edges = []
    for output, parents in spec.parents.items():
        order = generator(0, "told", output).permutation(len(parents))
        edges += [(parents[number], output) for number in order[:eta]]
    return edges
