"""The torch learner: weighted fine-tuning of any `nn.Module`, one copy or many in one pass.

Every fit and prediction works on its own deep copy of the net. `torch.func.functional_call` swaps parameters inside the
module it is given, so two threads that share a module give wrong numbers; a copy each makes all engines equal.

Many fits in one pass are the same loop on parameters with a leading axis of members: each has its own order of
examples, labels and weights, and descends on its own sum, so member k is what it would be alone, but for rounding.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.named import fingerprint, require_like
from bayes_persona.nptl import likelihood as likelihoods
from bayes_persona.nptl import net_torch
from bayes_persona.nptl.compute_torch import Compute, own_randomness
from bayes_persona.nptl.data import take
from bayes_persona.nptl.descent import Descent
from bayes_persona.nptl.likelihood import NOISE, Likelihood
from bayes_persona.nptl.method import Fit
from bayes_persona.nptl.net_torch import Tensors
from bayes_persona.types import Data, Params

with needs_extra("torch"):
    import torch
    from torch import nn
    from torch.func import vmap
    from torch.nn import functional
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

Objective = Callable[[Tensors, np.ndarray], torch.Tensor]
"""The mean weighted loss of the examples in some rows, as a function of the parameters."""
CHEAP = 3e7
"""Floating-point operations of one member's forward pass of a batch below which one pass for all members was faster on
two CPU threads (rows `nptl.together.*`): small nets spend their time between kernels, large ones inside."""


@dataclass(frozen=True)
class Config(Descent):
    """How a net is fitted.

    >>> Config(steps=100).lr
    0.02
    """

    batch_norm: Literal["frozen", "learned"] = "frozen"
    """What BatchNorm normalises with: the pretrained statistics, or every batch's own (which knows no weights), whose
    running averages then belong to the particle. Scale and shift are parameters like others in either case."""
    head_dropout: float = 0.0
    """Share of the head's inputs that are dropped in training."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the net's arithmetic; losses and parameters stay in float32."""
    device: str = "cpu"
    """Where the net is fitted: cpu, cuda, cuda:1 …"""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.head_dropout < 1:
            raise ConfigError(f"head_dropout: expected 0 to 1 (exclusive), got {self.head_dropout}")
        for name, among in (("batch_norm", ("frozen", "learned")), ("precision", ("float32", "bfloat16"))):
            if getattr(self, name) not in among:
                raise ConfigError(f"{name}: expected one of {', '.join(among)}, got {getattr(self, name)!r}")


class TorchLearner:
    """Fine-tunes copies of one pretrained net, or of some of its parameters.

    Particles hold what training changes and nothing else: the parameters that are trained and, where BatchNorm learns,
    its running statistics. Parameters whose `requires_grad` is off stay as they are, so a net prepared with PEFT (LoRA)
    or frozen by hand is taken as it is meant.

    Args:
        net: The pretrained net; it is copied here, to the device of the config, and never touched. It takes a tensor,
            or (transformers) the entries of a dict as keywords, and gives outputs (n, k), or an object that has them as
            `logits`.
        config: How to fit.
        head: Dotted name of the final `nn.Linear`, whose inputs are the features; None takes the net's last one.
        likelihood: What the outputs mean: `"categorical"`, `"bernoulli"` (multi-label) or `"gaussian"` (regression).
        trainable: Which parameters to train, as patterns of their dotted names: `("layer4.*", "fc.*")`, `("*norm*",)`.

    Raises:
        ConfigError: If there is no such head, or it is not linear (the message lists the linear layers there are), or
            nothing is left to train; or if there is no such device, or a part of the net holds no numbers yet.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> learner = TorchLearner(net, trainable=("2.*",))
    >>> learner.head, sorted(learner.params)
    ('2', ['2.bias', '2.weight'])
    >>> learner.predict(learner.params, np.zeros((5, 4), np.float32)).shape
    (5, 3)
    """

    def __init__(
        self,
        net: nn.Module,
        config: Config | None = None,
        *,
        head: str | None = None,
        likelihood: Likelihood = "categorical",
        trainable: Sequence[str] = ("*",),
    ):
        likelihoods.require(likelihood)
        self.config = Config() if config is None else config
        self.likelihood: Likelihood = likelihood
        self.head = net_torch.find_head(net, head)
        self._compute = Compute(self.config.device, self.config.precision)
        self._net = self._compute.placed(net)
        named = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
        self._trained = tuple(name for name in named if any(fnmatch(name, pattern) for pattern in trainable))
        if not self._trained:
            first = ", ".join(named[:5]) or "none: requires_grad is off everywhere"
            raise ConfigError(f"trainable: no parameter is left to train by {tuple(trainable)}; there are {first} …")
        self._buffers = tuple(net_torch.running_statistics(net)) if self.config.batch_norm == "learned" else ()
        self._pretrained = self._pick(self._net)

    @property
    def params(self) -> Params:
        """The pretrained params, as copies. Fits with the gaussian likelihood add its noise variance to them."""
        return _numpy(self._pretrained)

    @property
    def head_weight(self) -> str:
        """The name of the head's weight among the params."""
        return net_torch.head_names(self.head)[0]

    @property
    def head_bias(self) -> str:
        """The name of the head's bias among the params."""
        return net_torch.head_names(self.head)[1]

    @property
    def settings(self) -> dict[str, Any]:
        """What a run folder remembers, so that it is never resumed with another learner."""
        frozen = {name: value for name, value in self._net.state_dict().items() if name not in self._trained}
        return {
            **asdict(self.config),
            "likelihood": self.likelihood,
            "net": fingerprint({"layers": np.frombuffer(repr(self._net).encode(), np.uint8)}),
            "trained": list(self._trained),
            "frozen": fingerprint(_numpy(frozen)),
        }

    def with_config(self, **changes: Any) -> "TorchLearner":
        """Give the same learner with some settings changed.

        >>> TorchLearner(nn.Linear(1, 2)).with_config(lr=0.1).config.lr
        0.1
        """
        config = replace(self.config, **changes)
        return TorchLearner(self._net, config, head=self.head, likelihood=self.likelihood, trainable=self._trained)

    def fit(self, params: Params, data: Data, seed: int) -> Params:
        """Minimise (1/n) Σ_i s_i ℓ(t_i, f(x_i)) from `params`; the order of the examples comes from `seed`.

        Raises:
            MismatchError: If `params` are not this net's, or the net cannot take `x`, or gives other outputs than `y`.
            DataError: If the loss stops being finite.
        """
        net, moving, objective = self.objective(params, data)
        rows = self.config.rows(len(data.y), seed)
        # Layers like dropout know no generator but the global one: give them ours, and give the caller's back.
        with own_randomness(self.config.device, seed):
            lasted = int(self._descend(moving, self._pretrained, lambda step: objective(moving, rows[step])[None]))
        if lasted < self.config.steps:
            raise self._diverged(lasted)
        return self._finished(_numpy({**self._pick(net), **moving}), data)

    def objective(self, params: Params, data: Data) -> tuple[nn.Module, Tensors, Objective]:
        """Give what fits minimise, for samplers of one's own.

        Args:
            params: Where to start.
            data: The weighted examples.

        Returns:
            A copy of the net in its training mood; the parameters that move, as leaves; and the mean weighted loss of
            some examples as a differentiable function of such parameters and the examples' rows.

        Raises:
            MismatchError: If `params` are not this net's, or the net cannot take `x`, or gives other outputs than `y`.

        >>> learner = TorchLearner(nn.Linear(1, 2))
        >>> data = Data(np.zeros((4, 1), np.float32), np.eye(2)[[0, 1, 1, 0]], np.ones(4))
        >>> _, moving, loss = learner.objective({name: 0 * array for name, array in learner.params.items()}, data)
        >>> round(loss(moving, np.arange(4)).item(), 4)  # log 2
        0.6931
        """
        net = self._load(params)
        self._require_outputs(net, data)
        net_torch.training(net, frozen_norms=self.config.batch_norm == "frozen")
        if self.config.head_dropout > 0:
            net_torch.drop_features(net, self.head, self.config.head_dropout)
        x, y, weights = (
            self._compute.tensors(data.x),
            self._compute.tensors(data.y),
            self._compute.tensors(data.weights),
        )
        moving = {name: value.detach().clone().requires_grad_() for name, value in self._moving(net).items()}

        def loss(params: Tensors, rows: np.ndarray) -> torch.Tensor:
            row = torch.as_tensor(rows, device=self.config.device)
            with self._compute.arithmetic():
                outputs = net_torch.outputs(net, take(x, row), params)
            return (weights[row] * self._losses(outputs.float(), y[row])).mean()

        return net, moving, loss

    def fit_many(self, fits: Sequence[Fit]) -> list[Params | DataError]:
        """Compute several fits in one pass over the data: parameters, orders, labels, weights get an axis of members.

        Where nothing but the head is trained, its inputs are computed once, and the members are a matrix product.

        Raises:
            ConfigError: If the net draws random numbers in training (dropout) or its BatchNorm learns.
            MismatchError: As `fit`; or if the fits differ in the number of examples.
        """
        if self._needs_own_pass():
            raise ConfigError("engine: dropout and learning BatchNorm need a pass for each member; use 'serial'")
        if len({len(fit.data.y) for fit in fits}) > 1:
            raise MismatchError("fits: those computed in one pass need equally many examples each")
        net = self._load(fits[0].params)
        self._require_outputs(net, fits[0].data)
        inputs = self._shared_inputs(fits)
        if set(self._trained) <= set(net_torch.head_names(self.head)):
            inputs = [self._compute.tensors(self._compute.features(net, self.head, x)) for x in inputs]
            net, prefix = net_torch.linear(net, self.head), net_torch.below(self.head)
        else:
            prefix = ""
        net_torch.training(net, frozen_norms=self.config.batch_norm == "frozen")
        moving = {
            name: torch.stack([self._compute.tensors(fit.params[name]) for fit in fits]).requires_grad_()
            for name in self._trained
        }
        y, weights = (
            torch.stack([self._compute.tensors(part) for part in parts])
            for parts in ([fit.data.y for fit in fits], [fit.data.weights for fit in fits])
        )
        rows = np.stack([self.config.rows(y.shape[1], fit.seed) for fit in fits], axis=1)
        member = torch.arange(len(fits), device=self.config.device)[:, None]
        # the data of all members lie in one tensor, once where they share it
        starts = member * (y.shape[1] if len(inputs) > 1 else 0)
        x = inputs[0] if len(inputs) == 1 else _joined(inputs)

        def forward(params: Tensors, x: Any) -> torch.Tensor:
            return net_torch.outputs(net, x, {name.removeprefix(prefix): value for name, value in params.items()})

        def loss(step: int) -> torch.Tensor:
            row = torch.as_tensor(rows[step], device=self.config.device)
            with self._compute.arithmetic(), sdpa_kernel(SDPBackend.MATH):  # vmap knows no fused attention
                outputs = vmap(forward)(moving, take(x, starts + row))
            losses = self._losses(outputs.float().flatten(0, 1), y[member, row].flatten(0, 1))
            return (weights[member, row] * losses.unflatten(0, row.shape)).mean(dim=1)

        anchor = {name: self._pretrained[name][None] for name in self._trained}
        lasted = self._descend(moving, anchor, loss).tolist()
        found = [_numpy({name: moving[name][k] for name in self._trained}) for k in range(len(fits))]
        return [
            self._finished(params, fit.data) if last == self.config.steps else self._diverged(last)
            for params, fit, last in zip(found, fits, lasted, strict=True)
        ]

    def prefers_together(self, data: Data) -> bool:
        """Say whether one pass for all members is expected to be faster: on a GPU, for small nets, for heads alone."""
        if self._needs_own_pass():
            return False
        if self.config.device != "cpu" or set(self._trained) <= set(net_torch.head_names(self.head)):
            return True
        return self.flops(data) < CHEAP

    def flops(self, data: Data) -> float:
        """Count the floating-point operations of a forward pass of one batch."""
        with FlopCounterMode(display=False) as counter:
            self._compute.outputs(self._net, take(data.x, slice(0, self.config.batch)))
        return float(counter.get_total_flops())

    def predict(self, params: Params, x: Any) -> Float[np.ndarray, "n k"]:
        """Give probabilities (means, for the gaussian likelihood), a thousand rows at a time.

        Raises:
            MismatchError: If `params` are not this net's, or the net cannot take `x`.
        """
        return likelihoods.mean(self._compute.outputs(self._load(params), x).double().numpy(), self.likelihood)

    def features(self, params: Params, x: Any) -> Float[np.ndarray, "n d"]:
        """Give what the head is fed with."""
        return self._compute.features(self._load(params), self.head, x)

    def with_head(self, params: Params, weight: Float[np.ndarray, "k d"], bias: Float[np.ndarray, " k"]) -> Params:
        """Give the params with another head, in the net's own precision.

        Raises:
            MismatchError: If the head is of another shape.
            ConfigError: If the head is not among what is trained, and so not among the params.
        """
        names = net_torch.head_names(self.head)
        if not set(names) <= params.keys():
            raise ConfigError(f"trainable: the head {self.head!r} is not trained, so a probe has nowhere to go")
        head = dict(zip(names, (weight, bias), strict=True))
        head = {name: array.astype(params[name].dtype) for name, array in head.items()}
        require_like(head, {name: params[name] for name in head}, "head")
        return {**params, **head}

    def _load(self, params: Params) -> nn.Module:
        require_like({name: array for name, array in params.items() if name != NOISE}, self.params, "params")
        net = copy.deepcopy(self._net)
        own = net.state_dict()
        with torch.no_grad():
            for name in (*self._trained, *self._buffers):
                own[name].copy_(torch.from_numpy(params[name]))
        return net.eval()

    def _moving(self, net: nn.Module) -> Tensors:
        return {name: parameter for name, parameter in net.named_parameters() if name in self._trained}

    def _pick(self, net: nn.Module) -> Tensors:
        own = net.state_dict()
        return {name: own[name] for name in (*self._trained, *self._buffers)}

    def _finished(self, params: Params, data: Data) -> Params:
        if self.likelihood != "gaussian":
            return params
        return likelihoods.with_noise(params, self.predict(params, data.x), data)

    def _diverged(self, lasted: int) -> DataError:
        return DataError(f"fit: the loss at step {lasted} is not finite; lower lr ({self.config.lr}) or check x")

    def _needs_own_pass(self) -> bool:
        return net_torch.draws_masks(self._net) or self.config.head_dropout > 0 or bool(self._buffers)

    def _require_outputs(self, net: nn.Module, data: Data) -> None:
        outputs = self._compute.outputs(net, take(data.x, slice(0, 1))).shape[1:]
        if outputs != data.y.shape[1:]:
            raise MismatchError(f"y: the net has {outputs.numel()} outputs, the labels {data.y.shape[1]} columns")

    def _descend(self, moving: Tensors, anchor: Tensors, loss: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """Minimise the losses (members,) of every step, and give how many steps each member's stayed finite."""
        config = self.config
        optimizer = torch.optim.SGD(
            moving.values(), config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=config.momentum > 0
        )
        lasted: torch.Tensor | None = None
        for step, rate in enumerate(config.rates()):
            optimizer.param_groups[0]["lr"] = rate
            losses = loss(step)
            finite = torch.isfinite(losses)
            lasted = torch.zeros_like(finite, dtype=torch.long) if lasted is None else lasted
            lasted += finite & (lasted == step)
            if not finite.any():
                break
            optimizer.zero_grad()
            losses.sum().backward()  # each member moves by its own part of the sum
            if config.anchor > 0:
                for name, parameter in moving.items():
                    if parameter.grad is not None:
                        parameter.grad += config.anchor * (parameter.detach() - anchor[name])
            optimizer.step()
        assert lasted is not None  # there is at least one step
        return lasted

    def _losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.likelihood == "categorical":
            return functional.cross_entropy(outputs, y, reduction="none")
        if self.likelihood == "bernoulli":
            return functional.binary_cross_entropy_with_logits(outputs, y, reduction="none").sum(dim=1)
        return 0.5 * (outputs - y).square().sum(dim=1)

    def _shared_inputs(self, fits: Sequence[Fit]) -> list[Any]:
        shared = all(fit.data.x is fits[0].data.x for fit in fits)
        return [self._compute.tensors(fit.data.x) for fit in (fits[:1] if shared else fits)]


def _joined(inputs: list[Any]) -> Any:
    if isinstance(inputs[0], Mapping):
        return {name: torch.cat([one[name] for one in inputs]) for name in inputs[0]}
    return torch.cat(inputs)


def _numpy(tensors: Tensors) -> Params:
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}
