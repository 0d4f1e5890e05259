"""A posterior to act on: a learner and the particles it fitted, bound together.

Everything is computed for one batch of examples after another, so that never more than one batch of the members'
predictions is held; what comes back is as large as the answer.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Float

from bayes_persona import export, metrics
from bayes_persona.bma import average, predictions
from bayes_persona.errors import ConfigError, MismatchError, RunError
from bayes_persona.files import FORMAT, load_json, save_json
from bayes_persona.metrics import Uncertainty
from bayes_persona.named import require_like
from bayes_persona.nptl.data import count, take
from bayes_persona.nptl.likelihood import NOISE, Likelihood, log_likelihood
from bayes_persona.posterior import Posterior
from bayes_persona.store import load_posterior, save_posterior
from bayes_persona.types import Data, Learner, Params

if TYPE_CHECKING:
    import arviz

Kind = Literal["epistemic", "entropy", "confidence"]
"""What makes an example strange: members that disagree, an unsure average, or an improbable best answer."""
BATCH = 1000
"""Examples whose predictions are held at a time, from every member."""


@runtime_checkable
class DescribedLearner(Learner, Protocol):
    """A learner that says what its predictions mean, and what it was made with.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import TorchLearner
    >>> isinstance(TorchLearner(nn.Linear(1, 2)), DescribedLearner)
    True
    """

    likelihood: Likelihood

    @property
    def params(self) -> Params:
        """Params with the names and shapes of a particle's."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, in plain values."""
        ...


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts, doubts, scores and saves.

    Args:
        learner: Predicts with a particle.
        posterior: The particles.

    >>> from torch import nn
    >>> from bayes_persona.nptl.learner_torch import TorchLearner
    >>> yes, no = ({"weight": np.zeros((2, 1)), "bias": np.array(bias)} for bias in ([0.0, 50.0], [50.0, 0.0]))
    >>> predictor = Predictor(TorchLearner(nn.Linear(1, 2)), Posterior((yes, no)))
    >>> x = np.zeros((1, 1))
    >>> predictor.predict(x).round(6).tolist(), predictor.uncertainty(x).epistemic.round(4)  # log 2
    ([[0.5, 0.5]], array([0.6931]))
    """

    learner: DescribedLearner
    posterior: Posterior

    def members(self, x: Any) -> Iterator[Float[np.ndarray, "n k"]]:
        """Give what each particle predicts, computed when it is asked for."""
        for particle in self.posterior:
            yield self.learner.predict(particle, x)

    def predict(self, x: Any, batch: int = BATCH) -> Float[np.ndarray, "n k"]:
        """Give the model average: probabilities, or for the gaussian likelihood means.

        Raises:
            ConfigError: If a batch holds no example.
        """
        return np.concatenate([average(members) for members in self._batches(x, batch)])

    def uncertainty(self, x: Any, batch: int = BATCH) -> Uncertainty:
        """Split what is not known of each example into chance and lack of data.

        For probabilities these are entropies in nats (see `metrics.uncertainty`), for several yes-or-no labels summed
        over them. For the gaussian likelihood they are variances by the law of total variance, summed over outputs:
        aleatoric the particles' average noise, epistemic the variance of their means.

        Raises:
            ConfigError: If a batch holds no example.
        """
        parts = [self._split(members) for members in self._batches(x, batch)]
        return Uncertainty(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def ood_score(self, x: Any, kind: Kind = "epistemic", batch: int = BATCH) -> Float[np.ndarray, " n"]:
        """Say how little each example looks like those that were learned from: higher is stranger.

        Args:
            x: The examples.
            kind: `"epistemic"` is how much members disagree, `"entropy"` how unsure their average is, and
                `"confidence"` one minus the probability of its best answer.
            batch: Examples at a time.

        Raises:
            ConfigError: If there is no such kind, or not for regression.
        """
        if kind not in get_args(Kind):
            raise ConfigError(f"kind: expected one of {', '.join(get_args(Kind))}, got {kind!r}")
        if self.learner.likelihood == "gaussian" and kind != "epistemic":
            raise ConfigError(f"kind: {kind!r} is of probabilities, and this is a regression; use 'epistemic'")
        if kind == "confidence":
            probs = self.predict(x, batch)
            if self.learner.likelihood == "categorical":
                return 1.0 - probs.max(axis=1)
            return 1.0 - np.maximum(probs, 1 - probs).prod(axis=1)
        split = self.uncertainty(x, batch)
        return split.epistemic if kind == "epistemic" else split.total

    def log_likelihood(self, data: Data, batch: int = BATCH) -> Float[np.ndarray, "particles n"]:
        """Give log p(y_i | x_i, θ_k) of every particle and example, in nats.

        Raises:
            ConfigError: If a batch holds no example.
            MismatchError: If predictions and targets differ in shape.
        """
        parts, start = [], 0
        for members in self._batches(data.x, batch):
            y = data.y[start : start + batch]
            parts.append(log_likelihood(members, y, self.learner.likelihood, self._noise()))
            start += batch
        return np.concatenate(parts, axis=1)

    def to_inference_data(self, data: Data, batch: int = BATCH) -> "arviz.InferenceData":
        """Give the particles and their log-likelihood as ArviZ knows them, for `az.loo`, `az.waic` and `az.compare`.

        Leave-one-out is about draws given the examples in `data`: take those that the particles were fitted on.

        Raises:
            MissingExtraError: If ArviZ is not installed.
        """
        return export.to_inference_data(self.posterior, log_likelihood=self.log_likelihood(data, batch))

    def save(self, folder: str | Path) -> None:
        """Write the particles to `folder/posterior/` and what the learner was made with to `folder/learner.json`.

        Raises:
            RunError: If there is a posterior already, the disk is full, or the place cannot be written.
        """
        save_posterior(folder, self.posterior)
        save_json(Path(folder) / "learner.json", {"format": FORMAT, "learner": _settings(self.learner)})

    @classmethod
    def load(cls, folder: str | Path, learner: DescribedLearner) -> "Predictor":
        """Read what `save` has written, for a learner made as it was then. On which device it computes is free.

        Raises:
            RunError: If nothing was saved there, it is damaged, or of a newer format.
            MismatchError: If the learner is another one; the message names the settings.
        """
        path = Path(folder) / "learner.json"
        saved = load_json(path)
        if (
            not isinstance(saved, dict)
            or not isinstance(saved.get("learner"), dict)
            or not isinstance(saved.get("format"), int)
        ):
            raise RunError(f"{path}: not what a predictor saves; is this a folder of bayes_persona?")
        if saved["format"] > FORMAT:
            raise RunError(f"{path}: written by a newer version; upgrade with: pip install -U bayes-persona")
        was, now = saved["learner"], _settings(learner)
        other = [f"{name} was {was.get(name)}, is now {now.get(name)}" for name in was | now if _differ(was, now, name)]
        if other:
            raise MismatchError(f"{folder}: {', '.join(other)}; load it with a learner made as it was then")
        posterior = load_posterior(folder)
        first = {name: array for name, array in posterior[0].items() if name != NOISE}  # what fits add
        require_like(first, learner.params, f"{folder}: particle 0")
        return cls(learner, posterior)

    def _batches(self, x: Any, batch: int) -> Iterator[Float[np.ndarray, "particles batch k"]]:
        if batch < 1:
            raise ConfigError(f"batch: expected at least 1, got {batch}")
        # of no example there is one empty batch, which the learner refuses in its own words
        for start in range(0, max(count(x), 1), batch):
            yield predictions(self.learner, self.posterior, take(x, slice(start, start + batch)))

    def _split(self, members: Float[np.ndarray, "particles n k"]) -> Uncertainty:
        if self.learner.likelihood == "categorical":
            return metrics.uncertainty(members)
        if self.learner.likelihood == "bernoulli":
            shape = members.shape[1:]
            yes_or_no = np.stack([1 - members, members], axis=-1).reshape(len(members), -1, 2)
            return Uncertainty(*(part.reshape(shape).sum(axis=1) for part in metrics.uncertainty(yes_or_no)))
        epistemic = members.var(axis=0).sum(axis=1)
        noise = self._noise()
        assert noise is not None  # it is a gaussian's
        aleatoric = np.full(len(epistemic), noise.mean(axis=0).sum())
        return Uncertainty(aleatoric + epistemic, aleatoric, epistemic)

    def _noise(self) -> Float[np.ndarray, "particles k"] | None:
        if self.learner.likelihood != "gaussian":
            return None
        return np.stack([particle[NOISE] for particle in self.posterior])


def _settings(learner: DescribedLearner) -> dict[str, Any]:
    """Give what a learner was made with as JSON will give it back; a posterior fitted on a GPU is of use without."""
    return json.loads(json.dumps({name: value for name, value in learner.settings.items() if name != "device"}))


def _differ(was: dict[str, Any], now: dict[str, Any], name: str) -> bool:
    return name not in was or name not in now or was[name] != now[name]
