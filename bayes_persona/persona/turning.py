"""Tuning as a part of `personalize`: knobs are turned on what was learned, and the page says what that did."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.markup import escape

from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.persona import generations, knobs, page, plots, tuning
from bayes_persona.persona.config import Config
from bayes_persona.persona.generations import Made
from bayes_persona.persona.learned import Learned
from bayes_persona.persona.session import Session
from bayes_persona.persona.soup import soup
from bayes_persona.persona.tuning import Tuned
from bayes_persona.seeds import child

TUNED = "tuned.safetensors"
"""Every generation of one subject, in the folder of its page."""
GUIDANCE, WEB_GUIDANCE = (1.5, 3.0, 5.0), (4.0, 7.5, 11.0)
"""Places of guidance: of the embedded model, and of Stable Diffusion."""


class Turned(NamedTuple):
    """What tuning found, and pictures from one noise before and after.

    >>> Turned(None, np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8)).after.shape
    (1, 8, 8, 3)
    """

    tuned: Tuned | Any
    before: UInt8[np.ndarray, "n h w 3"]
    after: UInt8[np.ndarray, "n h w 3"]


def turn(
    learned: Learned,
    prompts: Sequence[str],
    budget: int,
    *,
    guidance: Sequence[float] = GUIDANCE,
    earlier: Sequence[Sequence[Made]] = (),
    seed: int = 0,
    folder: Path | None = None,
    title: str | None = None,
) -> Turned:
    """Tune the members' soup by C-PSRL.

    Nobody but the subject should change: pictures of anyone of its kind, by the same prompts, count as context.

    Args:
        learned: Who was learned, and who judges.
        prompts: What is asked of them.
        budget: Generations.
        guidance: Places of guidance.
        earlier: The history of each earlier subject, with the same method and places of guidance.
        seed: Names the run.
        folder: Where every generation is kept; a run that was killed goes on from there. None keeps nothing.
        title: Name beside the progress bar; None shows none.

    >>> from bayes_persona.diffusion import generate
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> from bayes_persona.diffusion.pipelines import load
    >>> from bayes_persona.persona.base_measure import Shown
    >>> from bayes_persona.persona.scorers import Oracle
    >>> from bayes_persona.posterior import Posterior
    >>> pipe, robot = load(), LowRank(Subject("robot"), rank=1)
    >>> nobody = Posterior(({name: value[0] for name, value in robot.init(pipe, 1, seed=0).items()},))
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",))
    >>> learned = Learned(pipe, robot, nobody, black, generate.Config(steps=1), Oracle())
    >>> list(turn(learned, ["a robot"], 1).tuned.setting)
    ['down', 'mid', 'up', 'scale', 'guidance']
    """
    adapter, turned = learned.adapter, knobs.usual(learned.adapter, guidance)
    session = Session(
        learned.pipe, adapter, soup(learned.posterior)[0], learned.shown.pixels, prompts,
        [adapter.subject.anyone(text) for text in prompts],
        knobs=turned, scorer=learned.judge, sampling=learned.sampling,
    )  # fmt: skip
    env, config = tuning.Tuning(session), tuning.Config(budget=budget)
    found = tuning.tune(env, config=config, earlier=earlier, seed=seed, folder=folder, title=title)
    shown = []
    for places in (knobs.start(adapter, turned, learned.sampling.guidance), found.places):
        session(places, seed=child(seed, "shown"))
        assert session.pictures is not None
        shown.append(session.pictures)
    return Turned(found, *shown)


def earlier(config: Config, adapter: Adapter) -> tuple[tuple[Made, ...], ...]:
    """Read what tuning taught of earlier subjects, from the folders that a command names.

    Raises:
        RunError: If a folder holds no generations.
        MismatchError: If they are of another method, or of knobs with other places.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.low_rank import LowRank
    >>> earlier(Config(Path("photos"), "robot", tune=1, earlier=(Path("nowhere"),)), LowRank(Subject("robot")))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere/tuned.safetensors: there is no such file
    """
    turned = knobs.usual(adapter, _guidance(config))
    return tuple(generations.load(folder / TUNED, turned) for folder in config.earlier)


def part(
    config: Config, learned: Learned, console: Console, earlier: Sequence[Sequence[Made]] = ()
) -> tuple[dict[str, Any], str]:
    """Tune as a command says, keep every generation in `tuned.safetensors`, and give what was found and a section.

    Args:
        config: Of the command; `tune` generations are spent.
        learned: Who was learned.
        console: Where it is said.
        earlier: The history of each earlier subject.

    >>> import tempfile
    >>> from bayes_persona.diffusion import generate
    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> from bayes_persona.diffusion.pipelines import load
    >>> from bayes_persona.persona.base_measure import Shown
    >>> from bayes_persona.persona.scorers import Oracle
    >>> from bayes_persona.posterior import Posterior
    >>> pipe, words = load(), TextualInversion(Subject("robot"))
    >>> anyone = Posterior(({name: value[0] for name, value in words.init(pipe, 1, seed=0).items()},))
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",))
    >>> learned = Learned(pipe, words, anyone, black, generate.Config(steps=1), Oracle())
    >>> config = Config(Path("photos"), "robot", out=Path(tempfile.mkdtemp()), tune=1)
    >>> said, page_part = part(config, learned, Console(quiet=True))
    >>> list(said["tuned"]["setting"]), page_part.count("<svg")
    (['embedding', 'guidance'], 2)
    """
    found = turn(
        learned, config.prompts, config.tune, guidance=_guidance(config), earlier=earlier,
        seed=child(config.seed, "tune"), folder=config.out / "run" / "tuning", title="tuning",
    )  # fmt: skip
    tuned = found.tuned
    generations.save(config.out / TUNED, knobs.usual(learned.adapter, _guidance(config)), tuned.history)
    console.print(f"Turned to {escape(str(tuned.setting))}: utility {tuned.expected:.2f} expected")
    return {"tuned": {"setting": tuned.setting, "expected": tuned.expected}}, section(found)


def _guidance(config: Config) -> tuple[float, ...]:
    return GUIDANCE if config.base is None else WEB_GUIDANCE


def section(found: Turned) -> str:
    """Say what was turned, what it did, and what was learned of causes.

    >>> import networkx as nx
    >>> from bayes_persona.persona.generations import Made
    >>> edges = nx.DiGraph([("mid", "identity", {"probability": 0.9})])
    >>> blank = np.zeros((1, 8, 8, 3), np.uint8)
    >>> tuned = Tuned((1,), {"mid": 1.0}, 0.7, (Made((1,), {"identity": 0.8}, 0.7),), edges)
    >>> section(Turned(tuned, blank, blank)).count("<svg")
    2
    """
    tuned, before, after = found
    turned = ", ".join(f"{name} {value:g}" for name, value in tuned.setting.items())
    titles = ("as it was", *[""] * (len(before) - 1), "tuned", *[""] * (len(after) - 1))
    return page.section(
        "Tuned",
        page.text(f"After {len(tuned.history)} generations: {turned}. Expected utility: {tuned.expected:.2f} of 1."),
        page.figure(
            plots.tuning(np.array([made.utility for made in tuned.history]), tuned.edges),
            "Every generation is an intervention on all knobs, judged by who it shows, whether it shows what was "
            "asked, and whether anyone else changes. The stronger a line, the more likely the knob moves the "
            "quality.",
        ),
        page.figure(
            plots.photo_strip(np.concatenate([before, after]), titles), "The soup of all members, from one noise."
        ),
    )
