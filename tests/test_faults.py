"""Nothing is lost and nothing is half-written: two processes in a folder, full disks, clocks that jump, left-overs."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bayes_persona.errors import RunError
from bayes_persona.files import load_arrays
from bayes_persona.loop import run
from bayes_persona.parallel import map as draws
from bayes_persona.seeds import generator
from bayes_persona.store import load_posterior, save_posterior
from benchmarks.faults import Killer, written
from tests.test_loop import Walk, batches


def walk(folder):
    return run(Walk(), batches, steps=12, seed=4, folder=folder, checkpoint_every=3)


def draw(seed):
    return {"w": generator(seed, "draw").normal(size=3)}


HOLDS = """
import sys, time
from bayes_persona.store import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Give another process, which works in the folder."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_two_processes_never_work_in_one_folder_and_the_second_is_told_of_the_first(other, tmp_path):
    for work in (walk, lambda folder: draws(draw, range(3), folder=folder)):
        with pytest.raises(RunError, match=rf"{tmp_path}: process {other.pid} on .* works in this folder; wait until"):
            work(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_killed_process_leaves_no_lock(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    state, log = walk(tmp_path)
    alone, said = walk(None)
    assert len(log) == 12
    assert log == said
    assert np.array_equal(state.place, alone.place)


def test_a_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(Walk(), lambda step: 1 // 0, steps=3, seed=4, folder=tmp_path)
    walk(tmp_path)


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path):
    draws(draw, range(3), folder=tmp_path)
    before = written(tmp_path)
    (tmp_path / ".config.json.1.part").write_bytes(b"half")
    (tmp_path / "posterior" / ".00001.safetensors.1.part").write_bytes(b"half")
    (tmp_path / ".posterior.1.part" / "posterior").mkdir(parents=True)
    draws(draw, range(3), folder=tmp_path)
    assert written(tmp_path) == before
    assert not list(tmp_path.rglob("*.part"))


def full_at(monkeypatch, count):
    """Let the disk be full when something is written for the `count`-th time, until this is undone."""
    real, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) >= count:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return calls


@pytest.mark.parametrize("work", [walk, lambda folder: draws(draw, range(4), folder=folder)], ids=["run", "map"])
def test_a_disk_that_is_full_at_any_moment_loses_nothing(work, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        calls = full_at(patched, 10**6)
        work(tmp_path / "straight")
    straight = written(tmp_path / "straight")
    for moment in range(1, len(calls) + 1):
        place = tmp_path / str(moment)
        with monkeypatch.context() as patched:
            full_at(patched, moment)
            with pytest.raises(RunError, match=r"No space left.*free at least .* resume"):
                work(place)
        assert not list(place.rglob("*.part"))
        work(place)
        assert written(place) == straight


def test_a_disk_that_is_full_while_a_posterior_is_saved_leaves_none(tmp_path, monkeypatch):
    posterior = load_of(tmp_path)
    with monkeypatch.context() as patched:
        full_at(patched, 3)
        with pytest.raises(RunError, match="No space left"):
            save_posterior(tmp_path / "copy", posterior)
    assert list((tmp_path / "copy").iterdir()) == []
    save_posterior(tmp_path / "copy", posterior)
    assert len(load_posterior(tmp_path / "copy")) == 4


def load_of(folder):
    draws(draw, range(4), folder=folder)
    return load_posterior(folder)


def test_clocks_that_jump_change_nothing(tmp_path, monkeypatch):
    walk(tmp_path / "straight")
    times = iter(generator(0, "clock").uniform(-1e9, 4e9, size=10_000).tolist())
    monkeypatch.setattr(time, "time", lambda: next(times))
    run(Walk(), batches, steps=5, seed=4, folder=tmp_path / "jumped", checkpoint_every=3)
    for path in (tmp_path / "jumped").iterdir():
        os.utime(path, (next(times) % 1e9, 4e9))  # as if it was written in the far future
    walk(tmp_path / "jumped")
    assert load_arrays(tmp_path / "jumped" / "state.safetensors")[1] == {"step": 12}
    parts = [written(tmp_path / name) for name in ("straight", "jumped")]
    assert parts[0] == parts[1]


def test_a_finished_folder_that_nobody_may_write_is_read(tmp_path):
    have = draws(draw, range(3), folder=tmp_path)
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()  # cannot be opened, whoever asks: root may write anywhere else
    assert all(
        np.array_equal(a["w"], b["w"]) for a, b in zip(draws(draw, range(3), folder=tmp_path), have, strict=True)
    )


@pytest.mark.parametrize("name", ["sampling", "tuning"])
def test_a_job_killed_at_some_moments_goes_on_to_the_same_bytes(name, tmp_path):
    job = Killer(name)
    seconds, _ = job(tmp_path / "straight")
    for moment in (0.5, 0.8):
        _, killed = job(tmp_path / "killed", after=moment * seconds)
        if not killed:
            break
    job(tmp_path / "killed")
    assert written(tmp_path / "killed") == written(tmp_path / "straight")
