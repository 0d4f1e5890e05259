"""Which parts of an adapter are worth having: a causal posterior over its gates, and what else it is good for.

Each gate is a knob that is shut or open, and each generation an intervention. After a few of them only the gates stay
open that move who it is; what they would have done to everything else is not done. The probabilities of their edges
then say how far other methods should open theirs: β of Perfusion's layers, the routers of a mixture of attention.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import networkx as nx
import numpy as np

from bayes_persona.errors import ConfigError
from bayes_persona.persona import tuning
from bayes_persona.persona.session import Generates, Quality
from bayes_persona.persona.tuning import Tuned, Tuning

QUALITIES = (Quality("identity", 0.4, 1.0), Quality("context", 0.85, 1.0))
"""What gates trade: who it is, and that nobody else changes."""


class Chosen(NamedTuple):
    """Gates, and how they were chosen.

    >>> Chosen({"mid.key": 0.0}, Tuned((0,), {"mid.key": 0.0}, 0.7, (), nx.DiGraph())).gates
    {'mid.key': 0.0}
    """

    gates: dict[str, float]
    """As `adapter.attached` takes them."""
    tuned: Tuned


class Everyone:
    """Several people's sessions as one: a setting is as good as it is for them on average.

    What gates are good for is much the same for all subjects of a method, so it can be learned on some for others.

    Args:
        sessions: All with the same knobs and qualities.

    Raises:
        ConfigError: If there is none, or they differ in knobs or qualities.

    >>> from bayes_persona.persona.knobs import Knob
    >>> from bayes_persona.persona.session import Recorded
    >>> two = [Recorded([Knob("mid", (0.0, 1.0), ("mid",))], ["identity"], np.full((2, 1, 1), x)) for x in (0.2, 0.6)]
    >>> Everyone(two)([0], seed=0)
    {'identity': 0.4}
    """

    def __init__(self, sessions: Sequence[Generates]):
        if not sessions or any((one.knobs, one.names) != (sessions[0].knobs, sessions[0].names) for one in sessions):
            raise ConfigError("sessions: expected some, all with the same knobs and qualities")
        self.sessions, self.knobs, self.names = sessions, sessions[0].knobs, sessions[0].names

    def __call__(self, places: Sequence[int] | np.ndarray, seed: int) -> dict[str, float]:
        """Ask them all."""
        every = [one(places, seed) for one in self.sessions]
        return {name: float(np.mean([values[name] for values in every])) for name in self.names}


def choose(
    session: Generates,
    causes: nx.DiGraph | None = None,
    config: tuning.Config | None = None,
    *,
    seed: int = 0,
    title: str | None = None,
) -> Chosen:
    """Open the gates that are worth it.

    Args:
        session: Its knobs are gates (`knobs.gates`).
        causes: What is known of gates and qualities; None is `causes.usual`.
        config: How many generations may be spent, and how.
        seed: Names the run.
        title: Name beside the progress bar; None shows none.

    Raises:
        ConfigError: If a knob is not one of gates.

    >>> from bayes_persona.persona.knobs import Knob
    >>> from bayes_persona.persona.session import Recorded
    >>> shut_or_open = np.array([[[0.5, 0.9]], [[0.9, 0.9]]])  # this one gate makes the person, and harms nobody
    >>> session = Recorded([Knob("mid", (0.0, 1.0), ("mid.key", "mid.value"))], ["identity", "context"], shut_or_open)
    >>> choose(session, config=tuning.Config(budget=8, max_parents=1)).gates
    {'mid.key': 1.0, 'mid.value': 1.0}
    """
    if plain := [knob.name for knob in session.knobs if not knob.gates]:
        raise ConfigError(f"{plain[0]}: is no gate; tune it with tuning.tune")
    found = tuning.tune(Tuning(session, QUALITIES), causes, config, seed=seed, title=title)
    gates = {gate: found.setting[knob.name] for knob in session.knobs for gate in knob.gates}
    return Chosen(gates, found)


def betas(edges: nx.DiGraph, quality: str = "identity", *, low: float = 0.5, high: float = 0.9) -> dict[str, float]:
    """Give Perfusion's β of every gate: low, so that much is let in, where the gate surely moves a quality.

    Args:
        edges: From gates to qualities, with their `probability`: `Tuned.edges`.
        quality: Which.
        low: β of a gate that surely does.
        high: β of one that surely does not.

    Raises:
        ConfigError: If no edge leads to the quality.

    >>> sure, not_so = ("up.value", "identity", {"probability": 1.0}), ("mid.key", "identity", {"probability": 0.0})
    >>> betas(nx.DiGraph([sure, not_so]))
    {'up.value': 0.5, 'mid.key': 0.9}
    """
    return {gate: high - (high - low) * p for gate, p in _into(edges, quality).items()}


def router_logits(edges: nx.DiGraph, quality: str = "identity", *, most: float = 4.0) -> dict[str, float]:
    """Give the log odds that each gate moves a quality, as a prior of a mixture's routers.

    Args:
        edges: From gates to qualities, with their `probability`: `Tuned.edges`.
        quality: Which.
        most: The largest log odds, either way.

    Raises:
        ConfigError: If no edge leads to the quality.

    >>> sure, maybe = ("up.cross", "identity", {"probability": 1.0}), ("mid.self", "identity", {"probability": 0.5})
    >>> router_logits(nx.DiGraph([sure, maybe]))
    {'up.cross': 4.0, 'mid.self': 0.0}
    """
    odds = {gate: np.log(max(p, 1e-12)) - np.log(max(1 - p, 1e-12)) for gate, p in _into(edges, quality).items()}
    return {gate: float(np.clip(value, -most, most)) for gate, value in odds.items()}


def _into(edges: nx.DiGraph, quality: str) -> Mapping[str, float]:
    if quality not in edges or not edges.in_degree(quality):
        raise ConfigError(f"quality: no edge leads to {quality}; the graph has {', '.join(map(str, edges.nodes))}")
    return {cause: float(edges.edges[cause, quality]["probability"]) for cause in edges.predecessors(quality)}
