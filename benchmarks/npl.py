"""NPL of statistical models: how exact its draws are, and what they are worth where the model is wrong.

The model is the line y = a + b x + σ ε with gaussian noise of one size. The misspecified truth is y = 1 + x + |x| ε,
x and ε standard normal: noise grows with leverage. Where Bayes's posterior has the covariance I⁻¹/n and NPL's has the
sandwich I⁻¹JI⁻¹/n (I the mean curvature of the log density at its best parameters, J the variance of its slope), the
NLL that NPL gains is tr(K²)/2n to first order, K = I^-½(J - I)I^-½ (compare Fushiki 2005): never negative, and zero
for a model that is right. Here K has E x⁴ / E x² - 1 = 2 for the slope, (kurtosis - 3) / 2 = 3 for σ and 0 elsewhere,
which makes 13 / 2n = 0.065 nats for n = 100. In the well-specified truth, y = 1 + x + ε, only terms of higher order
are left.

    python -m benchmarks.npl [--only conjugate misspecified wellspecified]
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np
import numpyro
import pyro
import tyro
from numpyro import distributions as dist
from numpyro.diagnostics import split_gelman_rubin
from numpyro.infer import MCMC, NUTS
from pyro import distributions as torch_dist
from scipy.stats import norm

from bayes_persona.nptl.npl import NPL
from bayes_persona.nptl.npl.model import WeightedModel
from bayes_persona.nptl.npl.numpyro_model import NumPyroModel
from bayes_persona.nptl.npl.pyro_model import PyroModel
from bayes_persona.seeds import child, generator
from bayes_persona.types import Params
from bayes_persona.weights import dirichlet_process
from benchmarks.rows import Row, row, save

Part = Literal["conjugate", "misspecified", "wellspecified"]
Draw = Callable[[np.random.Generator, int], np.ndarray]
SETS, EXAMPLES, TESTS, DRAWS = 40, 100, 2000, 1000
ALPHA, ATOMS = 10.0, 20
COMMAND = "python -m benchmarks.npl --only"


@dataclass(frozen=True)
class Config:
    """Which parts to measure."""

    only: tuple[Part, ...] = ("conjugate", "misspecified", "wellspecified")
    """Parts to measure; the rows of the others are kept."""


def normal(y):
    numpyro.sample("y", dist.Normal(numpyro.sample("theta", dist.Normal()), 0.5), obs=y)


def coin(y):
    numpyro.sample("y", dist.Bernoulli(numpyro.sample("theta", dist.Beta(1, 1))), obs=y)


def counts(y):
    numpyro.sample("y", dist.Poisson(numpyro.sample("theta", dist.Gamma(1, 1))), obs=y)


def torch_normal(y):
    pyro.sample("y", torch_dist.Normal(pyro.sample("theta", torch_dist.Normal(0.0, 1.0)), 0.5), obs=y)


def torch_coin(y):
    pyro.sample("y", torch_dist.Bernoulli(pyro.sample("theta", torch_dist.Beta(1.0, 1.0))), obs=y)


def torch_counts(y):
    pyro.sample("y", torch_dist.Poisson(pyro.sample("theta", torch_dist.Gamma(1.0, 1.0))), obs=y)


FAMILIES: dict[Draw, tuple[WeightedModel, WeightedModel]] = {
    lambda rng, size: rng.normal(2, 0.5, size): (NumPyroModel(normal), PyroModel(torch_normal)),
    lambda rng, size: rng.integers(2, size=size).astype(float): (NumPyroModel(coin), PyroModel(torch_coin)),
    lambda rng, size: rng.poisson(3.0, size).astype(float): (NumPyroModel(counts), PyroModel(torch_counts)),
}


def line(x, y):
    bias = numpyro.sample("bias", dist.Normal(0, 10))
    slope = numpyro.sample("slope", dist.Normal(0, 10))
    noise = numpyro.sample("noise", dist.HalfNormal(10))
    with numpyro.plate("examples", len(x)):
        numpyro.sample("y", dist.Normal(bias + slope * x, noise), obs=y)


def conjugate() -> list[Row]:
    """The largest distance of a draw from the weighted mean that it has to be, over the spread of the draws."""
    rows = []
    for framework, (name, draws) in enumerate([("npl.conjugate_error", DRAWS), ("npl.conjugate_error.pyro", 25)]):
        started = time.perf_counter()
        errors = [_error(models[framework], sampled, draws) for sampled, models in FAMILIES.items()]
        seconds = time.perf_counter() - started
        measured = row(name, max(errors), "largest / posterior sd", command=f"{COMMAND} conjugate", seconds=seconds)
        rows.append(replace(measured, value=float(f"{max(errors):.2g}"), n=len(errors) * draws))  # too small for digits
    return rows


def _error(model: WeightedModel, sampled: Draw, draws: int) -> float:
    data = {"y": sampled(generator(0, "data"), EXAMPLES)}

    def atoms(seed: int) -> dict[str, np.ndarray]:
        return {"y": sampled(generator(seed), ATOMS)}

    posterior = NPL(particles=draws, alpha=ALPHA).sample(model, data, seed=0, atoms=atoms)
    exact = []
    for k in range(draws):
        name = child(0, "particle", k)
        weights = dirichlet_process(EXAMPLES, ATOMS, ALPHA, child(name, "weights"))
        exact.append(weights.real @ data["y"] + weights.pseudo @ atoms(child(name, "atoms"))["y"])
    return float(np.abs(posterior.stacked()["theta"] - exact).max() / np.std(exact))


def misspecified() -> list[Row]:
    return _gain("misspecified", lambda x: np.abs(x))


def wellspecified() -> list[Row]:
    return _gain("wellspecified", lambda x: np.ones_like(x))


def _gain(name: str, noise: Callable[[np.ndarray], np.ndarray]) -> list[Row]:
    """NLL of NUTS's posterior predictive less that of NPL's on the same fresh data, data set by data set."""
    started = time.perf_counter()
    model, sampler = (
        NumPyroModel(line),
        MCMC(NUTS(line), num_warmup=500, num_samples=DRAWS, progress_bar=False, jit_model_args=True),
    )
    bayes, ours = [], []
    for number in range(SETS):
        seed = child(0, name, number)
        data, fresh = (
            _sampled(generator(seed, part), size, noise) for part, size in (("x", EXAMPLES), ("test", TESTS))
        )
        bayes.append(_nll(_nuts(sampler, data, child(seed, "nuts")), fresh))
        ours.append(_nll(NPL(particles=DRAWS).sample(model, data, seed=seed).stacked(), fresh))
    bayes, ours, seconds = np.array(bayes), np.array(ours), time.perf_counter() - started

    def measured(id: str, values: np.ndarray, unit: str) -> Row:
        return row(f"npl.{name}_{id}", values, unit, command=f"{COMMAND} {name}", seconds=seconds)

    return [
        measured("nll_gain_over_nuts", bayes - ours, "nats an example, paired"),
        measured("nll", ours, "nats an example"),
        measured("nll.nuts", bayes, "nats an example"),
    ]


def _sampled(rng: np.random.Generator, size: int, noise: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    x = rng.normal(size=size)
    return {"x": x, "y": 1 + x + noise(x) * rng.normal(size=size)}


def _nuts(sampler: MCMC, data: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    with jax.enable_x64(True):
        sampler.run(jax.random.key(seed), **data)
        draws = {site: np.asarray(values) for site, values in sampler.get_samples().items()}
    worst = max(float(split_gelman_rubin(values[None])) for values in draws.values())
    if worst > 1.05:
        raise RuntimeError(f"NUTS has not converged (split R-hat {worst:.3f}); its NLL would be no fair rival")
    return draws


def _nll(draws: Params, fresh: dict[str, np.ndarray]) -> float:
    """Give the NLL of the mean density over draws."""
    mean = draws["bias"][:, None] + draws["slope"][:, None] * fresh["x"]
    logs = norm.logpdf(fresh["y"], mean, draws["noise"][:, None])
    return float(-(np.logaddexp.reduce(logs, axis=0) - np.log(len(logs))).mean())


def main(config: Config) -> None:
    parts = {"conjugate": conjugate, "misspecified": misspecified, "wellspecified": wellspecified}
    for name in config.only:
        save("npl", parts[name]())


if __name__ == "__main__":
    main(tyro.cli(Config))
