"""Training as a kernel: torch's AdamW step by step, members that do not notice one another, and runs that go on."""

import numpy as np
import pytest
import torch

from bayes_persona import ConfigError, DataError, MismatchError
from bayes_persona.contracts import check_kernel
from bayes_persona.diffusion.train import AdamW, Config, State
from bayes_persona.loop import run
from bayes_persona.seeds import generator


def start():
    draw = generator(0, "start")
    return {"matrix": draw.normal(size=(3, 2)), "vector": draw.normal(size=4), "number": np.array(draw.normal())}


def targets(step):
    draw = generator(0, "batch", step)
    return {name: torch.tensor(draw.normal(size=value.shape), dtype=torch.float32) for name, value in start().items()}


def loss(params, batch, noise):
    scale = {"matrix": 1.0, "vector": 3.0, "number": 0.1}
    return sum((scale[name] * (params[name] - batch[name]).pow(4)).sum() for name in params)


def noisy(params, batch, noise):
    return loss(params, batch, noise) + (params["vector"] * torch.randn(4, generator=noise)).sum()


def torch_run(config, steps, clip):
    """What torch's own optimiser does, with the same rates and clipping."""
    params = {name: torch.tensor(value, dtype=torch.float32, requires_grad=True) for name, value in start().items()}
    optimiser = torch.optim.AdamW(params.values(), lr=1.0, betas=config.betas, weight_decay=config.decay)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = config.rate_at(step)
        optimiser.zero_grad()
        loss(params, targets(step), None).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(params.values(), config.clip)
        optimiser.step()
        yield {name: value.detach().clone() for name, value in params.items()}


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_every_step_is_that_of_torchs_adamw(decay, clip):
    config = Config(rate=0.05, warmup=5, cooldown_at=12, cooldown=10, decay=decay, clip=1e9 if clip is None else clip)
    kernel = AdamW(start(), loss, config)
    state = kernel.init(0)
    for step, want in enumerate(torch_run(config, 25, clip)):
        state, _ = kernel.step(step, state, targets(step))
        for name, value in want.items():
            torch.testing.assert_close(state.params[name], value, rtol=2e-5, atol=1e-6)


def test_a_gradient_is_clipped_to_the_length_that_was_asked_for():
    kernel = AdamW({"w": np.zeros(4)}, lambda params, batch, noise: (batch * params["w"]).sum(), Config(clip=2.0))
    steep, info = kernel.step(0, kernel.init(0), torch.tensor([3.0, 0.0, 4.0, 0.0]))
    assert info["gradient"] == pytest.approx(5)  # as it was
    shortened = torch.tensor([1.2, 0.0, 1.6, 0.0])
    torch.testing.assert_close(steep.first["w"], 0.1 * shortened)  # the first moment holds a tenth, 1 - beta1
    flat, _ = kernel.step(0, kernel.init(0), torch.tensor([0.3, 0.0, 0.4, 0.0]))
    torch.testing.assert_close(flat.first["w"], 0.1 * torch.tensor([0.3, 0.0, 0.4, 0.0]))


def member_start(members):
    draw = generator(1, "members")
    return {"a": draw.normal(size=(members, 3)), "b": draw.normal(size=(members, 2, 2)), "c": draw.normal(size=members)}


def member_loss(params, batch, noise):
    """Each member has its own target, and the last one a far steeper loss."""
    squares = [(params[name].flatten(1) if params[name].ndim > 1 else params[name][:, None]) for name in params]
    return sum((batch[:, None] * square.pow(2)).sum() for square in squares)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_members_trained_together_are_those_trained_alone(decay):
    config = Config(rate=0.1, warmup=3, decay=decay, clip=0.5, average=0.9, members=True)
    steep = torch.tensor([0.01, 1.0, 1000.0])
    together, _ = run(AdamW(member_start(3), member_loss, config), lambda step: steep, steps=20, seed=0)
    for k in range(3):
        alone = {name: value[k : k + 1] for name, value in member_start(3).items()}
        state, _ = run(AdamW(alone, member_loss, config), lambda step, k=k: steep[k : k + 1], steps=20, seed=0)
        for table in ("params", "first", "second", "average"):
            for name, value in getattr(state, table).items():
                torch.testing.assert_close(getattr(together, table)[name][k : k + 1], value, rtol=1e-6, atol=1e-7)


def test_without_members_one_steep_direction_shortens_all():
    apart, shared = (
        run(AdamW(member_start(3), member_loss, Config(members=members)), lambda step: torch.tensor([0.1, 0.1, 1e6]),
            steps=1, seed=0)[0].first["a"][0].norm() for members in (True, False)
    )  # fmt: skip
    assert apart > 1000 * shared


def test_members_must_be_the_first_axis_of_everything():
    uneven = {"a": np.zeros((3, 2)), "b": np.zeros(2)}
    with pytest.raises(MismatchError, match=r"first axis.*a \(3, 2\), b \(2,\)"):
        AdamW(uneven, member_loss, Config(members=True)).init(0)
    with pytest.raises(MismatchError, match="first axis"):
        AdamW({"a": np.zeros(())}, member_loss, Config(members=True)).init(0)


def same_state(have, want):
    tables = ("params", "first", "second", "average")
    return int(have.steps) == int(want.steps) and all(
        np.array_equal(np.asarray(getattr(have, table)[name]), np.asarray(getattr(want, table)[name]))
        for table in tables
        for name in getattr(want, table)
    )


def test_resumed_is_straight_bit_for_bit(tmp_path):
    kernel = AdamW(start(), noisy, Config(rate=0.05, warmup=4, average=0.9, decay=0.1))
    straight, log = run(kernel, targets, steps=11, seed=3)
    run(kernel, targets, steps=4, seed=3, folder=tmp_path, checkpoint_every=3)
    resumed, again = run(kernel, targets, steps=11, seed=3, folder=tmp_path, checkpoint_every=3)
    assert same_state(resumed, straight)
    assert again == log


def test_a_run_goes_on_from_the_state_of_another():
    config = Config(rate=0.05, warmup=6)
    straight = AdamW(start(), loss, config).init(0)
    for step in range(8):
        straight, _ = AdamW(start(), loss, config).step(step, straight, targets(step))
    first = AdamW(start(), loss, config)
    state = first.init(0)
    for step in range(5):
        state, _ = first.step(step, state, targets(step))
    second = AdamW(state, loss, config)
    state = second.init(0)
    for step in range(5, 8):
        state, _ = second.step(step, state, targets(step))
    assert same_state(state, straight)


def test_the_average_follows_the_parameters_as_its_memory_says():
    config = Config(rate=0.05, warmup=1, average=0.5)
    kernel = AdamW(start(), loss, config)
    state = kernel.init(0)
    want = {name: value.numpy() for name, value in state.params.items()}
    for step in range(20):
        state, _ = kernel.step(step, state, targets(step))
        memory = min(0.5, (step + 1) / (step + 10))
        want = {name: memory * want[name] + (1 - memory) * value.numpy() for name, value in state.params.items()}
        for name, value in want.items():
            np.testing.assert_allclose(state.average[name].numpy(), value, rtol=1e-5, atol=1e-6)
    assert not np.allclose(want["matrix"], state.params["matrix"].numpy())


def test_without_memory_the_average_is_the_last_parameters():
    state, _ = run(AdamW(start(), loss, Config()), targets, steps=3, seed=0)
    assert all(torch.equal(state.average[name], value) for name, value in state.params.items())


def test_the_rate_warms_up_stays_and_cools_down_to_nothing():
    config = Config(rate=0.2, warmup=4, cooldown_at=10, cooldown=5)
    _, log = run(AdamW(start(), loss, config), targets, steps=17, seed=0)
    rates = [info["rate"] for info in log]
    assert rates[:4] == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert rates[4:11] == pytest.approx([0.2] * 7)
    assert rates[10:] == pytest.approx([0.2, 0.16, 0.12, 0.08, 0.04, 0, 0])


def test_after_the_cool_down_nothing_moves():
    config = Config(rate=0.2, warmup=1, cooldown_at=2, cooldown=2, decay=0.5)
    kernel = AdamW(start(), loss, config)
    early, _ = run(kernel, targets, steps=4, seed=0)
    late, _ = run(kernel, targets, steps=8, seed=0)
    assert all(torch.equal(late.params[name], value) for name, value in early.params.items())


def test_it_keeps_the_promises_of_a_kernel():
    check_kernel(AdamW(start(), noisy, Config(average=0.9, decay=0.1)), targets(0))
    check_kernel(AdamW(member_start(2), member_loss, Config(members=True)), torch.ones(2))


def test_what_the_caller_gave_is_left_alone():
    given = {name: torch.tensor(value, dtype=torch.float32) for name, value in start().items()}
    before = {name: value.clone() for name, value in given.items()}
    run(AdamW(given, loss, Config(rate=1.0, warmup=1)), targets, steps=3, seed=0)
    assert all(torch.equal(given[name], value) and not value.requires_grad for name, value in before.items())


def test_a_loss_that_is_no_number_is_found_at_its_step():
    kernel = AdamW({"w": np.ones(2)}, lambda params, batch, noise: (batch * params["w"]).sum(), Config())
    batches = [1.0, 1.0, float("nan")]
    with pytest.raises(DataError, match="step 2: the loss is nan; a lower rate may help"):
        run(kernel, lambda step: torch.tensor(batches[step]), steps=3, seed=0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("rate", 0.0), ("rate", float("nan")), ("clip", -1.0), ("warmup", 0), ("cooldown", 0), ("average", 1.0),
     ("betas", (1.0, 0.9)), ("betas", (0.9, -0.1)), ("decay", -0.1)],
)  # fmt: skip
def test_a_setting_out_of_its_range_is_named(setting, value):
    with pytest.raises(ConfigError, match=setting):
        Config(**{setting: value})


def test_a_state_is_tensors_and_the_number_of_steps():
    state, _ = run(AdamW(start(), loss, Config()), targets, steps=2, seed=0)
    assert isinstance(state, State)
    assert int(state.steps) == 2


def test_what_has_rate_0_is_only_tracked():
    """A moving average of where the other parameter went, bit for bit; a smaller rate makes proportionally less way."""
    start = {"w": np.zeros(2, np.float32), "slow": np.zeros(2, np.float32), "seen": np.zeros(2, np.float32)}

    def loss(params, batch, noise):
        return (params["w"] - 1).square().sum() + (params["slow"] - 1).square().sum() + params["seen"].sum()

    def after(params, batch):
        return {"seen": 0.5 * params["seen"] + 0.5 * params["w"]}

    kernel = AdamW(start, loss, Config(rate=0.1, warmup=1, clip=100.0), rates={"slow": 0.1, "seen": 0.0}, after=after)
    state, _ = run(kernel, lambda step: None, steps=1, seed=0)
    np.testing.assert_allclose(state.params["slow"], 0.1 * np.asarray(state.params["w"]), rtol=1e-5)
    np.testing.assert_allclose(state.params["seen"], 0.5 * np.asarray(state.params["w"]), rtol=1e-6)
