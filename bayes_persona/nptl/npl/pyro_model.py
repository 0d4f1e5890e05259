"""A Pyro model under weights: one fit after another, through the model's log density.

Weights are applied by effect handlers, so models stay as they are: latent sites get their values from outside, and the
log density of every observed site is weighted along its first axis.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.nptl.npl.model import Examples, Law, Shapes, Site, outcome, parameters, require_felt
from bayes_persona.types import Params

with needs_extra("pyro"):
    import pyro
    import torch
    from pyro import poutine
    from pyro.distributions.util import scale_and_mask
    from pyro.poutine.messenger import Messenger
    from pyro.poutine.util import site_is_subsample
    from torch.distributions import biject_to

    from bayes_persona.nptl.npl.search_torch import minimise


@dataclass(frozen=True)
class PyroModel:
    """A function with Pyro's sample sites, as something that fits weighted examples.

    Fits are in 64 bits, whatever torch is set to: inside the model, new tensors have that type.

    >>> from pyro import distributions as dist
    >>> from bayes_persona.nptl.npl import NPL
    >>> def coin(y):
    ...     chance = pyro.sample("chance", dist.Beta(1.0, 1.0))
    ...     with pyro.plate("throws", len(y)):
    ...         pyro.sample("y", dist.Bernoulli(chance), obs=y)
    >>> posterior = NPL(particles=5).sample(PyroModel(coin), {"y": np.array([0.0, 0.0, 1.0, 1.0])}, seed=0)
    >>> bool(0.2 < posterior.mean()["chance"] < 0.8)
    True
    """

    model: Callable[..., Any]
    """Called with the data's arrays by name, as tensors; the outcomes are its observed sites."""

    def shapes(self, examples: Examples) -> Shapes:
        """Give the unconstrained shapes of the latent sites.

        Raises:
            ConfigError: If the posterior bootstrap cannot fit the model, naming the sites.

        >>> from pyro import distributions as dist
        >>> def model(y): pyro.sample("y", dist.Normal(pyro.sample("mean", dist.Normal(0.0, 1.0)), 1.0), obs=y)
        >>> PyroModel(model).shapes({"y": np.zeros(3)})
        {'mean': ()}
        """
        unconstrained: dict[str, tuple[int, ...]] = {}

        def zero(site: Mapping[str, Any]) -> Any:
            if site["fn"].support.is_discrete:
                return None
            bijection = _bijection(site)
            unconstrained[site["name"]] = tuple(bijection.inverse_shape(site["fn"].shape()))
            return bijection(torch.zeros(unconstrained[site["name"]]))

        with _wide(), torch.random.fork_rng(devices=[]):  # discrete sites are drawn, and refused
            trace = _traced(self.model, zero, _tensors(examples))
            sites = [_site(site, unconstrained) for site in trace.nodes.values() if site["type"] in ("sample", "param")]
        n = len(next(iter(examples.values())))
        return parameters([site for site in sites if site is not None], n)

    def together(self, n: int, starts: int) -> int:
        """Say that one fit is computed at a time.

        >>> PyroModel(lambda y: None).together(n=100, starts=1)
        1
        """
        return 1

    def maximise(
        self, data: Examples, laws: Sequence[Law], *, penalty: float, steps: int, tolerance: float
    ) -> list[Params | DataError]:
        """Fit one law after another, by L-BFGS from every start; the best counts."""
        with _wide(), pyro.validation_enabled(False):  # a search may look at places where the model is not defined
            return [self._fit(data, law, penalty, steps, tolerance) for law in laws]

    def imagine(self, rows: Examples, seed: int, *, outcomes: Mapping[str, str]) -> Examples:
        """Draw outcomes from the prior predictive, each example's under parameters of its own: for `npl.resampled`.

        Args:
            rows: Examples whose outcomes are not looked at.
            seed: Names the draw.
            outcomes: The model's arguments that are outcomes, which must allow None, and the sites that they observe.

        >>> from pyro import distributions as dist
        >>> def model(y): pyro.sample("ys", dist.Poisson(pyro.sample("rate", dist.Gamma(2.0, 1.0))), obs=y)
        >>> PyroModel(model).imagine({"y": np.zeros(3)}, seed=0, outcomes={"y": "ys"})["y"].shape
        (3,)
        """
        tensors = _tensors(rows)
        drawn: dict[str, list[np.ndarray]] = {name: [] for name in outcomes}
        with _wide(), torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for k in range(len(next(iter(tensors.values())))):
                asked = {name: tensor[k : k + 1] for name, tensor in tensors.items()} | dict.fromkeys(outcomes)
                nodes: Any = poutine.trace(self.model).get_trace(**asked).nodes
                for name, site in outcomes.items():
                    drawn[name].append(nodes[site]["value"].reshape(tensors[name].shape[1:]).numpy())
        return {name: np.stack(values) for name, values in drawn.items()}

    def _fit(self, data: Examples, law: Law, penalty: float, steps: int, tolerance: float) -> Params | DataError:
        sides = [(_tensors(data), torch.as_tensor(law.weights.real))]
        sides += [(_tensors(law.atoms), torch.as_tensor(law.weights.pseudo))] if law.atoms else []
        sizes = {name: starts.shape[1:] for name, starts in law.starts.items()}

        def objective(point: torch.Tensor) -> torch.Tensor:
            place = _placing(_split(point, sizes))
            traces = [_traced(self.model, place, examples) for examples, _ in sides]
            densities = [_log_likelihood(trace, mass) for trace, (_, mass) in zip(traces, sides, strict=True)]
            prior = penalty * _log_prior(traces[0]) if penalty > 0 else 0.0
            return -sum(densities) - prior + 0 * point.sum()  # so that there is a gradient, even of nothing

        count = len(next(iter(law.starts.values())))
        starts = [np.concatenate([part[k].ravel() for part in law.starts.values()]) for k in range(count)]
        searches = [minimise(objective, torch.as_tensor(start), steps, tolerance) for start in starts]
        if penalty == 0:
            slopes = [_split(search.first_slope, sizes) for search in searches]
            require_felt([n for n in sizes if slopes[0][n].numel() and not any((s[n] != 0).any() for s in slopes)])
        best = min(searches, key=lambda search: search.value if search.finite else np.inf)
        with torch.no_grad():
            trace = _traced(self.model, _placing(_split(best.point, sizes)), sides[0][0])
        found = {name: trace.nodes[name]["value"].numpy().copy() for name in sizes}
        return outcome(found, best.finite, best.finished, steps)


class _Placed(Messenger):
    """Give latent sites the values that a function of the site says."""

    def __init__(self, place: Callable[[Mapping[str, Any]], Any]):
        super().__init__()
        self.place = place

    def _pyro_sample(self, msg: Any) -> None:
        if _latent(msg):
            msg["value"] = self.place(msg)


def _traced(model: Callable[..., Any], place: Callable[[Mapping[str, Any]], Any], examples: Mapping[str, Any]) -> Any:
    with _Placed(place):
        return poutine.trace(model).get_trace(**examples)


def _placing(params: Mapping[str, torch.Tensor]) -> Callable[[Mapping[str, Any]], torch.Tensor]:
    return lambda site: _bijection(site)(params[site["name"]])


def _split(flat: torch.Tensor, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    parts = torch.split(flat, [int(np.prod(size)) for size in sizes.values()])
    return {name: part.reshape(size) for (name, size), part in zip(sizes.items(), parts, strict=True)}


def _log_likelihood(trace: Any, mass: torch.Tensor) -> torch.Tensor:
    logs = [_log_prob(site) for site in trace.nodes.values() if _observed(site)]
    return torch.stack([mass @ each.reshape(len(mass), -1).sum(dim=1) for each in logs]).sum()


def _log_prior(trace: Any) -> torch.Tensor:
    return torch.stack([_log_prob(site).sum() for site in trace.nodes.values() if _latent(site)]).sum()


def _log_prob(site: Mapping[str, Any]) -> torch.Tensor:
    return scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])


def _latent(site: Any) -> bool:
    return site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)


def _observed(site: Any) -> bool:
    # what `pyro.deterministic` computes is an observed site, too
    return site["type"] == "sample" and site["is_observed"] and not site["infer"].get("_deterministic")


def _bijection(site: Mapping[str, Any]) -> Any:
    try:
        return biject_to(site["fn"].support)
    except NotImplementedError as error:
        advice = "of which no way to the unconstrained numbers is known"
        raise ConfigError(f"{site['name']}: its values are {site['fn'].support}, {advice}") from error


def _site(site: Any, unconstrained: Shapes) -> Site | None:
    """Say what a trace's entry is; None for a plate that is whole, and for what is computed."""
    name = site["name"]
    if site["type"] == "param":
        return Site(name, "param", (), frozenset())
    if site_is_subsample(site):
        taken, size = len(site["value"]), site["fn"].size
        return None if taken == size else Site(name, "subsampled", (), frozenset())
    frames = site["cond_indep_stack"]
    if _latent(site):
        kind = "latent" if name in unconstrained else "discrete"
        return Site(name, kind, unconstrained.get(name, ()), frozenset(frame.name for frame in frames))
    if not _observed(site):
        return None
    shape = tuple(_log_prob(site).shape)
    return Site(name, "observed", shape, frozenset(frame.name for frame in frames if frame.dim == -len(shape)))


def _tensors(examples: Examples) -> dict[str, torch.Tensor]:
    """Give the examples as tensors, real numbers in 64 bits."""
    tensors = {name: torch.as_tensor(np.array(array)) for name, array in examples.items()}
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


@contextmanager
def _wide() -> Iterator[None]:
    """Make 64 bits torch's type of new tensors, and give the caller's back."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
