"""The loop of diffusers' examples of training, written anew: photos, their noise, one prediction, AdamW, and so on."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from bayes_persona.diffusion import generate
from bayes_persona.diffusion.latents import encode
from bayes_persona.seeds import child

ANYONE = 8
"""Pictures of anyone, for methods that keep their prior."""


class Given(NamedTuple):
    """What a method is given: photos and what is said of them, who they show, how long, and a seed."""

    pixels: np.ndarray
    captions: tuple[str, ...]
    superclass: str
    steps: int
    rows: int
    seed: int


def train(
    pipe: Any,
    params: Iterable[nn.Parameter],
    given: Given,
    prompts: Sequence[str],
    rate: float,
    *,
    anyone: tuple[np.ndarray, Sequence[str]] | None = None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Train what is not frozen; half of every batch is anyone, for prior preservation, if there are such pictures."""
    random = torch.Generator().manual_seed(given.seed)
    optimizer = torch.optim.AdamW(list(params), lr=rate)
    sets = [(encode(pipe, given.pixels), list(prompts))]
    if anyone is not None:
        sets.append((encode(pipe, anyone[0]), list(anyone[1])))
    each = given.rows // len(sets)
    for _ in range(given.steps):
        latents, texts = [], []
        for pictures, said in sets:
            picked = torch.randint(len(said), (each,), generator=random)
            latents.append(pictures[picked])
            texts += [said[k] for k in picked]
        clean = torch.cat(latents)
        noise = torch.randn(clean.shape, generator=random)
        time = torch.randint(pipe.scheduler.config.num_train_timesteps, (len(clean),), generator=random)
        noisy = pipe.scheduler.add_noise(clean, noise, time)
        guess = pipe.unet(noisy, time, _read(pipe, texts)).sample
        aim = noise if pipe.scheduler.config.prediction_type == "epsilon" else None
        aim = pipe.scheduler.get_velocity(clean, noise, time) if aim is None else aim
        loss = nn.functional.mse_loss(guess, aim) * len(sets)  # each half's own mean, added up
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        after()


def class_pictures(pipe: Any, given: Given, count: int) -> tuple[np.ndarray, list[str]]:
    """Let the base model draw anyone of the superclass, as DreamBooth does before it starts."""
    texts = [f"a {given.superclass}"] * count
    return generate.sample(pipe, texts, generate.noise(pipe, count, child(given.seed, "anyone"))), texts


def add_words(pipe: Any, words: Sequence[str], superclass: str) -> tuple[nn.Parameter, Callable[[], None]]:
    """Give the table with new words that start as the superclass, and what undoes changes of all the others."""
    pipe.tokenizer.add_tokens(list(words))
    encoder = pipe.text_encoder
    encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    (start,) = pipe.tokenizer(superclass, add_special_tokens=False).input_ids
    new = pipe.tokenizer.convert_tokens_to_ids(list(words))
    with torch.no_grad():
        table[new] = table[start].clone()
    before = table.detach().clone()
    others = torch.ones(len(table), dtype=torch.bool)
    others[new] = False
    table.requires_grad_(True)

    def restore() -> None:
        with torch.no_grad():
            table[others] = before[others]

    return table, restore


def _read(pipe: Any, texts: Sequence[str]) -> torch.Tensor:
    ids = pipe.tokenizer(
        list(texts), padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=True,
        return_tensors="pt",
    ).input_ids  # fmt: skip
    return pipe.text_encoder(ids)[0]
