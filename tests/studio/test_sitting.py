"""The studio without its page: photos are copied with care, work is seen and stopped, knobs turn what was learned."""

from typing import get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import generate, pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.errors import ConfigError, DataError, RunError
from bayes_persona.persona import methods
from bayes_persona.persona.base_measure import Shown
from bayes_persona.persona.config import Config as Personalize
from bayes_persona.persona.learned import Learned
from bayes_persona.posterior import Posterior
from bayes_persona.progress import Progress, bar
from bayes_persona.studio import sitting
from bayes_persona.studio.config import Config
from bayes_persona.studio.job import STOPPED, Job
from bayes_persona.studio.sitting import Sitting, Turn

NAMES = get_args(get_type_hints(Personalize)["method"])


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "me.png"
    Image.new("RGB", (12, 9), "red").save(path)
    return path


@pytest.fixture(scope="module")
def robot():
    """Somebody by low-rank updates that do something, as if they had been learned."""
    pipe, method = pipelines.load(), LowRank(Subject("robot", template="{token} the {superclass}"), rank=1)
    params = {name: value + 0.05 for name, value in method.init(pipe, 2, seed=0).items()}
    two = Posterior(tuple({name: value[k] * (1 + k) for name, value in params.items()} for k in range(2)))
    shown = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",))
    return Learned(pipe, method, two, shown, generate.Config(steps=2))


def test_the_same_photos_and_settings_have_one_folder_and_others_another(photo, tmp_path):
    config, other = Config(out=tmp_path / "out"), photo.with_name("you.png")
    Image.new("RGB", (12, 9), "blue").save(other)
    folders = [
        sitting.asked(config, files, captions, superclass="robot", steps=steps).out
        for files, captions, steps in (
            ([photo], "", 3), ([photo], "", 3), ([photo], "", 4), ([other], "", 3), ([photo], "{subject}", 3),
        )
    ]  # fmt: skip
    assert folders[0] == folders[1]
    assert len(set(folders)) == 4


def test_names_of_photos_lead_nowhere_else(photo, tmp_path):
    odd = [photo.with_name(name) for name in ("a..png", "-rf .png", "ü" * 80 + ".PNG", ".png.png", "a\nb.png")]
    for path in odd:
        path.write_bytes(photo.read_bytes())
    command = sitting.asked(Config(out=tmp_path / "out"), odd, superclass="../../robot")
    assert command.out.parent == tmp_path / "out"
    kept = sorted(path.name for path in command.photos.iterdir())
    assert len(kept) == 5
    assert all(set(name) <= set("0123456789-_abfgnpr.") for name in kept)


def test_what_is_no_picture_is_refused_before_anything_is_copied(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="not a picture"):
        sitting.asked(Config(out=tmp_path / "out"), [tmp_path / "a.png"], superclass="robot")
    assert not (tmp_path / "out").exists()


def test_more_captions_than_photos_are_refused(photo, tmp_path):
    with pytest.raises(ConfigError, match="3 lines for 1 photos"):
        sitting.asked(Config(out=tmp_path), [photo], "one\ntwo\nthree", superclass="robot")


@pytest.mark.parametrize("name", NAMES)
def test_the_knobs_of_every_method_find_a_slider_and_can_be_turned_to_their_ends(name, tmp_path):
    gradio = pytest.importorskip("gradio", reason="gradio is not installed: pip install 'bayes-persona[studio]'")
    assert gradio
    from bayes_persona.studio import desk, page

    assert name in page.METHODS
    command = Personalize(tmp_path, "man", method=name, out=tmp_path)
    if name == "lipe":  # it looks for others.json among the photos
        pytest.skip("its knobs are those of low-rank updates, and to make it draws pictures of others")
    shown = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("{subject}",))
    method = methods.adapter(command, pipelines.load(), methods.subject(command), shown)
    dials = sitting.dials(method)
    assert len(dials) <= desk.DIALS
    for dial in dials:
        assert dial.low <= dial.now <= dial.high
        for end in (dial.low, dial.high):
            turned, _ = sitting.turned(method, Turn(knobs={dial.name: end}))
            assert getattr(turned, dial.name) == end


def test_with_every_gate_shut_the_members_agree_and_knobs_at_nothing_do_the_same(robot, tmp_path):
    who = Sitting(tmp_path, robot, {})
    plain = sitting.see(who, Turn("a robot at night", pictures=1))
    shut = sitting.see(who, Turn("a robot at night", pictures=1, shut=("down", "mid", "up")))
    nothing = sitting.see(who, Turn("a robot at night", pictures=1, knobs={"scale": 0.0}))
    assert (plain.members[0] != plain.members[1]).any()
    assert (shut.members[0] == shut.members[1]).all()
    assert (nothing.members == shut.members).all()
    assert (sitting.see(who, Turn("a robot at night", pictures=1)).averaged == plain.averaged).all()


def test_guidance_and_noise_change_the_picture(robot, tmp_path):
    who = Sitting(tmp_path, robot, {})
    pictures = [
        sitting.see(who, Turn("a robot", pictures=1, guidance=guidance, seed=seed)).averaged
        for guidance, seed in ((3.0, 0), (6.0, 0), (3.0, 1))
    ]
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[0] != pictures[2]).any()


def test_what_is_no_knob_and_what_is_no_gate_is_said(robot, tmp_path):
    who = Sitting(tmp_path, robot, {})
    with pytest.raises(ConfigError, match="beta: low_rank has no such knob; it has scale"):
        sitting.see(who, Turn("a robot", knobs={"beta": 0.5}))
    with pytest.raises(ConfigError, match="head: low_rank has no such gates; it has down, mid, up"):
        sitting.see(who, Turn("a robot", shut=("head",)))
    with pytest.raises(ConfigError, match="does not name the subject"):
        sitting.see(who, Turn("a cat"))


def test_a_turned_perfusion_is_taken_along_with_its_gate(robot, tmp_path):
    method = Perfusion(Subject("robot"))
    who = Sitting(tmp_path, robot._replace(adapter=method), {})
    members, about = adapters.load(sitting.save(who, Turn(knobs={"beta": 0.4, "tau": 0.2}, guidance=5.0)))
    again = Perfusion(Subject(**about["subject"]), **about["settings"])
    assert (again.beta, again.tau, about["guidance"], len(members)) == (0.4, 0.2, 5.0, 2)


def counted(n, upto):
    """Work of n steps that says how far it came."""

    def work(console):
        console.print("begun")
        with bar("counting", total=n) as advance:
            for k in range(n):
                upto.append(k)
                advance()
        return "done"

    return work


def test_a_job_is_seen_and_gives_its_result():
    job = Job(counted(3, []))
    seen = list(job.moments(every=0.01))
    assert seen[-1].progress == Progress("counting", 3, 3)
    assert seen[-1].said == "begun\n"
    assert job.result() == "done"


def test_a_job_that_is_stopped_ends_after_its_next_step():
    done: list[int] = []
    job = Job(counted(10**9, done))
    moments = job.moments(every=0.01)
    next(moments)
    job.stop()
    assert len(list(moments)) >= 1
    with pytest.raises(RunError, match=STOPPED):
        job.result()
    assert len(done) < 10**9


def test_a_job_that_nobody_looks_at_any_more_ends():
    done: list[int] = []
    moments = Job(counted(10**9, done)).moments(every=0.01)
    next(moments)
    moments.close()
    count = len(done)
    assert len(done) == count


def test_an_error_in_a_job_is_the_error_of_its_result():
    def work(console):
        raise DataError("photos: there are none")

    job = Job(work)
    list(job.moments(every=0.01))
    with pytest.raises(DataError, match="there are none"):
        job.result()
