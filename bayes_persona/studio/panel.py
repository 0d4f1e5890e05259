"""What the page says, as HTML: how far learning is, what went wrong, who was learned, and pictures of them."""

import html

import numpy as np
from jaxtyping import UInt8

from bayes_persona.persona import page, plots, report
from bayes_persona.progress import Progress
from bayes_persona.studio.job import Moment
from bayes_persona.studio.sitting import Seen, Sitting

EMPTY = '<p class="quiet">Nobody yet: give photos, say what they show, and press Learn.</p>'
"""Where pictures will be."""
TITLES = {
    "personalizing": "learning from the photos",
    "leaving photos out": "leaving photos out, to find what the prior is worth",
    "verdict": "looking whether members agree",
    "pictures": "making the pictures of the report",
}
"""Progress bars by their titles, in the page's words."""


def moment(now: Moment) -> str:
    """Say how far learning is.

    >>> 'width: 25%' in moment(Moment(Progress("personalizing", 50, 200, "loss 0.1"), "4 photos …"))
    True
    """
    progress = Progress("", 0, 1) if now.progress is None else now.progress
    title = TITLES.get(progress.title, progress.title or "beginning")
    count = f"{progress.done} of {progress.total}" if progress.title else ""
    return (
        f'<div class="moment"><p><b>{html.escape(title)}</b> {count} <span>{html.escape(progress.note)}</span></p>'
        f'<div class="track"><div style="width: {100 * progress.share:.0f}%"></div></div>{log(now.said)}</div>'
    )


def log(said: str) -> str:
    """Give what was said in the terminal's letters.

    >>> log("a < b")
    '<pre>a &lt; b</pre>'
    """
    return f"<pre>{html.escape(said.strip(), quote=False)}</pre>" if said.strip() else ""


def problem(error: Exception) -> str:
    """Give an error in its own words.

    >>> problem(ValueError("photos: there are none"))
    '<p class="problem">photos: there are none</p>'
    """
    return f'<p class="problem">{html.escape(str(error), quote=False)}</p>'


def learned(sitting: Sitting, said: str = "") -> str:
    """Give the verdict, and what was said on the way.

    >>> from pathlib import Path
    >>> learned(Sitting(Path("me"), None, {"verdict": {"text": "confident: …"}}))
    '<p class="verdict">confident: …</p>'
    """
    if "verdict" in sitting.said:
        text = sitting.said["verdict"]["text"]
    else:
        text = "Learned. A verdict needs two members and, for a model of your own, a judge."
    return f'<p class="verdict">{html.escape(text, quote=False)}</p>{log(said)}'


def pictures(prompt: str, seen: Seen, before: UInt8[np.ndarray, "s h w 3"] | None = None) -> str:
    """Show the model average, the members and where they part, and what the average was before something was turned.

    >>> blank = np.zeros((2, 1, 8, 8, 3), np.uint8)
    >>> pictures("me", Seen(blank, blank[0]), before=blank[0]).count("<svg")
    3
    """
    shown = report.prompt(prompt, seen.members, seen.averaged)
    if before is None:
        return shown
    count = len(before)
    titles = ("before", *[""] * (count - 1), "now", *[""] * (len(seen.averaged) - 1))
    strip = plots.photo_strip(np.concatenate([before, seen.averaged]), titles)
    return page.figure(strip, "The model average before the last turn, and now, from the same noise.") + shown


def whole(document: str) -> str:
    """Show a page within the page, where it can do nothing but be seen.

    >>> whole("<p>me</p>")
    '<iframe class="report" sandbox srcdoc="&lt;p&gt;me&lt;/p&gt;"></iframe>'
    """
    return f'<iframe class="report" sandbox srcdoc="{html.escape(document)}"></iframe>'
