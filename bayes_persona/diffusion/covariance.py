"""The second moment C = E[e eᵀ] of a text encoder's outputs: the metric in which Perfusion says what is alike.

It is estimated once for a text encoder from captions of anything, over the tokens from the first mark to the last and
none of the padding (Bau et al., ECCV 2020; Perfusion, arXiv 2305.01644, appendix C, which does not say how it pads).
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float

from bayes_persona import named
from bayes_persona.diffusion.pipelines import device, fingerprint
from bayes_persona.diffusion.text import ended, hidden
from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.files import load_arrays, save_arrays, understood
from bayes_persona.progress import bar

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline

RIDGE = 1e-4
"""Added to the diagonal, in parts of its mean: with few captions C alone could not be inverted."""
NAME = "covariance.safetensors"
"""A model's folder may hold its covariance under this name."""
BATCH = 32
"""Captions that are encoded at once."""


@dataclass(frozen=True, eq=False)
class Covariance:
    """C of one text encoder.

    Raises:
        DataError: If it is not square, symmetric and of finite numbers.

    >>> Covariance(np.diag([1.0, 4.0]), tokens=100, encoder="a").inverse.round(3).tolist()
    [[1.0, 0.0], [0.0, 0.25]]
    """

    matrix: Float[np.ndarray, "d d"]
    """E[e eᵀ] in float64."""
    tokens: int
    """How many tokens it is the mean of."""
    encoder: str
    """Fingerprint of the text encoder."""

    def __post_init__(self):
        if not np.isfinite(self.matrix).all() or not np.allclose(self.matrix, self.matrix.T):
            raise DataError("covariance: expected a symmetric matrix of finite numbers; estimate it again")

    @cached_property
    def fingerprint(self) -> str:
        """Name it by its numbers."""
        return named.fingerprint({"covariance": self.matrix})

    @cached_property
    def inverse(self) -> Float[np.ndarray, "d d"]:
        """C⁻¹, after a ridge; in float64.

        Raises:
            DataError: If it is singular all the same.
        """
        d = len(self.matrix)
        level = RIDGE * np.trace(self.matrix) / d
        values, vectors = np.linalg.eigh(self.matrix)
        if not level > 0 or values.min() + level <= 0:
            raise DataError(
                f"covariance: singular even with a ridge of {RIDGE:g}; give more captions than {self.tokens} tokens"
            )
        return (vectors / (values + level)) @ vectors.T


def estimate(pipe: DiffusionPipeline, captions: Sequence[str], *, title: str | None = None) -> Covariance:
    """Give C of a pipeline's text encoders, as its U-Net sees them.

    Args:
        pipe: Any Stable Diffusion; of SDXL both encoders, side by side.
        captions: Texts of all kinds, cut where the model stops reading; 20,000 tokens, some 1,500 captions, leave an
            error of about .006 in similarities.
        title: Name beside the progress bar; None shows no bar.

    Raises:
        ConfigError: If there are no captions.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> found = estimate(load(), ["a happy robot", "a cat at night"])
    >>> found.matrix.shape, found.tokens  # two marks and the words
    ((128, 128), 11)
    """
    if not captions:
        raise ConfigError("captions: expected some texts, got none")
    total, count, place, words = 0.0, 0, device(pipe), pipe.tokenizer
    with bar(title, total=-(-len(captions) // BATCH)) as advance, torch.no_grad():
        for start in range(0, len(captions), BATCH):
            some = list(captions[start : start + BATCH])
            ids = words(some, truncation=True, padding="max_length", max_length=words.model_max_length).input_ids
            ids = torch.tensor(ids, device=place)
            rows = hidden(pipe, ids).states[ended(pipe, ids)].double().cpu().numpy()
            total, count = total + rows.T @ rows, count + len(rows)
            advance()
    return Covariance(np.asarray(total) / count, count, encoder(pipe))


def shipped() -> tuple[str, ...]:
    """Give the captions that come with the package: of all kinds of pictures, for models of the web's captions.

    >>> len(shipped()) >= 1500
    True
    """
    text = (resources.files("bayes_persona.diffusion") / "assets" / "captions.txt").read_text()
    return tuple(text.splitlines())


def of(pipe: DiffusionPipeline, path: str | Path | None = None) -> Covariance:
    """Give a pipeline's covariance: from a file, from its folder, or estimated from the shipped captions, once.

    Args:
        pipe: Whose.
        path: A file of `save`; None looks for `covariance.safetensors` in the model's folder.

    Raises:
        MismatchError: If the file is of another text encoder.
        DataError: If it holds no covariance.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> of(load()).matrix.shape
    (128, 128)
    """
    folder, known = getattr(pipe, "name_or_path", ""), _KNOWN.setdefault(pipe.text_encoder, {})
    if path is None and folder and (Path(folder) / NAME).is_file():
        path = Path(folder) / NAME
    if path not in known:
        made = estimate(pipe, shipped(), title="covariance of captions") if path is None else load(path, pipe)
        known[path] = made
    return known[path]


def save(path: str | Path, covariance: Covariance) -> None:
    """Write a covariance to one safetensors file.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "c.safetensors"
    >>> save(path, Covariance(np.eye(2), tokens=3, encoder="a"))
    >>> load(path).tokens
    3
    """
    matrix = covariance.matrix.astype(np.float32)
    save_arrays(path, {"covariance": matrix}, {"tokens": covariance.tokens, "encoder": covariance.encoder})


def load(path: str | Path, pipe: DiffusionPipeline | None = None) -> Covariance:
    """Read a covariance; for a pipeline, if it is given.

    Raises:
        MismatchError: If it is of another text encoder than the pipeline's.
        DataError: If the file holds none.
        RunError: If it is absent or damaged.

    >>> load("nowhere.safetensors")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere.safetensors: there is no such file
    """
    arrays, about = load_arrays(path)
    if set(arrays) != {"covariance"} or not {"tokens", "encoder"} <= set(about):
        raise DataError(f"{path}: holds no covariance; make one with diffusion.covariance.estimate and save it")
    if pipe is not None and about["encoder"] != (have := encoder(pipe)):
        raise MismatchError(f"{path}: is of text encoder {about['encoder']}, this is {have}; estimate this one's")
    with understood(path, "covariance"):
        return Covariance(arrays["covariance"].astype(np.float64), about["tokens"], about["encoder"])


def encoder(pipe: DiffusionPipeline) -> str:
    """Give the fingerprint of a pipeline's text encoders.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> encoder(load()) == encoder(load())
    True
    """
    return fingerprint(pipe, ("text_encoder", "text_encoder_2"))


_KNOWN: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
"""Covariances of text encoders that are in memory."""
