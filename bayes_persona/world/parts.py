"""The body parts that subjects are drawn with: a few polygons each, named in `data/subjects.json`.

A part takes the pen, the look (who it is) and the act (what it does).
"""

import numpy as np

from bayes_persona.world.anatomy import EDGE, Act, Part, crown_of, darker, eye_places, turned
from bayes_persona.world.canvas import Pen, above, arch, box, line, oval, polygon
from bayes_persona.world.facts import Look, require_choice


def part(name: str) -> Part:
    """Give the part of a name.

    Raises:
        ConfigError: If there is no such part.

    >>> part("side ears").__name__
    '_side_ears'
    """
    require_choice("part", name, tuple(_PARTS))
    return _PARTS[name]


def _body(pen: Pen, look: Look, act: Act) -> None:
    width, top = look.numbers["shoulders"], 0.5
    pen.fill(oval(0, 2.0, width + EDGE, 1.5 + EDGE, top=0.6), darker(act.clothing))
    pen.fill(oval(0, 2.0, width, 1.5, top=0.6), act.clothing)
    for side in (-1, 1):  # the sleeves
        pen.fill(line((side * width * 0.66, top + 0.3), (side * width * 0.7, 2.0), EDGE), darker(act.clothing))
    # A collar in the colour of the neck says where the body is turned to.
    pen.fill(oval(turned(look, act, 0.5), top + 0.04, look.numbers["neck_width"] + 0.06, 0.12), darker(act.clothing))
    pen.fill(oval(turned(look, act, 0.5), top + 0.01, look.numbers["neck_width"] + 0.01, 0.1), look.colours["shade"])


def _neck(pen: Pen, look: Look, act: Act) -> None:
    pen.fill(box(turned(look, act, 0.3), 0.3, look.numbers["neck_width"], 0.24), look.colours["shade"])


def _head(pen: Pen, look: Look, act: Act) -> None:
    width, height, top, bottom = (look.numbers[key] for key in ("face_width", "face_height", "forehead", "jaw"))
    pen.fill(oval(0, 0, width + EDGE, height + EDGE, top, bottom), look.colours["shade"])
    pen.fill(oval(0, 0, width, height, top, bottom), look.colours["skin"])


def _side_ears(pen: Pen, look: Look, act: Act) -> None:
    for side in (-1, 1):
        x = side * (look.numbers["face_width"] + 0.02) - turned(look, act, 0.12)
        pen.fill(oval(x, 0.02, 0.09, 0.12), look.colours["shade"])
        pen.fill(oval(x, 0.02, 0.06, 0.09), look.colours["skin"])


def _pointed_ears(pen: Pen, look: Look, act: Act) -> None:
    width, height, size = look.numbers["face_width"], look.numbers["face_height"], look.numbers["ear_size"]
    for side in (-1, 1):
        foot = np.array((side * width * 0.58 - turned(look, act, 0.15), -height * 0.5))
        out = np.array((side * look.numbers["ear_spread"], -1.0))
        tip = foot + out / np.hypot(*out) * (size + height * 0.42)
        across = np.array((-out[1], out[0])) / np.hypot(*out) * 0.2
        ear = np.stack([foot - across, tip, foot + across])
        pen.fill(ear + (ear - ear.mean(axis=0)) * 0.14, look.colours["shade"])
        pen.fill(ear, look.colours["skin"])
        pen.fill(ear.mean(axis=0) + (ear - ear.mean(axis=0)) * 0.72, look.colours["hair"])


def _long_hair(pen: Pen, look: Look, act: Act) -> None:
    top, bottom, width = crown_of(look), look.numbers["hair_length"], look.numbers["face_width"]
    x, middle = -turned(look, act, 0.25), (top + bottom) / 2
    pen.fill(box(x, 0.15, width, 0.35), darker(look.colours["hair"]))  # behind the neck
    for rim, colour in ((EDGE, darker(look.colours["hair"])), (0.0, look.colours["hair"])):
        pen.fill(arch(x, 0, width + 0.12 + rim, -top + rim), colour)  # the crown of the head alone
        for side in (-1, 1):  # two locks in front of the shoulders leave the clothes to be seen between them
            lock = oval(
                x + side * (width - 0.04), middle * 0.9 + 0.1 * bottom, 0.13 + rim, bottom - middle + rim, 0.8, 0.65
            )
            pen.fill(lock, colour)


def _cap_hair(pen: Pen, look: Look, act: Act) -> None:
    width, height, slant = (look.numbers[key] for key in ("face_width", "face_height", "hair_slant"))
    skull = above(oval(0, 0, width + 0.05, -crown_of(look), top=0.83), -0.1 * height)
    shift = turned(look, act)
    # The hairline slants from one temple to the other; the face's turn carries it along.
    line_y = -0.54 * height
    left, right = skull[:, 0].min(), skull[:, 0].max()
    hairline = [
        (right, -0.05 * height),
        (right - 0.07, -0.05 * height),
        (right - 0.15, line_y + slant * 0.5),
        (shift * 0.6, line_y - 0.03),
        (left + 0.15, line_y - slant * 0.5),
        (left + 0.07, -0.05 * height),
        (left, -0.05 * height),
    ]
    pen.fill(np.concatenate([skull, polygon(*hairline)]), look.colours["hair"])


def _fringe(pen: Pen, look: Look, act: Act) -> None:
    width, height, shift = look.numbers["face_width"], look.numbers["face_height"], turned(look, act)
    skull = above(oval(0, 0, width + 0.06, -crown_of(look), top=0.9), -0.3 * height)
    edge = -look.numbers["fringe"] * height
    left, right = skull[:, 0].min(), skull[:, 0].max()
    # Strands down both temples, and an arch whose height is the identity's.
    curtain = [(right - 0.05, 0.1), (right - 0.1, edge + 0.1), (shift + 0.14, edge), (shift - 0.14, edge)]
    curtain += [(left + 0.1, edge + 0.1), (left + 0.05, 0.1), (left, 0.1)]
    pen.fill(np.concatenate([skull, polygon((right, 0.1), *curtain)]), look.colours["hair"])


def _antennae(pen: Pen, look: Look, act: Act) -> None:
    length, spread, bulb = (look.numbers[key] for key in ("antenna_length", "antenna_spread", "antenna_bulb"))
    for side in (-1, 1):
        foot = np.array((side * 0.16 - turned(look, act, 0.3), -look.numbers["face_height"] + 0.02))
        out = np.array((side * spread, -1.0))
        tip = foot + out / np.hypot(*out) * length
        pen.fill(line(foot.tolist(), tip.tolist(), 0.07), look.colours["shade"])
        pen.fill(oval(tip[0], tip[1], bulb + EDGE, bulb + EDGE), darker(look.colours["hair"]))
        pen.fill(oval(tip[0], tip[1], bulb, bulb), look.colours["hair"])


def _bolts(pen: Pen, look: Look, act: Act) -> None:
    size = look.numbers["bolts"]
    for side in (-1, 1):
        x = side * (look.numbers["face_width"] + 0.02) - turned(look, act, 0.15)
        pen.fill(box(x, 0, 0.09 + EDGE, size + EDGE), darker(look.colours["hair"]))
        pen.fill(box(x, 0, 0.09, size), look.colours["hair"])


def _stripes(pen: Pen, look: Look, act: Act) -> None:
    height, shift = look.numbers["face_height"], turned(look, act, 0.7)
    for x, share in ((-0.16, 0.75), (0.0, 1.0), (0.16, 0.75)):
        length = look.numbers["stripes"] * share * height / 0.45
        top = -height * (0.98 if x == 0 else 0.93)
        stripe = polygon((shift + x - 0.06, top), (shift + x + 0.06, top), (shift + x, top + length))
        pen.fill(stripe, look.colours["hair"])


def _muzzle(pen: Pen, look: Look, act: Act) -> None:
    width, tall = look.numbers["muzzle_width"], look.numbers["muzzle_height"]
    x, y = turned(look, act, 1.15), look.numbers["mouth_height"] * look.numbers["face_height"]
    for side in (-1, 1):
        for dy, end in ((-0.06, -0.12), (0.03, 0.04)):  # whiskers, no further than the cheeks
            far = side * min(side * x + width + 0.17, 0.93 * look.numbers["face_width"])
            pen.fill(line((x, y + dy), (far, y + end), 0.03), look.colours["muzzle"])
    pen.fill(oval(x, y, width, tall, top=0.75), look.colours["muzzle"])


def _plate(pen: Pen, look: Look, act: Act) -> None:
    x, y = turned(look, act, 0.8), look.numbers["mouth_height"] * look.numbers["face_height"]
    pen.fill(oval(x, y, look.numbers["plate_width"], look.numbers["plate_height"], 0.33, 0.33), look.colours["plate"])


def _blush(pen: Pen, look: Look, act: Act) -> None:
    size = look.numbers["blush"]
    for side in (-1, 1):
        x = side * 0.62 * look.numbers["face_width"] + turned(look, act, 0.75)
        pen.fill(oval(x, 0.3 * look.numbers["face_height"], size * 0.85, size * 0.8), look.colours["blush_colour"])


def _beard(pen: Pen, look: Look, act: Act) -> None:
    width, height = look.numbers["face_width"], look.numbers["face_height"]
    edge = height * (1.0 - 0.72 * look.numbers["beard"])
    # The face upside down, its chin cut off from above, and turned up again.
    chin = above(oval(0, 0, width + EDGE, height + EDGE, look.numbers["jaw"]), -edge) * (1, -1)
    pen.fill(chin, look.colours["hair"])
    mouth = look.numbers["mouth_height"] * height
    if edge < mouth:  # a shaven place around the mouth, that expressions be seen
        low = min(0.13, mouth - edge)
        pen.fill(oval(turned(look, act, 1.05), mouth, 0.24, low), look.colours["skin"])


def _eyes(pen: Pen, look: Look, act: Act) -> None:
    size, white, pupil = look.numbers["eye_size"], look.colours["eye_white"], look.numbers["pupil"]
    tall = size * act.mood["eye_open"]
    y = look.numbers["eye_height"] * look.numbers["face_height"]
    for side, x, width in eye_places(look, act):
        if "lashes" in look.numbers:
            pen.fill(oval(x + side * 0.025, y - 0.02, width + 0.03, tall + look.numbers["lashes"]), (40, 26, 28))
        pen.fill(oval(x, y, width + 0.02, tall + 0.02), (40, 30, 34))
        pen.fill(oval(x, y, width, tall), white)
        gaze = x + act.yaw * width * 0.25
        pen.fill(oval(gaze, y, width * 0.72, min(size * 0.78, tall)), look.colours["iris"])
        if pupil:
            pen.fill(oval(gaze, y, width * pupil * 0.72, size * 0.42), (24, 18, 22))


def _brows(pen: Pen, look: Look, act: Act) -> None:
    mood, size = act.mood, look.numbers["eye_size"]
    y = look.numbers["eye_height"] * look.numbers["face_height"] - size - 0.075 - mood["brow_raise"]
    for side, x, width in eye_places(look, act):
        outer, inner = x + side * (width + 0.03), x - side * (width + 0.01)
        slant = mood["brow_slant"] / 2
        pen.fill(line((outer, y - slant), (inner, y + slant), 0.055), look.colours["brow_colour"])


def _nose(pen: Pen, look: Look, act: Act) -> None:
    size, colour = look.numbers["nose_size"], look.colours["nose_colour"]
    x, y = turned(look, act, 1.35), look.numbers["nose_height"] * look.numbers["face_height"]
    pen.fill(oval(x, y, size, size * 0.8, top=1.3), colour)


def _mouth(pen: Pen, look: Look, act: Act) -> None:
    mood = act.mood
    x, y = turned(look, act, 1.05), look.numbers["mouth_height"] * look.numbers["face_height"]
    across = np.linspace(-1, 1, 13)
    # Corners stay where they are for a flat mouth; the middle hangs below them in a smile.
    upper = mood["mouth_curve"] * (0.5 - across**2)

    def lips(grow: float, low: float = 1.0) -> np.ndarray:
        round_ends = np.sqrt(np.clip(1 - across**2, 0, None)) if low == 1.0 else np.ones_like(across)
        top = upper - grow - mood["mouth_open"] * 0.35 * round_ends
        bottom = upper + grow + mood["mouth_open"] * low * round_ends
        wide = (mood["mouth_width"] + grow) * across
        return np.concatenate([np.stack([wide + x, top + y], 1), np.stack([wide + x, bottom + y], 1)[::-1]])

    pen.fill(lips(0.03), look.colours["lips"])
    if mood["mouth_open"]:
        pen.fill(lips(0.0), look.colours["mouth"])
    if mood["teeth"]:
        pen.fill(lips(-0.008, low=mood["teeth"] - 0.15), look.colours["teeth"])


_PARTS: dict[str, Part] = {
    "antennae": _antennae,
    "beard": _beard,
    "blush": _blush,
    "body": _body,
    "bolts": _bolts,
    "brows": _brows,
    "cap hair": _cap_hair,
    "eyes": _eyes,
    "fringe": _fringe,
    "head": _head,
    "long hair": _long_hair,
    "mouth": _mouth,
    "muzzle": _muzzle,
    "neck": _neck,
    "nose": _nose,
    "plate": _plate,
    "pointed ears": _pointed_ears,
    "side ears": _side_ears,
    "stripes": _stripes,
}
