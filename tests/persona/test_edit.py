"""The edit command, on a random model: what it writes, whose photos it edits, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bayes_persona import ConfigError, DataError, MismatchError, cli
from bayes_persona.diffusion import adapter, pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.lipe.method import Lipe
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.persona.config import Config as PersonalizeConfig
from bayes_persona.persona.edit import run
from bayes_persona.persona.edit_config import Config
from bayes_persona.persona.run import run as personalize
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import generator

QUIET = Console(quiet=True)
PROMPTS = ("a happy robot at night", "{subject} facing left at night")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "me.png"
    Image.fromarray(generator(0, "photo").integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.with_suffix(".txt").write_text("a sad robot at night")
    return path


@pytest.fixture(scope="module")
def learned(base, tmp_path_factory):
    pipe, path = pipelines.load(base), tmp_path_factory.mktemp("learned") / "me.safetensors"
    method = Lipe(Subject("robot"), rank=2)
    start = {name: value[0] for name, value in method.init(pipe, 1, seed=0).items()}
    adapter.save(path, method, Posterior((start, start)), base=pipelines.fingerprint(pipe))
    return path


def config(photo, learned, base, out, **said):
    return Config(photo, learned, said.pop("prompt", PROMPTS), base=base, out=out, steps=4, guidance=2.0, **said)


def test_edits_masks_and_a_page_are_written(base, photo, learned, tmp_path):
    said = config(photo, learned, base, tmp_path)
    edited = run(said, QUIET)
    assert edited.pixels.shape == (2, 64, 64, 3)
    for k in range(2):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"edit_{k}.png")), edited.pixels[k])
        white = np.asarray(Image.open(tmp_path / f"mask_{k}.png")) == 255
        assert np.array_equal(white[::4, ::4, 0], edited.mask[k].numpy())
    page = (tmp_path / "index.html").read_text()
    assert page.count("<svg") == 2
    assert "sad &lt;me&gt; robot at night" in page or "sad &lt;me&gt; the robot at night" in page
    assert "$" not in page
    results = json.loads((tmp_path / "results.json").read_text())
    assert [numbers["painted"] for numbers in results["prompts"].values()] == pytest.approx(
        edited.mask.float().mean(dim=(1, 2)).tolist()
    )
    again = run(config(photo, learned, base, tmp_path / "again", member=1), QUIET)
    assert np.array_equal(again.pixels, edited.pixels)


def test_a_caption_that_is_given_comes_before_the_file(base, photo, learned, tmp_path):
    run(config(photo, learned, base, tmp_path, prompt=PROMPTS[:1], caption="a robot on the beach"), QUIET)
    assert "robot on the beach" in (tmp_path / "index.html").read_text()


def test_a_person_learned_by_the_command_can_be_edited(base, photo, tmp_path):
    (photo.parent / "others.json").write_text('["a happy robot", "a robot facing left"]')
    quick = {"particles": 1, "steps": 1, "pictures": 1, "alpha": 0.0}
    asked = PersonalizeConfig(photo.parent, "robot", method="lipe", base=base, out=tmp_path / "me", **quick)
    personalize(asked, QUIET)
    assert len(list((tmp_path / "me" / "others").glob("*.png"))) == 2
    person = tmp_path / "me" / "personalization.safetensors"
    edited = run(config(photo, person, base, tmp_path / "edited", prompt=PROMPTS[:1]), QUIET)
    assert len(edited.pixels) == 1


def test_what_cannot_be_edited_is_said(base, photo, learned, tmp_path, capsys):
    with pytest.raises(ConfigError, match="does not name the subject"):
        run(config(photo, learned, base, tmp_path, prompt=("a cat at night",)), QUIET)
    with pytest.raises(DataError, match="has no member 2"):
        run(config(photo, learned, base, tmp_path, member=2), QUIET)
    with pytest.raises(MismatchError, match="base model"):
        run(config(photo, learned, None, tmp_path), QUIET)
    with pytest.raises(ConfigError, match="say what the photo should show"):
        Config(photo, learned, ())
    pipe, other = pipelines.load(base), Perfusion(Subject("robot"))
    start = {name: value[0] for name, value in other.init(pipe, 1, seed=0).items()}
    adapter.save(tmp_path / "p.safetensors", other, Posterior((start,)), base=pipelines.fingerprint(pipe))
    with pytest.raises(DataError, match="editing needs one of"):
        run(config(photo, tmp_path / "p.safetensors", base, tmp_path), QUIET)
    with pytest.raises(SystemExit):
        cli.main(["edit", "--photo", str(photo), "--person", "nobody.safetensors", "--prompt", "a robot"])
    assert "there is no such file" in capsys.readouterr().err
