"""What `bayes-persona edit` takes: one dataclass, which is its command line and is saved beside its pictures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bayes_persona.errors import ConfigError
from bayes_persona.persona.held import Held


@dataclass(frozen=True)
class Config:
    """How a photo of someone who was learned is edited.

    Raises:
        ConfigError: If nothing is asked for.

    >>> Config(Path("me.png"), Path("personalization.safetensors"), ("a happy robot",)).steps
    50
    """

    photo: Path
    """The photo to edit. Beside NAME.png, NAME.txt or captions.json may say what it shows, with {subject} in it."""
    person: Path
    """Who is in it: personalization.safetensors of `bayes-persona personalize --method lipe` (or low_rank, or
    textual_inversion)."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """What it should show instead; {subject}, or the superclass with an article, is where the subject goes. Say the
    background as it is. May be given again, for several edits."""
    caption: str | None = None
    """What the photo shows, in the same words as the prompts but for what should change; left out, the file beside the
    photo says it, or for the embedded model what the oracles read."""
    out: Path = Path("edited")
    """Folder of the pictures, masks and the page."""
    base: Path | None = None
    """Folder of the Stable Diffusion pipeline it was trained on; left out, the embedded model."""
    held: Held = field(default_factory=Held)
    """How the base model is held."""
    member: int = 0
    """Which member of the posterior."""
    steps: int = 50
    """Steps between the photo and noise, and back."""
    guidance: float | None = None
    """Classifier-free guidance; more follows the prompt and leaves the photo. Left out, 1.5 for the embedded model
    and 7.5 for others."""
    inversion: Literal["ddim", "edit_friendly"] = "edit_friendly"
    """How the photo is walked back to noise: with a noise for every step, which keeps more of it, or by DDIM."""
    refinements: int = 0
    """Of DDIM: evaluations beyond the first that make each step back more exact."""
    threshold: float = 0.3
    """What counts as the subject, of the range of its words' attention; less paints more of the photo anew."""
    start: float = 0.4
    """Share of the first steps that the photo itself goes; less lets more change."""
    skip: float = 0.1
    """Share of the steps, the first after those, that are not blended with the photo, so that a pose can move."""
    grow: int | None = None
    """Pixels, of the model's latents, by which the mask is grown; left out, 0 for the embedded model and 1 for
    others, whose latents are finer."""
    feather: int | None = 2
    """Pixels over which the photo itself is faded in outside the mask; none leaves what the autoencoder gives."""
    seed: int = 0
    """Names the noises of edit-friendly inversion."""

    def __post_init__(self):
        if not self.prompt:
            raise ConfigError('prompt: say what the photo should show, such as --prompt "a happy robot on the beach"')
