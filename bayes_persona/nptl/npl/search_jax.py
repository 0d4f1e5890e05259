"""BFGS in jax (Nocedal & Wright 2006, section 6.1), for many searches side by side under `vmap`.

Steps are halved until the value goes down, which takes infinities as "too far"; curvature that such a step does not
show is left out. A turn of the one loop is one evaluation, a step or a halving, so that no search waits for another's
halvings. Memory is the square of the number of parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from bayes_persona.errors import needs_extra

with needs_extra("jax"):
    import jax
    import jax.numpy as jnp

ENOUGH = 1e-4
"""Share of the decrease that the slope promises which a step has to keep."""
ROUNDING = 1e-13
"""Differences of values below this (relative) are rounding; near the optimum the slope sees further."""
FAR = 1e6
"""A start is too far off if its value is more than this times the one at zero."""
HALVINGS = 40
IDLE = 5
"""Steps without a decrease after which the slope is taken to be rounding, too (or the value to have a kink there)."""


class Found(NamedTuple):
    """Where a search has ended.

    >>> Found(point=1.0, value=0.0, finite=True, finished=True, first_slope=2.0).finished
    True
    """

    point: Any
    value: Any
    finite: Any
    """Whether any place was found where value and slope are."""
    finished: Any
    """Whether it ended before its evaluations did."""
    first_slope: Any
    """The gradient at the start."""


class _State(NamedTuple):
    evaluations: Any
    begun: Any  # whether the start was found; until then, halvings draw it towards zero
    point: Any
    value: Any
    slope: Any
    first_slope: Any
    inverse: Any  # of the Hessian, as far as it is known
    fresh: Any  # whether nothing of it is known
    direction: Any
    halvings: Any
    idle: Any
    finished: Any


def minimise(objective: Callable[..., Any], start: Any, steps: Any, tolerance: Any) -> Found:
    """Search the minimum of a function of a vector.

    Args:
        objective: Differentiable almost everywhere; may be infinite or NaN far off.
        start: Where to start; drawn towards zero, by halves, until the objective is not beyond all bounds.
        steps: Evaluations, at most.
        tolerance: Ends where no coordinate has a greater slope.

    >>> with jax.enable_x64(True):
    ...     found = minimise(lambda x: jnp.sum(jnp.exp(x) - 3 * x), jnp.array([900.0, 1.0]), 500, 1e-9)
    ...     found.finished.item(), jnp.exp(found.point).round(6).tolist()
    (True, [3.0, 3.0])
    """
    graded, nothing = jax.value_and_grad(objective), jnp.zeros_like(start)
    zero = jnp.abs(objective(nothing))
    bound = jnp.where(jnp.isfinite(zero), FAR * jnp.maximum(1, zero), jnp.finfo(start.dtype).max)
    unknown = jnp.eye(len(start), dtype=start.dtype)
    first = _State(0, False, nothing, bound, nothing, nothing, unknown, True, start, 0, 0, False)

    def turn(state: _State) -> _State:
        point = state.point + 0.5**state.halvings * state.direction
        value, slope = graded(point)
        slack = ROUNDING * jnp.maximum(1, jnp.abs(state.value))
        promised = ENOUGH * (point - state.point) @ state.slope
        taken = (value <= state.value + promised + slack) & jnp.isfinite(slope).all()  # so that NaN is not
        return jax.tree.map(
            lambda one, other: jnp.where(taken, one, other),
            _stepped(state, point, value, slope, slack, tolerance),
            _halved(state),
        )

    state = jax.tree.map(jnp.asarray, first)
    end = jax.lax.while_loop(lambda state: ~state.finished & (state.evaluations < steps), turn, state)
    return Found(end.point, end.value, end.begun & jnp.isfinite(end.value), end.finished, end.first_slope)


def _stepped(state: _State, point, value, slope, slack, tolerance) -> _State:
    inverse, known = _updated(state, point - state.point, slope - state.slope)
    inverse = jnp.where(state.begun, inverse, state.inverse)  # before the start there was no slope to compare with
    fresh = ~state.begun | (state.fresh & ~known)
    newton = -inverse @ slope
    direction = jnp.where(fresh | ~(newton @ slope < 0), _downhill(slope), newton)
    idle = jnp.where(state.value - value > slack, 0, state.idle + 1)
    return _State(
        evaluations=state.evaluations + 1,
        begun=True,
        point=point,
        value=value,
        slope=slope,
        first_slope=jnp.where(state.begun, state.first_slope, slope),
        inverse=inverse,
        fresh=fresh,
        direction=direction,
        halvings=0,
        idle=idle,
        finished=(jnp.abs(slope).max() <= tolerance) | (idle >= IDLE),
    )


def _halved(state: _State) -> _State:
    """Try half the step; if that was often enough, forget the Hessian and go down the slope itself, or end."""
    enough = state.halvings + 1 >= HALVINGS
    return state._replace(
        evaluations=state.evaluations + 1,
        halvings=jnp.where(enough, 0, state.halvings + 1),
        fresh=state.fresh | enough,
        direction=jnp.where(enough, _downhill(state.slope), state.direction),
        finished=enough & state.fresh,
    )


def _updated(state: _State, moved, bent):
    """Give the inverse Hessian that knows of one more step, and whether the step has shown any curvature."""
    curvature = moved @ bent
    known = curvature > 1e-12 * jnp.sqrt(moved @ moved) * jnp.sqrt(bent @ bent)
    safe = jnp.where(known, curvature, 1.0)
    unknown = jnp.eye(len(moved), dtype=moved.dtype)
    before = jnp.where(state.fresh, safe / jnp.where(known, bent @ bent, 1.0) * unknown, state.inverse)  # eq. (6.20)
    left = unknown - jnp.outer(moved, bent) / safe
    after = left @ before @ left.T + jnp.outer(moved, moved) / safe  # eq. (6.17)
    return jnp.where(known, after, state.inverse), known


def _downhill(slope):
    return -slope / jnp.maximum(1, jnp.abs(slope).max())
