"""What every learner and every kernel promises, as checks that yours can be put through too.

These promises are all that makes serial, parallel and resumed runs equal; a learner or kernel that keeps them works
with `nptl.NPTL`, `map` and `run` without a line of glue.
"""

import copy
from typing import Any

import numpy as np

from bayes_persona.errors import MismatchError
from bayes_persona.named import flatten, require_finite, require_like, unflatten
from bayes_persona.types import Data, Kernel, Learner, Params


def check_learner(learner: Learner, params: Params, data: Data) -> None:
    """Put a learner through its promises on a small classification task.

    Args:
        learner: The one to check.
        params: Where its fits may start.
        data: A few examples that it can be fitted to; rows of `y` are class probabilities.

    Raises:
        MismatchError: Saying which promise is broken.

    >>> class Mean:
    ...     def fit(self, params, data, seed): return {"mean": np.average(data.y, axis=0, weights=data.weights)}
    ...     def predict(self, params, x): return np.tile(params["mean"], (len(x), 1))
    >>> check_learner(Mean(), {"mean": np.zeros(2)}, Data(np.zeros((4, 1)), np.eye(2)[[0, 0, 1, 1]], np.ones(4)))
    """
    given = copy.deepcopy((params, data))
    first = learner.fit(params, data, 1)
    _require_same(
        flatten({"params": params, "data": data}),
        flatten(dict(zip(("params", "data"), given, strict=True))),
        "fit edits what it is given",
    )
    require_like(first, params, "fit")
    require_finite(first, "fit")
    learner.fit(params, data, 2)
    _require_same(learner.fit(params, data, 1), first, "fit depends on what was fitted before, not on its seed alone")

    ignored = data._replace(weights=_without_first(data.weights))
    relabelled = ignored._replace(y=np.vstack([ignored.y[:1][:, ::-1], ignored.y[1:]]))
    same = _same(learner.fit(params, ignored, 1), learner.fit(params, relabelled, 1))
    _require(same, "the label of an example of weight zero changes the fit")

    probs = learner.predict(first, data.x)
    _require(probs.shape == data.y.shape, f"predict gives shape {probs.shape}, the labels have {data.y.shape}")
    require_finite({"probs": probs}, "predict")
    _require(bool(np.allclose(probs.sum(axis=1), 1, atol=1e-5)), "predicted probabilities do not sum to one")
    alone = np.concatenate([learner.predict(first, data.x[row : row + 1]) for row in range(len(probs))])
    _require(bool(np.allclose(alone, probs, atol=1e-5)), "the prediction of a row depends on the rows beside it")


def check_kernel(kernel: Kernel, batch: Any = None) -> None:
    """Put a kernel through its promises, for two steps.

    Args:
        kernel: The one to check.
        batch: What each step is given.

    Raises:
        MismatchError: Saying which promise is broken.

    >>> class Walk:
    ...     def init(self, seed): return {"x": np.zeros(())}
    ...     def step(self, seed, state, batch):
    ...         return {"x": state["x"] + np.random.default_rng(seed).normal()}, {"x": float(state["x"])}
    >>> check_kernel(Walk())
    """
    start = kernel.init(0)
    _require_same(flatten(kernel.init(0)), flatten(start), "init depends on more than its seed")
    given = copy.deepcopy(flatten(start))
    state, info = kernel.step(1, start, batch)
    _require_same(flatten(start), given, "step edits the state that it is given")
    _require(all(isinstance(value, float | int) for value in info.values()), "info holds other things than numbers")
    again, info_again = kernel.step(1, start, batch)
    _require_same(flatten(again), flatten(state), "step depends on more than seed, state and batch")
    _require(info_again == info, "info depends on more than seed, state and batch")
    # What a checkpoint does: to flat arrays and back.
    restored = unflatten(kernel.init(0), copy.deepcopy(flatten(state)))
    straight, resumed = kernel.step(2, state, batch)[0], kernel.step(2, restored, batch)[0]
    _require_same(flatten(resumed), flatten(straight), "a restored state goes on differently")


def _without_first(weights: np.ndarray) -> np.ndarray:
    weights = weights.copy()
    weights[0] = 0
    return weights


def _same(have: Params, want: Params) -> bool:
    return have.keys() == want.keys() and all(
        have[name].dtype == want[name].dtype and np.array_equal(have[name], want[name]) for name in want
    )


def _require_same(have: Params, want: Params, promise: str) -> None:
    _require(_same(have, want), promise)


def _require(kept: bool, promise: str) -> None:
    if not kept:
        raise MismatchError(f"contract: {promise}")
