"""Rewards that are learned: a conjugate posterior of r(x) for each x, from what each move earned.

A spec's reward is known to an agent unless its config says otherwise. What is learned of each x is three numbers: how
often it was left, and the sums of what that earned and of its squares.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from bayes_persona.cpsrl.config import Reward
from bayes_persona.errors import needs_extra

with needs_extra("jax"):
    import jax
    import jax.numpy as jnp


def init(kind: Reward, x: int) -> Any:
    """Give what was seen before any data: nothing to remember where the reward is known.

    >>> init("normal_gamma", 4).shape, init("known", 4)
    ((4, 3), ())
    """
    return () if kind == "known" else np.zeros((x, 3))


def learn(kind: Reward, seen: Any, x: Any, earned: Any, happened: Any, key: Any) -> Any:
    """Take in what moves earned.

    A number between 0 and 1 is told to a Beta posterior as a coin that falls so often (Agrawal & Goyal 2012).

    >>> learn("normal_gamma", init("normal_gamma", 2), np.array([1]), np.array([3.0]), np.array([True]), None).tolist()
    [[0.0, 0.0, 0.0], [1.0, 3.0, 9.0]]
    """
    if kind == "known":
        return seen
    if kind == "beta_bernoulli":
        earned = (jax.random.uniform(key, earned.shape, earned.dtype) < earned).astype(earned.dtype)
    sums = jnp.stack([jnp.ones_like(earned), earned, earned**2], axis=-1)
    return jnp.asarray(seen).at[x].add(jnp.where(happened[:, None], sums, 0.0))


def draw(kind: Reward, seen: Float[Any, "x 3"], key: Any) -> Float[Any, " x"]:
    """Draw E[r | x] for every x from its posterior.

    >>> sure = np.array([[1e6, 3e6, 9e6]])
    >>> round(float(draw("normal_gamma", sure, jax.random.key(0))[0]), 1)
    3.0
    """
    count, total, squares = jnp.asarray(seen).T
    one, two = jax.random.split(key)
    if kind == "beta_bernoulli":
        return jax.random.beta(one, 1 + total, 1 + count - total)
    mean = total / (1 + count)
    rate = 1 + 0.5 * (squares - (1 + count) * mean**2)
    precision = jax.random.gamma(one, 1 + 0.5 * count) / rate
    return mean + jax.random.normal(two, mean.shape, mean.dtype) / jnp.sqrt((1 + count) * precision)


def mean(kind: Reward, seen: Float[Any, "x 3"]) -> Float[Any, " x"]:
    """Give the posterior mean of E[r | x].

    >>> mean("beta_bernoulli", np.array([[3.0, 2.0, 2.0]])).tolist()
    [0.6000000238418579]
    """
    count, total, _ = jnp.asarray(seen).T
    return (1 + total) / (2 + count) if kind == "beta_bernoulli" else total / (1 + count)
