"""A deep ensemble and SWAG as users of `torch-uncertainty` have them: its wrappers around a plain loop of training."""

import copy

import numpy as np
import torch

from bayes_persona.demo.digits import Split
from bayes_persona.demo.transfer import FIT
from benchmarks.peers.plain import fine_tuned, net_of
from benchmarks.peers.transfer import MEMBERS

from torch_uncertainty.methods import SWAG, deep_ensembles  # isort: skip  # pyright: ignore[reportMissingImports]  # after those that it must not change

SNAPSHOTS, BETWEEN = 20, 45
"""A walk of 900 steps."""


def ensemble(digits: Split, lr: float, seed: int) -> np.ndarray:
    """Fine-tune ten copies, one after the other."""
    start = net_of(digits)
    nets = [fine_tuned(copy.deepcopy(start), digits, FIT.steps, lr, seed * MEMBERS + k) for k in range(MEMBERS)]
    return _averaged(deep_ensembles(nets, num_estimators=None), digits)


def swag(digits: Split, lr: float, seed: int) -> np.ndarray:
    """Fine-tune once, walk on at a constant rate, and draw ten nets."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = fine_tuned(net_of(digits), digits, FIT.steps, FIT.lr, seed)
        around = SWAG(net, cycle_start=0, cycle_length=1, max_num_models=SNAPSHOTS, num_estimators=MEMBERS)
        for epoch in range(1, SNAPSHOTS + 1):
            fine_tuned(net, digits, BETWEEN, lr, seed * 1000 + epoch, cosine=False)
            around.update_wrapper(epoch)
        return _averaged(around, digits)


@torch.no_grad()
def _averaged(wrapper: torch.nn.Module, digits: Split) -> np.ndarray:
    """Give the mean over members, which the wrappers put one after another along the batch."""
    probs = wrapper.eval()(torch.as_tensor(digits.x_test)).double().softmax(dim=-1)
    return probs.reshape(-1, len(digits.y_test), probs.shape[-1]).mean(dim=0).numpy()
