"""What `bayes-persona sweep` takes: one dataclass, which is its command line and is saved beside its pictures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from bayes_persona.errors import ConfigError
from bayes_persona.persona.held import Held


@dataclass(frozen=True)
class Config:
    """How a subject is looked at.

    Raises:
        ConfigError: If there is nothing to look at.

    >>> Config(Path("me.safetensors"), Path("photos")).betas[0]
    0.3
    """

    file: Path
    """A personalization by Perfusion: personalization.safetensors of `bayes-persona personalize`."""
    photos: Path
    """Photos of the subject, to compare with."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What to show; {subject}, or the superclass with an article, is where the subject goes. May be given again."""
    betas: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    """Places of the gate."""
    taus: tuple[float, ...] = (0.15,)
    """Softnesses of the gate."""
    out: Path = Path("sweep")
    """Folder of pareto.png, pictures.png and results.json."""
    base: Path | None = None
    """Folder of the Stable Diffusion pipeline it was trained on; left out, the embedded model."""
    held: Held = field(default_factory=Held)
    """How the base model is held."""
    clip: Path | None = None
    """Folder of a CLIP model that judges pictures; needed for all but the embedded model."""
    pictures: int = 4
    """Pictures of each prompt at each gate."""
    member: int = 0
    """Which member of the posterior."""
    seed: int = 0
    """Names the noise that pictures begin with, the same at every gate."""

    def __post_init__(self):
        if not self.betas or not self.taus or self.pictures < 1:
            raise ConfigError("betas, taus, pictures: expected at least one of each")
