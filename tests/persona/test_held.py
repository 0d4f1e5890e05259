"""How commands hold a base model: as their options say, or as `accelerate launch` says, with the same results."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from bayes_persona import ConfigError
from bayes_persona.cli import main
from bayes_persona.persona import page
from bayes_persona.persona.config import Config
from bayes_persona.persona.held import Held
from bayes_persona.persona.opened import PRECISION, opened


def test_options_of_the_model_are_on_the_commands_own_level(capsys):
    for command in ("personalize", "edit", "restore", "sweep"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = capsys.readouterr().out
        assert [
            name for name in ("device", "dtype", "checkpointing", "offload", "hub") if f"--{name}" not in shown
        ] == []


def test_a_page_says_how_the_model_was_held():
    config = Config(Path("photos"), "robot", held=Held(dtype="bf16", checkpointing=True))
    assert page.command("personalize", config).endswith("--superclass robot --dtype bf16 --checkpointing")
    assert page.numbers(config)["held"]["dtype"] == "bf16"


def test_what_accelerate_says_is_heard(monkeypatch):
    assert opened(None, Held()).unet.dtype == torch.float32
    monkeypatch.setenv(PRECISION, "bf16")
    assert opened(None, Held()).unet.dtype == torch.bfloat16
    assert opened(None, Held(dtype="fp32")).unet.dtype == torch.float32
    monkeypatch.setenv(PRECISION, "fp8")
    with pytest.raises(ConfigError, match="accelerate was told fp8"):
        opened(None, Held())


def test_a_person_is_learned_by_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--num_processes 1 and another --out"):
        opened(None, Held())


def test_a_name_on_the_hub_is_said():
    with pytest.raises(ConfigError, match="hub: say which model"):
        opened(None, Held(hub=True))


def test_accelerate_launch_gives_what_a_plain_run_gives(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photos" / "a.png")
    photos = ["--photos", str(tmp_path / "photos"), "--superclass", "robot", "--particles", "1", "--alpha", "0"]
    quick = ["--steps", "2", "--pictures", "1", "--sampling", "1"]
    main(["personalize", *photos, *quick, "--out", str(tmp_path / "plain")])
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "1",
        "--mixed_precision",
        "no",
    ]
    line = ["-m", "bayes_persona.cli", "personalize", *photos, *quick, "--out", str(tmp_path / "launched")]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # which sums depend on
    done = subprocess.run([*launch, *line], capture_output=True, text=True, env={**os.environ, **threads})
    assert done.returncode == 0, done.stderr
    plain, launched = ((tmp_path / run / "personalization.safetensors").read_bytes() for run in ("plain", "launched"))
    assert plain == launched
