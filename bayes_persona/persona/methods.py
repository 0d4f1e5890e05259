"""The methods by name, as commands make them: each with what it needs besides photos, and rates that suit them."""

from collections.abc import Callable
from typing import Any

from bayes_persona.diffusion.adapter import Adapter, Subject
from bayes_persona.diffusion.adapters.moa.method import Cast
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.errors import ConfigError
from bayes_persona.persona import celebrities, dual, introductions, lipe
from bayes_persona.persona.base_measure import Shown
from bayes_persona.persona.config import Config

RATES = {
    "textual_inversion": 2e-1,
    "low_rank": 1e-2,
    "perfusion": 2e-2,
    "celeb_basis": 6e-2,
    "moa": 1e-2,
    "lipe": 1e-2,
    "dual_pivot": 5e-3,
}
"""Of the embedded model: what benchmarks found good on people that are never reported; MoA's is a guess."""
WEB_RATES = {
    "textual_inversion": 5e-3,
    "low_rank": 1e-4,
    "perfusion": 3e-2,
    "celeb_basis": 1e-2,
    "lipe": 1e-4,
    "dual_pivot": 1e-4,
}
"""Of Stable Diffusion: what the methods' own code or diffusers' examples use, not tried here."""
EMBEDDED, WEB = "{token} the {superclass}", "{token} {superclass}"
"""How a prompt names the subject: in the embedded model's grammar, and for models of the web's captions."""


def subject(config: Config) -> Subject:
    """Name who is learned.

    >>> from pathlib import Path
    >>> subject(Config(Path("photos"), "robot")).phrase
    '<me> the robot'
    """
    if config.method == "moa":
        return Cast(config.superclass, config.token)
    return Subject(config.superclass, config.token, EMBEDDED if config.base is None else WEB)


def rate(config: Config) -> float:
    """Give the learning rate: the config's own, or one that suits method and model.

    >>> from pathlib import Path
    >>> rate(Config(Path("photos"), "robot", method="low_rank")), rate(Config(Path("photos"), "robot", rate=0.5))
    (0.01, 0.5)
    """
    if config.rate is not None:
        return config.rate
    return (RATES if config.base is None else WEB_RATES)[config.method]


def adapter(config: Config, pipe: Any, who: Subject, shown: Shown) -> Adapter:
    """Give the method that a config names.

    Args:
        config: Of `bayes-persona personalize`.
        pipe: The base model.
        who: As `subject` names them.
        shown: Their photos.

    Raises:
        ConfigError: If the model lacks what the method needs.

    >>> import numpy as np
    >>> from pathlib import Path
    >>> from bayes_persona.diffusion.pipelines import load
    >>> config = Config(Path("photos"), "robot", method="perfusion")
    >>> black = Shown(np.zeros((1, 64, 64, 3), np.uint8), ("a robot",))
    >>> adapter(config, load(), subject(config), black).method
    'perfusion'
    """
    embedded = config.base is None

    def mixture() -> Adapter:
        if not embedded:
            raise ConfigError(
                "method: moa needs a mixture that was trained for this model; see docs/moa.md for how to train one"
            )
        assert isinstance(who, Cast)
        return introductions.method(pipe, who, [shown.pixels])

    made: dict[str, Callable[[], Adapter]] = {
        "textual_inversion": lambda: TextualInversion(who),
        "low_rank": lambda: LowRank(who),
        "perfusion": lambda: Perfusion(who),
        "celeb_basis": lambda: celebrities.method(pipe, who, shown.pixels, embedded=embedded),
        "moa": mixture,
        "lipe": lambda: lipe.method(pipe, who, config.photos, config.out / "others", embedded=embedded),
        "dual_pivot": lambda: dual.method(pipe, who, config.guide, embedded=embedded),
    }
    return made[config.method]()
