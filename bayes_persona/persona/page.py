"""The page that a command leaves behind: one look for all of them, pictures with captions, and how it was made."""

import html
import os
import platform
import shlex
from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from bayes_persona import __version__
from bayes_persona.files import write as write_file


def figure(svg: str, caption: str) -> str:
    """Give a picture with what it shows.

    >>> figure("<svg/>", "nobody & nothing")
    '<figure><svg/><figcaption>nobody &amp; nothing</figcaption></figure>'
    """
    return f"<figure>{svg}<figcaption>{html.escape(caption, quote=False)}</figcaption></figure>"


def section(title: str, *parts: str) -> str:
    """Give parts under a title.

    >>> section("who?", "<p>me</p>")
    '<h2>who?</h2><p>me</p>'
    """
    return f"<h2>{html.escape(title, quote=False)}</h2>{''.join(parts)}"


def text(said: str) -> str:
    """Give a paragraph.

    >>> text("a < b")
    '<p>a &lt; b</p>'
    """
    return f"<p>{html.escape(said, quote=False)}</p>"


def command(verb: str, config: Any) -> str:
    """Give the command line that a config stands for: what is not as usual, in words that can be run again.

    >>> from bayes_persona.persona.config import Config
    >>> command("personalize", Config(Path("my photos"), "robot", steps=50))
    "bayes-persona personalize --photos 'my photos' --superclass robot --steps 50"
    """
    return shlex.join(["bayes-persona", verb, *_options(config)])


def _options(config: Any) -> Iterator[str]:
    for field in fields(config):
        value, name = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if is_dataclass(value):  # options that several commands share
            yield from _options(value)
        elif value is True:
            yield name
        elif field.default is MISSING or value != field.default:
            # one that may be given again holds a tuple
            for one in value if isinstance(value, tuple) else (value,):
                yield from (name, str(one))


def numbers(config: Any) -> dict[str, Any]:
    """Give a config as JSON can hold it.

    >>> from bayes_persona.persona.config import Config
    >>> numbers(Config(Path("photos"), "robot"))["photos"]
    'photos'
    """

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(one) for one in value]
        return str(value) if isinstance(value, Path) else value

    return {name: plain(value) for name, value in asdict(config).items()}


def write(folder: Path, title: str, lead: str, *parts: str, verb: str, config: Any, seconds: float) -> None:
    """Write `index.html`, which needs no other file.

    Args:
        folder: Where.
        title: What it is.
        lead: What to know of it, in a sentence or two.
        parts: HTML, such as `section` and `figure` give it.
        verb: The command.
        config: Its settings.
        seconds: That it took.

    >>> import tempfile
    >>> from bayes_persona.persona.config import Config
    >>> folder, config = Path(tempfile.mkdtemp()), Config(Path("photos"), "robot")
    >>> write(folder, "A robot", "Nobody.", text("…"), verb="personalize", config=config, seconds=3.2)
    >>> "<h1>A robot</h1>" in (folder / "index.html").read_text()
    True
    """
    template = Template((files("bayes_persona.persona") / "assets" / "page.html").read_text())
    page = template.substitute(
        title=html.escape(title),
        lead=html.escape(lead, quote=False),
        body="".join(parts),
        made=f"{seconds:.0f} seconds on {os.cpu_count()} cores ({platform.machine()}), version {__version__}",
        command=html.escape(command(verb, config), quote=False),
    )
    write_file(folder / "index.html", page.encode())
