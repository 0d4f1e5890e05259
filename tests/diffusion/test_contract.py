"""A contract that cannot be broken is no contract: each promise is broken once, and found."""

import inspect
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from bayes_persona import DataError, MismatchError
from bayes_persona.diffusion.adapter import Subject, denoising_loss, members_of, require_gates
from bayes_persona.diffusion.attach import attached
from bayes_persona.diffusion.contract import check
from bayes_persona.seeds import generator
from tests.diffusion.tiny import tiny

PLACE = "conv_out"
ROBOT = Subject("robot")


class Shifted(nn.Module):
    """The original's output, plus a number for every row and channel."""

    def __init__(self, original, shift, member):
        super().__init__()
        self.original, self.shift, self.member = original, shift, member

    def forward(self, x):
        out = self.original(x)
        return out + self.shift[self.member(len(out))][:, :, None, None]


@dataclass(frozen=True)
class Shift:
    """The smallest adapter: what it learns is added to the U-Net's output. It keeps every promise."""

    subject: Subject = ROBOT
    method: str = "shift"
    gates: tuple[str, ...] = ("shift",)

    @property
    def knobs(self):
        return {}

    @property
    def rates(self):
        return {}

    def track(self, pipe, params, batch):
        return {}

    def init(self, pipe, members, seed):
        draws = [generator(seed, "member", k).normal(size=pipe.unet.config.out_channels) for k in range(members)]
        return {"shift": np.stack(draws).astype(np.float32)}

    def member(self, rows, batch):
        return members_of(rows, batch)

    def shift(self, params, gates):
        return require_gates(self, gates).get("shift", 1.0) * torch.as_tensor(params["shift"])

    @contextmanager
    def attached(self, pipe, params, rows, gates=None):
        shift = self.shift(params, gates)
        around = {PLACE: lambda old: Shifted(old, shift, lambda batch: self.member(rows, batch))}
        with attached(pipe.unet, around):
            yield

    def loss(self, pipe, params, batch):
        with self.attached(pipe, params, batch.member):
            return denoising_loss(pipe, batch)


@dataclass(frozen=True)
class Tracks(Shift):
    """Remembers the mean weight of each member's rows. It keeps every promise."""

    memory: float = 0.9

    @property
    def rates(self):
        return {"seen*": 0.0}

    def init(self, pipe, members, seed):
        return {**super().init(pipe, members, seed), "seen": np.zeros((members, 1), np.float32)}

    def track(self, pipe, params, batch):
        seen = params["seen"].clone()
        for member in batch.member.unique():
            seen[member] = torch.lerp(batch.weight[batch.member == member].mean(), seen[member], self.memory)
        return {"seen": seen}


class TracksTheLearned(Tracks):
    def track(self, pipe, params, batch):
        return {"shift": params["shift"] + 1}


class TracksEveryone(Tracks):
    def track(self, pipe, params, batch):
        return {"seen": params["seen"] + 1}


class LearnsTheTracked(Tracks):
    def shift(self, params, gates):
        return super().shift(params, gates) + torch.as_tensor(params["seen"])


class WithoutAxis(Shift):
    def init(self, pipe, members, seed):
        return {**super().init(pipe, members, seed), "rate": np.ones(1, np.float32)}


class StartsAtInfinity(Shift):
    def init(self, pipe, members, seed):
        return {"shift": np.full((members, pipe.unet.config.out_channels), np.inf, np.float32)}


class DrawsFromTorch(Shift):
    def init(self, pipe, members, seed):
        return {"shift": torch.randn(members, pipe.unet.config.out_channels).numpy()}


class CountsTheOthers(Shift):
    def init(self, pipe, members, seed):
        return {"shift": super().init(pipe, members, seed)["shift"] / members}


class NeverDetaches(Shift):
    @contextmanager
    def attached(self, pipe, params, rows, gates=None):
        shift, old = self.shift(params, gates), pipe.unet.conv_out
        pipe.unet.conv_out = Shifted(getattr(old, "original", old), shift, lambda batch: self.member(rows, batch))
        yield


class CopiesBack(Shift):
    """The same numbers in another object: whoever holds the old one is left with a part that nothing calls."""

    @contextmanager
    def attached(self, pipe, params, rows, gates=None):
        with super().attached(pipe, params, rows, gates):
            yield
        old = pipe.unet.conv_out
        pipe.unet.conv_out = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1)
        pipe.unet.conv_out.load_state_dict(old.state_dict())


class RoundsBack(Shift):
    """Adds to a weight and takes it away again, which floats do not forgive."""

    @contextmanager
    def attached(self, pipe, params, rows, gates=None):
        with super().attached(pipe, params, rows, gates):
            yield
        with torch.no_grad():
            pipe.unet.conv_in.weight.add_(0.3).sub_(0.3)


class LeavesAHook(Shift):
    @contextmanager
    def attached(self, pipe, params, rows, gates=None):
        pipe.unet.register_forward_hook(lambda module, given, out: None)
        with super().attached(pipe, params, rows, gates):
            yield


class LeavesAWord(Shift):
    @contextmanager
    def attached(self, pipe, params, rows, gates=None):
        pipe.tokenizer.add_tokens([f"<word{len(pipe.tokenizer)}>"])
        with super().attached(pipe, params, rows, gates):
            yield


class ForgetsExceptions(Shift):
    @contextmanager
    def attached(self, pipe, params, rows, gates=None):
        own = pipe.scheduler
        pipe.scheduler = type(own).from_config(own.config)
        with super().attached(pipe, params, rows, gates):
            yield
        pipe.scheduler = own  # only if nothing went wrong


class SwallowsExceptions(Shift):
    @contextmanager
    def attached(self, pipe, params, rows, gates=None):
        with super().attached(pipe, params, rows, gates), suppress(InterruptedError):
            yield


class TakesAnyGate(Shift):
    def shift(self, params, gates):
        return torch.as_tensor(params["shift"])


class EditsParams(Shift):
    def shift(self, params, gates):
        shift = super().shift(params, gates)
        if isinstance(params["shift"], np.ndarray):
            params["shift"] += 1
        return shift


class Detaches(Shift):
    def shift(self, params, gates):
        return super().shift(params, gates).detach()


class LearnsNothing(Shift):
    def init(self, pipe, members, seed):
        return {**super().init(pipe, members, seed), "unused": np.zeros((members, 2), np.float32)}


class MixesMembers(Shift):
    def shift(self, params, gates):
        shift = super().shift(params, gates)
        return shift + 0.5 * shift.mean(dim=0)


class ComparesRows(Shift):
    def loss(self, pipe, params, batch):
        loss = super().loss(pipe, params, batch)
        return loss * len(loss) / 4


class LooksAtTheBatch(Shift):
    def loss(self, pipe, params, batch):
        loss = super().loss(pipe, params, batch)
        return loss + 0.1 * loss.detach().mean()


class Averages(Shift):
    def loss(self, pipe, params, batch):
        return super().loss(pipe, params, batch).mean()


class Weights(Shift):
    def loss(self, pipe, params, batch):
        return super().loss(pipe, params, batch) * batch.weight


class InterleavesBlocks(Shift):
    def member(self, rows, batch):
        members_of(rows, batch)
        return rows.repeat_interleave(batch // len(rows))


class TakesAnyBatch(Shift):
    def member(self, rows, batch):
        return rows.repeat(batch)[:batch]


class KeepsALittle(Shift):
    def shift(self, params, gates):
        return (0.9 * require_gates(self, gates)["shift"] + 0.1) * torch.as_tensor(params["shift"])


class KeepsAConstant(Shift):
    def shift(self, params, gates):
        return super().shift(params, gates) + 0.5


class ClosedByDefault(Shift):
    def shift(self, params, gates):
        return super().shift(params, {"shift": 0.5} if gates is None else gates)


@pytest.fixture(scope="module")
def pipe():
    return tiny()


@pytest.mark.parametrize(
    ("adapter", "promise"),
    [
        (WithoutAxis(), "rate no leading axis of members"),
        (DrawsFromTorch(), "init depends on more than its seed"),
        (CountsTheOthers(), "start depends on how many others"),
        (CopiesBack(), "does not restore the pipeline: unet"),
        (RoundsBack(), "does not restore the pipeline: a weight has changed"),
        (LeavesAHook(), "does not restore the pipeline: unet._forward_hooks"),
        (LeavesAWord(), "the tokenizer has new words"),
        (ForgetsExceptions(), "an exception inside the with does not restore the pipeline: scheduler"),
        (SwallowsExceptions(), "an exception inside the with is swallowed"),
        (TakesAnyGate(), "not refused with ConfigError"),
        (EditsParams(), "edits the params that it is given"),
        (Detaches(), "no gradient reaches any parameter"),
        (LearnsNothing(), "no gradient reaches unused of a member that has rows"),
        (MixesMembers(), "a gradient reaches shift of a member without rows"),
        (Averages(), r"loss gives shape \(\) for 4 rows"),
        (ComparesRows(), "the loss of a row is not that of its member alone"),
        (LooksAtTheBatch(), "the loss of a row is not that of its member alone"),
        (Weights(), "loss weights its rows"),
        (InterleavesBlocks(), "two blocks is not computed as twice the same rows"),
        (TakesAnyBatch(), "not whole blocks of rows is not refused"),
        (KeepsALittle(), "with all gates at 0 members still differ"),
        (KeepsAConstant(), "with all gates at 0 a prompt without the subject is not the base model's"),
        (TracksTheLearned(), "track changes shift, whose rate is not 0"),
        (TracksEveryone(), "track changes seen of a member without rows"),
        (LearnsTheTracked(), "a gradient reaches seen, whose rate is 0"),
        (ClosedByDefault(), "a gate that nobody mentions is not 1"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Shift) else "",
)
def test_an_adapter_that_breaks_a_promise_is_told_which(adapter, promise):
    with pytest.raises(MismatchError, match=promise):
        check(adapter, tiny())  # a new one each time: some do not give it back as it was


def test_what_is_no_adapter_is_told_what_it_lacks(pipe):
    unchecked = inspect.unwrap(check)  # the tests' own type checker would be the first to notice
    with pytest.raises(MismatchError, match="Subject lacks a method or property of an adapter"):
        unchecked(ROBOT, pipe)


def test_an_adapter_that_never_detaches_is_found():
    with pytest.raises(MismatchError, match="does not restore the pipeline: unet"):
        check(NeverDetaches(), tiny())


def test_a_start_that_is_not_finite_is_named(pipe):
    with pytest.raises(DataError, match=r"init: shift: .* NaN or infinite"):
        check(StartsAtInfinity(), pipe)


def test_one_that_keeps_them_all_passes_on_any_seed(pipe):
    assert check(Shift(), pipe) is None
    assert check(Tracks(), pipe) is None
    assert check(replace(Shift(), subject=Subject("cat", "<tom>")), pipe, seed=5) is None


def test_one_without_gates_has_none_to_close(pipe):
    assert check(replace(Shift(), gates=()), pipe) is None
