"""A start for the words that mixtures of attention make of pictures: the names of people whom the base model knows.

Of `ada brook the woman` the state of the last word of the name says most of who it is. So the net that makes words of
pictures first learns to say of the 240 named people what their names say, which takes seconds and no U-Net.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np

from bayes_persona import loop
from bayes_persona.diffusion import train
from bayes_persona.diffusion.adapters.moa import mixture, tokens
from bayes_persona.errors import needs_extra
from bayes_persona.seeds import child, generator
from bayes_persona.types import Params
from bayes_persona.world import face, splits
from bayes_persona.world.captions import caption
from bayes_persona.world.draw import Identity

with needs_extra("diffusion"):
    import torch

PHOTOS, CAPTIONS = 2, 4
"""Drawn pictures, and captions, of each named person."""
NOISE = 0.2
"""Added to what the encoder reads, in units of its spread: there are few people to learn from."""
BATCH = 64


def words(
    pipe, start: mixture.Mixture, *, steps: int, seed: int, names: Mapping[str, Identity] | None = None
) -> Params:
    """Give the parameters of a mixture's words, trained to say of named people what their names say.

    Args:
        pipe: The embedded base model.
        start: The mixture to start from.
        steps: Steps of training.
        seed: Names the run.
        names: Whom the model knows; None is all.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe, few = load(), {"ada finch": splits.named()["ada finch"]}
    >>> start = mixture.build(pipe, mixture.Config(feature=face.WIDTH, hidden=8, frequencies=4))
    >>> bool(words(pipe, start, steps=1, seed=0, names=few)["token.last.weight"].any())
    True
    """
    text, marks, who, target = people(pipe, seed, names)
    own = {name: value for name, value in start.params.items() if name.startswith("token.")}
    blocks = 1 + max(mixture.layers(pipe.unet).values())

    def batch(step: int) -> torch.Tensor:
        return torch.from_numpy(generator(seed, "words", step).integers(len(text), size=BATCH))

    loss = partial(_loss, blocks, text, marks, who, target)
    walk = train.Config(rate=2e-3, warmup=20, cooldown_at=steps // 2, cooldown=max(1, steps - steps // 2))
    state, _ = loop.run(train.AdamW(own, loss, walk), batch, steps=steps, seed=child(seed, "words"))
    return {name: np.asarray(value) for name, value in state.params.items()}


@torch.no_grad()
def people(
    pipe, seed: int, names: Mapping[str, Identity] | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give encoded captions of anyone, marks of their nouns, vectors of named people, and what their names say.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> text, marks, who, said = people(load(), 0, {"ada finch": splits.named()["ada finch"]})
    >>> text.shape, marks.sum().item(), said.shape
    (torch.Size([4, 40, 128]), 4.0, torch.Size([4, 128]))
    """
    plain, called, nouns, said, features = [], [], [], [], []
    for name, identity in (splits.named() if names is None else names).items():
        shown = splits.photos(identity, max(PHOTOS, CAPTIONS), seed=child(seed, "well known"))
        vectors = face.encode(np.stack([one.render().pixels for one in shown[:PHOTOS]]))
        for k, example in enumerate(shown[:CAPTIONS]):
            text = caption(example.scene, [name], seed=example.seed, drop=0.3)
            anyone = text.replace(f"{name} the ", "a ")
            mood = anyone.partition(f" a {identity.superclass}")[0].split()[-1:]
            if mood and mood[0] == example.scene.subjects[0].expression:  # `happy ada brook the woman`
                anyone = anyone.replace(f"{mood[0]} a ", f"a {mood[0]} ", 1)
            plain.append(anyone)
            called.append(text)
            nouns.append(anyone.split().index(identity.superclass) + 1)
            said.append(text.split().index(name.split()[1]) + 1)
            features.append(vectors[k % PHOTOS])
    states = [_encoded(pipe, texts) for texts in (plain, called)]
    row = torch.arange(len(plain))
    marks = torch.nn.functional.one_hot(torch.tensor(nouns), states[0].shape[1])[..., None].float()
    return states[0], marks, torch.from_numpy(np.stack(features))[:, None], states[1][row, torch.tensor(said)]


def _loss(blocks, text, marks, who, target, params: train.Tensors, rows: torch.Tensor, noise: torch.Generator):
    seen = who[rows] + NOISE * torch.randn(who[rows].shape, generator=noise)
    time, layer = 1000 * torch.rand(len(rows), generator=noise), torch.randint(blocks, (), generator=noise)
    said = tokens.told(params, text[rows], marks[rows], seen, time, int(layer))
    return ((said * marks[rows]).sum(dim=1) - target[rows]).square().mean()


def _encoded(pipe, texts: list[str]) -> torch.Tensor:
    ids = torch.tensor(pipe.tokenizer(texts, padding="max_length").input_ids)
    return torch.cat([pipe.text_encoder(part)[0] for part in ids.split(64)])
