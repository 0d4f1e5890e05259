"""Our methods beside those that people use: `python -m benchmarks.peers [--only transfer rl layer adapters]`.

Install the peers with `pip install 'bayes-persona[peers]'`; one that cannot be imported is left out with a message.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import tyro

from benchmarks.peers import adapters, layer, rl, transfer
from benchmarks.rows import save

Part = Literal["transfer", "rl", "layer", "adapters"]


@dataclass(frozen=True)
class Config:
    """What to compare."""

    only: tuple[Part, ...] = ("transfer", "rl", "layer", "adapters")
    """Parts to measure; the rows of the others are kept."""
    splits: int = 10
    """Splits of the handwritten digits."""
    worlds: int = 12
    """Worlds that agents live in."""
    people: int = 12
    """Held-out people."""


def main(config: Config) -> None:
    torch.set_num_threads(1)
    parts = {
        "transfer": lambda: transfer.rows(config.splits),
        "rl": lambda: rl.rows(config.worlds),
        "layer": layer.rows,
        "adapters": lambda: adapters.rows(config.people),
    }
    for name in config.only:
        save("peers", parts[name]())


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
