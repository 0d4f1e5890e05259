"""New words of a text encoder: a tokenizer that knows them, and rows beside its table, another set for every member.

The table and the tokenizer of the base model are never touched: both are replaced for as long as a `with` lasts.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float, Int

from bayes_persona.diffusion.adapter import members_of
from bayes_persona.diffusion.attach import attached
from bayes_persona.errors import ConfigError, MismatchError, needs_extra

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from torch import nn
    from transformers import AddedToken


def spelled(token: str, vectors: int) -> tuple[str, ...]:
    """Give the words that stand for a token of several vectors, named as diffusers names them.

    >>> spelled("<me>", 2)
    ('<me>', '<me>_1')
    """
    return (token, *(f"{token}_{k}" for k in range(1, vectors)))


def meaning(pipe: DiffusionPipeline, text: str) -> Float[torch.Tensor, " width"]:
    """Give the mean of the embeddings of the tokens of a text, such as a superclass of one token or several.

    Raises:
        ConfigError: If the tokenizer does not know all of it.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> meaning(load(), "robot").shape
    torch.Size([128])
    """
    ids = pipe.tokenizer(text, add_special_tokens=False).input_ids
    if not ids or pipe.tokenizer.unk_token_id in ids:
        raise ConfigError(f"superclass: the tokenizer does not know all of {text!r}; choose a word that it knows")
    return table(pipe).weight.detach()[ids].mean(dim=0).cpu()


@contextmanager
def taught(
    pipe: DiffusionPipeline,
    words: Sequence[str],
    vectors: torch.Tensor,
    rows: Int[torch.Tensor, " n"],
) -> Iterator[None]:
    """Teach tokenizer and text encoder new words, for as long as the `with` lasts.

    Args:
        pipe: Whose.
        words: As many as there are vectors.
        vectors: Their embeddings in every member, (members, vectors, width).
        rows: Member of each row of a batch.

    Raises:
        ConfigError: If one is a word already.
        MismatchError: If the vectors are not as many, or of another width than the text encoder's.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe = load()
    >>> with taught(pipe, ["<me>"], torch.zeros(1, 1, 128), torch.tensor([0])):
    ...     len(pipe.tokenizer.tokenize("<me> the robot"))
    3
    """
    own = pipe.tokenizer
    part = {place(pipe): known(pipe, vectors, rows, len(words))}
    try:
        pipe.tokenizer = _grown(own, words)
        with attached(pipe.text_encoder, part):
            yield
    finally:
        pipe.tokenizer = own


def known(pipe: DiffusionPipeline, vectors: torch.Tensor, rows: Int[torch.Tensor, " n"], count: int) -> "NewWords":
    """Give the text encoder's table with new words beside it, for batches that are tokens already.

    Raises:
        MismatchError: If the vectors are not `count`, or of another width than the text encoder's.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> known(load(), torch.zeros(1, 2, 128), torch.tensor([0]), 2).first == len(load().tokenizer)
    True
    """
    old = table(pipe)
    want, have = (count, old.embedding_dim), tuple(vectors.shape[1:])
    if have != want:
        raise MismatchError(f"embedding: expected {want} a member, got {have}; was it made for another model?")
    return NewWords(old, vectors, rows, first=len(pipe.tokenizer))


def table(pipe: DiffusionPipeline) -> nn.Embedding:
    """Give the text encoder's own table.

    Raises:
        MismatchError: If something is attached to it.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> table(load()).embedding_dim
    128
    """
    found = pipe.text_encoder.get_input_embeddings()
    if not isinstance(found, nn.Embedding):
        raise MismatchError(f"text encoder: its words are now a {type(found).__name__}; detach what is attached first")
    return found


def place(pipe: DiffusionPipeline) -> str:
    """Give the name of the table in the text encoder.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> place(load())
    'embeddings.token_embedding'
    """
    found = table(pipe)
    return next(name for name, module in pipe.text_encoder.named_modules() if module is found)


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


def _grown(tokenizer: Any, words: Sequence[str]) -> Any:
    for word in words:
        if len(tokenizer.tokenize(word)) == 1:
            raise ConfigError(f"token: {word!r} is a word of this model already; choose another")
    grown = copy.deepcopy(tokenizer)
    # as it is written, and only between other words: a token `me` is not to be found in `some`
    grown.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in words])
    return grown
