"""Every loader, fed with what it should not be: how many crashes are none of the documented errors.

`python -m benchmarks.fuzz [--inputs 12000]`: whole files are made first, one of each kind, and then changed at random,
by bytes or by meaning (with a checksum that fits). Anything but the errors of `bayes_persona.errors` is a crash, and so
is an input that takes longer than ten seconds, or makes a loader ask for an address of the network.
"""

import collections
import shutil
import signal
import socket
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import tyro
from PIL import Image
from torch import nn

from bayes_persona import loop, nptl, parallel
from bayes_persona.cpsrl import env, experiment, graph, graph_files
from bayes_persona.cpsrl.config import Config as AgentConfig
from bayes_persona.diffusion import adapter, covariance, masks, photos, pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.celeb_basis import basis
from bayes_persona.diffusion.adapters.celeb_basis.basis import Basis, Position
from bayes_persona.diffusion.adapters.lipe import captions
from bayes_persona.diffusion.adapters.moa import mixture
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.errors import ConfigError, DataError, MismatchError, MissingExtraError, RunError
from bayes_persona.files import load_arrays, load_json, save_arrays, save_json
from bayes_persona.nptl.learner_torch import Config as Fit
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.persona import generations, session, tuning
from bayes_persona.posterior import Posterior
from bayes_persona.rl.config import Config as RlConfig
from bayes_persona.seeds import child, generator
from bayes_persona.store import load_posterior, open_run, save_posterior
from bayes_persona.world import oracles
from benchmarks.fuzz_mutations import damaged, lines, said, signed
from benchmarks.rows import row, save

DOCUMENTED = (ConfigError, DataError, MismatchError, RunError, MissingExtraError)
BIF = b"""network "two slices" { }
variable switch { type discrete [ 2 ] { off, on }; }
variable lamp' { type discrete [ 2 ] { off, on }; }
probability ( lamp' | switch ) { (off) 0.1, 0.9; default 1.0, 0.0; }
"""


@dataclass(frozen=True)
class Config:
    """How much is tried."""

    inputs: int = 12_000
    """Changed files in all, shared among the loaders by their weights."""
    seed: int = 0
    """Names the inputs."""
    only: tuple[str, ...] = ()
    """Names of loaders; all if none is given. Rows are written of all alone."""


class Target(NamedTuple):
    """A loader: what makes a whole folder, what is changed in it and how, and what reads it."""

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    changes: dict[str, Callable[..., bytes]]
    """By the pattern of files."""
    weight: float = 1.0


class Walk:
    """A kernel that does little."""

    def init(self, seed: int) -> dict[str, np.ndarray]:
        """Begin."""
        return {"x": np.zeros(2)}

    def step(self, seed: int, state: dict[str, np.ndarray], batch: Any) -> tuple[dict[str, np.ndarray], dict]:
        """Walk."""
        return {"x": state["x"] + generator(seed, "step").normal(size=2)}, {"x": float(state["x"][0])}


def walk(folder: Path) -> Any:
    return loop.run(Walk(), steps=4, seed=0, folder=folder, config={"rate": 0.1}, checkpoint_every=2)


def draws(folder: Path) -> Any:
    made = parallel.map(lambda seed: {"w": generator(seed, "w").normal(size=2)}, [1, 2], folder=folder, config={"n": 2})
    return Posterior(tuple(made))


def lives(folder: Path) -> Any:
    agents = {"flat": experiment.Agent(AgentConfig(horizon=2), graph.complete)}
    return experiment.run(agents, env.lamp(), episodes=2, seeds=range(2), folder=folder)


def tunes(folder: Path) -> Any:
    return tuning.tune(tuning.Tuning(), config=tuning.Config(budget=2), folder=folder)


def _learner() -> TorchLearner:
    return TorchLearner(nn.Linear(2, 2), Fit(steps=1))


def _predictor(folder: Path) -> None:
    learner = _learner()
    data = nptl.classification(np.eye(2, dtype=np.float32), np.array([0, 1]), 2)
    posterior = nptl.NPTL(particles=2).sample(learner, nptl.linear_probe(learner, data), data, seed=0)
    nptl.Predictor(learner, posterior).save(folder)


def _personalization(folder: Path) -> None:
    method, members = TextualInversion(Subject("robot")), ({"embedding": np.ones((2, 4))},) * 2
    adapter.save(folder / "me.safetensors", method, Posterior(members), base="a")


def _covariance(folder: Path) -> None:
    covariance.save(folder / "c.safetensors", covariance.Covariance(np.eye(3), 10, "a"))


def _mixture(folder: Path) -> None:
    parts = {"a": np.ones(2, np.float32)}
    mixture.Mixture(mixture.Config(feature=4), parts, base="a", encoder="world").save(folder / "m.safetensors")


def _basis(folder: Path) -> None:
    places = tuple(Position(np.zeros(3), np.eye(3)[:2], 0.5) for _ in range(2))
    Basis(places, np.array([7]), "a").save(folder / "b.safetensors")


def _pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    modes = {"RGB": 3, "RGBA": 4, "L": None}
    kinds = "png RGB, png RGBA, jpeg RGB, jpeg L, webp RGB, gif L, bmp RGB, tiff RGB, tiff L, ppm RGB, png L"
    for number, pair in enumerate(kinds.split(", ")):
        kind, mode = pair.split()
        shape = (12, 9) if modes[mode] is None else (12, 9, modes[mode])
        picture = Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6
        own = {"exif": exif} if kind in ("png", "jpeg", "webp", "tiff") else {}
        picture.save(folder / f"{number}.{kind}", format=kind, **own)
    save_json(folder / "captions.json", {"0.png": "me on a beach"})
    (folder / "1.txt").write_text("me")
    (folder / "masks").mkdir()
    for path in sorted(folder.glob("*.*")):
        if path.suffix not in (".json", ".txt"):
            shutil.copy(path, folder / "masks" / path.name)


def _photos(folder: Path) -> Any:
    found = photos.read(folder, 8, limit=10_000_000)
    return masks.read(folder, found.names, 8)


def _model(folder: Path) -> None:
    shutil.copytree(pipelines.embedded(), folder, dirs_exist_ok=True)


def _oracles(folder: Path) -> None:
    shutil.copy(oracles.SHIPPED / oracles.WEIGHTS, folder)


KNOBS = (session.Knob("guidance", (1.0, 3.0)), session.Knob("mid", (0.0, 1.0), ("mid.key",)))


def _generations(folder: Path) -> None:
    made = [generations.Made((k, 1 - k), {"identity": 0.5 + 0.1 * k, "prompt": 1.0}, 0.7) for k in range(2)]
    generations.save(folder / "tuned.safetensors", KNOBS, made)


def _knobs(folder: Path) -> None:
    found = session.Recorded(
        KNOBS,
        ("identity", "prompt"),
        np.random.default_rng(0).random((4, 2, 2)),
    )
    found.save(folder / "s.safetensors")


def _graphs(folder: Path) -> None:
    known = nx.DiGraph([("switch", "lamp'", {"probability": 0.9}), ("lamp", "lamp'", {"odds": 2.0})])
    graph_files.write(folder / "g.graphml", known)
    (folder / "g.bif").write_bytes(BIF)


def _one(pattern: str, load: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: load(next(folder.glob(pattern)))


def _graph(path: Path) -> Any:
    return graph.prior(env.lamp(), graph_files.read(path), max_parents=1)


def _arrays(folder: Path) -> None:
    save_arrays(folder / "a.safetensors", {"w": np.arange(6.0).reshape(2, 3), "n": np.array(3)}, {"step": 1, "a": [1]})


TENSORS, TEXTS = {"**/*.safetensors": signed}, {"**/*.json": said}
TARGETS = (
    Target("arrays", _arrays, _one("*.safetensors", load_arrays), TENSORS, 3),
    Target("json", lambda f: save_json(f / "a.json", {"a": [1, {"b": None}]}), _one("*.json", load_json), TEXTS),
    Target("run", lambda f: open_run(f, {"a": [1]}) and None, lambda f: open_run(f, {"a": [1]}), TEXTS),
    Target("loop", walk, walk, TENSORS | TEXTS | {"**/*.jsonl": lines}, 2),
    Target("map", draws, draws, TENSORS | TEXTS, 2),
    Target("posterior", lambda f: save_posterior(f, draws(f / "x")), load_posterior, {"posterior/*": signed}),
    Target("experiment", lives, lives, TENSORS | TEXTS, 0.5),
    Target("tuning run", tunes, tunes, TENSORS | TEXTS | {"**/*.jsonl": lines}, 0.2),
    Target("predictor", _predictor, lambda f: nptl.Predictor.load(f, _learner()), TENSORS | TEXTS),
    Target("personalization", _personalization, _one("*.safetensors", partial(adapter.load, base="a")), TENSORS, 2),
    Target("generations", _generations, _one("*.safetensors", partial(generations.load, knobs=KNOBS)), TENSORS),
    Target("session", _knobs, _one("*.safetensors", session.load), TENSORS, 2),
    Target("covariance", _covariance, _one("*.safetensors", covariance.load), TENSORS),
    Target("mixture", _mixture, _one("*.safetensors", mixture.load), TENSORS),
    Target("basis", _basis, _one("*.safetensors", basis.load), TENSORS),
    Target(
        "oracles",
        _oracles,
        _one("*.safetensors", oracles.restored),
        TENSORS,
        0.1,
    ),
    Target("graphml", _graphs, _one("*.graphml", _graph), {"*.graphml": damaged}, 2),
    Target("bif", _graphs, _one("*.bif", _graph), {"*.bif": damaged}, 2),
    Target("photos", _pictures, _photos, {"**/*.*": damaged, "captions.json": said}, 3),
    Target("prompts", lambda f: save_json(f / "p.json", ["a dog", "a cat"]), _one("*.json", captions.read), TEXTS),
    Target("model", _model, pipelines.load, TEXTS, 0.1),
    Target(
        "arguments",
        lambda f: save_json(f / "a.json", {"size": 3}),
        lambda f: RlConfig(env="a", env_kwargs=(f / "a.json").read_text(errors="replace")).arguments,
        TEXTS,
    ),
)


class NetworkError(BaseException):
    """A loader that asks for an address; no `except Exception` keeps it."""


class TooLongError(BaseException):
    """An input that takes longer than it may; no `except Exception` keeps it."""


def _asks(*arguments: Any, **_: Any) -> Any:
    raise NetworkError(arguments)


def _too_long(*_: Any) -> None:
    raise TooLongError


def crashed(target: Target, whole: Path, folder: Path, seed: int) -> str | None:
    """Change a whole folder, read it, and give what went wrong but should not."""
    rng = np.random.default_rng(seed)
    shutil.copytree(whole, folder)
    choices = [(path, change) for glob, change in target.changes.items() for path in sorted(folder.glob(glob))]
    choices = [(path, change) for path, change in choices if path.is_file()]
    path, change = choices[int(rng.integers(len(choices)))]
    content = path.read_bytes()
    path.write_bytes(change(rng, content, folder.parent) if change is signed else change(rng, content))
    addresses, socket.getaddrinfo = socket.getaddrinfo, _asks
    signal.alarm(10)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(folder)
    except DOCUMENTED:
        return None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = [one for one in place if "bayes_persona" in one.filename][-1:]
        where = f"{Path(ours[0].filename).name}:{ours[0].lineno}" if ours else ""
        return f"{target.name} {seed}: {path.name}: {type(error).__name__} at {where}: {str(error)[:150]}"
    finally:
        signal.alarm(0)
        socket.getaddrinfo = addresses
    return None


def attacked(target: Target, inputs: int, seed: int) -> list[str]:
    """Give all crashes of a loader."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        target.make(whole)
        target.read(whole)  # must be fine as it is
        for number in range(inputs):
            folder = Path(place) / "changed"
            wrong = crashed(target, whole, folder, child(seed, target.name, number))
            found += [] if wrong is None else [wrong]
            shutil.rmtree(folder)
    return found


def main(config: Config) -> None:
    signal.signal(signal.SIGALRM, _too_long)
    started, crashes = time.perf_counter(), []
    targets = [target for target in TARGETS if not config.only or target.name in config.only]
    total = sum(target.weight for target in targets)
    counts = {target.name: round(np.ceil(config.inputs * target.weight / total)) for target in targets}
    for target in targets:
        before = time.perf_counter()
        found = attacked(target, counts[target.name], config.seed)
        kinds = collections.Counter(one.partition(" at ")[2].partition(":")[0] for one in found)
        print(f"{target.name}: {counts[target.name]} inputs, {len(found)} crashes, {dict(kinds)}", end=", ")
        print(f"{time.perf_counter() - before:.0f} s", *dict.fromkeys(found[:5]), sep="\n  ", flush=True)
        crashes += found
    if not config.only:
        seconds, command = time.perf_counter() - started, "python -m benchmarks.fuzz"
        one = row("fuzz.undocumented_crashes", len(crashes), "crashes", command=command, seconds=seconds)
        save("product", [replace(one, n=sum(counts.values()))])


if __name__ == "__main__":
    main(tyro.cli(Config))
