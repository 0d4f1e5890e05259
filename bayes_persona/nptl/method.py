"""How any method draws particles: the protocol that all share, and the one driver of those whose particles are fits.

Most posteriors here are sets of independent weighted fits that differ in data, start or seed. Such a method only says
what fit number k is; where and how the fits are executed is the same for all, and so is how they are kept and resumed.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from bayes_persona.errors import ConfigError, DataError
from bayes_persona.named import fingerprint
from bayes_persona.nptl.base_measure import BaseMeasure
from bayes_persona.parallel import Engine, map, serial
from bayes_persona.posterior import Posterior
from bayes_persona.types import Data, Learner, Params

How = Literal["auto", "serial", "together"] | Engine
"""How fits are executed: one after another, all in one pass over the data, by the learner's measured rule ("auto"), or
by any engine of `parallel`."""
GROUP = 16
"""Fits that are computed in one pass, at most: memory grows with them."""


class Fit(NamedTuple):
    """One weighted fit: where it starts, what it minimises the loss on, and the seed of its order.

    >>> Fit(params={}, data=Data(np.zeros((1, 1)), np.ones((1, 1)), np.ones(1)), seed=3).seed
    3
    """

    params: Params
    data: Data
    seed: int


@runtime_checkable
class Method(Protocol):
    """What every method is: settings, and `sample`. Users swap methods by one word.

    >>> from bayes_persona import nptl
    >>> all(isinstance(method, Method) for method in (nptl.NPTL(), nptl.DeepEnsemble()))
    True
    """

    @property
    def particles(self) -> int:
        """Number of draws, K."""
        ...

    def sample(
        self,
        learner: Any,
        base: BaseMeasure,
        data: Data,
        *,
        seed: int,
        engine: How = "auto",
        folder: str | Path | None = None,
        title: str | None = None,
    ) -> Posterior:
        """Draw `particles` params. `base.params` is where fits start; only NPTL and its ablation look at its labels."""
        ...


@runtime_checkable
class JointLearner(Learner, Protocol):
    """A learner that can compute several fits in one pass, with the numbers (but for rounding) of one after another.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import TorchLearner
    >>> isinstance(TorchLearner(nn.Linear(1, 2)), JointLearner)
    True
    """

    def fit_many(self, fits: Sequence[Fit]) -> list[Params | DataError]:
        """Give every fit's params, or why it failed."""
        ...

    def prefers_together(self, data: Data) -> bool:
        """Say whether that is expected to be faster than one after another."""
        ...


def fit_all(
    learner: Learner,
    plan: Callable[[int], Fit],
    particles: int,
    *,
    settings: dict[str, Any],
    engine: How = "auto",
    folder: str | Path | None = None,
    title: str | None = None,
    exclude_failed: bool = False,
) -> Posterior:
    """Execute fits 0 to `particles` - 1 and give their params as a posterior.

    Args:
        learner: Fits weighted data.
        plan: Says what fit k is; must depend on k alone.
        particles: Number of fits.
        settings: What the fits are, in plain values: kept in the folder, and compared when it is resumed.
        engine: How the fits are executed.
        folder: Keep each particle here, and resume from those that are there.
        title: Name beside the progress bar; None shows no bar.
        exclude_failed: Leave out fits whose loss stopped being finite, and warn of them.

    Raises:
        ConfigError: If the fits shall be computed together by a learner that cannot.
        DataError: If a fit fails and failures are not excluded.
        MismatchError: If the folder holds particles of other settings.

    >>> class Mean:
    ...     def fit(self, params, data, seed): return {"mean": np.average(data.y, axis=0, weights=data.weights)}
    ...     def predict(self, params, x): return np.tile(params["mean"], (len(x), 1))
    >>> data = Data(np.zeros((2, 1)), np.eye(2), np.ones(2))
    >>> len(fit_all(Mean(), lambda k: Fit({}, data, seed=k), 3, settings={}))
    3
    """

    def draw(particle: int) -> Params:
        return learner.fit(*plan(particle))

    config = {**settings, "learner": getattr(learner, "settings", None)}
    drawn = map(
        draw,
        range(particles),
        engine=_engine(engine, learner, plan, particles),
        folder=folder,
        config=config,
        title=title,
        exclude_failed=exclude_failed,
    )
    return Posterior(tuple(drawn))


def identity(data: Data, base: BaseMeasure | None = None) -> str:
    """Name what particles are a posterior of, so that a folder is never resumed with other data.

    >>> data = Data(np.zeros((2, 1)), np.eye(2), np.ones(2))
    >>> identity(data) == identity(data._replace(weights=np.array([0.5, 1.5])))
    False
    """
    arrays = {"y": data.y, "weights": data.weights}
    if base is not None:
        arrays |= {"labels": base.labels, **base.params}
    inputs = data.x if isinstance(data.x, dict) else {"x": data.x}
    return fingerprint(arrays | {f"x.{name}": part for name, part in inputs.items() if isinstance(part, np.ndarray)})


def _engine(engine: How, learner: Learner, plan: Callable[[int], Fit], particles: int) -> Engine:
    if callable(engine):
        return engine
    if engine not in ("auto", "serial", "together"):
        raise ConfigError(f"engine: expected auto, serial, together or an engine of parallel, got {engine!r}")
    joint = isinstance(learner, JointLearner)
    if engine == "together" and not joint:
        raise ConfigError(f"engine: {type(learner).__name__} cannot fit several together (no fit_many); use 'serial'")
    if not isinstance(learner, JointLearner) or engine == "serial" or particles == 1:
        return serial
    if engine == "auto" and not learner.prefers_together(plan(0).data):
        return serial
    return _together(learner, plan, particles)


def _together(learner: JointLearner, plan: Callable[[int], Fit], particles: int) -> Engine:
    """Compute fits in groups of one pass each.

    Groups are the same whichever of their particles are missing: a sum's rounding depends on what it is computed with,
    and a resumed run shall give the same particles to the bit.
    """

    def engine(draw: Callable[[int], Params], items: Sequence[int]) -> Iterator[tuple[int, Params | DataError]]:
        wanted = {item: index for index, item in enumerate(items)}
        for start in range(0, particles, GROUP):
            group = range(start, min(start + GROUP, particles))
            if wanted.keys() & set(group):
                results = learner.fit_many([plan(item) for item in group])
                for item, result in zip(group, results, strict=True):
                    if item in wanted:
                        yield wanted[item], result

    return engine
