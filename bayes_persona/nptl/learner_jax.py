"""The jax learner: weighted fine-tuning of any apply function with any pytree of parameters, one or many at once.

The whole fit is one compiled program, a scan over steps; many fits are that program under `vmap`. Rates and orders of
examples are those of the torch learner, so the same net descends the same way in either framework.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.named import flatten, require_like, unflatten
from bayes_persona.nptl import likelihood as likelihoods
from bayes_persona.nptl.data import count, take
from bayes_persona.nptl.descent import Descent
from bayes_persona.nptl.likelihood import NOISE, Likelihood
from bayes_persona.nptl.method import Fit
from bayes_persona.types import Data, Params

with needs_extra("jax"):
    import jax
    import jax.numpy as jnp

Apply = Callable[[Any, Any], Any]
"""From a pytree of parameters and inputs (n, …) to outputs (n, k), or to features (n, d)."""
CHUNK = 1000
"""Examples that are predicted at a time."""
CHEAP = 3e7
"""As `learner_torch.CHEAP`: operations of a forward pass below which one pass for all members was faster on a CPU."""


@dataclass(frozen=True)
class Head:
    """Where in the parameters the linear head is, and what it is fed with: what a probe needs to know.

    >>> Head(features=lambda params, x: x, weight="head.kernel", bias="head.bias").weight
    'head.kernel'
    """

    features: Apply
    """Gives the head's inputs."""
    weight: str
    """Dotted name of its kernel (d, k)."""
    bias: str
    """Dotted name of its bias (k,)."""


class JaxLearner:
    """Fits an apply function, by stochastic gradient descent from given parameters.

    Args:
        apply: Gives the outputs (n, k) of a pytree of parameters and inputs; pure, and traceable by jax.
        params: The pretrained parameters: dicts, tuples and lists of arrays, nested in any way.
        config: How to fit.
        head: Where the linear head is; only a probe needs it.
        likelihood: What the outputs mean: `"categorical"`, `"bernoulli"` (multi-label) or `"gaussian"` (regression).

    Raises:
        ConfigError: If the head's names are not among the parameters.

    >>> learner = JaxLearner(lambda params, x: x @ params["w"], {"w": np.zeros((4, 3), np.float32)})
    >>> learner.predict(learner.params, np.zeros((2, 4), np.float32)).round(3).tolist()
    [[0.333, 0.333, 0.333], [0.333, 0.333, 0.333]]
    """

    def __init__(
        self,
        apply: Apply,
        params: Any,
        config: Descent | None = None,
        *,
        head: Head | None = None,
        likelihood: Likelihood = "categorical",
    ):
        likelihoods.require(likelihood)
        self.config = Descent() if config is None else config
        self.likelihood: Likelihood = likelihood
        self.head = head
        self._apply = apply
        self._template = jax.tree.map(np.asarray, params)
        names = flatten(self._template)
        for name in () if head is None else (head.weight, head.bias):
            if name not in names:
                raise ConfigError(f"head: {name!r} is not among the parameters; there are: {', '.join(names)}")

    @property
    def params(self) -> Params:
        """The pretrained params, as copies."""
        return {name: array.copy() for name, array in flatten(self._template).items()}

    @property
    def settings(self) -> dict[str, Any]:
        """What a run folder remembers, so that it is never resumed with another learner."""
        return {**asdict(self.config), "likelihood": self.likelihood}

    def with_config(self, **changes: Any) -> "JaxLearner":
        """Give the same learner with some settings changed.

        >>> JaxLearner(lambda params, x: x, {"w": np.zeros(1)}).with_config(lr=0.1).config.lr
        0.1
        """
        config = replace(self.config, **changes)
        return JaxLearner(self._apply, self._template, config, head=self.head, likelihood=self.likelihood)

    def fit(self, params: Params, data: Data, seed: int) -> Params:
        """Minimise (1/n) Σ_i s_i ℓ(t_i, f(x_i)) from `params`; the order of the examples comes from `seed`.

        Raises:
            MismatchError: If `params` are not this model's, or its outputs are not as many as the labels' columns.
            DataError: If the loss stops being finite.
        """
        found = self.fit_many([Fit(params, data, seed)])[0]
        if isinstance(found, DataError):
            raise found
        return found

    def fit_many(self, fits: Sequence[Fit]) -> list[Params | DataError]:
        """Compute several fits in one program; a fit alone is this with one member.

        Raises:
            MismatchError: As `fit`; or if the fits differ in the number of examples.
        """
        if len({len(fit.data.y) for fit in fits}) > 1:
            raise MismatchError("fits: those computed in one pass need equally many examples each")
        for fit in fits:
            self._require_outputs(fit)
        starts = [self._tree(fit.params) for fit in fits]
        rows = np.stack([self.config.rows(len(fit.data.y), fit.seed) for fit in fits])
        shared = all(fit.data.x is fits[0].data.x for fit in fits)
        x = fits[0].data.x if shared else jax.tree.map(lambda *parts: np.stack(parts), *(fit.data.x for fit in fits))
        y, weights = (np.stack(parts) for parts in zip(*((fit.data.y, fit.data.weights) for fit in fits), strict=True))
        descend = jax.vmap(self._descend, in_axes=(0, None if shared else 0, 0, 0, 0))
        ended, losses = jax.jit(descend)(jax.tree.map(lambda *leaves: np.stack(leaves), *starts), x, y, weights, rows)
        lasted = np.isfinite(np.asarray(losses)).cumprod(axis=1).sum(axis=1)
        found = [flatten(jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]), ended)) for k in range(len(fits))]
        return [
            self._finished(params, fit.data) if steps == self.config.steps else self._diverged(steps)
            for params, fit, steps in zip(found, fits, lasted.tolist(), strict=True)
        ]

    def prefers_together(self, data: Data) -> bool:
        """Say whether one pass for all members is expected to be faster: on a GPU, and for small nets."""
        if jax.default_backend() != "cpu":
            return True
        batch = take(data.x, slice(0, self.config.batch))
        cost = jax.jit(self._apply).lower(self._template, batch).compile().cost_analysis()
        return cost is not None and cost.get("flops", 0.0) < CHEAP

    def predict(self, params: Params, x: Any) -> Float[np.ndarray, "n k"]:
        """Give probabilities (means, for the gaussian likelihood), a thousand rows at a time.

        Raises:
            MismatchError: If `params` are not this model's, or it cannot take `x`.
            DataError: If there is no example.
        """
        return likelihoods.mean(self._batched(self._apply, params, x), self.likelihood)

    def features(self, params: Params, x: Any) -> Float[np.ndarray, "n d"]:
        """Give what the head is fed with.

        Raises:
            ConfigError: If the learner was not told where its head is.
        """
        return self._batched(self._known_head().features, params, x)

    def with_head(self, params: Params, weight: Float[np.ndarray, "k d"], bias: Float[np.ndarray, " k"]) -> Params:
        """Give the params with another head.

        Raises:
            MismatchError: If the head is of another shape.
        """
        head = self._known_head()
        changed = {head.weight: weight.T, head.bias: bias}
        changed = {name: array.astype(params[name].dtype) for name, array in changed.items()}
        require_like(changed, {name: params[name] for name in changed}, "head")
        return {**params, **changed}

    def _descend(self, start, x, y, weights, rows):
        config = self.config

        def loss(params, row):
            outputs = self._apply(params, take(x, row))
            return (weights[row] * _losses(outputs, y[row], self.likelihood)).mean()

        def step(carry, now):
            params, momentum = carry
            rate, row = now
            value, slope = jax.value_and_grad(loss)(params, row)
            slope = jax.tree.map(
                lambda g, p, p0: g + config.weight_decay * p + config.anchor * (p - p0), slope, params, self._template
            )
            momentum = jax.tree.map(lambda m, g: config.momentum * m + g, momentum, slope)
            params = jax.tree.map(lambda p, g, m: p - rate * (g + config.momentum * m), params, slope, momentum)
            return (params, momentum), value

        still = jax.tree.map(jnp.zeros_like, start)
        (ended, _), losses = jax.lax.scan(step, (start, still), (config.rates().astype(np.float32), rows))
        return ended, losses

    def _finished(self, params: Params, data: Data) -> Params:
        if self.likelihood != "gaussian":
            return params
        return likelihoods.with_noise(params, self.predict(params, data.x), data)

    def _diverged(self, lasted: int) -> DataError:
        return DataError(f"fit: the loss at step {lasted} is not finite; lower lr ({self.config.lr}) or check x")

    def _known_head(self) -> Head:
        if self.head is None:
            raise ConfigError("head: this learner was not told where its head is; give JaxLearner(head=Head(…))")
        return self.head

    def _tree(self, params: Params) -> Any:
        return unflatten(self._template, {name: array for name, array in params.items() if name != NOISE})

    def _require_outputs(self, fit: Fit) -> None:
        outputs = self._batched(self._apply, fit.params, take(fit.data.x, slice(0, 1))).shape[1:]
        if outputs != fit.data.y.shape[1:]:
            raise MismatchError(f"y: the net has {outputs[0]} outputs, the labels {fit.data.y.shape[1]} columns")

    def _batched(self, function: Apply, params: Params, x: Any) -> np.ndarray:
        if count(x) == 0:
            raise DataError("x: there is no example to predict")
        compute = partial(jax.jit(function), self._tree(params))
        try:
            parts = [compute(take(x, slice(start, start + CHUNK))) for start in range(0, count(x), CHUNK)]
        except (TypeError, ValueError, IndexError) as error:
            raise MismatchError(f"x: the net fails on examples of shape {np.shape(x)[1:]}: {error}") from error
        return np.concatenate([np.asarray(part, np.float64) for part in parts])


def _losses(outputs, y, likelihood: Likelihood):
    if likelihood == "categorical":
        return -(y * jax.nn.log_softmax(outputs)).sum(axis=1)
    if likelihood == "bernoulli":
        return (jax.nn.softplus(outputs) - y * outputs).sum(axis=1)
    return 0.5 * ((outputs - y) ** 2).sum(axis=1)
