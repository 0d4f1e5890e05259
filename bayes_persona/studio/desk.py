"""What happens when something is pressed: values of widgets in, values of widgets out. `page` says which."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bayes_persona.diffusion import photos
from bayes_persona.errors import ConfigError, DataError, MismatchError, MissingExtraError, RunError, needs_extra
from bayes_persona.persona import report
from bayes_persona.studio import panel, sitting
from bayes_persona.studio.config import Config
from bayes_persona.studio.job import Job
from bayes_persona.studio.sitting import Sitting, Turn

with needs_extra("studio"):
    import gradio as gr

Number = int | float | None
"""What a slider gives, or a field that may have been emptied."""
OURS = (ConfigError, DataError, MismatchError, MissingExtraError, RunError)
"""Errors that are shown in their own words; any other is a fault of ours, and looks like one."""
DIALS = 2
"""Sliders for knobs: no method has more."""
THUMB = 96
"""Pixels of a photo that was given, as the page shows it."""


@dataclass(frozen=True)
class Desk:
    """What one visitor has before them; it ends with their visit.

    >>> Desk().sitting is None
    True
    """

    job: Job | None = None
    sitting: Sitting | None = None
    last: tuple[Turn, np.ndarray] | None = None
    """How the last pictures were asked for, and their average."""
    people: int = 0
    """How many were made up."""


class Asked(NamedTuple):
    """The left side of the page, in its order.

    >>> Asked([], "robot", "low_rank", "", "", 2, 10, 1.0, False, 5, 0, 0).settings["prompt"]
    ()
    """

    files: list[str] | None
    superclass: str
    method: str
    prompts: str
    captions: str
    particles: Number
    steps: Number
    alpha: Number
    held_out: bool
    sampling: Number
    tune: Number
    seed: Number

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the command."""
        whole = {n: int(_number(n, getattr(self, n))) for n in ("particles", "steps", "sampling", "tune", "seed")}
        prompts = tuple(line.strip() for line in self.prompts.splitlines() if line.strip())
        alpha = "held-out" if self.held_out else _number("alpha", self.alpha)
        return {
            "superclass": self.superclass.strip(),
            "method": self.method,
            "prompt": prompts,
            "alpha": alpha,
            **whole,
        }


class Told(NamedTuple):
    """What learning changes on the page, in the order of its outputs; what is left out stays.

    >>> len(Told(Desk(), "<p>begun</p>").outputs) == 8 + DIALS
    True
    """

    desk: Desk
    status: Any
    pictures: Any = None
    report: Any = None
    files: Any = None
    prompt: Any = None
    guidance: Any = None
    gates: Any = None
    dials: Sequence[Any] = (None,) * DIALS

    @property
    def outputs(self) -> tuple[Any, ...]:
        """One for each widget."""
        return tuple(gr.skip() if one is None else one for one in (*self[:-1], *self.dials))


def given(files: list[str] | None) -> str:
    """Show the photos as they will be learned from: upright, square, and without those that cannot be used.

    >>> given(["nowhere.png"])
    '<p class="problem">...no photo that can be used (nowhere.png: there is no such file); ...</p>'
    """
    if not files:
        return ""
    try:
        found = photos.read(files, THUMB)
    except OURS as error:
        return panel.problem(error)
    return report.photos(found.pixels, found.skipped)


def somebody(config: Config, desk: Desk) -> tuple[Desk, list[str], str, str]:
    """Make somebody up: their photos, what they are, and captions.

    >>> import tempfile
    >>> from pathlib import Path
    >>> desk, files, kind, captions = somebody(Config(Path(tempfile.mkdtemp())), Desk())
    >>> desk.people, len(files), kind
    (1, 4, 'man')
    """
    kind, files, captions = sitting.somebody(config.out / "made_up", desk.people)
    return replace(desk, people=desk.people + 1), [str(path) for path in files], kind, captions


def learn(config: Config, desk: Desk, *asked: Any) -> Iterator[tuple[Any, ...]]:
    """Learn somebody, and tell how far it is.

    Args:
        config: Of the studio.
        desk: What was there before.
        asked: In the order of `Asked`.

    Yields:
        What changes on the page.

    >>> nothing = Asked([], "robot", "low_rank", "", "", 2, 10, 1.0, False, 5, 0, 0)
    >>> [told[1] for told in learn(Config(), Desk(), *nothing)]
    ['<p class="problem">photos: there are none; give some of one subject</p>']
    """
    question = Asked(*asked)
    try:
        command = sitting.asked(config, question.files or [], question.captions, **question.settings)
        job, now = Job(partial(sitting.learn, command)), None
        for now in job.moments():
            yield Told(replace(desk, job=job), panel.moment(now)).outputs
        found: Sitting = job.result()
        dials, groups = sitting.dials(found.learned.adapter), list(sitting.groups(found.learned.adapter))
        knobs = {dial.name: dial.now for dial in dials}
        turn = Turn(command.prompts[0], found.learned.sampling.guidance, command.pictures, 0, knobs)
        desk, shown = _shown(replace(desk, job=None, sitting=found, last=None), turn)
    except OURS as error:
        yield Told(replace(desk, job=None), panel.problem(error)).outputs
        return
    sliders = [
        gr.update(label=dial.name, minimum=dial.low, maximum=dial.high, value=dial.now, visible=True) for dial in dials
    ]
    yield Told(
        desk=desk,
        status=panel.learned(found, "" if now is None else now.said),
        pictures=shown,
        report=panel.whole((found.folder / "index.html").read_text()),
        files=[str(path) for path in found.files],
        prompt=turn.prompt,
        guidance=turn.guidance,
        gates=gr.update(choices=groups, value=groups, visible=bool(groups)),
        dials=[*sliders, *[gr.update(visible=False)] * (DIALS - len(sliders))],
    ).outputs


def stop(desk: Desk) -> None:
    """End what is being learned, after its next step.

    >>> stop(Desk())
    """
    if desk.job is not None:
        desk.job.stop()


def see(desk: Desk, *turned: Any) -> tuple[Any, Any]:
    """Make pictures anew.

    Args:
        desk: With somebody on it.
        turned: Prompt, guidance, pictures, seed, open gates and knobs.

    Returns:
        The desk, and the pictures.

    >>> see(Desk(), "a robot", 3, 1, 0, [], 1, 1)[1]
    '<p class="problem">nobody was learned yet; give photos and press Learn</p>'
    """
    try:
        return _shown(desk, _turn(desk, *turned))
    except OURS as error:
        return desk, panel.problem(error)


def save(desk: Desk, *turned: Any) -> tuple[Any, Any]:
    """Write the personalization as it is turned.

    Args:
        desk: With somebody on it.
        turned: As for `see`.

    Returns:
        The files to take along, and what to say.

    >>> save(Desk(), "a robot", 3, 1, 0, [], 1, 1)[1]
    '<p class="problem">nobody was learned yet; give photos and press Learn</p>'
    """
    try:
        path = sitting.save(_who(desk), _turn(desk, *turned))
    except OURS as error:
        return gr.skip(), panel.problem(error)
    return [str(file) for file in _who(desk).files], f'<p class="verdict">{path.name} holds the knobs as they are.</p>'


def _who(desk: Desk) -> Sitting:
    if desk.sitting is None:
        raise DataError("nobody was learned yet; give photos and press Learn")
    return desk.sitting


def _turn(
    desk: Desk, prompt: str, guidance: Number, pictures: Number, seed: Number, open_: Sequence[str], *dials: Number
) -> Turn:
    adapter = _who(desk).learned.adapter
    knobs = {dial.name: _number(dial.name, value) for dial, value in zip(sitting.dials(adapter), dials, strict=False)}
    shut = tuple(group for group in sitting.groups(adapter) if group not in open_)
    count, noise = int(_number("noises", pictures)), int(_number("seed", seed))
    return Turn(prompt.strip() or "{subject}", _number("guidance", guidance), count, noise, knobs, shut)


def _number(name: str, value: Number) -> float:
    if value is None:
        raise ConfigError(f"{name}: expected a number, got nothing")
    return float(value)


def _shown(desk: Desk, turn: Turn) -> tuple[Desk, str]:
    """Make pictures; the average before is shown beside where it is of the same prompt and noises."""
    who = _who(desk)
    seen, before = sitting.see(who, turn), None
    if desk.last is not None:
        then, average = desk.last
        if (then.prompt, then.pictures, then.seed) == (turn.prompt, turn.pictures, turn.seed) and then != turn:
            before = average
    words = who.learned.adapter.subject.prompt(turn.prompt)
    return replace(desk, last=(turn, seen.averaged)), panel.pictures(words, seen, before)
