"""A last-layer Laplace approximation as its users write it with `laplace-torch`: fine-tune, fit, predict by probit."""

import warnings
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from bayes_persona.demo.digits import Split
from bayes_persona.demo.transfer import FIT
from benchmarks.peers.plain import fine_tuned, net_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its backends
    from laplace import Laplace


def fit(digits: Split, precision: float, seed: int) -> np.ndarray:
    """Fine-tune the probed net, and put a Gaussian around its head."""
    net = fine_tuned(net_of(digits), digits, FIT.steps, FIT.lr, seed)
    data = TensorDataset(torch.as_tensor(digits.x), torch.as_tensor(digits.y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        around: Any = Laplace(net, "classification", subset_of_weights="last_layer", hessian_structure="kron")
        around.fit(DataLoader(data, batch_size=len(data)))
        around.prior_precision = precision
        return around(torch.as_tensor(digits.x_test), link_approx="probit").detach().double().numpy()
