"""The torch learner: weighted fine-tuning of any `nn.Module` with a named linear head.

Every fit and prediction works on its own deep copy of the net. `torch.func.functional_call` swaps parameters inside the
module it is given, so two threads that share a module give wrong numbers; a copy each makes all engines equal.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.named import require_like
from bayes_persona.types import Data, Params

with needs_extra("torch"):
    import torch
    from torch import nn


@dataclass(frozen=True)
class Config:
    """How a net is fitted: stochastic gradient descent with Nesterov momentum and a cosine to zero.

    >>> Config(steps=100).lr
    0.02
    """

    steps: int = 300
    """Gradient steps of one fit."""
    batch: int = 64
    """Examples a step; all of them, if there are fewer."""
    lr: float = 0.02
    """Learning rate at the start of the cosine."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 0.0
    """Pull of every parameter towards zero. The posterior bootstrap has none; comparisons use the same for all."""
    device: str = "cpu"
    """Where the net is fitted: cpu, cuda, cuda:1 …"""

    def __post_init__(self):
        for name in ("steps", "batch", "lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum: expected 0 to 1 (exclusive), got {self.momentum}")


class TorchLearner:
    """Fine-tunes copies of one pretrained net.

    Particles hold the whole `state_dict`, buffers included: with BatchNorm each draw keeps its own statistics.

    Args:
        net: The pretrained net; it is copied here and never touched.
        config: How to fit.
        head: Dotted name of the final `nn.Linear`, whose inputs are the features.

    Raises:
        ConfigError: If there is no such head, or it is not linear; the message lists the linear layers there are.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> learner = TorchLearner(net, head="2")
    >>> learner.predict(learner.params, np.zeros((5, 4), np.float32)).shape
    (5, 3)
    """

    def __init__(self, net: nn.Module, config: Config | None = None, *, head: str):
        linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
        if head not in linear:
            there = ", ".join(linear) or "none"
            raise ConfigError(f"head: {head!r} is not a linear layer of this net; there are: {there}")
        if net.get_submodule(head).bias is None:
            raise ConfigError(f"head: {head!r} has no bias, which a probe needs; give the net a head with one")
        self.config = Config() if config is None else config
        self.head = head
        self._net = copy.deepcopy(net)

    @property
    def params(self) -> Params:
        """The pretrained params, as copies."""
        return _numpy(self._net)

    def fit(self, params: Params, data: Data, seed: int) -> Params:
        """Minimise (1/n) Σ_i s_i CE(t_i, f(x_i)) from `params`; the order of the examples comes from `seed`.

        Raises:
            MismatchError: If `params` are not this net's, or the net cannot take `x`, or gives other outputs than `y`.
            DataError: If the loss stops being finite.
        """
        config = self.config
        x, y, weights = (self._tensor(array) for array in data)
        net = self._load(params)
        outputs = self._batched(net, data.x[:1]).shape[1:]
        if outputs != y.shape[1:]:
            raise MismatchError(f"y: the net has {outputs.numel()} outputs, the labels {y.shape[1]} classes")
        net.train()
        optimizer = torch.optim.SGD(
            net.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=config.momentum > 0
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
        rows = _batches(len(y), config, seed)
        # Layers like dropout know no generator but the global one: give them ours, and give the caller's back.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for step in range(config.steps):
                row = torch.as_tensor(rows[step], device=config.device)
                logits = net(x[row])
                losses = nn.functional.cross_entropy(logits, y[row], reduction="none")
                loss = (weights[row] * losses).mean()
                if not torch.isfinite(loss):
                    raise DataError(f"fit: loss {loss.item()} at step {step}; lower lr ({config.lr}) or check x")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return _numpy(net)

    def predict(self, params: Params, x: Any) -> Float[np.ndarray, "n k"]:
        """Give softmax probabilities, a thousand rows at a time.

        Raises:
            MismatchError: If `params` are not this net's, or the net cannot take `x`.
        """
        logits = self._batched(self._load(params), x)
        return torch.softmax(logits.double(), dim=1).numpy()

    def features(self, params: Params, x: Any) -> Float[np.ndarray, "n d"]:
        """Give what the head is fed with."""
        net = self._load(params)
        caught: list[torch.Tensor] = []
        net.get_submodule(self.head).register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0].cpu()))
        self._batched(net, x)
        return torch.cat(caught).double().numpy()

    def with_head(self, params: Params, weight: Float[np.ndarray, "k d"], bias: Float[np.ndarray, " k"]) -> Params:
        """Give the params with another head, in the net's own precision.

        Raises:
            MismatchError: If the head is of another shape.
        """
        head = {f"{self.head}.weight": weight, f"{self.head}.bias": bias}
        head = {name: array.astype(params[name].dtype) for name, array in head.items() if name in params}
        require_like(head, {name: params[name] for name in head}, "head")
        return {**params, **head}

    def _load(self, params: Params) -> nn.Module:
        require_like(params, _numpy(self._net), "params")
        net = copy.deepcopy(self._net)
        # A copy of each array: torch would share the memory, and training would write into the caller's params.
        net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in params.items()})
        return net.to(self.config.device).eval()

    def _tensor(self, array: Any) -> torch.Tensor:
        tensor = torch.as_tensor(array, device=self.config.device)
        return tensor.float() if tensor.dtype == torch.float64 else tensor

    @torch.no_grad()
    def _batched(self, net: nn.Module, x: Any) -> torch.Tensor:
        if len(x) == 0:
            raise DataError("x: there is no example to predict")
        try:
            return torch.cat([net(self._tensor(x[start : start + 1000])).cpu() for start in range(0, len(x), 1000)])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise MismatchError(f"x: the net fails on examples of shape {np.shape(x)[1:]}: {error}") from error


def _numpy(net: nn.Module) -> Params:
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in net.state_dict().items()}


def _batches(n: int, config: Config, seed: int) -> np.ndarray:
    """Give the rows of every step, (steps, batch): whole passes in random order, one after another."""
    batch = min(config.batch, n)
    rng = np.random.default_rng(seed)
    passes = -(-config.steps * batch // n)
    order = np.concatenate([rng.permutation(n) for _ in range(passes)])
    return order[: config.steps * batch].reshape(config.steps, batch)
