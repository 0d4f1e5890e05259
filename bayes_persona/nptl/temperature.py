"""Temperature scaling (Guo et al. 2017): one number that makes probabilities as sure as they are right.

It is fitted *after* averaging (Ashukha et al. 2020): members that are each calibrated make an average that is not, but
less sure than it is right. Fit it on examples that neither training nor the final scores have seen.
"""

import numpy as np
from jaxtyping import Float, Integer

from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.metrics import nll

with needs_extra("torch"):
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax, softmax

FLOOR = 1e-12
"""A class thought impossible counts as this probable, as in `metrics.nll`: no power would mend a zero."""
RANGE = (0.01, 100.0)
"""Where a temperature is looked for. Predictions that are never wrong would otherwise send it to zero."""


def tempered(probs: Float[np.ndarray, "n k"], temperature: float) -> Float[np.ndarray, "n k"]:
    """Give p^(1/T), normalised: less sure above 1, surer below, and in either case the same most probable class.

    Args:
        probs: Predicted probabilities, after averaging.
        temperature: T.

    Raises:
        ConfigError: If the temperature is not positive and finite.

    >>> tempered(np.array([[0.2, 0.8]]), 0.5).round(4).tolist()  # 0.04 to 0.64
    [[0.0588, 0.9412]]
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature: expected a finite number above 0, got {temperature}")
    return softmax(_logs(probs) / temperature, axis=1)


def fit_temperature(probs: Float[np.ndarray, "n k"], y: Integer[np.ndarray, " n"]) -> float:
    """Give the temperature with the least NLL on some labelled examples, or 1 if none is better.

    Args:
        probs: Predicted probabilities of held-out examples, after averaging.
        y: Their class indices.

    Raises:
        MismatchError: If there is not one label per row.
        DataError: If there is no example, a row holds no probabilities, or a label is not a class.

    >>> overconfident, right_two_times_in_three = np.array([[0.99, 0.01]] * 3), np.array([0, 0, 1])
    >>> T = fit_temperature(overconfident, right_two_times_in_three)
    >>> tempered(overconfident, T)[0].round(3).tolist()
    [0.667, 0.333]
    """
    nll(probs, y)  # checks them
    logs = _logs(probs)

    # convex in 1/T, so with one minimum in log T too, on which steps of one size are fair to either side of 1
    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logs / np.exp(log_temperature), axis=1)[np.arange(len(y)), y].mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def _logs(probs: np.ndarray) -> np.ndarray:
    return np.log(probs.astype(np.float64).clip(FLOOR))
