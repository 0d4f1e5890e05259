"""Pictures with subjects who were introduced before: their masks, their places in the caption, and other pictures."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int, UInt8

from bayes_persona.errors import needs_extra
from bayes_persona.seeds import child
from bayes_persona.world import face, splits
from bayes_persona.world.captioned import PLACES, Captioned

with needs_extra("diffusion"):
    import torch
    from torch.nn import functional

LATENT = 16
"""Latent pixels along a side."""
SIDES = "on the left", "on the right"


@dataclass(frozen=True)
class Introduced:
    """Pictures of one or two subjects whom nobody knows by name, and what an encoder makes of other pictures of them.

    >>> drawn = Introduced.of([splits.sample(splits.Config(named=0.0, pairs=1.0), 0, seed=0)], references=2, seed=0)
    >>> drawn.masks.shape, drawn.features.shape, (drawn.nouns >= 0).tolist()
    ((1, 2, 16, 16), (1, 2, 2, 16), [[True, True]])
    """

    pixels: UInt8[np.ndarray, "n size size 3"]
    tokens: Int[np.ndarray, "n words"]
    """Captions."""
    weights: Float[np.ndarray, "n latent latent"]
    """How much each latent pixel counts; `Captioned` says why."""
    masks: Float[np.ndarray, "n places latent latent"]
    """1 for every latent pixel in which a subject shows, from left to right; nothing for who is not there."""
    nouns: Int[np.ndarray, "n places"]
    """Token of the caption that names each subject; -1 for who is not there."""
    features: Float[np.ndarray, "n places references width"]
    """What the encoder makes of other pictures of each subject, who is alone in them."""

    @classmethod
    def of(cls, examples: list[splits.Example], references: int, seed: int) -> "Introduced":
        """Draw examples, and `references` other pictures of everyone in them."""
        # counted as called by name, so that weights look closely at faces
        close = Captioned.of([one._replace(names=("",) * len(one.names)) for one in examples])
        masks = np.zeros((len(examples), PLACES, LATENT, LATENT), np.float16)
        nouns = np.full((len(examples), PLACES), -1, np.int32)
        features = np.zeros((len(examples), PLACES, references, face.WIDTH), np.float32)
        for i, example in enumerate(examples):
            nouns[i, : len(example.names)] = places(example)
            shown = torch.from_numpy(example.render().masks).float()
            masks[i, : len(shown)] = functional.adaptive_max_pool2d(shown, LATENT).numpy()
            for k, who in enumerate(example.scene.subjects):
                others = splits.photos(who.identity, references, seed=child(seed, "reference"))
                features[i, k] = face.encode(np.stack([other.render().pixels for other in others]))
        return cls(close.pixels, close.tokens, close.weights, masks, nouns, features)

    @classmethod
    def joined(cls, parts: "list[Introduced]") -> "Introduced":
        """Put parts together, in order.

        >>> one = Introduced.of([splits.sample(splits.Config(named=0.0), 0, seed=0)], references=1, seed=0)
        >>> len(Introduced.joined([one, one]).tokens)
        2
        """
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )


def places(example: splits.Example) -> list[int]:
    """Give the place, among the tokens of a caption, of the noun of each subject from left to right.

    Every word is a token, and the first token is a mark.

    >>> example = splits.sample(splits.Config(named=0.0, pairs=0.0), 3, seed=0)
    >>> example.caption.split()[places(example)[0] - 1] == example.scene.subjects[0].identity.superclass
    True
    """
    kinds = {who.identity.superclass for who in example.scene.subjects}
    found = [k for k, word in enumerate(example.caption.split(), start=1) if word in kinds]
    left, right = (example.caption.find(side) for side in SIDES)
    return found[::-1] if -1 < right < left else found
