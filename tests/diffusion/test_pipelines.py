"""Pipelines: what loads is whole or refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_persona import ConfigError, DataError, RunError
from bayes_persona.diffusion import pipelines
from bayes_persona.diffusion.pipelines import fingerprint, load
from tests.diffusion.tiny import tiny


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "whole"
    tiny().save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


# ── loading ──


def test_a_saved_model_loads_as_it_was(saved, pipe):
    have = load(saved)
    assert fingerprint(have) == fingerprint(pipe)
    for part in (have.unet, have.vae, have.text_encoder):
        assert not part.training
        assert not any(value.requires_grad for value in part.parameters())
    assert have.scheduler.config.timestep_spacing == "trailing"


def test_half_precision_files_are_used_in_full_precision(tmp_path):
    half = tiny().to(torch.float16)
    half.save_pretrained(tmp_path)
    have = load(tmp_path)
    assert {value.dtype for value in have.unet.parameters()} == {torch.float32}
    assert fingerprint(have) == fingerprint(half)
    assert load(tmp_path, dtype=torch.float16).vae.dtype == torch.float16


def test_nothing_is_shown_while_loading(saved, capfd):
    load(saved)
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"gone: there is no such folder; for a name on the hub"):
        load(tmp_path / "gone")
    monkeypatch.setattr(pipelines, "embedded", lambda: tmp_path / "base")
    with pytest.raises(RunError, match=r"base: there is no such folder; train it with"):
        load()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no model_index\.json in it"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["StableDiffusion3Pipeline", "FluxPipeline", None])
def test_models_of_another_class_are_refused(copied, kind):
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(json.dumps({**index, "_class_name": kind}))
    with pytest.raises(DataError, match=f"holds a {kind}; only models of class StableDiffusionPipeline"):
        load(copied)


def test_networks_of_another_class_are_refused(copied):
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(json.dumps({**index, "unet": ["mine", "Evil"]}))
    with pytest.raises(DataError, match="its unet is a Evil; only UNet2DConditionModel can be used"):
        load(copied)


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
@pytest.mark.parametrize("damage", ["truncated", "a weight less", "a shape changed", "no file"])
def test_damaged_weights_are_refused(copied, file, damage):
    path = copied / f"{file}.safetensors"
    weights = load_file(path)
    first = min(weights)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "no file":
        path.unlink()
    else:
        weights.pop(first)
        changed = {first: torch.zeros(7)} if damage == "a shape changed" else {}
        save_file({**weights, **changed}, path, {"format": "pt"})
    with pytest.raises(RunError, match=r"lacks 1 weights|cannot be loaded"):
        load(copied)


def test_pickled_weights_are_never_read(copied):
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), copied / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(RunError, match="safetensors"):
        load(copied)


def test_a_damaged_index_is_refused(copied):
    (copied / "model_index.json").write_text("{")
    with pytest.raises(RunError, match="not valid JSON"):
        load(copied)


def test_a_device_that_is_not_there_is_named(saved):
    with pytest.raises(ConfigError, match="device: nowhere cannot be used"):
        load(saved, device="nowhere")


# ── fingerprint ──


def test_the_fingerprint_sees_every_network_and_every_seed():
    prints = {fingerprint(tiny(seed)) for seed in (0, 0, 1)}
    assert len(prints) == 2
    pipe = tiny()
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        before, value = fingerprint(pipe), next(iter(part.parameters()))
        value.view(-1)[0] += 1e-6
        assert fingerprint(pipe) != before
