"""Oracles: nets that read from a picture who is in it, with error bars, and what a caption could have asked for.

They are trained once on rendered pictures (`train_oracles`), shipped, and scored on identities that no training ever
saw. A picture of two subjects is read as a whole (how many, which superclasses, the background) and then subject by
subject, each half enlarged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import DataError, MismatchError, needs_extra
from bayes_persona.files import load_arrays, load_json, understood
from bayes_persona.named import require_like
from bayes_persona.world import captions, facts
from bayes_persona.world.draw import Identity
from bayes_persona.world.oracle_net import SPREAD, Config, Net, View, floats, questions, shifted, viewed

with needs_extra("diffusion"):
    import torch

SHIPPED = Path(__file__).parent / "assets" / "oracles"
WEIGHTS, ABOUT = "oracles.safetensors", "oracles.json"
VERDICTS = ("count", "superclass", *facts.ATTRIBUTES, "both superclasses", "places")
"""What `judge` decides."""
STEPS = (-1, 0, 1)
"""So many pixels along the diagonal a picture is moved, and read each time."""
BATCH = 64
"""Pictures that the net reads in one go."""


class Reading(NamedTuple):
    """What the oracles see in n pictures; where there are two subjects, what is said of one is of little use.

    >>> reading = load().read(np.zeros((2, 64, 64, 3), np.uint8))
    >>> reading.z.shape, reading.probabilities["pose"].shape, sorted(reading.probabilities)[:3]
    ((2, 12), (2, 3), ['accessory', 'background', 'clothing'])
    """

    z: Float[np.ndarray, "n factors"]
    """Expected identity factors."""
    sd: Float[np.ndarray, "n factors"]
    """Standard deviations of what they may be instead."""
    embedding: Float[np.ndarray, "n d"]
    """Unit vectors; the product of two is how alike their subjects are: near 1 for one identity, about 0 for two."""
    probabilities: Mapping[str, Float[np.ndarray, "n choices"]]
    """For each of `questions()` how likely each of its answers is."""

    def answers(self, question: str) -> tuple[str, ...]:
        """Give the most probable answer for each picture."""
        return tuple(questions()[question][k] for k in self.probabilities[question].argmax(axis=1))


class Agreement(NamedTuple):
    """R² of identity factors: 1 minus squared error over squared distance from the mean, of visible factors only.

    >>> z = np.random.default_rng(0).random((50, 12))
    >>> agreement = identity_r2(z, z, ["cat"] * 50)
    >>> agreement.mean, sorted(set(facts.factors()) - set(agreement.table["cat"]))
    (1.0, ['jaw'])
    """

    mean: float
    """Mean of the table: every visible factor of every superclass counts as much."""
    pooled: float
    """Errors of the whole table summed, over distances from each cell's own mean summed."""
    table: dict[str, dict[str, float]]
    """R² by superclass and factor."""


class Oracles:
    """A trained net that reads pictures.

    Args:
        net: The net.
        stretch: What to multiply its error bars with, so that they are right on held-out identities.
        about: How it was made and how good it is.

    >>> load().about["held out"]["identity_r2"] > 0.85
    True
    """

    def __init__(self, net: Net, stretch: Float[np.ndarray, " factors"], about: Mapping[str, Any]):
        self.net = net.eval().requires_grad_(False)
        self.stretch = stretch
        self.about = about

    @torch.no_grad()
    def read(self, pixels: np.ndarray, view: View = "whole") -> Reading:
        """Read pictures.

        Args:
            pixels: Bytes of shape (n, height, width, 3).
            view: `"left"` or `"right"` reads that subject of pictures with two; of `"whole"` ones with two, only the
                number, the superclasses `left` and `right` and the background mean anything.

        Raises:
            DataError: If the pictures are of another type or shape.
        """
        read = self._everywhere(viewed(floats(pixels), view))
        z = read["z"].clamp(0, 1).double().numpy()
        sd = read["log sd"].exp().double().numpy() * self.stretch
        probabilities = {name: read[name].double().softmax(dim=1).numpy() for name in questions()}
        return Reading(z, sd, _embedding(z, probabilities["superclass"]), probabilities)

    def _everywhere(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Read pictures at several places, and take the mean: about a tenth of the errors goes away."""
        parts = []
        for some in pixels.split(BATCH):
            moved = [self.net(shifted(some, torch.full((2, len(some)), step))) for step in STEPS]
            parts.append({name: torch.stack([one[name] for one in moved]).mean(dim=0) for name in moved[0]})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@cache
def load(folder: Path = SHIPPED) -> Oracles:
    """Load oracles: those that are shipped, or others.

    Raises:
        RunError: If a file is missing or was changed since it was written.
        MismatchError: If they were trained on another world than this one.

    >>> load() is load()
    True
    """
    return Oracles(*restored(folder / WEIGHTS), load_json(folder / ABOUT))


def judge(
    pixels: np.ndarray, prompts: Sequence[str], oracles: Oracles | None = None
) -> dict[str, Float[np.ndarray, " n"]]:
    """Say for each picture and each thing that its caption mentions whether it shows: 1, 0, or NaN if not mentioned.

    Where there should be two subjects, `both superclasses` asks whether they are there, `places` whether each is on its
    side, and what is said of expressions, poses, clothes and accessories must be right of both.

    Raises:
        ConfigError: If a caption makes no sense.
        DataError: If pictures and captions differ in number, or pictures have another type or shape.

    >>> from bayes_persona.world import splits
    >>> happy = splits.sample(splits.Config(named=0.0, pairs=0.0, drop=0.0), 3, seed=0)
    >>> verdict = judge(happy.render().pixels[None], [happy.caption])
    >>> verdict["expression"].item(), verdict["background"].item(), verdict["both superclasses"].item()
    (1.0, 1.0, nan)
    """
    oracles = load() if oracles is None else oracles
    told = [captions.parse(prompt) for prompt in prompts]
    if len(pixels) != len(told):
        raise DataError(f"pixels: expected one picture for each of {len(told)} captions, got {len(pixels)}")
    needed = get_args(View) if any(len(wanted.subjects) == 2 for wanted in told) else ("whole",)
    readings = {view: oracles.read(pixels, view) for view in needed}
    seen = {view: {name: reading.answers(name) for name in questions()} for view, reading in readings.items()}
    verdicts = [
        _verdict(wanted, {view: _row(answers, k) for view, answers in seen.items()}) for k, wanted in enumerate(told)
    ]
    return {name: np.array([verdict[name] for verdict in verdicts], float) for name in VERDICTS}


def identity_error(
    pixels: np.ndarray, identity: Identity | Sequence[Identity], oracles: Oracles | None = None
) -> Float[np.ndarray, " n"]:
    """Give for each picture how far the one in it is from an identity: root mean square over its visible factors.

    Args:
        pixels: Pictures with one subject.
        identity: Who they should show: the same in all, or one for each.
        oracles: Which oracles; the shipped ones if none are given.

    Raises:
        DataError: If pictures and identities differ in number, or pictures have another type or shape.

    >>> from bayes_persona.world import splits
    >>> me, other = splits.held_out(6, seed=0)[1::4]
    >>> pixels = np.stack([photo.render().pixels for photo in splits.photos(me, 4, seed=0)])
    >>> bool(identity_error(pixels, me).mean() < 0.2 < identity_error(pixels, other).mean())
    True
    """
    oracles = load() if oracles is None else oracles
    wanted = [identity] * len(pixels) if isinstance(identity, Identity) else identity
    if len(wanted) != len(pixels):
        raise DataError(f"identity: expected one, or one for each of {len(pixels)} pictures, got {len(wanted)}")
    return np.array([distance(z, who) for z, who in zip(oracles.read(pixels).z, wanted, strict=True)])


def distance(z: Float[np.ndarray, " factors"], identity: Identity) -> float:
    """Give how far factors that were read are from an identity's: root mean square over those visible in its kind.

    >>> from bayes_persona.world import splits
    >>> me = splits.held_out(1, seed=0)[0]
    >>> distance(np.array(me.z), me)
    0.0
    """
    off = z - np.array(identity.z)
    return float(np.sqrt((off**2).mean(where=_visible(identity.superclass))))


def identity_r2(
    z_true: Float[np.ndarray, "n factors"], z_read: Float[np.ndarray, "n factors"], superclasses: Sequence[str]
) -> Agreement:
    """Give the R² of identity factors that were read.

    Superclasses with one picture alone are left out: nothing varies in them that could be explained.

    Raises:
        DataError: If no superclass has two pictures.

    >>> z = np.random.default_rng(0).random((50, 12))
    >>> round(identity_r2(z, np.full_like(z, 0.5), ["robot"] * 50).mean, 1)  # no better than a guess
    -0.0
    """
    table, errors, spreads = {}, 0.0, 0.0
    for kind in sorted(set(superclasses), key=facts.superclasses().index):
        rows = np.array([other == kind for other in superclasses])
        if rows.sum() < 2:
            continue
        error = ((z_read[rows] - z_true[rows]) ** 2).sum(axis=0)
        spread = ((z_true[rows] - z_true[rows].mean(axis=0)) ** 2).sum(axis=0)
        shown = _visible(kind)
        table[kind] = {facts.factors()[k]: float(1 - error[k] / spread[k]) for k in np.flatnonzero(shown)}
        errors, spreads = errors + error[shown].sum(), spreads + spread[shown].sum()
    if not table:
        raise DataError(f"superclasses: R² needs two pictures or more of one, got {sorted(superclasses)}")
    mean = float(np.mean([value for row in table.values() for value in row.values()]))
    return Agreement(mean, float(1 - errors / spreads), table)


def saved(net: Net, stretch: Float[np.ndarray, " factors"], config: Config) -> tuple[dict[str, np.ndarray], dict]:
    """Give arrays, in half precision, and metadata of the file that `load` reads.

    >>> arrays, metadata = saved(Net(Config(), seed=0), np.ones(12), Config())
    >>> sum(array.nbytes for array in arrays.values()) < 3_000_000, sorted(metadata)
    (True, ['sizes', 'world'])
    """
    arrays = {name: value.numpy().astype(np.float16) for name, value in net.state_dict().items()}
    return {**arrays, "stretch": stretch.astype(np.float32)}, {"sizes": asdict(config), "world": _world()}


def restored(path: Path) -> tuple[Net, Float[np.ndarray, " factors"]]:
    """Read back what `saved` gave, once it is a file.

    Raises:
        RunError: If the file is missing or was changed since it was written.
        MismatchError: If the net was trained on another world than this one.

    >>> net, stretch = restored(SHIPPED / WEIGHTS)
    >>> stretch.shape
    (12,)
    """
    arrays, metadata = load_arrays(path)
    if metadata.get("world") != _world():
        raise MismatchError(f"{path}: reads another world than data/*.json describe; train them again (train_oracles)")
    with understood(path, "oracles"):
        stretch = arrays.pop("stretch").astype(np.float64)
        net = Net(Config(**{**metadata["sizes"], "widths": tuple(metadata["sizes"]["widths"])}), seed=0)
        require_like(arrays, {name: value.numpy() for name, value in net.state_dict().items()}, str(path))
        net.load_state_dict({name: torch.as_tensor(array) for name, array in arrays.items()})
        return net, stretch


def _world() -> dict[str, list[str]]:
    """What the heads mean."""
    return {"factors": list(facts.factors()), **{name: list(among) for name, among in questions().items()}}


def _embedding(z: np.ndarray, superclass: np.ndarray) -> Float[np.ndarray, "n d"]:
    # Factors in units of their spread, in a block of their superclass: a cat is never like a man.
    blocks = (superclass[:, :, None] * ((z - 0.5) / SPREAD)[:, None, :]).reshape(len(z), -1)
    return blocks / np.linalg.norm(blocks, axis=1, keepdims=True).clip(1e-12)


def _visible(superclass: str) -> np.ndarray:
    shown = facts.visible(superclass)
    return np.array([factor in shown for factor in facts.factors()])


def _verdict(wanted: captions.Description, seen: dict[str, dict[str, str]]) -> dict[str, float]:
    pair, whole = len(wanted.subjects) == 2, seen["whole"]
    verdict = {
        "count": float(pair == (whole["count"] == "2")),
        "background": _right([(wanted.background, whole["background"])]),
    }
    kinds, found = [who.superclass for who in wanted.subjects], [whole["left"], whole["right"]]
    verdict["superclass"] = np.nan if pair else float(kinds == [whole["superclass"]])
    verdict["both superclasses"] = verdict["count"] * (sorted(kinds) == sorted(found)) if pair else np.nan
    verdict["places"] = verdict["count"] * (kinds == found) if pair else np.nan
    views = [seen["left"], seen["right"]] if pair else [whole]
    for name in ("expression", "pose", "clothing", "accessory"):
        verdict[name] = _right(
            [(getattr(who, name), view[name]) for who, view in zip(wanted.subjects, views, strict=True)]
        )
    return verdict


def _right(asked: Sequence[tuple[str | None, str]]) -> float:
    told = [want == have for want, have in asked if want is not None]
    return float(all(told)) if told else np.nan


def _row(answers: dict[str, tuple[str, ...]], k: int) -> dict[str, str]:
    return {name: values[k] for name, values in answers.items()}
