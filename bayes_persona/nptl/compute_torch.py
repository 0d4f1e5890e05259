"""Where and how precisely torch computes: arrays in, arrays out, a chunk of examples at a time."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.nptl import net_torch
from bayes_persona.nptl.data import count, take

with needs_extra("torch"):
    import torch
    from torch import nn

CHUNK = 1000
"""Examples that are computed at a time."""


@dataclass(frozen=True)
class Compute:
    """A device and the precision of its arithmetic.

    >>> Compute().outputs(nn.Linear(4, 3), np.zeros((5, 4))).shape
    torch.Size([5, 3])
    """

    device: str = "cpu"
    """cpu, cuda, cuda:1 …"""
    precision: str = "float32"
    """float32 or bfloat16."""

    def placed(self, net: nn.Module) -> nn.Module:
        """Give a copy of a net on the device, wherever its parts were, in its mood of prediction.

        Raises:
            ConfigError: If there is no such device, or a part holds no numbers yet.

        >>> Compute().placed(nn.Linear(1, 1)).training
        False
        """
        for name, part in (*net.named_parameters(), *net.named_buffers()):
            if part.is_meta:
                raise ConfigError(f"net: {name} is on the meta device, which holds no numbers; load its weights first")
        try:
            return copy.deepcopy(net).to(self.device).eval()
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device: {self.device!r} is not to be had here: {error}") from error

    def tensors(self, x: Any) -> Any:
        """Give arrays (or a dict of them) as tensors on the device, in single precision if in double."""
        if isinstance(x, Mapping):
            return {name: self.tensors(part) for name, part in x.items()}
        tensor = torch.as_tensor(x, device=self.device)
        return tensor.float() if tensor.dtype == torch.float64 else tensor

    def arithmetic(self) -> torch.autocast:
        """Give the context in which nets compute."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bfloat16")

    @torch.no_grad()
    def outputs(self, net: nn.Module, x: Any) -> torch.Tensor:
        """Give the outputs (n, k) of all examples, on the CPU.

        Raises:
            DataError: If there is no example.
            MismatchError: If the net cannot take them.
        """
        if count(x) == 0:
            raise DataError("x: there is no example to predict")
        parts = (slice(start, start + CHUNK) for start in range(0, count(x), CHUNK))
        try:
            with self.arithmetic():
                return torch.cat([net_torch.outputs(net, self.tensors(take(x, part))).float().cpu() for part in parts])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise MismatchError(f"x: the net fails on examples of shape {_shape(x)}: {error}") from error

    def features(self, net: nn.Module, head: str, x: Any) -> Float[np.ndarray, "n d"]:
        """Give what the head is fed with.

        Raises:
            ConfigError: If the head's outputs are not the net's.
        """
        fed: list[torch.Tensor] = []
        given: list[torch.Tensor] = []

        def catch(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            fed.append(inputs[0].detach().cpu())
            given.append(output.detach().float().cpu())

        hook = net_torch.linear(net, head).register_forward_hook(catch)
        outputs = self.outputs(net, x)
        hook.remove()
        if not given or not torch.equal(torch.cat(given), outputs):
            raise ConfigError(f"head: the outputs of {head!r} are not the net's; name its final linear layer")
        return torch.cat(fed).double().numpy()


@contextmanager
def own_randomness(device: str, seed: int) -> Iterator[None]:
    """Seed torch's global generators, and give the caller's states back.

    >>> with own_randomness("cpu", 0): first = torch.rand(1)
    >>> with own_randomness("cpu", 0): print(bool(first == torch.rand(1)))
    True
    """
    with torch.random.fork_rng(devices=[] if device == "cpu" else [device]):
        torch.manual_seed(seed)
        yield


def _shape(x: Any) -> Any:
    return {name: np.shape(part)[1:] for name, part in x.items()} if isinstance(x, Mapping) else np.shape(x)[1:]
