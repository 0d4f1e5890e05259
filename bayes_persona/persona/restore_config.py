"""What `bayes-persona restore` takes: one dataclass, which is its command line and is saved beside its page."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bayes_persona import ranges
from bayes_persona.persona.held import Held


@dataclass(frozen=True)
class Config:
    """How a photo is restored.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Config(Path("old.jpg"), Path("me.safetensors")).prompt
    '{subject}'
    """

    photo: Path
    """The bad photo; its middle square is restored, at the size of the model's pictures."""
    person: Path
    """Whose it is: personalization.safetensors of `bayes-persona personalize --method dual_pivot`."""
    prompt: str = "{subject}"
    """What it shows; {subject} is the person. What else is said of them is edited."""
    out: Path = Path("restored")
    """Folder of the page and the pictures."""
    truth: Path | None = None
    """The same photo undamaged, where there is one, to measure PSNR and SSIM by."""
    base: Path | None = None
    """Folder of the Stable Diffusion pipeline that the person was learned on; left out, the embedded model."""
    held: Held = field(default_factory=Held)
    """How the base model is held."""
    guide: Path | None = None
    """Folder of its guide; left out, the embedded model's."""
    steps: int = 25
    """Steps of sampling."""
    guidance: float = 1.0
    """Classifier-free guidance; 1 turns it off. More makes the prompt's edits stronger."""
    scale: float = 1.0
    """How strongly the photo is heard; less leaves more to the person."""
    colour: Literal["wavelet", "adain", "none"] = "wavelet"
    """Where colours come from: the photo's low frequencies, its means and deviations, or the model alone."""
    seed: int = 0
    """Names the noise that the picture begins with."""

    def __post_init__(self):
        ranges.at_least(self, 1, "steps")
        ranges.at_least(self, 0, "guidance", "scale")
