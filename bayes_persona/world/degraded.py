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


def small() -> degrade.Config:
    """Give the first-order ranges for pictures of 64 pixels, from hardly to badly damaged: what a restorer is taught.

    The ranges of face restorers are for 512 pixels, where eight times smaller still shows a face.

    >>> small().shrink
    (1.0, 8.0)
    """
    return degrade.Config(size=21, sigma=(0.1, 2.0), shrink=(1.0, 8.0), noise=(0.0, 20.0), quality=(30, 100))


def small_second_order() -> degrade.SecondOrder:
    """Give the second-order ranges for pictures of 64 pixels.

    >>> small_second_order().shrink
    2.0
    """
    few = {"sizes": (3, 9), "noise": (1.0, 15.0), "poisson": (0.05, 1.0)}
    first = degrade.Pass(sigma=(0.2, 1.2), scale=(0.4, 1.5), **few)
    second = degrade.Pass(blur=0.8, sigma=(0.2, 0.8), resize=(0.3, 0.4, 0.3), scale=(0.6, 1.2), **few)
    return degrade.SecondOrder(first, second, shrink=2.0)


def strong() -> degrade.Config:
    """Give ranges that leave where things are, and not who someone is: what restorers are judged on.

    >>> strong().shrink
    (4.0, 8.0)
    """
    return degrade.Config(size=21, sigma=(0.5, 1.5), shrink=(4.0, 8.0), noise=(5.0, 15.0), quality=(40, 80))
