import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file

from bayes_persona.errors import DataError, MismatchError, RunError
from bayes_persona.files import FORMAT, append_lines, load_arrays, load_json, save_arrays, save_json, write
from bayes_persona.posterior import Posterior
from bayes_persona.store import load_posterior, open_run, save_posterior

few = settings(max_examples=40, derandomize=True, deadline=None)
kinds = st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u4", "?"])
shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
leaves = kinds.flatmap(lambda kind: arrays.arrays(kind, shapes))
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)


def same(have, want):
    """Whether two sets of named arrays are equal, bit for bit."""
    return have.keys() == want.keys() and all(
        (have[name].dtype, have[name].shape, have[name].tobytes()) == (array.dtype, array.shape, array.tobytes())
        for name, array in want.items()
    )


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {"net.weight": np.arange(6.0).reshape(2, 3), "scale": np.array(7, np.int32)}
    save_arrays(path, arrays, {"step": 7})
    return path, arrays


@few
@given(st.dictionaries(names, leaves, max_size=4))
def test_whatever_is_saved_comes_back_bit_for_bit(tmp_path_factory, named):
    path = tmp_path_factory.getbasetemp() / "round" / "a.safetensors"
    save_arrays(path, named, {"step": 3, "note": "é", "nested": {"a": [1, None]}})
    have, metadata = load_arrays(path)
    assert same(have, named)
    assert metadata == {"step": 3, "note": "é", "nested": {"a": [1, None]}}


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4).T,
        np.arange(12.0)[::-2],
        np.broadcast_to(np.float16(0.1), (2, 3)),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array([np.nan, -0.0, np.inf, np.finfo(float).smallest_subnormal]),
    ],
)
def test_the_layout_in_memory_does_not_matter(array, tmp_path):
    save_arrays(tmp_path / "a", {"w": array})
    assert same(load_arrays(tmp_path / "a")[0], {"w": array})


def test_the_order_of_bytes_does_not_matter(tmp_path):
    save_arrays(tmp_path / "a", {"w": np.arange(3, dtype=">f4")})
    np.testing.assert_array_equal(load_arrays(tmp_path / "a")[0]["w"], [0, 1, 2])


@pytest.mark.parametrize("leaf", [np.array("word"), np.array(None), np.zeros(2, complex)])
def test_what_the_format_cannot_hold_is_named(leaf, tmp_path):
    with pytest.raises((DataError, RunError), match="odd"):
        save_arrays(tmp_path / "a", {"fine": np.zeros(1), "odd": leaf})


def test_saving_changes_nothing_that_was_passed(tmp_path):
    array = np.arange(6.0).reshape(2, 3).T
    named, metadata = {"w": array}, {"step": 1}
    save_arrays(tmp_path / "a", named, metadata)
    assert named["w"] is array
    assert metadata == {"step": 1}


def test_a_file_cut_short_anywhere_is_refused(saved):
    path, _ = saved
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(RunError, match=r"a\.safetensors"):
            load_arrays(path)


def test_one_flipped_bit_anywhere_in_the_numbers_is_noticed(saved):
    path, arrays = saved
    whole = path.read_bytes()
    size = sum(array.nbytes for array in arrays.values())
    for position in range(len(whole) - size, len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(RunError, match="checksum"):
                load_arrays(path)


def test_one_flipped_bit_in_the_names_and_shapes_never_gives_other_numbers(saved):
    path, arrays = saved
    whole = path.read_bytes()
    for position in range(len(whole) - sum(array.nbytes for array in arrays.values())):
        for bit in (0, 5, 7):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with suppress(RunError):  # a space more or less in the header does no harm
                have, metadata = load_arrays(path)
                assert same(have, arrays)
                assert metadata == {"step": 7}


def test_a_changed_step_is_noticed(saved):
    path, _ = saved
    whole = path.read_bytes()
    written = rb"\"step\\\": 7"
    assert whole.count(written) == 1
    path.write_bytes(whole.replace(written, written.replace(b"7", b"3")))
    with pytest.raises(RunError, match="checksum"):
        load_arrays(path)


def test_a_file_of_a_newer_version_asks_for_an_upgrade(tmp_path):
    save_arrays(tmp_path / "a", {"w": np.zeros(1)}, {"format": FORMAT + 1})
    with pytest.raises(RunError, match="newer version; upgrade with: pip install -U bayes-persona"):
        load_arrays(tmp_path / "a")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "np", "step": "1"}])
def test_a_file_of_somebody_else_is_refused(metadata, tmp_path):
    save_file({"w": np.zeros(2)}, tmp_path / "a", metadata=metadata)
    with pytest.raises(RunError, match="a: "):
        load_arrays(tmp_path / "a")


def test_what_is_not_there_is_said_to_be_absent(tmp_path):
    for read in (load_arrays, load_json):
        with pytest.raises(RunError, match="none: there is no such file"):
            read(tmp_path / "none")


def test_a_save_replaces_what_was_there(saved):
    path, _ = saved
    save_arrays(path, {"other": np.ones(1)})
    assert same(load_arrays(path)[0], {"other": np.ones(1)})
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


FULL_DISK = """
import resource, sys
import numpy as np
from bayes_persona.errors import RunError
from bayes_persona.files import append_lines, save_arrays

folder, what = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    if what == "arrays":
        save_arrays(folder + "/a.safetensors", {"w": np.ones(100_000)})
    else:
        append_lines(folder + "/log.jsonl", ["x" * 100] * 1000)
except RunError as error:
    print(error)
    sys.exit(3)
"""


def full_disk(folder, what):
    """Save more than the system allows, in a process of its own."""
    command = [sys.executable, "-c", FULL_DISK, str(folder), what]
    return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)


def test_a_full_disk_leaves_the_old_file_as_it_was(saved):
    path, arrays = saved
    result = full_disk(path.parent, "arrays")
    assert result.returncode == 3, result.stderr
    assert "a.safetensors: could not be saved" in result.stdout
    assert "free at least 800," in result.stdout
    assert same(load_arrays(path)[0], arrays)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_full_disk_leaves_the_old_lines_of_a_log_as_they_were(tmp_path):
    append_lines(tmp_path / "log.jsonl", ["old", "lines"])
    result = full_disk(tmp_path, "log")
    assert result.returncode == 3, result.stderr
    assert "log.jsonl: could not be saved" in result.stdout
    assert (tmp_path / "log.jsonl").read_text().startswith("old\nlines\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match=r"a: could not be saved \(Permission denied\).* check the path and its perm"):
        write(tmp_path / "a", b"")
    tmp_path.chmod(0o700)


def test_a_place_that_is_a_folder_cannot_be_written(tmp_path):
    with pytest.raises(RunError, match="could not be saved"):
        write(tmp_path, b"")


def test_a_place_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be saved"):
        write(tmp_path / "file" / "a", b"")


def test_a_folder_cannot_be_read_as_a_file(tmp_path):
    for read in (load_arrays, load_json):
        with pytest.raises(RunError):
            read(tmp_path)


@few
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_json_comes_back_as_it_was(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "round.json"
    save_json(path, value)
    assert load_json(path) == value


def test_json_that_is_none_is_refused(tmp_path):
    for content in (b"", b"{", b"\xff\xfe"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(RunError, match=r"a\.json: not valid JSON"):
            load_json(tmp_path / "a.json")


@dataclass(frozen=True)
class Config:
    """What a run may be asked for."""

    particles: int = 3
    layers: tuple[int, ...] = (2, 3)


def test_a_run_is_opened_again_with_the_same_config(tmp_path):
    run = open_run(tmp_path / "deep" / "run", Config())
    assert run == open_run(tmp_path / "deep" / "run", Config())
    assert run == open_run(tmp_path / "deep" / "run", {"particles": 3, "layers": [2, 3]})
    assert load_json(run.folder / "config.json") == {"format": FORMAT, "config": {"particles": 3, "layers": [2, 3]}}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Config(particles=4), "particles was 3, is now 4; use the same config or another folder"),
        (Config(layers=(2,)), r"layers was \[2, 3\], is now \[2\]"),
        ({"particles": 3, "layers": [2, 3], "rate": 0.1}, "rate was None, is now 0.1"),
        ({"particles": 3}, r"layers was \[2, 3\], is now None"),
        (None, "is now None"),
    ],
)
def test_another_config_is_refused_and_the_field_named(other, message, tmp_path):
    open_run(tmp_path, Config())
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(MismatchError, match=message):
        open_run(tmp_path, other)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_nested_field_is_named_alone(tmp_path):
    open_run(tmp_path, {"seed": 0, "kernel": {"rate": 0.1, "layers": 2}})
    with pytest.raises(MismatchError, match=r"kernel\.rate was 0\.1, is now 0\.2; use"):
        open_run(tmp_path, {"seed": 0, "kernel": {"rate": 0.2, "layers": 2}})


def test_a_folder_of_a_newer_version_asks_for_an_upgrade(tmp_path):
    save_json(tmp_path / "config.json", {"format": FORMAT + 1, "config": {}})
    with pytest.raises(RunError, match=f"format {FORMAT + 1}, .* up to {FORMAT}; upgrade with"):
        open_run(tmp_path, {})


@pytest.mark.parametrize("content", [[], {}, {"format": 1}, {"config": {}}, {"format": "1", "config": {}}, 3])
def test_a_folder_of_somebody_else_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="not a run's config"):
        open_run(tmp_path, {})


def test_a_posterior_comes_back_in_order(tmp_path):
    particles = tuple({"w": np.array(number), "b": np.full(2, number, np.float32)} for number in range(12))
    save_posterior(tmp_path, Posterior(particles))
    loaded = load_posterior(tmp_path)
    assert len(loaded) == 12
    assert all(same(have, want) for have, want in zip(loaded, particles, strict=True))


def test_a_posterior_with_a_gap_or_none_at_all_is_refused(tmp_path):
    with pytest.raises(RunError, match="holds no particle"):
        load_posterior(tmp_path)
    save_posterior(tmp_path, Posterior(({"w": np.zeros(1)},) * 3))
    (tmp_path / "posterior" / "00001.safetensors").unlink()
    with pytest.raises(RunError, match=r"00001\.safetensors: there is no such file"):
        load_posterior(tmp_path)


def test_a_posterior_is_never_written_over_another(tmp_path):
    save_posterior(tmp_path, Posterior(({"w": np.zeros(1)},) * 3))
    with pytest.raises(RunError, match="holds a posterior already; delete it"):
        save_posterior(tmp_path, Posterior(({"w": np.ones(1)},) * 2))
    assert [particle["w"].item() for particle in load_posterior(tmp_path)] == [0, 0, 0]


def test_a_posterior_that_cannot_be_saved_whole_is_not_there_at_all(tmp_path):
    with pytest.raises(DataError, match="odd"):
        save_posterior(tmp_path, Posterior(({"odd": np.zeros(1, complex)},)))
    assert list(tmp_path.iterdir()) == []


def test_the_same_arrays_give_the_same_file(tmp_path):
    for name in ("one", "two"):
        save_arrays(tmp_path / name, {"b": np.ones(2), "a": np.zeros(3)}, {"step": 1, "seed": 2, "rate": 0.1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
