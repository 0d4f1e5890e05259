"""What `bayes-persona rl` takes: one dataclass, which is its command line and is saved in its folder."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from bayes_persona import ranges
from bayes_persona.cpsrl.config import Config as AgentConfig
from bayes_persona.errors import ConfigError

Word = Literal["none", "true", "complete", "flat"]
"""What an agent may be told without a file: nothing; the true graph; that everything causes everything; or not even
that there are variables."""


@dataclass(frozen=True)
class Config:
    """Which world is learned, by which agent, told what, and how often.

    Raises:
        ConfigError: If a number is too small, the graph is neither a word nor a file's name, or `env_kwargs` is no
            JSON object.

    >>> Config(env="bayes_persona/Taxi-v0", env_kwargs='{"size": 3}').arguments
    {'size': 3}
    """

    env: str
    """Id of a Gymnasium environment, after the module that registers it and a colon if that is yours."""
    env_kwargs: str = "{}"
    """Arguments of the environment, as a JSON object."""
    graph: str = "none"
    """What is known of its causes: a file (.graphml, or .bif), or a word: none, true, complete or flat."""
    max_parents: int = 4
    """The most causes of one variable, where the graph is learned."""
    compare: tuple[Word, ...] = ()
    """Other agents, told this much, in the same worlds with the same seeds."""
    episodes: int = 300
    """Episodes of every agent."""
    seeds: int = 4
    """Repetitions of every agent; every interval is over these."""
    seed: int = 0
    """Names the whole run."""
    folder: Path = Path("runs/rl")
    """Where the pictures, the learned graph and the numbers go, and what a later command goes on from."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """How the agents plan."""

    def __post_init__(self):
        ranges.at_least(self, 1, "episodes", "seeds")
        ranges.at_least(self, 0, "max_parents")
        if self.graph not in get_args(Word) and Path(self.graph).suffix.lower() not in (".graphml", ".bif"):
            words = ", ".join(get_args(Word))
            raise ConfigError(f"graph: expected a file that ends in .graphml or .bif, or {words}; got {self.graph!r}")
        try:
            arguments = json.loads(self.env_kwargs)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"env_kwargs: not valid JSON ({error}); write it as '{{\"size\": 3}}'") from error
        if not isinstance(arguments, dict):
            raise ConfigError(f"env_kwargs: expected a JSON object like '{{\"size\": 3}}', got {self.env_kwargs}")

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the environment by name."""
        return json.loads(self.env_kwargs)
