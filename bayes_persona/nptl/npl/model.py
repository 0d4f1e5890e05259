"""What the posterior bootstrap asks of a statistical model, and what it refuses, in any framework."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from bayes_persona.errors import ConfigError, DataError
from bayes_persona.types import Params
from bayes_persona.weights import Weights

Examples = Mapping[str, Any]
"""Named arrays whose first axis is examples: the keyword arguments that the model is called with."""
Shapes = dict[str, tuple[int, ...]]
"""The shape of every parameter's unconstrained value."""


class Law(NamedTuple):
    """One draw of the law of the data, and where the search for its best parameters starts.

    >>> import numpy as np
    >>> weights = Weights(real=np.full(4, 0.25), pseudo=np.zeros(0))
    >>> Law(weights, atoms={}, starts={"mean": np.zeros((2, 1))}).starts["mean"].shape  # two starts of a vector
    (2, 1)
    """

    weights: Weights
    """Mass of every example and of every atom."""
    atoms: Examples
    """Pseudo-examples under the names of the data's arrays; empty without a prior."""
    starts: Params
    """Unconstrained values, each with a leading axis of starts."""


@runtime_checkable
class WeightedModel(Protocol):
    """A parametric model that can be fitted to weighted examples: the only place where a framework meets NPL.

    >>> import numpy as np
    >>> class Mean:  # of a normal: the fit is the weighted mean, wherever the search starts
    ...     def shapes(self, examples): return {"mean": (1,)}
    ...     def together(self, n, starts): return 1
    ...     def maximise(self, data, laws, *, penalty, steps, tolerance):
    ...         return [{"mean": np.average(data["y"], axis=0, weights=law.weights.real)} for law in laws]
    >>> isinstance(Mean(), WeightedModel)
    True
    """

    def shapes(self, examples: Examples) -> Shapes:
        """Give the parameters of the model as it stands for these examples, or refuse it."""
        ...

    def together(self, n: int, starts: int) -> int:
        """Say how many fits on n examples are computed in one pass, at most."""
        ...

    def maximise(
        self, data: Examples, laws: Sequence[Law], *, penalty: float, steps: int, tolerance: float
    ) -> list[Params | DataError]:
        """Give every law's argmax Σ w log p(y | θ) + penalty · log p(θ), constrained, or why it was not found."""
        ...


class Site(NamedTuple):
    """One named place of a model, as its trace shows it.

    >>> Site("slope", "latent", shape=(3,), plates=frozenset()).kind
    'latent'
    """

    name: str
    kind: Literal["observed", "latent", "discrete", "subsampled", "param"]
    shape: tuple[int, ...]
    """Of an observed site's log density; of a latent site's unconstrained value."""
    plates: frozenset[str]
    """Around a latent site all; around an observed one that of its first axis."""


def parameters(sites: Sequence[Site], n: int) -> Shapes:
    """Give the shapes of a model's parameters, if the posterior bootstrap can fit it.

    Args:
        sites: What the model's trace shows.
        n: Number of examples.

    Raises:
        ConfigError: Naming the sites that are discrete, subsampled, learned otherwise, one for each example, or whose
            log density is not one for each example.

    >>> parameters([Site("slope", "latent", (3,), frozenset()), Site("y", "observed", (5,), frozenset())], n=5)
    {'slope': (3,)}
    >>> parameters([Site("cluster", "discrete", (5,), frozenset())], n=5)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: cluster: a discrete latent site has no gradient; sum it out of the density, or \
is its value missing from the data?
    """
    _refuse(sites, "subsampled", "the plate takes a subsample; every example needs its weight: use the whole plate")
    _refuse(sites, "param", "is a param, with no site that says what it may be; make it a sample site of any prior")
    _refuse(
        sites,
        "discrete",
        "a discrete latent site has no gradient; sum it out of the density, or is its value missing from the data?",
    )
    observed = [site for site in sites if site.kind == "observed"]
    for site in observed:
        if site.shape[:1] != (n,):
            expected = f"expected a log density for each of {n} examples on its first axis, got shape {site.shape}"
            raise ConfigError(f"{site.name}: {expected}; put the plate of examples leftmost, and vectors in to_event")
    latent = [site for site in sites if site.kind == "latent"]
    if not (observed and latent):
        raise ConfigError("model: needs a sample site that is observed and one that is not; is an outcome missing?")
    examples = frozenset().union(*(site.plates for site in observed))
    for site in latent:
        if site.plates & examples:
            raise ConfigError(f"{site.name}: is one value an example, which no law of the data has; integrate it out")
    return {site.name: site.shape for site in latent}


def require_felt(unfelt: Sequence[str]) -> None:
    """Refuse parameters that change nothing: a fit would leave them where its search started, at random.

    Args:
        unfelt: Sites along which the objective is flat.

    Raises:
        ConfigError: Naming them.

    >>> require_felt(["tau"])
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: tau: no observed site depends on it, and the prior does not count; \
set penalty, or leave it out of the model
    """
    if unfelt:
        advice = (
            "no observed site depends on it, and the prior does not count; set penalty, or leave it out of the model"
        )
        raise ConfigError(f"{', '.join(unfelt)}: {advice}")


def outcome(found: Params, finite: bool, finished: bool, steps: int) -> Params | DataError:
    """Give what a search has found, or say why that is no optimum.

    >>> outcome({}, finite=True, finished=False, steps=9)
    DataError('still climbing after 9 steps; raise steps, standardise the data, or add a penalty if no optimum exists')
    """
    if not finite:
        return DataError("the log density is NaN or infinite from every start; does the model fit the data's range?")
    if not finished:
        advice = "raise steps, standardise the data, or add a penalty if no optimum exists"
        return DataError(f"still climbing after {steps} steps; {advice}")
    return found


def _refuse(sites: Sequence[Site], kind: str, why: str) -> None:
    names = [site.name for site in sites if site.kind == kind]
    if names:
        raise ConfigError(f"{', '.join(names)}: {why}")
