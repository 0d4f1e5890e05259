"""The picture of docs/dual_pivot.md: bad photos, what the restorer makes of them, what it makes knowing who it is.

`python -m benchmarks.dual_picture` writes it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from bayes_persona.diffusion import pipelines
from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.restoration import guide as guides
from bayes_persona.diffusion.restoration.guide import Guide
from bayes_persona.diffusion.restoration.restore import Config as Sampling
from bayes_persona.diffusion.restoration.restore import restore
from bayes_persona.persona.plots import show
from bayes_persona.seeds import child
from bayes_persona.world import splits
from benchmarks import dual

EDIT = "{subject} looking happy"
TITLES = ("one of 10 photos", "bad photo", "restorer alone", "dual pivot", "“looking happy”", "truth")


def main(folder: Path = Path("docs"), seed: int = 3, people: int = 3) -> None:
    torch.set_num_threads(1)
    pipe = pipelines.load()
    guide = guides.load(pipe)
    figure = Figure(figsize=(1.55 * len(TITLES), 1.62 * people + 0.25), layout="constrained")
    grid = figure.subplots(people, len(TITLES), squeeze=False)
    for k, who in enumerate(splits.held_out(people, child(seed, "pictured"))):
        one = dual.case(who, child(seed, k))
        found = dual.second(pipe, guide, one, dual.first(pipe, guide, one))
        subject = Subject(who.superclass)
        alone = _restored(pipe, guide, one, subject.anyone("{subject}"))
        with dual.method(guide, who).attached(pipe, found.stacked(), torch.zeros(1, dtype=torch.long)):
            mine, happy = (_restored(pipe, guide, one, subject.prompt(text)) for text in ("{subject}", EDIT))
        row = (one.photos.pixels[0], one.bad[0], alone, mine, happy, one.clean[0])
        for axis, picture, title in zip(grid[k], row, TITLES, strict=True):
            show(axis, picture, title if k == 0 else "")
    figure.savefig(folder / "dual_pivot.png", dpi=110)


def _restored(pipe: Any, guide: Guide, one: dual.Case, prompt: str) -> np.ndarray:
    return restore(pipe, guide, one.bad[:1], [prompt], Sampling(colour=dual.COLOUR), seed=one.seed)[0]


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
