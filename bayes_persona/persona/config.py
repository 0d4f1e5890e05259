"""What `bayes-persona personalize` takes: one dataclass, which is its command line and is saved beside its page."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bayes_persona import ranges
from bayes_persona.errors import ConfigError
from bayes_persona.persona.held import Held


@dataclass(frozen=True)
class Config:
    """How a folder of photos becomes a posterior over personalized models.

    Raises:
        ConfigError: If a number is too small, or something is asked for that needs a judge.

    >>> Config(photos=Path("photos"), superclass="robot").particles
    8
    """

    photos: Path
    """Folder of pictures of one subject. Beside NAME.png, NAME.txt may say what it shows, with {subject} in it, and
    masks/NAME.png where in it the subject is (white)."""
    superclass: str
    """What the subject is, in the base model's words: robot, woman, cat, man."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What to show; {subject}, or the superclass with an article, is where the subject goes. May be given again."""
    out: Path = Path("personalized")
    """Folder of the page, the pictures and the personalization; a run that was killed goes on from there."""
    base: Path | None = None
    """Folder of a Stable Diffusion pipeline in the diffusers format; left out, the embedded model."""
    held: Held = field(default_factory=Held)
    """How the base model is held."""
    method: Literal["textual_inversion", "low_rank", "perfusion", "celeb_basis", "moa", "lipe", "dual_pivot"] = (
        "textual_inversion"
    )
    """How the model is told of the subject. `moa` needs hardly any steps; `lipe` is for `bayes-persona edit`: captions
    should say pose, expression and scene, and others.json among the photos may list prompts for pictures of anyone,
    which it learns as well; `dual_pivot` is for `bayes-persona restore`."""
    token: str = "<me>"
    """The new word for the subject."""
    guide: Path | None = None
    """Folder of the guide that restores photos, for dual_pivot; left out, the embedded model's."""
    segmenter: Path | None = None
    """Folder of a CLIPSeg model that finds the superclass in photos without masks, so that only it is learned."""
    particles: int = 8
    """Members of the posterior."""
    alpha: float | Literal["held-out"] = 1.0
    """How many photos the prior is worth; 0 trusts the photos alone, `held-out` leaves out each in turn and takes what
    tells it best, which trains for every photo and four candidates."""
    base_measure: Literal["generated", "distilled"] = "generated"
    """What the prior is: pictures of anyone that the model makes first, or what it predicts for anyone on the photos'
    own noised latents."""
    steps: int = 200
    """Steps of training, which all members take together."""
    rate: float | None = None
    """Learning rate; left out, one that suits the method."""
    snr: float | None = None
    """Weight steps of little noise as if their signal-to-noise ratio were this at most; 5 is usual, none weights all
    alike."""
    pictures: int = 2
    """Pictures of each prompt that every member makes."""
    tune: int = 0
    """Generations that may be spent on finding good gates, knobs and guidance by C-PSRL; 0 leaves them as they are."""
    earlier: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Folder that this command wrote of an earlier subject with the same method and --tune: what knobs did there is
    believed to be much the same here. May be given again."""
    judge: Path | None = None
    """Folder of a CLIP model that says who and what pictures show, for the verdict and --tune; the embedded model has
    oracles of its own."""
    sampling: int = 25
    """Steps of sampling a picture."""
    guidance: float | None = None
    """Classifier-free guidance; left out, 3 for the embedded model and 7.5 for others."""
    seed: int = 0
    """Names the run."""

    def __post_init__(self):
        ranges.at_least(self, 1, "particles", "steps", "pictures", "sampling")
        ranges.at_least(self, 0, "tune")
        if self.alpha != "held-out":
            ranges.at_least(self, 0, "alpha")
        if self.tune and self.base is not None and self.judge is None:
            raise ConfigError("tune: pictures of this model need a judge; give --judge the folder of a CLIP model")

        if self.earlier and not self.tune:
            raise ConfigError("earlier: is for --tune, and no generations are to be spent; give --tune 20")

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, or the plain subject where none was given."""
        return self.prompt or ("{subject}",)
