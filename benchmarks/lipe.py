"""LIPE against its bars: `python -m benchmarks.lipe [--only learning tuning compare captions]`.

Every person is learned from four photos. A fifth is edited in pose and in expression, by LIPE, by a MasaCtrl and by
plain inversion with the same person attached; `captions` asks LIPE the same with a person learned from photos of which
nothing was said. What is outside the subject's true masks, before and after, is background: both can be drawn.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro

from bayes_persona.diffusion import pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.lipe import masactrl, nima
from bayes_persona.diffusion.adapters.lipe.method import Lipe
from bayes_persona.diffusion.adapters.lipe.others import made
from bayes_persona.files import load_json, save_json
from bayes_persona.persona.captioner import grid
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.world import facts, oracles, splits
from bayes_persona.world.captions import caption
from bayes_persona.world.draw import Identity, Scene
from bayes_persona.world.splits import Example
from benchmarks import subjects
from benchmarks.rows import Row, ratio, row, save

Part = Literal["learning", "tuning", "compare", "captions"]
RUNS = Path(__file__).parent.parent / "runs" / "lipe"
"""Where pictures of anyone, persons and what was judged are kept, so that a run that was killed goes on."""
RANK, DRAW = 16, Draw(particles=1, alpha=0.0, weights="even", steps=100, rows=8, rate=1e-2)
"""Chosen on tuning people, see `LEARNING`."""
LEARNING: dict[str, tuple[int, Draw]] = {
    "rank16": (RANK, DRAW),
    "base": (8, replace(DRAW, rows=4)),
}
"""What was tried for the first stage, and the second stage's best was found with the last of."""
OTHERS = 48
"""Pictures of anyone."""
NIMA = nima.Config(steps=20, guidance=1.5, inversion="edit_friendly", start=0.4, grow=0, feather=2)
"""Chosen on tuning people, who are asked for the same edits."""
PLAIN = replace(NIMA, inversion="ddim", start=0.0, blend=False, feather=None)
"""Inversion and regeneration under another prompt."""
METHODS = ("lipe", "unblended", "masactrl", "masactrl_auto", "plain")
"""With the same person; `unblended` is LIPE without masks."""
TUNING: dict[str, nima.Config] = {
    **{f"guidance_{g:g}": replace(NIMA, guidance=g) for g in (1.0, 1.5, 2.0)},
    "ddim": replace(NIMA, inversion="ddim", start=0.0),
    "start_0": replace(NIMA, start=0.0),
    "grow_1": replace(NIMA, grow=1),
    "spread_0": replace(NIMA, spread=0),
}
"""What was tried."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    only: tuple[Part, ...] = ("learning", "tuning", "compare", "captions")
    """Parts to measure; the rows of the others are kept."""
    identities: int = 12
    """Held-out identities that methods are judged on."""
    tuned: int = 4
    """Other held-out identities, that settings are chosen on."""


class Edits(NamedTuple):
    """What is asked of one photo."""

    photo: Example
    scenes: tuple[Scene, ...]
    asked: tuple[str, ...]
    """Which attribute each scene changes."""

    @property
    def captions(self) -> list[str]:
        """What each edit should show, in the photo's own words."""
        return [caption(scene, seed=self.photo.seed) for scene in self.scenes]

    def background(self) -> np.ndarray:
        """Where neither the photo nor the edit shows the subject, if it is edited as it should be."""
        drawn = [self.photo._replace(scene=scene).render().masks[0] for scene in self.scenes]
        return ~(np.stack(drawn) | self.photo.render().masks[0])


class Judged(NamedTuple):
    """One method on one person's photo: means over its edits."""

    success: float
    """Share of edits in which the oracles read what was asked for."""
    identity_error: float
    """Root mean square over visible factors, by the oracles."""
    psnr: float
    """Of the background, decibels."""
    painted: float
    """Share of the photo that was painted anew."""


def edits(who: Identity, seed: int) -> Edits:
    """Give a photo, and the other two poses and two other expressions of it."""
    photo = splits.photos(who, 5, seed=seed)[4]
    me, scenes, asked = photo.scene.subjects[0], [], []
    for name in ("pose", "expression"):
        others = [value for value in facts.choices(name) if value != getattr(me, name)]
        for k in np.random.default_rng(child(seed, "asked", name)).permutation(len(others))[:2]:
            scenes.append(replace(photo.scene, subjects=(replace(me, **{name: others[k]}),)))
            asked.append(name)
    return Edits(photo, tuple(scenes), tuple(asked))


def learned(
    pipe: Any, who: Identity, seed: int, name: str, *, silent: bool = False, rank: int = RANK, draw: Draw = DRAW
) -> tuple[Lipe, Posterior]:
    """Learn a person from four photos, whose captions say everything, or, `silent`, nothing but that it is them."""
    photos = splits.photos(who, 5, seed=seed)[:4]
    drawn = [one.render() for one in photos]
    masks = np.stack([0.1 + one.masks[0].astype(np.float32) for one in drawn])
    said = tuple("{subject}" if silent else one.caption for one in photos)
    shown = Shown(np.stack([one.pixels for one in drawn]), said, masks)
    others = made(pipe, grid(who.superclass, OTHERS), RUNS / f"others_{who.superclass}")
    method = Lipe(Subject(who.superclass), others, rank=rank)
    return method, personalize(pipe, method, shown, draw, seed=seed, folder=RUNS / "people" / name)


def judge(pixels: np.ndarray, who: Identity, wanted: Edits, mask: torch.Tensor) -> Judged:
    """Judge a method's edits."""
    verdict = oracles.judge(pixels, wanted.captions)
    right = [verdict[name][k] for k, name in enumerate(wanted.asked)]
    return Judged(
        success=float(np.mean(right)),
        identity_error=float(oracles.identity_error(pixels, who).mean()),
        psnr=float(np.mean(psnr(pixels, wanted.photo.render().pixels, wanted.background()))),
        painted=float(mask.float().mean()),
    )


def psnr(pixels: np.ndarray, photo: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Give the decibels of each picture where it is looked at."""
    error = ((pixels.astype(float) - photo) ** 2).mean(axis=-1)
    return np.array([10 * np.log10(255**2 / max(one[at].mean(), 1e-9)) for one, at in zip(error, where, strict=True)])


def edited(pipe: Any, method: Lipe, posterior: Posterior, wanted: Edits, walk: nima.Config) -> nima.Edited:
    """Edit by LIPE, with these settings."""
    photo, subject, n = wanted.photo.render().pixels[None], method.subject, len(wanted.scenes)
    with method.attached(pipe, posterior.stacked(), torch.zeros(1, dtype=torch.long)):
        back = nima.invert(pipe, photo, [subject.prompt(wanted.photo.caption)], subject.phrase, walk).repeat(n)
        texts = [subject.prompt(text) for text in wanted.captions]
        return nima.paint(pipe, back, texts, subject.phrase, walk, np.repeat(photo, n, axis=0))


def attended(pipe: Any, method: Lipe, posterior: Posterior, wanted: Edits, config: masactrl.Config) -> nima.Edited:
    """Edit by MasaCtrl."""
    photo, subject, n = wanted.photo.render().pixels[None], method.subject, len(wanted.scenes)
    said, texts = subject.prompt(wanted.photo.caption), [subject.prompt(text) for text in wanted.captions]
    with method.attached(pipe, posterior.stacked(), torch.zeros(1, dtype=torch.long)):
        back = nima.invert(pipe, photo, [said], subject.phrase, PLAIN).repeat(n)
        return masactrl.paint(pipe, back, [said] * n, texts, subject.phrase, PLAIN, config)


def reconstruction(pipe: Any, method: Lipe, posterior: Posterior, who: Identity, wanted: Edits) -> float:
    """Give the identity error of the photo walked back and forth under its own caption, unguided and unblended."""
    same = wanted._replace(scenes=(wanted.photo.scene,), asked=("pose",))
    plain = edited(pipe, method, posterior, same, replace(PLAIN, guidance=1.0))
    return float(oracles.identity_error(plain.pixels, who).mean())


def compared(pipe: Any, who: Identity, seed: int, name: str) -> dict[str, Any]:
    """Judge every method on one person."""
    wanted, (method, posterior) = edits(who, seed), learned(pipe, who, seed, name)
    made_by = {
        "lipe": lambda: edited(pipe, method, posterior, wanted, NIMA),
        "unblended": lambda: edited(pipe, method, posterior, wanted, replace(NIMA, blend=False, feather=None)),
        "masactrl": lambda: attended(pipe, method, posterior, wanted, masactrl.Config()),
        "masactrl_auto": lambda: attended(pipe, method, posterior, wanted, masactrl.Config(threshold=0.1)),
        "plain": lambda: edited(pipe, method, posterior, wanted, PLAIN),
    }
    found: dict[str, Any] = {"reconstruction": reconstruction(pipe, method, posterior, who, wanted)}
    for each in METHODS:
        result = made_by[each]()
        found[each] = judge(result.pixels, who, wanted, result.mask)._asdict()
    return found


def silent(pipe: Any, who: Identity, seed: int, name: str) -> dict[str, Any]:
    """Judge LIPE with a person who was learned from photos that nothing was said of."""
    wanted, person = edits(who, seed), learned(pipe, who, seed, f"{name}_silent", silent=True)
    result = edited(pipe, *person, wanted, NIMA)
    return {"silent": judge(result.pixels, who, wanted, result.mask)._asdict()}


def kept(place: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do what was not done before: a run that was killed goes on."""
    if not place.is_file():
        found = work()
        place.parent.mkdir(parents=True, exist_ok=True)
        save_json(place, found)
    return load_json(place)


UNITS = {
    "success": "share of edits that show what was asked for",
    "identity_error": "RMSE of visible factors",
    "psnr": "dB outside the true masks",
    "painted": "share of the photo",
}


def learning(config: Config) -> list[Row]:
    """Try settings of the first stage on tuning people."""
    command, started = "python -m benchmarks.lipe --only learning", time.perf_counter()
    pipe, found = pipelines.load(), {name: [] for name in LEARNING}
    with bar("people", total=config.tuned * len(found)) as advance:
        for k, who in enumerate(splits.held_out(config.tuned, subjects.TUNING)):
            seed = child(subjects.TUNING, k)
            wanted = edits(who, seed)
            for name, (rank, draw) in LEARNING.items():
                person = learned(pipe, who, seed, f"try_{name}_{k}", rank=rank, draw=draw)
                result = edited(pipe, *person, wanted, NIMA)
                found[name].append(judge(result.pixels, who, wanted, result.mask))
                advance()
    return scores(found, "lipe.learning", command, time.perf_counter() - started)


def tuning(config: Config) -> list[Row]:
    """Try settings of the second stage on tuning people."""
    command, started = "python -m benchmarks.lipe --only tuning", time.perf_counter()
    pipe, found = pipelines.load(), {name: [] for name in TUNING}
    with bar("people", total=config.tuned) as advance:
        for k, who in enumerate(splits.held_out(config.tuned, subjects.TUNING)):
            seed = child(subjects.TUNING, k)
            wanted, person = edits(who, seed), learned(pipe, who, seed, f"tuning_{k}")
            for name, walk in TUNING.items():
                result = edited(pipe, *person, wanted, walk)
                found[name].append(judge(result.pixels, who, wanted, result.mask))
            advance()
    return scores(found, "lipe.tuning", command, time.perf_counter() - started)


def scores(found: dict[str, list[Judged]], prefix: str, command: str, seconds: float) -> list[Row]:
    return [
        row(f"{prefix}.{name}.{score}", [getattr(one, score) for one in every], unit, command=command, seconds=seconds)
        for name, every in found.items()
        for score, unit in UNITS.items()
    ]


def people(config: Config, part: str, work: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Do something with each person who is reported on."""
    pipe, every = pipelines.load(), []
    with bar(part, total=config.identities) as advance:
        for k, who in enumerate(splits.held_out(config.identities, subjects.REPORT)):
            name, seed = f"report_{k}", child(subjects.REPORT, k)
            place = RUNS / "judged" / f"{part}_{k}.json"
            every.append(kept(place, partial(work, pipe, who, seed, name)))
            advance()
    return every


def compare(config: Config) -> list[Row]:
    """Judge every method on people who are not tuned on."""
    command, started = "python -m benchmarks.lipe --only compare", time.perf_counter()
    every = people(config, "compare", compared)
    said = {"command": command, "seconds": time.perf_counter() - started}
    found = {name: [Judged(**one[name]) for one in every] for name in METHODS}
    mine, plain = found["lipe"], [one["reconstruction"] for one in every]
    rows = [
        row("lipe.edit_success", [one.success for one in mine], UNITS["success"], **said),
        row("lipe.background_psnr", [one.psnr for one in mine], UNITS["psnr"], **said),
        ratio("lipe.identity_ratio", [one.identity_error for one in mine], plain, "of plain reconstruction's", **said),
        row("lipe.reconstruction.identity_error", plain, UNITS["identity_error"], **said),
    ]
    rows += scores(found, "lipe", command, said["seconds"])
    for other in METHODS[1:]:
        rows += differences(f"lipe.over_{other}", mine, found[other], said)
    return rows


def captions(config: Config) -> list[Row]:
    """Judge LIPE with people who were learned from photos that nothing was said of."""
    command, started = "python -m benchmarks.lipe --only captions", time.perf_counter()
    mine = [Judged(**one["lipe"]) for one in people(config, "compare", compared)]
    theirs = [Judged(**one["silent"]) for one in people(config, "captions", silent)]
    said = {"command": command, "seconds": time.perf_counter() - started}
    rows = scores({"silent": theirs}, "lipe", command, said["seconds"])
    return rows + differences("lipe.over_silent", mine, theirs, said)


def differences(id: str, mine: Sequence[Judged], theirs: Sequence[Judged], said: dict[str, Any]) -> list[Row]:
    """Give LIPE less another, person by person."""
    return [
        row(
            f"{id}.{score}",
            [getattr(a, score) - getattr(b, score) for a, b in zip(mine, theirs, strict=True)],
            f"paired difference: {UNITS[score]}",
            **said,
        )
        for score in ("success", "identity_error", "psnr")
    ]


def main(config: Config) -> None:
    """Measure, and save the rows."""
    parts = {"learning": learning, "tuning": tuning, "compare": compare, "captions": captions}
    for name in config.only:
        save("lipe", parts[name](config))


if __name__ == "__main__":
    main(tyro.cli(Config))
