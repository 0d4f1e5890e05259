"""A random Stable Diffusion that is small enough to run in every test, and exact copies of what a network holds."""

from dataclasses import replace

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from bayes_persona.world import base_model

SIZES = base_model.Config(widths=(16, 16, 16), text_width=16, text_layers=1)
LATENT = (SIZES.latent_channels, SIZES.latent_size, SIZES.latent_size)
"""Shape of one picture's latents."""


def tiny(seed=0):
    """The embedded base's architecture at its narrowest, untrained: 64 pixels, latents of shape LATENT, 40 words."""
    parts = (make(SIZES, seed) for make in (base_model.autoencoder, base_model.text_encoder, base_model.unet))
    pipe = base_model.pipeline(*parts, SIZES)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_xl(seed=0):
    """The same as SDXL has it: two text encoders, a summary of the text, another token to pad with in the second."""
    pipe, sizes = tiny(seed), replace(SIZES, text_layers=2)
    first, wide = base_model.text_encoder(sizes, seed), {"hidden_size": 24, "intermediate_size": 24}
    config = CLIPTextConfig(**{**first.config.to_dict(), **wide, "projection_dim": 12})
    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    told |= {"cross_attention_dim": 16 + 24, "projection_class_embeddings_input_dim": 12 + 6 * 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        second = CLIPTextModelWithProjection(config)
        known = {key: value for key, value in pipe.unet.config.items() if not key.startswith("_")}
        unet = UNet2DConditionModel(**{**known, **told})
    for part in (first, second, unet):
        part.eval().requires_grad_(False)
    other = base_model.tokenizer(SIZES)
    other.pad_token = "!"
    made = StableDiffusionXLPipeline(pipe.vae, first, second, pipe.tokenizer, other, unet, pipe.scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def noise(*shape, seed=0):
    """Normal numbers of a shape, (n, *LATENT) for latents."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def snapshot(root):
    """Every module by name and identity, in order, and a copy of every number."""
    modules = [(name, id(module)) for name, module in root.named_modules(remove_duplicate=False)]
    return modules, {name: value.clone() for name, value in root.state_dict().items()}


def untouched(root, before):
    """Whether a network is, object for object and bit for bit, what `snapshot` saw."""
    modules, numbers = snapshot(root)
    same = list(numbers) == list(before[1]) and all(torch.equal(numbers[name], before[1][name]) for name in numbers)
    return modules == before[0] and same
