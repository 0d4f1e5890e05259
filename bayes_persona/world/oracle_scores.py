"""How well oracles read pictures whose truth is known."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bayes_persona.world import facts, oracles, splits
from bayes_persona.world.draw import Identity, Scene
from bayes_persona.world.oracle_net import View, questions
from bayes_persona.world.oracles import Oracles, Reading

EIGHTY = 1.2816
"""So many standard deviations around a mean hold 80 % of a normal distribution."""


def scores(
    part: splits.Part = "held out",
    n: int = 1000,
    *,
    seed: int,
    reader: Oracles | None = None,
    through: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, Any]:
    """Measure oracles on fresh pictures of identities without names.

    Args:
        part: Whom they show: `"held out"` or `"base"`.
        n: Pictures; three in ten have two subjects.
        seed: Names them; scores were shipped for others than training and error bars were made with.
        reader: Which oracles; the shipped ones if none are given.
        through: What happens to the pictures before they are read: a blur, an autoencoder.

    >>> found = scores(n=60, seed=5)
    >>> found["attributes_min"] > 0.8, sorted(found)[:3]
    (True, ['attributes', 'attributes_min', 'coverage80'])
    """
    reader = oracles.load() if reader is None else reader
    examples = [splits.sample(splits.Config(named=0.0), i, seed=seed, part=part) for i in range(n)]
    pixels = np.stack([example.render().pixels for example in examples])
    pixels = pixels if through is None else through(pixels)
    scenes = [example.scene for example in examples]
    found = {"n": n, "seed": seed, "part": part, **_scored(reader.read(pixels), [truth(scene) for scene in scenes])}
    for view in ("left", "right"):
        pair = [k for k, scene in enumerate(scenes) if len(scene.subjects) == 2]
        found[f"{view} of two"] = _scored(reader.read(pixels[pair], view), [truth(scenes[k], view) for k in pair])
    return found


class Truth(NamedTuple):
    """What there is to be read from a view of a scene: the only subject of it, and the answers to some questions.

    >>> truth(splits.sample(splits.Config(named=0.0, pairs=1.0), 0, seed=0).scene).identity is None
    True
    """

    identity: Identity | None
    answers: dict[str, str]


def truth(scene: Scene, view: View = "whole") -> Truth:
    """Say what there is to be read from a scene.

    >>> scene = splits.sample(splits.Config(named=0.0, pairs=1.0), 0, seed=0).scene
    >>> sorted(truth(scene).answers), sorted(truth(scene, "left").answers)[:3]
    (['background', 'count', 'left', 'right'], ['accessory', 'background', 'clothing'])
    """
    answers, pair = {"background": scene.background}, len(scene.subjects) == 2
    if view == "whole":
        answers["count"] = str(len(scene.subjects))
        if pair:
            answers |= {side: scene.subjects[k].identity.superclass for k, side in enumerate(("left", "right"))}
    if pair == (view == "whole"):
        return Truth(None, answers)
    who = scene.subjects[-1 if view == "right" else 0]
    told = {name: getattr(who, name) for name in facts.ATTRIBUTES if name != "background"}
    return Truth(who.identity, {**answers, **told, "superclass": who.identity.superclass})


def _scored(reading: Reading, truths: Sequence[Truth]) -> dict[str, Any]:
    right = {}
    for question in questions():
        asked = [k for k, true in enumerate(truths) if question in true.answers]
        given = reading.answers(question)
        if asked:
            right[question] = float(np.mean([given[k] == truths[k].answers[question] for k in asked]))
    who = [(k, true.identity) for k, true in enumerate(truths) if true.identity is not None]
    rows, kinds = [k for k, _ in who], [identity.superclass for _, identity in who]
    z, z_read, sd = np.array([identity.z for _, identity in who]), reading.z[rows], reading.sd[rows]
    agreement = oracles.identity_r2(z, z_read, kinds)
    shown = np.array([[factor in facts.visible(kind) for factor in facts.factors()] for kind in kinds])
    inside = np.where(shown, np.abs(z_read - z) <= EIGHTY * sd, np.nan)
    return {
        "identity_r2": agreement.mean,
        "identity_r2_pooled": agreement.pooled,
        "identity_r2_by_factor": agreement.table,
        "coverage80": float(np.nanmean(inside)),
        "coverage80_by_factor": dict(zip(facts.factors(), np.nanmean(inside, axis=0).tolist(), strict=True)),
        "attributes_min": min(right.values()),
        "attributes": right,
    }
