"""Celeb Basis: a person is a point on a sphere of names, learned directly or through a face."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_persona import ConfigError, DataError, MismatchError
from bayes_persona.diffusion import generate
from bayes_persona.diffusion.adapter import Batch, Subject, load, save
from bayes_persona.diffusion.adapters.celeb_basis import faces as seen
from bayes_persona.diffusion.adapters.celeb_basis.basis import build
from bayes_persona.diffusion.adapters.celeb_basis.method import CelebBasis, People
from bayes_persona.diffusion.contract import check
from bayes_persona.diffusion.pipelines import fingerprint
from bayes_persona.diffusion.pipelines import load as load_base
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import generator
from bayes_persona.world import splits
from tests.diffusion.tiny import LATENT, noise, snapshot, tiny, untouched

NAMES = tuple(splits.named())
US = People("robot", others=("<you>",))
FACES = ((1.0, 0.0, 0.0, 0.0), (0.0, 0.6, 0.8, 0.0))
BLACK = Shown(np.zeros((2, 64, 64, 3), np.uint8), ("a robot at night", "a robot at the beach"))


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(scope="module")
def basis(pipe):
    return build(pipe.text_encoder, pipe.tokenizer, NAMES, components=8)


@pytest.fixture(scope="module")
def direct(basis):
    return CelebBasis(Subject("robot"), basis)


@pytest.fixture(scope="module")
def through_faces(basis):
    return CelebBasis(Subject("robot"), basis, faces=FACES[:1])


@pytest.fixture(autouse=True)
def _left_as_it_was(pipe):
    before, words = snapshot(pipe.text_encoder), pipe.tokenizer
    yield
    assert untouched(pipe.text_encoder, before)
    assert pipe.tokenizer is words


def learned(members=3, people=1):
    return {"coefficients": generator(0, "learned").normal(size=(members, people, 16)).astype(np.float32)}


@torch.no_grad()
def encode(pipe, prompts):
    return pipe.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)[0]


def encoded(pipe, method, params, prompt, gates=None):
    with method.attached(pipe, params, torch.tensor([0]), gates):
        return encode(pipe, [prompt])


def tokens(pipe, method, params, prompts):
    with method.attached(pipe, params, torch.tensor([0])):
        spelled = [pipe.maybe_convert_prompt(prompt, pipe.tokenizer) for prompt in prompts]
        return torch.tensor(pipe.tokenizer(spelled, padding="max_length", max_length=40).input_ids)


def batch_of(pipe, method, params, prompts):
    rows = len(prompts)
    fields = noise(rows, *LATENT), noise(rows, *LATENT, seed=1), torch.arange(rows) * 100 + 100
    member = torch.zeros(rows, dtype=torch.long)
    return Batch(*fields, tokens(pipe, method, params, prompts), member, torch.ones(rows))


@pytest.mark.parametrize("faces", [(), FACES[:1]])
def test_it_keeps_the_promises_of_an_adapter(pipe, basis, faces):
    assert check(CelebBasis(Subject("robot"), basis, faces=faces, radius=0.7, strength=1.2), pipe) is None


def test_it_keeps_them_with_several_people(pipe, basis):
    assert check(CelebBasis(US, basis, faces=FACES), pipe) is None


@pytest.mark.parametrize("faces", [(), FACES[:1]])
def test_it_keeps_them_on_the_embedded_base(faces):
    base = load_base()
    made = build(base.text_encoder, base.tokenizer, NAMES)
    assert check(CelebBasis(Subject("robot"), made, faces=faces), base) is None


def test_only_the_direction_of_coefficients_counts(pipe, direct):
    long = {"coefficients": 7 * learned()["coefficients"]}
    torch.testing.assert_close(
        encoded(pipe, direct, long, "<me> the robot"), encoded(pipe, direct, learned(), "<me> the robot")
    )


def test_training_starts_at_the_superclass_or_at_someone_known(pipe, basis, direct):
    table = pipe.text_encoder.get_input_embeddings().weight.detach()
    for method, text in ((direct, "robot robot"), (replace(direct, like="ada finch"), "ada finch")):
        start = torch.as_tensor(method.init(pipe, 2, seed=0)["coefficients"])
        want = basis.unit(basis.coefficients(table[pipe.tokenizer(text, add_special_tokens=False).input_ids]))
        torch.testing.assert_close(start, want.expand(2, 1, 16))


def test_someone_known_is_read_as_by_name_where_the_basis_holds_all_of_it(pipe):
    whole = build(pipe.text_encoder, pipe.tokenizer, NAMES)
    table = pipe.text_encoder.get_input_embeddings().weight.detach()
    ids = pipe.tokenizer("ada finch", add_special_tokens=False).input_ids
    means = torch.tensor(np.stack([position.mean for position in whole.positions]))
    distances = (table[ids] - means).norm(dim=-1)
    scaled = tuple(position._replace(distance=float(d)) for position, d in zip(whole.positions, distances, strict=True))
    method = CelebBasis(Subject("woman", template="{token}"), replace(whole, positions=scaled), like="ada finch")
    have = encoded(pipe, method, method.init(pipe, 1, seed=0), "<me> the woman")
    torch.testing.assert_close(have, encode(pipe, ["ada finch the woman"]), rtol=1e-3, atol=1e-4)


def test_gate_zero_is_the_superclass_and_half_lies_between(pipe, direct):
    ids = pipe.tokenizer("robot", add_special_tokens=False).input_ids
    plain = pipe.text_encoder.get_input_embeddings().weight[ids].mean(dim=0).detach()
    vectors = direct.basis.vectors(torch.as_tensor(learned(1)["coefficients"]))[0, 0]
    for gate, want in ((0.0, plain.expand(2, -1)), (0.5, (plain + vectors) / 2), (1.0, vectors)):
        with direct.attached(pipe, learned(1), torch.tensor([0]), {"embedding": gate}):
            have = pipe.text_encoder.get_input_embeddings().vectors[0]
        torch.testing.assert_close(have, want)


def test_strength_moves_a_person_away_from_the_mean(pipe, direct):
    means = torch.tensor(np.stack([position.mean for position in direct.basis.positions]))
    for strength in (0.0, 0.5, 1.0, 1.5):
        with replace(direct, strength=strength).attached(pipe, learned(1), torch.tensor([0])):
            have = (pipe.text_encoder.get_input_embeddings().vectors[0] - means).norm(dim=-1)
        want = torch.tensor([strength * position.distance for position in direct.basis.positions])
        torch.testing.assert_close(have, want, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("faces", [(), FACES[:1]])
def test_what_is_exported_is_plain_textual_inversion_and_draws_the_same(pipe, basis, faces, tmp_path):
    method, params = CelebBasis(Subject("robot"), basis, faces=faces), learned(1)
    prompts, start = ["<me> the robot at night"], generate.noise(pipe, 1, seed=0)
    with method.attached(pipe, params, torch.tensor([0])):
        text, pixels = encode(pipe, prompts), generate.sample(pipe, prompts, start, generate.Config(steps=2))
    method.export(tmp_path / "me.safetensors", {"coefficients": params["coefficients"][0]})
    other = tiny()
    other.load_textual_inversion(str(tmp_path / "me.safetensors"))
    torch.testing.assert_close(encode(other, prompts), text)
    assert np.abs(generate.sample(other, prompts, start, generate.Config(steps=2)) / 255 - pixels / 255).max() < 0.01


def test_a_person_is_their_coefficients_and_takes_no_more_than_four_kilobytes(pipe, basis, through_faces, tmp_path):
    params = through_faces.init(pipe, 1, seed=0)
    person = through_faces.person({name: value[0] for name, value in params.items()})
    assert person.keys() == {"coefficients"}
    np.testing.assert_allclose(np.linalg.norm(person["coefficients"].reshape(2, 8), axis=1), 1, rtol=1e-5)
    path = tmp_path / "me.safetensors"
    save(path, through_faces, Posterior((person,)), base=fingerprint(pipe), basis=basis.fingerprint)
    posterior, about = load(path)
    assert about["basis"] == basis.fingerprint
    torch.testing.assert_close(
        encoded(pipe, through_faces, posterior.stacked(), "<me>"), encoded(pipe, through_faces, params, "<me>")
    )
    assert 2 * 512 * 4 <= 4096  # the paper's: two places of 512 directions


def test_the_moving_average_starts_at_the_first_prediction_and_remembers(pipe, through_faces):
    params = {name: torch.as_tensor(value) for name, value in through_faces.init(pipe, 2, seed=0).items()}
    face = torch.tensor(FACES[:1])

    def made(params):
        return through_faces.basis.unit(seen.coefficients(params["weight"], params["bias"], face))

    torch.testing.assert_close(params["coefficients"], made(params))
    moved = {**params, "weight": params["weight"] + 1}
    batch = batch_of(pipe, through_faces, params, ["<me> the robot"])
    after = through_faces.track(pipe, moved, batch)["coefficients"]
    want = 0.99 * params["coefficients"] + 0.01 * made(moved)
    torch.testing.assert_close(after[0], want[0])
    assert torch.equal(after[1], params["coefficients"][1])  # a member without rows


def test_what_is_used_is_the_average_and_what_is_trained_is_the_layer(pipe, through_faces):
    params = through_faces.init(pipe, 1, seed=0)
    other = {**params, "weight": params["weight"] + 1}
    assert torch.equal(encoded(pipe, through_faces, other, "<me>"), encoded(pipe, through_faces, params, "<me>"))
    posterior = personalize(pipe, through_faces, BLACK, Draw(particles=1, steps=3, rows=2, alpha=0.0))
    assert posterior[0].keys() == {"coefficients", "weight", "bias"}
    assert np.abs(posterior[0]["weight"]).sum() > 0


def test_one_layer_learns_two_people_and_gives_each_their_own(pipe, basis):
    method = CelebBasis(US, basis, faces=FACES, memory=0.0)
    params = {name: torch.tensor(value) for name, value in method.init(pipe, 1, seed=0).items()}
    apart = encode_both(pipe, method, params)
    assert not torch.allclose(apart[0], apart[1], atol=1e-2)
    batch = batch_of(pipe, method, params, ["<me> the robot"])
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    grads = torch.autograd.grad(method.loss(pipe, leaves, batch).sum(), [leaves["weight"], leaves["bias"]])
    # the first face is the first axis alone: a row that names the first person teaches nothing about the other's
    assert grads[0][0, :, 0].abs().sum() > 0
    assert not grads[0][0, :, 1:].any()
    posterior = personalize(
        pipe, method, BLACK._replace(captions=("a robot at night", "<you> the robot")), Draw(1, 0.0, steps=3, rows=4)
    )
    assert posterior[0]["coefficients"].shape == (2, 16)
    assert not np.allclose(posterior[0]["coefficients"][0], posterior[0]["coefficients"][1], atol=1e-2)


def encode_both(pipe, method, params):
    return [encoded(pipe, method, params, f"{token} the robot") for token in ("<me>", "<you>")]


def test_each_of_two_people_is_exported_by_a_word_of_their_own(pipe, basis, tmp_path):
    method, params = CelebBasis(US, basis, faces=FACES), learned(1, 2)
    want = encode_both(pipe, method, params)
    other = tiny()
    for who in (0, 1):
        method.export(tmp_path / f"{who}.safetensors", {"coefficients": params["coefficients"][0]}, who)
        other.load_textual_inversion(str(tmp_path / f"{who}.safetensors"))
    for token, text in zip(("<me>", "<you>"), want, strict=True):
        torch.testing.assert_close(encode(other, [f"{token} the robot"]), text)


def test_a_layer_fitted_to_known_people_starts_near_those_with_their_faces(pipe, basis):
    rng = generator(0, "faces")
    faces = rng.normal(size=(40, 4))
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    truth = seen.coefficients(torch.tensor(rng.normal(size=(16, 4))), torch.zeros(16), torch.tensor(faces)).numpy()
    made = seen.fitted(faces, truth, ridge=1e-6)
    method = CelebBasis(Subject("robot"), basis, faces=(tuple(faces[3]),), mapper=made)
    start = method.init(pipe, 2, seed=0)["coefficients"]
    np.testing.assert_allclose(start[1, 0], basis.unit(torch.tensor(truth[3])).numpy(), atol=1e-3)


def test_a_face_is_the_mean_of_what_is_seen_whatever_the_length():
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    assert seen.face(pixels, lambda _: np.array([[0.0, 5.0], [0.0, 0.1]])) == (0.0, 1.0)
    with pytest.raises(DataError, match="sees nobody"):
        seen.face(pixels, lambda _: np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"one vector for each of 2 photos, got shape \(1, 3\)"):
        seen.face(pixels, lambda _: np.ones((1, 3)))


def test_the_nearest_is_found_among_faces_of_one_net():
    known = {"ada finch": (1.0, 0.0), "clara vale": (0.0, 1.0)}
    assert seen.nearest((0.8, 0.6), known) == "ada finch"
    for others in ({}, {"ada finch": (1.0,)}):
        with pytest.raises(DataError, match="known faces of the same length"):
            seen.nearest((0.8, 0.6), others)


def test_a_run_goes_on_only_with_the_basis_that_it_began_with(pipe, direct, tmp_path):
    few = Draw(particles=1, steps=2, rows=1, alpha=0.0)
    one = personalize(pipe, direct, BLACK, few, folder=tmp_path)
    again = personalize(pipe, direct, BLACK, few, folder=tmp_path)
    np.testing.assert_array_equal(one[0]["coefficients"], again[0]["coefficients"])
    with pytest.raises(MismatchError, match="basis was"):
        personalize(pipe, replace(direct, basis=direct.basis.random(seed=0)), BLACK, few, folder=tmp_path)


def test_what_was_made_for_another_model_is_refused(pipe, direct):
    other = tiny(seed=1)
    with pytest.raises(MismatchError, match="another text encoder's table"):
        direct.init(other, 1, seed=0)
    with pytest.raises(MismatchError, match="another text encoder's table"):
        encoded(other, direct, learned(1), "<me>")
    with pytest.raises(MismatchError, match=r"expected \(1, 16\) a member, got \(1, 9\)"):
        encoded(pipe, direct, {"coefficients": np.ones((1, 1, 9), np.float32)}, "<me>")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": 0.0}, "radius: expected a finite number above 0, got 0"),
        ({"memory": 1.0}, r"memory: expected 0 to 1 \(exclusive\), got 1"),
        ({"strength": 2.0}, "strength: expected 0 to 1.5, got 2"),
        ({"faces": FACES}, "faces: expected one for each of <me>, got 2"),
        ({"subject": US, "faces": ((1.0,), (1.0, 0.0))}, "of several lengths"),
        ({"faces": FACES[:1], "like": "ada finch"}, "either a name or faces"),
        ({"mapper": seen.Mapper(np.ones((16, 4), np.float32), np.ones(16, np.float32))}, "mapper: fitted for"),
    ],
)
def test_settings_that_make_no_sense_are_refused(direct, settings, message):
    with pytest.raises(ConfigError, match=message):
        replace(direct, **settings)


@pytest.mark.parametrize("like", ["ada", "<|endoftext|> moss", ""])
def test_a_name_to_start_at_must_be_known_and_long_enough(pipe, direct, like):
    with pytest.raises(ConfigError, match="should be at least 2 tokens that the tokenizer knows"):
        replace(direct, like=like).init(pipe, 1, seed=0)
