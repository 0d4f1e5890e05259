"""A base model, loaded as a command was told to hold it, or as `accelerate launch` was told before."""

import os
from pathlib import Path

from bayes_persona.diffusion import pipelines
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.persona.held import Held

with needs_extra("diffusion"):
    import torch
    from accelerate import PartialState
    from diffusers import DiffusionPipeline

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions by the names that accelerate has for them."""
PRECISION = "ACCELERATE_MIXED_PRECISION"
"""What `accelerate launch` sets in the environment of all that it starts."""


def opened(base: Path | None, held: Held) -> DiffusionPipeline:
    """Load a base model.

    Args:
        base: Its folder, or its name on the hub; None is the embedded model.
        held: How.

    Raises:
        ConfigError: If it cannot be held so, or one of several processes asks.
        DataError: If the folder holds no such model.
        RunError: If it is absent or damaged.

    >>> opened(None, Held(dtype="bf16")).unet.dtype
    torch.bfloat16
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "num_processes: one process learns all members of a person in one pass; launch one for each person, "
            "with --num_processes 1 and another --out"
        )
    if held.hub and base is None:
        raise ConfigError("hub: say which model, with --base NAME")
    return pipelines.load(
        base,
        device=_device(base) if held.device is None else held.device,
        dtype=DTYPES[_precision() if held.dtype is None else held.dtype],
        hub=held.hub,
        checkpointing=held.checkpointing,
        offload=held.offload,
    )


def _device(base: Path | None) -> str:
    if PRECISION in os.environ:
        return str(PartialState().device)
    return "cuda" if base is not None and torch.cuda.is_available() else "cpu"


def _precision() -> str:
    said = os.environ.get(PRECISION, "no")
    if said not in ("no", *DTYPES):
        raise ConfigError(f"mixed_precision: accelerate was told {said}; a model is held in {', '.join(DTYPES)}")
    return "fp32" if said == "no" else said
