"""The personalize command, on a random model: what it writes, and what it refuses."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bayes_persona import cli
from bayes_persona.diffusion import adapter, pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.perfusion.loaded import load_perfusion, unload_perfusion
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.errors import ConfigError, MismatchError
from bayes_persona.persona import turning
from bayes_persona.persona.config import Config
from bayes_persona.persona.run import run
from bayes_persona.world import splits
from tests.diffusion.tiny import tiny

QUICK = {"superclass": "cat", "particles": 2, "steps": 2, "pictures": 1, "alpha": 0.0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number, (mode, shape) in enumerate((("RGB", (90, 70, 3)), ("RGBA", (64, 64, 4)), ("L", (50, 80)))):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode).save(folder / f"{number}.png")
    (folder / "0.txt").write_text("{subject} on a sofa")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    return folder


@pytest.fixture(scope="module")
def outcome(base, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    config = Config(photos=photos, base=base, out=out, prompt=("a cat at night", "{subject} on a sofa"), **QUICK)
    with (out / "terminal.txt").open("w") as terminal:
        numbers = run(config, Console(file=terminal, width=100))
    return config, numbers


def test_the_page_stands_alone_and_shows_every_prompt(outcome):
    config, numbers = outcome
    page = (config.out / "index.html").read_text()
    words = re.sub(r"<svg.*?</svg>", "", page, flags=re.S)
    assert page.count("<svg") == 5  # the photos, and of each prompt a gallery and maps
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "$" not in words
    assert "&lt;me&gt; cat at night" in words
    assert "broken.jpg" in words
    assert list(numbers["prompts"]) == ["<me> cat at night", "<me> cat on a sofa"]


def test_what_was_learned_is_saved_with_what_it_was_learned_on(outcome, base):
    config, _ = outcome
    found, about = adapter.load(config.out / "personalization.safetensors", base=pipelines.fingerprint(tiny()))
    assert len(found) == 2
    assert about["subject"]["superclass"] == "cat"
    with pytest.raises(MismatchError, match="base model"):
        adapter.load(config.out / "personalization.safetensors", base="another")


def test_pictures_and_numbers_lie_beside_the_page(outcome):
    config, _ = outcome
    assert len(list((config.out / "pictures").glob("*.png"))) == 2 * (1 + 2)
    assert json.loads((config.out / "results.json").read_text())["config"]["particles"] == 2
    assert "skipped" in (config.out / "terminal.txt").read_text()


def test_a_second_run_goes_on_from_the_first_and_ends_in_the_same_numbers(outcome):
    config, numbers = outcome
    before = (config.out / "personalization.safetensors").read_bytes()
    assert run(config, Console(quiet=True)) == numbers
    assert (config.out / "personalization.safetensors").read_bytes() == before


def test_a_prompt_without_a_subject_is_refused_before_any_training(base, photos, tmp_path):
    config = Config(photos=photos, base=base, out=tmp_path / "out", prompt=("a dog",), **QUICK)
    with pytest.raises(ConfigError, match="does not name the subject"):
        run(config, Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_one_sentence_and_status_one(base, tmp_path, capsys):
    args = ["personalize", "--photos", str(tmp_path / "none"), "--superclass", "cat", "--base", str(base)]
    with pytest.raises(SystemExit, match="1"):
        cli.main([*args, "--out", str(tmp_path / "out")])
    assert "none" in capsys.readouterr().err


def test_celeb_basis_runs_on_a_model_of_the_users_own(base, photos, tmp_path):
    quick = {**QUICK, "particles": 1, "steps": 1}
    run(Config(photos=photos, base=base, out=tmp_path, method="celeb_basis", **quick), Console(quiet=True))
    found, about = adapter.load(tmp_path / "personalization.safetensors")
    assert about["method"] == "celeb_basis"
    assert {name: value.shape for name, value in found[0].items()} == {"coefficients": (1, 32)}


def test_perfusion_looks_where_masks_say_and_is_loaded_by_its_own_verb(base, photos, tmp_path):
    (tmp_path / "photos" / "masks").mkdir(parents=True)
    for name in ("0.png", "0.txt"):
        (tmp_path / "photos" / name).write_bytes((photos / name).read_bytes())
    Image.new("L", (90, 70), 255).save(tmp_path / "photos" / "masks" / "0.png")
    quick = {**QUICK, "particles": 1, "steps": 1}
    config = Config(photos=tmp_path / "photos", base=base, out=tmp_path / "out", method="perfusion", **quick)
    run(config, Console(quiet=True))
    pipe = pipelines.load(base)
    assert load_perfusion(pipe, config.out / "personalization.safetensors") == "<me>"
    unload_perfusion(pipe)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """The whole page, on the embedded model: α by held-out photos, the verdict, and three generations of tuning."""
    folder, out = tmp_path_factory.mktemp("me"), tmp_path_factory.mktemp("everything")
    for number, photo in enumerate(splits.photos(splits.held_out(1, seed=0)[0], 2, seed=0)):
        Image.fromarray(photo.render().pixels).save(folder / f"{number}.png")
    config = Config(
        folder, "man", out=out, prompt=("a man at night",), alpha="held-out", base_measure="distilled", particles=2,
        steps=1, pictures=2, sampling=1, tune=3,
    )  # fmt: skip
    return config, run(config, Console(quiet=True))


def test_the_whole_page_says_what_the_prior_is_worth_how_sure_it_is_and_what_was_turned(everything):
    config, said = everything
    page = (config.out / "index.html").read_text()
    for title in (
        "What is the prior worth?",
        "How sure are we of this person?",
        "&lt;me&gt; the man at night",
        "Tuned",
    ):
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == 7
    assert said["verdict"]["text"] in html.unescape(page)
    losses = said["alpha"]["losses"]
    assert str(said["alpha"]["chosen"]) == min(losses, key=lambda one: losses[one])
    assert list(said["tuned"]["setting"]) == ["embedding", "guidance"]
    assert json.loads((config.out / "results.json").read_text())["verdict"] == said["verdict"]


def test_a_soup_of_all_members_lies_beside_them(everything):
    config, _ = everything
    members, _ = adapter.load(config.out / "personalization.safetensors")
    one, about = adapter.load(config.out / "soup.safetensors")
    assert about["method"] == "textual_inversion"
    np.testing.assert_allclose(one[0]["embedding"], members.mean()["embedding"], rtol=1e-6)


def test_the_whole_page_a_second_time_is_the_same(everything):
    config, said = everything
    assert run(config, Console(quiet=True)) == said


def test_what_knobs_did_for_one_is_known_for_the_next(everything, tmp_path):
    config, _ = everything
    made = turning.earlier(replace(config, earlier=(config.out,)), TextualInversion(Subject("man")))
    assert [len(history) for history in made] == [3]
    quick = {"steps": 1, "particles": 1, "pictures": 1, "sampling": 1, "alpha": 0.0, "tune": 1}
    later = Config(config.photos, "man", out=tmp_path, earlier=(config.out, config.out), **quick)
    run(later, Console(quiet=True))
    assert turning.earlier(replace(later, earlier=(tmp_path,)), TextualInversion(Subject("man")))[0][0].values
    with pytest.raises(MismatchError, match="expected generations of"):
        run(replace(later, method="low_rank", out=tmp_path / "other"), Console(quiet=True))
    assert not (tmp_path / "other" / "run").exists()


def test_moa_is_told_by_the_mixture_that_comes_with_the_embedded_model(everything, tmp_path):
    quick = {"steps": 1, "particles": 1, "pictures": 1, "sampling": 1, "alpha": 0.0}
    config = Config(everything[0].photos, "man", out=tmp_path, method="moa", **quick)
    assert list(run(config, Console(quiet=True))["prompts"]) == ["a man <me>"]
    assert adapter.load(tmp_path / "personalization.safetensors")[1]["method"] == "moa"


def test_what_needs_a_judge_or_a_mixture_says_so_before_training(base, photos, tmp_path):
    with pytest.raises(ConfigError, match="give --judge the folder of a CLIP model"):
        Config(photos, "cat", base=base, tune=5)
    with pytest.raises(ConfigError, match="needs a mixture that was trained for this model"):
        run(Config(photos, "cat", base=base, out=tmp_path, method="moa"), Console(quiet=True))
    with pytest.raises(ConfigError, match="tune: expected at least 0"):
        Config(photos, "cat", tune=-1)
    with pytest.raises(ConfigError, match="earlier: is for --tune"):
        Config(photos, "cat", earlier=(photos,))
    assert not list(tmp_path.iterdir())
