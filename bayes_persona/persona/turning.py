"""Tuning as a part of `personalize`: knobs are turned on what was learned, and the page says what that did."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from bayes_persona.persona import knobs, page, plots, tuning
from bayes_persona.persona.config import Config
from bayes_persona.persona.learned import Learned
from bayes_persona.persona.session import Session
from bayes_persona.persona.soup import soup
from bayes_persona.persona.tuning import Tuned
from bayes_persona.seeds import child

GUIDANCE, WEB_GUIDANCE = (1.5, 3.0, 5.0), (4.0, 7.5, 11.0)
"""Places of guidance: of the embedded model, and of Stable Diffusion."""


def part(config: Config, learned: Learned, console: Console) -> tuple[dict[str, Any], str]:
    """Tune the members' soup, and give what was found and a section about it.

    Nobody but the subject should change: pictures of anyone of its kind, by the same prompts, count as context.

    Args:
        config: Of the command; `tune` generations are spent.
        learned: Who was learned.
        console: Where it is said.

    >>> import tempfile
    >>> from pathlib import Path
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
    >>> config = Config(Path("photos"), "robot", out=Path(tempfile.mkdtemp()), tune=1)
    >>> found, words = part(config, learned, Console(quiet=True))
    >>> list(found["tuned"]["setting"]), words.count("<svg")
    (['down', 'mid', 'up', 'scale', 'guidance'], 2)
    """
    adapter, prompts, seed = learned.adapter, list(config.prompts), child(config.seed, "tune")
    turned = knobs.usual(adapter, GUIDANCE if config.base is None else WEB_GUIDANCE)
    session = Session(
        learned.pipe, adapter, soup(learned.posterior)[0], learned.shown.pixels, prompts,
        [adapter.subject.anyone(text) for text in prompts],
        knobs=turned, scorer=learned.judge, sampling=learned.sampling,
    )  # fmt: skip
    found = tuning.tune(
        tuning.Tuning(session), config=tuning.Config(budget=config.tune), seed=seed,
        folder=config.out / "run" / "tuning", title="tuning",
    )  # fmt: skip
    shown = []
    for places in (knobs.start(adapter, turned, learned.sampling.guidance), found.places):
        session(places, seed=child(seed, "shown"))
        assert session.pictures is not None
        shown.append(session.pictures)
    console.print(f"Turned to {escape(str(found.setting))}: utility {found.expected:.2f} expected")
    return {"tuned": {"setting": found.setting, "expected": found.expected}}, _section(found, *shown)


def _section(found: Tuned, before: np.ndarray, after: np.ndarray) -> str:
    turned = ", ".join(f"{name} {value:g}" for name, value in found.setting.items())
    titles = ("as it was", *[""] * (len(before) - 1), "tuned", *[""] * (len(after) - 1))
    return page.section(
        "Tuned",
        page.text(f"After {len(found.history)} generations: {turned}. Expected utility: {found.expected:.2f} of 1."),
        page.figure(
            plots.tuning(np.array([made.utility for made in found.history]), found.edges),
            "Every generation is an intervention on all knobs, judged by who it shows, whether it shows what was "
            "asked, and whether anyone else changes. An edge's number is the probability that the knob moves the "
            "quality.",
        ),
        page.figure(
            plots.photo_strip(np.concatenate([before, after]), titles), "The soup of all members, from one noise."
        ),
    )
