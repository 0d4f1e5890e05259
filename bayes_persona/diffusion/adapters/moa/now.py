"""What all layers share while a U-Net runs: the time, which word of the text is which subject, and who is in which row.

Prompts name a subject by a word of its own behind the noun, `a robot <me>`. The text encoder never sees that word, so
the prior reads `a robot`; where the noun stands is written in extra columns beside the text's own, so that it goes
through guidance, repeats and whatever else a pipeline does to the text. They are taken off before the U-Net reads it.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float, Int

from bayes_persona.diffusion.adapter import members_of
from bayes_persona.diffusion.text import encoders
from bayes_persona.errors import ConfigError, MismatchError, needs_extra

with needs_extra("diffusion"):
    import torch
    from torch import nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class Now:
    """The pass of a U-Net that is going on.

    Args:
        features: What is known of every subject, first axis members.
        rows: Member of each row of a batch, or of a block of it.
        times: Training steps of the noise schedule.
        delay: Share of them, from pure noise on, in which the prior works alone.
        everywhere: Rows without a subject go through the mixture, too.
        attention: Keep the personalized attention to the subjects' words, for the loss.

    >>> now = Now(torch.zeros(1, 1, 4), torch.tensor([0]), times=1000)
    >>> text = torch.zeros(2, 5, 3 + 1)
    >>> text[1, 2, 3] = 1.0  # in the second row the third word is the subject
    >>> now.enter(torch.zeros(2, 4, 8, 8), torch.tensor(500), text, width=3).shape
    torch.Size([2, 5, 3])
    >>> now.active.tolist()
    [1]
    """

    def __init__(
        self,
        features: Float[torch.Tensor, "k s d"],
        rows: Int[torch.Tensor, " n"],
        times: int,
        *,
        delay: float = 0.0,
        everywhere: bool = False,
        attention: bool = False,
    ):
        self.features, self.rows = features, rows
        self.last = (1 - delay) * times
        self.everywhere, self.attention = everywhere, attention
        self.active: Int[torch.Tensor, " m"] = rows[:0]
        """Rows that go through the mixture; the others are the prior's."""
        self.all_active = False
        self.time: Float[torch.Tensor, " n"] = rows[:0].float()
        self.size = (1, 1)
        self.marks: Float[torch.Tensor, "n words s"] | None = None
        self.routed: dict[str, Float[torch.Tensor, "m pixels"]] = {}
        """Share of the expert in each pixel of the active rows, by layer, of the last pass."""
        self.attended: dict[str, Float[torch.Tensor, "m pixels s"]] = {}
        """Personalized attention to each subject's word, mean over heads, by layer."""
        self._narrow: tuple[weakref.ref[torch.Tensor], int, torch.Tensor] | None = None

    def enter(
        self, latents: torch.Tensor, time: Any, text: torch.Tensor, width: int
    ) -> Float[torch.Tensor, "n words width"]:
        """Look at what a U-Net is given, and give the text that it should read.

        Raises:
            MismatchError: If the text is of another width, or the batch not whole blocks of rows.
        """
        subjects = self.features.shape[1]
        if text.shape[-1] not in (width, width + subjects):
            raise MismatchError(
                f"text: is {text.shape[-1]} wide, this model's {width}; was it encoded for another one?"
            )
        members_of(self.rows, len(latents))
        self.size = (latents.shape[-2], latents.shape[-1])
        self.time = torch.as_tensor(time, device=latents.device).float().expand(len(latents))
        self.marks = text[..., width:] if text.shape[-1] > width else None
        marked = torch.zeros(len(latents), dtype=torch.bool, device=latents.device)
        if self.everywhere:
            marked = ~marked
        elif self.marks is not None:
            marked = self.marks.flatten(1).any(dim=1)
        self.active = (marked & (self.time < self.last)).nonzero()[:, 0]
        self.all_active = len(self.active) == len(latents)
        self.routed, self.attended = {}, {}
        return self.plain(text, width)

    def plain(self, text: torch.Tensor, width: int) -> Float[torch.Tensor, "n words width"]:
        """Give the text without what is beside it: the same tensor for the same text, to be remembered by."""
        if text.shape[-1] == width:
            return text
        if self._narrow is not None and self._narrow[0]() is text and self._narrow[1] == text._version:
            return self._narrow[2]
        narrow = text[..., :width].contiguous()
        keeps = not (torch.is_grad_enabled() and text.requires_grad) and not text.is_inference()
        self._narrow = (weakref.ref(text), text._version, narrow) if keeps else None
        return narrow

    def pick(self, tensor: torch.Tensor) -> torch.Tensor:
        """Give the active rows.

        >>> now = Now(torch.zeros(1, 1, 4), torch.tensor([0]), times=1000)
        >>> now.pick(torch.zeros(3, 2)).shape
        torch.Size([0, 2])
        """
        return tensor if self.all_active else tensor[self.active]

    def who(self) -> Float[torch.Tensor, "m s d"]:
        """Give the features of the subjects in the active rows.

        >>> now = Now(torch.arange(2.0)[:, None, None], torch.tensor([1, 0]), times=1000, everywhere=True)
        >>> _ = now.enter(torch.zeros(2, 4, 8, 8), 1, torch.zeros(2, 5, 3), width=3)
        >>> now.who().flatten().tolist()
        [1.0, 0.0]
        """
        member = members_of(self.rows.to(self.active.device), len(self.time))
        return self.features[self.pick(member)]


@contextmanager
def told(pipe: Any, now: Now, first: int) -> Iterator[None]:
    """Tell layers what goes on, inside the block: text encoders, U-Net and ControlNet of a pipeline are listened to.

    Args:
        pipe: Whose.
        now: Where it is written.
        first: The first id of the subjects' words, which the text encoder does not see.

    Raises:
        ConfigError: When a prompt is encoded in which such a word has no noun before it.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe = load()
    >>> start, a, end = pipe.tokenizer("a").input_ids
    >>> with told(pipe, Now(torch.zeros(1, 1, 4), torch.tensor([0]), times=1000), first=len(pipe.tokenizer)):
    ...     states = pipe.text_encoder(torch.tensor([[start, a, len(pipe.tokenizer), end]]))[0]
    >>> states.shape[-1] - pipe.text_encoder.config.hidden_size, states[0, :, -1].tolist()
    (1, [0.0, 1.0, 0.0, 0.0])
    """
    width, subjects = pipe.unet.config.cross_attention_dim, now.features.shape[1]
    readers, marks = encoders(pipe), []
    fills = [words.pad_token_id for words in (pipe.tokenizer, getattr(pipe, "tokenizer_2", None)) if words is not None]

    def read(net: nn.Module, args: tuple, kwargs: dict) -> Inputs:
        ids, put = _argument(args, kwargs, 0, "input_ids")
        plain, found = unmarked(ids, first, subjects, fills[readers.index(net)])
        marks[:] = [found]
        return put(plain)

    def write(net: nn.Module, args: tuple, output: Any) -> Any:
        return _widened(output, marks.pop())

    def enter(net: nn.Module, args: tuple, kwargs: dict) -> Inputs:
        text, put = _argument(args, kwargs, 2, "encoder_hidden_states")
        latents, time = _argument(args, kwargs, 0, "sample")[0], _argument(args, kwargs, 1, "timestep")[0]
        return put(now.enter(latents, time, text, width))

    def narrow(net: nn.Module, args: tuple, kwargs: dict) -> Inputs:
        text, put = _argument(args, kwargs, 2, "encoder_hidden_states")
        return put(now.plain(text, width))

    hooks = [*((net, read) for net in readers), (pipe.unet, enter), (getattr(pipe, "controlnet", None), narrow)]
    with ExitStack() as stack:
        for net, hook in hooks:
            if net is not None:
                stack.callback(net.register_forward_pre_hook(hook, with_kwargs=True).remove)
        # SDXL puts its second encoder's states behind its first one's: marks stand at the end of both
        stack.callback(readers[-1].register_forward_hook(write).remove)
        yield


def unmarked(
    ids: Int[torch.Tensor, "n words"], first: int, subjects: int, pad: int
) -> tuple[Int[torch.Tensor, "n words"], Float[torch.Tensor, "n words s"]]:
    """Take the subjects' words out of a text, and give the token before each: the noun.

    Args:
        ids: Tokens.
        first: Id of the first subject's word; the others follow.
        subjects: How many there are.
        pad: What the end is filled with.

    Raises:
        ConfigError: If a subject's word comes first, or behind another's, or is not of these.

    >>> plain, marks = unmarked(torch.tensor([[1, 5, 9, 2]]), first=9, subjects=1, pad=0)
    >>> plain.tolist(), marks[..., 0].tolist()
    ([[1, 5, 2, 0]], [[0.0, 1.0, 0.0, 0.0]])
    """
    marks = torch.zeros(*ids.shape, subjects, device=ids.device)
    if not bool((ids >= first).any()):
        return ids, marks
    plain = torch.full_like(ids, pad)
    for row, line in enumerate(ids.tolist()):
        kept: list[int] = []
        before = -1
        for token in line:
            if token < first:
                kept.append(token)
            elif token - first >= subjects or len(kept) < 2 or before >= first:
                raise ConfigError("prompt: a subject's word stands behind its noun, as in: a robot <me>")
            else:
                marks[row, len(kept) - 1, token - first] = 1
            before = token
        plain[row, : len(kept)] = torch.tensor(kept, device=ids.device)
    return plain, marks


def require_tokens(prompts: Sequence[str], tokens: Sequence[str]) -> None:
    """Check that every prompt speaks of every subject.

    Raises:
        ConfigError: If one is not mentioned.

    >>> require_tokens(["a robot at night"], ["<me>"])
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: prompt: 'a robot at night' does not say who is <me>; write it behind the noun
    """
    for prompt in prompts:
        for token in tokens:
            if token not in prompt.split():
                raise ConfigError(f"prompt: {prompt!r} does not say who is {token}; write it behind the noun")


def _argument(args: tuple, kwargs: dict, place: int, name: str) -> tuple[Any, Any]:
    """Give an argument, and a function that puts another in its place."""
    if len(args) > place:
        return args[place], lambda new: ((*args[:place], new, *args[place + 1 :]), kwargs)
    return kwargs[name], lambda new: (args, {**kwargs, name: new})


def _widened(output: Any, marks: torch.Tensor) -> Any:
    if isinstance(output, torch.Tensor):
        return torch.cat([output, marks.to(output)], dim=-1) if output.ndim == 3 else output
    if isinstance(output, dict):  # as transformers' outputs are
        return type(output)(**{name: _widened(part, marks) for name, part in output.items()})
    return tuple(_widened(part, marks) for part in output)
