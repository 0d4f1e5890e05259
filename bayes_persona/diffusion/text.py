"""What a frozen model makes of text, computed once: tokens, encodings (`Prompts`), keys and values (`cached_text`)."""

import operator
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int

from bayes_persona.diffusion.attach import attached
from bayes_persona.diffusion.pipelines import size
from bayes_persona.errors import ConfigError, needs_extra

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.models.attention_processor import Attention
    from torch import nn

REMEMBERED = 4
"""Texts whose keys and values a projection keeps: guidance in two passes needs two."""


def encoders(pipe: DiffusionPipeline) -> list[Any]:
    """Give a model's text encoders: one, or of SDXL two, which read the same words.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> len(encoders(load()))
    1
    """
    found = (getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2"))
    return [net for net in found if net is not None]


def tokens(pipe: DiffusionPipeline, prompt: str) -> tuple[int, ...]:
    """Give the token ids of a prompt, padded to the length that the model reads.

    Raises:
        ConfigError: If the prompt is longer than that; names the words that would be cut off.

    >>> from diffusers import StableDiffusionPipeline
    >>> from transformers import CLIPTokenizer
    >>> words = {"a</w>": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}
    >>> tokenizer = CLIPTokenizer(vocab=words, merges=[], model_max_length=5)
    >>> pipe = StableDiffusionPipeline(None, None, tokenizer, None, None, None, None, requires_safety_checker=False)
    >>> tokens(pipe, "a a")
    (1, 0, 0, 2, 2)
    """
    tokenizer: Any = pipe.tokenizer
    longest = tokenizer.model_max_length
    ids = tokenizer(prompt, verbose=False).input_ids
    if len(ids) > longest:
        cut = tokenizer.decode(ids[longest - 1 : -1], clean_up_tokenization_spaces=False).replace("</w>", " ").strip()
        raise ConfigError(f"prompt: {len(ids) - 2} tokens, the model reads {longest - 2}; cut off would be: {cut}")
    return tuple(tokenizer(prompt, padding="max_length", max_length=longest).input_ids)


class Hidden(NamedTuple):
    """What a U-Net sees of texts: the states of every token, and of SDXL a summary of the whole.

    >>> Hidden(torch.zeros(1, 40, 128)).pooled is None
    True
    """

    states: Float[torch.Tensor, "n words width"]
    pooled: Float[torch.Tensor, "n summary"] | None = None


def hidden(pipe: DiffusionPipeline, ids: Int[torch.Tensor, "n words"]) -> Hidden:
    """Encode tokens as the pipeline itself does: of SDXL both encoders' last states but one, side by side.

    Args:
        pipe: Any Stable Diffusion.
        ids: Tokens of its first tokenizer, padded.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe = load()
    >>> hidden(pipe, torch.tensor([tokens(pipe, "a cat")])).states.shape
    torch.Size([1, 40, 128])
    """
    second: Any = getattr(pipe, "text_encoder_2", None)
    if second is None:
        return Hidden(pipe.text_encoder(ids)[0])
    # both read the same words; the second pads with another token
    padded = ids.masked_fill(~ended(pipe, ids), pipe.tokenizer_2.pad_token_id)
    one, two = (net(ids, output_hidden_states=True) for net, ids in ((pipe.text_encoder, ids), (second, padded)))
    return Hidden(torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1), two[0])


def added(pipe: DiffusionPipeline, text: Hidden) -> dict[str, Any]:
    """Give what else a U-Net is called with: of SDXL the summaries, and that pictures are whole and of its own size.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> added(load(), Hidden(torch.zeros(1, 40, 128)))
    {}
    """
    if text.pooled is None:
        return {}
    side = float(size(pipe))
    sizes = torch.tensor([side, side, 0, 0, side, side]).to(text.pooled)  # original, cut off at the top left, wanted
    return {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": sizes.expand(len(text.pooled), -1)}}


def conditions(pipe: DiffusionPipeline, text: Hidden) -> dict[str, Any]:
    """Give all that a U-Net is called with, besides latents and times.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> list(conditions(load(), Hidden(torch.zeros(1, 40, 128))))
    ['encoder_hidden_states']
    """
    return {"encoder_hidden_states": text.states, **added(pipe, text)}


def ended(pipe: DiffusionPipeline, ids: Int[torch.Tensor, "n words"]) -> Bool[torch.Tensor, "n words"]:
    """Say which tokens are the text, from the first mark to the last, and not padding.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe = load()
    >>> ended(pipe, torch.tensor([tokens(pipe, "a cat")])).sum().item()
    4
    """
    ends = (ids == pipe.tokenizer.eos_token_id).cumsum(dim=1)
    return (ends == 0) | ((ends == 1) & (ids == pipe.tokenizer.eos_token_id))


class OfText(nn.Module, ABC):
    """What adapters put around a projection of the text, where it is a function of the text and of `tensors` alone.

    `cached_text` remembers what such a projection gives.

    >>> class Doubled(OfText):
    ...     def __init__(self, base):
    ...         super().__init__()
    ...         self.base = base
    ...     @property
    ...     def tensors(self):
    ...         return (self.base.weight,)
    ...     def forward(self, x):
    ...         return 2 * self.base(x)
    >>> len(Doubled(nn.Linear(2, 2, bias=False)).tensors)
    1
    """

    @property
    @abstractmethod
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What its output depends on, besides the text."""


class Prompts:
    """Encodes prompts, each once, until a weight of the text encoder changes or something is attached to it.

    A prompt's encoding does not depend on the others it is asked for with.

    Args:
        pipe: Whose tokenizer and text encoder to use.

    >>> from diffusers import StableDiffusionPipeline
    >>> pipe = StableDiffusionPipeline(None, None, None, None, None, None, None, requires_safety_checker=False)
    >>> Prompts(pipe)("a cat")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: prompts: expected a list of texts, got the one text 'a cat'
    """

    def __init__(self, pipe: DiffusionPipeline):
        self.pipe = pipe
        self.clear()

    def clear(self) -> None:
        """Forget everything; needed after weights were changed through `.data`, which torch does not notice."""
        self._known: dict[tuple[int, ...], torch.Tensor] = {}
        self._modules: list[nn.Module] = []
        self._numbers: Any = None

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Float[torch.Tensor, "n words width"]:
        """Give the last hidden states of the text encoder for every prompt.

        Raises:
            ConfigError: If `prompts` is a single text, or one is longer than the model reads.
        """
        if isinstance(prompts, str):
            raise ConfigError(f"prompts: expected a list of texts, got the one text {prompts!r}")
        encoder: Any = self.pipe.text_encoder
        self._forget_if_changed(encoder)
        rows = [tokens(self.pipe, prompt) for prompt in prompts]
        for row in rows:
            if row not in self._known:
                self._known[row] = encoder(torch.tensor([row], device=encoder.device))[0]
        empty = torch.zeros(0, self.pipe.tokenizer.model_max_length, encoder.config.hidden_size)
        return torch.cat([self._known[row] for row in rows]) if rows else empty.to(encoder.device, encoder.dtype)

    def _forget_if_changed(self, encoder: nn.Module) -> None:
        modules = list(encoder.modules())  # kept, so that no other module can get the same identity
        hooks = [tuple(table) for m in modules for table in (m._forward_hooks, m._forward_pre_hooks)]
        tensors = [*encoder.parameters(), *encoder.buffers()]
        numbers = (hooks, [(id(t), t.data_ptr(), t.device, t.dtype, t._version) for t in tensors])
        if numbers != self._numbers or list(map(id, modules)) != list(map(id, self._modules)):
            self.clear()
            self._modules, self._numbers = modules, numbers


@contextmanager
def cached_text(unet: nn.Module) -> Iterator[None]:
    """Inside the block, project a text to keys and values once, not in every denoising step, with the same results.

    Remembered are the outputs of `to_k` and `to_v` of every cross-attention for the very same input tensor and weights,
    with what adapters make of them (`OfText`), or else of the plain linear layers inside of what is attached there.
    With gradients nothing is remembered.

    Args:
        unet: A U-Net with or without attached parts; more may be attached inside the block.

    >>> attention = Attention(query_dim=8, cross_attention_dim=4, heads=2, dim_head=4)
    >>> picture, text = torch.ones(1, 9, 8), torch.ones(1, 5, 4)
    >>> with torch.no_grad(), cached_text(attention):
    ...     first, second = (attention(picture, encoder_hidden_states=text) for step in range(2))
    ...     attention.to_k(text) is attention.to_k(text)
    True
    >>> bool((first == second).all())
    True
    """
    parts = {}
    for above, block in unet.named_modules():
        if isinstance(block, Attention) and block.is_cross_attention:
            for side in ("to_k", "to_v"):
                name = f"{above}.{side}" if above else side
                parts |= dict.fromkeys(_outermost(getattr(block, side), name), _Remembered)
    with attached(unet, parts):
        yield


def _outermost(part: nn.Module, name: str) -> Iterator[str]:
    """Give the names of the largest parts that can be remembered."""
    if isinstance(part, OfText) or type(part) is nn.Linear:  # a subclass may do more than its weights say
        yield name
    else:
        for below, child in part.named_children():
            yield from _outermost(child, f"{name}.{below}")


class _Remembered(nn.Module):
    """A projection that gives the same output again for the same input, found by identity and version."""

    def __init__(self, original: nn.Linear | OfText):
        super().__init__()
        self.original = original
        self.training = original.training
        self._known: list[_Known] = []

    # what a wrapper around a linear layer may ask of it
    weight = property(lambda self: self.original.weight)
    bias = property(lambda self: self.original.bias)
    in_features = property(lambda self: self.original.in_features)
    out_features = property(lambda self: self.original.out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.original.tensors if isinstance(self.original, OfText) else (self.weight, self.bias)
        tensors = [tensor for tensor in (x, *weights) if tensor is not None]
        if torch.is_inference_mode_enabled() or any(tensor.is_inference() for tensor in tensors):
            return self.original(x)  # such tensors do not count their changes
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return self.original(x)
        kind = x.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        state = (autocast, *((tensor.data_ptr(), tensor._version) for tensor in tensors))
        for known in self._known:
            same = known.source() is x and known.state == state and all(map(operator.is_, known.weights, weights))
            if same and known.output._version == known.version:
                return known.output
        output = self.original(x)
        alive = [known for known in self._known if (source := known.source()) is not None and source is not x]
        self._known = [_Known(weakref.ref(x), weights, state, output, output._version), *alive[: REMEMBERED - 1]]
        return output


class _Known(NamedTuple):
    source: weakref.ref[torch.Tensor]
    weights: tuple[torch.Tensor | None, ...]
    state: tuple[Any, ...]
    output: torch.Tensor
    version: int
