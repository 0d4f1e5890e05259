import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from bayes_persona.errors import ConfigError, DataError, MismatchError, RunError
from bayes_persona.files import load_arrays, save_arrays
from bayes_persona.loop import run
from bayes_persona.seeds import generator


class State(NamedTuple):
    """Where the walk is, how often each way was taken, and a nested rest."""

    place: np.ndarray
    counts: np.ndarray
    rest: dict


class Walk:
    """A random walk that is drawn to its batch."""

    def init(self, seed):
        return State(generator(seed, "start").normal(size=2), np.zeros(2, np.int64), {"last": (np.array(0.0),)})

    def step(self, seed, state, batch):
        move = generator(seed, "move").normal(size=2) + (0 if batch is None else 0.1 * (batch - state.place))
        state = State(state.place + move, state.counts + (move > 0), {"last": (move[0],)})
        return state, {"length": float(np.abs(move).sum()), "ups": float(state.counts.sum())}


def batches(step):
    return np.array([step, -step], dtype=float)


class StoppedError(Exception):
    """What stops a run in these tests."""


def stopping_at(stop):
    def until(step):
        if step == stop:
            raise StoppedError
        return batches(step)

    return until


class Finished(NamedTuple):
    state: State
    log: list


def walk(folder=None, *, steps=10, batches=batches, config=None, every=3, kernel=None):
    kernel = Walk() if kernel is None else kernel
    return Finished(*run(kernel, batches, steps=steps, seed=4, folder=folder, config=config, checkpoint_every=every))


def same(one, other):
    leaves = [(one.state.place, other.state.place), (one.state.counts, other.state.counts)]
    leaves.append((one.state.rest["last"][0], other.state.rest["last"][0]))
    equal = all((np.asarray(a).dtype, np.asarray(a).tobytes()) == (b.dtype, b.tobytes()) for a, b in leaves)
    return equal and type(one.state) is type(other.state) and one.log == other.log


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight():
    return walk()


def test_keeping_a_run_does_not_change_it(straight, tmp_path):
    assert same(walk(tmp_path), straight)
    arrays, metadata = load_arrays(tmp_path / "state.safetensors")
    assert metadata == {"step": 10}
    np.testing.assert_array_equal(arrays["place"], straight.state.place)
    assert lines(tmp_path) == [{"step": number + 1, **info} for number, info in enumerate(straight.log)]


@pytest.mark.parametrize("every", [1, 3, 4, 100])
@pytest.mark.parametrize("stop", [0, 1, 3, 4, 9])
def test_resumed_is_straight_bit_for_bit(straight, stop, every, tmp_path):
    with pytest.raises(StoppedError):
        walk(tmp_path, batches=stopping_at(stop), every=every)
    asked = []

    def noted(step):
        asked.append(step)
        return batches(step)

    assert same(walk(tmp_path, batches=noted, every=every), straight)
    assert asked == list(range(stop // every * every, 10))
    assert lines(tmp_path) == [{"step": number + 1, **info} for number, info in enumerate(straight.log)]


def test_interrupted_again_and_again_is_still_straight(straight, tmp_path):
    for stop in (2, 4, 5, 7, 8):
        with pytest.raises(StoppedError):
            walk(tmp_path, batches=stopping_at(stop), every=2)
    assert same(walk(tmp_path, every=2), straight)


def test_a_longer_run_goes_on_where_the_shorter_ended(straight, tmp_path):
    walk(tmp_path, steps=5)
    assert same(walk(tmp_path, steps=10), straight)


def test_a_finished_run_is_read_and_not_repeated(straight, tmp_path):
    walk(tmp_path)
    assert same(walk(tmp_path, batches=stopping_at(10)), straight)


KILLED = """
import os, signal, sys
from tests.test_loop import batches, walk

def until(step):
    if step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return batches(step)

walk(sys.argv[1], batches=until)
"""


def test_a_killed_process_is_resumed(straight, tmp_path):
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    result = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert load_arrays(tmp_path / "state.safetensors")[1]["step"] == 6
    assert same(walk(tmp_path), straight)


@pytest.mark.parametrize("torn", ["", '{"step": 7, "leng'])
def test_killed_between_writing_log_and_state_is_resumed(straight, torn, tmp_path):
    with pytest.raises(StoppedError):
        walk(tmp_path, batches=stopping_at(4))  # the state of step 3
    shutil.copy(tmp_path / "state.safetensors", tmp_path / "old")
    with pytest.raises(StoppedError):
        walk(tmp_path, batches=stopping_at(7))  # the log of step 6
    (tmp_path / "old").replace(tmp_path / "state.safetensors")
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write(torn)
    with pytest.raises(StoppedError):
        walk(tmp_path, batches=stopping_at(5))  # resumes and does not come to a checkpoint
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert same(walk(tmp_path), straight)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 11))


def test_killed_before_the_first_state_starts_anew(straight, tmp_path):
    with pytest.raises(StoppedError):
        walk(tmp_path, batches=stopping_at(4))
    (tmp_path / "state.safetensors").unlink()
    assert same(walk(tmp_path), straight)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 11))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.splitlines()[0] + "\n",  # shorter than the state
        lambda text: "",
        lambda text: text.replace('"step": 2', '"step": 3'),
        lambda text: text.replace("{", "", 1),
        lambda text: "\n".join(reversed(text.splitlines())),
    ],
)
def test_a_damaged_log_is_refused(damage, tmp_path):
    walk(tmp_path, steps=6)
    log = tmp_path / "log.jsonl"
    log.write_text(damage(log.read_text()))
    with pytest.raises(RunError, match=r"log\.jsonl: d"):
        walk(tmp_path)


def test_a_log_that_is_gone_is_refused(tmp_path):
    walk(tmp_path, steps=6)
    (tmp_path / "log.jsonl").unlink()
    with pytest.raises(RunError, match=r"log\.jsonl: d"):
        walk(tmp_path)


def test_a_damaged_or_newer_state_is_refused(tmp_path):
    walk(tmp_path, steps=6)
    path = tmp_path / "state.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RunError, match="checksum"):
        walk(tmp_path)
    save_arrays(path, {}, {"step": 6, "format": 1_000})
    with pytest.raises(RunError, match="newer version"):
        walk(tmp_path)
    save_arrays(path, {})
    with pytest.raises(RunError, match="does not say at which step"):
        walk(tmp_path)


def test_a_state_of_another_kernel_names_its_leaf(tmp_path):
    walk(tmp_path, steps=6)
    save_arrays(tmp_path / "state.safetensors", {"place": np.zeros(2)}, {"step": 6})
    with pytest.raises(MismatchError, match=r"state: (counts|rest\.last\.0) is missing"):
        walk(tmp_path)


@dataclass(frozen=True)
class Config:
    """What the walk may be asked for."""

    pull: float = 0.1


def test_another_config_or_seed_is_refused(tmp_path):
    walk(tmp_path, config=Config())
    with pytest.raises(MismatchError, match=r"pull.*0\.1.*pull.*0\.2|pull was 0\.1, is now 0\.2"):
        walk(tmp_path, config=Config(pull=0.2))
    with pytest.raises(MismatchError, match="seed was 4, is now 5"):
        run(Walk(), batches, steps=10, seed=5, folder=tmp_path, config=Config())


class Falling(Walk):
    """A walk that falls off the world at one step."""

    def step(self, seed, state, batch):
        state, info = super().step(seed, state, batch)
        return (state._replace(place=state.place * np.nan) if batch[0] == 7 else state), info


def test_a_state_that_is_not_a_number_keeps_the_last_checkpoint(straight, tmp_path):
    with pytest.raises(DataError, match=r"step 9: place: 2 of 2 numbers .* keeps its last checkpoint, at step 6"):
        walk(tmp_path, kernel=Falling())
    assert load_arrays(tmp_path / "state.safetensors")[1]["step"] == 6
    assert same(walk(tmp_path), straight)  # with the kernel repaired


def test_fewer_steps_than_were_done_are_refused(tmp_path):
    walk(tmp_path, steps=6)
    with pytest.raises(RunError, match="already at step 6, more than the 5 asked for"):
        walk(tmp_path, steps=5)


def test_a_run_of_no_steps_is_refused():
    for wrong in ({"steps": 0}, {"every": 0}):
        with pytest.raises(ConfigError, match="both must be at least 1"):
            walk(**wrong)


def test_a_kernel_without_batches_gets_none(tmp_path):
    full = walk(tmp_path, batches=None)
    assert len(full.log) == 10
    assert same(walk(tmp_path, batches=None), full)


def test_a_number_that_is_not_finite_may_be_logged(tmp_path):
    class Loud(Walk):
        def step(self, seed, state, batch):
            state, info = super().step(seed, state, batch)
            return state, {**info, "gap": float("inf"), "loss": float("nan")}

    full = walk(tmp_path, kernel=Loud())
    assert repr(walk(tmp_path, kernel=Loud()).log) == repr(full.log)


def test_a_log_of_something_else_is_refused(tmp_path):
    walk(tmp_path, steps=6)
    (tmp_path / "log.jsonl").write_text("3\n" * 6)
    with pytest.raises(RunError, match=r"log\.jsonl: d"):
        walk(tmp_path)


def test_a_number_called_step_belongs_to_the_log():
    class Paced(Walk):
        def step(self, seed, state, batch):
            state, info = super().step(seed, state, batch)
            return state, {**info, "step": 0.5}

    with pytest.raises(ConfigError, match="info: the log itself has a number called step"):
        walk(kernel=Paced())
