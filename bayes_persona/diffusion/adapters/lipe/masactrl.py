"""What LIPE is compared with: MasaCtrl (Cao et al., ICCV 2023, arXiv 2304.08465), editing by self-attention to a photo.

The photo and the edit are made side by side. From some step on, in the last layers, the edit's pixels ask the photo's
keys and values instead of their own. With a threshold the subject asks the photo's subject, and the rest its rest.
Nothing is blended. The photo's own latents are taken from the way it was walked back, not made anew.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Bool, Float

from bayes_persona import ranges
from bayes_persona.diffusion import generate
from bayes_persona.diffusion.adapters.lipe import nima
from bayes_persona.diffusion.adapters.lipe.attention import Recorder, mask, positions, recording
from bayes_persona.diffusion.adapters.lipe.sampling import ddim, sample
from bayes_persona.diffusion.attach import attached
from bayes_persona.errors import ConfigError, MismatchError, needs_extra

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.models.attention_processor import Attention
    from torch import nn

SELF = "attn1"
"""What diffusers calls a transformer block's attention to itself."""
BLOCKED = -1e4
"""Added to what should not be attended to."""


@dataclass(frozen=True)
class Config:
    """When and where the edit looks at the photo.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Config().first
    0.625
    """

    start: float = 4 / 50
    """Share of the steps after which it does; the paper's 4 of 50."""
    first: float = 10 / 16
    """Share of the self-attention layers, from the first to the last, that are left alone; the paper's 10 of 16."""
    threshold: float | None = None
    """Where the subject is, by the attention to its words: the paper's 0.1; None does not tell it from the rest."""

    def __post_init__(self):
        ranges.share(self, "start", "first")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ConfigError(f"threshold: expected a share between 0 and 1, or None, got {self.threshold}")


def paint(
    pipe: DiffusionPipeline,
    inverted: nima.Inverted,
    captions: Sequence[str],
    prompts: Sequence[str],
    phrase: str,
    walk: nima.Config,
    config: Config | None = None,
) -> nima.Edited:
    """Edit photos that were walked back by DDIM.

    Args:
        pipe: The base model, with a person attached or without.
        inverted: As `nima.invert` gives it, one photo a prompt.
        captions: What each photo shows.
        prompts: What is wanted.
        phrase: The words for the subject.
        walk: As the photos were inverted with: its steps and guidance are used.
        config: When and where to look at the photo.

    Raises:
        ConfigError: If the photos were not walked back by DDIM.
        MismatchError: If photos, captions and prompts differ in number.

    >>> import numpy as np
    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe, grey = load(), np.full((1, 64, 64, 3), 128, np.uint8)
    >>> quick = nima.Config(steps=2, inversion="ddim")
    >>> inverted = nima.invert(pipe, grey, ["a robot"], "robot", quick)
    >>> paint(pipe, inverted, ["a robot"], ["a happy robot"], "robot", quick).pixels.shape
    (1, 64, 64, 3)
    """
    config, n = Config() if config is None else config, len(prompts)
    if inverted.kept is not None:
        raise ConfigError("inversion: MasaCtrl walks DDIM's way; invert with inversion='ddim'")
    if not len(captions) == n == len(inverted.mask):
        raise MismatchError(f"prompts: {n} for {len(captions)} captions and {len(inverted.mask)} photos")
    both = [*captions, *prompts]
    words = [positions(pipe, text, phrase) for text in both]
    recorder = Recorder(words, (inverted.mask.shape[1], inverted.mask.shape[2]), walk.scales)
    mutual = Mutual(n, recorder if config.threshold is not None else None, config, walk.steps)
    latents = inverted.path[-1]

    def on_step(number: int, made: torch.Tensor) -> torch.Tensor:
        nonlocal latents
        mutual.passed(number)
        latents = made[n:]
        return torch.cat([inverted.path[-2 - number].to(made), latents])

    with ExitStack() as stack:
        stack.enter_context(ddim(pipe))
        if config.threshold is not None:
            stack.enter_context(recording(pipe.unet, recorder))
        stack.enter_context(looking(pipe.unet, mutual))
        start = torch.cat([inverted.path[-1], inverted.path[-1]])
        pixels = sample(pipe, both, start, generate.Config(steps=walk.steps, guidance=walk.guidance), on_step)[n:]
    return nima.Edited(pixels, torch.ones_like(inverted.mask), latents)


class Mutual:
    """Which rows look where, at the step that is being made.

    Args:
        n: Photos; a block of a batch is the photos, then their edits.
        recorder: Tells subjects from the rest, of photos and edits; None does not.
        config: From which step on.
        steps: How many there are.

    >>> mutual = Mutual(1, None, Config(start=0.5), steps=4)
    >>> mutual.passed(1)
    >>> mutual.active
    True
    """

    def __init__(self, n: int, recorder: Recorder | None, config: Config, steps: int):
        self.n, self.recorder, self.config, self.steps = n, recorder, config, steps
        self.masks: Bool[torch.Tensor, "m h w"] | None = None
        self.active = config.start == 0

    def passed(self, number: int) -> None:
        """Say that a step was made."""
        self.active = number + 1 >= round(self.config.start * self.steps)
        if self.recorder is not None and self.config.threshold is not None:
            self.masks = mask(self.recorder.maps, self.config.threshold, components=1, grow=0)

    def within(self, pixels: int) -> Float[torch.Tensor, "m pixels"] | None:
        """Give where the subjects are on a layer of so many pixels."""
        if self.masks is None:
            return None
        height, width = self.masks.shape[1:]
        scale = max(1, round((height * width / pixels) ** 0.5))
        small = nn.functional.adaptive_max_pool2d(self.masks[:, None].float(), (height // scale, width // scale))
        return small.flatten(1)


@contextmanager
def looking(unet: nn.Module, mutual: Mutual) -> Iterator[None]:
    """Let edits look at photos in the last self-attention layers of a U-Net, inside the block.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe, mutual = load(), Mutual(1, None, Config(start=0.0, first=0.0), steps=2)
    >>> photo, edit = torch.zeros(1, 8, 16, 16), torch.ones(1, 8, 16, 16)
    >>> with looking(pipe.unet, mutual), torch.no_grad():
    ...     pair = pipe.unet(torch.cat([photo, edit]), 500, torch.ones(2, 40, 128)).sample
    >>> alone = pipe.unet(photo, 500, torch.ones(1, 40, 128)).sample
    >>> bool(torch.allclose(pair[:1], alone, atol=1e-4))  # the photo looks at itself alone
    True
    """
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}  # as they run; modules are listed otherwise
    names = [name for name, part in unet.named_modules() if name.endswith(SELF) and isinstance(part, Attention)]
    names.sort(key=lambda name: order.get(name.partition(".")[0], 0))
    last = names[round(mutual.config.first * len(names)) :]
    with attached(unet, {name: partial(_Looking, mutual=mutual) for name in last}):
        yield


class _Looking(nn.Module):
    """A self-attention in which rows of edits ask the rows of their photos."""

    def __init__(self, original: nn.Module, mutual: Mutual):
        super().__init__()
        self.original, self.mutual = original, mutual

    def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, **rest: Any) -> torch.Tensor:
        x, n = hidden_states, self.mutual.n
        if not self.mutual.active:
            return self.original(x, encoder_hidden_states=encoder_hidden_states, **rest)
        blocks = x.unflatten(0, (-1, 2 * n))
        asked = torch.cat([blocks[:, :n], blocks[:, :n]], dim=1).flatten(0, 1)
        within = self.mutual.within(x.shape[1])
        if within is None:
            return self.original(x, encoder_hidden_states=asked, **rest)
        photos = torch.cat([within[:n], within[:n]]).to(x).repeat(len(blocks), 1)
        own = within.to(x).repeat(len(blocks), 1)[..., None]
        subject, others = (
            self.original(x, encoder_hidden_states=asked, **{**rest, "attention_mask": BLOCKED * shut[:, None]})
            for shut in (1 - photos, photos)
        )
        return own * subject + (1 - own) * others
