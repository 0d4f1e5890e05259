"""Folders as Stable Diffusion 1.5 and XL come in, with every weight of their size, drawn at random: nobody's pictures.

Networks are made and written one after another, so that XL needs no more memory than its U-Net.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, PNDMScheduler, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Name = Literal["sd15", "sdxl"]
WORDS = 49408
"""Rows of CLIP's table, and words of its tokenizer."""
PARAMETERS = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}
"""What the published checkpoints have, and what is made here is checked against."""
UNET: dict[str, dict[str, Any]] = {
    "sd15": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
SMALL: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
BIG: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
}
KNOWN = ("a", "an", "the", "of", "in", "on", "at", "robot", "cat", "woman", "man", "happy", "sad", "night", "snow")
"""Words that are one token; all others fall into letters."""


def folder(name: Name, under: Path) -> Path:
    """Give a model's folder, made unless it is there."""
    place = under / name
    if not (place / "model_index.json").is_file():
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)  # drawn in the precision that they are kept in
        try:
            for part, make in _networks(name):
                net = make()
                have, want = sum(value.numel() for value in net.parameters()), PARAMETERS[name][part]
                assert have == want, f"{part}: {have} parameters, not {want}"
                net.save_pretrained(place / part)
                del net
        finally:
            torch.set_default_dtype(torch.float32)
        _small_things(name, place)
    return place


def _networks(name: Name) -> Iterator[tuple[str, Callable[[], Any]]]:
    blocks = {
        f"{way}_block_types": (f"{kind}Block2D",) * 4 for way, kind in (("down", "DownEncoder"), ("up", "UpDecoder"))
    }
    size = {"sample_size": 8 * UNET[name]["sample_size"], "block_out_channels": (128, 256, 512, 512)}
    more = {"layers_per_block": 2, "scaling_factor": 0.18215 if name == "sd15" else 0.13025}
    yield "vae", lambda: AutoencoderKL(**blocks, **size, **more)  # pyright: ignore[reportArgumentType]
    yield "text_encoder", lambda: CLIPTextModel(_text(SMALL, 768))
    if name == "sdxl":
        yield "text_encoder_2", lambda: CLIPTextModelWithProjection(_text(BIG, 1280))
    yield "unet", lambda: UNet2DConditionModel(**UNET[name])


def _text(size: dict[str, Any], projection: int) -> CLIPTextConfig:
    """Give the shape of a text encoder; the last two words are its marks, as in the published ones."""
    marks: dict[str, Any] = {"bos_token_id": WORDS - 2, "eos_token_id": WORDS - 1, "pad_token_id": WORDS - 1}
    return CLIPTextConfig(vocab_size=WORDS, max_position_embeddings=77, projection_dim=projection, **size, **marks)


def _small_things(name: Name, place: Path) -> None:
    """Write what is no network: words, noise schedule, and what the folder holds."""
    noise: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    if name == "sd15":
        schedule = PNDMScheduler(**noise, skip_prk_steps=True, set_alpha_to_one=False)
    else:
        schedule = EulerDiscreteScheduler(**noise, timestep_spacing="leading")
    schedule.save_pretrained(place / "scheduler")
    _tokenizer(place / "tokenizer", "<|endoftext|>")
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", type(schedule).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if name == "sdxl":
        _tokenizer(place / "tokenizer_2", "!")
        index |= {
            "_class_name": "StableDiffusionXLPipeline",
            "force_zeros_for_empty_prompt": True,
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
        }
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    (place / "model_index.json").write_text(json.dumps(index, indent=2))


def _tokenizer(place: Path, pad: str) -> None:
    """Write a tokenizer of CLIP's kind, size and files: few words that can be read, and the rest to fill it up."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in KNOWN:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges += [(parts[0], parts[1])] if (parts[0], parts[1]) not in merges else []
            parts = ["".join(parts[:2]), *parts[2:]]
    known = [*letters, *(f"{letter}</w>" for letter in letters), *dict.fromkeys("".join(pair) for pair in merges)]
    filled = [f"<unread{k}>" for k in range(WORDS - 2 - len(known))]
    words = {word: k for k, word in enumerate([*known, *filled, "<|startoftext|>", "<|endoftext|>"])}
    place.mkdir(parents=True, exist_ok=True)
    (place / "vocab.json").write_text(json.dumps(words))
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""]))
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    told = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad, **marks}
    (place / "tokenizer_config.json").write_text(json.dumps(told))
