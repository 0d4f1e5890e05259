"""The torch learner: its contract, on nets with and without state of their own, and what it says to bad input."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from bayes_persona import ConfigError, Data, DataError, MismatchError
from bayes_persona.contracts import check_learner
from bayes_persona.nptl import NPTL, classification, linear_probe, regression
from bayes_persona.nptl.learner_torch import Config, TorchLearner
from bayes_persona.nptl.likelihood import NOISE

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 1, 4, 4)).astype(np.float32)
Y = RNG.integers(3, size=24)
DATA = classification(X, Y, classes=3)


def net(*extra):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), *extra, nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


NETS = {
    "plain": (net(), "3"),
    "with BatchNorm": (net(nn.BatchNorm2d(4)), "4"),
    "with dropout": (net(nn.Dropout(0.5)), "4"),
}


@pytest.mark.parametrize("name", NETS)
def test_the_learner_keeps_the_contract(name):
    module, head = NETS[name]
    learner = TorchLearner(module, Config(steps=5, batch=8), head=head)
    check_learner(learner, learner.params, DATA)


def test_fitting_leaves_the_callers_net_and_random_state_alone():
    module, head = NETS["with dropout"]
    before, random = {k: v.clone() for k, v in module.state_dict().items()}, torch.random.get_rng_state()
    TorchLearner(module, Config(steps=3), head=head).fit(TorchLearner(module, head=head).params, DATA, 0)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert not module[1].weight.grad if hasattr(module[1], "weight") else True


def test_threads_that_share_a_learner_give_the_serial_result():
    module, head = NETS["plain"]
    learner = TorchLearner(module, Config(steps=20, batch=8), head=head)
    serial = [learner.fit(learner.params, DATA, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda seed: learner.fit(learner.params, DATA, seed), range(4)))
    for one, other in zip(serial, threaded, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_full_batch_step_is_the_weighted_gradient():
    torch.manual_seed(0)
    linear = nn.Linear(2, 2)
    x, weights = RNG.normal(size=(6, 2)).astype(np.float32), np.array([2.0, 0.5, 1, 1, 0, 1.5])
    soft = RNG.dirichlet(np.ones(2), 6)
    learner = TorchLearner(linear, Config(steps=1, batch=6, lr=0.1, momentum=0.0), head="")
    after = learner.fit(learner.params, Data(x, soft, weights), seed=0)
    weight, bias = learner.params["weight"].astype(float), learner.params["bias"].astype(float)
    logits = x @ weight.T + bias
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    slope = (weights[:, None] * (probs - soft)).T @ x / 6
    assert np.allclose(after["weight"], weight - 0.1 * slope, atol=1e-6)


def test_fitting_lowers_the_loss_and_reads_the_training_set():
    module, head = NETS["plain"]
    learner = TorchLearner(module, Config(steps=300, batch=24, lr=0.1), head=head)
    params = learner.fit(learner.params, DATA, 0)
    assert (learner.predict(params, X).argmax(axis=1) == Y).mean() > 0.9


def test_features_are_what_the_head_is_fed_with():
    module, head = NETS["plain"]
    learner = TorchLearner(module, head=head)
    features = learner.features(learner.params, X)
    logits = features @ learner.params["3.weight"].T + learner.params["3.bias"]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert features.shape == (24, 16)
    assert np.abs(probs - learner.predict(learner.params, X)).max() < 1e-5


def test_an_unknown_head_lists_the_linear_layers_there_are():
    with pytest.raises(ConfigError, match="'fc' is not a linear layer of this net; there are: 3"):
        TorchLearner(net(), head="fc")
    with pytest.raises(ConfigError, match="there are: none"):
        TorchLearner(nn.Sequential(nn.ReLU()), head="fc")


def test_a_head_without_bias_is_refused():
    with pytest.raises(ConfigError, match="has no bias"):
        TorchLearner(nn.Sequential(nn.Linear(2, 2, bias=False)), head="0")


def test_params_of_another_net_name_the_leaf():
    learner = TorchLearner(net(), head="3")
    other = {**learner.params, "3.weight": np.zeros((5, 16), np.float32)}
    with pytest.raises(MismatchError, match=r"3\.weight: expected shape \(3, 16\), got \(5, 16\)"):
        learner.predict(other, X)
    with pytest.raises(MismatchError, match=r"head: 3\.weight: expected shape"):
        learner.with_head(learner.params, np.zeros((5, 16)), np.zeros(5))


def test_labels_wider_than_the_net_are_named():
    learner = TorchLearner(net(), head="3")
    with pytest.raises(MismatchError, match="the net has 3 outputs, the labels 7 columns"):
        learner.fit(learner.params, classification(X, Y, classes=7), 0)


def test_a_loss_that_is_not_finite_stops_the_fit_and_says_where():
    learner = TorchLearner(net(), Config(steps=50, lr=1e12), head="3")
    with pytest.raises(DataError, match=r"fit: the loss at step \d+ is not finite; lower lr"):
        learner.fit(learner.params, DATA, 0)


def test_inputs_that_the_net_cannot_take_are_named():
    learner = TorchLearner(net(), head="3")
    for use in (learner.predict, learner.features):
        with pytest.raises(MismatchError, match=r"x: the net fails on examples of shape \(16,\)"):
            use(learner.params, X.reshape(24, 16))
    with pytest.raises(MismatchError, match=r"x: the net fails on examples of shape \(2, 4, 4\)"):
        learner.fit(learner.params, DATA._replace(x=np.repeat(X, 2, axis=1)), 0)


def test_nothing_to_predict_is_an_error():
    learner = TorchLearner(net(), head="3")
    with pytest.raises(DataError, match="no example to predict"):
        learner.predict(learner.params, X[:0])


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"lr": 0.0}])
def test_settings_that_cannot_fit_are_named(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: expected a"):
        Config(**wrong)
    with pytest.raises(ConfigError, match="momentum"):
        Config(momentum=1.0)


def test_the_head_is_found_and_a_wrong_one_is_noticed():
    assert TorchLearner(net()).head == "3"
    misled = TorchLearner(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4)), head="0")
    with pytest.raises(ConfigError, match="the outputs of '0' are not the net's"):
        misled.features(misled.params, X.reshape(24, 16)[:, :2])


def test_only_what_is_trained_moves_and_only_that_is_kept():
    learner = TorchLearner(net(), Config(steps=3), trainable=("3.*",))
    fitted = learner.fit(learner.params, DATA, 0)
    assert sorted(fitted) == ["3.bias", "3.weight"]
    assert not np.array_equal(fitted["3.weight"], learner.params["3.weight"])
    frozen = net()
    frozen[0].requires_grad_(False)
    assert sorted(TorchLearner(frozen).params) == ["3.bias", "3.weight"]
    with pytest.raises(ConfigError, match=r"no parameter is left to train by \('encoder.\*',\); there are 0.weight"):
        TorchLearner(net(), trainable=("encoder.*",))
    with pytest.raises(ConfigError, match="requires_grad is off everywhere"):
        TorchLearner(net().requires_grad_(False))
    body = TorchLearner(net(), trainable=("0.*",))
    with pytest.raises(ConfigError, match="the head '3' is not trained"):
        body.with_head(body.params, np.zeros((3, 16)), np.zeros(3))


class Sentence(nn.Module):
    """What transformers' classifiers look like from outside: keywords in, an object with logits out."""

    class Output:
        def __init__(self, logits):
            self.logits = logits

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.classifier = nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[..., None].float()
        return self.Output(self.classifier((self.embed(input_ids) * mask).sum(-2) / mask.sum(-2)))


def test_nets_that_take_keywords_and_give_logits_are_taken_as_they_are():
    torch.manual_seed(0)
    words = np.random.default_rng(1).integers(20, size=(24, 5))
    x = {"input_ids": words, "attention_mask": np.ones((24, 5), int)}
    data = classification(x, Y, classes=3)
    learner = TorchLearner(Sentence(), Config(steps=200, batch=8, lr=0.3))
    base = linear_probe(learner, data)
    serial, together = (
        NPTL(particles=2, rho=0.1).sample(learner, base, data, seed=0, engine=engine)
        for engine in ("serial", "together")
    )
    for one, other in zip(serial, together, strict=True):
        assert max(np.abs(one[name] - other[name]).max() for name in one) < 1e-4
    assert (learner.predict(serial[0], x).argmax(axis=1) == Y).mean() > 0.8
    with pytest.raises(MismatchError, match="got 4 of attention_mask and 24 labels"):
        classification({**x, "attention_mask": np.ones((4, 5), int)}, Y, classes=3)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # peft's
def test_a_transformers_model_is_fitted_with_a_lora_of_peft():
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes)
    )
    pictures = RNG.normal(size=(24, 3, 8, 8)).astype(np.float32)
    data = classification({"pixel_values": pictures}, Y, classes=3)
    lora = peft.LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"], r=2)
    learner = TorchLearner(peft.get_peft_model(model, lora), Config(steps=5, batch=8))
    assert all("lora" in name or "classifier" in name for name in learner.params)
    posterior = NPTL(particles=2).sample(learner, linear_probe(learner, data), data, seed=0)
    assert any("lora_B" in name and np.abs(array).max() > 0 for name, array in posterior[0].items())


def test_a_regression_learns_its_noise():
    torch.manual_seed(0)
    x = RNG.normal(size=(400, 2)).astype(np.float32)
    y = x @ np.array([1.0, -2.0]) + 0.5 * RNG.normal(size=400)
    data = regression(x, y)
    learner = TorchLearner(nn.Linear(2, 1), Config(steps=300, lr=0.05), likelihood="gaussian")
    base = linear_probe(learner, data, penalty=1e-6)
    for rho in (0.0, 1.0, 10.0):  # what is believed has noise too, or a strong prior would be sure of everything
        posterior = NPTL(particles=4, rho=rho).sample(learner, base, data, seed=0)
        noise = posterior.stacked()[NOISE].mean()
        assert noise == pytest.approx(0.25, rel=0.2)


def test_half_precision_and_a_constant_rate_fit_too():
    for settings in ({"precision": "bfloat16"}, {"schedule": "constant"}):
        learner = TorchLearner(net(), Config(steps=300, batch=24, lr=0.1, **settings))
        params = learner.fit(learner.params, DATA, 0)
        assert (learner.predict(params, X).argmax(axis=1) == Y).mean() > 0.9
        assert params["3.weight"].dtype == np.float32


def test_parts_that_hold_no_numbers_and_devices_that_are_not_there_are_named():
    half = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, device="meta"))
    with pytest.raises(ConfigError, match=r"net: 2.weight is on the meta device, which holds no numbers"):
        TorchLearner(half)
    with pytest.raises(ConfigError, match="device: 'nonsense' is not to be had here"):
        TorchLearner(net(), Config(device="nonsense"))


def test_fewer_examples_than_a_batch_are_all_taken_every_step():
    few = Data(X[:3], DATA.y[:3], np.ones(3))
    learner, whole = TorchLearner(net(), Config(steps=4, batch=64)), TorchLearner(net(), Config(steps=4, batch=3))
    one, other = (made.fit(made.params, few, 0) for made in (learner, whole))
    assert all(np.array_equal(one[name], other[name]) for name in one)
