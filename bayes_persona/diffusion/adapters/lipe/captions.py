"""What photos of a person should say so that the person can be edited, and prompts for pictures of anyone.

A caption for editing says pose, viewpoint, expression and scene, and nothing of who it is: what it says the token need
not mean. The paper asks a model that sees (LLaVA) for captions and one that writes (GPT-4) for prompts. Here both can
be files, and what sees can be anything with a captioner's call.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from bayes_persona.errors import DataError
from bayes_persona.files import load_json
from bayes_persona.seeds import generator

INSTRUCTION = (
    "Describe only the pose, viewpoint, facial expression, gaze, limb and mouth state and action of the {superclass}, "
    "then the background in at most ten words. Do not describe colours, markings or identity."
)
"""What to ask a model that sees, or a person."""
VIEWS = ("", "seen from the left", "seen from the right", "seen from above", "looking up", "looking down")
MOODS = ("", "smiling", "laughing", "sad", "surprised", "angry", "with closed eyes")
SCENES = ("", "in a park", "on a street", "indoors", "on a beach", "at night", "before a plain wall")


@runtime_checkable
class Captioner(Protocol):
    """Says what photos show, but for who it is.

    >>> class Same:
    ...     def __call__(self, pixels, superclass):
    ...         return ["{subject} facing left"] * len(pixels)
    >>> isinstance(Same(), Captioner)
    True
    """

    def __call__(self, pixels: UInt8[np.ndarray, "n h w 3"], superclass: str) -> Sequence[str]:
        """Give a caption for every photo, with `{subject}`, or the superclass with an article, for who it shows."""
        ...


def grid(superclass: str, n: int, *, seed: int = 0) -> tuple[str, ...]:
    """Give prompts of anyone for models of the web's pictures: viewpoints, moods and scenes, mixed.

    Args:
        superclass: What is shown.
        n: How many; there are no more than different ones.
        seed: Names which.

    >>> grid("dog", 2)[1]
    'a photo of a dog looking up, surprised, indoors'
    """
    every = [", ".join(part for part in parts if part) for parts in product(VIEWS, MOODS, SCENES)]
    order = generator(seed, "grid").permutation(len(every))[:n]
    return tuple(f"a photo of a {superclass} {every[k]}".strip() for k in order)


def read(path: str | Path) -> tuple[str, ...]:
    """Read prompts from a JSON list.

    Raises:
        DataError: If it is no list of texts.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "prompts.json"
    >>> _ = path.write_text('["a dog jumping", "a sleeping dog"]')
    >>> read(path)
    ('a dog jumping', 'a sleeping dog')
    """
    found = load_json(path)
    if not isinstance(found, list) or not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise DataError(f'{path}: expected a list of prompts, such as ["a dog jumping", "a sleeping dog"]')
    return tuple(found)
