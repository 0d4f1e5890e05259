"""Draws of parent sets where there are too many to enumerate, by Markov chain Monte Carlo.

The parents of different outputs are independent given the data, so each output has walks of its own (Metropolis and
Hastings): a step adds an input, drops one, or swaps one for another, each sort a third of the time, and is taken with
the probability that makes the walk stay in the posterior. Required edges are never dropped, forbidden ones never added.

Two inputs that matter only together (as in x xor y) may be met late, since neither helps alone: give one to the prior.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from bayes_persona import ranges
from bayes_persona.cpsrl.beliefs import Beliefs
from bayes_persona.cpsrl.evidence import Evidence, moves_of
from bayes_persona.cpsrl.search import Found
from bayes_persona.errors import ConfigError, MismatchError
from bayes_persona.seeds import generator


@dataclass(frozen=True)
class Config:
    """How long to walk.

    >>> Config(draws=0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: draws: expected at least 1, got 0
    """

    chains: int = 4
    """Walks from different starts, for each output."""
    draws: int = 2000
    """Steps of each walk that are kept."""
    warm_up: int = 500
    """Steps before those, when the walk starts from nowhere."""

    def __post_init__(self):
        ranges.at_least(self, 1, "chains", "draws")
        ranges.at_least(self, 0, "warm_up")


class State(NamedTuple):
    """Where each walk is: the next one, after more data, starts there.

    >>> State(members=np.zeros((4, 1, 2), dtype=bool)).members.any()
    np.False_
    """

    members: Bool[np.ndarray, "chains outputs inputs"]


def sample(
    config: Config,
    known: Beliefs,
    x: Int[np.ndarray, "t inputs"],
    y: Int[np.ndarray, "t outputs"],
    *,
    alpha: float,
    seed: int,
    state: State | None = None,
) -> tuple[State, Found]:
    """Draw parent sets, each output's from its posterior.

    Args:
        config: How long to walk.
        known: The prior.
        x: Settings of the inputs.
        y: The settings of the outputs that followed.
        alpha: The Dirichlet's parameter for each cell.
        seed: Names the walk.
        state: Where an earlier walk ended, if there was one; then there is no warm-up.

    Raises:
        ConfigError: If possible numbers of parents have impossible ones between them, which no step leads over.
        MismatchError: If the data or the state do not fit the prior.

    >>> from bayes_persona.cpsrl.beliefs import beliefs
    >>> from bayes_persona.cpsrl.env import lamp
    >>> x = np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (5, 1))
    >>> known = beliefs(lamp(), {}, max_parents=2)
    >>> state, found = sample(Config(), known, x, x[:, 1:], alpha=1.0, seed=0)  # the lamp does as the switch says
    >>> found.members.shape, found.marginals.round().tolist()
    ((4, 2000, 1, 2), [[0.0, 1.0]])
    """
    evidence = moves_of(known, x, y, alpha)
    members = np.zeros((config.chains, config.draws, len(known.outputs), len(known.inputs)), dtype=bool)
    warm_up = config.warm_up if state is None else 0
    starts = _starts(config, known, seed) if state is None else state.members
    _require_starts(config, known, starts)
    for output, name in enumerate(known.outputs):
        target = _Target(known, output, evidence[output])
        for chain in range(config.chains):
            path = _Walk(target, starts[chain, output], generator(seed, "walk", name, chain))
            for _ in range(warm_up):
                path.step()
            for draw in range(config.draws):
                members[chain, draw, output] = path.step()
    return State(members[:, -1].copy()), Found(members, members.mean(axis=(0, 1)))


class _Target:
    """The log posterior, up to a constant, of a parent set of one output."""

    def __init__(self, known: Beliefs, output: int, evidence: Evidence):
        self.known, self.output, self.evidence = known, output, evidence
        self.seen: dict[bytes, float] = {}

    def log(self, mask: np.ndarray) -> float:
        key = mask.tobytes()
        if key not in self.seen:
            prior = float(self.known.log_prior(self.output, mask[None])[0])
            self.seen[key] = prior if prior == -math.inf else prior + self.evidence.log(mask)
        return self.seen[key]


class _Walk:
    """One chain: a parent set that `step` moves."""

    def __init__(self, target: _Target, start: np.ndarray, rng: np.random.Generator):
        self.target, self.rng, self.mask, self.log = target, rng, start.copy(), target.log(start)
        free = target.known.free[target.output]
        self.inside, self.outside = np.flatnonzero(free & start).tolist(), np.flatnonzero(free & ~start).tolist()

    def step(self) -> np.ndarray:
        sort, first, second, luck = self.rng.random(4)
        inside, outside = self.inside, self.outside
        drop = int(first * len(inside)) if sort >= 1 / 3 else None
        add = int(second * len(outside)) if sort < 2 / 3 else None
        if (drop is not None and not inside) or (add is not None and not outside):
            return self.mask
        # how much likelier the way back is proposed than the way there
        ratio = 1.0
        if drop is None:
            ratio = len(outside) / (len(inside) + 1)
        elif add is None:
            ratio = len(inside) / (len(outside) + 1)
        proposal = self.mask.copy()
        if drop is not None:
            proposal[inside[drop]] = False
        if add is not None:
            proposal[outside[add]] = True
        log = self.target.log(proposal)
        if luck < ratio * math.exp(min(log - self.log, 700.0)):
            dropped = [] if drop is None else [inside.pop(drop)]
            added = [] if add is None else [outside.pop(add)]
            inside.extend(added)
            outside.extend(dropped)
            self.mask, self.log = proposal, log
        return self.mask


def _starts(config: Config, known: Beliefs, seed: int) -> Bool[np.ndarray, "chains outputs inputs"]:
    """Give sets far apart: of any possible size, and then any."""
    starts = np.tile(known.required, (config.chains, 1, 1))
    for output, name in enumerate(known.outputs):
        free = np.flatnonzero(known.free[output])
        sizes = np.flatnonzero(known.log_sizes[output] > -np.inf)
        if (np.diff(sizes) > 1).any():
            raise ConfigError(
                f"sizes: {name}: no step leads from {sizes[0]} to {sizes[-1]} parents past sizes of no probability; "
                "give those between a little"
            )
        for chain in range(config.chains):
            rng = generator(seed, "start", name, chain)
            extra = int(rng.choice(sizes)) - int(known.required[output].sum())
            starts[chain, output, rng.permutation(free)[:extra]] = True
    return starts


def _require_starts(config: Config, known: Beliefs, starts: np.ndarray) -> None:
    want = (config.chains, len(known.outputs), len(known.inputs))
    if starts.shape != want:
        raise MismatchError(f"state: expected shape {want} for chains, outputs and inputs, got {starts.shape}")
    for output, name in enumerate(known.outputs):
        if (known.log_prior(output, starts[:, output]) == -np.inf).any():
            raise MismatchError(f"state: {name}: a walk is at a set without probability; is it of another prior?")
