"""The basis: what names span and no more, the same on every machine, and for one text encoder alone."""

import random

import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bayes_persona import ConfigError, DataError, MismatchError
from bayes_persona.diffusion.adapters.celeb_basis.basis import build, interpolate, load, tokens_of, well_known
from bayes_persona.files import save_arrays
from bayes_persona.world import base_model, splits
from tests.diffusion.tiny import SIZES

NAMES = tuple(splits.named())


@pytest.fixture(scope="module")
def words():
    return base_model.tokenizer(SIZES)


def encoder(width=32, kind=CLIPTextModel, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 2}
        return kind(CLIPTextConfig(vocab_size=1300, projection_dim=width, max_position_embeddings=40, **sizes)).eval()


def rows_of(text_encoder, words, k, names=NAMES):
    ids = sorted({name[k] for name in tokens_of(words, names)})
    return text_encoder.get_input_embeddings().weight.detach()[ids]


@pytest.fixture(scope="module")
def text_encoder():
    return encoder(256)


@pytest.fixture(scope="module")
def basis(text_encoder, words):
    return build(text_encoder, words, NAMES)


def test_directions_are_orthonormal_and_as_many_as_different_words_less_one(basis):
    assert basis.sizes == (119, 119)
    for position in basis.positions:
        np.testing.assert_allclose(position.rows @ position.rows.T, np.eye(119), atol=1e-5)


def test_mean_and_directions_give_every_names_words_back(basis, text_encoder, words):
    for k, (mean, rows, distance) in enumerate(basis.positions):
        known = rows_of(text_encoder, words, k).numpy()
        off = known - mean
        np.testing.assert_allclose(mean + off @ rows.T @ rows, known, atol=1e-5)
        assert distance == pytest.approx(np.linalg.norm(off, axis=1).mean(), rel=1e-5)


def test_the_first_direction_is_the_one_that_names_differ_most_in(basis, text_encoder, words):
    known = rows_of(text_encoder, words, 0).double().numpy()
    values, vectors = np.linalg.eigh(np.cov(known.T))
    np.testing.assert_allclose(np.abs(vectors[:, -1] @ basis.positions[0].rows[0]), 1, atol=1e-5)
    spread = (known @ basis.positions[0].rows.T).var(axis=0, ddof=1)
    np.testing.assert_allclose(spread, values[::-1][:119], rtol=1e-3)


def test_the_order_of_names_and_names_said_twice_change_nothing(basis, text_encoder, words):
    shuffled = [*NAMES, *NAMES[:50]]
    random.Random(0).shuffle(shuffled)
    assert build(text_encoder, words, shuffled).fingerprint == basis.fingerprint


def test_the_largest_entry_of_every_direction_is_positive_whatever_the_tables_sign(basis, text_encoder, words):
    mirrored = encoder(256)
    with torch.no_grad():
        mirrored.get_input_embeddings().weight.mul_(-1)
    for one, other in zip(basis.positions, build(mirrored, words, NAMES).positions, strict=True):
        assert (np.take_along_axis(one.rows, np.abs(one.rows).argmax(axis=1)[:, None], axis=1) > 0).all()
        np.testing.assert_allclose(one.rows, other.rows, atol=1e-4)
        np.testing.assert_array_equal(one.mean, -other.mean)


def test_fewer_components_are_the_first_of_them(basis, text_encoder, words):
    few = build(text_encoder, words, NAMES, components=5)
    assert few.sizes == (5, 5)
    np.testing.assert_array_equal(few.positions[1].rows, basis.positions[1].rows[:5])


def test_faithful_takes_directions_that_no_name_spans(text_encoder, words):
    faithful = build(text_encoder, words, NAMES, components=200, mode="faithful")
    assert faithful.sizes == (200, 200)
    for k, (mean, rows, _) in enumerate(faithful.positions):
        np.testing.assert_allclose(rows @ rows.T, np.eye(200), atol=1e-5)
        known = rows_of(text_encoder, words, k).numpy() - mean
        assert np.abs(known @ rows[119:].T).max() < 1e-5 < 1e-2 < np.abs(known @ rows[:119].T).max()


def test_faithful_counts_a_word_as_often_as_names_have_it(text_encoder, words):
    names = ["ada finch", "ada moss", "clara vale"]
    table = text_encoder.get_input_embeddings().weight.detach()
    ada, _, clara = (name[0] for name in tokens_of(words, names))
    clean, faithful = (build(text_encoder, words, names, mode=mode).positions[0] for mode in ("clean", "faithful"))
    np.testing.assert_allclose(clean.mean, (table[ada] + table[clara]) / 2, atol=1e-6)
    np.testing.assert_allclose(faithful.mean, (2 * table[ada] + table[clara]) / 3, atol=1e-6)


def test_no_more_directions_than_the_table_is_wide(words):
    assert build(encoder(32), words, NAMES).sizes == (32, 32)
    assert build(encoder(32), words, NAMES, mode="faithful").sizes == (32, 32)


def test_both_text_encoders_of_sdxl_have_a_basis_each(words):
    small, large = encoder(32), encoder(48, CLIPTextModelWithProjection, seed=1)
    for text_encoder, width in ((small, 32), (large, 48)):
        made = build(text_encoder, words, NAMES, components=16)
        people = made.vectors(torch.ones(3, 32))
        assert people.shape == (3, 2, width)
        made.require(text_encoder.get_input_embeddings().weight)


def test_names_of_one_word_count_at_the_first_place_alone(text_encoder, words):
    names = ["ada finch", "bruno moss", "robot"]
    assert build(text_encoder, words, names).sizes == (2, 1)


def test_people_lie_at_the_radius_from_the_mean(basis):
    drawn = torch.randn(4, 238, generator=torch.Generator().manual_seed(0))
    for radius, want in ((None, [position.distance for position in basis.positions]), (1.0, [1.0, 1.0])):
        people = basis.vectors(drawn, radius)
        means = torch.tensor(np.stack([position.mean for position in basis.positions]))
        torch.testing.assert_close((people - means).norm(dim=-1), torch.tensor(want).expand(4, 2))
    torch.testing.assert_close(basis.unit(basis.coefficients(basis.vectors(drawn))), basis.unit(drawn))


def test_a_random_basis_differs_in_directions_alone(basis):
    other = basis.random(seed=3)
    assert other.sizes == basis.sizes
    assert other.fingerprint == basis.random(seed=3).fingerprint != basis.random(seed=4).fingerprint
    for one, two in zip(basis.positions, other.positions, strict=True):
        np.testing.assert_array_equal(one.mean, two.mean)
        np.testing.assert_allclose(two.rows @ two.rows.T, np.eye(119), atol=1e-5)


def test_a_basis_saved_and_loaded_is_the_same(basis, text_encoder, tmp_path):
    basis.save(tmp_path / "basis.safetensors")
    back = load(tmp_path / "basis.safetensors")
    assert back.fingerprint == basis.fingerprint
    back.require(text_encoder.get_input_embeddings().weight)
    save_arrays(tmp_path / "other.safetensors", {"w": np.zeros(3)})
    with pytest.raises(DataError, match="holds no basis"):
        load(tmp_path / "other.safetensors")


def test_a_basis_of_another_text_encoder_is_refused(basis):
    with pytest.raises(MismatchError, match="made from another text encoder's table"):
        basis.require(encoder(256, seed=1).get_input_embeddings().weight)
    with pytest.raises(MismatchError, match="of width 256, not 32"):
        basis.require(encoder(32).get_input_embeddings().weight)


def test_the_same_text_encoder_in_half_precision_is_not_another_one(basis, text_encoder):
    assert basis.require(text_encoder.get_input_embeddings().weight.half()) is None


def test_interpolation_ends_at_both_people_and_stays_on_the_sphere(basis):
    one, other = torch.randn(2, 238, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(interpolate(basis, one, other, 0.0), basis.unit(one))
    torch.testing.assert_close(interpolate(basis, one, other, 1.0), basis.unit(other))
    middle = interpolate(basis, one, other, 0.5)
    torch.testing.assert_close(basis.unit(middle), middle)
    torch.testing.assert_close(middle, basis.unit(basis.unit(one) + basis.unit(other)))
    torch.testing.assert_close(interpolate(basis, one, one, 0.3), basis.unit(one))


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        ([], {}, "at least two different ones, got 0"),
        (["ada finch", "ada finch"], {}, "at least two different ones, got 1"),
        (["ada finch", "ada moss"], {}, "at place 0 are 1 different ones"),
        (["ada finch", "<|endoftext|>"], {}, "does not know all of '<.endoftext.>'"),
        (["ada finch", ""], {}, "does not know all of ''"),
        (NAMES, {"vectors": 3}, "at place 2 are 0 different ones"),
        (NAMES, {"vectors": 0}, "expected at least 1 of each, got 0 and 512"),
        (NAMES, {"components": 0}, "expected at least 1 of each, got 2 and 0"),
    ],
)
def test_names_that_make_no_basis_are_refused(text_encoder, words, names, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(text_encoder, words, names, **settings)


def test_well_known_names_are_many_different_and_of_two_words():
    names = well_known()
    assert len(names) == len(set(names)) >= 700
    assert all(len(name.split()) >= 2 and name.isascii() and name == " ".join(name.split()) for name in names)
