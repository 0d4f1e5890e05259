"""Whether the posterior keeps its promises: simulation-based calibration (Talts et al., arXiv:1804.06788).

A world is drawn from the prior, moves are drawn from the world, and the posterior is asked where in it the world lies.
If prior, likelihood and posterior fit together, that place is uniform: the truth is among the least probable tenth of
the posterior in a tenth of all worlds. A wrong formula, a wrong α or a wrong prior of graphs bends it.

No draws of the posterior are needed: its distribution functions are known. Where they jump, the place is uniform within
the jump, which makes it exactly uniform for things that are counted, like edges and graphs, as well.
"""

import math
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bayes_persona import ranges
from bayes_persona.cpsrl import structure
from bayes_persona.cpsrl.graph import GraphPrior
from bayes_persona.errors import ConfigError, MismatchError, needs_extra
from bayes_persona.seeds import generator

with needs_extra("jax"):
    from scipy.special import betainc, chdtrc

GRAPHS = 100_000
"""How many graphs, all outputs together, can be put in order of their probability."""
TIED = 1e-9
"""Graphs whose log probabilities are closer than this are equally probable."""


@dataclass(frozen=True)
class Config:
    """How many worlds are drawn, and what is assumed of them.

    >>> Config(moves=0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: moves: expected at least 1, got 0
    """

    repetitions: int = 1000
    """How many worlds."""
    moves: int = 50
    """Moves seen of each, from random settings."""
    alpha: float = 1.0
    """The Dirichlet's parameter that worlds are drawn with."""
    assumed: float | None = None
    """The parameter that the posterior assumes: the same, unless another is given, to see that it is noticed."""

    def __post_init__(self):
        ranges.at_least(self, 1, "repetitions", "moves")
        ranges.positive(self, "alpha", "assumed")


class Ranks(NamedTuple):
    """Where in its posterior each truth lies, from 0 to 1.

    >>> Ranks(np.zeros(9), np.zeros((9, 1, 2)), np.zeros((9, 1))).edges.shape
    (9, 1, 2)
    """

    graphs: Float[np.ndarray, " repetitions"]
    """Probability of all graphs more probable than the true one: at most c if it is in the c credible set."""
    edges: Float[np.ndarray, "repetitions outputs inputs"]
    """Of each edge: the distribution function of its presence."""
    parameters: Float[np.ndarray, "repetitions outputs"]
    """Of each output: the distribution function of the probability of its first value, at a random setting."""


def simulate(config: Config, prior: GraphPrior, *, seed: int, assumed: GraphPrior | None = None) -> Ranks:
    """Draw worlds, learn each, and give where the truths lie.

    Args:
        config: How many worlds, and what is assumed.
        prior: The prior of graphs that worlds are drawn from. Of its spec only names and sizes matter.
        seed: Names the simulation.
        assumed: The prior that the posterior assumes: the same, unless another is given, to see that it is noticed.

    Raises:
        ConfigError: If there are too many graphs to order.
        MismatchError: If the assumed prior is for other variables.

    >>> from bayes_persona.cpsrl import env, graph
    >>> ranks = simulate(Config(repetitions=50, moves=10), graph.empty(env.lamp(), max_parents=2), seed=0)
    >>> bool(0.2 < ranks.graphs.mean() < 0.8)
    True
    """
    assumed = prior if assumed is None else assumed
    if (assumed.spec.inputs, assumed.spec.outputs) != (prior.spec.inputs, prior.spec.outputs):
        raise MismatchError("assumed: expected a prior for the same variables as the other; build both from one spec")
    number = math.prod(int((log > -np.inf).sum()) for log in assumed.log_prior)
    if number > GRAPHS:
        raise ConfigError(f"prior: expected at most {GRAPHS:,} graphs, got {number:,}; lower max_parents")
    places = [_place(config, prior, assumed, generator(seed, "world", world)) for world in range(config.repetitions)]
    graphs, edges, parameters = zip(*places, strict=True)
    return Ranks(np.array(graphs), np.stack(edges), np.stack(parameters))


def uniformity(ranks: Ranks, *, bins: int = 20) -> dict[str, float]:
    """Give the p-value of a chi-square test of each sort of place; small where the posterior breaks its promise.

    Edges are tested one by one, and the smallest p-value is multiplied by their number (Bonferroni).

    Raises:
        ConfigError: If there are fewer than five worlds a bin.

    >>> even = (np.arange(1000) + 0.5) / 1000
    >>> p_values = uniformity(Ranks(even, even[:, None, None], even[:, None] ** 2))
    >>> p_values["graphs"], p_values["parameters"] < 1e-9
    (1.0, True)
    """
    if bins < 2 or len(ranks.graphs) < 5 * bins:
        raise ConfigError(f"bins: expected at least 2, and 5 worlds a bin; got {bins} for {len(ranks.graphs)} worlds")
    edges = ranks.edges.reshape(len(ranks.edges), -1).T
    return {
        "graphs": _p_value(ranks.graphs, bins),
        "edges": min(1.0, len(edges) * min(_p_value(edge, bins) for edge in edges)),
        # given the settings, outputs are independent, and one more world each
        "parameters": _p_value(ranks.parameters.ravel(), bins),
    }


def coverage(ranks: Ranks, *, level: float = 0.8) -> float:
    """Give the share of true graphs in the credible set of a level: it should be the level.

    The set holds the most probable graphs, and those on its border by a toss, so that it has exactly its level.

    Raises:
        ConfigError: If the level is not between 0 and 1.

    >>> even = (np.arange(1000) + 0.5) / 1000
    >>> coverage(Ranks(even, even[:, None, None], even[:, None]), level=0.8)
    0.8
    """
    if not 0 < level < 1:
        raise ConfigError(f"level: expected a number between 0 and 1, got {level}")
    return float((ranks.graphs <= level).mean())


def _place(
    config: Config, prior: GraphPrior, assumed: GraphPrior, rng: np.random.Generator
) -> tuple[float, Float[np.ndarray, "outputs inputs"], Float[np.ndarray, " outputs"]]:
    sizes = list(prior.spec.inputs.values())
    settings = rng.integers(sizes, size=(config.moves + 1, len(sizes)))  # the last is where parameters are asked for
    truth = np.zeros((len(prior.spec.outputs), len(sizes)), dtype=bool)
    y, first = np.zeros((config.moves, len(truth)), dtype=np.int64), np.zeros(len(truth))
    for output, values in enumerate(prior.spec.outputs.values()):
        choice = rng.choice(len(prior.log_prior[output]), p=np.exp(prior.log_prior[output]))
        truth[output] = prior.members[output, choice]
        table = rng.dirichlet(np.full(values, config.alpha), size=int(prior.heights[output, choice]))
        probs = table[settings @ prior.strides[output, choice]]
        y[:, output] = (rng.random((config.moves, 1)) > probs[:-1, :-1].cumsum(axis=1)).sum(axis=1)
        first[output] = probs[-1, 0]
    alpha = config.alpha if config.assumed is None else config.assumed
    state = structure.update(assumed, structure.init(assumed), settings[:-1], y, alpha)
    posterior = np.asarray(structure.posterior(assumed, state))
    return (
        _graph_place(assumed, posterior, truth, rng),
        _edge_places(assumed, posterior, truth, rng),
        _parameter_places(assumed, state, posterior, settings[-1], first, alpha),
    )


def _graph_place(assumed: GraphPrior, posterior: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> float:
    true_log, logs = 0.0, []
    with np.errstate(divide="ignore"):
        for members, probs, parents in zip(assumed.members, posterior, truth, strict=True):
            there = probs[(members == parents).all(axis=1)]
            true_log += float(np.log(there.sum()))  # what fills up has no probability
            logs.append(np.log(probs[probs > 0]))
    graphs = reduce(np.add.outer, logs).ravel()
    probs = np.exp(graphs)
    if true_log == -np.inf:
        return 1.0
    tied = np.abs(graphs - true_log) < TIED
    return float(min(1.0, probs[(graphs > true_log) & ~tied].sum() + rng.random() * probs[tied].sum()))


def _edge_places(
    assumed: GraphPrior, posterior: np.ndarray, truth: np.ndarray, rng: np.random.Generator
) -> Float[np.ndarray, "outputs inputs"]:
    there = np.minimum(np.einsum("jc,jci->ji", posterior, assumed.members), 1.0)
    toss = rng.random(truth.shape)
    return np.where(truth, 1 - there + toss * there, toss * (1 - there))


def _parameter_places(
    assumed: GraphPrior,
    state: structure.State,
    posterior: np.ndarray,
    setting: Int[np.ndarray, " inputs"],
    first: Float[np.ndarray, " outputs"],
    alpha: float,
) -> Float[np.ndarray, " outputs"]:
    """Give, at one setting, the posterior probability that the first value is less probable than it is."""
    counts = np.asarray(state.counts)[assumed.starts + assumed.strides @ setting]
    values = np.array(list(assumed.spec.outputs.values()))[:, None]
    hits, misses = counts[..., 0], counts[..., 1:].sum(axis=-1)
    below = betainc(alpha + hits, alpha * (values - 1) + misses, first[:, None])
    return (posterior * below).sum(axis=1)


def _p_value(places: Float[np.ndarray, " n"], bins: int) -> float:
    counts = np.histogram(places, bins, range=(0, 1))[0]
    expected = len(places) / bins
    return float(chdtrc(bins - 1, ((counts - expected) ** 2).sum() / expected))
