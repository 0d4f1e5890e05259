"""Introductions: who is in photos, told to the embedded model by the mixture of attention that comes with it."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import UInt8

from bayes_persona.diffusion.adapters.moa import mixture
from bayes_persona.diffusion.adapters.moa.method import Cast, MoA, introduced
from bayes_persona.world import face, train_moa


@cache
def shared() -> mixture.Mixture:
    """Give the embedded model's mixture.

    >>> shared().encoder
    'world'
    """
    return mixture.load(train_moa.SHIPPED)


def method(pipe: Any, subject: Cast, photos: Sequence[UInt8[np.ndarray, "_n _h _w 3"]]) -> MoA:
    """Give Mixture-of-Attention for the embedded model.

    Args:
        pipe: The embedded model.
        subject: Who are called what.
        photos: Those of each subject, in the order of their tokens.

    Raises:
        MismatchError: If it is another model: a mixture has to be trained for that one.
        ConfigError: If there are not as many subjects with photos as tokens.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> black = np.zeros((1, 64, 64, 3), np.uint8)
    >>> len(method(load(), Cast("robot"), [black]).features[0])
    16
    """
    shared().require(pipe)
    return introduced(subject, shared(), face.encode, photos)
