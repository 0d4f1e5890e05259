"""The main job, small: it runs, says the same twice, and its page stands alone."""

import json
import re

import numpy as np
import pytest
from rich.console import Console

from bayes_persona import ConfigError
from bayes_persona.demo.config import Config
from bayes_persona.demo.digits import FONTS, handwritten, pretrained, printed
from bayes_persona.demo.pretrain import Config as Pretrain
from bayes_persona.demo.pretrain import main as pretrain
from bayes_persona.demo.run import run
from bayes_persona.demo.transfer import METHODS
from bayes_persona.files import load_arrays
from bayes_persona.metrics import accuracy
from bayes_persona.nptl.learner_torch import TorchLearner

SMALL = {
    "examples": 30,
    "particles": 2,
    "splits": 2,
    "episodes": 3,
    "drivers": 2,
    "portraits": 2,
    "portrait_steps": 2,
    "tunings": 2,
    "sampling": 2,
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    with (folder / "terminal.txt").open("w") as terminal:
        numbers = run(Config(out=folder, **SMALL), Console(file=terminal, width=100))
    return folder, numbers


def test_the_page_stands_alone_and_has_every_picture(outcome):
    page = (outcome[0] / "index.html").read_text()
    assert page.count("<svg") == 12
    assert not re.search(r'(src|href)="(?!#|data:)', page)  # nothing is fetched
    assert "$" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S)
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S).lower().split()


def test_terminal_and_json_tell_every_method(outcome):
    folder, numbers = outcome
    shown = (folder / "terminal.txt").read_text()
    assert all(name in shown for name in (*METHODS, *numbers["taxi"]))
    assert json.loads((folder / "results.json").read_text()) == numbers


def test_the_same_seed_gives_the_same_numbers(outcome, tmp_path):
    again = run(Config(out=tmp_path, **SMALL), Console(quiet=True))
    assert again["transfer"] == outcome[1]["transfer"]
    assert again["edges"] == outcome[1]["edges"]


def test_the_pretrained_net_reads_print_but_not_handwriting():
    learner = TorchLearner(pretrained(), head="head")
    x, y = printed(500, seed=99)
    digits = handwritten(1, seed=0)
    assert accuracy(learner.predict(learner.params, x), y) > 0.98
    assert 0.4 < accuracy(learner.predict(learner.params, digits.x_test), digits.y_test) < 0.8


def test_pretraining_is_repeatable_and_says_what_it_did(tmp_path, capsys):
    for name in ("one", "two"):
        pretrain(Pretrain(out=tmp_path / f"{name}.safetensors", pictures=64, steps=3))
    (one, about), (two, _) = (load_arrays(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert about["pictures"] == 64


def test_tuning_and_report_digits_never_meet():
    tuning, report = handwritten(10, seed=0, part="tuning"), handwritten(10, seed=1)
    seen = {picture.tobytes() for picture in (*tuning.x, *tuning.x_test)}
    both = sum(picture.tobytes() in seen for picture in (*report.x, *report.x_test))
    assert both <= 2  # the set itself holds a few pictures twice
    with pytest.raises(ConfigError, match="n: expected 1 to 499"):
        handwritten(500, seed=0, part="tuning")


def test_every_font_prints_every_digit_differently():
    pictures, labels = printed(400, seed=1)
    assert len(FONTS) == 17
    assert set(labels) == set(range(10))
    assert len({picture.tobytes() for picture in pictures}) > 390
