"""A random Stable Diffusion that is small enough to run in every test, and exact copies of what a network holds."""

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
    """The same as SDXL has it: a second text encoder, with a projection, whose tokenizer pads with another token."""
    pipe = tiny(seed)
    config = CLIPTextConfig(**{**pipe.text_encoder.config.to_dict(), "hidden_size": 24, "intermediate_size": 24})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        second = CLIPTextModelWithProjection(config).eval().requires_grad_(False)
    other = base_model.tokenizer(SIZES)
    other.pad_token = "a"
    parts = (pipe.vae, pipe.text_encoder, second, pipe.tokenizer, other, pipe.unet, pipe.scheduler)
    return StableDiffusionXLPipeline(*parts)


def sdxl(seed=0):
    """The same with the U-Net of SDXL's kind, which is told the summary of the text and the size of the picture."""
    pipe = tiny_xl(seed)
    sizes = {"cross_attention_dim": 40, "addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    own = {**pipe.unet.config, **sizes, "projection_class_embeddings_input_dim": 6 * 4 + 16}
    del own["_use_default_values"]  # they would be used instead
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe.unet = UNet2DConditionModel.from_config(own).eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


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
