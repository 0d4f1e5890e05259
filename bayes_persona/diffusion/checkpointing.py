"""Gradient checkpointing for networks that adapters were attached to: the same gradient, with less to remember.

A checkpointed block is computed again when its gradient is taken. By then the `with` that attached an adapter has
ended, and the network is the base model's again: the gradient would be another one's. So a block remembers what was in
it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from bayes_persona.errors import needs_extra

with needs_extra("diffusion"):
    from torch import nn
    from torch.utils.checkpoint import checkpoint

Held = list[tuple[nn.Module, dict[str, nn.Module | None]]]
"""Modules, and what was in them."""


def enable(net: Any) -> None:
    """Let one of diffusers' networks compute its blocks again when their gradients are taken.

    >>> from diffusers import UNet2DModel
    >>> net = UNet2DModel(8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    >>> enable(net)
    >>> net.is_gradient_checkpointing
    True
    """
    net.enable_gradient_checkpointing(_checkpointed)


def _checkpointed(block: nn.Module, *given: Any) -> Any:
    """Compute a block; what is attached in it now is attached again when it is computed again."""
    held = _held(block)
    contexts = (nullcontext(), _with(held))
    # nothing here draws numbers: networks are in evaluation mode
    return checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts)


def _held(block: nn.Module) -> Held:
    return [(module, dict(module._modules)) for module in block.modules()]


@contextmanager
def _with(held: Held) -> Iterator[None]:
    before = [(module, dict(module._modules)) for module, _ in held]
    _put(held)
    try:
        yield
    finally:
        _put(before)


def _put(held: Held) -> None:
    for module, parts in held:
        module._modules.clear()
        module._modules.update(parts)
