"""A plain loop of fine-tuning in torch, as peers' users write it: SGD with Nesterov momentum and a cosine."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from bayes_persona.demo.digits import Split, pretrained
from bayes_persona.demo.transfer import FIT
from benchmarks.peers.transfer import started


def net_of(digits: Split) -> nn.Module:
    """Give the net with the probed head, at which everybody starts."""
    _, _, base = started(digits)
    net = pretrained()
    net.load_state_dict({name: torch.as_tensor(value) for name, value in base.params.items()})
    return net


def batches(digits: Split, steps: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give random batches, whole passes one after another."""
    x, y, rng = torch.as_tensor(digits.x), torch.as_tensor(digits.y), np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(y)) for _ in range(-(-steps * FIT.batch // len(y)))])
    for rows in order[: steps * FIT.batch].reshape(steps, FIT.batch):
        yield x[rows], y[rows]


def fine_tuned(net: nn.Module, digits: Split, steps: int, lr: float, seed: int, *, cosine: bool = True) -> nn.Module:
    """Train a net where it is, and give it."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for x, y in batches(digits, steps, seed):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        if cosine:
            schedule.step()
    return net.eval()


@torch.no_grad()
def softmax(predict: Callable[[torch.Tensor], torch.Tensor], digits: Split) -> np.ndarray:
    """Give probabilities of the test digits."""
    return predict(torch.as_tensor(digits.x_test)).double().softmax(dim=-1).numpy()
