"""Textual inversion in the manner of diffusers' `textual_inversion.py`: new words in the table, all else restored."""

from typing import Any

from bayes_persona.diffusion.adapter import Subject
from benchmarks.peers.loop import Given, add_words, train

WORDS = ("<me>", "<me>_1")


def fit(pipe: Any, given: Given, rate: float) -> Subject:
    """Teach a pipeline, which changes it, and say how prompts name who was learned."""
    subject = Subject(given.superclass)
    table, restore = add_words(pipe, WORDS, given.superclass)
    prompts = [subject.prompt(caption).replace(WORDS[0], " ".join(WORDS)) for caption in given.captions]
    train(pipe, [table], given, prompts, rate, after=restore)
    return subject
