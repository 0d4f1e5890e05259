import numpy as np
import pytest
from scipy.stats import dirichlet

from bayes_persona.cpsrl import graph, numpyro_model, structure


def case(spec, number):
    # both outputs have as many sets and rows: what jax compiles for one serves the other
    truth, rng = spec(number, states={"a": 3, "b": 3}, actions={"go": 2}), np.random.default_rng(number)
    prior = graph.prior(truth, {("a", "a'"): 0.8, "b'": ["b"], "a'": ["b"]}, max_parents=3)
    x, y = (rng.integers(list(sizes.values()), size=(30, len(sizes))) for sizes in (truth.inputs, truth.outputs))
    return prior, x, y, rng


@pytest.mark.parametrize(("number", "alpha"), [(0, 1.0), (1, 0.2), (2, 3.0)])
def test_the_evidence_of_numpyro_is_that_of_structure(spec, number, alpha):
    prior, x, y, _ = case(spec, number)
    state = structure.update(prior, structure.init(prior), x, y, alpha)
    have = numpyro_model.log_evidence(prior, x, y, alpha=alpha)
    possible = prior.log_prior > -np.inf
    np.testing.assert_allclose(have[possible], np.asarray(state.log_evidence)[possible], atol=1e-9)


@pytest.mark.parametrize("number", range(3))
def test_the_joint_density_is_evidence_times_posterior_of_the_tables_at_any_tables(spec, number):
    alpha = 0.7
    prior, x, y, rng = case(spec, number)
    evidence = np.asarray(structure.update(prior, structure.init(prior), x, y, alpha).log_evidence)
    choice = np.array([rng.integers((log > -np.inf).sum()) for log in prior.log_prior])
    tables, expected = {}, 0.0
    for output, (name, values) in enumerate(prior.spec.outputs.items()):
        shape = np.full((int(prior.heights[output].sum()), values), alpha)
        tables[name] = rng.dirichlet(np.full(values, 2.0), size=len(shape))
        start = prior.starts[output, choice[output]] - prior.starts[output, 0]
        np.add.at(shape, (start + x @ prior.strides[output, choice[output]], y[:, output]), 1)
        # p(z) p(y | z) p(tables | z, y): the moves tell of the chosen candidate's table alone
        expected += prior.log_prior[output, choice[output]] + evidence[output, choice[output]]
        expected += sum(dirichlet.logpdf(row, a) for row, a in zip(tables[name], shape, strict=True))
    have = numpyro_model.log_joint(prior, x, y, alpha=alpha, choice=choice, tables=tables)
    assert have == pytest.approx(expected, abs=1e-9)
