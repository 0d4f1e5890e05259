"""Training the mixture of attention: pictures of introduced people, and steps that depend on their number alone."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from bayes_persona import ConfigError
from bayes_persona.diffusion import pipelines
from bayes_persona.diffusion.adapters.moa import mixture
from bayes_persona.world import face, oracles, splits, train_moa
from bayes_persona.world.introduced import Introduced, places

TWO = splits.Config(named=0.0, pairs=1.0, drop=0.3)


@pytest.fixture(scope="module")
def pipe():
    return pipelines.load()


@pytest.fixture(scope="module")
def drawn():
    examples = [splits.sample(replace(TWO, pairs=0.5), i, seed=0) for i in range(4)]
    return Introduced.of(examples, references=2, seed=0)


def config(folder, **settings):
    return train_moa.Config(folder=folder, pictures=4, words=0, steps=2, settling=1, batch=2, **settings)


def test_nouns_are_those_of_the_subjects_from_left_to_right():
    for i in range(200):
        example = splits.sample(TWO, i, seed=3)
        words, found = example.caption.split(), places(example)
        kinds = [who.identity.superclass for who in example.scene.subjects]
        assert [words[k - 1] for k in found] == kinds
        if "on the right and" in example.caption:
            assert found[0] > found[1]


def test_masks_and_vectors_are_of_whoever_is_there(drawn):
    there = drawn.nouns >= 0
    assert (drawn.masks.any(axis=(2, 3)) == there).all()
    assert (drawn.features.any(axis=(2, 3)) == there).all()
    assert there[:, 0].all()
    assert not there.all()


def test_the_encoder_tells_people_apart():
    me, other = splits.held_out(8, seed=0)[::4]
    mine, theirs = (
        face.encode(np.stack([one.render().pixels for one in splits.photos(who, 3, seed=0)])) for who in (me, other)
    )
    assert np.linalg.norm(mine - mine.mean(axis=0), axis=1).mean() < np.linalg.norm(mine.mean(0) - theirs.mean(0))
    assert oracles.load().read(np.zeros((1, 64, 64, 3), np.uint8)).z.shape[1] + 4 == face.WIDTH


@pytest.mark.parametrize("located", [0.0, 0.01])
def test_gradients_reach_experts_routers_and_words(pipe, drawn, tmp_path, located):
    own = config(tmp_path, located=located)
    shape = mixture.Config(feature=face.WIDTH, hidden=8, frequencies=4)
    params = {name: value.requires_grad_() for name, value in mixture.build(pipe, shape).tensors.items()}
    rows = train_moa.batches(own, pipe, drawn)(0)
    loss = train_moa.loss(own, pipe, shape, params, rows, torch.Generator().manual_seed(0))
    grads = dict(zip(params, torch.autograd.grad(loss, list(params.values()), allow_unused=True), strict=True))
    waiting = [name for name, grad in grads.items() if grad is None or not grad.any()]
    # what comes before a layer that is still zero waits for it
    assert all(name.startswith("token.") and "last" not in name for name in waiting)


def test_rows_without_text_have_no_subject(pipe, drawn, tmp_path):
    rows = train_moa.batches(config(tmp_path, drop=1.0), pipe, drawn)(0)
    assert not rows.marks.any()
    assert not rows.masks.any()
    empty = pipe.text_encoder(torch.tensor([pipe.tokenizer("", padding="max_length").input_ids]))[0]
    torch.testing.assert_close(rows.states, empty.expand_as(rows.states))


def test_a_finished_training_is_taken_up_as_it_is(pipe, drawn, tmp_path):
    fit = partial(train_moa.fit, pipe=pipe, drawn=drawn)
    first = fit(config(tmp_path / "a"))
    assert fit(config(tmp_path / "a")).fingerprint == first.fingerprint
    assert fit(config(tmp_path / "b")).fingerprint == first.fingerprint
    assert fit(config(tmp_path / "c", seed=1)).fingerprint != first.fingerprint


def test_numbers_out_of_range_are_refused():
    for wrong in ({"batch": 0}, {"router": -1.0}, {"drop": 1.5}, {"rate": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            train_moa.Config(**wrong)
