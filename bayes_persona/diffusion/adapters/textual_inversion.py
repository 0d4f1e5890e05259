"""Textual inversion: a person is a new word or two, and nothing else changes (Gal et al., ICLR 2023, arXiv 2208.01618).

What is learned is the embedding of the new words in the text encoder's input table: `vectors` rows a member, a few
kilobytes. The table itself is never touched; the new rows are looked up beside it, each row of a batch in its own
member's.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayes_persona import ranges
from bayes_persona.diffusion import words
from bayes_persona.diffusion.adapter import Batch, Subject, denoising_loss, require_gates
from bayes_persona.diffusion.train import Tensors
from bayes_persona.errors import needs_extra
from bayes_persona.seeds import generator
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from safetensors.torch import save_file

EMBEDDING = "embedding"
"""The one parameter: `(members, vectors, width)`."""


@dataclass(frozen=True)
class TextualInversion:
    """The method and its settings: an `Adapter`.

    Raises:
        ConfigError: If there is no vector to learn.

    >>> TextualInversion(Subject("robot"), vectors=2).words
    ('<me>', '<me>_1')
    """

    subject: Subject
    """Who is learned."""
    vectors: int = 2
    """New words that stand for the token: more say more, and are easier to overfit."""
    spread: float = 0.0
    """Noise on each member's start, in standard deviations of the table; the weights alone make members differ."""
    method: str = "textual_inversion"

    def __post_init__(self):
        ranges.at_least(self, 1, "vectors")

    @property
    def gates(self) -> tuple[str, ...]:
        """One gate: from the superclass's own embedding (0) to the learned one (1)."""
        return (EMBEDDING,)

    @property
    def knobs(self) -> Mapping[str, tuple[float, float]]:
        """Nothing to turn but the gate."""
        return {}

    @property
    def rates(self) -> Mapping[str, float]:
        """All is learned at the run's rate."""
        return {}

    @property
    def words(self) -> tuple[str, ...]:
        """The new words, named as diffusers names them."""
        return words.spelled(self.subject.token, self.vectors)

    def init(self, pipe: DiffusionPipeline, members: int, seed: int) -> Params:
        """Start every vector of every member at the superclass's embedding."""
        start = np.tile(words.meaning(pipe, self.subject.superclass).numpy(), (members, self.vectors, 1))
        size = self.spread * float(words.embeddings(pipe, range(len(pipe.tokenizer))).std())
        noise = [generator(seed, "member", k).standard_normal(start.shape[1:]) for k in range(members)]
        return {EMBEDDING: (start + size * np.stack(noise)).astype(np.float32)}

    @contextmanager
    def attached(
        self,
        pipe: DiffusionPipeline,
        params: Mapping[str, Any],
        rows: Int[torch.Tensor, " n"],
        gates: Mapping[str, float] | None = None,
    ) -> Iterator[None]:
        """Teach tokenizer and text encoder the new words, for as long as the `with` lasts.

        Raises:
            MismatchError: If the embeddings are of another width than the text encoder's.
            ConfigError: If the token is a word already.
        """
        vectors = self._vectors(pipe, params, require_gates(self, gates)[EMBEDDING])
        with words.taught(pipe, self.words, vectors, rows):
            yield

    def loss(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Float[torch.Tensor, " n"]:
        """Give the denoising loss of every row."""
        with words.known(pipe, torch.as_tensor(params[EMBEDDING]), batch.member, self.vectors):
            return denoising_loss(pipe, batch)

    def track(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Tensors:
        """Nothing is learned but by gradient."""
        return {}

    def export(self, path: str | Path, member: Mapping[str, np.ndarray]) -> None:
        """Write one member as diffusers' `pipe.load_textual_inversion` reads it."""
        vectors = torch.as_tensor(member[EMBEDDING]).reshape(self.vectors, -1)
        save_file(words.file(self.subject.token, vectors), Path(path))

    def _vectors(self, pipe: DiffusionPipeline, params: Mapping[str, Any], gate: float) -> torch.Tensor:
        learned = torch.as_tensor(params[EMBEDDING])
        if gate == 1:
            return learned
        return torch.lerp(words.meaning(pipe, self.subject.superclass).to(learned).expand_as(learned), learned, gate)
