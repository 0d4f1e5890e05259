"""Contact sheets of the world, and the table of its factors: `python -m bayes_persona.world.gallery`.

It writes `world.png`, `factors.png` and the table in `world.md` of its folder, all from the data.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from bayes_persona.errors import needs_extra
from bayes_persona.world import facts, splits
from bayes_persona.world.draw import Identity, Scene, Subject, render

with needs_extra("diffusion"):
    from PIL import Image, ImageDraw, ImageFont

COLUMNS = 8
ZOOM = 2
GAP = 8
"""Between pictures, in pixels of the sheet."""
TEXT = 12
"""Height of the letters under a picture."""
PAPER, INK, MASKS = (255, 255, 255), (60, 60, 70), ((38, 139, 210), (245, 130, 48))
MARKS = ("<!-- factors -->\n", "<!-- end of factors -->")
"""What the table of factors stands between in `world.md`."""


class Tile(NamedTuple):
    """A picture and what is written under it.

    >>> Tile(np.zeros((64, 64, 3), np.uint8), "black").text
    'black'
    """

    pixels: UInt8[np.ndarray, "height width 3"]
    text: str


def main(folder: Path = Path("docs")) -> None:
    """Write both sheets, and the table into `world.md` if the folder has one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = Path(folder) / "world.md"
    ...     _ = page.write_text(f"before {MARKS[0]} an old table {MARKS[1]} after")
    ...     main(Path(folder))
    ...     page.read_text() == f"before {MARKS[0]}{table()}{MARKS[1]} after"
    ...     sorted(path.name for path in Path(folder).iterdir())
    True
    ['factors.png', 'world.md', 'world.png']
    """
    sheet(_overview()).save(folder / "world.png", optimize=True)
    sheet(_factors()).save(folder / "factors.png", optimize=True)
    page = folder / "world.md"
    if page.exists():
        before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
        _, end, after = rest.partition(MARKS[1])
        page.write_text(before + MARKS[0] + table() + end + after, encoding="utf-8")


def table() -> str:
    """Give the identity factors as a Markdown table: what each moves in every superclass, from 0 to 1.

    >>> table().splitlines()[0]
    '| factor | man | woman | cat | robot |'
    """
    kinds = facts.superclasses()
    rows = [["factor", *kinds], ["---"] * (len(kinds) + 1)]
    rows += [[factor, *(_moved(kind, factor) or "–" for kind in kinds)] for factor in facts.factors()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def sheet(rows: Sequence[tuple[str, Sequence[Tile]]]) -> Image.Image:
    """Lay rows of tiles out on paper, each with a heading and its texts.

    >>> sheet([("nothing", [Tile(np.zeros((64, 64, 3), np.uint8), "black")])]).width
    1096
    """
    side, line_height = 64 * ZOOM, TEXT + 3
    lines = [max(len(_wrapped(tile)) for tile in tiles) for _, tiles in rows]
    heights = [line_height + 6 + side + 4 + count * line_height + GAP for count in lines]
    page = Image.new("RGB", (COLUMNS * (side + GAP) + GAP, sum(heights) + GAP), PAPER)
    pen, font, top = ImageDraw.Draw(page), ImageFont.load_default(TEXT), GAP
    for (heading, tiles), height in zip(rows, heights, strict=True):
        pen.text((GAP, top), heading, fill=INK, font=ImageFont.load_default(TEXT + 2))
        left, below = GAP, top + line_height + 6
        for tile in tiles:
            picture = Image.fromarray(tile.pixels.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1))
            page.paste(picture, (left, below))
            for number, text in enumerate(_wrapped(tile)):
                at = (left + picture.width / 2, below + side + 4 + number * line_height)
                pen.text(at, text, fill=INK, font=font, anchor="ma")
            left += picture.width + GAP
        top += height
    return page


def _overview() -> list[tuple[str, list[Tile]]]:
    people = {kind: [] for kind in facts.superclasses()}
    for name, who in splits.named().items():
        people[who.superclass].append((name, Subject(who, expression="happy")))
    rows = [(f"named identities: {kind}", _portraits(people[kind][:COLUMNS])) for kind in people]
    hero = {kind: [who for _, who in people[kind]] for kind in people}
    woman, man, cat, robot = (hero[kind][5] for kind in ("woman", "man", "cat", "robot"))
    moods = [replace(cat, expression=mood) for mood in facts.choices("expression")]
    turns = [replace(woman, pose=pose, expression="calm") for pose in facts.choices("pose")]
    rows.append(
        (
            "expression, and pose",
            [_tile(who, who.expression) for who in moods] + [_tile(who, who.pose) for who in turns],
        )
    )
    colours = facts.choices("clothing")
    rows.append(("clothing", [_tile(replace(man, clothing=colour), colour) for colour in colours]))
    things = [(thing, woman) for thing in facts.choices("accessory")] + [("hat", robot), ("headphones", robot)]
    rows.append(("accessory", [_tile(replace(who, accessory=thing), thing) for thing, who in things]))
    places = facts.choices("background")
    rows.append(("background", [_tile(robot, place, background=place) for place in places]))
    pairs = splits.Config(pairs=1.0, drop=0.0)
    for start in (0, 4):
        rows.append(
            (
                "" if start else "two subjects, and their masks",
                [_with_masks(splits.sample(pairs, start + k, seed=5)) for k in range(4)],
            )
        )
    return rows


def _factors() -> list[tuple[str, list[Tile]]]:
    rows, factors = [], facts.factors()
    for number, factor in enumerate(factors):
        tiles = []
        for kind in facts.superclasses():
            for value in (0.0, 1.0):
                z = tuple(value if k == number else 0.5 for k in range(len(factors)))
                shown = _moved(kind, factor).partition(",")[0]
                tiles.append(_tile(Subject(Identity(kind, z)), f"{shown}: {value:.0f}" if shown else "not visible"))
        rows.append((factor, tiles))
    return rows


def _moved(kind: str, factor: str) -> str:
    """Name what a factor moves in a superclass."""
    ramps = facts.table("subjects")["superclasses"][kind]["look"]
    names = [name for name, ramp in ramps.items() if isinstance(ramp, list) and ramp[0] == factor]
    return ", ".join(name.replace("_", " ") for name in names)


def _portraits(people: Sequence[tuple[str, Subject]]) -> list[Tile]:
    colours, places = facts.choices("clothing"), facts.choices("background")
    return [
        _tile(replace(who, clothing=colours[(3 * k + 1) % len(colours)]), name, places[k % len(places)])
        for k, (name, who) in enumerate(people)
    ]


def _tile(who: Subject, text: str, background: str = "meadow") -> Tile:
    return Tile(render(Scene((who,), background), seed=1).pixels, text)


def _with_masks(example: splits.Example) -> Tile:
    picture = example.render()
    shown = np.full_like(picture.pixels, 235)
    for mask, colour in zip(picture.masks, MASKS, strict=True):
        shown[mask] = colour
    gap = np.full((64, GAP // ZOOM, 3), 255, np.uint8)
    return Tile(np.concatenate([picture.pixels, gap, shown], axis=1), example.caption)


def _wrapped(tile: Tile) -> list[str]:
    return textwrap.wrap(tile.text, width=tile.pixels.shape[1] * ZOOM // 7)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
