"""What is pressed on the studio's page, pressed without a page: learn, stop, go on, see, save."""

import pytest

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'bayes-persona[studio]'")

from bayes_persona.diffusion import adapter as adapters
from bayes_persona.studio import desk, sitting
from bayes_persona.studio.config import Config
from bayes_persona.studio.desk import Asked, Desk
from bayes_persona.studio.job import STOPPED


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    _, files, _ = sitting.somebody(tmp_path_factory.mktemp("files"), 0, photographs=2)
    return [str(path) for path in files]


def asked(files, **more):
    usual = {"particles": 2, "steps": 2, "alpha": 0, "held_out": False, "sampling": 1, "tune": 0, "seed": 0}
    return Asked(files, "man", "textual_inversion", **{"prompts": "", "captions": "", **usual, **more})


def member(table):
    return table.sitting.learned.posterior.stacked()["embedding"]


@pytest.fixture(scope="module")
def told(files, tmp_path_factory):
    config = Config(out=tmp_path_factory.mktemp("studio"))
    return config, list(desk.learn(config, Desk(), *asked(files, prompts="{subject} at night")))


def test_learning_ends_with_a_verdict_pictures_the_report_and_files(told):
    _, moments = told
    assert 'class="moment"' in moments[0][1]
    table, status, pictures, report, files, prompt, guidance, gates, *dials = moments[-1]
    assert 'class="verdict"' in status
    assert pictures.count("<svg") == 2
    assert "A posterior over one man" in report
    assert {path.rpartition("/")[2] for path in files} == {
        "personalization.safetensors",
        "soup.safetensors",
        "index.html",
    }
    assert (prompt, guidance) == ("{subject} at night", 3.0)
    assert gates["choices"] == gates["value"] == ["embedding"]
    assert [dial["visible"] for dial in dials] == [False] * desk.DIALS
    members, _ = adapters.load(table.sitting.folder / "personalization.safetensors")
    assert len(members) == 2


def test_the_page_of_the_studio_is_the_page_of_the_command(told):
    _, moments = told
    folder = moments[-1][0].sitting.folder
    assert "bayes-persona personalize" in (folder / "index.html").read_text()


def test_turning_shows_what_was_before_from_the_same_noise(told):
    _, moments = told
    table = moments[-1][0]
    turned, first = desk.see(table, "{subject} at night", 3.0, 2, 0, ["embedding"], 1, 1)
    assert first.count("<svg") == 2  # nothing was turned
    turned, second = desk.see(turned, "{subject} at night", 5, 2, 0, [], 1, 1)
    assert second.count("<svg") == 3
    assert "before the last turn" in second
    _, third = desk.see(turned, "{subject} at night", 5, 2, 7, [], 1, 1)
    assert third.count("<svg") == 2  # other noise cannot be compared


def test_errors_are_shown_in_their_own_words(told, files):
    config, moments = told
    (only,) = list(desk.learn(config, Desk(), *asked([])))
    assert "there are none" in only[1]
    *_, last = desk.learn(config, Desk(), *asked(files, prompts="a dog"))
    assert "does not name the subject" in last[1]
    (only,) = list(desk.learn(config, Desk(), *asked(files, steps=None)))
    assert "steps: expected a number, got nothing" in only[1]
    _, said = desk.see(moments[-1][0], "a dog", 3, 2, 0, [], 1, 1)
    assert said.startswith('<p class="problem">')


def test_saving_adds_a_file(told):
    _, moments = told
    files, said = desk.save(moments[-1][0], "{subject}", 4, 2, 0, [], 1, 1)
    assert files[-2].endswith("turned.safetensors")
    assert "verdict" in said
    assert adapters.load(files[-2])[1]["shut"] == ["embedding"]


def test_who_was_stopped_goes_on_to_the_same_numbers(files, tmp_path):
    config, question = Config(out=tmp_path / "stopped"), asked(files, steps=12)
    moments = desk.learn(config, Desk(), *question)
    for outputs in moments:
        if "learning from the photos" in outputs[1]:
            desk.stop(outputs[0])
    assert STOPPED in outputs[1]
    *_, whole = desk.learn(config, Desk(), *question)
    *_, undisturbed = desk.learn(Config(out=tmp_path / "undisturbed"), Desk(), *question)
    assert (member(whole[0]) == member(undisturbed[0])).all()


def test_photos_that_cannot_be_used_are_named_when_they_are_given(files, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no")
    assert "left out: broken.jpg" in desk.given([*files, str(tmp_path / "broken.jpg")])
    assert "no photo that can be used" in desk.given([str(tmp_path / "broken.jpg")])
    assert desk.given(None) == ""
