"""Laws of the posterior bootstrap of statistical models, on models whose fits are known in closed form."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pytest
import torch
from numpyro import distributions as dist
from pyro import distributions as torch_dist

from bayes_persona import ConfigError, DataError, MismatchError
from bayes_persona.nptl.npl import NPL, resampled
from bayes_persona.nptl.npl.model import Law
from bayes_persona.nptl.npl.numpyro_model import NumPyroModel
from bayes_persona.nptl.npl.pyro_model import PyroModel
from bayes_persona.seeds import child, generator
from bayes_persona.weights import Weights, dirichlet_process

N, ATOMS = 30, 7


def normal(y):
    mean = numpyro.sample("theta", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def coin(y):
    chance = numpyro.sample("theta", dist.Beta(3.0, 2.0))
    with numpyro.plate("throws", 1 if y is None else len(y)):
        numpyro.sample("y", dist.Bernoulli(chance), obs=y)


def counts(y):
    rate = numpyro.sample("theta", dist.Gamma(1.0, 1.0))
    with numpyro.plate("counts", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def torch_normal(y):
    mean = pyro.sample("theta", torch_dist.Normal(0.0, 1.0))
    pyro.sample("y", torch_dist.Normal(mean, 0.5), obs=y)


def torch_coin(y):
    chance = pyro.sample("theta", torch_dist.Beta(3.0, 2.0))
    with pyro.plate("throws", 1 if y is None else len(y)):
        pyro.sample("y", torch_dist.Bernoulli(chance), obs=y)


def torch_counts(y):
    rate = pyro.sample("theta", torch_dist.Gamma(1.0, 1.0))
    with pyro.plate("counts", len(y)):
        pyro.sample("y", torch_dist.Poisson(rate), obs=y)


def logistic(x, y):
    bias = numpyro.sample("bias", dist.Normal(0, 1))
    slope = numpyro.sample("slope", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("examples", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=bias + x @ slope), obs=y)


def torch_logistic(x, y):
    bias = pyro.sample("bias", torch_dist.Normal(0.0, 1.0))
    slope = pyro.sample("slope", torch_dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    with pyro.plate("examples", len(x)):
        pyro.sample("y", torch_dist.Bernoulli(logits=bias + x @ slope), obs=y)


COIN = {"numpyro": NumPyroModel(coin), "pyro": PyroModel(torch_coin)}
FAMILIES = {
    "normal": (NumPyroModel(normal), PyroModel(torch_normal), lambda rng, size: rng.normal(2, 0.5, size)),
    "bernoulli": (*COIN.values(), lambda rng, size: rng.integers(2, size=size).astype(float)),
    "poisson": (NumPyroModel(counts), PyroModel(torch_counts), lambda rng, size: rng.poisson(3.0, size).astype(float)),
}


def throws():
    return {"y": generator(1, "throws").integers(2, size=N).astype(float)}


def labelled(n=60):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2))
    return {"x": x, "y": (rng.random(n) < 1 / (1 + np.exp(-x @ [1.0, -1.0]))).astype(float)}


def fitted(model, data, weights, penalty=0.0):
    """The fit under weights of one's own."""
    starts = {name: np.full((1, *shape), 0.3) for name, shape in model.shapes(data).items()}
    law = Law(Weights(np.asarray(weights, float), np.zeros(0)), {}, starts)
    return model.maximise(data, [law], penalty=penalty, steps=200, tolerance=1e-9)[0]


@pytest.mark.parametrize("framework", ["numpyro", "pyro"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_draw_of_an_exponential_family_is_the_weighted_mean_of_real_and_believed_data(family, framework):
    ours, theirs, sampled = FAMILIES[family]
    data = {"y": sampled(np.random.default_rng(0), N)}

    def atoms(seed):
        return {"y": sampled(np.random.default_rng(seed), ATOMS)}

    model, particles = (ours, 40) if framework == "numpyro" else (theirs, 4)  # 40 in one pass
    posterior = NPL(particles=particles, alpha=10.0).sample(model, data, seed=5, atoms=atoms)
    for k, draw in enumerate(posterior):
        name = child(5, "particle", k)
        weights = dirichlet_process(N, ATOMS, 10.0, child(name, "weights"))
        mean = weights.real @ data["y"] + weights.pseudo @ atoms(child(name, "atoms"))["y"]
        assert abs(draw["theta"] - mean) < 1e-6


def test_the_weighted_frequencies_are_the_draws_of_a_categorical():
    def model(y):
        chances = numpyro.sample("chances", dist.Dirichlet(jnp.ones(3)))
        numpyro.sample("y", dist.Categorical(chances), obs=y)

    y = np.random.default_rng(0).integers(3, size=N)
    for k, draw in enumerate(NPL(particles=5).sample(NumPyroModel(model), {"y": y}, seed=0)):
        weights = dirichlet_process(N, 0, 0.0, child(child(0, "particle", k), "weights")).real
        assert np.allclose(draw["chances"], np.bincount(y, weights), atol=1e-6)


def test_both_frameworks_give_the_same_draws():
    data = labelled()
    ours = NPL(particles=4).sample(NumPyroModel(logistic), data, seed=3)
    theirs = NPL(particles=4).sample(PyroModel(torch_logistic), data, seed=3)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys() == {"bias", "slope"}
        assert all(np.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_without_a_prior_the_draws_have_the_moments_of_the_bayesian_bootstrap():
    y = np.random.default_rng(0).exponential(size=N)  # which no normal is: the spread is the data's, not the model's
    draws = NPL(particles=2000).sample(NumPyroModel(normal), {"y": y}, seed=0).stacked()["theta"]
    sd = y.std() / np.sqrt(N + 1)
    assert abs(draws.mean() - y.mean()) < 4 * sd / np.sqrt(len(draws))
    assert abs(draws.std() / sd - 1) < 0.07


@pytest.mark.parametrize("framework", COIN)
def test_a_strong_prior_gives_back_the_fit_of_what_it_believes(framework):
    atoms, particles = {"y": np.arange(ATOMS) < 5}, 40 if framework == "numpyro" else 2
    posterior = NPL(particles=particles, alpha=1e9).sample(COIN[framework], throws(), seed=0, atoms=lambda _: atoms)
    assert np.abs(posterior.stacked()["theta"] - 5 / 7).max() < 1e-3


@pytest.mark.parametrize("model", [NumPyroModel(logistic), PyroModel(torch_logistic)], ids=["numpyro", "pyro"])
def test_a_weight_of_two_is_an_example_that_is_there_twice(model):
    data, times = labelled(60), generator(0).multinomial(60, np.full(60, 1 / 60))
    often = {name: np.repeat(array, times, axis=0) for name, array in data.items()}
    weighted, repeated = fitted(model, data, times / 60), fitted(model, often, np.full(60, 1 / 60))
    assert all(np.allclose(weighted[name], repeated[name], atol=1e-6) for name in weighted)


@pytest.mark.parametrize("model", COIN.values(), ids=COIN)
def test_even_weights_and_a_penalty_of_one_example_give_the_mode_of_bayes(model):
    data = throws()
    mode = (data["y"].sum() + 2) / (N + 3)  # of Beta(3 + heads, 2 + tails)
    assert abs(fitted(model, data, np.full(N, 1 / N), penalty=1 / N)["theta"] - mode) < 1e-6


def test_examples_that_the_model_masks_do_not_count():
    def ours(y, seen):
        mean = numpyro.sample("mean", dist.Normal(0, 1))
        with numpyro.handlers.mask(mask=seen):
            numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    def theirs(y, seen):
        mean = pyro.sample("mean", torch_dist.Normal(0.0, 1.0))
        with pyro.poutine.mask(mask=seen):
            pyro.sample("y", torch_dist.Normal(mean, 1.0), obs=y)

    data = {"y": np.arange(6.0), "seen": np.array([True, True, True, False, False, False])}
    for model in (NumPyroModel(ours), PyroModel(theirs)):
        assert abs(fitted(model, data, np.full(6, 1 / 6))["mean"] - 1) < 1e-6


def test_what_a_model_computes_beside_its_sites_does_not_matter():
    def theirs(y):
        mean = pyro.deterministic("mean", 2 * pyro.sample("half", torch_dist.Normal(0.0, 1.0)))
        pyro.sample("y", torch_dist.Normal(mean, torch.ones(3)).to_event(1), obs=y)

    found = fitted(PyroModel(theirs), {"y": np.arange(6.0).reshape(2, 3)}, [0.5, 0.5])
    assert found.keys() == {"half"}
    assert abs(found["half"] - 1.25) < 1e-6


def test_several_starts_find_the_best_of_two_modes():
    def model(y):
        numpyro.sample("y", dist.Cauchy(20 * numpyro.sample("twentieth", dist.Normal(0, 1)), 1), obs=y)

    rng = np.random.default_rng(0)
    data = {"y": np.concatenate([rng.normal(-20, 1, 20), rng.normal(20, 1, 40)])}
    one, eight = (
        NPL(particles=20, starts=starts).sample(NumPyroModel(model), data, seed=0).stacked()["twentieth"]
        for starts in (1, 8)
    )
    assert one.min() < -0.5
    assert eight.min() > 0.5


def test_a_draw_is_the_same_however_many_are_drawn():
    few, many = (NPL(particles=k).sample(COIN["numpyro"], throws(), seed=3).stacked()["theta"] for k in (4, 9))
    assert np.allclose(few, many[:4], atol=1e-7)
    assert len(set(many.round(6))) == 9


@pytest.mark.parametrize("framework", COIN)
def test_an_interrupted_posterior_resumes_to_the_same_draws(framework, tmp_path):
    method = NPL(particles=4)
    straight = method.sample(COIN[framework], throws(), seed=3)
    method.sample(COIN[framework], throws(), seed=3, folder=tmp_path)
    (tmp_path / "posterior" / "00001.safetensors").unlink()
    resumed = method.sample(COIN[framework], throws(), seed=3, folder=tmp_path)
    assert np.array_equal(resumed.stacked()["theta"], straight.stacked()["theta"])


def test_a_folder_of_another_posterior_is_refused(tmp_path):
    model, data = COIN["numpyro"], throws()
    NPL(particles=4).sample(model, data, seed=3, folder=tmp_path)
    with pytest.raises(MismatchError, match=r"penalty was 0\.0, is now 0\.5"):
        NPL(particles=4, penalty=0.5).sample(model, data, seed=3, folder=tmp_path)
    with pytest.raises(MismatchError, match=r"of\.arrays was|of was"):
        NPL(particles=4).sample(model, {"y": 1 - data["y"]}, seed=3, folder=tmp_path)


def test_fits_are_in_64_bits_and_the_callers_settings_stay():
    before = torch.get_default_dtype(), jax.config.jax_enable_x64, torch.random.get_rng_state()
    data = {"y": throws()["y"].astype(np.float32)}
    for model in COIN.values():
        assert fitted(model, data, np.full(N, 1 / N))["theta"].dtype == np.float64
    after = torch.get_default_dtype(), jax.config.jax_enable_x64, torch.random.get_rng_state()
    assert after[:2] == before[:2]
    assert torch.equal(after[2], before[2])


@pytest.mark.parametrize("model", COIN.values(), ids=COIN)
def test_believed_outcomes_are_the_models_prior_predictive(model):
    atoms = resampled(throws(), partial(model.imagine, outcomes={"y": "y"}), count=400)(0)["y"]
    assert set(atoms) == {0.0, 1.0}
    assert abs(atoms.mean() - 0.6) < 0.1  # the mean of Beta(3, 2), and each outcome under a chance of its own
    assert np.array_equal(atoms, resampled(throws(), partial(model.imagine, outcomes={"y": "y"}), count=400)(0)["y"])


def discrete(y):
    cluster = numpyro.sample("cluster", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(cluster + numpyro.sample("mean", dist.Normal()), 1), obs=y)


def subsampled(y):
    mean = numpyro.sample("mean", dist.Normal())
    with numpyro.plate("rows", len(y), subsample_size=3) as rows:
        numpyro.sample("y", dist.Normal(mean, 1), obs=y[rows])


def whole(y):
    numpyro.sample("all_of_y", dist.Normal(numpyro.sample("mean", dist.Normal()), 1).expand([N]).to_event(1), obs=y)


def local(y):
    spread = numpyro.sample("spread", dist.HalfNormal())
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(numpyro.sample("own", dist.Normal()), spread), obs=y)


def learned(y):
    numpyro.sample("y", dist.Normal(numpyro.param("centre", 0.0), 1), obs=y)


def unobserved(y):
    numpyro.sample("mean", dist.Normal())


def torch_discrete(y):
    cluster = pyro.sample("cluster", torch_dist.Bernoulli(0.5))
    pyro.sample("y", torch_dist.Normal(cluster + pyro.sample("mean", torch_dist.Normal(0.0, 1.0)), 1.0), obs=y)


def torch_subsampled(y):
    mean = pyro.sample("mean", torch_dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y), subsample_size=3) as rows:
        pyro.sample("y", torch_dist.Normal(mean, 1.0), obs=y[rows])


def torch_whole(y):
    mean = pyro.sample("mean", torch_dist.Normal(0.0, 1.0))
    pyro.sample("all_of_y", torch_dist.Normal(mean, 1.0).expand([N]).to_event(1), obs=y)


def torch_local(y):
    spread = pyro.sample("spread", torch_dist.HalfNormal(1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", torch_dist.Normal(pyro.sample("own", torch_dist.Normal(0.0, 1.0)), spread), obs=y)


def torch_learned(y):
    pyro.sample("y", torch_dist.Normal(pyro.param("centre", torch.tensor(0.0)), 1.0), obs=y)


def torch_unobserved(y):
    pyro.sample("mean", torch_dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ((discrete, torch_discrete), "^cluster: a discrete latent site"),
        ((subsampled, torch_subsampled), "^rows: the plate takes a subsample"),
        ((whole, torch_whole), r"^all_of_y: expected a log density for each of 30 examples .* got shape \(\)"),
        ((local, torch_local), "^own: is one value an example"),
        ((learned, torch_learned), "^centre: is a param"),
        ((unobserved, torch_unobserved), "^model: needs a sample site that is observed"),
    ],
)
def test_a_model_that_cannot_be_weighted_is_refused_by_the_name_of_its_site(models, message):
    pyro.clear_param_store()
    for model in (NumPyroModel(models[0]), PyroModel(models[1])):
        with pytest.raises(ConfigError, match=message):
            NPL().sample(model, throws(), seed=0)


def test_a_parameter_that_no_example_speaks_of_is_refused_unless_its_prior_counts():
    def ours(y):
        spread = numpyro.sample("spread", dist.HalfNormal())
        numpyro.sample("y", dist.Normal(numpyro.sample("mean", dist.Normal(0, spread)), 1), obs=y)

    def theirs(y):
        spread = pyro.sample("spread", torch_dist.LogNormal(0.0, 0.1))  # or the mode would be at zero
        pyro.sample("y", torch_dist.Normal(pyro.sample("mean", torch_dist.Normal(0.0, spread)), 1.0), obs=y)

    for model in (NumPyroModel(ours), PyroModel(theirs)):
        with pytest.raises(ConfigError, match=r"^spread: no observed site depends on it"):
            NPL(particles=2).sample(model, throws(), seed=0)
    drawn = NPL(particles=1, penalty=0.1).sample(PyroModel(theirs), throws(), seed=0)[0]
    assert drawn.keys() == {"spread", "mean"}


@pytest.mark.parametrize("framework", COIN)
def test_a_search_that_is_cut_short_says_so(framework):
    with pytest.raises(DataError, match="draw 0: still climbing after 2 steps"):
        NPL(particles=4, steps=2).sample(COIN[framework], throws(), seed=3)


def test_a_density_that_is_nowhere_defined_is_an_error_unless_such_draws_are_left_out():
    def model(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("mean", dist.Normal()), jnp.log(y.mean())), obs=y)

    with pytest.raises(DataError, match="draw 0: the log density is NaN or infinite from every start"):
        NPL(particles=2).sample(NumPyroModel(model), {"y": -np.ones(3)}, seed=0)
    with pytest.raises(DataError, match="all 2 draws failed"):
        NPL(particles=2, exclude_failed=True).sample(NumPyroModel(model), {"y": -np.ones(3)}, seed=0)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"y": np.array([0.0, np.nan])}, DataError, "data: y: 1 of 2 numbers"),
        ({"y": np.zeros(0)}, DataError, "at least one example"),
        ({"y": np.zeros(3), "x": np.zeros(2)}, MismatchError, "as many examples everywhere"),
    ],
)
def test_data_that_are_no_examples_are_refused(data, error, message):
    with pytest.raises(error, match=message):
        NPL().sample(COIN["numpyro"], data, seed=0)


@pytest.mark.parametrize(
    ("atoms", "error", "message"),
    [
        (None, ConfigError, r"a prior worth alpha=1\.0 examples needs atoms"),
        (lambda _: {"z": np.zeros(3)}, MismatchError, "atoms: expected arrays"),
        (lambda seed: {"y": np.zeros(1 + seed % 2)}, ConfigError, "atoms: one program takes one number"),
    ],
)
def test_atoms_that_do_not_fit_the_data_are_refused(atoms, error, message):
    with pytest.raises(error, match=message):
        NPL(particles=9, alpha=1.0).sample(COIN["numpyro"], throws(), seed=0, atoms=atoms)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"particles": 0}, "particles: expected at least 1"),
        ({"starts": 0}, "starts: expected at least 1"),
        ({"alpha": -1.0}, "alpha: expected a finite number"),
        ({"penalty": np.nan}, "penalty: expected a finite number"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        NPL(**settings)


def test_neither_framework_is_needed_to_import_it_and_each_is_asked_for_by_its_extra():
    code = (
        "import sys\nfor name in ('jax', 'torch', 'numpyro', 'pyro'): sys.modules[name] = None\n"
        "from bayes_persona import MissingExtraError\nimport bayes_persona.nptl.npl\n"
        "try:\n    import bayes_persona.nptl.npl.numpyro_model\nexcept MissingExtraError as error:\n    print(error)\n"
        "try:\n    import bayes_persona.nptl.npl.pyro_model\nexcept MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "jax is missing; install it with: pip install 'bayes-persona[jax]'",
        "pyro is missing; install it with: pip install 'bayes-persona[pyro]'",
    ]
