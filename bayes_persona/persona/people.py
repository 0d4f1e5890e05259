"""The `people` command: a folder of folders of photos in; everybody learned by himself, and a page of them all out."""

import html
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from bayes_persona import parallel
from bayes_persona.errors import DataError, needs_extra
from bayes_persona.files import load_json, save_json
from bayes_persona.parallel import Engine
from bayes_persona.persona import config as one
from bayes_persona.persona import page, plots
from bayes_persona.persona.people_config import Config
from bayes_persona.persona.run import run as personalize
from bayes_persona.types import Params

with needs_extra("diffusion"):
    from PIL import Image


def run(config: Config, console: Console) -> dict[str, Any]:
    """Learn everybody, and write `index.html` and `results.json`; who cannot be learned is said, and left out.

    Args:
        config: Who, and how.
        console: Where it is said.

    Raises:
        DataError: If there are no folders, or nobody can be learned.
        MismatchError: If somebody was learned there with other settings.

    >>> run(Config(Path("nowhere"), "robot"), Console(quiet=True))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.DataError: nowhere: there is no such folder
    """
    started, everybody = time.perf_counter(), config.each()
    missing = [who for who in everybody if not _done(who)]
    console.print(f"{len(everybody)} people, {len(missing)} to be learned, {config.workers} at a time …")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if missing:
            parallel.map(learn, missing, engine=engine(config), title="people", exclude_failed=True)
    for warning in caught:
        console.print(f"[yellow]{escape(str(warning.message))}[/yellow]")
    found = {who.out.name: load_json(who.out / "results.json") for who in everybody if _done(who)}
    seconds = time.perf_counter() - started
    said = {"learned": found, "left out": [who.out.name for who in everybody if not _done(who)]}
    page.write(
        config.out,
        f"{len(found)} people",
        "Each was learned by themselves. The less sure come first: they need more photos most.",
        *(_shown(config.out / name, found[name]) for name in sorted(found, key=lambda name: -_spread(found[name]))),
        verb="people", config=config, seconds=seconds,
    )  # fmt: skip
    save_json(config.out / "results.json", {"config": page.numbers(config), "seconds": round(seconds, 1), **said})
    console.print(f"{seconds:.0f} seconds. Open [bold]{escape(str(config.out / 'index.html'))}[/bold]")
    return said


def learn(who: one.Config) -> Params:
    """Learn one subject as `personalize` does, and give the seconds; all else is in its folder.

    Args:
        who: Of one subject.

    Raises:
        DataError: If the photos are bad; names the folder.

    >>> learn(one.Config(Path("nowhere"), "robot"))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.DataError: nowhere: ...
    """
    started = time.perf_counter()
    try:
        personalize(who, Console(quiet=True))
    except DataError as error:
        raise DataError(f"{who.photos.name}: {error}") from error
    return {"seconds": np.array([time.perf_counter() - started])}


def engine(config: Config) -> Engine:
    """Give what shares people out.

    >>> engine(Config(Path("everybody"), "robot")) is parallel.serial
    True
    """
    if config.ray is not None:
        return parallel.cluster(config.workers, config.ray)
    return parallel.serial if config.workers == 1 else parallel.processes(config.workers)


def _done(who: one.Config) -> bool:
    """Whether somebody was learned, and as is asked for now; a folder of other settings is refused when they are."""
    place = who.out / "results.json"
    return place.is_file() and load_json(place).get("config") == json.loads(json.dumps(page.numbers(who)))


def _spread(said: dict[str, Any]) -> float:
    """Give how unsure members are: of who it is, or, where nobody judges, by pixels."""
    if "verdict" in said:
        return said["verdict"]["dispersion"]
    return max(prompt["disagreement"] for prompt in said["prompts"].values())


def _shown(place: Path, said: dict[str, Any]) -> str:
    """Give a subject's part of the page."""
    averages = sorted((place / "pictures").glob("*_average_*.png"))
    pictures = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in averages])
    words = said.get("verdict", {}).get("text", f"members disagree by {_spread(said):.3f} a pixel")
    link = f'<p><a href="{html.escape(place.name)}/index.html">All of {html.escape(place.name)}</a></p>'
    return page.section(place.name, page.text(words), page.figure(plots.photo_strip(pictures), "Model averages."), link)
