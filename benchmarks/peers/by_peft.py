"""DreamBooth in the manner of diffusers' `train_dreambooth_lora.py`: PEFT's LoRA, and pictures of anyone."""

from typing import Any

from peft import LoraConfig

from bayes_persona.diffusion.adapter import Subject
from benchmarks.peers.loop import ANYONE, Given, class_pictures, train

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def fit(pipe: Any, given: Given, rate: float) -> Subject:
    """Teach a pipeline, which changes it, and say how prompts name who was learned."""
    subject, anyone = Subject(given.superclass), class_pictures(pipe, given, ANYONE)
    pipe.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=TARGETS))
    params = [value for value in pipe.unet.parameters() if value.requires_grad]
    prompts = [subject.prompt(caption) for caption in given.captions]
    train(pipe, params, given, prompts, rate, anyone=anyone)
    return subject
