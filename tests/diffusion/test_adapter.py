"""What all methods share: how a prompt names the subject, whose row a row is, what is learned from, and the file."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from bayes_persona import ConfigError, DataError, MismatchError, Posterior, RunError
from bayes_persona.diffusion.adapter import (
    Batch,
    Subject,
    denoising_loss,
    load,
    members_of,
    require_gates,
    save,
    target,
)
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.files import load_arrays, save_arrays
from tests.diffusion.tiny import LATENT, noise, tiny

ROBOT = Subject("robot")


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("{subject}", "<me> the robot"),
        ("{subject} beside {subject}", "<me> the robot beside <me> the robot"),
        ("a robot on a hill", "<me> the robot on a hill"),
        ("a picture of the robot", "a picture of <me> the robot"),
        ("a robot and a robot", "<me> the robot and a robot"),
        ("<me> alone", "<me> alone"),
        ("a happy robot, at night", "happy <me> the robot, at night"),
    ],
)
def test_a_prompt_names_the_subject(text, prompt):
    assert ROBOT.prompt(text) == prompt


@pytest.mark.parametrize("text", ["a cat", "robotics", "a robots", "", "robot"])
def test_a_prompt_without_a_place_for_the_subject_is_refused(text):
    with pytest.raises(ConfigError, match="does not name the subject"):
        ROBOT.prompt(text)


def test_a_template_says_how_token_and_superclass_are_put_together():
    assert Subject("dog", "sks", "{token} {superclass}").prompt("a dog in the snow") == "sks dog in the snow"


@pytest.mark.parametrize("settings", [{"token": ""}, {"token": "a b"}, {"superclass": " "}, {"template": "me"}])
def test_a_subject_that_no_prompt_could_name_is_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Subject(**{"superclass": "robot", **settings})


def test_rows_repeat_in_whole_blocks():
    rows = torch.tensor([2, 0, 1])
    assert members_of(rows, 3).tolist() == [2, 0, 1]
    assert members_of(rows, 6).tolist() == [2, 0, 1, 2, 0, 1]
    for batch in (0, 1, 2, 4):
        with pytest.raises(MismatchError, match=f"3 rows are attached, which does not divide a batch of {batch}"):
            members_of(rows, batch)


def batch_of(pipe, n, time):
    tokens = torch.tensor(pipe.tokenizer(["a red robot"] * n, padding="max_length").input_ids)
    member = torch.zeros(n, dtype=torch.long)
    return Batch(noise(n, *LATENT), noise(n, *LATENT, seed=1), torch.tensor(time), tokens, member, torch.ones(n))


def test_the_target_is_noise_or_v():
    pipe = tiny()
    batch = batch_of(pipe, 3, [0, 500, 999])
    keep = pipe.scheduler.alphas_cumprod[batch.time].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(target(pipe, batch), keep.sqrt() * batch.noise - (1 - keep).sqrt() * batch.latents)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="epsilon")
    assert target(pipe, batch) is batch.noise
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="sample")
    with pytest.raises(ConfigError, match="predicts sample; only epsilon and v_prediction"):
        target(pipe, batch)


@torch.no_grad()
def test_the_loss_of_a_row_is_its_own_mean_squared_error():
    pipe = tiny()
    batch = batch_of(pipe, 2, [10, 900])
    losses = denoising_loss(pipe, batch)
    for row in range(2):
        keep = pipe.scheduler.alphas_cumprod[batch.time[row]]
        noisy = keep.sqrt() * batch.latents[row] + (1 - keep).sqrt() * batch.noise[row]
        hidden = pipe.text_encoder(batch.tokens[row : row + 1]).last_hidden_state
        guess = pipe.unet(noisy[None], batch.time[row], hidden).sample[0]
        want = (guess - (keep.sqrt() * batch.noise[row] - (1 - keep).sqrt() * batch.latents[row])).square().mean()
        torch.testing.assert_close(losses[row], want)


def test_gates_that_nobody_mentions_are_open():
    gates = require_gates(LowRank(ROBOT, targets=("attn2.to_v",)), {"mid.cross.value": 0.25})
    assert gates == {"down.cross.value": 1, "mid.cross.value": 0.25, "up.cross.value": 1}
    assert require_gates(TextualInversion(ROBOT), None) == {"embedding": 1}


@pytest.mark.parametrize("gates", [{"mid": 1.0}, *({"mid.self.key": value} for value in (-0.1, 1.1, float("nan")))])
def test_a_gate_that_is_not_there_or_out_of_range_is_refused(gates):
    with pytest.raises(ConfigError, match=r"gates: .*mid"):
        require_gates(LowRank(ROBOT), gates)


def posterior(members=3):
    draw = np.random.default_rng(0)
    return Posterior(tuple({"embedding": draw.normal(size=(2, 16)).astype(np.float32)} for _ in range(members)))


def test_a_file_gives_back_every_bit_and_says_what_it_is(tmp_path):
    save(tmp_path / "me.safetensors", TextualInversion(ROBOT), posterior(), base="abc", alpha=4.0, photos=["1.png"])
    back, about = load(tmp_path / "me.safetensors", base="abc")
    assert len(back) == 3
    for have, want in zip(back, posterior(), strict=True):
        assert have["embedding"].dtype == want["embedding"].dtype
        assert np.array_equal(have["embedding"], want["embedding"])
    assert about == {
        "method": "textual_inversion",
        "subject": {"superclass": "robot", "token": "<me>", "template": "{token} the {superclass}"},
        "settings": {"vectors": 2, "spread": 0.0},
        "base": "abc",
        "members": 3,
        "alpha": 4.0,
        "photos": ["1.png"],
    }
    assert Subject(**about["subject"]) == ROBOT


def test_a_file_for_another_base_is_refused_unless_nobody_asks(tmp_path):
    save(tmp_path / "me.safetensors", TextualInversion(ROBOT), posterior(), base="abc")
    with pytest.raises(MismatchError, match="trained on base model abc, this is def"):
        load(tmp_path / "me.safetensors", base="def")
    assert len(load(tmp_path / "me.safetensors")[0]) == 3


@pytest.mark.parametrize(
    ("arrays", "about"),
    [
        ({"w": np.zeros(3)}, {}),
        ({"w": np.zeros(3)}, {"method": "x"}),
        ({"w": np.zeros(3)}, {"method": "x", "members": 2}),
        ({"w": np.zeros(())}, {"method": "x", "members": 1}),
        ({"w": np.zeros((0, 3))}, {"method": "x", "members": 0}),
        ({}, {"method": "x", "members": 1}),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, arrays, about):
    save_arrays(tmp_path / "other.safetensors", arrays, about)
    with pytest.raises(DataError, match="holds no personalization"):
        load(tmp_path / "other.safetensors")


def test_a_damaged_file_is_refused(tmp_path):
    save(tmp_path / "me.safetensors", TextualInversion(ROBOT), posterior(), base="abc")
    content = (tmp_path / "me.safetensors").read_bytes()
    (tmp_path / "me.safetensors").write_bytes(content[:-5])
    with pytest.raises(RunError, match="truncated"):
        load(tmp_path / "me.safetensors")


def test_a_fact_cannot_hide_what_the_file_says_itself(tmp_path):
    with pytest.raises(ConfigError, match="facts: method"):
        save(tmp_path / "me.safetensors", TextualInversion(ROBOT), posterior(), base="abc", method="other")
    assert not (tmp_path / "me.safetensors").exists()


def test_the_file_is_the_same_bytes_every_time(tmp_path):
    for name in ("one", "two"):
        save(tmp_path / name, TextualInversion(ROBOT), posterior(), base="abc", alpha=1)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert set(load_arrays(tmp_path / "one")[0]) == {"embedding"}
