"""The posterior bootstrap for statistical models: draw a law of the data, then the parameters that fit it best; repeat.

With w, v the Dirichlet-process weights of n examples and T pseudo-examples (Σ w + Σ v = 1), draw m is

    θ_m = argmax Σ_i w_i log p(y_i | θ) + Σ_j v_j log p(ỹ_j | θ) + γ log p(θ)

Every draw has weights, atoms and starts of its own, by name: none depends on another.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bayes_persona import ranges
from bayes_persona.errors import ConfigError, DataError, MismatchError
from bayes_persona.named import fingerprint, require_finite
from bayes_persona.nptl.npl.model import Examples, Law, WeightedModel
from bayes_persona.parallel import Engine, map
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child, generator
from bayes_persona.types import Params
from bayes_persona.weights import dirichlet_process

Sampler = Callable[[int], Examples]
"""Draws pseudo-examples from the base measure F_π: from a seed, T of them, under the names of the data's arrays."""
RADIUS = 2.0
"""Searches start from unconstrained values between ± this, as those of NumPyro and Stan do."""


@dataclass(frozen=True)
class NPL:
    """Nonparametric learning of a parametric model: one weighted fit for each draw of a Dirichlet process.

    >>> NPL(particles=4, alpha=10.0).alpha
    10.0
    """

    particles: int = 100
    """Number of posterior draws."""
    alpha: float = 0.0
    """How many examples the base measure is worth. 0 is the weighted-likelihood (Bayesian) bootstrap."""
    penalty: float = 0.0
    """γ: what the log prior counts beside the mean log density ("loss-NPL"); 1/n is its part in Bayes's theorem."""
    starts: int = 1
    """Random starts of every fit; the best counts. More than one for densities with several modes."""
    steps: int = 1000
    """Steps of a search, at most (in NumPyro: evaluations)."""
    tolerance: float = 1e-8
    """A search ends where no unconstrained coordinate has a greater slope."""
    exclude_failed: bool = False
    """Leave out draws whose search fails, and warn; otherwise the first such draw is an error."""

    def __post_init__(self):
        ranges.at_least(self, 1, "particles", "starts", "steps")
        ranges.at_least(self, 0, "alpha", "penalty", "tolerance")

    def sample(
        self,
        model: WeightedModel,
        data: Examples,
        *,
        seed: int,
        atoms: Sampler | None = None,
        engine: Engine | None = None,
        folder: str | Path | None = None,
        title: str | None = None,
    ) -> Posterior:
        """Draw `particles` values of the model's parameters, constrained, under the names of their sites.

        Args:
            model: A `NumPyroModel`, a `PyroModel` or your own.
            data: The arguments of the model by name, first axis examples.
            seed: Names the posterior; draw k is the same however many are drawn, but for rounding.
            atoms: Draws pseudo-examples, anew for every draw; needed if alpha is more than 0. See `resampled`.
            engine: How fits are executed; None computes as many in one pass as the model likes to.
            folder: Keep each draw here, and resume from those that are there.
            title: Name beside the progress bar; None shows no bar.

        Raises:
            ConfigError: If the model is none that can be fitted so, or alpha has no atoms.
            DataError: If the data are NaN or infinite, or a fit finds no optimum.
            MismatchError: If arrays do not have the same examples, or the folder holds draws of another posterior.

        >>> class Mean:
        ...     def shapes(self, examples): return {"mean": (1,)}
        ...     def together(self, n, starts): return 1
        ...     def maximise(self, data, laws, *, penalty, steps, tolerance):
        ...         return [{"mean": np.average(data["y"], axis=0, weights=law.weights.real)} for law in laws]
        >>> posterior = NPL(particles=200).sample(Mean(), {"y": np.array([[0.0], [0.0], [1.0], [1.0]])}, seed=0)
        >>> round(float(posterior.mean()["mean"][0]), 1)
        0.5
        """
        data = {name: np.asarray(array) for name, array in data.items()}
        n, shapes = require_examples(data, "data"), model.shapes(data)
        if self.alpha > 0 and atoms is None:
            raise ConfigError(f"atoms: a prior worth alpha={self.alpha} examples needs atoms; see `resampled`")

        def law(particle: int) -> Law:
            name = child(seed, "particle", particle)
            pseudo = {} if atoms is None or self.alpha == 0 else _like(atoms(child(name, "atoms")), data)
            count = require_examples(pseudo, "atoms") if pseudo else 0
            weights = dirichlet_process(n, count, self.alpha, child(name, "weights"))
            sizes = {site: (self.starts, *shape) for site, shape in shapes.items()}
            starts = {
                site: generator(name, "start", site).uniform(-RADIUS, RADIUS, size) for site, size in sizes.items()
            }
            return Law(weights, pseudo, starts)

        def fit(particles: Sequence[int]) -> list[Params | DataError]:
            laws = [law(particle) for particle in particles]
            return model.maximise(data, laws, penalty=self.penalty, steps=self.steps, tolerance=self.tolerance)

        def draw(particle: int) -> Params:
            found = fit([particle])[0]
            if isinstance(found, DataError):
                raise found
            return found

        first = law(0).atoms
        if first and model.shapes(first) != shapes:
            raise MismatchError(f"atoms: the model has parameters {model.shapes(first)} there, {shapes} on the data")
        drawn = map(
            draw,
            range(self.particles),
            engine=_together(fit, self.particles, model.together(n, self.starts)) if engine is None else engine,
            folder=folder,
            config={**self._law(), "seed": seed, "model": type(model).__name__, "of": _identity(data, first, shapes)},
            title=title,
            exclude_failed=self.exclude_failed,
        )
        return Posterior(tuple(drawn))

    def _law(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in ("particles", "exclude_failed")}


def resampled(data: Examples, believe: Callable[[Examples, int], Examples], count: int) -> Sampler:
    """Make a base measure of the data's own inputs, drawn with replacement, and of outcomes that are believed of them.

    Args:
        data: The examples.
        believe: Gives the outcomes, by name, of some examples and a seed: a guess of yours, or a model's prior
            predictive (`functools.partial(model.imagine, outcomes={"y": "obs"})`).
        count: Number of atoms, T.

    >>> data = {"x": np.array([1.0, 2.0]), "y": np.array([0.0, 1.0])}
    >>> atoms = resampled(data, lambda rows, seed: {"y": generator(seed).integers(2, size=len(rows["x"]))}, count=50)
    >>> sorted(set(atoms(0)["x"].tolist())), atoms(0)["y"].shape
    ([1.0, 2.0], (50,))
    """
    if count < 1:
        raise ConfigError(f"count: expected at least 1, got {count}")

    def sampler(seed: int) -> Examples:
        chosen = generator(seed, "inputs").integers(require_examples(data, "data"), size=count)
        rows = {name: np.asarray(array)[chosen] for name, array in data.items()}
        return {**rows, **believe(rows, child(seed, "outcomes"))}

    return sampler


def require_examples(examples: Examples, where: str) -> int:
    """Give the number of examples, if that is the first axis of every array.

    Raises:
        MismatchError: If arrays have different numbers of examples.
        DataError: If there is none, or a number is NaN or infinite.

    >>> require_examples({"x": np.zeros((3, 2)), "y": np.zeros(3)}, "data")
    3
    """
    counts = {name: np.shape(array)[0] if np.ndim(array) else 0 for name, array in examples.items()}
    if not counts or 0 in counts.values():
        raise DataError(f"{where}: expected named arrays with at least one example each, got {counts}")
    if len(set(counts.values())) > 1:
        raise MismatchError(f"{where}: expected as many examples everywhere, got {counts}")
    require_finite({name: np.asarray(array) for name, array in examples.items()}, where)
    return next(iter(counts.values()))


def _like(atoms: Examples, data: Examples) -> Examples:
    atoms = {name: np.asarray(array) for name, array in atoms.items()}
    have, want = ({name: array.shape[1:] for name, array in side.items()} for side in (atoms, data))
    if have != want:
        raise MismatchError(f"atoms: expected arrays (but for the first axis) {want}, got {have}")
    return {name: array.astype(data[name].dtype, casting="same_kind") for name, array in atoms.items()}


def _identity(data: Examples, atoms: Examples, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Name what draws are a posterior of; models and samplers are functions, so by what can be seen of them."""
    arrays = {f"data.{name}": array for name, array in data.items()}
    arrays |= {f"atoms.{name}": array for name, array in atoms.items()}
    return {"arrays": fingerprint(arrays), "parameters": {name: list(shape) for name, shape in shapes.items()}}


def _together(fit: Callable[[Sequence[int]], list[Params | DataError]], particles: int, most: int) -> Engine:
    """Compute draws in groups of one size (one compilation), the same groups whichever of their draws are missing."""
    size = -(-particles // -(-particles // most))

    def engine(_: Callable[[int], Params], items: Sequence[int]) -> Iterator[tuple[int, Params | DataError]]:
        wanted = {item: index for index, item in enumerate(items)}
        for start in range(0, particles, size):
            group = range(start, min(start + size, particles))
            if wanted.keys() & set(group):
                for item, found in zip(group, fit(group), strict=True):
                    if item in wanted:
                        yield wanted[item], found

    return engine
