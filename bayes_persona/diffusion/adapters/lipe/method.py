"""Stage 1 of LIPE: the attention of a U-Net learns one person, and beside them anyone in every pose.

L = E ‖ε − ε_θ(z_t, t, c)‖² over the photos + λ E ‖ε′ − ε_θ(z′_t, t, c′)‖² over pictures of anyone: DreamBooth's two
terms (Ruiz et al. 2023), but captions of photos say pose, expression and scene, so that the token need not, and
pictures of anyone are of many poses. What is learned is low-rank, so that a person is a small file, or every number of
the attention layers, as the paper has it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayes_persona import ranges
from bayes_persona.diffusion.adapter import Batch, Subject, denoising_loss, members_of, require_gates
from bayes_persona.diffusion.adapters.lipe.others import Others
from bayes_persona.diffusion.attach import attached
from bayes_persona.diffusion.low_rank import LowRank, gate_of
from bayes_persona.diffusion.text import OfText
from bayes_persona.diffusion.train import Tensors
from bayes_persona.errors import MismatchError, needs_extra
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from torch import nn

CHANGE = "change"
"""Ends the name of every param of a person without rank."""


@dataclass(frozen=True)
class Lipe:
    """The method and its settings: an `Adapter`, for Stable Diffusion 1, 2 and SDXL.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Lipe(Subject("robot"), rank=None).gates[:4]
    ('down.self.query', 'down.self.key', 'down.self.value', 'down.self.out')
    """

    subject: Subject
    """Who is learned; its token is written in letters that the tokenizer knows."""
    others: Others | None = None
    """Pictures of anyone that are learned beside the photos; None learns the photos alone."""
    weight: float = 1.0
    """λ: how much the pictures of anyone count; a photo counts 1."""
    rank: int | None = 8
    """Directions that each projection may change in; None changes every number of it, as the paper does."""
    shut: tuple[str, ...] = ()
    """Gates of parts that are not touched: nothing is learned for them. `mid` is all gates that begin so."""
    scale: float = 1.0
    """How much of the change is made; a knob for generation, which training leaves at 1."""
    method: str = "lipe"

    def __post_init__(self):
        ranges.at_least(self, 0, "weight")
        _ = self._low_rank  # it looks at rank and scale

    @property
    def gates(self) -> tuple[str, ...]:
        """One gate for each third of the U-Net, attention and projection that is learned, such as `mid.cross.value`."""
        return self._low_rank.gates

    @property
    def knobs(self) -> Mapping[str, tuple[float, float]]:
        """How much of the change is made: turn it with `dataclasses.replace(adapter, scale=…)`."""
        return self._low_rank.knobs

    @property
    def rates(self) -> Mapping[str, float]:
        """All is learned at the run's rate."""
        return {}

    def init(self, pipe: DiffusionPipeline, members: int, seed: int) -> Params:
        """Start every member at the base model.

        Raises:
            ConfigError: If the tokenizer does not know a letter of the token.
        """
        start = self._low_rank.init(pipe, members, seed)
        if self.rank is not None:
            return start
        places = dict.fromkeys(name.rpartition(".")[0] for name in start)
        weights = {name: pipe.unet.get_submodule(name).get_parameter("weight") for name in places}
        return {f"{name}.{CHANGE}": np.zeros((members, *at.shape), np.float32) for name, at in weights.items()}

    @contextmanager
    def attached(
        self,
        pipe: DiffusionPipeline,
        params: Mapping[str, Any],
        rows: Int[torch.Tensor, " n"],
        gates: Mapping[str, float] | None = None,
    ) -> Iterator[None]:
        """Put every row's own change beside the projections, for as long as the `with` lasts.

        Raises:
            MismatchError: If the U-Net lacks a projection, or has one of another width.
        """
        if self.rank is not None:
            with self._low_rank.attached(pipe, params, rows, gates):
                yield
            return
        values, parts = require_gates(self, gates), {}
        for name, value in params.items():
            place, _, kind = name.rpartition(".")
            gate = gate_of(place)
            if kind != CHANGE or gate not in values:
                raise MismatchError(f"{name}: not learned by {self.method} without rank; say the rank it has")
            amount = self.scale * values[gate]
            parts[place] = partial(ChangedLinear, change=torch.as_tensor(value), rows=rows, scale=amount)
        with attached(pipe.unet, parts):
            yield

    def loss(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Float[torch.Tensor, " n"]:
        """Give the denoising loss of every row, and λ times that of a picture of anyone beside it.

        Which one is a function of the row's noise, and so of the run's seed; it has the row's noise and time.
        """
        with self.attached(pipe, params, batch.member):
            if self.others is None or not self.weight:
                return denoising_loss(pipe, batch)
            both = self.others.beside(batch)
            own, anyone = denoising_loss(pipe, both).chunk(2)
        return own + self.weight * anyone

    def track(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Tensors:
        """Nothing is learned but by gradient."""
        return {}

    @property
    def _low_rank(self) -> LowRank:
        """What knows the places, gates and knobs; its alpha is its rank, so that scale alone scales."""
        rank = 1 if self.rank is None else self.rank
        return LowRank(self.subject, rank=rank, alpha=rank, shut=self.shut, scale=self.scale)


class ChangedLinear(OfText):
    """A projection and each row's own change of all of it.

    Raises:
        MismatchError: If the change is of another shape than the projection.

    >>> base, change = nn.Linear(3, 2, bias=False), torch.stack([torch.zeros(2, 3), torch.ones(2, 3)])
    >>> wrapped, x = ChangedLinear(base, change, torch.tensor([1, 0]), scale=0.5), torch.ones(2, 4, 3)
    >>> (wrapped(x) - base(x))[:, 0].detach().round(decimals=4).tolist()
    [[1.5, 1.5], [0.0, 0.0]]
    """

    def __init__(
        self,
        base: nn.Module,
        change: Float[torch.Tensor, "k o i"],
        rows: Int[torch.Tensor, " n"],
        scale: float,
    ):
        super().__init__()
        want = tuple(base.get_parameter("weight").shape)
        if tuple(change.shape[1:]) != want:
            raise MismatchError(f"change: {tuple(change.shape[1:])} does not fit a projection {want}; another model's?")
        self.base = base
        self.change = change  # a plain tensor: gradients flow to whoever owns it
        self.rows = rows
        self.scale = scale

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What the output depends on, besides the text."""
        return (*self.base.parameters(), self.change, self.rows)

    def forward(self, x: Float[torch.Tensor, "n t i"]) -> Float[torch.Tensor, "n t o"]:
        """Add to the projection of each row what its own member adds."""
        out = self.base(x)
        change = self.change.to(x.device)[members_of(self.rows, len(x)).to(x.device)]
        return out + (self.scale * (x.to(change.dtype) @ change.mT)).to(out.dtype)
