"""Pictures at a setting of knobs, and how good they are: the world that tuning acts in, live or recorded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona import loop
from bayes_persona.diffusion import generate
from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.files import load_arrays, save_arrays, understood
from bayes_persona.persona import knobs as turning
from bayes_persona.persona.knobs import Knob
from bayes_persona.persona.scorers import Oracle, Scorer
from bayes_persona.seeds import child, generator
from bayes_persona.types import Info, Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Quality:
    """Something that pictures have more or less of, cut into levels between two numbers.

    Raises:
        ConfigError: If there is no room between the numbers, or there are fewer than two levels.

    >>> identity = Quality("identity", low=0.5, high=1.0, levels=5)
    >>> [identity.level(value) for value in (0.2, 0.55, 0.75, 1.0)]
    [0, 0, 2, 4]
    """

    name: str
    low: float
    """Where the lowest level begins; less is no worse."""
    high: float
    """Where the highest level ends; more is no better."""
    levels: int = 5
    weight: float = 1.0
    """What it counts in the utility."""

    def __post_init__(self):
        if not self.low < self.high:
            raise ConfigError(f"{self.name}: expected low < high, got {self.low} and {self.high}")
        if self.levels < 2:
            raise ConfigError(f"{self.name}: expected at least 2 levels, got {self.levels}")

    def level(self, value: float) -> int:
        """Give the level of a value."""
        return min(int(self.share(value) * self.levels), self.levels - 1)

    def share(self, value: float) -> float:
        """Give how far a value is from low (0) to high (1).

        >>> Quality("identity", low=0.5, high=1.0).share(0.75)
        0.5
        """
        return float(np.clip((value - self.low) / (self.high - self.low), 0.0, 1.0))

    @property
    def shares(self) -> Float[np.ndarray, " levels"]:
        """The share in the middle of each level."""
        return (np.arange(self.levels) + 0.5) / self.levels


QUALITIES = (
    Quality("identity", 0.4, 1.0, weight=2.0),
    Quality("prompt", 0.6, 1.0),
    Quality("context", 0.85, 1.0),
)
"""What PersonaWorld's oracles say, and the ranges in which it moves there."""


def utility(qualities: Sequence[Quality], values: Mapping[str, float]) -> float:
    """Give the weighted mean share of all qualities: 0 is the worst, 1 the best.

    >>> utility(QUALITIES, {"identity": 1.0, "prompt": 0.8, "context": 0.85})
    0.625
    """
    weights = np.array([quality.weight for quality in qualities])
    shares = np.array([quality.share(values[quality.name]) for quality in qualities])
    return float(weights @ shares / weights.sum())


@runtime_checkable
class Generates(Protocol):
    """Makes pictures at a setting of its knobs, and says how good they are.

    >>> isinstance(Recorded((Knob("guidance", (1.0, 3.0)),), ("identity",), np.zeros((2, 1, 1))), Generates)
    True
    """

    knobs: tuple[Knob, ...]
    """What is turned."""
    names: tuple[str, ...]
    """The qualities."""

    def __call__(self, places: Sequence[int] | np.ndarray, seed: int) -> dict[str, float]:
        """Give the qualities of pictures at a setting; the seed names the noise."""
        ...


class Session:
    """A personalized pipeline: each call makes pictures and judges them.

    Args:
        pipe: The base model.
        adapter: The method.
        member: One member's params, without an axis of members.
        photos: Photos of the subject.
        prompts: What is asked of it; `{subject}`, or a superclass, is where the subject goes.
        others: Prompts of other people, whose pictures should stay as the base model makes them; none leaves `context`
            out.
        knobs: What is turned; `knobs.usual` if none are given.
        scorer: The judge.
        sampling: How pictures are sampled, but for the guidance if that is turned.

    Raises:
        ConfigError: If the adapter has no such knob, or there is no prompt.

    >>> from bayes_persona.diffusion import pipelines
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> pipe, method = pipelines.load(), TextualInversion(Subject("robot"))
    >>> params = {name: value[0] for name, value in method.init(pipe, 1, seed=0).items()}
    >>> quick, photo = generate.Config(steps=2), np.zeros((1, 64, 64, 3), np.uint8)
    >>> session = Session(pipe, method, params, photo, ["a robot at night"], sampling=quick)
    >>> list(session(turning.start(method, session.knobs), seed=0))
    ['identity', 'prompt']
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        adapter: Adapter,
        member: Params,
        photos: UInt8[np.ndarray, "m h w 3"],
        prompts: Sequence[str],
        others: Sequence[str] = (),
        *,
        knobs: Sequence[Knob] = (),
        scorer: Scorer | None = None,
        sampling: generate.Config | None = None,
    ):
        if not prompts or isinstance(prompts, str):
            raise ConfigError(f"prompts: expected a list of some texts, got {prompts!r}")
        self.pipe, self.adapter, self.photos = pipe, adapter, photos
        self.params = {name: value[None] for name, value in member.items()}
        self.prompts = [adapter.subject.prompt(text) for text in prompts]
        self.plain = [adapter.subject.anyone(text) for text in prompts]
        self.others = list(others)
        self.knobs = tuple(knobs) or turning.usual(adapter)
        turning.require(adapter, self.knobs)
        self.scorer: Scorer = Oracle() if scorer is None else scorer
        self.sampling = generate.Config() if sampling is None else sampling
        self.names = ("identity", "prompt", *(("context",) if self.others else ()))
        self.pictures: UInt8[np.ndarray, "n h w 3"] | None = None

    def __call__(self, places: Sequence[int] | np.ndarray, seed: int) -> dict[str, float]:
        """Give the qualities of pictures at a setting; `pictures` keeps those of the subject.

        Raises:
            DataError: If the scorer gives NaN or an infinite number.
        """
        subject, gates, guidance = turning.turned(self.adapter, self.knobs, places)
        steps, negative = self.sampling.steps, self.sampling.negative
        sampling = generate.Config(steps, self.sampling.guidance if guidance is None else guidance, negative)
        texts = self.prompts + self.others
        start = generate.noise(self.pipe, len(texts), child(seed, "session"))
        with subject.attached(self.pipe, self.params, torch.zeros(1, dtype=torch.long), gates):
            pixels = generate.sample(self.pipe, texts, start, sampling)
        mine, theirs = pixels[: len(self.prompts)], pixels[len(self.prompts) :]
        self.pictures = mine
        scores = self.scorer(mine, self.plain, self.photos)
        found = {"identity": float(scores.identity.mean()), "prompt": float(scores.prompt.mean())}
        if self.others:
            usual = generate.sample(self.pipe, self.others, start[len(self.prompts) :], sampling)
            found["context"] = 1 - float(np.abs(theirs / 255 - usual / 255).mean())
        for name, value in found.items():
            if not np.isfinite(value):
                raise DataError(f"scorer: gave {value} for {name} at {turning.described(self.knobs, places)}; mend it")
        return found


class Recorded:
    """A session that was recorded at every setting of its knobs: the same answers in no time.

    Args:
        knobs: What is turned.
        names: The qualities.
        values: Qualities of every setting, the first knob most significant, each made several times with other noise.

    Raises:
        ConfigError: If the numbers are not as many as the settings.

    >>> recorded = Recorded((Knob("guidance", (1.0, 3.0)),), ("identity",), np.array([[[0.2]], [[0.7]]]))
    >>> recorded([1], seed=0), recorded.mean.tolist()
    ({'identity': 0.7}, [[0.2], [0.7]])
    """

    def __init__(
        self, knobs: Sequence[Knob], names: Sequence[str], values: Float[np.ndarray, "settings repeats qualities"]
    ):
        self.knobs, self.names, self.values = tuple(knobs), tuple(names), values
        want = (turning.settings(self.knobs), len(self.names))
        if values.ndim != 3 or (len(values), values.shape[2]) != want or not values.shape[1]:
            raise ConfigError(f"values: expected {want[0]} settings and {want[1]} qualities, got {values.shape}")

    def __call__(self, places: Sequence[int] | np.ndarray, seed: int) -> dict[str, float]:
        """Give the qualities of one of the recorded repeats."""
        sizes = [len(knob.values) for knob in self.knobs]
        every = self.values[np.ravel_multi_index(tuple(map(int, places)), sizes)]
        repeat = generator(seed, "repeat").integers(len(every))
        return dict(zip(self.names, every[repeat].tolist(), strict=True))

    @property
    def mean(self) -> Float[np.ndarray, "settings qualities"]:
        """The qualities of every setting, averaged over repeats."""
        return self.values.mean(axis=1)

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file.

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "session.safetensors"
        >>> Recorded((Knob("guidance", (1.0, 3.0)),), ("identity",), np.zeros((2, 1, 1))).save(path)
        >>> load(path).knobs[0].values
        (1.0, 3.0)
        """
        save_arrays(path, {"values": self.values}, {"knobs": turning.as_json(self.knobs), "names": list(self.names)})


def load(path: str | Path) -> Recorded:
    """Read a recorded session.

    Raises:
        RunError: If the file is absent or damaged.
        DataError: If it holds something else.

    >>> load("nowhere.safetensors")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere.safetensors: there is no such file
    """
    arrays, about = load_arrays(path)
    if "values" not in arrays or "knobs" not in about:
        raise DataError(f"{path}: holds no recorded session; make one with session.record")
    with understood(path, "recorded session"):
        found = [Knob(one["name"], tuple(one["values"]), tuple(one["gates"])) for one in about["knobs"]]
        return Recorded(found, about["names"], arrays["values"])


def record(
    session: Generates, repeats: int, seed: int, folder: str | Path | None = None, title: str | None = None
) -> Recorded:
    """Make pictures at every setting, several times, and keep their qualities.

    Args:
        session: What to record.
        repeats: Times at each setting; repeat r begins with the same noise at all settings.
        seed: Names the noise.
        folder: Where to keep what is done; a recording that was killed goes on from there.
        title: Name beside the progress bar; None shows none.

    >>> guess = Recorded((Knob("guidance", (1.0, 3.0)),), ("identity",), np.array([[[0.2]], [[0.7]]]))
    >>> record(guess, repeats=2, seed=0).values[:, :, 0].tolist()
    [[0.2, 0.2], [0.7, 0.7]]
    """
    sizes = [len(knob.values) for knob in session.knobs]
    shape = (turning.settings(session.knobs), repeats, len(session.names))
    order = _Recording(
        shape, lambda setting, r: session(np.array(np.unravel_index(setting, sizes)), child(seed, "record", r))
    )
    said = {"knobs": turning.as_json(session.knobs), "names": list(session.names), "repeats": repeats}
    state, _ = loop.run(
        order, range(shape[0]).__getitem__, steps=shape[0], seed=seed, folder=folder, config=said, title=title,
        checkpoint_every=10,
    )  # fmt: skip
    return Recorded(session.knobs, session.names, state["values"])


class _Recording:
    """A kernel: a step is a setting."""

    def __init__(self, shape: tuple[int, int, int], make: Callable[[int, int], Mapping[str, float]]):
        self.shape, self.make = shape, make

    def init(self, seed: int) -> dict[str, np.ndarray]:
        return {"values": np.zeros(self.shape)}

    def step(self, seed: int, state: dict[str, np.ndarray], batch: Any) -> tuple[dict[str, np.ndarray], Info]:
        values = state["values"].copy()
        values[batch] = [list(self.make(batch, repeat).values()) for repeat in range(self.shape[1])]
        return {"values": values}, {"setting": float(batch)}
