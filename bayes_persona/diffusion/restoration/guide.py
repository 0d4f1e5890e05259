"""The guiding network of a restorer: a ControlNet that reads the latents of a bad photo and no text.

DiffBIR (Lin et al., ECCV 2024, arXiv 2308.15070) copies the U-Net's way in and gives its first convolution the photo's
latents beside the noisy ones. A convolution of both side by side is the sum of one of each, so diffusers' ControlNet
holds it as it is: `conv_in` of the noisy latents, and a second, zero at first, in the place of the pixels' stem.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from bayes_persona import named
from bayes_persona.diffusion import pipelines
from bayes_persona.diffusion.checkpointing import enable
from bayes_persona.diffusion.text import hidden, tokens
from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.files import load_arrays, save_arrays

with needs_extra("diffusion"):
    import torch
    from diffusers import ControlNetModel, DiffusionPipeline, UNet2DConditionModel
    from torch import nn

NAME = "guide.safetensors"
"""The file of a guide in its folder."""


class Guide(ControlNetModel):
    """A ControlNet whose condition is latents, and whose text is always the empty prompt, whatever it is given.

    Of SDXL the prompt's summary is the empty one's, too.

    diffusers' own pipelines run it as they run any other. Make one with `Guide.of`, or read it with `load`.

    >>> guide = Guide.of(pipelines.load())
    >>> tuple(guide.controlnet_cond_embedding.weight.shape), bool(guide.controlnet_cond_embedding.weight.any())
    ((64, 8, 3, 3), False)
    """

    empty: torch.Tensor
    summary: torch.Tensor | None

    @classmethod
    def of(cls, pipe: DiffusionPipeline) -> "Guide":
        """Copy a pipeline's way in; what it adds to the U-Net is nothing yet."""
        with torch.no_grad():
            place = pipelines.device(pipe)
            guide = cls.around(pipe.unet, *hidden(pipe, torch.tensor([tokens(pipe, "")], device=place)))
            guide.to(device=place)  # pyright: ignore[reportCallIssue]
        return guide

    @classmethod
    def around(
        cls,
        unet: UNet2DConditionModel,
        empty: Float[torch.Tensor, "1 words width"],
        summary: Float[torch.Tensor, "1 summary"] | None = None,
    ) -> "Guide":
        """Copy a U-Net's way in, and keep the states of the empty prompt, and of SDXL its summary."""
        shape: Any = unet.config
        with pipelines.quiet(), torch.device(str(unet.device)):
            stem = nn.Conv2d(shape.in_channels, shape.block_out_channels[0], 3, padding=1, bias=False)
            nn.init.zeros_(stem.weight)
            guide = cls.from_unet(unet, conditioning_channels=shape.in_channels)
            guide.controlnet_cond_embedding = stem  # pyright: ignore[reportAttributeAccessIssue]
            guide.register_buffer("empty", empty.clone())
            guide.register_buffer("summary", None if summary is None else summary.clone())
            guide.to(device=unet.device, dtype=unet.dtype)  # pyright: ignore[reportCallIssue]
        if unet.is_gradient_checkpointing:
            enable(guide)
        return guide.eval().requires_grad_(False)

    @property
    def fingerprint(self) -> str:
        """32 letters that change when any weight does."""
        weights = sorted(self.state_dict().items())
        return named.fingerprint((name, value.float().cpu().numpy()) for name, value in weights)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        controlnet_cond: torch.Tensor,
        conditioning_scale: float = 1.0,
        class_labels: torch.Tensor | None = None,
        timestep_cond: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        guess_mode: bool = False,
        return_dict: bool = True,
    ) -> Any:
        """Give what to add to the U-Net's skips and middle; `encoder_hidden_states` is not looked at."""
        if self.summary is not None and added_cond_kwargs is not None:
            added_cond_kwargs = {**added_cond_kwargs, "text_embeds": self.summary.expand(len(sample), -1)}
        return super().forward(
            sample,
            timestep,
            self.empty.expand(len(sample), -1, -1),
            controlnet_cond,
            conditioning_scale,
            class_labels,
            timestep_cond,
            attention_mask,
            added_cond_kwargs,
            cross_attention_kwargs,
            guess_mode,
            return_dict,
        )


def shipped() -> Path:
    """Give the folder of the guide that comes with the embedded model.

    >>> shipped().parts[-3:]
    ('world', 'assets', 'restorer')
    """
    return pipelines.embedded().parent / "restorer"


def save(folder: str | Path, guide: Guide, *, base: str, half: bool = False, **facts: Any) -> None:
    """Write a guide into a folder.

    Args:
        folder: Where.
        guide: The network.
        base: Fingerprint of the model that it guides.
        half: In half precision.
        **facts: More for people to know: plain JSON values.

    >>> import tempfile
    >>> pipe, folder = pipelines.load(), tempfile.mkdtemp()
    >>> save(folder, Guide.of(pipe), base=pipelines.fingerprint(pipe))
    >>> load(pipe, folder).fingerprint == Guide.of(pipe).fingerprint
    True
    """
    kind = np.float16 if half else np.float32
    arrays = {name: value.float().cpu().numpy().astype(kind) for name, value in guide.state_dict().items()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_arrays(Path(folder) / NAME, arrays, {"guides": base, **facts})


def load(pipe: DiffusionPipeline, folder: str | Path | None = None) -> Guide:
    """Read the guide of a pipeline, frozen and in evaluation mode.

    Args:
        pipe: The pipeline that it guides.
        folder: Where `save` wrote it; None is the one that comes with the embedded model.

    Raises:
        DataError: If the file is no guide.
        MismatchError: If it guides another model.
        RunError: If there is none, or it is damaged.

    >>> load(pipelines.load(), "nowhere")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere/guide.safetensors: there is no such file
    """
    path = (shipped() if folder is None else Path(folder)) / NAME
    arrays, about = load_arrays(path)
    if "guides" not in about:
        raise DataError(f"{path}: holds no guide; was it written by train_restorer?")
    base = pipelines.fingerprint(pipe)
    if about["guides"] != base:
        raise MismatchError(f"{path}: guides base model {about['guides']}, this is {base}; load that one, or train one")
    guide = Guide.of(pipe)
    want = {name: value.float().cpu().numpy() for name, value in guide.state_dict().items()}
    named.require_like({name: array.astype(np.float32) for name, array in arrays.items()}, want, str(path))
    guide.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return guide


@contextmanager
def guided(
    pipe: DiffusionPipeline, guide: Guide, condition: Float[torch.Tensor, "n c h w"], scale: float = 1.0
) -> Iterator[None]:
    """Inside the block, the pipeline's U-Net is guided: a hook adds what the guide makes of each batch.

    Whatever is attached to the U-Net or to the guide stays, so adapters, samplers and losses need not know of it.

    Args:
        pipe: The pipeline.
        guide: Its guide.
        condition: Latents of the bad photos, one a row; a batch of m times as many rows holds m such blocks.
        scale: How strongly the guide is heard; 0 is the U-Net alone.

    Raises:
        ConfigError: If the scale is negative.
        MismatchError: In the block, if a batch is not whole blocks of rows or has latents of another shape.

    >>> pipe = pipelines.load()
    >>> x, text = torch.ones(1, 8, 16, 16), torch.zeros(1, 40, 128)
    >>> with torch.no_grad(), guided(pipe, Guide.of(pipe), x):
    ...     inside = pipe.unet(x, 999, text).sample
    >>> bool((inside == pipe.unet(x, 999, text).sample).all())  # a new guide says nothing
    True
    """
    if not scale >= 0:
        raise ConfigError(f"scale: expected at least 0, got {scale}")

    def hear(unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        sample, time = args[:2]
        blocks, rest = divmod(len(sample), len(condition))
        if rest or not blocks or sample.shape[1:] != condition.shape[1:]:
            have, want = tuple(sample.shape), tuple(condition.shape)
            raise MismatchError(f"condition: latents of shape {want} cannot guide a batch of shape {have}")
        down, mid = guide(
            sample,
            time,
            args[2] if len(args) > 2 else kwargs["encoder_hidden_states"],
            condition.to(sample).repeat(blocks, 1, 1, 1),
            conditioning_scale=scale,
            added_cond_kwargs=kwargs.get("added_cond_kwargs"),
            return_dict=False,
        )
        more = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": mid}
        return args, {**kwargs, **more}

    handle = pipe.unet.register_forward_pre_hook(hear, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
