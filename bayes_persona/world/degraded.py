"""Bad photos of the world: a drawn picture, and what blur, small sensors, noise and JPEG leave of it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from bayes_persona.diffusion import degrade
from bayes_persona.seeds import child
from bayes_persona.world.splits import Example


class Pair(NamedTuple):
    """A picture and its bad photo; the truth about both is the example's.

    >>> Pair(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)).photo.shape
    (64, 64, 3)
    """

    clean: UInt8[np.ndarray, "s s 3"]
    photo: UInt8[np.ndarray, "s s 3"]


def pair(example: Example, config: degrade.Config | degrade.SecondOrder | None = None) -> Pair:
    """Draw an example and degrade it, as restoration is trained and judged on.

    Args:
        example: What is drawn; its seed also names the damage, so the same example is always damaged in the same way.
        config: How; the first-order pipeline with its defaults if none is given.

    >>> from bayes_persona.world import splits
    >>> both = pair(splits.sample(splits.Config(), 0, seed=0))
    >>> bool((both.clean != both.photo).any())
    True
    """
    config = degrade.Config() if config is None else config
    clean = example.render().pixels
    return Pair(clean, degrade.degrade(clean[None], config, child(example.seed, "degraded"))[0])
