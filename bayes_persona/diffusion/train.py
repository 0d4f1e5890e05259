"""Gradient training as a kernel: AdamW with warm-up, cool-down and a moving average, for base models and adapters.

A step is a function of its seed, state and batch, so `loop.run` saves, resumes and logs it like any other kernel.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bayes_persona import ranges
from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.types import Info

with needs_extra("diffusion"):
    import torch

Tensors = dict[str, torch.Tensor]
Loss = Callable[[Tensors, Any, torch.Generator], torch.Tensor]
"""Gives the loss of one batch, a number, from named parameters, the batch and a generator for all that is random."""


@dataclass(frozen=True)
class Config:
    """How an optimiser walks.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Config(rate=0.0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: rate: expected a finite number above 0, got 0.0
    """

    rate: float = 1e-3
    """Learning rate after the warm-up."""
    warmup: int = 100
    """Steps over which the rate grows from nothing."""
    cooldown_at: int | None = None
    """Step at which the rate begins to fall to nothing; None keeps it."""
    cooldown: int = 1000
    """Steps over which it falls."""
    decay: float = 0.0
    """AdamW's weight decay."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Memory of gradients and of their squares."""
    clip: float = 1.0
    """Largest norm of a gradient; longer ones are shortened."""
    average: float = 0.0
    """Memory of the moving average of parameters; 0 keeps the last ones only."""
    scale: float = 1.0
    """Multiplies the loss while its gradient is taken, so that what is small is not nothing in half precision."""
    members: bool = False
    """The first axis of every parameter is independent members: each has a gradient norm of its own to be clipped."""

    def __post_init__(self):
        ranges.positive(self, "rate", "clip", "scale")
        ranges.at_least(self, 0, "decay")
        ranges.at_least(self, 1, "warmup", "cooldown")
        ranges.below_one(self, "average")
        if not all(0 <= memory < 1 for memory in self.betas):
            raise ConfigError(f"betas: expected two memories, each 0 to 1 (exclusive), got {self.betas}")

    def rate_at(self, step: int) -> float:
        """Give the learning rate of a step, counted from 0.

        >>> [Config(rate=1.0, warmup=2, cooldown_at=4, cooldown=2).rate_at(t) for t in range(6)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]
        """
        rate = self.rate * min(1.0, (step + 1) / self.warmup)
        if self.cooldown_at is not None:
            rate *= min(1.0, max(0.0, 1 - (step - self.cooldown_at) / self.cooldown))
        return rate


class State(NamedTuple):
    """What the next step needs: parameters, Adam's two moments, the moving average, and the number of steps done.

    >>> start = AdamW({"w": np.ones(2)}, lambda params, batch, noise: params["w"].sum()).init(seed=0)
    >>> start.params["w"].tolist(), start.first["w"].tolist(), int(start.steps)
    ([1.0, 1.0], [0.0, 0.0], 0)
    """

    params: Tensors
    first: Tensors
    second: Tensors
    average: Tensors
    steps: np.ndarray


class AdamW:
    """Minimises a loss over named parameters: a kernel, so `loop.run(AdamW(…), batches, …)` trains.

    Args:
        params: Where to start: named arrays or tensors, or the `State` that another run ended with.
        loss: The loss of one batch.
        config: The optimiser's settings.
        rates: Learning rates over the config's, by parameter; 1 for those that are not named. What has 0 gets no
            gradient.
        after: Gives new values of some parameters after a step on a batch, such as moving averages.
        device: Where parameters live and the loss is computed.

    >>> from bayes_persona.loop import run
    >>> def loss(params, batch, noise):
    ...     return (params["w"] - batch).square().sum()
    >>> kernel = AdamW({"w": np.zeros(2)}, loss, Config(rate=0.1, warmup=1))
    >>> state, log = run(kernel, lambda step: torch.tensor([1.0, 2.0]), steps=200, seed=0)
    >>> state.params["w"].round(decimals=2).tolist()
    [1.0, 2.0]
    """

    def __init__(
        self,
        params: Mapping[str, Any] | State,
        loss: Loss,
        config: Config | None = None,
        *,
        rates: Mapping[str, float] | None = None,
        after: Callable[[Tensors, Any], Tensors] | None = None,
        device: str = "cpu",
    ):
        self.config = Config() if config is None else config
        self.loss = loss
        self.rates = {} if rates is None else rates
        self.after = after
        self.device = device
        self.start = params

    def init(self, seed: int) -> State:
        """Give the start: parameters as they were given, moments zero.

        Raises:
            MismatchError: If members are trained and not every parameter has as many.
        """
        if isinstance(self.start, State):
            return self.start
        params = {
            name: torch.as_tensor(np.array(value) if isinstance(value, np.ndarray) else value).detach().float().cpu()
            for name, value in self.start.items()
        }
        axes = {value.shape[:1] for value in params.values()}
        if self.config.members and (len(axes) != 1 or torch.Size([]) in axes):
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in params.items())
            raise MismatchError(f"params: the first axis should be the same members in all, got {shapes}")
        zeros = {name: torch.zeros_like(value) for name, value in params.items()}
        return State(params, zeros, zeros, params, np.zeros((), int))

    def step(self, seed: int, state: State, batch: Any) -> tuple[State, Info]:
        """Walk one step down the gradient of the batch's loss.

        Raises:
            DataError: If the loss or its gradient is not a number any more.
        """
        names = list(state.params)
        params, first, second, average = ([_tensor(table[name], self.device) for name in names] for table in state[:4])
        rates = [float(self.rates.get(name, 1.0)) for name in names]
        leaves = [value.detach().requires_grad_(rate > 0) for value, rate in zip(params, rates, strict=True)]
        noise = torch.Generator(self.device).manual_seed(seed)
        loss = self.loss(dict(zip(names, leaves, strict=True)), batch, noise)
        if not torch.isfinite(loss):
            raise DataError(f"step {int(state.steps)}: the loss is {loss.item()}; a lower rate may help")
        config, done = self.config, int(state.steps)
        found = iter(torch.autograd.grad(config.scale * loss, [leaf for leaf in leaves if leaf.requires_grad]))
        grads = [next(found) / config.scale if leaf.requires_grad else torch.zeros_like(leaf) for leaf in leaves]
        rate = config.rate_at(done)
        with torch.no_grad():
            norms = _norms(grads, config.members)
            if not torch.isfinite(norms).all():
                raise DataError(f"step {done}: the gradient is not finite; a lower rate or more precision may help")
            shrink = torch.clamp(config.clip / (norms + 1e-12), max=1.0)
            grads = [g * shrink.reshape(-1, *[1] * (g.ndim - 1)) if config.members else g * shrink for g in grads]
            one, two = config.betas
            first = torch._foreach_lerp(first, grads, 1 - one)
            second = torch._foreach_lerp(second, torch._foreach_mul(grads, grads), 1 - two)
            scale = torch._foreach_sqrt(torch._foreach_div(second, 1 - two ** (done + 1)))
            torch._foreach_add_(scale, 1e-8)
            params = torch._foreach_mul(params, [1 - rate * times * config.decay for times in rates])
            torch._foreach_addcdiv_(params, first, scale, [-rate * times / (1 - one ** (done + 1)) for times in rates])
            if self.after is not None:
                table = dict(zip(names, params, strict=True))
                params = list((table | self.after(table, batch)).values())
            # The average forgets its start: early on it looks back over a tenth of the steps so far.
            memory = min(config.average, (done + 1) / (done + 10))
            average = torch._foreach_lerp(average, params, 1 - memory) if config.average else params
        params, first, second, average = (
            dict(zip(names, table, strict=True)) for table in (params, first, second, average)
        )
        info = {"loss": loss.item(), "gradient": norms.mean().item(), "rate": rate}
        return State(params, first, second, average, np.array(done + 1)), info


def _norms(grads: list[torch.Tensor], members: bool) -> torch.Tensor:
    """Give the norm of the whole gradient, or of each member's."""
    parts = [g.reshape(len(g) if members else 1, -1) for g in grads]
    norms = torch.stack([part.square().sum(dim=1) for part in parts]).sum(dim=0).sqrt()
    return norms if members else norms[0]


def _tensor(value: Any, device: str) -> torch.Tensor:
    """Tensors stay where they are between steps; arrays come from a checkpoint."""
    return value.to(device) if isinstance(value, torch.Tensor) else torch.tensor(value, device=device)
