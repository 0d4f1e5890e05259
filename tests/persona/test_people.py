"""The people command: everybody is who `personalize` learns, whoever shares them out; bad photos stop nobody else."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from bayes_persona.errors import ConfigError, DataError, MismatchError
from bayes_persona.persona import config as one
from bayes_persona.persona import people, run
from bayes_persona.persona.people_config import Config

QUICK = {"superclass": "cat", "particles": 2, "steps": 2, "pictures": 1, "alpha": 0.0, "sampling": 2}
LEARNED = "personalization.safetensors"
SCRIPT = """
import sys
from pathlib import Path
from rich.console import Console
from bayes_persona.persona.people import run
from bayes_persona.persona.people_config import Config
if "auto" in sys.argv:
    import ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
photos, base, out = map(Path, sys.argv[1:4])
settings = dict(superclass="cat", particles=2, steps=2, pictures=1, alpha=0.0, sampling=2, workers=2)
run(Config(photos=photos, base=base, out=out, ray="auto" if "auto" in sys.argv else None, **settings), Console())
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As workers have it: sums depend on the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("everybody"), np.random.default_rng(0)
    for name in ("tom", "ada"):
        (folder / name).mkdir()
        for k in range(2):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / name / f"{k}.png")
    (folder / "nobody").mkdir()
    return folder


@pytest.fixture(scope="module")
def learned(photos, base, tmp_path_factory):
    out = tmp_path_factory.mktemp("people")
    with (out / "terminal.txt").open("w") as terminal:
        said = people.run(Config(photos=photos, base=base, out=out, **QUICK), Console(file=terminal, width=200))
    return out, said


def test_everybody_is_who_personalize_learns(learned, photos, base, tmp_path):
    out, said = learned
    assert list(said["learned"]) == ["ada", "tom"]
    for name in ("ada", "tom"):
        run.run(one.Config(photos=photos / name, base=base, out=tmp_path / name, **QUICK), Console(quiet=True))
        assert (out / name / LEARNED).read_bytes() == (tmp_path / name / LEARNED).read_bytes()


def test_who_has_no_photos_is_named_and_left_out(learned):
    out, said = learned
    assert said["left out"] == json.loads((out / "results.json").read_text())["left out"] == ["nobody"]
    assert "1 of 3 draws failed and are left out; the first: draw 1: nobody: " in (out / "terminal.txt").read_text()


def test_the_page_links_to_each_and_shows_the_less_sure_first(learned):
    out, said = learned
    page, spread = (out / "index.html").read_text(), {n: people._spread(one) for n, one in said["learned"].items()}
    assert page.count("<svg") == 2
    first, second = sorted(spread, key=lambda name: -spread[name])
    assert 0 < page.index(f'href="{first}/index.html"') < page.index(f'href="{second}/index.html"')


def test_a_run_goes_on_with_who_is_missing_or_new(learned, photos, base, monkeypatch):
    out, said = learned
    shutil.copytree(photos / "ada", photos / "bob")
    asked = []
    monkeypatch.setattr(people, "learn", lambda who: asked.append(who.out.name) or {"seconds": np.zeros(1)})
    again = people.run(Config(photos=photos, base=base, out=out, **QUICK), Console(quiet=True))
    shutil.rmtree(photos / "bob")
    assert asked == ["bob", "nobody"]
    assert again["learned"] == said["learned"]


def test_who_was_learned_otherwise_is_refused(learned, photos, base):
    with pytest.raises(MismatchError, match="config"):
        people.run(Config(photos=photos, base=base, out=learned[0], **{**QUICK, "steps": 3}), Console(quiet=True))


@pytest.mark.parametrize("how", ["processes", "auto"])
def test_shared_out_it_is_the_same(learned, photos, base, tmp_path, how):
    pytest.importorskip("ray" if how == "auto" else "joblib")
    script = [sys.executable, "-c", SCRIPT, str(photos), str(base), str(tmp_path / "out"), how]
    found = subprocess.run(script, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    for name in ("ada", "tom"):
        assert (tmp_path / "out" / name / LEARNED).read_bytes() == (learned[0] / name / LEARNED).read_bytes()


def test_what_makes_no_sense_is_refused(photos, tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        Config(tmp_path / "none", "cat").each()
    with pytest.raises(DataError, match="has no folders; expected one of each subject"):
        Config(photos / "ada", "cat").each()
    with pytest.raises(ConfigError, match="out: all machines of a cluster use one folder"):
        Config(photos, "cat", ray="auto")
    with pytest.raises(ConfigError, match="steps"):
        Config(photos, "cat", steps=0)
