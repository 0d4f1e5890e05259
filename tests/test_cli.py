"""The command line: what it teaches, and how it fails."""

import subprocess
import sys

import pytest

from bayes_persona.cli import main


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert {"demo", "info"} <= set(capsys.readouterr().out.split())


def test_every_option_of_the_demo_has_its_sentence(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--particles INT Posterior draws, and members of every ensemble. (default: 10)" in shown


def test_info_lists_the_rooms(capsys):
    main(["info"])
    assert "nptl" in capsys.readouterr().out


def test_without_its_extra_the_demo_says_what_to_type():
    code = (
        "import sys\nsys.modules['jax'] = None\n"  # what an absent package looks like to an import
        "from bayes_persona.cli import main\nmain(['demo'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "bayes-persona: jax is missing; install it with: pip install 'bayes-persona[demo]'\n"


def test_a_setting_that_cannot_be_is_one_sentence_and_status_one(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--particles", "0"])
    assert stop.value.code != 0
    assert "particles" in "".join(capsys.readouterr())


def test_an_error_while_running_is_one_sentence_and_status_one(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--examples", "5000", "--out", str(tmp_path)])
    assert stop.value.code == 1
    assert "n: expected 1 to 1296" in " ".join(capsys.readouterr().err.split())
