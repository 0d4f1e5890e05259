"""What the page stands on, without a page: photos taken in, somebody learned, pictures anew, files to take along."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from rich.console import Console

from bayes_persona import ranges
from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import generate, photos, pipelines
from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.files import write
from bayes_persona.persona import knobs, run, uncertainty
from bayes_persona.persona.config import Config as Personalize
from bayes_persona.persona.learned import Learned
from bayes_persona.seeds import child
from bayes_persona.studio.config import Config
from bayes_persona.world import facts, splits

with needs_extra("diffusion"):
    from PIL import Image

TURNED = "turned.safetensors"
"""The personalization with its knobs as they were turned."""


class Dial(NamedTuple):
    """A knob of an adapter: how far it goes, and where it is.

    >>> Dial("beta", 0.1, 0.9, 0.7).now
    0.7
    """

    name: str
    low: float
    high: float
    now: float


@dataclass(frozen=True)
class Turn:
    """What pictures are asked for, and where everything is turned to.

    Raises:
        ConfigError: If a number is too small.

    >>> Turn("{subject} at night", knobs={"beta": 0.6}).pictures
    2
    """

    prompt: str = "{subject}"
    guidance: float = 3.0
    """Classifier-free guidance."""
    pictures: int = 2
    """Noises that all members begin with."""
    seed: int = 0
    """Names the noises."""
    knobs: Mapping[str, float] = field(default_factory=dict)
    """The adapter's own; those that are left out stay where they are."""
    shut: Sequence[str] = ()
    """Groups of gates that are closed, as `groups` calls them."""

    def __post_init__(self):
        ranges.at_least(self, 1, "pictures")
        ranges.at_least(self, 0, "guidance")


class Seen(NamedTuple):
    """Pictures from the same noises: of every member, and of all of them together.

    >>> Seen(np.zeros((2, 1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8)).members.shape
    (2, 1, 8, 8, 3)
    """

    members: UInt8[np.ndarray, "k s h w 3"]
    averaged: UInt8[np.ndarray, "s h w 3"]


class Sitting(NamedTuple):
    """Somebody who was learned: what can be asked of them, and where their files are.

    >>> from bayes_persona.posterior import Posterior
    >>> Sitting(Path("me"), Learned(None, None, Posterior(({},)), None, generate.Config()), {}).folder.name
    'me'
    """

    folder: Path
    learned: Learned
    said: dict[str, Any]
    """What the command found: the verdict, and how far members disagree."""

    @property
    def files(self) -> list[Path]:
        """What can be taken along: the personalization, one adapter for all of it, and the page."""
        names = (run.PERSONALIZATION, run.SOUP, TURNED, "index.html")
        return [path for path in (self.folder / name for name in names) if path.exists()]


def asked(config: Config, files: Sequence[str | Path], captions: str = "", **settings: Any) -> Personalize:
    """Copy photos into a folder of their own, and give the command that learns from them.

    The folder's name is made of the photos and of all settings: asked for the same again, the command goes on from what
    is there.

    Args:
        config: Of the studio.
        files: The photos; what they are called is not believed.
        captions: What each shows, a line a photo.
        settings: Of `bayes-persona personalize`.

    Raises:
        ConfigError: If a setting cannot be, or there are more captions than photos.
        DataError: If there is no photo that can be used.

    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (8, 8)).save(out / "me at home.png")
    >>> command = asked(Config(out), [out / "me at home.png"], "{subject} at home", superclass="robot")
    >>> sorted(path.name for path in command.photos.iterdir())
    ['000-me_at_home.png', '000-me_at_home.txt']
    >>> command.out.name.startswith("robot-")
    True
    """
    paths, lines = [Path(file) for file in files], [line.strip() for line in captions.splitlines()]
    if not paths:
        raise DataError("photos: there are none; give some of one subject")
    if len(lines) > len(paths):
        raise ConfigError(f"captions: {len(lines)} lines for {len(paths)} photos; write one line a photo")
    photos.read(paths, 8)  # before a copy is made of anything that is no picture, or too large
    given = {name: getattr(config, name) for name in ("base", "judge", "guide", "segmenter")}
    command = Personalize(photos=Path(), out=Path(), **given, **settings)
    digest = hashlib.blake2b(repr((asdict(command), lines)).encode(), digest_size=5)
    kept: dict[str, bytes] = {}
    for number, path in enumerate(paths):
        if path.suffix.lower() in photos.SUFFIXES:
            stem = f"{number:03d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', path.stem)[:60]}"
            kept[stem + path.suffix.lower()] = path.read_bytes()
            if number < len(lines) and lines[number]:
                kept[stem + ".txt"] = lines[number].encode()
    for name, content in kept.items():
        digest.update(name.encode() + hashlib.blake2b(content).digest())
    kind = re.sub(r"[^A-Za-z0-9]+", "_", command.superclass)[:30]
    folder = config.out / f"{kind}-{command.method}-{digest.hexdigest()}"
    for name, content in kept.items():
        write(folder / "photos" / name, content)
    return replace(command, photos=folder / "photos", out=folder)


def learn(command: Personalize, console: Console) -> Sitting:
    """Learn somebody as `bayes-persona personalize` does, and keep what is needed to look at them again.

    Args:
        command: As `asked` gives it.
        console: Where it is said.

    Raises:
        DataError: If the photos cannot be learned from.

    >>> learn(Personalize(Path("nowhere"), "robot"), Console(quiet=True))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.DataError: nowhere: there is no such folder; a single photo goes into a list
    """
    learned, said = run.learn(command, console)
    return Sitting(command.out, learned, said)


def dials(adapter: Adapter) -> tuple[Dial, ...]:
    """Give the knobs of an adapter.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> dials(LowRank(Subject("robot")))
    (Dial(name='scale', low=0.0, high=1.5, now=1.0),)
    """
    return tuple(
        Dial(name, float(low), float(high), float(getattr(adapter, name)))
        for name, (low, high) in adapter.knobs.items()
    )


def groups(adapter: Adapter) -> dict[str, tuple[str, ...]]:
    """Give the gates of an adapter by what is turned together: thirds of the U-Net, mostly.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> list(groups(LowRank(Subject("robot"))))
    ['down', 'mid', 'up']
    """
    return {knob.name: knob.gates for knob in knobs.gates(adapter)}


def turned(adapter: Adapter, turn: Turn) -> tuple[Any, dict[str, float]]:
    """Give an adapter with its knobs turned, and its closed gates.

    Raises:
        ConfigError: If it has no such knob or group, or a value is outside its range.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> softer, gates = turned(LowRank(Subject("robot")), Turn(knobs={"scale": 0.5}, shut=["mid"]))
    >>> softer.scale, len(gates), set(gates.values())
    (0.5, 8, {0.0})
    """
    own = dict(turn.knobs)
    for name in own:
        if name not in adapter.knobs:
            raise ConfigError(f"{name}: {adapter.method} has no such knob; it has {', '.join(adapter.knobs) or 'none'}")
    have = groups(adapter)
    for name in turn.shut:
        if name not in have:
            raise ConfigError(f"{name}: {adapter.method} has no such gates; it has {', '.join(have) or 'none'}")
    gates = {gate: 0.0 for name in turn.shut for gate in have[name]}
    return replace(adapter, **own) if own else adapter, gates  # pyright: ignore[reportArgumentType]


def see(sitting: Sitting, turn: Turn) -> Seen:
    """Make pictures of somebody who was learned, without learning anything again.

    Args:
        sitting: Who.
        turn: What, and how.

    Raises:
        ConfigError: If the prompt does not name the subject, or something cannot be turned so.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> from bayes_persona.posterior import Posterior
    >>> pipe, words = pipelines.load(), TextualInversion(Subject("robot"))
    >>> start = words.init(pipe, members=2, seed=0)["embedding"]
    >>> two = Posterior(({"embedding": start[0]}, {"embedding": 2 * start[1]}))
    >>> sitting = Sitting(Path(), Learned(pipe, words, two, None, generate.Config(steps=1)), {})
    >>> see(sitting, Turn("a robot at night", pictures=1)).averaged.shape
    (1, 64, 64, 3)
    """
    pipe, posterior = sitting.learned.pipe, sitting.learned.posterior
    adapter, gates = turned(sitting.learned.adapter, turn)
    sampling = replace(sitting.learned.sampling, guidance=turn.guidance)
    start = generate.noise(pipe, turn.pictures, child(turn.seed, "pictures"))
    members = uncertainty.pictures(pipe, adapter, posterior, turn.prompt, start, sampling, gates)
    prompts = [turn.prompt] * turn.pictures
    return Seen(members, uncertainty.averaged(pipe, adapter, posterior, prompts, start, sampling, gates))


def save(sitting: Sitting, turn: Turn) -> Path:
    """Write the personalization with its knobs where they were turned, as `diffusion.adapter.load` reads it.

    Knobs are settings of the adapter; gates and guidance are of a picture, so the file only says where they were.

    >>> import tempfile
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> from bayes_persona.posterior import Posterior
    >>> pipe, method = pipelines.load(), LowRank(Subject("robot"), rank=1)
    >>> one = Posterior(({name: value[0] for name, value in method.init(pipe, 1, seed=0).items()},))
    >>> sitting = Sitting(Path(tempfile.mkdtemp()), Learned(pipe, method, one, None, generate.Config()), {})
    >>> _, about = adapters.load(save(sitting, Turn(knobs={"scale": 0.5}, shut=["mid"])))
    >>> about["settings"]["scale"], about["shut"]
    (0.5, ['mid'])
    """
    adapter, _ = turned(sitting.learned.adapter, turn)
    about = {"base": pipelines.fingerprint(sitting.learned.pipe), "shut": list(turn.shut), "guidance": turn.guidance}
    adapters.save(sitting.folder / TURNED, adapter, sitting.learned.posterior, **about)
    return sitting.folder / TURNED


def somebody(folder: Path, number: int, photographs: int = 4) -> tuple[str, list[Path], str]:
    """Write photos of somebody made up, whom the embedded model has never seen.

    Args:
        folder: Where.
        number: Who.
        photographs: How many.

    Returns:
        What they are, the files, and a caption a line.

    >>> import tempfile
    >>> kind, files, captions = somebody(Path(tempfile.mkdtemp()), number=0, photographs=2)
    >>> kind, len(files), len(captions.splitlines())
    ('man', 2, 2)
    """
    kinds = len(facts.superclasses())
    who = splits.held_out(number % kinds + 1, seed=number // kinds)[-1]
    taken = splits.photos(who, photographs, seed=number)
    files = [folder / f"{who.superclass}_{number}_{k}.png" for k in range(len(taken))]
    folder.mkdir(parents=True, exist_ok=True)
    for path, photo in zip(files, taken, strict=True):
        Image.fromarray(photo.render().pixels).save(path)
    return who.superclass, files, "\n".join(photo.caption for photo in taken)
