"""Global key-locking: every prompt is encoded a second time with the superclass in the word's place, for the keys.

Both encodings lie side by side in the text's columns, so that they go through guidance, repeats and whatever else a
pipeline does to the text without anybody having to know; projections then read the half that is theirs.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float

from bayes_persona.diffusion.text import encoders
from bayes_persona.diffusion.words import NewWords
from bayes_persona.errors import needs_extra

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from torch import nn


class Beside(nn.Module):
    """A text encoder that also says how a prompt would read if its new words were usual ones.

    Args:
        original: The text encoder, which knows the new words.
        words: Its table.
        usual: What the new words are the second time, of the shape of `words.vectors`.

    >>> table, only = nn.Embedding(5, 2), torch.tensor([0])
    >>> words = NewWords(table, torch.ones(1, 1, 2), only, first=5)
    >>> net = nn.Sequential(words)  # an encoder that gives the words' own embeddings
    >>> states = Beside(net, words, torch.zeros(1, 1, 2))(torch.tensor([[5]]))
    >>> states.tolist()
    [[[1.0, 1.0, 0.0, 0.0]]]
    """

    def __init__(self, original: nn.Module, words: NewWords, usual: Float[torch.Tensor, "k v d"]):
        super().__init__()
        self.original = original
        self.words = words
        self.usual = usual

    # what pipelines ask of a text encoder
    config = property(lambda self: self.original.config)
    dtype = property(lambda self: self.original.dtype)
    device = property(lambda self: self.original.device)

    def get_input_embeddings(self) -> nn.Module:
        """Give the table of words."""
        return self.words

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Encode twice; a summary of the whole text is the usual one's."""
        said, own = self.original(*args, **kwargs), self.words.vectors
        try:
            self.words.vectors = self.usual
            usual = self.original(*args, **kwargs)
        finally:
            self.words.vectors = own
        if isinstance(said, Mapping):  # as transformers' outputs are
            return type(said)(**{name: _paired(said[name], usual[name]) for name in said})
        return _paired(said, usual)


@contextmanager
def beside(pipe: DiffusionPipeline, usual: Float[torch.Tensor, "k v d"]) -> Iterator[None]:
    """Encode prompts twice inside the block, where the pipeline has been taught new words.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> from bayes_persona.diffusion.words import taught
    >>> pipe = load()
    >>> with taught(pipe, ["<me>"], torch.zeros(1, 1, 128), torch.tensor([0])), beside(pipe, torch.ones(1, 1, 128)):
    ...     pipe.encode_prompt("<me> the robot", "cpu", 1, False)[0].shape
    torch.Size([1, 40, 256])
    """
    own = dict(zip(("text_encoder", "text_encoder_2"), encoders(pipe), strict=False))
    parts = usual.split([net.config.hidden_size for net in own.values()], dim=-1)
    try:
        for (name, net), part in zip(own.items(), parts, strict=True):
            setattr(pipe, name, Beside(net, net.get_input_embeddings(), part))
        yield
    finally:
        for name, net in own.items():
            setattr(pipe, name, net)


def halves(pipe: DiffusionPipeline, *, usual: bool) -> list[slice]:
    """Give the columns of either encoding, where each text encoder wrote both of its own.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> halves(load(), usual=True)
    [slice(128, 256, None)]
    """
    columns, start = [], 0
    for net in encoders(pipe):
        width = net.config.hidden_size
        columns.append(slice(start + width, start + 2 * width) if usual else slice(start, start + width))
        start += 2 * width
    return columns


def _paired(said: Any, usual: Any) -> Any:
    if isinstance(said, tuple):
        return tuple(_paired(one, other) for one, other in zip(said, usual, strict=True))
    return torch.cat([said, usual], dim=-1) if isinstance(said, torch.Tensor) and said.ndim == 3 else usual
