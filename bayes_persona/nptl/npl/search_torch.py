"""torch's L-BFGS (Nocedal & Wright 2006, algorithm 7.5) as a search that says how it has ended."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bayes_persona.errors import needs_extra

with needs_extra("torch"):
    import torch

HALVINGS = 40
FAR = 1e6
"""A start is too far off if its value is more than this times the one at zero."""
MEMORY = 50
"""Steps that the search remembers, to know of curvature."""
ROUNDING = 1e-16
"""Changes below this are none."""


class Found(NamedTuple):
    """Where a search has ended.

    >>> Found(torch.ones(1), value=0.0, finite=True, finished=True, first_slope=torch.ones(1)).finished
    True
    """

    point: torch.Tensor
    value: float
    finite: bool
    """Whether value and slope are."""
    finished: bool
    """Whether it ended before its steps did."""
    first_slope: torch.Tensor
    """The gradient at the start."""


def minimise(
    objective: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, steps: int, tolerance: float
) -> Found:
    """Search the minimum of a function of a vector.

    Args:
        objective: Differentiable almost everywhere; may be infinite or NaN far off.
        start: Where to start; drawn towards zero, by halves, until the objective is not beyond all bounds.
        steps: Steps, at most; and four times as many evaluations.
        tolerance: Ends where no coordinate has a greater slope.

    >>> start = torch.tensor([900.0, 1.0], dtype=torch.float64)
    >>> found = minimise(lambda x: (x.exp() - 3 * x).sum(), start, 500, 1e-9)
    >>> found.finished, found.point.exp().numpy().round(6).tolist()
    (True, [3.0, 3.0])
    """
    point = _drawn_in(objective, start).clone().requires_grad_()
    (first_slope,) = torch.autograd.grad(objective(point), point)
    search = torch.optim.LBFGS(
        [point],
        max_iter=steps,
        max_eval=4 * steps,
        tolerance_grad=tolerance,
        tolerance_change=ROUNDING,
        history_size=MEMORY,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        value = objective(point)
        (point.grad,) = torch.autograd.grad(value, point)
        return value.detach()

    search.step(closure)
    value = objective(point)
    (slope,) = torch.autograd.grad(value, point)
    finite = bool(torch.isfinite(value)) and bool(torch.isfinite(slope).all())
    spent = search.state[point]["n_iter"] >= steps or search.state[point]["func_evals"] >= 4 * steps
    finished = not spent or bool(slope.abs().max() <= tolerance)
    return Found(point.detach(), float(value.detach()), finite, finished, first_slope)


def _drawn_in(objective: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        zero = float(objective(torch.zeros_like(start)).abs())
        bound = FAR * max(1.0, zero) if np.isfinite(zero) else np.finfo(float).max
        for _ in range(HALVINGS):
            if objective(start) <= bound:  # which NaN is not
                break
            start = start / 2
    return start
