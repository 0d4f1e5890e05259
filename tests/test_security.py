"""Files of strangers: none runs code, fills the memory, leads elsewhere or to the network; fuzzing agrees."""

import ast
import json
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from bayes_persona.diffusion import adapter, photos, pipelines
from bayes_persona.errors import DataError, MismatchError, RunError
from bayes_persona.files import load_arrays, load_json, save_arrays, understood
from bayes_persona.persona import session
from bayes_persona.store import load_posterior, open_run
from benchmarks.fuzz import TARGETS, attacked

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "bayes_persona").rglob("*.py"), *(ROOT / "envs").rglob("*.py")])
RUNS_CODE = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib.load", "cloudpickle"}


def imported(tree):
    """What a source imports, and what it takes from there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)


def called(tree):
    """What a source calls, as far as a dotted name goes, with the names of what it passes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: word.value for word in node.keywords}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_source_unpickles_evaluates_or_unpacks_archives(path):
    tree = ast.parse(path.read_text())
    assert not {name.partition(".")[0] for name in imported(tree)} & RUNS_CODE
    assert not set(imported(tree)) & {"joblib.load", "zipfile", "tarfile", "yaml", "urllib.request", "requests"}
    for name, words in called(tree):
        assert name not in ("eval", "exec", "torch.load", "np.load", "pd.read_pickle", "__import__", "os.system"), name
        assert "allow_pickle" not in words
        if name.endswith("from_pretrained"):  # of what the user names, here, and no pickles
            local = words.get("local_files_only")
            assert isinstance(local, ast.Constant), name
            assert local.value is True


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


LOADERS = [load_arrays, load_json, session.load, adapter.load, lambda path: photos.picture(path, 8)]


@pytest.mark.parametrize("load", LOADERS)
def test_a_pickle_under_any_name_is_refused_and_not_run(load, tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "a.safetensors").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises((RunError, DataError)):
        load(tmp_path / "a.safetensors")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()  # as it would have


def test_weights_that_are_pickles_are_not_looked_at(tmp_path):
    base = tmp_path / "base"
    (base / "unet").mkdir(parents=True)
    (base / "model_index.json").write_bytes((pipelines.embedded() / "model_index.json").read_bytes())
    (base / "unet" / "config.json").write_bytes((pipelines.embedded() / "unet" / "config.json").read_bytes())
    (base / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(RunError, match=r"no file named .*safetensors"):
        pipelines.load(base)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [100_000_001, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_claims_to_be_huge_is_refused_before_it_is_read(size, tmp_path):
    (tmp_path / "a").write_bytes(struct.pack("<Q", size) + b'{"a":' * 10)
    with pytest.raises(RunError, match="truncated or not safetensors"):
        load_arrays(tmp_path / "a")


def test_arrays_that_claim_to_be_larger_than_their_file_are_refused(tmp_path):
    for shape, end in (([2**40], 2**43), ([2**62, 2**62], 8), ([2**40], 8)):
        header = json.dumps({"w": {"dtype": "F64", "shape": shape, "data_offsets": [0, end]}}).encode()
        (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        with pytest.raises(RunError, match="truncated or not safetensors"):
            load_arrays(tmp_path / "a")


def test_json_that_is_nested_without_end_is_refused(tmp_path):
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 100_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(RunError, match="not valid JSON"):
            load_json(tmp_path / "a.json")


def bomb(width, height):
    """A PNG of a few kilobytes that claims so many pixels, all of one colour."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pressed = zlib.compressobj(9)
    row = b"\0" * min(width // 8 + 1, 10_000)
    body = b"".join([*(pressed.compress(row) for _ in range(min(height, 1_000))), pressed.flush()])
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(9_000, 9_000), (60_000, 60_000), (2**31 - 1, 2), (2, 2**31 - 1)])
def test_a_picture_that_unfolds_to_more_than_memory_is_refused_before_it_is_decoded(width, height, tmp_path):
    (tmp_path / "a.png").write_bytes(bomb(width, height))
    with pytest.raises(DataError, match="more than 80,000,000 pixels"):
        photos.picture(tmp_path / "a.png", 8)


def test_names_in_files_lead_nowhere_else(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "captions.json").write_text(json.dumps({"../secret.txt": "me"}))
    with pytest.raises(MismatchError, match=r"names \.\./secret\.txt, which is no photo in this folder"):
        photos.read(folder, 8)
    save_arrays(tmp_path / "posterior" / "00000.safetensors", {"../../escaped": np.zeros(1), "/etc/a": np.zeros(1)})
    load_posterior(tmp_path)  # a name is only a name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "posterior", "secret.txt"]


def test_a_model_of_a_folder_cannot_name_a_class_of_its_own(tmp_path):
    index = load_json(pipelines.embedded() / "model_index.json")
    wrong = [
        ("unet", ["os", "system"]),
        ("unet", "a"),
        ("scheduler", ["evil", "DDIMScheduler"]),
        ("_class_name", "Evil"),
    ]
    for part, kind in wrong:
        (tmp_path / "model_index.json").write_text(json.dumps({**index, part: kind}))
        with pytest.raises(DataError, match=r"only .* can be used"):
            pipelines.load(tmp_path)


def test_a_model_of_a_folder_cannot_send_for_another_from_the_hub(tmp_path):
    shutil.copytree(pipelines.embedded(), tmp_path / "base")
    for part in ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"):
        path = tmp_path / "base" / part
        before = path.read_bytes()
        path.write_text('"somebody/something"')
        with pytest.raises(DataError, match=r"config\.json: expected a JSON object"):
            pipelines.load(tmp_path / "base")
        path.write_bytes(before)


OFFLINE = """
import socket

def refuse(*arguments, **words):
    raise SystemExit(f"reached for the network: {arguments}")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from bayes_persona.diffusion import generate, pipelines
from bayes_persona.errors import RunError
pipe = pipelines.load()
for name in ("runwayml/stable-diffusion-v1-5", "nowhere"):
    try:
        pipelines.load(name)
    except RunError as error:
        assert "say hub=True" in str(error)
print(generate.sample(pipe, ["a robot"], generate.noise(pipe, 1, 0), generate.Config(steps=1)).shape)
"""


def test_nothing_reaches_for_the_network_unless_asked_to():
    found = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True)
    assert found.stdout == "(1, 64, 64, 3)\n", found.stderr


def test_a_name_on_the_hub_is_asked_for_when_the_user_says_so(monkeypatch):
    asked = []

    def refuse(host, *rest, **words):
        asked.append(host)
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(RunError, match="cannot be loaded"):
        pipelines.load("nobody/nothing", hub=True)
    assert asked


def test_what_a_signed_file_says_wrongly_is_an_error_that_names_the_file(tmp_path):
    for about in ({}, {"knobs": 3, "names": []}, {"knobs": [{}], "names": ["a"]}, {"knobs": [[]], "names": None}):
        save_arrays(tmp_path / "a.safetensors", {"values": np.zeros((2, 1, 1))}, about)
        with pytest.raises(DataError, match=r"a\.safetensors: holds no recorded session"):
            session.load(tmp_path / "a.safetensors")
    with pytest.raises(MismatchError, match="as it is"), understood("a", "thing"):
        raise MismatchError("as it is")


def test_a_folder_of_a_stranger_is_never_run(tmp_path):
    (tmp_path / "config.json").write_text('{"format": 1, "config": "__import__(\'os\')"}')
    with pytest.raises(MismatchError):
        open_run(tmp_path, {})


@pytest.mark.parametrize("target", [one for one in TARGETS if one.weight >= 1], ids=lambda target: target.name)
def test_a_changed_file_never_crashes_a_loader(target):
    assert attacked(target, inputs=25, seed=3) == []
