"""Train the demo's net on printed digits and write its weights: `python -m bayes_persona.demo.pretrain`.

The upstream task of the demo. It takes a minute on two cores and gives the shipped file again, bit for bit on the same
versions of torch and pillow.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bayes_persona.demo.digits import CLASSES, DigitNet, handwritten, printed
from bayes_persona.errors import needs_extra
from bayes_persona.files import save_arrays
from bayes_persona.metrics import accuracy
from bayes_persona.nptl import classification
from bayes_persona.nptl.learner_torch import Config as Fit
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.seeds import child

with needs_extra("demo"):
    import torch
    import tyro
    from rich.console import Console

THREADS = 2
"""Part of the recipe: sums in another order give another net."""


@dataclass(frozen=True)
class Config:
    """How the upstream net is made."""

    out: Path = Path("bayes_persona/demo/assets/digit_net.safetensors")
    """Where the weights go."""
    pictures: int = 20_000
    """Printed digits to learn from."""
    steps: int = 4_000
    """Gradient steps."""
    seed: int = 0
    """Names the initial weights, the pictures and their order."""


def main(config: Config) -> None:
    """Train, save, and say how well printed and handwritten digits are read."""
    torch.set_num_threads(THREADS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child(config.seed, "init"))
        net = DigitNet()
    learner = TorchLearner(net, Fit(steps=config.steps, batch=128, lr=0.05, weight_decay=1e-4), head="head")
    x, y = printed(config.pictures, config.seed)
    params = learner.fit(learner.params, classification(x, y, CLASSES), child(config.seed, "fit"))
    x_held, y_held = printed(2_000, child(config.seed, "held out"))
    _, _, x_hand, y_hand = handwritten(1, seed=0)
    scores = {
        "printed_accuracy": accuracy(learner.predict(params, x_held), y_held),
        "handwritten_accuracy": accuracy(learner.predict(params, x_hand), y_hand),
    }
    about = {"seed": config.seed, "pictures": config.pictures, "steps": config.steps}
    save_arrays(config.out, params, {**about, **{name: round(score, 4) for name, score in scores.items()}})
    size = sum(array.nbytes for array in params.values())
    Console().print(f"{config.out}: {size:,} bytes, {np.round(list(scores.values()), 3)} {list(scores)}")


if __name__ == "__main__":
    main(tyro.cli(Config))
