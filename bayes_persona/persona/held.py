"""How a base model is held: where, how exactly, and what is given for memory. Said once, for every command."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Held:
    """Options of every command that takes `--base`.

    >>> Held(dtype="bf16", checkpointing=True).offload
    False
    """

    device: str | None = None
    """Where it computes, such as cuda or cpu; left out, what `accelerate launch` says, or else a GPU if there is one
    and --base is given."""
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """Precision of the base model; what is learned is fp32 all the same. Left out, what `accelerate launch` says, or
    else fp32."""
    checkpointing: bool = False
    """Train with less memory: blocks of the U-Net are computed again for their gradients, which are the same."""
    offload: bool = False
    """Make pictures with less memory of a GPU: networks wait in main memory, each until it is used."""
    hub: bool = False
    """--base is a name on the Hugging Face hub, from where it may be downloaded."""
