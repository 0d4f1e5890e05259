"""LIPE for the `personalize` command: pictures of anyone to learn beside the photos, and captions that photos lack."""

from pathlib import Path
from typing import Any

from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.lipe import captions
from bayes_persona.diffusion.adapters.lipe.method import Lipe
from bayes_persona.diffusion.adapters.lipe.others import made
from bayes_persona.diffusion.photos import Photos
from bayes_persona.persona import captioner

OTHERS = 48
"""Pictures of anyone, where prompts are not given."""
NAME = "others.json"
"""Beside the photos: a list of prompts for pictures of anyone."""


def method(pipe: Any, subject: Subject, photos: Path, folder: Path, *, embedded: bool) -> Lipe:
    """Give LIPE for a pipeline, with pictures of anyone that the base model makes, once, into a folder.

    Args:
        pipe: The base model.
        subject: Who is learned.
        photos: Folder of the photos; `others.json` in it may say what pictures of anyone show.
        folder: Where those are kept.
        embedded: Whether the pipeline is the embedded one, which has prompts of its own; others have a common grid.

    Raises:
        DataError: If others.json is no list of prompts.
        MismatchError: If the folder holds pictures of another base model or of other prompts.

    >>> import tempfile
    >>> from bayes_persona.diffusion.pipelines import load
    >>> place = Path(tempfile.mkdtemp())
    >>> _ = (place / "others.json").write_text('["a sad robot"]')
    >>> len(method(load(), Subject("robot"), place, place / "made", embedded=True).others.latents)
    1
    """
    grid = captioner.grid if embedded else captions.grid
    own = (photos / NAME).is_file()
    prompts = captions.read(photos / NAME) if own else grid(subject.superclass, OTHERS)
    return Lipe(subject, made(pipe, prompts, folder, title="pictures of anyone"))


def said(found: Photos, superclass: str, *, embedded: bool) -> tuple[str, ...]:
    """Give the captions of photos: their own, or what the oracles read if the model is the embedded one.

    >>> import numpy as np
    >>> said(Photos(np.zeros((1, 64, 64, 3), np.uint8), ("a.png",), (None,), ()), "robot", embedded=False)
    ('{subject}',)
    """
    read = captioner.World()(found.pixels, superclass) if embedded else ["{subject}"] * len(found.pixels)
    return tuple(seen if own is None else own for own, seen in zip(found.captions, read, strict=True))
