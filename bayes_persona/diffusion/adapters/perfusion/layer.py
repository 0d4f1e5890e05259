"""The gated rank-one edit of a projection of the text, for every row's own concepts (eq. 3 and appendix B)."""

import weakref
from collections.abc import Sequence

from jaxtyping import Float, Int

from bayes_persona.diffusion.adapter import members_of
from bayes_persona.diffusion.text import OfText
from bayes_persona.errors import MismatchError, needs_extra

with needs_extra("diffusion"):
    import torch
    from torch import nn

ALIKE = 1e-4
"""Concepts whose inputs span less than this, of a unit square, cannot be told apart."""


class Inputs:
    """Which tokens are edited: what all layers share, first axis members, second concepts.

    Args:
        input: Target inputs i*.
        direction: C⁻¹ i*, so that C itself is not needed any more.
        rows: Member of each row of a batch, or of a block of it.
        apart: Whether the gates of several concepts open with a token's coordinates among their inputs, so that each
            is shut at the others' words, or, as in appendix B, with its likeness to each input alone.

    Raises:
        MismatchError: If an input has no length, or inputs of two concepts are the same.

    >>> one = Inputs(torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.tensor([0]))
    >>> one.similarity(torch.ones(1, 1, 2)).item()
    1.0
    """

    def __init__(
        self,
        input: Float[torch.Tensor, "k c d"],
        direction: Float[torch.Tensor, "k c d"],
        rows: Int[torch.Tensor, " n"],
        *,
        apart: bool = False,
    ):
        input, direction = input.detach().float(), direction.detach().float()
        gram = input @ direction.mT
        lengths = gram.diagonal(dim1=1, dim2=2)
        if not bool((lengths > 0).all()):
            raise MismatchError("input: a target input has no length in the metric of captions; train it again")
        if input.shape[1] > 1:
            smallest = torch.linalg.eigvalsh(gram / (lengths[:, :, None] * lengths[:, None, :]).sqrt())[:, 0]
            if bool((smallest < ALIKE).any()):
                raise MismatchError("input: two concepts have the same target input; leave one of them out")
        self.input, self.direction, self.rows = input, direction, rows
        self.gram = gram  # G_ab = i*_aᵀ C⁻¹ i*_b
        self.lengths = lengths  # ‖i*‖² in the metric of C⁻¹
        self.apart = apart and input.shape[1] > 1  # of one, both are the same
        self._last: tuple[weakref.ref[torch.Tensor], int, torch.Tensor] | None = None
        self._shared: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def products(self, x: Float[torch.Tensor, "n t d"]) -> Float[torch.Tensor, "n t c"]:
        """Give ⟨i*, e⟩ of every token with the concepts of its row's member.

        All layers read the same text: without gradients what was computed for the first of them is given to the others.
        """
        keeps = not (torch.is_grad_enabled() and x.requires_grad) and not x.is_inference()
        if keeps and self._last is not None and self._last[0]() is x and self._last[1] == x._version:
            return self._last[2]
        direction = self.direction.to(x.device)[members_of(self.rows, len(x)).to(x.device)]
        found = x.to(direction.dtype) @ direction.mT
        self._last = (weakref.ref(x), x._version, found) if keeps else None
        return found

    def similarity(self, x: Float[torch.Tensor, "n t d"]) -> Float[torch.Tensor, "n t c"]:
        """Give s = ⟨i*, e⟩ / ‖i*‖² of each concept, or, apart, G⁻¹ ⟨i*, e⟩: 1 at its own input and 0 at others'.

        >>> two = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
        >>> for apart in (False, True):
        ...     inputs = Inputs(two, two, torch.tensor([0]), apart=apart)
        ...     inputs.similarity(two[:, :1]).tolist()
        [[[1.0, 0.5]]]
        [[[1.0, 0.0]]]
        """
        member = members_of(self.rows, len(x)).to(x.device)
        if self.apart:
            return self.products(x) @ torch.linalg.inv(self.gram).to(x.device)[member]
        return self.products(x) / self.lengths[member][:, None, :]

    def shares(
        self,
        x: Float[torch.Tensor, "n t d"],
        beta: Float[torch.Tensor, " c"],
        tau: Float[torch.Tensor, " c"],
        amount: Float[torch.Tensor, " c"],
    ) -> Float[torch.Tensor, "n t two_c"]:
        """Give how much of each concept's output is put into every token, and how much of its input is taken out.

        Layers with the same gates are given what was computed for the first of them.
        """
        products, gates = self.products(x), torch.stack([beta, tau, amount])
        if self._shared is not None and self._shared[0] is products and torch.equal(self._shared[1], gates):
            return self._shared[2]
        found = torch.cat([amount * torch.sigmoid((self.similarity(x) - beta) / tau), -products], dim=-1)
        keeps = self._last is not None and self._last[2] is products and not found.requires_grad
        self._shared = (products, gates, found) if keeps else None
        return found


class RankOneLinear(OfText):
    """A projection W of the text in which each concept's part of a token is replaced by the concept's own output.

    h(e) = W(e − Σ_jk i*_j G⁻¹_jk ⟨i*_k, e⟩) + Σ_j σ((s_j(e) − β_j) / τ_j) o*_j: with one concept eq. 3, with several
    the exact projection of appendix B, whatever the angles between them.

    Args:
        base: W, without a bias.
        inputs: Which tokens.
        output: Target outputs o*, (members, concepts, outputs).
        beta: Where each concept's gate is half open, (concepts,).
        tau: How softly it opens, (concepts,).
        amount: How much of each concept's edit is made, (concepts,); None is all.
        reads: Which columns of the text are read, where it holds two encodings side by side; None is all.

    Raises:
        MismatchError: If inputs or outputs do not fit W.

    >>> base, i = nn.Linear(2, 3, bias=False), torch.tensor([[[1.0, 0.0]]])
    >>> inputs, half, sharp = Inputs(i, i, torch.tensor([0])), torch.tensor([0.5]), torch.tensor([0.01])
    >>> layer = RankOneLinear(base, inputs, torch.ones(1, 1, 3), half, sharp)
    >>> layer(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])).detach().round(decimals=3).tolist()  # the concept, and nothing
    [[[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]
    """

    def __init__(
        self,
        base: nn.Module,
        inputs: Inputs,
        output: torch.Tensor,
        beta: Float[torch.Tensor, " c"],
        tau: Float[torch.Tensor, " c"],
        *,
        amount: Float[torch.Tensor, " c"] | None = None,
        reads: Sequence[slice] | None = None,
    ):
        super().__init__()
        weight = base.get_parameter("weight")
        have, want = (output.shape[-1], inputs.input.shape[-1]), tuple(weight.shape)
        if have != want or output.shape[:2] != inputs.input.shape[:2]:
            raise MismatchError(f"output: {have} do not fit a projection {want}; was it made for another model?")
        self.base = base
        self.inputs = inputs
        self.output = output  # a plain tensor: gradients flow to whoever owns it
        self.beta, self.tau = beta, tau
        self.amount = torch.ones_like(beta) if amount is None else amount
        self.reads = reads
        with torch.no_grad():  # G⁻¹ (W i*), the same for every text
            taken = torch.linalg.inv(inputs.gram) * self.amount
            self.taken = taken @ (inputs.input @ weight.float().mT)
            self.shut = not bool(self.amount.any())
        self._kept: tuple[tuple[int, int, torch.device], torch.Tensor] | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What the output depends on, besides the text."""
        own = (self.output, self.taken, self.beta, self.tau, self.amount)
        return (self.base.get_parameter("weight"), *own, self.inputs.input, self.inputs.direction, self.inputs.rows)

    def forward(self, x: Float[torch.Tensor, "n t _"]) -> Float[torch.Tensor, "n t o"]:
        """Project every token, with the edit of its row's member."""
        if self.reads is not None:
            x = torch.cat([x[..., part] for part in self.reads], dim=-1)
        out = self.base(x)
        if self.shut:
            return out
        shares = self.inputs.shares(x, self.beta, self.tau, self.amount)
        # what is put in and what is taken out in one product, added to the projection where it is
        table = self._table(x)
        if out.dtype == torch.float32:
            return out.baddbmm_(shares, table)
        return torch.baddbmm(out.float(), shares, table).to(out.dtype)

    def _table(self, x: torch.Tensor) -> torch.Tensor:
        """Give what each row puts in and takes out; without gradients it is kept for the next text of as many rows."""
        if self.output.requires_grad or self.output.is_inference():
            kept = None
        else:
            kept = (self.output._version, len(x), x.device)
        if kept is None or self._kept is None or self._kept[0] != kept:
            member = members_of(self.inputs.rows, len(x)).to(x.device)
            table = torch.cat([self.output.float(), self.taken], dim=1)[member]
            if kept is None:
                return table
            self._kept = (kept, table)
        return self._kept[1]
