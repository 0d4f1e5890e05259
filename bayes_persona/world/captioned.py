"""Captioned pictures as arrays: what the base model is trained on, and where in them to look closely."""

from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
from jaxtyping import Float, Int, UInt8

from bayes_persona.errors import needs_extra
from bayes_persona.world import base_model, facts, splits
from bayes_persona.world.captions import parse
from bayes_persona.world.draw import Subject

with needs_extra("diffusion"):
    import torch
    from torch.nn import functional

PLACES = 2
"""Subjects that a picture holds at most; the only one stands in the first place."""
SUBJECT, DETAIL, MOST = 1.0, 80.0, 8.0
"""How much more a latent pixel counts where a subject is; what every detail of a subject adds, shared among the latent
pixels that it shows in; and the most that one of these gets of it."""
FEATURES = (("jaw",), ("nose size",), ("crest size", "crest shape"))
"""Identity factors that are details too: small in the picture, and what people are told apart by."""


@dataclass(frozen=True)
class Captioned:
    """Pictures, the tokens of their captions, what these say, and how much each latent pixel counts.

    A face is a hundredth of a picture, and so of the squared error, yet half of what people look at. So details count
    more, each by the same sum however small it is: the expression, and of those called by name the features of the
    face. Weights change what is learned first and not what is learned at last: the best prediction of a pixel is that
    under any weight.

    >>> drawn = Captioned.of([splits.sample(splits.Config(pairs=0.0), i, seed=0) for i in range(3)])
    >>> drawn.pixels.shape, drawn.weights.shape, drawn.labels.shape == (3, len(questions()))
    ((3, 64, 64, 3), (3, 16, 16), True)
    """

    pixels: UInt8[np.ndarray, "n size size 3"]
    """The pictures."""
    tokens: Int[np.ndarray, "n words"]
    """Their captions."""
    weights: Float[np.ndarray, "n latent latent"]
    """What each latent pixel's error is multiplied with; one on average."""
    labels: Int[np.ndarray, "n questions"]
    """What captions say, as indices into `questions()`; -1 is what they leave open."""
    z: Float[np.ndarray, "n places factors"]
    """Identity factors of those whom captions call by name, in units of their spread; NaN for the others."""

    @classmethod
    def of(cls, examples: list[splits.Example]) -> "Captioned":
        """Draw examples."""
        drawn = [example.render() for example in examples]
        weights = [_weights(example, *picture) for example, picture in zip(examples, drawn, strict=True)]
        told = [_told(example.caption) for example in examples]
        words = base_model.tokenizer(base_model.Config())
        return cls(
            pixels=np.stack([picture.pixels for picture in drawn]),
            tokens=np.array(words([one.caption for one in examples], padding="max_length").input_ids, np.int32),
            weights=np.stack(weights),
            labels=np.array([labels for labels, _ in told], np.int8),
            z=np.array([z for _, z in told], np.float32),
        )

    @classmethod
    def joined(cls, parts: "list[Captioned]") -> "Captioned":
        """Put parts together, in order.

        >>> one = Captioned.of([splits.sample(splits.Config(), 0, seed=0)])
        >>> len(Captioned.joined([one, one]).tokens)
        2
        """
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )


@cache
def questions() -> dict[str, tuple[str, ...]]:
    """Give what a caption may answer, and the possible answers.

    >>> list(questions())[:3]
    ['count', 'background', 'superclass 0']
    """
    each = {"superclass": facts.superclasses()} | {
        name: facts.choices(name) for name in facts.ATTRIBUTES if name != "background"
    }
    of_subjects = {f"{name} {place}": among for place in range(PLACES) for name, among in each.items()}
    return {"count": ("1", "2"), "background": facts.choices("background"), **of_subjects}


def _told(caption: str) -> tuple[list[int], np.ndarray]:
    said = parse(caption)
    answers = {"count": str(len(said.subjects)), "background": said.background}
    z = np.full((PLACES, len(facts.factors())), np.nan)
    for place, who in enumerate(said.subjects):
        answers |= {f"{name} {place}": value for name, value in vars(who).items()}
        if who.name is not None:
            # uniform between 0 and 1, so of standard deviation 12 ** -0.5
            z[place] = (np.array(splits.named()[who.name].z) - 0.5) * 12**0.5
    labels = [-1 if answers.get(name) is None else among.index(answers[name]) for name, among in questions().items()]
    return labels, z


def _weights(example: splits.Example, pixels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    scene, called = example.scene, [name is not None for name in example.names]
    weights = 1 + SUBJECT * _pooled(masks.max(axis=0))
    variants = [(len(called), [_another_mood(who) for who in scene.subjects])]
    if any(called):
        for names in FEATURES:
            others = [
                _another_face(who, names) if told else who for who, told in zip(scene.subjects, called, strict=True)
            ]
            variants.append((sum(called), others))
    for count, others in variants:
        # with the same seed, nothing but the detail differs
        redrawn = example._replace(scene=replace(scene, subjects=tuple(others))).render()
        shows = _pooled((redrawn.pixels != pixels).max(axis=-1))
        weights += shows * min(MOST, count * DETAIL / max(shows.sum(), 1))
    return (weights / weights.mean()).astype(np.float16)


def _another_mood(who: Subject) -> Subject:
    moods = facts.choices("expression")
    return replace(who, expression=moods[(moods.index(who.expression) + 1) % len(moods)])


def _another_face(who: Subject, names: tuple[str, ...]) -> Subject:
    z = [(at + 0.5) % 1 if name in names else at for name, at in zip(facts.factors(), who.identity.z, strict=True)]
    return replace(who, identity=replace(who.identity, z=tuple(z)))


def _pooled(mask: np.ndarray) -> np.ndarray:
    """Give 1 for every latent pixel that has one of the mask's."""
    return functional.max_pool2d(torch.from_numpy(mask).float()[None, None], 4)[0, 0].numpy()
