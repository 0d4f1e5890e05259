"""The picture of docs/lipe.md: photos, what is painted anew, and edits, of people whom settings were not chosen on.

`python -m benchmarks.lipe_picture` writes it, from the people that `benchmarks.lipe` learned.
"""

from pathlib import Path

from matplotlib.figure import Figure

from bayes_persona.diffusion import pipelines
from bayes_persona.persona.edit import masks_shown
from bayes_persona.persona.plots import show
from bayes_persona.seeds import child
from bayes_persona.world import splits
from benchmarks import lipe, subjects

SHOWN = (0, 2)
"""Of the four edits of a photo: a pose and an expression."""


def main(folder: Path = Path("docs"), people: int = 4) -> None:
    pipe = pipelines.load()
    titles = ("before", *("mask", "after") * len(SHOWN), "plain inversion")
    figure = Figure(figsize=(1.75 * len(titles), 1.95 * people), layout="constrained")
    grid = figure.subplots(people, len(titles))
    for k, who in enumerate(splits.held_out(people, subjects.REPORT)):
        seed = child(subjects.REPORT, k)
        wanted = _only(lipe.edits(who, seed), SHOWN)
        person = lipe.learned(pipe, who, seed, f"report_{k}")
        edited = lipe.edited(pipe, *person, wanted, lipe.NIMA)
        plain = lipe.edited(pipe, *person, _only(wanted, (1,)), lipe.PLAIN)
        masks, row = masks_shown(edited), [wanted.photo.render().pixels]
        for each in range(len(SHOWN)):
            row += [masks[each], edited.pixels[each]]
        for axis, picture, title in zip(grid[k], (*row, plain.pixels[0]), titles, strict=True):
            show(axis, picture, title if k == 0 else "")
        for column, each in ((2, 0), (4, 1), (5, 1)):
            grid[k, column].set_xlabel(_asked(wanted, each), fontsize=9)
    figure.savefig(folder / "lipe.png", dpi=100)


def _only(wanted: lipe.Edits, which: tuple[int, ...]) -> lipe.Edits:
    return lipe.Edits(wanted.photo, tuple(wanted.scenes[k] for k in which), tuple(wanted.asked[k] for k in which))


def _asked(wanted: lipe.Edits, each: int) -> str:
    name, me = wanted.asked[each], wanted.scenes[each].subjects[0]
    before = wanted.photo.scene.subjects[0]
    return f"{getattr(before, name)} → {getattr(me, name)}"


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
