"""Faces: what an identity net sees in someone, who looks most alike, and the layer from a face to coefficients.

A face is a unit vector from any identity net. Training fits the layer until the coefficients that it gives draw the
photos; it may start from what is known of people with names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.named import fingerprint

with needs_extra("diffusion"):
    import torch

SLOPE = 0.2
"""Of the leaky rectifier behind the layer."""
Face = tuple[float, ...]
"""What an identity net sees in someone: a unit vector, as plain numbers, so that it can be a setting."""


@dataclass(frozen=True, eq=False)
class Mapper:
    """A layer that training may start from.

    >>> Mapper(np.ones((3, 2), np.float32), np.zeros(3, np.float32)).bias.shape
    (3,)
    """

    weight: Float[np.ndarray, "p f"]
    bias: Float[np.ndarray, " p"]

    @cached_property
    def fingerprint(self) -> str:
        """Name the layer by its numbers."""
        return fingerprint({"weight": self.weight, "bias": self.bias})


def face(pixels: np.ndarray, read: Callable[[np.ndarray], np.ndarray]) -> Face:
    """Give one face from photos of one person: the mean of what an identity net sees in each, of length 1.

    Args:
        pixels: Photos, bytes of shape (n, height, width, 3).
        read: The net: photos in, (n, d) numbers out.

    Raises:
        DataError: If the net sees nothing, or something that is not a number.

    >>> face(np.zeros((2, 8, 8, 3), np.uint8), lambda pixels: np.array([[1.0, 0.0], [0.0, 1.0]]))
    (0.707106..., 0.707106...)
    """
    seen = np.asarray(read(pixels), np.float64)
    if seen.ndim != 2 or len(seen) != len(pixels) or not len(seen):
        raise DataError(f"face: expected one vector for each of {len(pixels)} photos, got shape {seen.shape}")
    mean = (seen / np.linalg.norm(seen, axis=1, keepdims=True).clip(1e-12)).mean(axis=0)
    length = np.linalg.norm(mean)
    if not (np.isfinite(length) and length > 0):
        raise DataError("face: the identity net sees nobody in these photos; crop them to the face")
    return tuple((mean / length).tolist())


def nearest(one: Face, known: Mapping[str, Face]) -> str:
    """Give the name of whoever looks most alike: a good place to start, and ours, not the paper's.

    Raises:
        DataError: If nobody is known, or their faces are of another length.

    >>> nearest((0.6, 0.8), {"ada finch": (1.0, 0.0), "clara vale": (0.0, 1.0)})
    'clara vale'
    """
    if {len(face) for face in known.values()} != {len(one)}:
        raise DataError("nearest: expected known faces of the same length; read all of them with one identity net")
    return max(known, key=lambda name: float(np.dot(known[name], one)))


def coefficients(
    weight: Float[torch.Tensor, "*m p f"], bias: Float[torch.Tensor, "*m p"], faces: Float[torch.Tensor, "people f"]
) -> Float[torch.Tensor, "*m people p"]:
    """Map faces to coefficients, not yet of unit length.

    >>> coefficients(torch.tensor([[1.0], [-1.0]]), torch.zeros(2), torch.ones(1, 1)).tolist()
    [[1.0, -0.2...]]
    """
    return torch.nn.functional.leaky_relu(faces @ weight.mT + bias[..., None, :], SLOPE)


def fitted(faces: np.ndarray, known: np.ndarray, ridge: float) -> Mapper:
    """Fit the layer to people whom the model knows by name: ours, not the paper's.

    Args:
        faces: Theirs, (n, f).
        known: Their coefficients in the basis, (n, p).
        ridge: How much small weights are preferred.

    Raises:
        ConfigError: If the ridge is not positive.
        DataError: If there are not as many of both.

    >>> rng = np.random.default_rng(0)
    >>> faces, weight = rng.normal(size=(50, 3)), rng.normal(size=(4, 3))
    >>> made = fitted(faces, np.where(faces @ weight.T < 0, 0.2, 1) * (faces @ weight.T), ridge=1e-6)
    >>> bool(np.allclose(made.weight, weight, atol=1e-3))
    True
    """
    if not ridge > 0:
        raise ConfigError(f"ridge: expected a positive number, got {ridge}")
    if len(faces) != len(known) or len(faces) < 2:
        raise DataError(f"faces: {len(faces)} of them and {len(known)} people; expected as many, at least 2")
    before = np.where(known < 0, known / SLOPE, known)  # what must come into the rectifier
    middle, mean = faces.mean(axis=0), before.mean(axis=0)
    square = (faces - middle).T @ (faces - middle) + ridge * np.eye(faces.shape[1])
    weight = np.linalg.solve(square, (faces - middle).T @ (before - mean)).T
    return Mapper(weight.astype(np.float32), (mean - weight @ middle).astype(np.float32))
