"""Textual inversion: a person is a new word or two, and nothing else changes (Gal et al., ICLR 2023, arXiv 2208.01618).

What is learned is the embedding of the new words in the text encoder's input table: `vectors` rows a member, a few
kilobytes. The table itself is never touched; the new rows are looked up beside it, each row of a batch in its own
member's.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayes_persona.diffusion.adapter import Batch, Subject, denoising_loss, members_of, require_gates
from bayes_persona.diffusion.attach import attached
from bayes_persona.diffusion.train import Tensors
from bayes_persona.errors import ConfigError, MismatchError, needs_extra
from bayes_persona.seeds import generator
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import save_file
    from torch import nn
    from transformers import AddedToken

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
        if self.vectors < 1:
            raise ConfigError(f"vectors: expected at least one, got {self.vectors}")

    @property
    def gates(self) -> tuple[str, ...]:
        """One gate: from the superclass's own embedding (0) to the learned one (1)."""
        return (EMBEDDING,)

    @property
    def knobs(self) -> Mapping[str, tuple[float, float]]:
        """Nothing to turn but the gate."""
        return {}

    @property
    def words(self) -> tuple[str, ...]:
        """The new words, named as diffusers names them."""
        return (self.subject.token, *(f"{self.subject.token}_{k}" for k in range(1, self.vectors)))

    def init(self, pipe: StableDiffusionPipeline, members: int, seed: int) -> Params:
        """Start every vector of every member at the superclass's embedding."""
        start = np.tile(self._superclass(pipe).numpy(), (members, self.vectors, 1))
        size = self.spread * float(_table(pipe).weight.std())
        noise = [generator(seed, "member", k).standard_normal(start.shape[1:]) for k in range(members)]
        return {EMBEDDING: (start + size * np.stack(noise)).astype(np.float32)}

    @contextmanager
    def attached(
        self,
        pipe: StableDiffusionPipeline,
        params: Mapping[str, Any],
        rows: Int[torch.Tensor, " n"],
        gates: Mapping[str, float] | None = None,
    ) -> Iterator[None]:
        """Teach tokenizer and text encoder the new words, for as long as the `with` lasts.

        Raises:
            MismatchError: If the embeddings are of another width than the text encoder's.
            ConfigError: If the token is a word already.
        """
        own = pipe.tokenizer
        part = self._part(pipe, params, rows, require_gates(self, gates)[EMBEDDING])
        try:
            pipe.tokenizer = self._tokenizer(own)
            with attached(pipe.text_encoder, part):
                yield
        finally:
            pipe.tokenizer = own

    def loss(self, pipe: StableDiffusionPipeline, params: Tensors, batch: Batch) -> Float[torch.Tensor, " n"]:
        """Give the denoising loss of every row."""
        # the batch is tokens already: copying the tokenizer at every step would take longer than the step
        with attached(pipe.text_encoder, self._part(pipe, params, batch.member, gate=1.0)):
            return denoising_loss(pipe, batch)

    def export(self, path: str | Path, member: Mapping[str, np.ndarray]) -> None:
        """Write one member as diffusers' `pipe.load_textual_inversion` reads it."""
        vectors = torch.as_tensor(member[EMBEDDING]).reshape(self.vectors, -1)
        save_file({self.subject.token: vectors.clone()}, Path(path))

    def _part(
        self, pipe: StableDiffusionPipeline, params: Mapping[str, Any], rows: torch.Tensor, gate: float
    ) -> dict[str, nn.Module]:
        table = _table(pipe)
        learned = torch.as_tensor(params[EMBEDDING])
        want, have = (self.vectors, table.embedding_dim), tuple(learned.shape[1:])
        if have != want:
            raise MismatchError(f"{EMBEDDING}: expected {want} a member, got {have}; was it made for another model?")
        if gate != 1:
            learned = torch.lerp(self._superclass(pipe).to(learned).expand_as(learned), learned, gate)
        return {_table_name(pipe): NewWords(table, learned, rows, first=len(pipe.tokenizer))}

    def _tokenizer(self, own: Any) -> Any:
        for word in self.words:
            if len(own.tokenize(word)) == 1:
                raise ConfigError(f"token: {word!r} is a word of this model already; choose another")
        grown = copy.deepcopy(own)
        # as it is written, and only between other words: a token `me` is not to be found in `some`
        grown.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in self.words])
        return grown

    def _superclass(self, pipe: StableDiffusionPipeline) -> Float[torch.Tensor, " width"]:
        ids = pipe.tokenizer(self.subject.superclass, add_special_tokens=False).input_ids
        return _table(pipe).weight.detach()[ids].mean(dim=0).cpu()


class NewWords(nn.Module):
    """An embedding table with more rows beside it, another set of them for every member.

    >>> vectors = torch.arange(3.0).reshape(3, 1, 1).expand(3, 1, 2)  # one new word, which says who the member is
    >>> words = NewWords(nn.Embedding(5, 2), vectors, rows=torch.tensor([2, 0]), first=5)
    >>> words(torch.tensor([[5], [5]]))[:, 0, 0].tolist()
    [2.0, 0.0]
    """

    def __init__(
        self,
        table: nn.Embedding,
        vectors: Float[torch.Tensor, "k v d"],
        rows: Int[torch.Tensor, " n"],
        first: int,
    ):
        super().__init__()
        self.table = table
        self.vectors = vectors  # a plain tensor: gradients flow to whoever owns it
        self.rows = rows
        self.first = first  # not the table's length: some tables have more rows than the tokenizer has words

    @property
    def weight(self) -> torch.Tensor:
        """The table that was there before."""
        return self.table.weight

    def forward(self, tokens: Int[torch.Tensor, "n words"]) -> Float[torch.Tensor, "n words d"]:
        """Look every token up, new ones in the row's own member."""
        new = tokens >= self.first
        known = self.table(tokens.masked_fill(new, 0))
        if len(tokens) % len(self.rows) and not new.any():  # such as one empty prompt for a batch of any size
            return known
        vectors = self.vectors.to(known)[members_of(self.rows.to(tokens.device), len(tokens))]
        place = (tokens - self.first).clamp(min=0)
        own = vectors.gather(1, place[..., None].expand(*place.shape, vectors.shape[-1]))
        return torch.where(new[..., None], own, known)


def _table(pipe: StableDiffusionPipeline) -> nn.Embedding:
    table = pipe.text_encoder.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise MismatchError(f"text encoder: its words are now a {type(table).__name__}; detach what is attached first")
    return table


def _table_name(pipe: StableDiffusionPipeline) -> str:
    table = _table(pipe)
    return next(name for name, module in pipe.text_encoder.named_modules() if module is table)
