"""A NumPyro model under weights: many fits in one compiled program, through the model's log density.

Weights are applied by effect handlers, so models stay as they are: latent sites get their values from outside, and the
log density of every observed site is weighted along its first axis.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.nptl.npl.model import Examples, Law, Shapes, Site, outcome, parameters, require_felt
from bayes_persona.types import Params

with needs_extra("jax"):
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree
    from numpyro import handlers
    from numpyro.distributions import biject_to

    from bayes_persona.nptl.npl.search_jax import minimise

ROWS = 2**21
"""Examples times fits in one pass, at most: memory grows with them."""
TOGETHER = 256
"""Fits in one pass, at most: all wait for the slowest."""


@dataclass(frozen=True)
class NumPyroModel:
    """A function with NumPyro's sample sites, as something that fits weighted examples.

    Fits are in 64 bits, whatever jax is set to. Compiled once for each shape of the data, as long as this object lives.

    >>> import numpyro
    >>> from numpyro import distributions as dist
    >>> from bayes_persona.nptl.npl import NPL
    >>> def coin(y):
    ...     chance = numpyro.sample("chance", dist.Beta(1, 1))
    ...     with numpyro.plate("throws", len(y)):
    ...         numpyro.sample("y", dist.Bernoulli(chance), obs=y)
    >>> posterior = NPL(particles=200).sample(NumPyroModel(coin), {"y": np.array([0.0, 0.0, 1.0, 1.0])}, seed=0)
    >>> round(float(posterior.mean()["chance"]), 1)
    0.5
    """

    model: Callable[..., Any]
    """Called with the data's arrays by name; the outcomes are its observed sites."""

    def shapes(self, examples: Examples) -> Shapes:
        """Give the unconstrained shapes of the latent sites.

        Raises:
            ConfigError: If the posterior bootstrap cannot fit the model, naming the sites.

        >>> import numpyro
        >>> from numpyro import distributions as dist
        >>> def model(y): numpyro.sample("y", dist.Normal(numpyro.sample("mean", dist.Normal()), 1), obs=y)
        >>> NumPyroModel(model).shapes({"y": np.zeros(3)})
        {'mean': ()}
        """
        unconstrained: dict[str, tuple[int, ...]] = {}

        def zero(site: Mapping[str, Any]) -> Any:
            if _latent(site) and not site["fn"].support.is_discrete:
                bijection = _bijection(site)
                unconstrained[site["name"]] = tuple(bijection.inverse_shape(site["fn"].shape()))
                return bijection(jnp.zeros(unconstrained[site["name"]]))
            return None

        def look(arrays: Examples) -> None:
            seeded = handlers.seed(self.model, jax.random.key(0))  # for discrete sites and subsamples, to be refused
            trace = handlers.trace(handlers.substitute(seeded, substitute_fn=zero)).get_trace(**arrays)
            seen.extend(_site(site, unconstrained) for site in trace.values())

        seen: list[Site | None] = []
        with jax.enable_x64(True):
            jax.eval_shape(look, _wide(examples))  # shapes are all that is asked for
        n = len(next(iter(examples.values())))
        return parameters([site for site in seen if site is not None], n)

    def together(self, n: int, starts: int) -> int:
        """Give how many fits are computed in one pass.

        >>> NumPyroModel(lambda y: None).together(n=100, starts=1)
        256
        """
        return max(1, min(TOGETHER, ROWS // (n * starts)))

    def maximise(
        self, data: Examples, laws: Sequence[Law], *, penalty: float, steps: int, tolerance: float
    ) -> list[Params | DataError]:
        """Fit all laws in one program, by BFGS from every start; the best counts.

        Raises:
            ConfigError: If laws have different numbers of atoms, or a parameter changes nothing.
        """
        if len({law.weights.pseudo.shape for law in laws}) > 1:
            raise ConfigError("atoms: one program takes one number of them; let the sampler give as many every time")
        with jax.enable_x64(True):
            best, finite, finished, felt = self._fit_all(
                _wide(data),
                jax.tree.map(lambda *parts: np.stack(parts), *(law._replace(atoms=_wide(law.atoms)) for law in laws)),
                penalty,
                steps,
                tolerance,
                penalised=penalty > 0,
            )
        if penalty == 0:
            require_felt([name for name, each in felt.items() if not np.asarray(each).all()])
        draws = [{name: np.array(value[k]) for name, value in best.items()} for k in range(len(laws))]
        ends = zip(draws, np.asarray(finite), np.asarray(finished), strict=True)
        return [outcome(draw, bool(good), bool(ended), steps) for draw, good, ended in ends]

    def imagine(self, rows: Examples, seed: int, *, outcomes: Mapping[str, str]) -> Examples:
        """Draw outcomes from the prior predictive, each example's under parameters of its own: for `npl.resampled`.

        Args:
            rows: Examples whose outcomes are not looked at.
            seed: Names the draw.
            outcomes: The model's arguments that are outcomes, which must allow None, and the sites that they observe.

        >>> import numpyro
        >>> from numpyro import distributions as dist
        >>> def model(y): numpyro.sample("ys", dist.Poisson(numpyro.sample("rate", dist.Gamma(2.0, 1.0))), obs=y)
        >>> NumPyroModel(model).imagine({"y": np.zeros(3)}, seed=0, outcomes={"y": "ys"})["y"].shape
        (3,)
        """
        with jax.enable_x64(True):
            keys = jax.random.split(jax.random.key(seed), len(next(iter(rows.values()))))
            drawn = self._imagined(keys, _wide(rows), outcomes=tuple(outcomes.items()))
        return {name: np.asarray(array) for name, array in drawn.items()}

    @cached_property
    def _imagined(self) -> Callable[..., Any]:
        def imagined(keys, rows, *, outcomes):
            def one(key, row):
                asked = {name: value[None] for name, value in row.items()} | {name: None for name, _ in outcomes}
                trace = handlers.trace(handlers.seed(self.model, key)).get_trace(**asked)
                return {name: trace[site]["value"].reshape(row[name].shape) for name, site in outcomes}

            return jax.vmap(one)(keys, rows)

        return jax.jit(imagined, static_argnames="outcomes")

    @cached_property
    def _fit_all(self) -> Callable[..., Any]:
        def fit_all(data, laws, penalty, steps, tolerance, *, penalised):
            def fit(law):
                return _fit(self.model, data, law, penalty if penalised else None, steps, tolerance)

            return jax.vmap(fit)(laws)

        return jax.jit(fit_all, static_argnames="penalised")


def _fit(model: Callable[..., Any], data: Examples, law: Law, penalty: Any, steps: Any, tolerance: Any) -> Any:
    """Fit one law: the best values, whether they are finite, whether the search has ended, and which sites matter."""
    sides = [(data, law.weights.real)] + ([(law.atoms, law.weights.pseudo)] if law.atoms else [])
    _, unflatten = ravel_pytree({name: starts[0] for name, starts in law.starts.items()})
    starts = jax.vmap(lambda start: ravel_pytree(start)[0])(law.starts)

    def objective(point):
        params = unflatten(point)
        density = sum(_log_likelihood(_traced(model, params, examples), mass) for examples, mass in sides)
        if penalty is not None:
            density += penalty * _log_prior(_traced(model, params, data))
        return -density

    found = jax.vmap(lambda start: minimise(objective, start, steps, tolerance))(starts)
    best = jnp.argmin(jnp.where(found.finite, found.value, jnp.inf))
    trace = _traced(model, unflatten(found.point[best]), data)
    slopes = jax.vmap(unflatten)(found.first_slope)
    felt = {name: jnp.any(slope != 0) | (slope.size == 0) | ~found.finite.any() for name, slope in slopes.items()}
    return {name: trace[name]["value"] for name in felt}, found.finite[best], found.finished[best], felt


def _traced(model: Callable[..., Any], params: Mapping[str, Any], examples: Examples) -> Mapping[str, Any]:
    def place(site: Mapping[str, Any]) -> Any:
        return _bijection(site)(params[site["name"]]) if _latent(site) else None

    return handlers.trace(handlers.substitute(model, substitute_fn=place)).get_trace(**examples)


def _log_likelihood(trace: Mapping[str, Any], mass):
    logs = [_log_prob(site) for site in trace.values() if site["type"] == "sample" and site["is_observed"]]
    return sum(mass @ each.reshape(len(mass), -1).sum(axis=1) for each in logs)


def _log_prior(trace: Mapping[str, Any]):
    return sum(_log_prob(site).sum() for site in trace.values() if _latent(site))


def _log_prob(site: Mapping[str, Any]):
    logs = site["fn"].log_prob(site["value"])
    return logs if site["scale"] is None else site["scale"] * logs


def _latent(site: Mapping[str, Any]) -> bool:
    return site["type"] == "sample" and not site["is_observed"]


def _bijection(site: Mapping[str, Any]) -> Any:
    try:
        return biject_to(site["fn"].support)
    except NotImplementedError as error:
        advice = "of which no way to the unconstrained numbers is known"
        raise ConfigError(f"{site['name']}: its values are {site['fn'].support}, {advice}") from error


def _site(site: Mapping[str, Any], unconstrained: Shapes) -> Site | None:
    """Say what a trace's entry is; None for a plate that is whole, and for what is computed."""
    name, kind = site["name"], site["type"]
    if kind == "param":
        return Site(name, "param", (), frozenset())
    if kind == "plate":
        size, taken = site["args"]
        return None if taken in (None, size) else Site(name, "subsampled", (), frozenset())
    if kind != "sample":
        return None
    frames = site["cond_indep_stack"]
    if not site["is_observed"]:
        kind = "latent" if name in unconstrained else "discrete"
        return Site(name, kind, unconstrained.get(name, ()), frozenset(frame.name for frame in frames))
    shape = tuple(_log_prob(site).shape)
    return Site(name, "observed", shape, frozenset(frame.name for frame in frames if frame.dim == -len(shape)))


def _wide(examples: Examples) -> dict[str, Any]:
    arrays = {name: np.asarray(array) for name, array in examples.items()}
    return {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in arrays.items()}
