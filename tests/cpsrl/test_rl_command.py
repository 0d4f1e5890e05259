"""The `rl` command, run as its users run it."""

import json
import sys

import gymnasium
import networkx as nx
import numpy as np
import pytest

from bayes_persona.cli import main
from bayes_persona.cpsrl import graph_files
from bayes_persona.errors import ConfigError
from bayes_persona.files import load_json
from bayes_persona.rl import run as command
from bayes_persona.rl.config import Config

SMALL = '{"machines": 3}'


@pytest.fixture
def known(tmp_path):
    """Give a file that says a part of what is true of three machines."""
    graph = nx.DiGraph([("reboot", f"machine{number}'") for number in range(3)])
    graph.add_edge("machine0", "machine0'", probability=0.9)
    graph_files.write(tmp_path / "known.graphml", graph)
    return tmp_path / "known.graphml"


def rl(folder, *words, episodes=4):
    main(
        [
            *("rl", "--env", "bayes_persona/SysAdmin-v0", "--env-kwargs", SMALL, "--horizon", "6", "--seeds", "3"),
            *("--episodes", str(episodes), "--folder", str(folder), *words),
        ]
    )


def fails(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(["rl", *words])
    assert stop.value.code != 0
    return " ".join("".join(capsys.readouterr()).replace("│", " ").split())


def test_a_run_leaves_pictures_numbers_and_a_graph_that_can_be_told_again(known, tmp_path, capsys):
    folder = tmp_path / "run"
    rl(folder, "--graph", str(known), "--compare", "flat")
    shown = capsys.readouterr().out
    assert "told known.graphml" in shown
    assert "machine2'" in shown
    numbers = load_json(folder / "results.json")
    assert list(numbers["agents"]) == ["told known.graphml", "flat"]
    lost = numbers["agents"]["flat"]["regret"]
    assert 0 < lost["low"] < lost["mean"] < lost["high"] < 4 * numbers["optimum"]
    assert len(numbers["edges"]) == 12
    for name in ("regret.png", "graph.png"):
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"
    learned = graph_files.read(folder / "learned.graphml")
    assert learned.edges["reboot", "machine0'"]["probability"] == 1
    assert 0 < learned.edges["machine1", "machine0'"]["probability"] < 1
    rl(tmp_path / "next", "--graph", str(folder / "learned.graphml"))  # what was learned is a prior


def test_more_episodes_go_on_from_there_and_other_settings_do_not(known, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "CHUNK", 4)
    rl(tmp_path / "parts", "--graph", str(known))
    rl(tmp_path / "parts", "--graph", str(known), "--compare", "flat", episodes=8)
    rl(tmp_path / "whole", "--graph", str(known), "--compare", "flat", episodes=8)
    parts, whole = (load_json(tmp_path / name / "results.json") for name in ("parts", "whole"))
    assert parts["agents"] == whole["agents"]
    assert parts["edges"] == whole["edges"]
    capsys.readouterr()
    common = ["--env", "bayes_persona/SysAdmin-v0", "--env-kwargs", SMALL, "--horizon", "6", "--episodes", "8"]
    common += ["--folder", str(tmp_path / "parts"), "--graph", str(known)]
    assert "seeds was 3, is now 2" in fails(capsys, [*common, "--seeds", "2"])
    assert "agent.alpha was 1.0, is now 0.5" in fails(capsys, [*common, "--seeds", "3", "--alpha", "0.5"])
    assert "has 8 episodes already" in fails(capsys, [*common, "--seeds", "3", "--episodes", "7"])
    graph_files.write(known, nx.DiGraph([("machine0", "machine0'")]))
    assert "known was" in fails(capsys, [*common, "--seeds", "3"])


def test_one_seed_of_a_flat_agent_has_no_interval_and_no_graph(tmp_path, capsys):
    rl(tmp_path, "--graph", "flat", "--seeds", "1", "--method", "ucbvi", episodes=1)
    numbers = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert numbers["agents"]["flat"]["regret"]["low"] is None
    assert "edges" not in numbers
    assert not (tmp_path / "graph.png").exists()
    assert "flat" in capsys.readouterr().out


def test_an_environment_of_ones_own_is_named_after_its_module(spec, world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "a_module_of_ones_own", sys)  # what an imported one looks like
    gymnasium.register("own/World-v0", lambda parents: world(spec(0, parents=parents)))
    try:
        main(
            [
                *("rl", "--env", "a_module_of_ones_own:own/World-v0", "--env-kwargs", '{"parents": 1}'),
                *("--horizon", "3", "--episodes", "2", "--seeds", "2", "--folder", str(tmp_path)),
                *("--method", "ucbvi"),
            ]
        )
    finally:
        gymnasium.registry.pop("own/World-v0")
    assert np.isfinite(load_json(tmp_path / "results.json")["optimum"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "bayes_persona/Taxy-v0"], "of ours there are bayes_persona/RandomFactored-v0"),
        (["--env", "CartPole-v1"], "has no fmdp_spec()"),
        (["--env", "no_such_module:World-v0"], "name another's module first, module:id"),
        (["--env", "a:b:c"], "name another's module first, module:id"),
        (["--env", "bayes_persona/Taxi-v0", "--horizon", "500"], "horizon: bayes_persona/Taxi-v0 stops episodes after"),
        (["--env", "bayes_persona/Taxi-v0", "--env-kwargs", '{"wheels": 4}'], 'does not take {"wheels": 4}'),
        (["--env", "bayes_persona/Taxi-v0", "--env-kwargs", '{"size": 4}'], "size: expected one of"),
        (["--env", "bayes_persona/SysAdmin-v0", "--env-kwargs", '{"machines": 30}'], "settings, more than the"),
        (["--env", "bayes_persona/Taxi-v0", "--graph", "nowhere.graphml"], "nowhere.graphml: could not be read"),
    ],
)
def test_what_cannot_be_run_is_said(words, message, capsys, tmp_path):
    assert message in fails(capsys, [*words, "--folder", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_graph_of_other_variables_and_a_broken_file_are_refused(known, tmp_path, capsys):
    words = ["--env", "bayes_persona/Taxi-v0", "--folder", str(tmp_path / "run"), "--graph"]
    assert "is not a variable" in fails(capsys, [*words, str(known)])
    (tmp_path / "broken.graphml").write_text("<graphml>")
    assert "not valid GraphML" in fails(capsys, [*words, str(tmp_path / "broken.graphml")])


def test_settings_that_cannot_be_are_refused():
    for wrong, message in (
        ({"graph": "nothing"}, "graph: expected a file that ends in .graphml or .bif, or none, true, complete, flat"),
        ({"env_kwargs": "size=3"}, "env_kwargs: not valid JSON"),
        ({"env_kwargs": "[3]"}, "env_kwargs: expected a JSON object"),
        ({"seeds": 0}, "seeds: expected at least 1, got 0"),
        ({"max_parents": -1}, "max_parents: expected at least 0, got -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            Config(env="bayes_persona/Taxi-v0", **wrong)


def test_help_teaches_by_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["rl", "--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "bayes-persona rl --env bayes_persona/Taxi-v0 --graph known.graphml" in shown
    assert "--method {psrl,map,mean,ucbvi,rlsvi}" in shown
