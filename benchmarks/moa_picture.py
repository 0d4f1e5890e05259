"""The picture of docs/moa.md: people at the same seeds, where routers send pixels, pairs, a morph and a real picture.

`python -m benchmarks.moa_picture` writes it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from bayes_persona.diffusion import generate, inversion, pipelines
from bayes_persona.diffusion.adapters.moa import features, mixture, routers
from bayes_persona.diffusion.adapters.moa.method import Cast, introduced
from bayes_persona.persona.plots import heat, show
from bayes_persona.seeds import child
from bayes_persona.world import face, splits, train_moa

PROMPTS = ("a {kind} <me> looking happy wearing red in the forest", "a {kind} <me> with a hat at night")
PAIR = "a {one} <me> on the left and a {other} <you> on the right on the beach"


def main(folder: Path = Path("docs"), seed: int = 3, mixture_file: Path = train_moa.SHIPPED) -> None:
    torch.set_num_threads(1)
    pipe, shared = pipelines.load(), mixture.load(mixture_file)
    people = splits.held_out(8, child(seed, "pictured"))[1:7]
    photos = [np.stack([one.render().pixels for one in splits.photos(who, 2, seed=seed)]) for who in people]
    figure = Figure(figsize=(10.5, 9.6), layout="constrained")
    grid = figure.subplots(7, 7)
    for axis in grid.flat:
        axis.set_visible(False)
    _rows(pipe, shared, people, photos, grid, seed)
    _pairs(pipe, shared, people, photos, grid[4], seed)
    _morph(pipe, shared, people, photos, grid[5], seed)
    _real(pipe, shared, people, photos, grid[6], seed)
    figure.savefig(folder / "moa.png", dpi=100)


def _rows(pipe: Any, shared: mixture.Mixture, people: Any, photos: list[np.ndarray], grid: Any, seed: int) -> None:
    """Everyone at the same two seeds, and the experts' share of the second."""
    _label(grid[0, 0], "one of two photos")
    for column, (who, own) in enumerate(zip(people, photos, strict=True), start=1):
        _show(grid[0, column], own[0])
        method = introduced(Cast(who.superclass), shared, face.encode, [own])
        made = []
        for row, text in enumerate(PROMPTS, start=1):
            prompt = text.format(kind=who.superclass)
            start = generate.noise(pipe, 1, child(seed, "noise", row))
            made.append(routers.routed(pipe, method, method.init(pipe, 1, 0), [prompt], start))
            _show(grid[row, column], made[-1].pixels[0])
        grid[3, column].set_visible(True)
        heat(grid[3, column], made[-1].share()[0], 1.0)
    for row, text in enumerate(("happy, in red,\nin the forest", "with a hat,\nat night", "from the experts"), start=1):
        _label(grid[row, 0], text)


def _pairs(pipe: Any, shared: mixture.Mixture, people: Any, photos: list[np.ndarray], row: Any, seed: int) -> None:
    _label(row[0], "the first with\neach of the others")
    for column in range(1, len(people)):
        one, other = people[0], people[column]
        cast = Cast(one.superclass, others=("<you>",))
        method = introduced(cast, shared, face.encode, [photos[0], photos[column]])
        prompt = PAIR.format(one=one.superclass, other=other.superclass)
        start = generate.noise(pipe, 1, child(seed, "pair"))
        _show(row[column + 1], features.swapped(pipe, method, [method.init(pipe, 1, 0)], prompt, start)[0])


def _morph(pipe: Any, shared: mixture.Mixture, people: Any, photos: list[np.ndarray], row: Any, seed: int) -> None:
    kind = people[0].superclass
    ends = [k for k, who in enumerate(people) if who.superclass == kind][:2]
    methods = [introduced(Cast(kind), shared, face.encode, [photos[k]]) for k in ends]
    one, other = (method.init(pipe, 1, 0) for method in methods)
    start = generate.noise(pipe, 1, child(seed, "morph"))
    _label(row[0], f"from one {kind}\nto another")
    for axis, picture in zip(
        row[1:],
        features.morphed(pipe, methods[0], one, other, f"a {kind} <me> on the beach", start, steps=6),
        strict=True,
    ):
        _show(axis, picture)


def _real(pipe: Any, shared: mixture.Mixture, people: Any, photos: list[np.ndarray], row: Any, seed: int) -> None:
    """A drawn picture that no model made, with others in the place of who is there."""
    kind = people[0].superclass
    (real,) = splits.photos(splits.base(8, child(seed, "real"))[1], 1, seed=seed)
    _label(row[0], "in the place\nof someone else")
    _show(row[1], real.render().pixels)
    for axis, k in zip(row[2:], [k for k, who in enumerate(people) if who.superclass == kind], strict=False):
        method = introduced(Cast(kind), shared, face.encode, [photos[k]])
        prompt = method.subject.prompt(real.caption)
        config = inversion.Config(steps=30, refinements=2)
        pixels = real.render().pixels[None]
        _show(
            axis,
            features.placed(pipe, method, method.init(pipe, 1, 0), pixels, [prompt], config, guidance=2.0).pixels[0],
        )


def _show(axis: Any, picture: np.ndarray) -> None:
    axis.set_visible(True)
    show(axis, picture)


def _label(axis: Any, text: str) -> None:
    axis.set_visible(True)
    axis.axis("off")
    axis.text(1, 0.5, text, ha="right", va="center", fontsize=9)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
