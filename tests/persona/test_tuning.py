"""Tuning: knobs turn what they say, recordings answer as the session did, and causes are found and used."""

import gymnasium
import networkx as nx
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from bayes_persona import ConfigError, DataError, MismatchError
from bayes_persona.diffusion import generate
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.persona import gates, generations, knobs, session, tuning
from bayes_persona.persona.knobs import Knob
from bayes_persona.persona.scorers import Scores
from bayes_persona.persona.session import QUALITIES, Quality, Recorded, Session, utility
from bayes_persona.seeds import generator
from tests.diffusion.tiny import tiny

ROBOT = LowRank(Subject("robot"), rank=1)
TWO = (Quality("identity", 0.0, 1.0, levels=2), Quality("context", 0.0, 1.0, levels=2))


class Brightness:
    """Judges tiny pictures by how bright they are: real numbers that knobs move."""

    identity = prompt = "brightness"

    def __call__(self, pixels, prompts, photos):
        light = (pixels / 255).mean(axis=(1, 2, 3))
        return Scores(light, 1 - light)


def recorded(*effects, noise=0.0, places=2):
    """As many knobs as there are effects; knob k adds effect k to the identity, context stays."""
    turned = [Knob(f"k{k}", tuple(np.linspace(0, 1, places))) for k in range(len(effects))]
    every = np.array(np.unravel_index(np.arange(places ** len(effects)), [places] * len(effects))).T / (places - 1)
    identity = every @ np.array(effects)
    both = np.stack([identity, np.full_like(identity, 0.7)], axis=-1)[:, None]
    return Recorded(turned, ("identity", "context"), both + noise * generator(0, "noise").normal(size=both.shape))


@pytest.fixture(scope="module")
def pipe():
    return tiny()


def made(pipe, adapter=ROBOT, **settings):
    params = adapter.init(pipe, 1, seed=0)
    step = generator(0, "step")
    member = {
        name: (value[0] + 0.5 * step.normal(size=value[0].shape)).astype(np.float32) for name, value in params.items()
    }
    photo = np.zeros((1, 64, 64, 3), np.uint8)
    plain = {"scorer": Brightness(), "sampling": generate.Config(steps=2)}
    return Session(pipe, adapter, member, photo, ["a robot at night"], ["a cat"], **{**plain, **settings})


def test_knobs_turn_gates_settings_and_guidance():
    found = knobs.turned(ROBOT, knobs.usual(ROBOT), (0, 1, 1, 2, 0))
    assert found.gates == {gate: float(not gate.startswith("down")) for gate in ROBOT.gates}
    assert (found.adapter.scale, found.guidance) == (1.25, 1.5)
    assert ROBOT.scale == 1.0
    perfusion = Perfusion(Subject("robot"))
    assert [knob.name for knob in knobs.usual(perfusion)] == [
        "embedding",
        "down",
        "mid",
        "up",
        "beta",
        "tau",
        "guidance",
    ]
    assert knobs.described(knobs.usual(ROBOT), knobs.start(ROBOT, knobs.usual(ROBOT)))["guidance"] == 3.0


@pytest.mark.parametrize(
    ("turned", "places", "message"),
    [
        ((Knob("beta", (0.1, 0.2)),), (0,), "beta: low_rank has no such knob; it has scale, guidance"),
        ((Knob("mid", (0.0, 1.0), ("mid.nose",)),), (0,), r"mid: low_rank has no gate mid\.nose"),
        ((Knob("scale", (0.5, 1.0)),), (2,), "places: expected one of each of {'scale': 2}"),
        ((Knob("scale", (0.5, 1.0)),), (0, 0), "places: expected one of each of"),
        ((Knob("scale", (0.5, 1.0)), Knob("scale", (0.5, 1.0))), (0, 0), "all of different names"),
    ],
)
def test_knobs_that_there_are_not_are_refused(turned, places, message):
    with pytest.raises(ConfigError, match=message):
        knobs.turned(ROBOT, turned, places)


def test_a_session_answers_by_setting_and_seed_alone(pipe):
    live = made(pipe)
    start = knobs.start(ROBOT, live.knobs)
    first = live(start, seed=3)
    assert list(first) == ["identity", "prompt", "context"]
    assert live((0, *start[1:]), seed=3) != first
    assert live(start, seed=3) == first != live(start, seed=4)
    shut = (0, 0, 0, *start[3:])
    assert live(shut, seed=3)["context"] == 1.0


def test_a_session_refuses_what_it_cannot_judge(pipe):
    class Lost(Brightness):
        def __call__(self, pixels, prompts, photos):
            return Scores(np.full(len(pixels), np.nan), np.ones(len(pixels)))

    lost = made(pipe, scorer=Lost())
    with pytest.raises(DataError, match=r"gave nan for identity at \{'down': 1\.0"):
        lost(knobs.start(ROBOT, lost.knobs), seed=0)
    with pytest.raises(ConfigError, match="prompts: expected a list"):
        Session(pipe, ROBOT, {}, np.zeros((1, 64, 64, 3), np.uint8), "a robot")


def test_a_scorer_is_told_what_a_prompt_says_of_anyone(pipe):
    one = Session(pipe, ROBOT, {}, np.zeros((1, 64, 64, 3), np.uint8), ["a sad robot on the beach", "{subject}"])
    assert one.prompts == ["sad <me> the robot on the beach", "<me> the robot"]
    assert one.plain == ["a sad robot on the beach", "a robot"]


def test_a_recording_is_the_session_and_goes_on_where_it_was_stopped(pipe, tmp_path):
    few = (Knob("scale", (0.5, 1.0)), Knob("mid", (0.0, 1.0), ("mid.cross.value", "mid.self.key")))
    live = made(pipe, knobs=few)
    whole = session.record(live, repeats=2, seed=0)
    assert whole.values.shape == (4, 2, 3)
    for setting in range(4):
        places = np.array(np.unravel_index(setting, (2, 2)))
        answers = [list(live(places, session.child(0, "record", r)).values()) for r in range(2)]
        assert answers == whole.values[setting].tolist()
        assert list(whole(places, seed=1).values()) in answers

    class StoppedError(Exception):
        pass

    def stops(places, seed):
        if list(places) == [1, 1]:
            raise StoppedError
        return live(places, seed)

    broken = type("Broken", (), {"knobs": live.knobs, "names": live.names, "__call__": staticmethod(stops)})()
    with pytest.raises(StoppedError):
        session.record(broken, repeats=2, seed=0, folder=tmp_path / "run")
    again = session.record(live, repeats=2, seed=0, folder=tmp_path / "run")
    assert np.array_equal(again.values, whole.values)
    whole.save(tmp_path / "session.safetensors")
    back = session.load(tmp_path / "session.safetensors")
    assert np.array_equal(back.values, whole.values)
    assert back.knobs == whole.knobs


def test_the_reward_is_the_utility_of_the_middle_of_the_levels():
    env = tuning.Tuning(recorded(0.5, 0.4), TWO)
    env.reset(seed=0)
    levels, reward, *_, info = env.step(np.array([1, 0]))
    assert levels.tolist() == [1, 1]
    assert reward == pytest.approx((0.75 + 0.75) / 2)
    assert info["utility"] == pytest.approx(utility(TWO, {"identity": 0.5, "context": 0.7}))
    spec = env.fmdp_spec()
    assert spec.parents == {"identity'": ("k0",), "context'": ()}


def test_gymnasium_finds_nothing_wrong_with_it():
    import bayes_persona_envs  # noqa: F401

    env = gymnasium.make("bayes_persona/Tuning-v0", session=recorded(0.5, 0.4), qualities=TWO, render_mode="ansi")
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    env.step(np.array([1, 0]))
    assert "k0 = 1" in env.render()


def test_the_best_setting_is_found_and_so_are_its_causes():
    env = tuning.Tuning(recorded(0.6, 0.0, 0.0, noise=0.02), TWO)
    found = tuning.tune(env, nx.DiGraph(), tuning.Config(budget=24, max_parents=2), seed=1)
    assert found.setting["k0"] == 1.0
    assert len(found.history) == 24
    assert found.edges.edges["k0", "identity"]["probability"] > 0.9
    assert max(found.edges.edges[f"k{k}", "identity"]["probability"] for k in (1, 2)) < 0.5


def test_the_same_seed_finds_the_same(tmp_path):
    runs = [
        tuning.tune(tuning.Tuning(recorded(0.5, 0.4), TWO), config=tuning.Config(budget=3), seed=2) for _ in range(2)
    ]
    assert runs[0].history == runs[1].history
    assert runs[0].places == runs[1].places


def test_a_tuning_that_was_killed_goes_on_and_forgets_nothing(tmp_path):
    config, whole = tuning.Config(budget=6), recorded(0.5, 0.4, noise=0.1)
    straight = tuning.tune(tuning.Tuning(whole, TWO), config=config, seed=2)

    class StoppedError(Exception):
        pass

    def stops(places, seed):
        stops.left -= 1
        if not stops.left:
            raise StoppedError
        return whole(places, seed)

    stops.left = 4
    broken = type("Broken", (), {"knobs": whole.knobs, "names": whole.names, "__call__": staticmethod(stops)})()
    with pytest.raises(StoppedError):
        tuning.tune(tuning.Tuning(broken, TWO), config=config, seed=2, folder=tmp_path)
    resumed = tuning.tune(tuning.Tuning(whole, TWO), config=config, seed=2, folder=tmp_path)
    assert resumed.history == straight.history
    assert resumed.places == straight.places
    with pytest.raises(MismatchError):
        tuning.tune(tuning.Tuning(whole, TWO[:1]), config=config, seed=2, folder=tmp_path)


def test_what_earlier_subjects_taught_is_known_from_the_start():
    others = [recorded(0.6, 0.2, noise=0.05), recorded(0.7, 0.1, noise=0.05)]
    taught = [generations.recorded(one, TWO) for one in others]
    env = tuning.Tuning(recorded(0.6, 0.2, noise=0.05), TWO)
    found = tuning.tune(env, config=tuning.Config(budget=1), earlier=taught, seed=0)
    assert found.history[0].places == (1, 1)
    assert found.places == (1, 1)


def test_earlier_generations_of_other_knobs_and_qualities_are_refused(tmp_path):
    env, path = tuning.Tuning(recorded(0.5, 0.4), TWO), tmp_path / "tuned.safetensors"
    made = generations.recorded(recorded(0.5, 0.4), TWO)
    generations.save(path, env.session.knobs, made)
    assert generations.load(path, env.session.knobs) == made
    with pytest.raises(MismatchError, match="expected generations of"):
        generations.load(path, recorded(0.5).knobs)
    nameless = [one._replace(values={"identity": 0.5}) for one in made]
    with pytest.raises(MismatchError, match="earlier: expected generations with context, got identity"):
        tuning.tune(env, earlier=[nameless])
    outside = [one._replace(places=(0, 7)) for one in made]
    with pytest.raises(MismatchError, match=r"earlier: expected one place of each of \[2, 2\], got \(0, 7\)"):
        tuning.tune(env, earlier=[outside])
    generations.save(path, env.session.knobs, outside)
    with pytest.raises(DataError, match="are no places of k0, k1"):
        generations.load(path, env.session.knobs)
    recorded(0.5).save(path)
    with pytest.raises(DataError, match="holds no generations"):
        generations.load(path, env.session.knobs)


def test_a_run_that_knew_something_else_is_not_gone_on_with(tmp_path):
    env, config = tuning.Tuning(recorded(0.5, 0.4), TWO), tuning.Config(budget=2)
    tuning.tune(env, config=config, earlier=[generations.recorded(recorded(0.5, 0.4), TWO)], folder=tmp_path)
    with pytest.raises(MismatchError):
        tuning.tune(env, config=config, folder=tmp_path)


@pytest.mark.parametrize(
    ("causes", "message"),
    [
        (nx.DiGraph([("nose", "identity")]), "graph: nose → identity: expected edges from k0, k1"),
        (nx.DiGraph([("k0", "beauty")]), "graph: k0 → beauty"),
    ],
)
def test_graphs_of_unknown_knobs_are_refused(causes, message):
    with pytest.raises(ConfigError, match=message):
        tuning.tune(tuning.Tuning(recorded(0.5, 0.4), TWO), causes)


def test_bad_settings_are_refused():
    for settings, message in (
        ({"budget": 0}, "budget"),
        ({"max_parents": 0}, "max_parents"),
    ):
        with pytest.raises(ConfigError, match=message):
            tuning.Config(**settings)
    with pytest.raises(ConfigError, match="the session knows no beauty"):
        tuning.Tuning(recorded(0.5), [Quality("beauty", 0.0, 1.0)])
    broken = recorded(0.5)
    broken.values[:] = np.nan
    env = tuning.Tuning(broken, TWO)
    env.reset(seed=0)
    with pytest.raises(DataError, match="gave nan for identity"):
        env.step(0)


def test_gates_that_make_nobody_are_shut_and_the_others_say_where_perfusion_should_listen():
    every = np.array(np.unravel_index(np.arange(4), (2, 2))).T
    values = np.stack([0.5 + 0.4 * every[:, 0], 0.98 - 0.1 * every[:, 1]], axis=-1)[:, None]
    turned = [Knob(name, (0.0, 1.0), (name,)) for name in ("up.value", "mid.value")]
    chosen = gates.choose(Recorded(turned, ("identity", "context"), values), config=tuning.Config(budget=16), seed=0)
    assert chosen.gates == {"up.value": 1.0, "mid.value": 0.0}
    betas = gates.betas(chosen.tuned.edges)
    assert betas["up.value"] < betas["mid.value"]
    Perfusion(Subject("robot"), betas=betas)
    assert (
        gates.router_logits(chosen.tuned.edges)["up.value"] > 0 > gates.router_logits(chosen.tuned.edges)["mid.value"]
    )
    with pytest.raises(ConfigError, match="scale: is no gate"):
        gates.choose(Recorded([Knob("scale", (0.5, 1.0))], ("identity", "context"), values[:2]))


def test_several_peoples_sessions_are_asked_together_if_they_turn_the_same():
    knob, values = Knob("mid", (0.0, 1.0), ("mid",)), np.array([[[0.2]], [[0.8]]])
    one, two = Recorded([knob], ("identity",), values), Recorded([knob], ("identity",), values[::-1])
    both = gates.Everyone([one, two, two])
    assert both([0], seed=0) == pytest.approx({"identity": 0.6})
    with pytest.raises(ConfigError, match="all with the same knobs"):
        gates.Everyone([one, Recorded([Knob("up", (0.0, 1.0), ("up",))], ("identity",), values)])
    with pytest.raises(ConfigError, match="expected some"):
        gates.Everyone([])


def test_closed_gates_leave_the_pipeline_as_it_is(pipe):
    live = made(pipe)
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    live(knobs.start(ROBOT, live.knobs), seed=0)
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    assert QUALITIES[0].name == "identity"
