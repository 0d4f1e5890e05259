"""Subjects on a pipeline through the four verbs and through PEFT: what is loaded, what is refused, what it weighs."""

import pickle

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import set_peft_model_state_dict

from bayes_persona import ConfigError, DataError, MismatchError, RunError
from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import covariance
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.perfusion.layer import Inputs, RankOneLinear
from bayes_persona.diffusion.adapters.perfusion.loaded import (
    load_perfusion,
    save_perfusion,
    set_perfusion_gate,
    unload_perfusion,
)
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.diffusion.adapters.perfusion.together import projections
from bayes_persona.diffusion.adapters.perfusion.tuner import PerfusionConfig, PerfusionLayer, state_dict
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.attach import attached
from bayes_persona.diffusion.pipelines import fingerprint
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import generator
from tests.diffusion.tiny import LATENT, noise, snapshot, tiny, tiny_xl, untouched

# to an untrained text encoder a robot and a cat are nearly the same
pytestmark = pytest.mark.filterwarnings("ignore:.* are alike:UserWarning")
ONLY = torch.tensor([0])
SD15 = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
}
SDXL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(scope="module")
def metric(pipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("metric") / "c.safetensors"
    captions = [f"a {mood} {who}" for mood in ("happy", "sad") for who in ("robot", "cat", "woman", "man")]
    covariance.save(path, covariance.estimate(pipe, captions))
    return str(path)


def learned(pipe, method, seed=0):
    """One member that has left its start."""
    start = {name: value[0] for name, value in method.init(pipe, 1, seed=0).items()}
    return {
        name: value + (0.3 * generator(seed, name).normal(size=value.shape)).astype(np.float32)
        if name.endswith((".output", "embedding"))
        else value
        for name, value in start.items()
    }


@pytest.fixture
def files(pipe, metric, tmp_path):
    """A robot and a cat, each saved by itself."""
    found = {}
    for number, (kind, token) in enumerate((("robot", "<r2>"), ("cat", "<tom>"))):
        method = Perfusion(Subject(kind, token), beta=0.6, covariance=metric)
        found[token] = tmp_path / f"{kind}.safetensors"
        save_perfusion(found[token], pipe, method, learned(pipe, method, number), steps=200)
    return found


@torch.no_grad()
def predict(pipe, prompt):
    text = pipe.encode_prompt([prompt], "cpu", 1, do_classifier_free_guidance=False)[0]
    return pipe.unet(noise(1, *LATENT), torch.tensor(500), text).sample


def test_loaded_is_attached_until_it_is_unloaded(pipe, files, metric):
    before, words, plain = snapshot(pipe.unet), pipe.tokenizer, predict(pipe, "a robot")
    posterior, _ = adapters.load(files["<r2>"])
    method = Perfusion(Subject("robot", "<r2>"), beta=0.6, covariance=metric)
    with method.attached(pipe, posterior.stacked(), ONLY):
        want = predict(pipe, "<r2> the robot at night")
    assert load_perfusion(pipe, files["<r2>"]) == "<r2>"
    assert torch.equal(predict(pipe, "<r2> the robot at night"), want)
    pictures = pipe("<r2> the robot", num_inference_steps=2, output_type="np").images
    assert pictures.shape == (1, 64, 64, 3)
    unload_perfusion(pipe)
    assert untouched(pipe.unet, before)
    assert pipe.tokenizer is words
    assert torch.equal(predict(pipe, "a robot"), plain)


def test_two_are_loaded_one_after_the_other_and_leave_in_any_order(pipe, files):
    prompt, plain = "<r2> the robot", fingerprint(pipe)
    load_perfusion(pipe, files["<r2>"])
    alone = predict(pipe, prompt)
    load_perfusion(pipe, files["<tom>"])
    assert len(pipe.tokenizer.tokenize("<r2> the robot and <tom> the cat")) == 7
    unload_perfusion(pipe, "<tom>")
    assert torch.equal(predict(pipe, prompt), alone)
    load_perfusion(pipe, files["<tom>"], token="<kitty>")
    unload_perfusion(pipe, "<r2>")
    unload_perfusion(pipe)
    assert fingerprint(pipe) == plain


def test_gates_are_turned_for_one_or_for_all(pipe, files):
    load_perfusion(pipe, files["<r2>"])
    load_perfusion(pipe, files["<tom>"])

    def betas():
        return next(iter(projections(pipe.unet).values())).original.beta.tolist()

    assert betas() == pytest.approx([0.6, 0.6])
    set_perfusion_gate(pipe, token="<tom>", beta=0.4)
    assert betas() == pytest.approx([0.6, 0.4])
    set_perfusion_gate(pipe, beta=0.5, tau=0.1)
    assert betas() == pytest.approx([0.5, 0.5])
    before = predict(pipe, "<r2> the robot")
    with pytest.raises(ConfigError, match="beta: expected more than 0"):
        set_perfusion_gate(pipe, beta=0.0)
    with pytest.raises(ConfigError, match="memory: no setting of generation"):
        set_perfusion_gate(pipe, memory=0.5)
    with pytest.raises(ConfigError, match="<bob> is not loaded; loaded are <r2>, <tom>"):
        set_perfusion_gate(pipe, token="<bob>", beta=0.5)
    assert torch.equal(predict(pipe, "<r2> the robot"), before)
    set_perfusion_gate(pipe, keys="global")
    assert not torch.equal(predict(pipe, "<r2> the robot"), before)
    unload_perfusion(pipe)


def test_what_cannot_be_loaded_leaves_everything_as_it_was(pipe, files, metric, tmp_path):
    load_perfusion(pipe, files["<r2>"])
    before = predict(pipe, "<r2> the robot")
    other, wrong = tiny(seed=1), tmp_path / "other.safetensors"
    covariance.save(tmp_path / "other_metric.safetensors", covariance.estimate(other, ["a robot", "a cat"]))
    method = Perfusion(Subject("robot", "<x>"), covariance=str(tmp_path / "other_metric.safetensors"))
    save_perfusion(wrong, other, method, learned(other, method))
    (tmp_path / "pickle.bin").write_bytes(pickle.dumps({"a": 1}))
    words = TextualInversion(Subject("robot"))
    start = {name: value[0] for name, value in words.init(tiny(), 1, seed=0).items()}
    adapters.save(tmp_path / "ti.safetensors", words, Posterior((start,)), base="a")
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(files["<tom>"].read_bytes()[:-100])
    for path, error, message in (
        (wrong, MismatchError, "trained on base model"),
        (tmp_path / "pickle.bin", RunError, "not safetensors"),
        (tmp_path / "ti.safetensors", DataError, "holds textual_inversion"),
        (truncated, RunError, "truncated"),
        (files["<r2>"], ConfigError, "<r2> is loaded already"),
        (tmp_path / "nowhere", RunError, "no such file"),
    ):
        with pytest.raises(error, match=message):
            load_perfusion(pipe, path)
    with pytest.raises(DataError, match="has no member 1, but 1 of them"):
        load_perfusion(pipe, files["<tom>"], member=1)
    with pytest.raises(ConfigError, match="'cat' is a word of this model already"):
        load_perfusion(pipe, files["<tom>"], token="cat")
    with pytest.raises(ConfigError, match="unload them first"):
        save_perfusion(tmp_path / "late.safetensors", pipe, method, {})
    assert torch.equal(predict(pipe, "<r2> the robot"), before)
    unload_perfusion(pipe)


@pytest.fixture
def two():
    return tiny_xl()


def test_sdxl_takes_subjects_on_and_off(two, tmp_path):
    """Words of both text encoders, edits of what their states make side by side, keys of anyone's prompt if asked."""
    method = Perfusion(Subject("robot", "<r2>"))
    encoders = [two.text_encoder, two.text_encoder_2, two.unet]
    before, words = [snapshot(net) for net in encoders], (two.tokenizer, two.tokenizer_2)
    member = learned(two, method)
    assert member["embedding"].shape == (1, 16 + 24)
    save_perfusion(tmp_path / "r2.safetensors", two, method, member)
    draw = {"prompt": "<r2> the robot", "num_inference_steps": 2, "output_type": "latent", "latents": noise(1, *LATENT)}
    assert load_perfusion(two, tmp_path / "r2.safetensors") == "<r2>"
    own = two(**draw).images
    set_perfusion_gate(two, keys="global")
    locked = two(**draw).images
    unload_perfusion(two)
    assert not torch.allclose(own, locked, atol=1e-4)
    assert (two.tokenizer, two.tokenizer_2) == words
    assert all(untouched(net, bits) for net, bits in zip(encoders, before, strict=True))
    assert not torch.allclose(two(**{**draw, "prompt": "the robot"}).images, own, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # PEFT says so of every second adapter
def test_peft_makes_the_same_edits(files, metric):
    """add_adapter, set_adapters, disable_adapters and delete_adapters of diffusers, with PEFT's own state dicts."""
    pipe, text = tiny(), noise(1, 5, 16)
    posteriors = {token: adapters.load(path)[0] for token, path in files.items()}

    def loaded(*wanted):
        for token in wanted:
            load_perfusion(pipe, files[token])
        outputs = {name: part(text) for name, part in projections(pipe.unet).items()}
        if wanted:
            unload_perfusion(pipe)
        return outputs

    plain, both = loaded(), loaded("<r2>", "<tom>")
    want = {token: loaded(token) for token in files}

    def found():
        return {name: module(text) for name, module in pipe.unet.named_modules() if isinstance(module, PerfusionLayer)}

    def same(want):
        have = found()
        assert have.keys() == want.keys()
        for name, value in have.items():
            torch.testing.assert_close(value, want[name], rtol=1e-4, atol=1e-5)

    for token in ("<tom>", "<r2>"):
        name = token.strip("<>")
        pipe.unet.add_adapter(PerfusionConfig(beta=0.6), name)
        missing = set_peft_model_state_dict(pipe.unet, state_dict(pipe.unet, posteriors[token][0]), adapter_name=name)
        assert not missing.unexpected_keys
        same(want[token])
    pipe.unet.set_adapters(["tom", "r2"], weights=[1.0, 1.0])
    same(both)
    pipe.unet.set_adapters(["tom", "r2"], weights=[1.0, 0.0])
    assert any(not torch.allclose(value, both[name], atol=1e-5) for name, value in found().items())
    pipe.unet.disable_adapters()
    same(plain)
    pipe.unet.enable_adapters()
    trained = {name for name, value in pipe.unet.named_parameters() if value.requires_grad}
    assert trained
    assert all("perfusion_output" in name for name in trained)
    pipe.unet.delete_adapters("r2")
    same(want["<tom>"])


@pytest.mark.parametrize(
    ("sizes", "layers", "values"), [(SD15, 16, 12_480), (SDXL, 70, 83_200)], ids=["SD 1.5", "SDXL"]
)
def test_it_fits_full_size_models_and_a_subject_is_small(sizes, layers, values, tmp_path):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**sizes)
    found = projections(unet)
    shapes = {f"{name}.output": module.weight.shape[0] for name, module in found.items() if name.endswith("to_v")}
    assert (len(found), len(shapes), sum(shapes.values())) == (2 * layers, layers, values)
    width = sizes["cross_attention_dim"]
    words = {"embedding": (1, 768), "input": (width,), "direction": (width,), "superclass": (width,)}
    rng = np.random.default_rng(0)
    member = {name: rng.normal(size=shape).astype(np.float32) for name, shape in (words | shapes).items()}
    path = tmp_path / "me.safetensors"
    adapters.save(path, Perfusion(Subject("robot")), Posterior((member,)), base="a" * 32, covariance="b" * 32)
    if layers == 16:
        assert path.stat().st_size <= 110_000
        assert path.stat().st_size < 70_000


@pytest.mark.slow
def test_a_model_of_full_size_runs_with_an_edit_in_every_layer():
    """Stable Diffusion 1.5's U-Net with random weights, one forward pass."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15)
    unet = unet.to_empty(device="cpu").eval().requires_grad_(False)
    with torch.no_grad():
        for name, value in unet.named_parameters():
            value.normal_(0, 0.02) if value.ndim > 1 else value.fill_(float(name.endswith("weight")))
    layers = projections(unet)
    assert len(layers) == 32
    inputs = Inputs(torch.ones(1, 1, 768), torch.ones(1, 1, 768), ONLY)
    half, sharp = torch.tensor([0.7]), torch.tensor([0.15])
    parts = {
        name: RankOneLinear(base, inputs, torch.ones(1, 1, base.weight.shape[0]), half, sharp)
        for name, base in layers.items()
    }
    latents, text = noise(1, 4, 8, 8), noise(1, 77, 768)
    with torch.no_grad(), attached(unet, parts):
        assert torch.isfinite(unet(latents, torch.tensor(500), text).sample).all()
