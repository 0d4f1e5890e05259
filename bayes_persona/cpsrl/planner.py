"""The best policy of a factored world over a finite horizon, by backward induction that never builds p(s' | s, a).

The variables are cut in two, a | b, so that the value of the next state is a matrix V_ab. Its expectation given x is
then Σ_ab L_xa V_ab R_xb, one product of matrices and one sum, where L and R are the joint laws of either half. The
largest array is |X| by about √|S|.
"""

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bayes_persona.errors import needs_extra

with needs_extra("jax"):
    import jax
    import jax.numpy as jnp


class Plan(NamedTuple):
    """What to do at each step in each state, and what it is worth from the first step on.

    >>> Plan(policy=np.zeros((3, 2), dtype=int), value=np.array([0.0, 3.0])).policy.shape
    (3, 2)
    """

    policy: Int[np.ndarray, "horizon s"]
    value: Float[np.ndarray, " s"]


def plan(
    factors: Sequence[Float[np.ndarray, "x _"]],
    reward: Float[np.ndarray, " x"],
    terminal: Bool[np.ndarray, " x"],
    *,
    horizon: int,
) -> Plan:
    """Find an optimal policy.

    Args:
        factors: p_j(y_j | x) for each next-state variable j.
        reward: r(x).
        terminal: Whether nothing can be earned after x.
        horizon: How many steps there are.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> best = plan(lamp().factors, lamp().reward, lamp().terminal, horizon=3)
    >>> best.policy[0].tolist(), best.value.tolist()
    ([1, 0], [2.0, 3.0])
    """
    with jax.enable_x64(True):  # sums over many steps; never jax's global flag, which is the user's
        policy, value = _plan(tuple(factors), reward, terminal, horizon=horizon)
        return Plan(np.asarray(policy), np.asarray(value))


def evaluate(
    policy: Int[np.ndarray, "horizon s"],
    factors: Sequence[Float[np.ndarray, "x _"]],
    reward: Float[np.ndarray, " x"],
    terminal: Bool[np.ndarray, " x"],
) -> Float[np.ndarray, " s"]:
    """Give the exact value of a policy from each first state.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> idle = np.zeros((3, 2), dtype=int)
    >>> evaluate(idle, lamp().factors, lamp().reward, lamp().terminal).tolist()
    [0.0, 3.0]
    """
    with jax.enable_x64(True):
        return np.asarray(_evaluate(policy, tuple(factors), reward, terminal))


@partial(jax.jit, static_argnames="horizon")
def _plan(factors, reward, terminal, *, horizon):
    left, right = _halves(factors)
    states = left.shape[1] * right.shape[1]

    def back(value, _):
        future = jnp.where(terminal, 0.0, _expected(left, right, value))
        scores = (reward + future).reshape(states, -1)
        return scores.max(axis=1), scores.argmax(axis=1)

    value, policy = jax.lax.scan(back, jnp.zeros(states), None, length=horizon)
    return policy[::-1], value


@jax.jit
def _evaluate(policy, factors, reward, terminal):
    left, right = _halves(factors)
    states = left.shape[1] * right.shape[1]
    first = jnp.arange(states) * (len(reward) // states)

    def back(value, actions):
        x = first + actions
        future = jnp.where(terminal[x], 0.0, _expected(left[x], right[x], value))
        return reward[x] + future, None

    return jax.lax.scan(back, jnp.zeros(states), policy, reverse=True)[0]


def _halves(factors):
    """Give the joint laws L_xa of the first variables and R_xb of the last, cut where they are smallest together."""
    sizes = [factor.shape[1] for factor in factors]
    cut = min(range(1, len(sizes) + 1), key=lambda cut: math.prod(sizes[:cut]) + math.prod(sizes[cut:]))
    nothing = jnp.ones((len(factors[0]), 1))
    return reduce(_outer, factors[:cut], nothing), reduce(_outer, factors[cut:], nothing)


def _outer(left, right):
    return (left[:, :, None] * right[:, None, :]).reshape(len(left), -1)


def _expected(left, right, value):
    return ((left @ value.reshape(left.shape[1], right.shape[1])) * right).sum(axis=1)
