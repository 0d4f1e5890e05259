import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bayes_persona.errors import DataError, MismatchError
from bayes_persona.export import to_datatree, to_inference_data, to_networkx
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import generator

# ArviZ announces its next version on the first import of a day.
pytestmark = pytest.mark.filterwarnings(r"ignore:\s*ArviZ is undergoing:FutureWarning")


@pytest.fixture(scope="module")
def posterior():
    rng = generator(0, "export")
    return Posterior(tuple({"net.weight": rng.normal(size=(2, 3)), "scale": rng.normal(size=())} for _ in range(400)))


@pytest.fixture(scope="module")
def log_likelihood():
    return -1 + 0.1 * generator(0, "log likelihood").normal(size=(400, 12))


def test_the_tree_holds_every_number_under_its_own_name(posterior):
    group = to_datatree(posterior)["posterior"]
    assert set(group.data_vars) == {"net.weight", "scale"}
    assert group["net.weight"].dims == ("chain", "draw", "net.weight_dim_0", "net.weight_dim_1")
    assert group["scale"].dims == ("chain", "draw")
    assert group["draw"].values.tolist() == list(range(400))
    for name, stack in posterior.stacked().items():
        np.testing.assert_array_equal(group[name].values[0], stack)


def test_the_log_likelihood_is_a_group_of_its_own(posterior, log_likelihood):
    assert list(to_datatree(posterior).children) == ["posterior"]
    tree = to_datatree(posterior, log_likelihood=log_likelihood)
    assert dict(tree["log_likelihood"]["y"].sizes) == {"chain": 1, "draw": 400, "y_dim_0": 12}
    np.testing.assert_array_equal(tree["log_likelihood"]["y"].values[0], log_likelihood)


def test_arviz_summarises_the_particles(posterior):
    import arviz

    summary = arviz.summary(to_inference_data(posterior), kind="stats", round_to="none")
    assert len(summary) == 7
    assert summary.loc["scale", "mean"] == pytest.approx(posterior.mean()["scale"])
    assert summary.loc["net.weight[1, 2]", "mean"] == pytest.approx(posterior.mean()["net.weight"][1, 2])
    assert (arviz.summary(to_inference_data(posterior))["ess_bulk"] > 200).all()


def test_leaving_one_out_takes_the_log_likelihood(posterior, log_likelihood):
    import arviz

    result = arviz.loo(to_inference_data(posterior, log_likelihood=log_likelihood))
    assert (result.n_samples, result.n_data_points) == (400, 12)
    # weights of importance with so little spread are nearly flat, so that this is nearly the harmonic mean
    assert result.elpd_loo == pytest.approx(-np.log(np.exp(-log_likelihood).mean(axis=0)).sum(), abs=0.05)


def test_a_log_likelihood_that_does_not_fit_is_named(posterior):
    with pytest.raises(MismatchError, match=r"log_likelihood: expected shape \(400, examples\), got \(3, 12\)"):
        to_datatree(posterior, log_likelihood=np.zeros((3, 12)))
    with pytest.raises(DataError, match="log_likelihood: 1 of 400 numbers"):
        to_datatree(posterior, log_likelihood=np.where(np.arange(400)[:, None] == 3, -np.inf, 0.0))
    with pytest.raises(DataError, match="log_likelihood: empty"):
        to_inference_data(posterior, log_likelihood=np.zeros((400, 0)))


def test_an_edge_carries_its_probability():
    graph = to_networkx({("rain", "grass"): 0.75, ("sprinkler", "grass"): 0.0, ("grass", "rain"): 1})
    assert graph.edges["rain", "grass"] == {"probability": 0.75}
    assert sorted(graph.edges(data="probability")) == [
        ("grass", "rain", 1.0),
        ("rain", "grass", 0.75),
        ("sprinkler", "grass", 0.0),
    ]


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_an_impossible_probability_names_its_edge(wrong):
    with pytest.raises(DataError, match="edge rain -> grass: expected a probability between 0 and 1, got"):
        to_networkx({("rain", "grass"): wrong})


def test_importing_the_exports_loads_none_of_their_libraries():
    heavy = "{'xarray', 'arviz', 'networkx', 'scipy'}"
    code = f"import sys, bayes_persona.export, bayes_persona.metrics; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0
