"""Where in a picture some words of its prompt are: cross-attention, recorded while a U-Net runs, and a mask of it.

The U-Net computes what it always does, to the last bit: a softmax is computed beside its own attention. What words say
is coarse, so it may be spread by how pixels attend to one another, as zero-shot segmentation does: a pixel of a
sleeve asks other pixels of the sleeve, whatever word they are of.
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

SELF, CROSS = "attn1", "attn2"
"""What diffusers calls a transformer block's attention to the picture and to the text."""
PIXELS = 32 * 32
"""Layers of more pixels are not asked how pixels attend to one another: that is as many numbers, squared."""


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
        spread: How often maps are spread by self-attention; 0 does not record it.

    Raises:
        ConfigError: If no layer has been seen yet, at reading.

    >>> seen = Recorder([(1,)], (2, 2))
    >>> seen.add(torch.eye(4)[None, None])  # one picture, one head; pixel k looks at word k
    >>> seen.maps[0].tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """

    def __init__(
        self, words: Sequence[Sequence[int]], shape: tuple[int, int], scales: tuple[int, ...] = (), spread: int = 0
    ):
        self.words, self.shape, self.scales, self.spread = [list(one) for one in words], shape, scales, spread
        self.total, self.count = torch.zeros(len(words), *shape), 0
        self.near: dict[int, torch.Tensor] = {}

    def looks(self, pixels: int) -> bool:
        """Say whether layers of so many pixels count."""
        return not self.scales or round(math.sqrt(math.prod(self.shape) / pixels)) in self.scales

    def add(self, shares: Float[torch.Tensor, "n heads pixels words"]) -> None:
        """Take one layer's attention into the mean.

        Raises:
            ConfigError: If its pixels are not of the latents' shape.
        """
        low = self._low(shares.shape[2])
        rows = [one[:, :, own].mean(dim=(0, 2)) for one, own in zip(shares.float(), self.words, strict=True)]
        maps = torch.stack(rows).reshape(-1, 1, *low)
        large = nn.functional.interpolate(maps, self.shape, mode="bilinear", align_corners=False)[:, 0]
        self.total, self.count = self.total.to(large.device) + large, self.count + 1

    def add_near(self, shares: Float[torch.Tensor, "n heads pixels pixels"]) -> None:
        """Take one layer's self-attention into the sum of those of its size."""
        mean = shares.float().mean(dim=1)
        self.near[len(mean[0])] = self.near.get(len(mean[0]), torch.zeros_like(mean)) + mean

    @property
    def maps(self) -> Float[torch.Tensor, "n h w"]:
        """The mean so far, spread."""
        if not self.count:
            raise ConfigError("attention: nothing was recorded; run the U-Net inside `recording`, or allow more scales")
        mean = self.total / self.count
        if not self.near:
            return mean
        finest = max(self.near)
        low, near = self._low(finest), self.near[finest]
        near = near / near.sum(dim=-1, keepdim=True)
        flat = nn.functional.adaptive_avg_pool2d(mean[:, None], low).flatten(1)[..., None].to(near)
        for _ in range(self.spread):
            flat = near @ flat
        small = flat.reshape(-1, 1, *low)
        return nn.functional.interpolate(small, self.shape, mode="bilinear", align_corners=False)[:, 0]

    def _low(self, pixels: int) -> tuple[int, int]:
        """Give the height and width of a layer of so many pixels."""
        scale = math.sqrt(math.prod(self.shape) / pixels)
        low = (math.ceil(self.shape[0] / scale - 1e-6), math.ceil(self.shape[1] / scale - 1e-6))
        if math.prod(low) != pixels:
            raise ConfigError(f"attention: {pixels} pixels are not of the shape of latents {self.shape}")
        return low


@contextmanager
def recording(unet: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Record the attention of a U-Net that runs inside the block.

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
    kinds = {CROSS: _Recorded, SELF: _RecordedSelf} if recorder.spread else {CROSS: _Recorded}
    parts = {
        name: partial(kind, recorder=recorder)
        for end, kind in kinds.items()
        for name, part in unet.named_modules()
        if name.endswith(end) and isinstance(part, Attention)
    }
    with attached(unet, parts):
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
                self.recorder.add(shares(self.original, hidden_states, encoder_hidden_states, len(self.recorder.words)))
        return self.original(hidden_states, encoder_hidden_states=encoder_hidden_states, **rest)


class _RecordedSelf(nn.Module):
    """The same for attention to the picture itself."""

    def __init__(self, original: nn.Module, recorder: Recorder):
        super().__init__()
        self.original, self.recorder = original, recorder

    def forward(self, hidden_states: torch.Tensor, **rest: Any) -> torch.Tensor:
        if hidden_states.shape[1] <= PIXELS:
            with torch.no_grad():
                self.recorder.add_near(shares(self.original, hidden_states, hidden_states, len(self.recorder.words)))
        return self.original(hidden_states, **rest)


def shares(
    attention: Any, x: Float[torch.Tensor, "m pixels _"], asked: Float[torch.Tensor, "m keys _"], n: int
) -> Float[torch.Tensor, "n heads pixels keys"]:
    """Give what an attention's last n rows attend to, as its softmax says.

    >>> attention = Attention(query_dim=8, cross_attention_dim=4, heads=2, dim_head=4)
    >>> found = shares(attention, torch.ones(3, 9, 8), torch.ones(3, 5, 4), n=1)
    >>> found.shape, bool(torch.allclose(found.sum(dim=-1), torch.ones(1)))
    (torch.Size([1, 2, 9, 5]), True)
    """
    query, key = attention.to_q(x)[-n:], attention.to_k(asked)[-n:]  # all rows first: an adapter's are whole blocks
    query, key = (part.unflatten(-1, (attention.heads, -1)).transpose(1, 2).float() for part in (query, key))
    if attention.norm_q is not None:
        query, key = attention.norm_q(query), attention.norm_k(key)
    return (query @ key.mT * attention.scale).softmax(dim=-1)


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
    labels: Any = ndimage.label(found)[0]  # pyright: ignore[reportIndexIssue]
    sizes = np.bincount(labels.ravel())[1:]
    found = np.isin(labels, 1 + np.argsort(-sizes, kind="stable")[:components])
    filled: Any = ndimage.binary_fill_holes(found)
    return ndimage.binary_dilation(filled, np.ones((3, 3)), iterations=grow) if grow else filled
