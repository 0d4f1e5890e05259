"""The metric of captions: what it is the mean of, that it can be inverted, and that it belongs to one text encoder."""

import numpy as np
import pytest
import torch

from bayes_persona import ConfigError, DataError, MismatchError, RunError
from bayes_persona.diffusion import covariance
from bayes_persona.diffusion.covariance import Covariance
from tests.diffusion.tiny import tiny

CAPTIONS = ("a robot", "a happy cat at night", "a woman")


@pytest.fixture(scope="module")
def pipe():
    return tiny()


def test_it_is_the_second_moment_from_the_first_mark_to_the_last(pipe):
    """Padding, which there is most of, does not count."""
    rows = []
    for caption in CAPTIONS:
        ids = pipe.tokenizer(caption).input_ids
        with torch.no_grad():
            rows.append(pipe.text_encoder(torch.tensor([ids]))[0][0].double().numpy())
    rows = np.concatenate(rows)
    found = covariance.estimate(pipe, CAPTIONS)
    assert found.tokens == len(rows)
    np.testing.assert_allclose(found.matrix, rows.T @ rows / len(rows), atol=1e-6)


def test_few_captions_leave_it_singular_and_the_ridge_does_not(pipe):
    found = covariance.estimate(pipe, CAPTIONS[:1])
    assert np.linalg.matrix_rank(found.matrix) < 16
    d = len(found.matrix)
    ridged = found.matrix + covariance.RIDGE * np.trace(found.matrix) / d * np.eye(d)
    np.testing.assert_allclose(found.inverse @ ridged, np.eye(d), atol=1e-7)


def test_nothing_can_be_inverted_that_is_nothing():
    with pytest.raises(DataError, match="singular"):
        _ = Covariance(np.zeros((3, 3)), tokens=1, encoder="a").inverse
    with pytest.raises(DataError, match="symmetric"):
        Covariance(np.array([[1.0, 2.0], [0.0, 1.0]]), tokens=1, encoder="a")
    with pytest.raises(DataError, match="finite"):
        Covariance(np.array([[np.nan]]), tokens=1, encoder="a")


def test_a_file_belongs_to_one_text_encoder(pipe, tmp_path):
    path = tmp_path / "c.safetensors"
    found = covariance.estimate(pipe, CAPTIONS)
    covariance.save(path, found)
    back = covariance.load(path, pipe)
    np.testing.assert_allclose(back.matrix, found.matrix, rtol=1e-6)
    assert (back.tokens, back.encoder) == (found.tokens, covariance.encoder(pipe))
    other = tiny(seed=1)
    with pytest.raises(MismatchError, match="is of text encoder"):
        covariance.of(other, path)
    assert covariance.of(pipe, path) is covariance.of(pipe, path)


def test_what_is_no_covariance_is_refused(pipe, tmp_path):
    with pytest.raises(ConfigError, match="captions: expected some"):
        covariance.estimate(pipe, [])
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(RunError, match="not safetensors"):
        covariance.of(pipe, tmp_path / "pickle.safetensors")


def test_the_shipped_captions_are_enough():
    """20,000 tokens leave an error of some .006 in similarities; no caption is longer than a model reads."""
    captions = covariance.shipped()
    assert len(set(captions)) == len(captions)
    assert sum(len(caption.split()) + 2 for caption in captions) > 20_000
    assert max(len(caption.split()) for caption in captions) < 40


def test_a_file_that_happens_to_lie_about_is_not_taken(pipe, tmp_path, monkeypatch):
    """A pipeline that came from no folder has none to look into."""
    made = tiny(seed=2)
    covariance.save(tmp_path / covariance.NAME, covariance.estimate(tiny(seed=1), CAPTIONS))
    monkeypatch.chdir(tmp_path)
    assert covariance.of(made).encoder == covariance.encoder(made)
