"""The methods that NPTL is compared with: swapped by one word, and each with a law that it alone keeps."""

import numpy as np
import pytest
import torch
from torch import nn

from bayes_persona import ConfigError, DataError, MismatchError, nptl
from bayes_persona.bma import average, predictions
from bayes_persona.files import load_arrays
from bayes_persona.metrics import accuracy
from bayes_persona.nptl.base_measure import random_head
from bayes_persona.nptl.learner_torch import Config, TorchLearner
from bayes_persona.nptl.references.dropout import MCDropout
from bayes_persona.nptl.references.laplace import LastLayerLaplace
from bayes_persona.nptl.references.sghmc import SGHMC
from bayes_persona.nptl.references.swag import SWAG

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)
DATA = nptl.classification(X, Y, classes=2)
METHODS = (
    nptl.NPTL(particles=3),
    nptl.DeepEnsemble(particles=3),
    nptl.DistillationEnsemble(particles=3),
    nptl.MultiStart(particles=3),
    nptl.MAP(weight_decay=1e-3, anchor=1e-3, particles=3),
    MCDropout(particles=3, rate=0.1),
    SWAG(particles=3, snapshots=5, every=3),
    SGHMC(particles=3, burn_in=60, every=3, rate=0.05),
    LastLayerLaplace(particles=3),
)


def learner(**settings):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    return TorchLearner(net, Config(**{"steps": 60, "batch": 20, "lr": 0.1, **settings}))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_every_method_learns_and_depends_on_its_seed_alone(method):
    mine, before = learner(), torch.random.get_rng_state()
    base = nptl.linear_probe(mine, DATA)
    first, again, other = (method.sample(mine, base, DATA, seed=seed) for seed in (0, 0, 1))
    assert len(first) == method.particles == 3
    assert accuracy(average(predictions(mine, first, X)), Y) > 0.85
    for one, two in zip(first, again, strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in one)
    assert any(not np.array_equal(first[0][name], other[0][name]) for name in first[0])
    assert not np.array_equal(first[0]["2.weight"], first[1]["2.weight"])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_every_method_resumes_from_its_folder(method, tmp_path):
    mine = learner(steps=10)
    base = nptl.linear_probe(mine, DATA)
    straight = method.sample(mine, base, DATA, seed=0, folder=tmp_path)
    # what is read again is what was computed
    resumed = method.sample(mine, base, DATA, seed=0, folder=tmp_path)
    for one, two in zip(straight, resumed, strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in one)
    with pytest.raises(MismatchError, match=r"lr was 0.1, is now 0.2"):
        method.sample(mine.with_config(lr=0.2), base, DATA, seed=0, folder=tmp_path)


def test_a_strong_anchor_keeps_the_pretrained_params_and_decay_forgets_them():
    mine = learner(momentum=0.0, steps=200)
    base = nptl.BaseMeasure(mine.params, DATA.y)
    anchored = nptl.MAP(anchor=9.0).sample(mine, base, DATA, seed=0)[0]
    decayed = nptl.MAP(weight_decay=9.0).sample(mine, base, DATA, seed=0)[0]
    free = nptl.MAP().sample(mine, base, DATA, seed=0)[0]
    off = {
        name: np.abs(found["0.weight"] - mine.params["0.weight"]).max()
        for name, found in (("anchored", anchored), ("free", free))
    }
    assert off["anchored"] < 0.2 * off["free"]
    assert np.abs(decayed["0.weight"]).max() < 0.05


def test_masks_of_dropout_drop_columns_of_the_head_and_keep_the_mean():
    mine = learner()
    posterior = MCDropout(particles=400, rate=0.25).sample(mine, nptl.linear_probe(mine, DATA), DATA, seed=0)
    weights = posterior.stacked()["2.weight"]
    dropped = (weights == 0).all(axis=1)
    assert abs(dropped.mean() - 0.25) < 0.03
    assert (dropped | (weights != 0).all(axis=1)).all()  # a whole column or nothing
    fitted = weights[~dropped.any(axis=1)][0] * 0.75
    assert np.abs(weights.mean(axis=0) - fitted).max() < 0.15 * np.abs(fitted).max()


def test_swags_draws_have_the_walks_mean_and_spread(tmp_path):
    mine = learner(lr=0.3)
    base = nptl.linear_probe(mine, DATA)
    method = SWAG(particles=800, snapshots=12, every=2, rate=1.0)
    draws = method.sample(mine, base, DATA, seed=0, folder=tmp_path).stacked()["2.weight"]
    walked = load_arrays(tmp_path / "posterior" / "00000.safetensors")[0]["2.weight"]
    sd = walked.std(axis=0)
    assert np.abs(draws.mean(axis=0) - walked.mean(axis=0)).max() < 0.2 * sd.max()
    assert np.abs(draws.std(axis=0) / sd - 1).max() < 0.15  # half from the diagonal, half from the deviations


def test_sghmc_samples_a_gaussian_it_is_given():
    """With labels of weight nothing, what is left of the density is the prior: a Gaussian of known spread."""
    torch.manual_seed(0)
    mine = TorchLearner(nn.Linear(500, 2), Config(batch=4))
    data = nptl.classification(np.zeros((4, 500), np.float32), np.array([0, 1, 0, 1]), 2)
    data = data._replace(weights=np.zeros(4))
    # small steps, strong friction: posteriors' explicit step inflates the variance by about rate / friction
    method = SGHMC(particles=20, burn_in=300, every=60, rate=0.05, friction=2.0, prior_sd=0.5)
    draws = method.sample(mine, nptl.BaseMeasure(mine.params, data.y), data, seed=0).stacked()["weight"]
    off = draws - mine.params["weight"]
    assert abs(off.mean()) < 0.02
    assert abs(off.std() / 0.5 - 1) < 0.05


def test_laplace_takes_hard_labels_of_even_weight_only():
    mine = learner()
    base = nptl.linear_probe(mine, DATA)
    for data in (DATA._replace(y=np.full((60, 2), 0.5)), DATA._replace(weights=np.r_[3.0, np.ones(59)])):
        with pytest.raises(DataError, match="hard labels of even weight only"):
            LastLayerLaplace().sample(mine, base, data, seed=0)


def test_laplace_moves_nothing_but_the_head_and_is_sure_of_much_data():
    mine = learner()
    spreads, noisy = [], np.where(np.random.default_rng(1).random(60) < 0.25, 1 - Y, Y)
    for copies in (1, 20):
        data = nptl.classification(np.tile(X, (copies, 1)), np.tile(noisy, copies), 2)
        base = nptl.linear_probe(mine, data, penalty=0.01)
        posterior = LastLayerLaplace(particles=200).sample(mine, base, data, seed=0)
        stacked = posterior.stacked()
        assert np.ptp(stacked["0.weight"], axis=0).max() == 0
        spreads.append(stacked["2.weight"].std(axis=0).mean())
    assert 0 < spreads[1] < 0.85 * spreads[0]


def test_a_strong_prior_of_laplace_gives_the_mode():
    mine = learner()
    base = nptl.linear_probe(mine, DATA)
    strong = LastLayerLaplace(particles=5, prior_precision=1e10).sample(mine, base, DATA, seed=0)
    assert strong.stacked()["2.weight"].std(axis=0).max() < 1e-4


def test_random_heads_are_the_same_for_the_same_seed_and_fit_the_features():
    mine = learner()
    one, two, other = (random_head(mine, mine.params, DATA, seed) for seed in (0, 0, 1))
    assert np.array_equal(one["2.weight"], two["2.weight"])
    assert not np.array_equal(one["2.weight"], other["2.weight"])
    assert np.array_equal(one["0.weight"], mine.params["0.weight"])


def test_from_random_heads_the_ablation_with_no_prior_is_multi_start():
    mine = learner(steps=10)
    base = nptl.linear_probe(mine, DATA)
    ablation = nptl.DistillationEnsemble(2, rho=0.0, heads="random").sample(mine, base, DATA, seed=0)
    starts = nptl.MultiStart(2).sample(mine, base, DATA, seed=0)
    for one, two in zip(ablation, starts, strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in one)


def test_particles_of_nptl_may_start_from_random_heads():
    still = learner(steps=1, lr=1e-12)
    base = nptl.linear_probe(still, DATA)
    posterior = nptl.NPTL(3, heads="random").sample(still, base, DATA, seed=0)
    heads = posterior.stacked()["2.weight"]
    assert np.abs(heads).max() <= 8**-0.5 + 1e-6
    assert np.abs(heads[0] - heads[1]).max() > 0.01
    np.testing.assert_allclose(posterior.stacked()["0.weight"], np.stack([base.params["0.weight"]] * 3), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nptl.DeepEnsemble(0), "particles"),
        (lambda: nptl.MultiStart(0), "particles"),
        (lambda: nptl.DistillationEnsemble(rho=-1.0), "rho"),
        (lambda: nptl.MAP(particles=0), "particles"),
        (lambda: MCDropout(rate=1.0), "rate"),
        (lambda: SWAG(snapshots=1), "snapshots"),
        (lambda: SGHMC(rate=0.0), "rate"),
        (lambda: LastLayerLaplace(particles=0), "particles"),
        (lambda: LastLayerLaplace(prior_precision=0.0), "prior_precision"),
    ],
)
def test_settings_that_mean_nothing_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
