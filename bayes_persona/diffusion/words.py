"""New words of a text encoder: a tokenizer that knows them, and rows beside its table, another set for every member.

The table and the tokenizer of the base model are never touched: both are replaced for as long as a `with` lasts.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float, Int

from bayes_persona.diffusion.adapter import members_of
from bayes_persona.diffusion.attach import attached
from bayes_persona.diffusion.text import encoders
from bayes_persona.errors import ConfigError, MismatchError, needs_extra

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from torch import nn
    from transformers import AddedToken


XL = (768, 1280)
"""Widths of SDXL's text encoders."""


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
    return embeddings(pipe, ids).mean(dim=0).cpu()


def embeddings(
    pipe: DiffusionPipeline, ids: Sequence[int] | Int[torch.Tensor, "*n"]
) -> Float[torch.Tensor, "*n width"]:
    """Give the embeddings of tokens in full precision; of SDXL those of both text encoders, side by side.

    Raises:
        MismatchError: If something is attached to a text encoder's words.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> embeddings(load(), [7, 8]).shape
    torch.Size([2, 128])
    """
    return torch.cat([_table(net).weight.detach()[ids].float() for net in encoders(pipe)], dim=-1)


def file(token: str, vectors: Float[torch.Tensor, "n width"]) -> dict[str, torch.Tensor]:
    """Give a token's vectors as diffusers' textual inversions are filed; of SDXL's width by text encoder.

    >>> list(file("<me>", torch.zeros(2, 768))), list(file("<me>", torch.zeros(2, 2048)))
    (['<me>'], ['clip_l', 'clip_g'])
    """
    if vectors.shape[1] != sum(XL):
        return {token: vectors.clone()}
    return dict(zip(("clip_l", "clip_g"), (part.clone() for part in vectors.split(XL, dim=1)), strict=True))


@contextmanager
def taught(
    pipe: DiffusionPipeline,
    words: Sequence[str],
    vectors: torch.Tensor,
    rows: Int[torch.Tensor, " n"],
) -> Iterator[None]:
    """Teach tokenizer and text encoder new words, for as long as the `with` lasts; of SDXL both of both.

    Args:
        pipe: Whose.
        words: As many as there are vectors.
        vectors: Their embeddings in every member, (members, vectors, width); for SDXL the width of both encoders.
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
    own = {name: getattr(pipe, name) for name in ("tokenizer", "tokenizer_2") if getattr(pipe, name, None) is not None}
    with known(pipe, vectors, rows, len(words)):
        try:
            for name, tokenizer in own.items():
                setattr(pipe, name, _grown(tokenizer, words))
            yield
        finally:
            for name, tokenizer in own.items():
                setattr(pipe, name, tokenizer)


@contextmanager
def known(pipe: DiffusionPipeline, vectors: torch.Tensor, rows: Int[torch.Tensor, " n"], count: int) -> Iterator[None]:
    """Let text encoders read new words, for batches that are tokens already: copying a tokenizer takes a step's time.

    Raises:
        MismatchError: If the vectors are not `count`, or of another width than the text encoder's.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe = load()
    >>> with known(pipe, torch.zeros(1, 2, 128), torch.tensor([0]), 2):
    ...     pipe.text_encoder.get_input_embeddings().first == len(pipe.tokenizer)
    True
    """
    tables = [(net, _table(net)) for net in encoders(pipe)]
    widths = [table.embedding_dim for _, table in tables]
    want, have = (count, sum(widths)), tuple(vectors.shape[1:])
    if have != want:
        raise MismatchError(f"embedding: expected {want} a member, got {have}; was it made for another model?")
    with ExitStack() as stack:
        for (net, table), part in zip(tables, vectors.split(widths, dim=-1), strict=True):
            place = next(name for name, module in net.named_modules() if module is table)
            new = NewWords(table, part, rows, first=len(pipe.tokenizer))
            stack.enter_context(attached(net, {place: new}))
        yield


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


def _table(net: Any) -> nn.Embedding:
    found = net.get_input_embeddings()
    if not isinstance(found, nn.Embedding):
        raise MismatchError(f"text encoder: its words are now a {type(found).__name__}; detach what is attached first")
    return found


def _grown(tokenizer: Any, words: Sequence[str]) -> Any:
    for word in words:
        if len(tokenizer.tokenize(word)) == 1:
            raise ConfigError(f"token: {word!r} is a word of this model already; choose another")
    grown = copy.deepcopy(tokenizer)
    # as it is written, and only between other words: a token `me` is not to be found in `some`
    grown.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in words])
    return grown
