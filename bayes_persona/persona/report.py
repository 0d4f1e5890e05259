"""The parts of the page that `personalize` leaves behind, each a section of its own."""

import html
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from bayes_persona.persona import page, plots, uncertainty
from bayes_persona.persona.concentration import Chosen
from bayes_persona.persona.verdict import Verdict

STRIP = 12
"""Photos that are shown; more would be too small to look at."""


def photos(pixels: UInt8[np.ndarray, "n h w 3"], skipped: Sequence[tuple[str, str]]) -> str:
    """Show what was learned from, and say what was left out.

    >>> "broken.jpg (not a picture)" in photos(np.zeros((1, 8, 8, 3), np.uint8), [("broken.jpg", "not a picture")])
    True
    """
    out = "".join(f"; left out: {name} ({reason})" for name, reason in skipped)
    return page.figure(plots.photo_strip(pixels[:STRIP]), f"What was learned from{out}.")


def prompt(text: str, members: UInt8[np.ndarray, "k s h w 3"], averaged: UInt8[np.ndarray, "s h w 3"]) -> str:
    """Show the pictures of a prompt, and where their variance comes from.

    >>> blank = np.zeros((2, 2, 8, 8, 3), np.uint8)
    >>> prompt("me", blank, blank[0]).count("<svg")
    2
    """
    spread = float((members / 255).std(axis=0).mean())
    gallery = page.figure(
        plots.posterior(averaged, members),
        "Every row begins with the same noise: what differs along it is the person. The first picture averages the "
        f"members' predictions at every step; the last shows where they part ({spread:.3f} of the range on average).",
    )
    if len(members) < 2:
        return page.section(text, gallery)
    maps = page.figure(
        plots.maps(uncertainty.maps(members)),
        "The variance of every pixel in two parts: what the members disagree on, which more photos would take away, "
        "and what one member leaves to the noise, which they would not.",
    )
    return page.section(text, gallery, maps)


def concentration(chosen: Chosen) -> str:
    """Say what the prior is worth, and how that was found.

    >>> "worth 2 photos" in concentration(Chosen(2.0, (0.0, 2.0), np.array([[0.2, 0.1], [0.3, 0.2]])))
    True
    """
    return page.section(
        "What is the prior worth?",
        page.text(f"Each photo was left out in turn; a prior that is worth {chosen.alpha:g} photos told it best."),
        page.figure(
            plots.concentration(chosen.alphas, chosen.losses),
            "The loss of a photo by what was learned from the others; a thin line is one photo.",
        ),
    )


def verdict(found: Verdict, *, borrowed: bool) -> str:
    """Say whether the person is known well enough.

    Args:
        found: The verdict.
        borrowed: Whether its thresholds were found for another judge than the one that looked.

    >>> verdict(Verdict(True, 0.02, {"sad": 0.02}, ()), borrowed=False).count("verdict")
    1
    """
    note = (
        " The thresholds were found for PersonaWorld's oracles and are not CLIP's: read the order of the numbers, not "
        "the word."
        if borrowed
        else ""
    )
    return page.section(
        "How sure are we of this person?",
        f'<p class="verdict">{html.escape(found.text, quote=False)}</p>',
        page.figure(
            plots.situations(found.situations, found.sure),
            "How far members' pictures of one noise are apart in each situation: 0 is one person, 1 nothing in "
            f"common.{note}",
        ),
    )
