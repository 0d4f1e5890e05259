"""What PersonaWorld says of a photo, for editing: expression, pose, clothes and scene as the oracles read them."""

from itertools import product

import numpy as np
from jaxtyping import UInt8

from bayes_persona.seeds import child, generator
from bayes_persona.world import facts, oracles
from bayes_persona.world.captions import caption
from bayes_persona.world.draw import Identity, Scene, Subject


class World:
    """A captioner (`lipe.captions.Captioner`) for photos of PersonaWorld.

    >>> from bayes_persona.world import splits
    >>> (photo,) = splits.photos(splits.held_out(1, seed=0)[0], 1, seed=0)
    >>> World()(photo.render().pixels[None], "man")
    ['in a meadow a man looking grumpy wearing green with glasses facing front']
    """

    def __call__(self, pixels: UInt8[np.ndarray, "n h w 3"], superclass: str) -> list[str]:
        """Say what every photo shows, but for who it is."""
        seen = oracles.load().read(pixels)
        answers = [seen.answers(name) for name in facts.ATTRIBUTES]
        told = [dict(zip(facts.ATTRIBUTES, one, strict=True)) for one in zip(*answers, strict=True)]
        return [_said(superclass, one, child(0, "caption", k)) for k, one in enumerate(told)]


def grid(superclass: str, n: int, *, seed: int = 0) -> tuple[str, ...]:
    """Give prompts of anyone: every pose with every expression before every background, mixed, in clothes by chance.

    Args:
        superclass: What is shown.
        n: How many; after 120 they begin anew, in other clothes.
        seed: Names them; the first few are the same however many there are.

    >>> grid("robot", 2)[1]
    'in the city a robot looking calm wearing purple facing left'
    """
    names = ("pose", "expression", "background")
    every = list(product(*(facts.choices(name) for name in names)))
    prompts: list[str] = []
    for k in range(n):
        order = generator(seed, "grid", k // len(every)).permutation(len(every))
        rng = generator(seed, "grid", "clothes", k)
        worn = {name: facts.choices(name)[rng.integers(len(facts.choices(name)))] for name in ("clothing", "accessory")}
        told = dict(zip(names, every[order[k % len(every)]], strict=True)) | worn
        prompts.append(_said(superclass, told, child(seed, "grid", "words", k)))
    return tuple(prompts)


def _said(superclass: str, told: dict[str, str], seed: int) -> str:
    own = {name: value for name, value in told.items() if name != "background"}
    anyone = Identity(superclass, (0.5,) * len(facts.factors()))
    return caption(Scene((Subject(anyone, **own),), told["background"]), seed=seed)
