"""What the demo does: one dataclass, which is its command line, and is saved beside its page."""

from dataclasses import dataclass
from pathlib import Path

from bayes_persona import ranges
from bayes_persona.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """How large the demo is; the defaults take about six minutes on two cores."""

    out: Path = Path("demo/report")
    """Folder of the page, its pictures and its numbers."""
    examples: int = 100
    """Handwritten digits to learn from."""
    particles: int = 10
    """Posterior draws, and members of every ensemble."""
    rho: float = 1.0
    """Strength of NPTL's prior: how many times the data it is worth."""
    splits: int = 5
    """Random splits of the digits; every interval is over these."""
    episodes: int = 150
    """Taxi episodes of every agent."""
    drivers: int = 5
    """Repetitions of every agent, each with seeds of its own."""
    photos: int = 4
    """Pictures of the person to personalize on."""
    portraits: int = 6
    """Members of the posterior over personalizations."""
    portrait_steps: int = 25
    """Steps that they are trained for, all in one pass."""
    sampling: int = 25
    """Steps of sampling a picture of the person."""
    tunings: int = 20
    """Generations that are spent on turning knobs."""
    seed: int = 0
    """Names the whole demo."""

    def __post_init__(self):
        ranges.at_least(self, 1, "examples", "particles", "splits", "episodes", "drivers", "photos", "portrait_steps")
        ranges.at_least(self, 1, "sampling", "tunings")
        if self.portraits < 2:
            raise ConfigError(f"portraits: expected at least 2, whose disagreement can be shown, got {self.portraits}")
