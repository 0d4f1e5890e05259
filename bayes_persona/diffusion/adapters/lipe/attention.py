"""Where in a picture some words of its prompt are: cross-attention, recorded while a U-Net runs, and a mask of it.

The U-Net computes what it always does, to the last bit: a softmax is computed beside its own attention, for the words
that are asked for alone.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bayes_persona.diffusion.attach import attached
from bayes_persona.diffusion.text import tokens
from bayes_persona.errors import ConfigError, DataError, needs_extra

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.models.attention_processor import Attention
    from scipy import ndimage
    from torch import nn

CROSS = "attn2"
"""What diffusers calls a transformer block's attention to the text."""


def positions(pipe: DiffusionPipeline, prompt: str, phrase: str) -> tuple[int, ...]:
    """Say at which tokens of a prompt a phrase stands, wherever it does.

    Args:
        pipe: Whose tokenizer, with the words that an adapter has taught it.
        prompt: The whole prompt.
        phrase: Words of it, such as `adapter.subject.phrase`.

    Raises:
        ConfigError: If the prompt does not name it.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> positions(load(), "a happy robot at night", "robot")
    (3,)
    """
    words: Any = pipe.tokenizer
    convert = getattr(pipe, "maybe_convert_prompt", lambda text, _: text)  # `<me>` to `<me> <me>_1`
    ids = tokens(pipe, str(convert(prompt, words)))
    wanted = words(str(convert(phrase, words)), add_special_tokens=False).input_ids
    n = len(wanted)
    found = [k + i for k in range(len(ids) - n + 1) if n and list(ids[k : k + n]) == wanted for i in range(n)]
    if not found:
        raise ConfigError(f"prompt: {prompt!r} does not name {phrase!r}, so its place in the picture cannot be found")
    return tuple(found)


class Recorder:
    """A running mean of maps: over heads and words, layers, and steps.

    Args:
        words: For each picture the tokens to look at.
        shape: Height and width of the latents.
        scales: How many latent pixels a pixel of a layer is wide, for layers that count; none are all.

    Raises:
        ConfigError: If no layer has been seen yet, at reading.

    >>> seen = Recorder([(1,)], (2, 2))
    >>> seen.add(torch.eye(4)[None, None])  # one picture, one head; pixel k looks at word k
    >>> seen.maps[0].tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """

    def __init__(self, words: Sequence[Sequence[int]], shape: tuple[int, int], scales: tuple[int, ...] = ()):
        self.words, self.shape, self.scales = [list(one) for one in words], shape, scales
        self.total, self.count = torch.zeros(len(words), *shape), 0

    def looks(self, pixels: int) -> bool:
        """Say whether layers of so many pixels count."""
        return not self.scales or round(math.sqrt(math.prod(self.shape) / pixels)) in self.scales

    def add(self, shares: Float[torch.Tensor, "n heads pixels words"]) -> None:
        """Take one layer's attention into the mean.

        Raises:
            ConfigError: If its pixels are not of the latents' shape.
        """
        scale = math.sqrt(math.prod(self.shape) / shares.shape[2])
        low = (math.ceil(self.shape[0] / scale - 1e-6), math.ceil(self.shape[1] / scale - 1e-6))
        if math.prod(low) != shares.shape[2]:
            raise ConfigError(f"attention: {shares.shape[2]} pixels are not of the shape of latents {self.shape}")
        rows = [one[:, :, own].mean(dim=(0, 2)) for one, own in zip(shares.float(), self.words, strict=True)]
        maps = torch.stack(rows).reshape(-1, 1, *low)
        large = nn.functional.interpolate(maps, self.shape, mode="bilinear", align_corners=False)[:, 0]
        self.total, self.count = self.total.to(large.device) + large, self.count + 1

    @property
    def maps(self) -> Float[torch.Tensor, "n h w"]:
        """The mean so far."""
        if not self.count:
            raise ConfigError("attention: nothing was recorded; run the U-Net inside `recording`, or allow more scales")
        return self.total / self.count


@contextmanager
def recording(unet: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Record the cross-attention of a U-Net that runs inside the block.

    Of a batch the last rows are looked at, as many as the recorder has pictures: with guidance, which puts the empty
    prompts first, those are the ones with a prompt.

    Raises:
        ConfigError: If the U-Net has no attention to text at the recorder's scales, at the end of the block.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe, seen = load(), Recorder([(1,)], (16, 16))
    >>> with recording(pipe.unet, seen), torch.no_grad():
    ...     _ = pipe.unet(torch.zeros(2, 8, 16, 16), 500, torch.ones(2, 40, 128))
    >>> seen.maps.shape, seen.count
    (torch.Size([1, 16, 16]), 7)
    """
    names = [name for name, part in unet.named_modules() if name.endswith(CROSS) and isinstance(part, Attention)]
    with attached(unet, {name: partial(_Recorded, recorder=recorder) for name in names}):
        yield
    _ = recorder.maps  # it complains if there is none


class _Recorded(nn.Module):
    """An attention whose shares are recorded on the way."""

    def __init__(self, original: nn.Module, recorder: Recorder):
        super().__init__()
        self.original, self.recorder = original, recorder

    def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **rest: Any) -> torch.Tensor:
        if self.recorder.looks(hidden_states.shape[1]):
            with torch.no_grad():
                self.recorder.add(self._shares(hidden_states, encoder_hidden_states))
        return self.original(hidden_states, encoder_hidden_states=encoder_hidden_states, **rest)

    def _shares(self, x: torch.Tensor, text: torch.Tensor) -> Float[torch.Tensor, "n heads pixels words"]:
        own: Any = self.original
        n = len(self.recorder.words)
        query, key = own.to_q(x)[-n:], own.to_k(text)[-n:]  # all rows first: an adapter's are whole blocks
        if own.norm_q is not None:
            query = own.norm_q(query)
        if own.norm_k is not None:
            key = own.norm_k(key)
        query, key = (part.unflatten(-1, (own.heads, -1)).transpose(1, 2).float() for part in (query, key))
        return (query @ key.mT * own.scale).softmax(dim=-1)


def mask(
    maps: Float[torch.Tensor, "n h w"], threshold: float, *, components: int = 1, grow: int = 1
) -> Bool[torch.Tensor, "n h w"]:
    """Give where maps are high: from 0 to 1, smoothed, cut off, the largest parts kept, their holes filled, grown.

    Args:
        maps: As a `Recorder` gives them.
        threshold: What counts, between the map's least and most.
        components: How many connected parts are kept, the largest first.
        grow: By how many pixels they are grown, corners included.

    Raises:
        DataError: If a map is not finite.

    >>> hill = torch.zeros(1, 5, 9)
    >>> hill[0, 1:4, 1:4] = 1.0
    >>> hill[0, 4, 8] = 0.6
    >>> mask(hill, 0.3, grow=0)[0].int().sum(dim=0).tolist()  # the small one is dropped
    [3, 5, 5, 5, 1, 0, 0, 0, 0]
    """
    if not bool(torch.isfinite(maps).all()):
        raise DataError("maps: NaN or infinite, so no mask follows; full precision may help")
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    even = (maps - low) / (high - low).clamp(min=1e-12)
    smooth = nn.functional.avg_pool2d(even[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    found = [_largest(one, components, grow) for one in (smooth >= threshold).cpu().numpy()]
    return torch.from_numpy(np.stack(found)).to(maps.device)


def grown(masks: Bool[torch.Tensor, "n h w"], pixels: int) -> Bool[torch.Tensor, "n h w"]:
    """Grow masks by some pixels, corners included.

    >>> grown(torch.eye(3, dtype=torch.bool)[None, :1], 1).int().tolist()
    [[[1, 1, 0]]]
    """
    if not pixels:
        return masks
    wide = nn.functional.max_pool2d(masks[:, None].float(), 2 * pixels + 1, stride=1, padding=pixels)
    return wide[:, 0] > 0


def _largest(found: np.ndarray, components: int, grow: int) -> np.ndarray:
    labels, count = ndimage.label(found)
    if count > components:
        sizes = ndimage.sum_labels(found, labels, range(1, count + 1))
        found = np.isin(labels, 1 + np.argsort(-sizes, kind="stable")[:components])
    found = ndimage.binary_fill_holes(found)
    return ndimage.binary_dilation(found, np.ones((3, 3)), iterations=grow) if grow else found
