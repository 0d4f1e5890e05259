"""What may move what: the causal prior over the knobs of an adapted pipeline and the qualities of its pictures."""

from collections.abc import Sequence

import networkx as nx

from bayes_persona.errors import ConfigError
from bayes_persona.persona.knobs import GUIDANCE, Knob
from bayes_persona.persona.session import Quality

LIKELY, UNLIKELY = 0.8, 0.2
"""What `usual` says of an edge that people would bet on, and against."""


def beliefs(knobs: Sequence[Knob], qualities: Sequence[Quality], causes: nx.DiGraph | None = None) -> nx.DiGraph:
    """Complete what is known of causes: the quality of one picture is no cause of the next one's.

    Args:
        knobs: The causes.
        qualities: The effects.
        causes: Edges from knobs to qualities, by their names: certain, or with `probability`; None is `usual`.

    Raises:
        ConfigError: If the graph speaks of knobs or qualities that there are not.

    >>> from bayes_persona.persona.session import QUALITIES
    >>> two = [Knob("scale", (0.5, 1.0)), Knob("guidance", (1.0, 3.0))]
    >>> known = beliefs(two, QUALITIES[:1], nx.DiGraph([("scale", "identity")]))
    >>> sorted(known.edges(data="probability"))
    [('identity', "identity'", 0.0), ('scale', "identity'", None)]
    """
    causes = usual(knobs, qualities) if causes is None else causes
    names, effects = {knob.name for knob in knobs}, {one.name for one in qualities}
    for cause, effect in causes.edges:
        if cause not in names or effect not in effects:
            raise ConfigError(
                f"graph: {cause} → {effect}: expected edges from {', '.join(sorted(names))} to "
                f"{', '.join(sorted(effects))}"
            )
    known = nx.DiGraph()
    known.add_edges_from((cause, f"{effect}'", data) for cause, effect, data in causes.edges(data=True))
    known.add_edges_from((one, f"{two}'", {"probability": 0.0}) for one in effects for two in effects)
    return known


def usual(knobs: Sequence[Knob], qualities: Sequence[Quality]) -> nx.DiGraph:
    """Give what people who tune by hand believe: gates and scales move who it is, guidance what the prompt gets.

    An adapter's own knobs likely move identity and context, guidance the prompt; gates likely move identity, the middle
    and the way up more than the way down.

    >>> from bayes_persona.persona.session import QUALITIES
    >>> found = usual([Knob("scale", (0.5, 1.0)), Knob("guidance", (1.0, 3.0))], QUALITIES)
    >>> found.edges["guidance", "prompt"]["probability"], found.edges["guidance", "context"]["probability"]
    (0.8, 0.2)
    """
    graph = nx.DiGraph()
    for knob in knobs:
        for one in qualities:
            if knob.name == GUIDANCE:
                probability = LIKELY if one.name == "prompt" else UNLIKELY
            elif knob.gates:
                probability = UNLIKELY if one.name == "prompt" else 0.5
            else:
                probability = 0.5 if one.name == "prompt" else LIKELY
            graph.add_edge(knob.name, one.name, probability=probability)
    return graph
