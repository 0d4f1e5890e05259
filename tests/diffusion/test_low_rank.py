"""Low-rank DreamBooth: PEFT's LoRA to the last digit, only that every row of a batch has its own."""

from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from bayes_persona import ConfigError, MismatchError
from bayes_persona.diffusion.adapter import Batch, Subject
from bayes_persona.diffusion.contract import check
from bayes_persona.diffusion.low_rank import LowRank, LowRankLinear, gate_of
from bayes_persona.diffusion.train import AdamW, Config
from bayes_persona.loop import run
from bayes_persona.seeds import generator
from tests.diffusion.tiny import LATENT, noise, snapshot, tiny, untouched

ROBOT = Subject("robot")
METHOD = LowRank(ROBOT, rank=3, alpha=6)
SMALL = LowRank(ROBOT, rank=2, alpha=2, targets=("attn2.to_k", "attn2.to_v"))
MID = "mid_block.attentions.0.transformer_blocks.0"


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.fixture(autouse=True)
def _left_as_it_was(pipe):
    before, words = snapshot(pipe.unet), pipe.tokenizer
    yield
    assert untouched(pipe.unet, before)
    assert pipe.tokenizer is words


@pytest.fixture(scope="module")
def learned(pipe):
    return moved(METHOD.init(pipe, 3, seed=0))


def moved(params):
    """Params after training: nothing is zero any more."""
    steps = {name: generator(0, "moved", name).normal(scale=0.3, size=array.shape) for name, array in params.items()}
    return {name: (array + steps[name]).astype(np.float32) for name, array in params.items()}


def member_of(params, k):
    return {name: array[k] for name, array in params.items()}


@torch.no_grad()
def predict(pipe, n=1, same=True):
    """Predictions for n pictures, which are all the same one by default."""
    latents, text = noise(1 if same else n, *LATENT), noise(1 if same else n, 40, 16, seed=1)
    pictures = (latents.expand(n, *LATENT), text.expand(n, 40, 16)) if same else (latents, text)
    return pipe.unet(pictures[0], torch.tensor(500), pictures[1]).sample


def injected(params, k, method=METHOD):
    """PEFT's own LoRA in a U-Net of its own, holding the numbers of member k."""
    unet = tiny().unet
    config = peft.LoraConfig(r=method.rank, lora_alpha=method.alpha, target_modules=list(method.targets))
    peft.inject_adapter_in_model(config, unet)
    layers = {name: layer for name, layer in unet.named_modules() if isinstance(layer, LoraLayer)}
    assert {f"{name}.{side}" for name in layers for side in ("down", "up")} == set(params)
    for name, layer in layers.items():
        layer.lora_A["default"].weight.data = torch.tensor(params[f"{name}.down"][k])
        layer.lora_B["default"].weight.data = torch.tensor(params[f"{name}.up"][k])
    return unet


def test_it_keeps_the_promises_of_an_adapter(pipe):
    assert check(SMALL, pipe) is None


def test_it_is_pefts_lora(pipe, learned):
    theirs = injected(learned, 1)
    with METHOD.attached(pipe, learned, torch.tensor([1, 1])):
        have = predict(pipe, 2, same=False)
    with torch.no_grad():
        want = theirs(noise(2, *LATENT), torch.tensor(500), noise(2, 40, 16, seed=1)).sample
    torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-5)
    assert (have - predict(pipe, 2, same=False)).abs().max() > 1e-2


def test_diffusers_reads_what_is_exported(pipe, learned, tmp_path):
    path = tmp_path / "robot.safetensors"
    METHOD.export(path, member_of(learned, 2))
    theirs = tiny()
    theirs.load_lora_weights(tmp_path, weight_name=path.name)
    with METHOD.attached(pipe, learned, torch.tensor([2])):
        torch.testing.assert_close(predict(pipe), predict(theirs), rtol=1e-5, atol=1e-5)
    assert (predict(pipe) - predict(theirs)).abs().max() > 1e-2


def test_what_is_exported_is_what_the_scale_makes_of_it(pipe, learned, tmp_path):
    half = replace(METHOD, scale=0.5)
    half.export(tmp_path / "half.safetensors", member_of(learned, 0))
    theirs = tiny()
    theirs.load_lora_weights(tmp_path, weight_name="half.safetensors")
    with half.attached(pipe, learned, torch.tensor([0])):
        torch.testing.assert_close(predict(pipe), predict(theirs), rtol=1e-5, atol=1e-5)


def test_it_starts_where_peft_starts_and_changes_nothing_yet(pipe):
    params = METHOD.init(pipe, 4, seed=0)
    for name, array in params.items():
        assert array.dtype == np.float32
        if name.endswith(".up"):
            assert not array.any()
        else:
            # what nn.Linear and PEFT draw: uniform up to 1 / sqrt(inputs)
            bound = 1 / np.sqrt(array.shape[2])
            assert 0.8 * bound < np.abs(array).max() <= bound
    plain = predict(pipe)
    with METHOD.attached(pipe, params, torch.tensor([3])):
        assert torch.equal(predict(pipe), plain)


def test_starts_are_pefts_own_draws_and_leave_the_global_randomness_alone(pipe):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = SMALL.init(pipe, 2, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    again, other = SMALL.init(pipe, 2, seed=7), SMALL.init(pipe, 2, seed=8)
    for name, array in first.items():
        assert np.array_equal(array, again[name])
        if name.endswith(".down"):
            assert not np.array_equal(array, other[name])
            assert not np.array_equal(array[0], array[1])


def test_all_projections_of_both_attentions_are_learned(pipe, learned):
    names = {name.rpartition(".")[0] for name in learned}
    kinds = ("to_q", "to_k", "to_v", "to_out.0")
    want = {name for name, layer in pipe.unet.named_modules() if isinstance(layer, nn.Linear) and name.endswith(kinds)}
    assert names == want
    assert {f"{MID}.{attention}.{kind}" for attention in ("attn1", "attn2") for kind in kinds} <= names
    assert learned[f"{MID}.attn2.to_k.down"].shape == (3, 3, 16)
    assert learned[f"{MID}.attn2.to_k.up"].shape == (3, 16, 3)


def test_targets_choose_what_is_learned(pipe):
    names = {name.rpartition(".")[0] for name in SMALL.init(pipe, 1, seed=0)}
    assert {name.rpartition("attn")[2] for name in names} == {"2.to_k", "2.to_v"}
    assert SMALL.gates == tuple(f"{third}.cross.{part}" for third in ("down", "mid", "up") for part in ("key", "value"))


def test_parts_that_are_shut_are_not_learned(pipe):
    some = replace(METHOD, shut=("down", "mid.self", "up.cross.key"))
    params = some.init(pipe, 2, seed=0)
    every = METHOD.init(pipe, 2, seed=0)
    assert set(params) < set(every)
    assert all(np.array_equal(params[name], every[name]) for name in params)
    assert {gate_of(name.rpartition(".")[0]) for name in params} == set(some.gates)
    assert some.gates == tuple(
        gate for gate in METHOD.gates if not gate.startswith(("down.", "mid.self.")) and gate != "up.cross.key"
    )
    with pytest.raises(MismatchError, match="not learned by"), some.attached(pipe, every, torch.tensor([0])):
        pass
    with pytest.raises(ConfigError, match=r"shut: there is no gate middle; there are down\.self\.query"):
        replace(METHOD, shut=("middle",))
    with pytest.raises(ConfigError, match="every gate is"):
        replace(METHOD, shut=("down", "mid", "up"))


def test_each_row_is_computed_with_its_own_member(pipe, learned):
    with METHOD.attached(pipe, learned, torch.tensor([2, 0, 1])):
        together, guided = predict(pipe, 3), predict(pipe, 6)
    for row, member in enumerate([2, 0, 1]):
        with METHOD.attached(pipe, learned, torch.tensor([member])):
            alone = predict(pipe)[0]
        for have in (together[row], guided[row], guided[3 + row]):
            torch.testing.assert_close(have, alone, rtol=1e-3, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_closed_gates_are_the_base_bit_for_bit_and_half_open_ones_half_the_change(pipe, learned):
    with METHOD.attached(pipe, learned, torch.tensor([1]), dict.fromkeys(METHOD.gates, 0.0)):
        assert torch.equal(predict(pipe), predict(tiny()))
    with METHOD.attached(pipe, learned, torch.tensor([1]), dict.fromkeys(METHOD.gates, 0.5)):
        half = predict(pipe)
    with replace(METHOD, scale=0.5).attached(pipe, learned, torch.tensor([1])):
        assert torch.equal(predict(pipe), half)


def test_a_gate_closes_its_third_and_kind_alone(pipe, learned):
    shut = "mid_block", ".attn2.to_v."
    left = {name: array for name, array in learned.items() if not (name.startswith(shut[0]) and shut[1] in name)}
    with METHOD.attached(pipe, learned, torch.tensor([0]), {"mid.cross.value": 0.0}):
        gated = predict(pipe)
    with METHOD.attached(pipe, left, torch.tensor([0])):
        torch.testing.assert_close(gated, predict(pipe))
    with METHOD.attached(pipe, learned, torch.tensor([0])):
        assert (gated - predict(pipe)).abs().max() > 1e-4
    assert len(METHOD.gates) == 24


def test_the_token_is_written_in_letters_and_no_word_is_added(pipe):
    METHOD.init(pipe, 1, seed=0)
    assert pipe.tokenizer.tokenize(ROBOT.phrase) == ["<</w>", "m", "e</w>", "></w>", "the</w>", "robot</w>"]


def trained(pipe, params, members, steps=3):
    def batches(step):
        who = [member for member in members for _ in range(2)]
        seeds = [100 * step + 10 * member + row % 2 for row, member in enumerate(who)]
        latents, noises = (torch.stack([noise(*LATENT, seed=seed + more) for seed in seeds]) for more in (0, 5))
        tokens = torch.tensor(pipe.tokenizer([ROBOT.phrase] * len(who), padding="max_length").input_ids)
        own = torch.tensor([members.index(member) for member in who])
        return Batch(latents, noises, torch.tensor(seeds) * 97 % 1000, tokens, own, torch.ones(len(who)))

    def loss(params, batch, generator):
        return (SMALL.loss(pipe, params, batch) * batch.weight).sum()

    config = Config(rate=0.02, warmup=2, clip=0.05, members=True)
    return run(AdamW(params, loss, config), batches, steps=steps, seed=0)[0].params


def test_members_trained_together_are_those_trained_alone(pipe):
    params = moved(SMALL.init(pipe, 3, seed=0))
    together = trained(pipe, params, [0, 1, 2])
    for k in (0, 2):
        alone = trained(pipe, {name: array[k : k + 1] for name, array in params.items()}, [k])
        for name, value in alone.items():
            torch.testing.assert_close(together[name][k], value[0], rtol=1e-3, atol=2e-4)
            assert (value[0] - torch.tensor(params[name][k])).abs().max() > 1e-3


def test_half_precision_rows_stay_half():
    base, x = nn.Linear(8, 6, dtype=torch.bfloat16), torch.ones(1, 3, 8, dtype=torch.bfloat16)
    out = LowRankLinear(base, torch.ones(1, 2, 8), torch.ones(1, 6, 2), torch.tensor([0]), 1.0)(x)
    assert out.dtype == torch.bfloat16
    assert (out - base(x))[0, 0, 0].item() == pytest.approx(16, abs=0.1)


def attach(pipe, params, method=METHOD):
    with method.attached(pipe, params, torch.tensor([0])):
        pass


def test_params_of_another_model_are_refused(pipe, learned):
    key = f"{MID}.attn2.to_k"
    others = [
        {f"{key}.down": np.zeros((1, 3, 8), np.float32), f"{key}.up": np.zeros((1, 16, 3), np.float32)},
        {f"{key}.down": np.zeros((1, 3, 16), np.float32), f"{key}.up": np.zeros((1, 8, 3), np.float32)},
        {f"{key}.down": np.zeros((1, 3, 16), np.float32), f"{key}.up": np.zeros((1, 16, 2), np.float32)},
        {f"{key}.down": np.zeros((1, 3, 16), np.float32), f"{key}.up": np.zeros((2, 16, 3), np.float32)},
    ]
    for params in others:
        with pytest.raises(MismatchError, match="was it made for another model"):
            attach(pipe, params)
    elsewhere = {name.replace("mid_block", "up_blocks.9"): array for name, array in learned.items()}
    with pytest.raises(MismatchError, match=r"up_blocks\.9"):
        attach(pipe, elsewhere)


def test_params_of_another_method_are_refused(pipe, learned):
    with pytest.raises(MismatchError, match="not learned by LowRank"):
        attach(pipe, {"embedding": np.zeros((1, 2, 16), np.float32)})
    with pytest.raises(MismatchError, match="not learned by LowRank"):
        attach(pipe, {name: array for name, array in learned.items() if name.endswith("down")})
    for other in (replace(METHOD, rank=4), replace(METHOD, targets=("to_v",))):
        with pytest.raises(MismatchError, match="not learned by LowRank"):
            attach(pipe, learned, other)


@pytest.mark.parametrize(
    ("settings", "names"),
    [({"rank": 0}, "rank"), ({"alpha": 0}, "alpha"), ({"targets": ()}, "targets"), ({"targets": ("ff",)}, "'ff'"),
     ({"scale": 1.6}, "scale: expected 0 to 1.5"), ({"scale": -0.1}, "scale")],
)  # fmt: skip
def test_a_setting_out_of_its_range_is_named(settings, names):
    with pytest.raises(ConfigError, match=names):
        LowRank(ROBOT, **settings)


def test_targets_that_no_part_fits_are_named(pipe):
    with pytest.raises(ConfigError, match=r"attn7\.to_k"):
        LowRank(ROBOT, targets=("attn7.to_k",)).init(pipe, 1, seed=0)
