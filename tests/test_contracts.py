"""A contract that cannot be broken is no contract: each promise is broken once, and found."""

import numpy as np
import pytest

from bayes_persona import Data, MismatchError
from bayes_persona.contracts import check_kernel, check_learner

DATA = Data(np.arange(8.0).reshape(4, 2), np.eye(2)[[0, 0, 1, 1]], np.ones(4))
START = {"mean": np.zeros(2)}


class Mean:
    """Keeps every promise; the others break one each."""

    def fit(self, params, data, seed):
        return {"mean": np.average(data.y, axis=0, weights=data.weights)}

    def predict(self, params, x):
        return np.tile(params["mean"], (len(x), 1))


class EditsParams(Mean):
    def fit(self, params, data, seed):
        params["mean"] += 1
        return super().fit(params, data, seed)


class Remembers(Mean):
    def __init__(self):
        self.fits = 0

    def fit(self, params, data, seed):
        self.fits += 1
        return {"mean": np.full(2, self.fits / 10)}


class IgnoresWeights(Mean):
    def fit(self, params, data, seed):
        return {"mean": data.y.mean(axis=0)}


class ForgetsToNormalise(Mean):
    def predict(self, params, x):
        return 2 * super().predict(params, x)


class LooksAtTheBatch(Mean):
    def predict(self, params, x):
        share = float(len(x) == 1)
        return np.tile([share, 1 - share], (len(x), 1))


class Renames(Mean):
    def fit(self, params, data, seed):
        return {"average": super().fit(params, data, seed)["mean"]}


@pytest.mark.parametrize(
    ("learner", "promise"),
    [
        (EditsParams(), "fit edits what it is given"),
        (Remembers(), "not on its seed alone"),
        (IgnoresWeights(), "weight zero changes the fit"),
        (ForgetsToNormalise(), "do not sum to one"),
        (LooksAtTheBatch(), "rows beside it"),
        (Renames(), "mean is missing"),
    ],
)
def test_a_learner_that_breaks_a_promise_is_told_which(learner, promise):
    with pytest.raises(MismatchError, match=promise):
        check_learner(learner, {"mean": np.zeros(2)}, DATA)


class Walk:
    def init(self, seed):
        return {"x": np.zeros(())}

    def step(self, seed, state, batch):
        return {"x": state["x"] + np.random.default_rng(seed).normal()}, {"x": float(state["x"])}


class EditsState(Walk):
    def step(self, seed, state, batch):
        state["x"] += 1
        return {"x": state["x"].copy()}, {}


class KeepsItsOwnRandomness(Walk):
    def __init__(self):
        self.random = np.random.default_rng(0)

    def step(self, seed, state, batch):
        return {"x": state["x"] + self.random.normal()}, {}


class LogsArrays(Walk):
    def step(self, seed, state, batch):
        return super().step(seed, state, batch)[0], {"x": state["x"]}


class HidesState(Walk):
    def __init__(self):
        self.seen = {}

    def step(self, seed, state, batch):
        # What an episode buffer beside the state would do: the same array goes on, a restored one starts anew.
        longer = id(state["x"]) in self.seen
        after = {"x": state["x"] + (2.0 if longer else 1.0)}
        self.seen[id(after["x"])] = after["x"]
        return after, {}


@pytest.mark.parametrize(
    ("kernel", "promise"),
    [
        (EditsState(), "step edits the state"),
        (KeepsItsOwnRandomness(), "more than seed, state and batch"),
        (LogsArrays(), "other things than numbers"),
        (HidesState(), "goes on differently"),
    ],
)
def test_a_kernel_that_breaks_a_promise_is_told_which(kernel, promise):
    with pytest.raises(MismatchError, match=promise):
        check_kernel(kernel)
