"""In the manner of Custom Diffusion (Kumari et al., CVPR 2023): a word, and all of the text's keys and values.

With pictures of anyone, which the base model draws here, where its authors look for real ones.
"""

from typing import Any

from bayes_persona.diffusion.adapter import Subject
from benchmarks.peers.loop import ANYONE, Given, add_words, class_pictures, train


def fit(pipe: Any, given: Given, rate: float) -> Subject:
    """Teach a pipeline, which changes it, and say how prompts name who was learned."""
    subject, anyone = Subject(given.superclass), class_pictures(pipe, given, ANYONE)
    table, restore = add_words(pipe, (subject.token,), given.superclass)
    layers = [layer for name, layer in pipe.unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    params = [value.requires_grad_(True) for layer in layers for value in layer.parameters()]
    prompts = [subject.prompt(caption) for caption in given.captions]
    train(pipe, [table, *params], given, prompts, rate, anyone=anyone, after=restore)
    return subject
