"""One adapter out of many: the average of the members, in the same file format as a single one.

Two low-rank factors stand for their product, and the average of factors is not that of products: each member may have
turned its factors as it liked. So products are averaged, and cut back to the rank that they had.
"""

import numpy as np
from jaxtyping import Float

from bayes_persona.posterior import Posterior
from bayes_persona.types import Params

DOWN, UP = ".down", ".up"
"""Ends of the names of two low-rank factors."""


def soup(posterior: Posterior) -> Posterior:
    """Average the members of an adapter's posterior into one (Wortsman et al., ICML 2022, arXiv 2203.05482).

    Of low-rank updates, pairs of params called `*.down` (rank × in) and `*.up` (out × rank), the mean product's best
    approximation of that rank is given (Eckart & Young 1936); of everything else the mean.

    >>> turned = Posterior(({"q.down": np.eye(2), "q.up": np.eye(2)}, {"q.down": -np.eye(2), "q.up": -np.eye(2)}))
    >>> one = soup(turned)[0]
    >>> (one["q.up"] @ one["q.down"]).round(6).tolist()  # the mean of factors would be nothing
    [[1.0, 0.0], [0.0, 1.0]]
    """
    stacked, mean = posterior.stacked(), posterior.mean()
    for name in stacked:
        pair = name.removesuffix(DOWN) + UP
        if name.endswith(DOWN) and pair in stacked:
            mean[name], mean[pair] = _product(stacked[name], stacked[pair])
    kinds = {name: array.dtype for name, array in posterior[0].items()}
    one: Params = {name: np.ascontiguousarray(array, dtype=kinds[name]) for name, array in mean.items()}
    return Posterior((one,))


def _product(
    down: Float[np.ndarray, "members rank i"], up: Float[np.ndarray, "members o rank"]
) -> tuple[Float[np.ndarray, "rank i"], Float[np.ndarray, "o rank"]]:
    """Factor the mean product, without ever writing it down: it is that of all factors side by side."""
    members, rank = down.shape[:2]
    wide, wide_rest = np.linalg.qr(np.concatenate(list(up.astype(np.float64)), axis=1) / members)
    tall, tall_rest = np.linalg.qr(np.concatenate(list(down.astype(np.float64)), axis=0).T)
    left, size, right = np.linalg.svd(wide_rest @ tall_rest.T, full_matrices=False)
    root = np.sqrt(size[:rank])
    few = len(root)  # fewer than the rank where a side is narrower
    found_up, found_down = np.zeros((up.shape[1], rank)), np.zeros((rank, down.shape[2]))
    found_up[:, :few], found_down[:few] = wide @ left[:, :few] * root, root[:, None] * (right[:few] @ tall.T)
    return found_down, found_up
