"""Exact regret: what a policy loses in the true world, in expectation, so that no noise of the episodes is in it."""

import numpy as np
from jaxtyping import Int

from bayes_persona.cpsrl import planner
from bayes_persona.cpsrl.env import FactoredSpec


def optimum(spec: FactoredSpec, *, horizon: int) -> float:
    """Give the value of the best policy under the law of the first state.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> optimum(lamp(), horizon=3)  # off, on, on
    2.0
    """
    return float(spec.initial @ planner.plan(spec.factors, spec.reward, spec.terminal, horizon=horizon).value)


def value(spec: FactoredSpec, policy: Int[np.ndarray, "horizon s"]) -> float:
    """Give the value of a policy under the law of the first state; its regret is `optimum` less this.

    >>> from bayes_persona.cpsrl.env import lamp
    >>> optimum(lamp(), horizon=3) - value(lamp(), np.zeros((3, 2), dtype=int))
    2.0
    """
    return float(spec.initial @ planner.evaluate(policy, spec.factors, spec.reward, spec.terminal))
