"""What an agent is told besides its prior: one dataclass for every kind of agent."""

from dataclasses import dataclass
from typing import Literal, get_args

from bayes_persona import ranges
from bayes_persona.errors import ConfigError

Method = Literal["psrl", "map", "mean", "ucbvi", "rlsvi"]
"""How an agent plans: on a world that is drawn; on one of the most probable graph; on the mean world; on the mean world
with a bonus for what was rarely seen (Azar et al. 2017, and for factors Tian et al. 2020), or with noise (RLSVI, Osband
et al. 2016)."""

Reward = Literal["known", "normal_gamma", "beta_bernoulli"]
"""Known, or learned: with a Normal–Gamma(0, 1, 1, 1) prior of mean and precision, or a Beta(1, 1) prior of a share."""


@dataclass(frozen=True)
class Config:
    """What an agent is told.

    >>> Config(horizon=30, alpha=0.0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: alpha: expected a finite number above 0, got 0.0
    """

    horizon: int = 30
    """Steps that an episode lasts at most, and that the agent plans for."""
    alpha: float = 1.0
    """How many times each value of a next variable was seen before the data, for each setting of its parents."""
    method: Method = "psrl"
    """How it plans: psrl (draws a world), map (of the most probable graph), mean, ucbvi (a bonus), rlsvi (noise)."""
    scale: float = 0.1
    """Of ucbvi's bonus and rlsvi's noise; 1 is what theory asks for, and explores far too long."""
    epsilon: float = 0.0
    """Probability of a random action instead of the planned one, at every step."""
    reward: Reward = "known"
    """known, or learned: normal_gamma for any numbers, beta_bernoulli for numbers from 0 to 1."""

    def __post_init__(self):
        ranges.at_least(self, 1, "horizon")
        ranges.positive(self, "alpha")
        ranges.at_least(self, 0, "scale")
        ranges.share(self, "epsilon")
        if self.method not in get_args(Method):
            raise ConfigError(f"method: expected one of {get_args(Method)}, got {self.method!r}")
        if self.reward not in get_args(Reward):
            raise ConfigError(f"reward: expected one of {get_args(Reward)}, got {self.reward!r}")
        if self.reward != "known" and self.method in ("ucbvi", "rlsvi"):
            raise ConfigError(f"reward: {self.method} needs a known one, to bound what may be earned")
