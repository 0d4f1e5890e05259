"""Celebrities: whom a base model knows by name, and whose faces the oracles have seen if it is the embedded one."""

from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from bayes_persona.diffusion.adapter import Subject
from bayes_persona.diffusion.adapters.celeb_basis.basis import build
from bayes_persona.diffusion.adapters.celeb_basis.faces import Face, face, nearest
from bayes_persona.diffusion.adapters.celeb_basis.method import CelebBasis
from bayes_persona.diffusion.text import encoders
from bayes_persona.world import oracles, splits

PHOTOS = 2
"""Drawn pictures of each named person that the oracles read."""


def method(pipe: Any, subject: Subject, photos: UInt8[np.ndarray, "n h w 3"], *, embedded: bool) -> CelebBasis:
    """Give Celeb Basis for a pipeline; in the embedded one it starts at whoever of the subject's kind is most alike.

    Args:
        pipe: The base model.
        subject: Who is learned.
        photos: Their photos.
        embedded: Whether the pipeline is the embedded one; of another no faces are known, only names.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe, photo = load(), splits.photos(splits.named()["ada finch"], 1, seed=0)[0].render().pixels
    >>> method(pipe, Subject("woman"), photo[None], embedded=True).like
    'ada finch'
    """
    if not embedded:
        return CelebBasis(subject, build(encoders(pipe), pipe.tokenizer))
    basis = build(encoders(pipe), pipe.tokenizer, splits.named())
    return CelebBasis(subject, basis, like=nearest(seen(photos), faces()))


@cache
def faces() -> MappingProxyType[str, Face]:
    """Give what the oracles see in every named person of PersonaWorld.

    >>> len(faces()), len(faces()["ada finch"])
    (240, 48)
    """
    people = splits.named()
    drawn = {name: splits.photos(who, PHOTOS, seed=0) for name, who in people.items()}
    pixels = np.stack([photo.render().pixels for photos in drawn.values() for photo in photos])
    every = oracles.load().read(pixels).embedding.reshape(len(people), PHOTOS, -1)
    return MappingProxyType({name: face(own, lambda own: own) for name, own in zip(people, every, strict=True)})


def seen(photos: UInt8[np.ndarray, "n h w 3"]) -> Face:
    """Give what the oracles see in someone.

    >>> len(seen(np.zeros((2, 64, 64, 3), np.uint8)))
    48
    """
    return face(photos, lambda pixels: oracles.load().read(pixels).embedding)
