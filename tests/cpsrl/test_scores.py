import numpy as np
import pytest

from bayes_persona.cpsrl import factors, graph, scores, structure
from bayes_persona.cpsrl.env import joint
from bayes_persona.errors import ConfigError, DataError, MismatchError


def learned(truth, length, prior, alpha=0.5, seed=0):
    """Give the state after moves of the truth from random places."""
    rng = np.random.default_rng(seed)
    x = rng.integers(len(truth.reward), size=length)
    y = np.stack([(rng.random((length, 1)) > law[x].cumsum(axis=1)).sum(axis=1) for law in truth.factors], axis=1)
    settings = np.stack(np.unravel_index(x, list(truth.inputs.values())), axis=1)
    return structure.update(prior, structure.init(prior), settings, y, alpha)


def test_the_model_error_is_that_of_whole_next_states_in_any_number_of_pieces(spec, monkeypatch):
    one, other = spec(0).factors, spec(1).factors
    whole = np.abs(joint(one) - joint(other)).sum(axis=1).mean()
    assert scores.model_error(one, other) == pytest.approx(whole, abs=1e-12)
    monkeypatch.setattr(scores, "CELLS", 100)
    assert scores.model_error(one, other) == pytest.approx(whole, abs=1e-12)
    assert scores.model_error(one, one) == 0
    with pytest.raises(MismatchError, match="drawn: expected factors of shapes"):
        scores.model_error(one, one[:2])


def test_data_make_the_model_better(spec):
    truth = spec(0)
    prior = graph.empty(truth, max_parents=2)
    errors = []
    for length in (0, 100, 5000):
        state = learned(truth, length, prior)
        choice = structure.sample(prior, state, 0)
        errors.append(scores.model_error(factors.sample(prior, state, choice, 0.5, seed=0), truth.factors))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.15


def test_edges_are_the_marginals_most_probable_first(spec):
    truth = spec(0)
    prior = graph.prior(truth, {"a'": ["a"], ("b", "a'"): 0.1}, max_parents=3)
    state = learned(truth, 50, prior)
    table = scores.edges(prior, state)
    assert len(table) == 15
    assert [edge.after for edge in table] == sorted((edge.after for edge in table), reverse=True)
    after = structure.edge_marginals(prior, state)
    for edge in table:
        assert edge.after == pytest.approx(after[edge.cause][edge.effect]["probability"])
        assert edge.true == (edge.cause in truth.parents[edge.effect])
    assert next(edge for edge in table if (edge.cause, edge.effect) == ("a", "a'")).before == 1


def test_graph_scores_are_perfect_once_the_graph_is_known(spec):
    truth = spec(0)
    prior = graph.empty(truth, max_parents=3)
    nothing, much = structure.init(prior), learned(truth, 4000, prior)
    assert scores.edge_auroc(prior, nothing) == 0.5
    assert scores.edge_average_precision(prior, nothing) == pytest.approx(6 / 15)
    assert scores.edge_auroc(prior, much) == scores.edge_average_precision(prior, much) == 1
    assert scores.expected_shd(prior, much) < 0.5 < scores.expected_shd(prior, nothing)


def test_the_expected_distance_is_the_mean_distance_of_graphs(spec):
    truth = spec(3)
    prior = graph.prior(truth, {("a", "a'"): 0.9}, max_parents=2)
    state = learned(truth, 20, prior)
    probs = structure.posterior(prior, state)
    wrong = (prior.members ^ prior.truth[:, None]).sum(axis=-1)
    assert scores.expected_shd(prior, state) == pytest.approx((probs * wrong).sum())


def test_edges_that_were_never_open_do_not_flatter(spec):
    truth = spec(0)
    known = graph.known(truth, graph.true_graph(truth))
    with pytest.raises(DataError):
        scores.edge_auroc(known, structure.init(known))
    assert scores.expected_shd(known, structure.init(known)) == 0


def test_draws_of_worlds_are_of_the_posterior_and_go_to_arviz(spec):
    import arviz

    truth = spec(0)
    prior = graph.empty(truth, max_parents=2)
    state = learned(truth, 30, prior)
    data = scores.to_inference_data(prior, state, alpha=0.5, count=400)
    edges = np.stack([data.posterior[f"edges.{name}"].values[0] for name in truth.outputs], axis=1)
    want = scores.marginals(prior, state)
    np.testing.assert_allclose(edges.mean(axis=0), want, atol=4.5 * 0.5 / 20)
    np.testing.assert_allclose(data.posterior["factors.b'"].values.sum(axis=-1), 1)
    assert arviz.summary(data, var_names=["edges.a'"])["mean"].tolist() == pytest.approx(edges[:, 0].mean(0), abs=1e-3)
    with pytest.raises(ConfigError, match="count: expected at least 1"):
        scores.draws(prior, state, alpha=0.5, count=0, seed=0)
