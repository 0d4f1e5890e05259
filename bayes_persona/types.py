"""The shapes that repeat: what leaves a room, what learns, and what goes step by step."""

from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

Params = dict[str, np.ndarray]
"""One draw of a model's parameters: named arrays, dotted names. The only currency between rooms."""

Info = dict[str, float]
"""What a human may want to see of one step: named numbers, logged as they are."""

State = TypeVar("State")
Batch = TypeVar("Batch", contravariant=True)


class Data(NamedTuple):
    """Labelled examples, each with a weight: the empirical measure that a learner minimises its loss under.

    `y` holds one row per example: class probabilities (a one-hot row is a hard label) or regression targets.
    `weights` are weights on *data*, with mean one, so that an ordinary learning rate applies.

    >>> Data(np.zeros((3, 8)), np.eye(3), np.ones(3)).weights.mean()
    np.float64(1.0)
    """

    x: Any  # (n, …): whatever the learner's model takes, first axis examples; or a dict of such arrays
    y: Float[np.ndarray, "n k"]
    weights: Float[np.ndarray, " n"]
    spread: Float[np.ndarray, "n k"] | None = None  # variance of the target around y, where several were fused into one


@runtime_checkable  # so that tests can check annotations; it looks at names alone
class Learner(Protocol):
    """Fit and predict for one framework: the only place where a framework meets NPTL.

    A learner holds a model and its training settings, never data and never a random state: the same arguments give the
    same numbers, in any order and in any process.

    >>> class Mean:  # the smallest learner: its only parameter is the weighted mean of the labels
    ...     def fit(self, params, data, seed):
    ...         return {"mean": np.average(data.y, axis=0, weights=data.weights)}
    ...     def predict(self, params, x):
    ...         return np.tile(params["mean"], (len(x), 1))
    >>> Mean().fit({}, Data(np.zeros((2, 1)), np.eye(2), np.array([0.5, 1.5])), seed=0)["mean"].tolist()
    [0.25, 0.75]
    """

    def fit(self, params: Params, data: Data, seed: int) -> Params:
        """Minimise the weighted loss on `data`, starting from `params`, and give the params found."""
        ...

    def predict(self, params: Params, x: Any) -> Float[np.ndarray, "n k"]:
        """Give the predicted probabilities (or means) of every row of `x`."""
        ...


@runtime_checkable
class Kernel(Protocol[State, Batch]):
    """A thing that goes step by step: `state` is what the next step needs, `info` what a human wants to see.

    States are named tuples (or dicts) of arrays and nothing else, so that any run can be saved and resumed.

    >>> class Walk:  # a random walk: one number, one normal increment a step
    ...     def init(self, seed):
    ...         return {"x": np.zeros(())}
    ...     def step(self, seed, state, batch):
    ...         return {"x": state["x"] + np.random.default_rng(seed).normal()}, {"x": float(state["x"])}
    >>> Walk().step(0, Walk().init(0), None)[1]
    {'x': 0.0}
    """

    def init(self, seed: int) -> State:
        """Give the state before the first step."""
        ...

    def step(self, seed: int, state: State, batch: Batch) -> tuple[State, Info]:
        """Do one step: the next state, and what happened."""
        ...
