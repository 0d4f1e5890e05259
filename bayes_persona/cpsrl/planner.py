"""The best policy of a factored world over a finite horizon, by backward induction that never builds p(s' | s, a).

The variables are cut in two, a | b, so that the value of the next state is a matrix V_ab. Its expectation given x is
then Σ_ab L_xa V_ab R_xb, one product of matrices and one sum, where L and R are the joint laws of either half. The
largest array is |X| by about √|S|.

`plan` and `evaluate` are for people, `backward` and `follow` the same for compiled programs.
"""

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bayes_persona.cpsrl.env import End, Outcome
from bayes_persona.errors import needs_extra

with needs_extra("jax"):
    import jax
    import jax.numpy as jnp

TIE = 1e-9
"""Actions whose values are closer than this to the best are as good; the first of them is taken, on any machine."""


class Plan(NamedTuple):
    """What to do at each step in each state, and what it is worth from the first step on.

    >>> Plan(policy=np.zeros((3, 2), dtype=int), value=np.array([0.0, 3.0])).policy.shape
    (3, 2)
    """

    policy: Int[np.ndarray, "horizon s"]
    value: Float[np.ndarray, " s"]


class Law(NamedTuple):
    """The law of the next state, as the joint laws of its first variables and of its last.

    >>> law((np.full((4, 2), 0.5), np.full((4, 3), 1 / 3))).left.shape
    (4, 2)
    """

    left: Any  # (x, a)
    right: Any  # (x, b)

    def expect(self, number: Any) -> Any:
        """Give E[f(y) | x] for f of shape (s,), or E[f(x, y) | x] for (x, s).

        >>> law((np.array([[0.25, 0.75]]),)).expect(np.array([0.0, 4.0])).tolist()
        [3.0]
        """
        number = jnp.asarray(number)
        matrix = number.reshape(*number.shape[:-1], self.left.shape[1], self.right.shape[1])
        if number.ndim == 1:
            return ((self.left @ matrix) * self.right).sum(axis=1)
        return jnp.einsum("xa,xab,xb->x", self.left, matrix, self.right)


def plan(factors: Sequence[Float[np.ndarray, "x _"]], reward: Outcome, terminal: End, *, horizon: int) -> Plan:
    """Find an optimal policy.

    Args:
        factors: p_j(y_j | x) for each next-state variable j.
        reward: What a move earns, in one of a spec's three shapes.
        terminal: Whether nothing can be earned after a move, likewise.
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
    policy: Int[np.ndarray, "horizon s"], factors: Sequence[Float[np.ndarray, "x _"]], reward: Outcome, terminal: End
) -> Float[np.ndarray, " s"]:
    """Give the exact value of a policy from each first state.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> idle = np.zeros((3, 2), dtype=int)
    >>> evaluate(idle, lamp().factors, lamp().reward, lamp().terminal).tolist()
    [0.0, 3.0]
    """
    with jax.enable_x64(True):
        return np.asarray(_evaluate(policy, tuple(factors), reward, terminal))


def law(factors: Sequence[Any]) -> Law:
    """Multiply the factors out in two halves, cut where they are smallest together.

    >>> law((np.full((4, 3), 1 / 3),)).right.tolist()
    [[1.0], [1.0], [1.0], [1.0]]
    """
    factors = [jnp.asarray(factor) for factor in factors]
    sizes = [factor.shape[1] for factor in factors]
    cut = min(range(1, len(sizes) + 1), key=lambda cut: math.prod(sizes[:cut]) + math.prod(sizes[cut:]))
    nothing = jnp.ones((len(factors[0]), 1), factors[0].dtype)
    return Law(reduce(_outer, factors[:cut], nothing), reduce(_outer, factors[cut:], nothing))


def backward(moves: Law, reward: Any, terminal: Any, *, horizon: int, extra: Any = None, most: Any = None):
    """Give the policy and the value of `plan`, where the reward may be changed and the value bounded.

    Args:
        moves: The law of the next state.
        reward: As of `plan`.
        terminal: As of `plan`.
        horizon: How many steps there are.
        extra: (horizon, x) added to the reward of each step: a bonus, or noise.
        most: The largest reward of a step; values stay below what it earns in the steps that are left.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> policy, _ = backward(law(lamp().factors), lamp().reward, lamp().terminal, horizon=3)
    >>> policy[0].tolist()
    [1, 0]
    """
    earned, states = _earned(moves, reward), moves.left.shape[1] * moves.right.shape[1]

    def back(value, step):
        number, more = step
        scores = earned + _future(moves, terminal, value)
        if extra is not None:
            scores += more
        if most is not None:
            scores = jnp.minimum(scores, most * number)
        scores = scores.reshape(states, -1)
        best = scores.max(axis=1)
        return best, (scores >= best[:, None] - TIE).argmax(axis=1)

    left = 1 + jnp.arange(horizon)  # steps that are left, this one included
    value, policy = jax.lax.scan(back, jnp.zeros(states, earned.dtype), (left, None if extra is None else extra[::-1]))
    return policy[::-1], value


def follow(moves: Law, reward: Any, terminal: Any, policy: Any) -> Any:
    """Give the value of `evaluate`.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> follow(law(lamp().factors), lamp().reward, lamp().terminal, np.zeros((3, 2), dtype=int)).tolist()
    [0.0, 3.0]
    """
    moves, terminal = Law(*(jnp.asarray(half) for half in moves)), jnp.asarray(terminal)
    earned, states = _earned(moves, reward), moves.left.shape[1] * moves.right.shape[1]
    first = jnp.arange(states) * (len(earned) // states)

    def back(value, actions):
        x = first + actions
        taken = Law(moves.left[x], moves.right[x])
        ends = terminal if len(terminal) == 1 else terminal[x]
        return earned[x] + _future(taken, ends, value), None

    return jax.lax.scan(back, jnp.zeros(states, earned.dtype), policy, reverse=True)[0]


@partial(jax.jit, static_argnames="horizon")
def _plan(factors, reward, terminal, *, horizon):
    return backward(law(factors), reward, terminal, horizon=horizon)


@jax.jit
def _evaluate(policy, factors, reward, terminal):
    return follow(law(factors), reward, terminal, policy)


def _earned(moves: Law, reward: Any) -> Any:
    """Give E[r | x]."""
    reward = jnp.asarray(reward)
    return reward if reward.ndim == 1 else moves.expect(reward[0] if len(reward) == 1 else reward)


def _future(moves: Law, terminal: Any, value: Any) -> Any:
    """Give E[V(y) | x], where nothing comes after an end."""
    if terminal.ndim == 1:
        return jnp.where(terminal, 0.0, moves.expect(value))
    return moves.expect(jnp.where(terminal[0] if len(terminal) == 1 else terminal, 0.0, value))


def _outer(left, right):
    return (left[:, :, None] * right[:, None, :]).reshape(len(left), -1)
