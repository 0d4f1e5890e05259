"""The encoder of PersonaWorld's faces: what the oracles read of a picture, as one vector.

The oracles are also who judges, as an identity net is where real faces are learned and judged; so what is learned
through this encoder may suit its taste. An encoder is any function from pictures to vectors: give another to compare.
"""

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.world import facts, oracles
from bayes_persona.world.oracle_net import SPREAD

WIDTH = len(facts.factors()) + len(facts.superclasses())
"""Numbers of one picture: identity factors, and how likely each superclass is."""


def encode(pixels: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
    """Give the vector of each picture of one subject: factors in units of their spread, and the superclass.

    Raises:
        DataError: If there are no pictures.

    >>> encode(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, WIDTH)
    True
    """
    reading = oracles.load().read(pixels)
    kinds = reading.probabilities["superclass"]
    return np.concatenate([(reading.z - 0.5) / SPREAD, 2 * kinds], axis=1).astype(np.float32)
