"""SGHMC as its users write it with `posteriors` (Normal Computing): a log posterior over n, and an update a batch."""

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from bayes_persona.demo.digits import Split
from benchmarks.peers.plain import batches, net_of, softmax
from benchmarks.peers.transfer import BURN_IN, EVERY, MEMBERS

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # of tensordict
    import posteriors

FRICTION = 0.1


def fit(digits: Split, rate: float, seed: int) -> np.ndarray:
    """Walk from the probed net, keep ten states, average their probabilities."""
    net, n = net_of(digits), len(digits.y)
    centre = {name: value.detach().clone() for name, value in net.named_parameters()}

    def log_posterior(params: Any, batch: Any) -> Any:
        x, y = batch
        logits = torch.func.functional_call(net, params, (x,))
        pull = sum(((params[name] - centre[name]) ** 2).sum() for name in centre)
        return -nn.functional.cross_entropy(logits, y) - 0.5 * pull / n, torch.tensor([])

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        cold: dict[str, Any] = {"alpha": FRICTION, "temperature": 1 / n, "momenta": 0.0}
        transform: Any = posteriors.sgmcmc.sghmc.build(log_posterior, lr=rate, **cold)
        state = transform.init({name: value.clone() for name, value in centre.items()})
        found = []
        for step, batch in enumerate(batches(digits, BURN_IN + EVERY * MEMBERS, seed), start=1):
            state, _ = transform.update(state, batch)
            if step > BURN_IN and (step - BURN_IN) % EVERY == 0:
                found.append(softmax(partial(_logits, net, state.params), digits))
    return np.mean(found, axis=0)


def _logits(net: nn.Module, params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return torch.func.functional_call(net, params, (x,))
