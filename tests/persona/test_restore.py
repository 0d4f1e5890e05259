"""The restore command, on a random model: what it writes, and what it refuses."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bayes_persona import cli
from bayes_persona.diffusion import adapter, pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.restoration import guide as guides
from bayes_persona.diffusion.restoration.guide import Guide
from bayes_persona.errors import ConfigError, DataError, MismatchError, RunError
from bayes_persona.persona.config import Config as Personalize
from bayes_persona.persona.restore import run
from bayes_persona.persona.restore_config import Config
from bayes_persona.persona.run import run as personalize
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import generator
from tests.diffusion.test_restoration import moved
from tests.diffusion.tiny import tiny

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for k, side in enumerate((64, 40, 12)):
        pixels = generator(k, "photo").integers(0, 256, (side, 2 * side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{side}.png")
    return folder


@pytest.fixture(scope="module")
def guide(base, tmp_path_factory):
    folder, pipe = tmp_path_factory.mktemp("guide"), pipelines.load(base)
    guides.save(folder, moved(Guide.of(pipe)), base=pipelines.fingerprint(pipe))
    return folder


@pytest.fixture(scope="module")
def person(base, guide, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("person")
    quick = {"particles": 2, "steps": 2, "pictures": 1, "alpha": 0.0, "rate": 0.1}
    personalize(Personalize(photos, "cat", base=base, guide=guide, method="dual_pivot", out=out, **quick), QUIET)
    return out / "personalization.safetensors"


def test_before_and_after_are_written_and_shown(base, guide, person, photos, tmp_path):
    config = Config(photos / "40.png", person, out=tmp_path, base=base, guide=guide, steps=2, truth=photos / "64.png")
    scores = run(config, QUIET)
    assert set(scores) == {"the restorer alone", "restored"}
    assert json.loads((tmp_path / "results.json").read_text())["scores"] == scores
    pictures = {}
    for name in ("before", "after", "anyone", "member0", "member1"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == (64, 64)
            pictures[name] = np.asarray(picture)
    assert not np.array_equal(pictures["after"], pictures["anyone"])
    page = (tmp_path / "index.html").read_text()
    assert page.count("<svg") == 2
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "$" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S)
    assert "&lt;me&gt; cat" in page
    assert run(config, QUIET) == scores


def test_the_prompt_says_what_is_edited(base, guide, person, photos, tmp_path):
    plain = {"base": base, "guide": guide, "steps": 2, "photo": photos / "64.png", "person": person}
    run(Config(**plain, out=tmp_path / "plain"), QUIET)
    run(Config(**plain, out=tmp_path / "happy", prompt="{subject} looking happy"), QUIET)
    one, other = (np.asarray(Image.open(tmp_path / name / "after.png")) for name in ("plain", "happy"))
    assert not np.array_equal(one, other)


def test_what_cannot_be_restored_is_said(base, guide, person, photos, tmp_path):
    plain = {"out": tmp_path, "base": base, "guide": guide, "steps": 1}
    with pytest.raises(DataError, match="24×12 is less than 16×16"):
        run(Config(photos / "12.png", person, **plain), QUIET)
    with pytest.raises(DataError, match="there is no such file"):
        run(Config(photos / "none.png", person, **plain), QUIET)
    with pytest.raises(ConfigError, match="does not name the subject"):
        run(Config(photos / "64.png", person, prompt="a dog", **plain), QUIET)
    with pytest.raises(ConfigError, match="guide: this model needs one"):
        run(Config(photos / "64.png", person, **{**plain, "guide": None}), QUIET)
    with pytest.raises(MismatchError, match="was trained on base model"):
        run(Config(photos / "64.png", person, **{**plain, "base": None}), QUIET)
    with pytest.raises(RunError, match="no such file"):
        run(Config(photos / "64.png", person, **{**plain, "guide": tmp_path}), QUIET)
    with pytest.raises(ConfigError, match="steps"):
        Config(photos / "64.png", person, steps=0)
    with pytest.raises(ConfigError, match="scale"):
        Config(photos / "64.png", person, scale=-1.0)


def test_a_person_of_another_method_or_guide_is_refused(base, guide, person, photos, tmp_path):
    pipe, words = tiny(), TextualInversion(Subject("cat"))
    start = {name: value[0] for name, value in words.init(pipe, 1, seed=0).items()}
    adapter.save(tmp_path / "ti.safetensors", words, Posterior((start,)), base=pipelines.fingerprint(pipe))
    with pytest.raises(DataError, match="expected dual_pivot, got textual_inversion"):
        run(Config(photos / "64.png", tmp_path / "ti.safetensors", base=base, guide=guide), QUIET)
    guides.save(tmp_path, Guide.of(pipe), base=pipelines.fingerprint(pipe))
    with pytest.raises(MismatchError, match="was learned with guide"):
        run(Config(photos / "64.png", person, base=base, guide=tmp_path), QUIET)
    with pytest.raises(ConfigError, match="guide: this model needs one"):
        personalize(Personalize(photos, "cat", base=base, method="dual_pivot", out=tmp_path / "other"), QUIET)


def test_the_command_line_says_it_in_one_sentence(photos, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["restore", "--photo", str(photos / "64.png"), "--person", "nowhere.safetensors"])
    assert stop.value.code == 1
    assert "nowhere.safetensors: there is no such file" in capsys.readouterr().err
