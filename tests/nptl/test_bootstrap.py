"""Laws of the posterior bootstrap, on a learner whose optimum is known in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_persona import ConfigError, Data, MismatchError, nptl
from bayes_persona.nptl import BaseMeasure
from bayes_persona.nptl.base_measure import atoms_of
from bayes_persona.weights import dirichlet_process

N, CLASSES = 200, 3


class Mean:
    """Minimises Σ s_i ‖t_i - θ‖² exactly: θ is the weighted mean of the labels."""

    def fit(self, params, data, seed):
        return {"mean": np.average(data.y, axis=0, weights=data.weights)}

    def predict(self, params, x):
        return np.tile(params["mean"], (len(x), 1))


def problem(n=N):
    rng = np.random.default_rng(0)
    data = Data(rng.normal(size=(n, 1)), np.eye(CLASSES)[rng.integers(CLASSES, size=n)], np.ones(n))
    return data, BaseMeasure(params={"mean": np.zeros(CLASSES)}, labels=rng.dirichlet(np.ones(CLASSES), n))


@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.integers(1, 30), st.floats(0, 50), st.integers(0, 10_000))
def test_the_fused_label_has_the_loss_of_both_labels(n, alpha, seed):
    data, base = problem(n)
    weights = dirichlet_process(n, n, alpha, seed)
    fused = nptl.fuse(data, base, weights)
    log_probs = np.log(np.random.default_rng(seed).dirichlet(np.ones(CLASSES), n))
    both = -(weights.real[:, None] * data.y * log_probs + weights.pseudo[:, None] * base.labels * log_probs).sum()
    assert np.isclose(-(fused.weights[:, None] * fused.y * log_probs).sum() / n, both)
    assert np.isclose(fused.weights.mean(), 1)
    assert np.allclose(fused.y.sum(axis=1), 1)


@pytest.mark.parametrize("rho", [0.0, 1.0, 5.0])
def test_the_draws_have_the_moments_of_the_dirichlet_process_posterior(rho):
    # With squared loss θ = Σ w y + Σ v q, so E = Σ G_n z and Var = Σ G_n (z - E)² / (α + n + 1), exactly.
    data, base = problem()
    posterior = nptl.NPTL(particles=1500, rho=rho).sample(Mean(), base, data, seed=1)
    draws = posterior.stacked()["mean"]
    alpha = rho * N
    atoms = np.concatenate([data.y, base.labels])
    mass = np.concatenate([np.full(N, 1 / (alpha + N)), np.full(N, alpha / N / (alpha + N))])[:, None]
    mean = (mass * atoms).sum(axis=0)
    sd = np.sqrt((mass * (atoms - mean) ** 2).sum(axis=0) / (alpha + N + 1))
    assert np.abs(draws.mean(axis=0) - mean).max() < 4 * (sd / np.sqrt(len(draws))).max()
    assert np.abs(draws.std(axis=0) / sd - 1).max() < 0.08


def test_a_strong_prior_gives_back_what_it_believes():
    data, base = problem()
    posterior = nptl.NPTL(particles=5, rho=1e7).sample(Mean(), base, data, seed=0)
    assert np.abs(posterior.stacked()["mean"] - base.labels.mean(axis=0)).max() < 1e-3


def test_without_a_prior_the_believed_labels_do_not_matter():
    data, base = problem()
    other = base._replace(labels=np.roll(base.labels, 1, axis=1))
    config = nptl.NPTL(particles=3, rho=0.0)
    one, two = (config.sample(Mean(), prior, data, seed=0).stacked()["mean"] for prior in (base, other))
    assert np.array_equal(one, two)


def test_particle_seven_is_the_same_however_many_are_drawn():
    data, base = problem()
    few, many = (nptl.NPTL(particles=k).sample(Mean(), base, data, seed=3) for k in (8, 12))
    assert np.array_equal(few[7]["mean"], many[7]["mean"])
    assert not np.array_equal(many[7]["mean"], many[8]["mean"])


def test_an_interrupted_posterior_resumes_to_the_same_particles(tmp_path):
    data, base = problem()
    straight = nptl.NPTL(particles=6).sample(Mean(), base, data, seed=3)
    nptl.NPTL(particles=4).sample(Mean(), base, data, seed=3, folder=tmp_path)
    (tmp_path / "posterior" / "00001.safetensors").unlink()
    resumed = nptl.NPTL(particles=6).sample(Mean(), base, data, seed=3, folder=tmp_path)
    assert np.array_equal(resumed.stacked()["mean"], straight.stacked()["mean"])


def test_a_folder_of_another_prior_is_refused(tmp_path):
    data, base = problem()
    nptl.NPTL(particles=1, rho=1.0).sample(Mean(), base, data, seed=3, folder=tmp_path)
    with pytest.raises(MismatchError, match=r"rho was 1\.0, is now 2\.0"):
        nptl.NPTL(particles=1, rho=2.0).sample(Mean(), base, data, seed=3, folder=tmp_path)


def test_a_folder_of_other_data_is_refused(tmp_path):
    data, base = problem()
    nptl.NPTL(particles=1).sample(Mean(), base, data, seed=3, folder=tmp_path)
    with pytest.raises(MismatchError, match="data was"):
        nptl.NPTL(particles=1).sample(Mean(), base, data._replace(x=data.x + 1), seed=3, folder=tmp_path)


def test_block_weights_give_the_same_posterior_spread():
    data, base = problem()
    exact, blocks = (
        nptl.NPTL(particles=1500, blocks=count).sample(Mean(), base, data, seed=1).stacked()["mean"].std(axis=0)
        for count in (None, 50)
    )
    assert np.abs(blocks / exact - 1).max() < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"particles": 0}, "particles: expected at least 1"),
        ({"rho": -1.0}, "rho: expected"),
        ({"rho": np.nan}, "rho: expected"),
    ],
)
def test_impossible_settings_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        nptl.NPTL(**arguments)


def test_a_base_measure_of_other_data_is_refused():
    data, base = problem()
    with pytest.raises(MismatchError, match=r"base\.labels: expected shape \(200, 3\)"):
        nptl.NPTL().sample(Mean(), base._replace(labels=base.labels[:10]), data, seed=0)


def test_the_distillation_ensemble_fits_the_mean_of_the_draws_labels():
    data, base = problem()
    distilled = nptl.DistillationEnsemble(particles=2, rho=3.0).sample(Mean(), base, data, seed=0)
    assert np.allclose(distilled[0]["mean"], (data.y.mean(axis=0) + 3 * base.labels.mean(axis=0)) / 4)


def test_an_ensemble_of_one_is_fine_tuning():
    data, base = problem()
    one = nptl.MAP().sample(Mean(), base, data, seed=5)
    ensemble = nptl.DeepEnsemble(1).sample(Mean(), base, data, seed=5)
    assert np.array_equal(one[0]["mean"], ensemble[0]["mean"])


class Probed(Mean):
    """The smallest learner that a prior's strength can be chosen for."""

    likelihood = "categorical"

    @property
    def params(self):
        return {"mean": np.zeros(CLASSES)}

    def features(self, params, x):
        return x

    def with_head(self, params, weight, bias):
        return params


def test_the_prior_is_as_strong_as_held_out_examples_say():
    """A base measure that knows the law is wanted strong; one that is sure of the wrong class is wanted weak."""
    rng = np.random.default_rng(0)
    data = Data(rng.normal(size=(40, 1)), np.eye(CLASSES)[rng.integers(CLASSES, size=40)], np.ones(40))
    truth, wrong = np.full(CLASSES, 1 / CLASSES), np.array([0.98, 0.01, 0.01])
    chosen = {}
    for name, belief in (("truth", truth), ("wrong", wrong)):
        choice = nptl.choose_rho(
            nptl.NPTL(particles=20),
            Probed(),
            data,
            seed=0,
            share=0.5,
            probe=lambda learner, part, belief=belief: BaseMeasure({}, np.tile(belief, (len(part.y), 1))),
        )
        assert choice.nll[choice.method.rho] == min(choice.nll.values())
        chosen[name] = choice.method.rho
    assert chosen["truth"] > 1 > chosen["wrong"]


@pytest.mark.parametrize("wrong", [{"grid": ()}, {"share": 0.0}, {"share": 1.0}])
def test_choosing_needs_something_to_choose_from_and_to_judge_on(wrong):
    data, _ = problem(20)
    with pytest.raises(ConfigError, match="nothing to choose from, learn from or judge on"):
        nptl.choose_rho(nptl.NPTL(), Probed(), data, seed=0, **wrong)


def test_a_sampler_of_ones_own_draws_pseudo_examples_anew_for_every_particle():
    data, base = problem(50)
    seen = []

    def sampler(seed):
        seen.append(seed)
        rng = np.random.default_rng(seed)
        return rng.normal(size=(30, 1)), np.tile([0.0, 0.0, 1.0], (30, 1))

    own = base._replace(sampler=sampler)
    posterior = nptl.NPTL(particles=400, rho=1.0).sample(Mean(), own, data, seed=0)
    assert len(set(seen)) == 400
    # half of the mass is believed to be of the last class
    expected = (data.y.mean(axis=0) + np.array([0.0, 0.0, 1.0])) / 2
    assert np.abs(posterior.mean()["mean"] - expected).max() < 0.02


def test_hard_beliefs_are_the_most_probable_and_drawn_ones_have_the_probabilities():
    data, base = problem()
    hard = nptl.NPTL(particles=2, rho=1e7, pseudo="hard").sample(Mean(), base, data, seed=0)
    assert np.abs(hard[0]["mean"] - np.eye(CLASSES)[base.labels.argmax(axis=1)].mean(axis=0)).max() < 1e-2
    drawn = [atoms_of(base, "sample", "categorical", seed).labels for seed in range(2000)]
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert np.allclose(np.sum(drawn, axis=2), 1)
    spread = np.sqrt(base.labels * (1 - base.labels) / len(drawn))
    assert (np.abs(np.mean(drawn, axis=0) - base.labels) < 5 * spread + 1e-3).all()
    several = BaseMeasure({}, base.labels[:, :2])
    assert np.array_equal(atoms_of(several, "hard", "bernoulli", 0).labels, several.labels > 0.5)
    yes = np.mean([atoms_of(several, "sample", "bernoulli", seed).labels for seed in range(2000)], axis=0)
    assert np.abs(yes - several.labels).max() < 5 * np.sqrt(0.25 / 2000)


def test_drawn_beliefs_widen_the_posterior_and_are_the_same_in_any_order():
    """Var = E Var(θ | q) + Var E(θ | q): drawing q_i adds Σ ((α/n)/(α + n))² q(1 - q), and the first part grows."""
    data, base = problem()
    soft, drawn = (
        nptl.NPTL(particles=800, rho=10.0, pseudo=pseudo).sample(Mean(), base, data, seed=1).stacked()["mean"]
        for pseudo in ("soft", "sample")
    )
    alpha = 10.0 * N
    q, y, real, pseudo = base.labels, data.y, 1 / (alpha + N), alpha / N / (alpha + N)
    mean = real * y.sum(axis=0) + pseudo * q.sum(axis=0)
    second = real * (y**2).sum(axis=0) + pseudo * q.sum(axis=0)  # E of a drawn label's square is its probability
    between = (pseudo**2 * q * (1 - q)).sum(axis=0)
    within = (second - mean**2 - between) / (alpha + N + 1)
    assert np.abs(drawn.std(axis=0) / np.sqrt(within + between) - 1).max() < 0.1
    assert (drawn.std(axis=0) > 1.5 * soft.std(axis=0)).all()
    again = nptl.NPTL(particles=3, rho=10.0, pseudo="sample").sample(Mean(), base, data, seed=1)
    assert np.array_equal(again[2]["mean"], drawn[2])


def test_a_regressions_beliefs_are_soft():
    data, base = problem()

    class Gaussian(Mean):
        likelihood = "gaussian"

    with pytest.raises(ConfigError, match="pseudo: 'hard' is for probabilities"):
        nptl.NPTL(particles=1, pseudo="hard").sample(Gaussian(), base, data, seed=0)
