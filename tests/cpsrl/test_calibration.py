import numpy as np
import pytest

from bayes_persona.cpsrl import calibration, env, graph
from bayes_persona.errors import ConfigError, MismatchError


def small_prior(spec, **more):
    truth = spec(0, states={"a": 2, "b": 3}, actions={"go": 2})
    return graph.prior(truth, {("a", "a'"): 0.7, "b'": ["go"]}, **{"max_parents": 2, **more})


def test_the_posterior_is_calibrated_under_its_own_prior(spec):
    config = calibration.Config(repetitions=1000, moves=30, alpha=0.5)
    ranks = calibration.simulate(config, small_prior(spec), seed=0)
    p_values = calibration.uniformity(ranks)
    assert min(p_values.values()) > 0.01, p_values
    for level in (0.5, 0.8, 0.95):
        assert abs(calibration.coverage(ranks, level=level) - level) < 3.5 * np.sqrt(level * (1 - level) / 1000)


@pytest.mark.parametrize("assumed", [0.1, 2.5])
def test_a_wrong_alpha_is_noticed(spec, assumed):
    config = calibration.Config(repetitions=500, moves=30, alpha=0.5, assumed=assumed)
    p_values = calibration.uniformity(calibration.simulate(config, small_prior(spec), seed=0))
    assert p_values["parameters"] < 1e-6, p_values


def test_a_wrong_prior_of_graphs_is_noticed(spec):
    config = calibration.Config(repetitions=500, moves=10)
    wrong = small_prior(spec, sizes=[0.01, 0.01, 0.98])
    ranks = calibration.simulate(config, small_prior(spec), seed=0, assumed=wrong)
    p_values = calibration.uniformity(ranks)
    assert p_values["edges"] < 1e-6, p_values
    assert calibration.coverage(ranks) < 0.7


def test_a_graph_that_was_thought_impossible_is_in_no_credible_set(spec):
    truth = spec(0, states={"a": 2}, actions={"go": 2})
    config = calibration.Config(repetitions=20, moves=5)
    ranks = calibration.simulate(
        config, graph.known(truth, {"a'": ["a"]}), seed=0, assumed=graph.known(truth, {"a'": ["go"]})
    )
    assert (ranks.graphs == 1).all()
    assert calibration.coverage(ranks) == 0


def test_a_simulation_is_named_by_its_seed(spec):
    config = calibration.Config(repetitions=5, moves=5)
    one, same, other = (calibration.simulate(config, small_prior(spec), seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(have, want) for have, want in zip(one, same, strict=True))
    assert not np.array_equal(one.graphs, other.graphs)


def test_what_is_wrong_with_a_simulation_is_said(spec):
    with pytest.raises(ConfigError, match="assumed: expected a finite number above 0, got 0"):
        calibration.Config(assumed=0.0)
    with pytest.raises(MismatchError, match="assumed: expected a prior for the same variables"):
        calibration.simulate(
            calibration.Config(), small_prior(spec), seed=0, assumed=graph.empty(env.lamp(), max_parents=1)
        )
    many = spec(0, states=dict.fromkeys("abcdef", 2), actions={"go": 2})
    with pytest.raises(ConfigError, match="expected at most 100,000 graphs, got 262,144; lower max_parents"):
        calibration.simulate(calibration.Config(), graph.empty(many, max_parents=1), seed=0)
    ranks = calibration.simulate(calibration.Config(repetitions=20, moves=2), small_prior(spec), seed=0)
    with pytest.raises(ConfigError, match="5 worlds a bin; got 20 for 20 worlds"):
        calibration.uniformity(ranks)
    with pytest.raises(ConfigError, match="level: expected a number between 0 and 1"):
        calibration.coverage(ranks, level=1.0)
