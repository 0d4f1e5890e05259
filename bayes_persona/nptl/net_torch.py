"""A pretrained torch net as the learner sees it: outputs (n, k), a linear head, and layers with moods."""

from collections.abc import Mapping
from typing import Any

from bayes_persona.errors import ConfigError, needs_extra

with needs_extra("torch"):
    import torch
    from torch import nn
    from torch.func import functional_call
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.dropout import _DropoutNd

Tensors = dict[str, torch.Tensor]


def outputs(net: nn.Module, x: Any, params: Tensors | None = None) -> torch.Tensor:
    """Give the outputs (n, k) of a net that takes a tensor, or the entries of a dict as keywords.

    Args:
        net: Gives a tensor, or (transformers) an object with `logits`.
        x: Its inputs.
        params: Parameters to compute with in place of its own.

    >>> outputs(nn.Linear(2, 1), torch.ones(3, 2), {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}).tolist()
    [[2.0], [2.0], [2.0]]
    """
    args, keywords = ((), dict(x)) if isinstance(x, Mapping) else ((x,), {})
    given = net(*args, **keywords) if params is None else functional_call(net, params, args, keywords)
    return given if isinstance(given, torch.Tensor) else given.logits


def find_head(net: nn.Module, head: str | None) -> str:
    """Give the name of the linear layer that is the head: the one named, or the net's last.

    Raises:
        ConfigError: If there is no such layer, it is not linear, or it has no bias.

    >>> find_head(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), None)
    '2'
    """
    there = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if head is None:
        if not there:
            raise ConfigError("head: this net has no linear layer to be one")
        head = there[-1]
    if head not in there:
        raise ConfigError(f"head: {head!r} is not a linear layer of this net; there are: {', '.join(there) or 'none'}")
    if linear(net, head).bias is None:
        raise ConfigError(f"head: {head!r} has no bias, which a probe needs; give the net a head with one")
    return head


def linear(net: nn.Module, head: str) -> nn.Linear:
    """Give the layer that `find_head` has found.

    >>> linear(nn.Linear(4, 8), "").out_features
    8
    """
    layer = net.get_submodule(head)
    assert isinstance(layer, nn.Linear)
    return layer


def head_names(head: str) -> tuple[str, str]:
    """Give the names of the head's parameters.

    >>> head_names("classifier"), head_names("")
    (('classifier.weight', 'classifier.bias'), ('weight', 'bias'))
    """
    return f"{below(head)}weight", f"{below(head)}bias"


def below(name: str) -> str:
    """Give what the names of a module's parameters begin with.

    >>> below("layer4.0"), below("")
    ('layer4.0.', '')
    """
    return f"{name}." if name else ""


def running_statistics(net: nn.Module) -> list[str]:
    """Name the buffers that BatchNorm writes in training.

    >>> running_statistics(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    ['1.running_mean', '1.running_var', '1.num_batches_tracked']
    """
    norms = {name: module for name, module in net.named_modules() if isinstance(module, _NormBase)}
    return [f"{below(name)}{buffer}" for name, norm in norms.items() for buffer, _ in norm.named_buffers()]


def training(net: nn.Module, *, frozen_norms: bool) -> None:
    """Put a net into its training mood, its BatchNorm layers only if they shall learn statistics.

    >>> net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3))
    >>> training(net, frozen_norms=True)
    >>> net[0].training, net[1].training
    (True, False)
    """
    net.train()
    for module in net.modules():
        if frozen_norms and isinstance(module, _NormBase):
            module.eval()


def drop_features(net: nn.Module, head: str, rate: float) -> None:
    """Drop a share of the head's inputs whenever the net is computed (inverted dropout: the rest grow).

    >>> net = nn.Linear(8, 1)
    >>> drop_features(net, "", 0.5)
    >>> bool((net(torch.ones(1, 8)) == net(torch.ones(1, 8))).all())
    False
    """

    def dropped(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return nn.functional.dropout(inputs[0], rate, training=True)

    linear(net, head).register_forward_pre_hook(dropped)


def draws_masks(net: nn.Module) -> bool:
    """Say whether a net draws random numbers in training.

    >>> draws_masks(nn.Dropout(0.1)), draws_masks(nn.Dropout(0.0))
    (True, False)
    """
    return any(isinstance(module, _DropoutNd) and module.p > 0 for module in net.modules())
