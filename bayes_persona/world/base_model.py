"""The embedded text-to-image model: a small Stable Diffusion in the diffusers format, every size in one `Config`.

Pictures of 64 pixels, latents of 16, text keys and values at three resolutions of the U-Net, v-prediction on a schedule
that ends in pure noise (Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed").
"""

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from bayes_persona.errors import needs_extra
from bayes_persona.seeds import child
from bayes_persona.world import captions

with needs_extra("diffusion"):
    import torch
    from diffusers import (
        AutoencoderTiny,
        DDIMScheduler,
        DiffusionPipeline,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from tokenizers import pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

BOS, EOS, END = "<|startoftext|>", "<|endoftext|>", "</w>"


@dataclass(frozen=True)
class Config:
    """Sizes of the four networks.

    >>> Config().size // Config().latent_size
    4
    """

    size: int = 64
    """Pixels along a picture's side."""
    latent_channels: int = 8
    """Channels of a latent, whose side is a quarter of the picture's."""
    encoder_width: int = 32
    """Channels of the autoencoder's way in."""
    decoder_width: int = 24
    """Channels of its way out."""
    widths: tuple[int, ...] = (64, 96, 128)
    """Channels of the U-Net at 16, 8 and 4 latent pixels; the first two attend to the text on the way."""
    heads: int = 4
    """Attention heads, everywhere."""
    text_width: int = 128
    """Length of a token's embedding."""
    text_layers: int = 3
    """Layers of the text encoder."""
    words: int = 40
    """Tokens of a prompt, the first and last marks included."""

    @property
    def latent_size(self) -> int:
        """Latent pixels along a side."""
        return self.size // 4


def autoencoder(config: Config, seed: int) -> AutoencoderTiny:
    """Make an untrained autoencoder.

    >>> autoencoder(Config(), seed=0).config.latent_channels
    8
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child(seed, "autoencoder"))
        return AutoencoderTiny(
            # diffusers wants one width all the way in, and one all the way out
            encoder_block_out_channels=(config.encoder_width,) * 3,
            decoder_block_out_channels=(config.decoder_width,) * 3,
            num_encoder_blocks=(0, 1, 3),
            num_decoder_blocks=(4, 1, 1),
            latent_channels=config.latent_channels,
            scaling_factor=1.0,
        )


def text_encoder(config: Config, seed: int) -> CLIPTextModel:
    """Make an untrained text encoder for the closed vocabulary.

    >>> text_encoder(Config(text_width=16, text_layers=1), seed=0).config.max_position_embeddings
    40
    """
    words = tokenizer(config)
    ids = words.get_vocab()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child(seed, "text encoder"))
        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=config.text_width,
                intermediate_size=4 * config.text_width,
                projection_dim=config.text_width,
                num_hidden_layers=config.text_layers,
                num_attention_heads=config.heads,
                max_position_embeddings=config.words,
                bos_token_id=ids[BOS],
                eos_token_id=ids[EOS],
                pad_token_id=ids[EOS],
            )
        )


def unet(config: Config, seed: int) -> UNet2DConditionModel:
    """Make an untrained U-Net.

    >>> unet(Config(widths=(16, 16, 16), text_width=16), seed=0).config.sample_size
    16
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child(seed, "U-Net"))
        return UNet2DConditionModel(
            sample_size=config.latent_size,
            in_channels=config.latent_channels,
            out_channels=config.latent_channels,
            block_out_channels=config.widths,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=config.text_width,
            attention_head_dim=config.heads,  # diffusers' name for the number of heads
            norm_num_groups=16,
        )


def scheduler() -> DDIMScheduler:
    """Make the noise schedule: the last step is pure noise, so that colours need not leak through it.

    >>> float(scheduler().alphas_cumprod[-1]) < 1e-8, scheduler().config.clip_sample
    (True, False)
    """
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,  # clipping x0 without recomputing the noise turns guided colours into their complements
        set_alpha_to_one=True,
        steps_offset=1,  # trailing spacing has no use for it, but the pipeline insists
    )


def pipeline(
    autoencoder: AutoencoderTiny, text_encoder: CLIPTextModel, unet: UNet2DConditionModel, config: Config
) -> DiffusionPipeline:
    """Put the trained parts together.

    >>> sizes = Config(widths=(16, 16, 16), text_width=16, text_layers=1)
    >>> type(pipeline(autoencoder(sizes, 0), text_encoder(sizes, 0), unet(sizes, 0), sizes)).__name__
    'StableDiffusionPipeline'
    """
    parts: dict[str, Any] = {  # any: the pipeline's annotations know fewer classes than the pipeline
        "vae": autoencoder,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer(config),
        "unet": unet,
        "scheduler": scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
    }
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def tokenizer(config: Config) -> CLIPTokenizer:
    """Make CLIP's tokenizer for the closed vocabulary: each of its words is one token, other words fall into letters.

    >>> words = tokenizer(Config())
    >>> words.convert_ids_to_tokens(words("a happy cat").input_ids)
    ['<|startoftext|>', 'a</w>', 'happy</w>', 'cat</w>', '<|endoftext|>']
    """
    return copy.deepcopy(_tokenizer(config))  # whoever adds words to one adds them to no other model's


@cache
def _tokenizer(config: Config) -> CLIPTokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges(captions.vocabulary())
    tokens = [*letters, *(letter + END for letter in letters), *("".join(pair) for pair in merges), BOS, EOS]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=config.words)  # pyright: ignore[reportArgumentType]


def _merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merge the most frequent pair, the alphabet's first of several, until every word is one.

    The trainer of `tokenizers` numbers letters anew in every process, and breaks ties by their numbers.
    """
    split = {word: (*word[:-1], word[-1] + END) for word in words}
    merges = []
    while True:
        counts = Counter(pair for parts in split.values() for pair in pairwise(parts))
        if not counts:
            return merges
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        split = {word: _merged(parts, best) if best[0] in parts else parts for word, parts in split.items()}


def _merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged, k = [], 0
    while k < len(parts):
        together = parts[k : k + 2] == pair
        merged.append("".join(pair) if together else parts[k])
        k += 2 if together else 1
    return tuple(merged)
