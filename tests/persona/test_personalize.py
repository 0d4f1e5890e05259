from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from bayes_persona import loop
from bayes_persona.diffusion.adapter import Batch, Subject, denoising_loss
from bayes_persona.diffusion.adapters.textual_inversion import EMBEDDING, TextualInversion
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.errors import ConfigError, DataError, MismatchError
from bayes_persona.persona.base_measure import Shown, believed, generated
from bayes_persona.persona.bootstrap import Config, Rows
from bayes_persona.persona.posterior import personalize
from bayes_persona.persona.soup import soup
from bayes_persona.posterior import Posterior
from tests.diffusion.tiny import tiny

ADAPTER = TextualInversion(Subject("robot"))
QUICK = Config(particles=3, steps=3, rows=2, pseudo=2, rate=0.01)


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(scope="module")
def photos():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    return Shown(pixels, ("{subject}", "a robot looking happy", "{subject} at night", "{subject} in the city"))


def test_a_member_is_the_same_alone_and_among_others(pipe, photos):
    together = personalize(pipe, ADAPTER, photos, QUICK, seed=5)
    alone = personalize(pipe, ADAPTER, photos, Config(**{**vars(QUICK), "particles": 1}), seed=5)
    assert np.allclose(together[0][EMBEDDING], alone[0][EMBEDDING], atol=1e-5)
    assert not np.allclose(together[0][EMBEDDING], together[1][EMBEDDING], atol=1e-3)


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(pipe, photos, tmp_path, monkeypatch):
    straight = personalize(pipe, ADAPTER, photos, QUICK, seed=5)
    call, limit = TextualInversion.loss, iter(range(2))

    def dies(self, *args):
        next(limit)  # StopIteration at the third step, as if the machine had stopped
        return call(self, *args)

    monkeypatch.setattr(loop, "run", partial(loop.run, checkpoint_every=1))
    with monkeypatch.context() as patch:
        patch.setattr(TextualInversion, "loss", dies)
        with pytest.raises(StopIteration):
            personalize(pipe, ADAPTER, photos, QUICK, seed=5, folder=tmp_path)
    resumed = personalize(pipe, ADAPTER, photos, QUICK, seed=5, folder=tmp_path)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == QUICK.steps
    for a, b in zip(straight, resumed, strict=True):
        assert np.array_equal(a[EMBEDDING], b[EMBEDDING])


def test_a_folder_refuses_other_photos(pipe, photos, tmp_path):
    config = Config(particles=1, steps=1, rows=1, pseudo=1)
    personalize(pipe, ADAPTER, photos, config, folder=tmp_path)
    with pytest.raises(MismatchError, match="photos"):
        personalize(pipe, ADAPTER, photos._replace(pixels=255 - photos.pixels), config, folder=tmp_path)


def test_the_base_model_is_left_as_it_was(pipe, photos):
    before = {name: value.clone() for name, value in pipe.text_encoder.state_dict().items()}
    personalize(pipe, ADAPTER, photos, QUICK)
    assert all(torch.equal(value, before[name]) for name, value in pipe.text_encoder.state_dict().items())
    assert len(pipe.tokenizer) == pipe.text_encoder.config.vocab_size


def test_even_weights_without_a_prior_are_plain_fine_tuning(pipe, photos):
    rows = Rows(pipe, ADAPTER, photos, Config(alpha=0.0, weights="even", particles=2, rows=4), seed=0)
    assert len(rows.latents) == 4
    assert (rows(0).weight == 1).all()


def test_without_a_prior_the_weights_are_the_bayesian_bootstrap(pipe, photos):
    rows = Rows(pipe, ADAPTER, photos, Config(alpha=0.0, particles=500, rows=1), seed=0)
    assert np.allclose(rows.weights.sum(axis=1), 1)
    assert np.allclose(rows.weights.mean(axis=0), 1 / 4, atol=0.03)
    # of Dirichlet(1, 1, 1, 1), each has variance (1/4)(3/4)/5
    assert np.allclose(rows.weights.var(axis=0), 3 / 80, rtol=0.25)


def test_even_weights_with_a_prior_worth_all_photos_are_dreambooths_preservation(pipe, photos):
    config = Config(alpha=4.0, weights="even", prior="superclass", pseudo=6, particles=1, rows=4)
    rows = Rows(pipe, ADAPTER, photos, config, seed=0)
    assert np.isclose(rows.weights[0, :4].sum(), 0.5)
    assert np.isclose(rows.weights[0, 4:].sum(), 0.5)
    new = len(pipe.tokenizer)
    assert (rows.tokens[:4] >= new).any(dim=1).all()
    assert not (rows.tokens[4:] >= new).any()


@pytest.mark.parametrize("alpha", [0.5, 4.0])
def test_the_priors_share_is_what_alpha_says(pipe, photos, alpha):
    rows = Rows(pipe, ADAPTER, photos, Config(alpha=alpha, pseudo=3, particles=800, rows=1), seed=0)
    share = alpha / (alpha + 4)
    assert np.isclose(rows.weights[:, 4:].sum(axis=1).mean(), share, atol=0.03)
    # of Beta(alpha, n)
    assert np.isclose(rows.weights[:, 4:].sum(axis=1).var(), share * (1 - share) / (alpha + 5), rtol=0.2)


def test_picked_rows_are_weighted_without_bias(pipe, photos):
    rows = Rows(pipe, ADAPTER, photos, Config(alpha=2.0, pseudo=3, particles=5, rows=1), seed=0)
    weight = rows.weights / rows.chance
    assert np.allclose((rows.chance * weight).sum(axis=1), 1)


def test_what_a_member_sees_depends_on_the_step_and_its_number_alone(pipe, photos):
    few = Rows(pipe, ADAPTER, photos, QUICK, seed=1)
    many = Rows(pipe, ADAPTER, photos, Config(**{**vars(QUICK), "particles": 4}), seed=1)
    many(0)
    one, other = few(7), many(7)
    for name in ("latents", "noise", "time", "tokens", "weight"):
        assert torch.equal(getattr(one, name), getattr(other, name)[:6]), name


def test_made_up_pictures_do_not_depend_on_how_many_there_are(pipe):
    few = generated(pipe, ADAPTER.subject, ["{subject}"], 1, seed=0)
    more = generated(pipe, ADAPTER.subject, ["{subject}"], 2, seed=0)
    assert np.abs(few.pixels[0].astype(int) - more.pixels[0].astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"particles": 0}, "particles"),
        ({"alpha": -1.0}, "alpha"),
        ({"pseudo": 0}, "pseudo"),
        ({"alpha": np.inf}, "alpha"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Config(**change)


def test_photos_without_a_caption_each_are_refused(pipe, photos):
    with pytest.raises(DataError, match="captions"):
        personalize(pipe, ADAPTER, photos._replace(captions=("{subject}",)), QUICK)


def test_a_caption_that_is_too_long_is_named(pipe, photos):
    long = photos._replace(captions=("{subject} " + "happy " * 60, *photos.captions[1:]))
    with pytest.raises(ConfigError, match="tokens"):
        personalize(pipe, ADAPTER, long, QUICK)


def test_a_mask_says_where_the_loss_looks(pipe, photos):
    masks = np.zeros(photos.pixels.shape[:3])
    masks[:, 16:48, 16:48] = 0.25  # only what it is relative to its largest number counts
    batch = Rows(pipe, ADAPTER, photos._replace(masks=masks), QUICK, seed=0)(0)
    real = batch.mask.mean(dim=(1, 2)) < 1
    assert set(batch.mask[real].unique().tolist()) == {0.0, 1.0}
    assert (batch.mask[~real] == 1).all()
    params = {EMBEDDING: torch.as_tensor(ADAPTER.init(pipe, 3, seed=0)[EMBEDDING])}
    with torch.no_grad():
        masked, whole = (ADAPTER.loss(pipe, params, one) for one in (batch, batch._replace(mask=None)))
    assert (masked[real] < whole[real]).all()
    assert torch.equal(masked[~real], whole[~real])


def test_masks_that_cannot_be_are_refused(pipe, photos):
    for masks, message in (
        (np.zeros(photos.pixels.shape[:3]), "nowhere in photo 0"),
        (np.ones((4, 8, 8)), "masks: expected numbers"),
        (-np.ones(photos.pixels.shape[:3]), "masks: expected numbers"),
    ):
        with pytest.raises(DataError, match=message):
            Rows(pipe, ADAPTER, photos._replace(masks=masks), QUICK, seed=0)


def test_min_snr_weights_what_is_easy_less(pipe, photos):
    signal = pipe.scheduler.alphas_cumprod.double().numpy()
    batch = Rows(pipe, ADAPTER, photos, replace(QUICK, snr=5.0, weights="even"), seed=0)(0)
    snr = (signal / (1 - signal))[batch.time.numpy()]
    np.testing.assert_allclose(batch.weight, np.minimum(snr, 5) / (snr + 1), rtol=1e-5)
    with pytest.raises(ConfigError, match="snr"):
        Config(snr=0.0)


def test_the_prior_is_made_once_and_kept(pipe, photos, tmp_path, monkeypatch):
    first = generated(pipe, ADAPTER.subject, photos.captions, 2, seed=0, folder=tmp_path)
    monkeypatch.setattr("bayes_persona.diffusion.generate.sample", None)
    again = generated(pipe, ADAPTER.subject, photos.captions, 2, seed=0, folder=tmp_path)
    assert np.array_equal(again.pixels, first.pixels)
    assert again.captions == first.captions
    with pytest.raises(MismatchError, match="another model, other prompts or another seed"):
        generated(pipe, ADAPTER.subject, photos.captions, 2, seed=1, folder=tmp_path)


def test_what_the_base_model_believes_is_the_same_noised_latents_and_its_own_prediction(pipe, photos):
    rows = Rows(pipe, ADAPTER, photos, replace(QUICK, base_measure="distilled", prior="superclass"), seed=0)
    plain = Rows(pipe, ADAPTER, photos, replace(QUICK, alpha=0.0), seed=0)
    latents, time, words = plain.latents[:3], torch.tensor([10, 400, 900]), rows.anyone[:3]
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    picture, scatter = believed(pipe, latents, noise, time, words)
    noisy = pipe.scheduler.add_noise(latents, noise, time)
    assert torch.allclose(pipe.scheduler.add_noise(picture, scatter, time), noisy, atol=1e-4)
    batch = Batch(picture, scatter, time, words, torch.zeros(3, dtype=torch.long), torch.ones(3))
    with torch.no_grad():
        assert denoising_loss(pipe, batch).max() < 1e-8


def test_distilling_asks_nothing_of_the_base_model_and_needs_no_pictures(pipe, photos, monkeypatch):
    monkeypatch.setattr("bayes_persona.diffusion.generate.sample", None)
    low, config = (
        LowRank(Subject("robot"), rank=1),
        replace(QUICK, rows=8, base_measure="distilled", prior="superclass"),
    )
    batch = Rows(pipe, low, photos, config, seed=0)(0)
    start = {name: torch.from_numpy(value) for name, value in low.init(pipe, config.particles, seed=0).items()}
    with torch.no_grad():
        loss = low.loss(pipe, start, batch)
    assert 0 < (loss < 1e-8).sum() < len(loss)  # atoms of the base measure cost nothing yet, photos do
    personalize(pipe, low, photos, config)


def test_a_soup_of_one_person_under_turned_factors_is_that_person():
    rng = np.random.default_rng(0)
    down, up, turns = rng.normal(size=(2, 7)), rng.normal(size=(5, 2)), rng.normal(size=(3, 2, 2))
    same = [
        {"q.down": np.linalg.inv(turn) @ down, "q.up": up @ turn, "b": np.full(2, float(k))}
        for k, turn in enumerate(turns)
    ]
    one = soup(Posterior(tuple(same)))[0]
    assert np.allclose(one["q.up"] @ one["q.down"], up @ down)
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in same[0].items()}
    assert one["b"].tolist() == [1.0, 1.0]


def test_a_soup_is_the_best_of_its_rank():
    rng = np.random.default_rng(1)
    members = [{"q.down": rng.normal(size=(2, 7)), "q.up": rng.normal(size=(5, 2))} for _ in range(4)]
    mean = np.mean([one["q.up"] @ one["q.down"] for one in members], axis=0)
    left, size, right = np.linalg.svd(mean)
    one = soup(Posterior(tuple(members)))[0]
    assert np.allclose(one["q.up"] @ one["q.down"], left[:, :2] * size[:2] @ right[:2])
