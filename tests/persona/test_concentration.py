"""α is chosen by photos that were left out, on a loss whose answer is known."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from bayes_persona import ConfigError, DataError, Posterior
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.textual_inversion import EMBEDDING, TextualInversion
from bayes_persona.persona.base_measure import Shown
from bayes_persona.persona.bootstrap import Config
from bayes_persona.persona.concentration import choose, loss_of
from tests.diffusion.tiny import tiny

CONFIG = Config(particles=1, steps=10, rows=2, rate=0.15, base_measure="distilled", pseudo=2)


@dataclass(frozen=True)
class Mean(TextualInversion):
    """Textual inversion that learns one number: how bright the latents are."""

    def loss(self, pipe, params, batch):
        bright = batch.latents.mean(dim=(1, 2, 3))
        return (params[EMBEDDING][batch.member].mean(dim=(1, 2)) - bright).square()


@pytest.fixture(scope="module")
def pipe():
    return tiny()


def photos(*brightness):
    pixels = np.stack([np.full((64, 64, 3), value, np.uint8) for value in brightness])
    return Shown(pixels, ("{subject}",) * len(brightness))


def test_the_loss_is_the_methods_own_mean_over_members(pipe):
    shown, adapter = photos(200), Mean(Subject("robot"))
    from bayes_persona.diffusion.latents import encode

    bright = encode(pipe, shown.pixels).mean().item()
    size = adapter.init(pipe, 1, seed=0)[EMBEDDING].shape[1:]
    two = Posterior(tuple({EMBEDDING: np.full(size, bright + off, np.float32)} for off in (0.0, 0.5)))
    assert loss_of(pipe, adapter, two, shown) == pytest.approx((0 + 0.25) / 2, abs=1e-4)


def test_photos_that_agree_are_trusted_more_than_a_prior_that_does_not(pipe):
    adapter = Mean(Subject("robot"))
    found = choose(pipe, adapter, photos(250, 250), (50.0, 0.0), CONFIG, seed=1)
    assert found.losses.shape == (2, 2)
    assert found.alpha == 0.0
    assert found.losses[:, 1].mean() < found.losses[:, 0].mean()


def test_a_choice_that_was_stopped_goes_on(pipe, tmp_path, monkeypatch):
    adapter, shown = Mean(Subject("robot")), photos(10, 250)
    straight = choose(pipe, adapter, shown, (0.0, 1.0), CONFIG, seed=2)
    calls = []
    real = Mean.loss

    def stops(self, *args):
        calls.append(1)
        if len(calls) == 25:
            raise InterruptedError
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Mean, "loss", stops)
        with pytest.raises(InterruptedError):
            choose(pipe, adapter, shown, (0.0, 1.0), CONFIG, seed=2, folder=tmp_path)
    resumed = choose(pipe, adapter, shown, (0.0, 1.0), CONFIG, seed=2, folder=tmp_path)
    assert np.array_equal(resumed.losses, straight.losses)


def test_what_cannot_be_chosen_is_said(pipe):
    with pytest.raises(DataError, match="with one photo none can be left out"):
        choose(pipe, Mean(Subject("robot")), photos(1), config=CONFIG)
    with pytest.raises(ConfigError, match="alphas: expected at least one"):
        choose(pipe, Mean(Subject("robot")), photos(1, 2), (), CONFIG)
    assert torch.is_grad_enabled()
