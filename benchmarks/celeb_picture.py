"""The picture of docs/celeb_basis.md: where named people lie, two people learned from one photo each, and all between.

`python -m benchmarks.celeb_picture` writes it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from bayes_persona.diffusion import generate, pipelines, words
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.celeb_basis.basis import interpolate
from bayes_persona.diffusion.adapters.celeb_basis.method import CelebBasis
from bayes_persona.persona import celebrities
from bayes_persona.persona.plots import show
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.pictures import COLOURS, QUIET, axes
from bayes_persona.seeds import child
from bayes_persona.world import facts, splits
from benchmarks import celeb, subjects

BETWEEN = (0.0, 0.25, 0.5, 0.75, 1.0)


def main(folder: Path = Path("docs"), seed: int = 3) -> None:
    pipe = pipelines.load()
    women = splits.held_out(8, child(seed, "pictured"))[1::4]
    draw = replace(celeb.DRAW, particles=1, rate=celeb.METHODS["celeb_basis"][1], steps=50)
    learned, photos = [], []
    for k, who in enumerate(women):
        (example,) = splits.photos(who, 1, seed=child(seed, k))
        photo = example.render().pixels[None]
        shown = Shown(photo, (example.caption,))
        posterior = personalize(pipe, _method(pipe, photo), shown, draw, seed=child(seed, "draw", k))
        learned.append(torch.as_tensor(posterior[0]["coefficients"]))
        photos.append(photo[0])
    method = _method(pipe, photos[0][None])
    way = torch.stack([interpolate(method.basis, learned[0], learned[1], t) for t in BETWEEN])
    figure = Figure(figsize=(10.5, 7.2), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 0.95))
    above, below = parts
    _plot(above, pipe, method, learned)
    grid = below.subplots(2, len(way) + 2)
    titles = ("one photo", "learned", *("between",) * (len(way) - 2), "learned", "one photo")
    for row, text in enumerate(subjects.prompts("woman", 2, seed)):
        start = generate.noise(pipe, 1, child(seed, "noise", row)).repeat(len(way), 1, 1, 1)
        with method.attached(pipe, {"coefficients": way.numpy()}, torch.arange(len(way))):
            pictures = generate.sample(pipe, [method.subject.prompt(text)] * len(way), start)
        for axis, picture, title in zip(grid[row], (photos[0], *pictures, photos[1]), titles, strict=True):
            show(axis, picture, title if row == 0 else "")
        grid[row, 1 + len(way) // 2].set_xlabel(text, fontsize=9)
    for axis in grid[1, [0, -1]]:
        axis.set_visible(False)
    figure.savefig(folder / "celeb_basis.png", dpi=110)


def _method(pipe, photos: np.ndarray) -> CelebBasis:
    return celebrities.method(pipe, Subject("woman"), photos, embedded=True)


def _plot(figure, pipe, method, learned) -> None:
    """Show the first two coefficients of every name, at both places, and of who was learned."""
    people, basis = splits.named(), method.basis
    ids = torch.tensor([pipe.tokenizer(name, add_special_tokens=False).input_ids for name in people])
    known = basis.unit(basis.coefficients(words.embeddings(pipe, ids))).split(basis.sizes, dim=-1)
    mine = basis.unit(torch.cat(learned)).split(basis.sizes, dim=-1)
    kinds = np.array([who.superclass for who in people.values()])
    both = figure.subplots(1, 2)
    for place, axis in enumerate(both):
        axes(axis, f"{('First', 'Second')[place]} words of names")
        for kind, colour in zip(facts.superclasses(), COLOURS, strict=False):
            x, y = known[place][kinds == kind, :2].T
            # second words do not say the superclass: most are of two kinds
            axis.scatter(x, y, s=14, color=(colour, QUIET)[place], label=kind, alpha=0.7, linewidths=0)
        axis.scatter(*mine[place][:, :2].T, s=90, marker="*", color="black", label="two women, learned")
        axis.set(xlabel="first coefficient", ylabel="second coefficient")
        axis.set_aspect("equal")
        axis.spines[["top", "right"]].set_visible(False)
    both[0].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
