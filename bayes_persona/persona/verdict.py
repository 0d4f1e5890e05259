"""Do we know this person well enough, and if not, which photo would help most?

Members of a posterior draw the subject in several situations from common noise, and an identity net reads who it sees.
Where members part, the photos have left the person open: a photo of that situation is worth most. Whether the photos
are of one person at all is read off the photos themselves.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from bayes_persona.diffusion import generate
from bayes_persona.diffusion.adapter import Adapter
from bayes_persona.errors import DataError
from bayes_persona.persona import uncertainty
from bayes_persona.persona.scorers import Oracle
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar

Reader = Callable[[UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, "n d"]]
"""An identity net: pictures to vectors."""
SURE = 0.05
"""Disagreement, as `dispersion` gives it, below which members are as one. Two pictures of one person in different
situations have about as much between them for PersonaWorld's oracles."""
SITUATIONS = {
    "a happy look": "{subject} looking happy",
    "a sad look": "{subject} looking sad",
    "the left side": "{subject} facing left",
    "the right side": "{subject} facing right",
}
"""What PersonaWorld can draw."""
WEB_SITUATIONS = {
    "a smile": "a photo of {subject} smiling",
    "the side": "a photo of {subject} from the side",
    "the whole body": "a full body photo of {subject}",
    "other light": "a photo of {subject} at night",
}
"""What models of the web's captions can draw of almost anyone."""
ONE = 0.5
"""Cosine of two photos below which they are of two people, for PersonaWorld's oracles."""


class Verdict(NamedTuple):
    """How well somebody is known, and what is missing.

    >>> Verdict(True, 0.02, {"sad": 0.02}, ()).text
    'confident: members agree on who this is (0.020, and 0.050 would be too much)'
    """

    confident: bool
    dispersion: float
    """Mean over situations: 0 if all members show one person, 1 if they have nothing in common."""
    situations: dict[str, float]
    """The same for each."""
    strangers: tuple[int, ...]
    """Numbers of photos that seem to be of somebody else than most."""
    sure: float = SURE

    @property
    def wanted(self) -> str:
        """The situation of which a photo would help most."""
        return max(self.situations, key=self.situations.__getitem__)

    @property
    def text(self) -> str:
        """The verdict in a sentence, with the numbers behind it."""
        numbers = f"({self.dispersion:.3f}, and {self.sure:.3f} would be too much)"
        if self.strangers:
            which = ", ".join(str(number + 1) for number in self.strangers)
            return f"photos of two subjects: photo {which} seems to show somebody else; leave one of the two out"
        if self.confident:
            return f"confident: members agree on who this is {numbers}"
        want = f"a photo of {self.wanted} would help most ({self.situations[self.wanted]:.3f})"
        return f"needs more photos: members show different people {numbers}; {want}"


def judge(
    pipe: Any,
    adapter: Adapter,
    posterior: Posterior,
    photos: UInt8[np.ndarray, "m h w 3"],
    situations: Mapping[str, str],
    *,
    noises: int = 2,
    seed: int = 0,
    reader: Reader | None = None,
    sure: float = SURE,
    one: float = ONE,
    config: generate.Config | None = None,
    title: str | None = None,
) -> Verdict:
    """Say how well somebody is known.

    Args:
        pipe: The base model.
        adapter: The method.
        posterior: Its members.
        photos: The photos that it was learned from.
        situations: Prompts by the name of what a photo of it would show, such as `SITUATIONS`.
        noises: Pictures of each situation by each member; all members begin with the same noises.
        seed: Names the noises.
        reader: The identity net; None is PersonaWorld's oracles.
        sure: Dispersion that is too much.
        one: Cosine of two photos below which they are of two people.
        config: How pictures are sampled.
        title: Name beside the progress bar; None shows none.

    Raises:
        DataError: If there is one member only, no situation, or the reader gives something else than a vector of
            finite numbers for each picture.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> photo, words = np.zeros((1, 8, 8, 3), np.uint8), TextualInversion(Subject("robot"))
    >>> judge(None, words, Posterior(({},)), photo, SITUATIONS)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.DataError: posterior: one member cannot disagree with itself; draw at least two
    """
    if len(posterior) < 2:
        raise DataError("posterior: one member cannot disagree with itself; draw at least two")
    if not situations:
        raise DataError("situations: expected at least one prompt, by the name of what it shows")
    read = Oracle().vectors if reader is None else reader
    start, found = generate.noise(pipe, noises, seed), {}
    with bar(title, total=len(situations)) as advance:
        for name, prompt in situations.items():
            pixels = uncertainty.pictures(pipe, adapter, posterior, prompt, start, config)
            vectors = _vectors(read, pixels.reshape(-1, *pixels.shape[2:]))
            found[name] = dispersion(vectors.reshape(*pixels.shape[:2], -1))
            advance(dispersion=found[name])
    overall = float(np.mean(list(found.values())))
    return Verdict(overall <= sure, overall, found, strangers(_vectors(read, photos), one), sure)


def dispersion(vectors: Float[np.ndarray, "members noises d"]) -> float:
    """Give how far members are apart: 1 less the mean cosine of two members' pictures from one noise.

    >>> dispersion(np.array([[[1.0, 0.0]], [[1.0, 0.0]]])), dispersion(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]))
    (0.0, 1.0)
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    cosines = np.einsum("ksd,lsd->skl", unit, unit)
    members = len(unit)
    return float(1 - (cosines.sum(axis=(1, 2)) - members).mean() / (members * (members - 1)))


def strangers(vectors: Float[np.ndarray, "m d"], one: float = ONE) -> tuple[int, ...]:
    """Give the photos that are unlike most others: those with a median cosine to the others below `one`.

    Of two photos that are unlike each other nobody can say which is the stranger: both are given.

    >>> me, other = [1.0, 0.0], [0.0, 1.0]
    >>> strangers(np.array([me, me, other])), strangers(np.array([me, other])), strangers(np.array([me, me]))
    ((2,), (0, 1), ())
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    apart = [np.median(np.delete(row, number)) < one for number, row in enumerate(cosines)] if len(unit) > 1 else []
    return tuple(number for number, away in enumerate(apart) if away)


def _vectors(reader: Reader, pixels: np.ndarray) -> np.ndarray:
    vectors = np.asarray(reader(pixels))
    if vectors.ndim != 2 or len(vectors) != len(pixels) or not np.isfinite(vectors).all():
        raise DataError(
            f"reader: expected a vector of finite numbers for each of {len(pixels)} pictures, got {vectors.shape}"
        )
    return vectors
