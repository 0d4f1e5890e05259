"""Text-to-image models of the Stable Diffusion class: load one from a folder, and tell it from others.

Nothing here reaches for the network, unless asked to.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from bayes_persona import named
from bayes_persona.diffusion.checkpointing import enable
from bayes_persona.errors import ConfigError, DataError, RunError, needs_extra
from bayes_persona.files import load_json

with needs_extra("diffusion"):
    import diffusers
    import torch
    import transformers
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

CLASSES = {
    "StableDiffusionPipeline": "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline": "StableDiffusionPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLPipeline",
}
"""What `model_index.json` may call a model, and what it is loaded as: the same networks under either name."""
NETWORKS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}
"""The networks of such a model, and the classes that each may be of; the second text encoder is SDXL's."""

LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")
"""Where the other parts of a model may come from: nowhere, the libraries, or the first one's folder of that name."""


def embedded() -> Path:
    """Give the folder of the small model that comes with the package.

    >>> embedded().parts[-3:]
    ('world', 'assets', 'base')
    """
    return Path(str(resources.files("bayes_persona"))) / "world" / "assets" / "base"


def load(
    path: str | Path | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    hub: bool = False,
    checkpointing: bool = False,
    offload: bool = False,
) -> DiffusionPipeline:
    """Load a model for use: in evaluation mode, frozen, without progress bars.

    Args:
        path: Folder of a diffusers model with safetensors weights; None is the one that comes with the package.
        device: Where it goes, such as `cpu` or `cuda`.
        dtype: Precision of its numbers; None is float32, whatever the files hold.
        hub: Take `path` for a name on the Hugging Face hub, which diffusers may download.
        checkpointing: Compute the U-Net's blocks again for their gradients instead of keeping what they remember.
        offload: Leave the networks in main memory, each but while it is used, as diffusers' `enable_model_cpu_offload`
            does; `at_hand` has them all on the device.

    Raises:
        ConfigError: If the device cannot be used, or is the CPU, from which nothing can be taken off.
        DataError: If the folder holds no diffusers model, or one of another class.
        RunError: If the folder is absent or damaged.

    >>> load("nowhere")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere: there is no such folder; for a name on the hub, say hub=True
    """
    where, exact = embedded() if path is None else path, torch.float32 if dtype is None else dtype
    try:
        with quiet():
            folder = Path(StableDiffusionPipeline.download(str(where), use_safetensors=True)) if hub else Path(where)
            pipe = _assembled(folder, _index(folder), exact)
    except (ConfigError, DataError, RunError):
        raise
    except Exception as error:  # diffusers, transformers and safetensors each have their own for a damaged folder
        raise RunError(f"{where}: cannot be loaded ({error}); restore it or save it anew") from error
    try:
        if offload and torch.device(device).type == "cpu":
            raise ConfigError("offload: takes networks off a GPU while they wait; on cpu there is nothing to gain")
        with quiet():
            pipe = pipe.to("cpu" if offload else device, exact)
            if offload:
                pipe.enable_model_cpu_offload(device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(f"device: {device} cannot be used ({error}); cpu always can") from error
    for part in NETWORKS:
        if getattr(pipe, part, None) is not None:
            getattr(pipe, part).eval().requires_grad_(False)
    if checkpointing:
        enable(pipe.unet)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def device(pipe: DiffusionPipeline) -> torch.device:
    """Give where a pipeline computes, which is not where its networks wait if they are offloaded.

    >>> device(load())
    device(type='cpu')
    """
    return pipe._execution_device  # what diffusers itself asks; it has no other name


@contextmanager
def at_hand(pipe: DiffusionPipeline) -> Iterator[None]:
    """Inside the block, all networks of an offloaded pipeline stay on its device, as gradients need them to.

    A gradient goes back through networks that were used before the last; one that had left by then would be elsewhere.

    >>> with at_hand(pipe := load()):
    ...     pipe.unet.device
    device(type='cpu')
    """
    if not any(hasattr(net, "_hf_hook") for net in pipe.components.values()):
        yield
        return
    place = device(pipe)
    pipe.remove_all_hooks()
    pipe.to(place)
    try:
        yield
    finally:
        pipe.enable_model_cpu_offload(device=place)


def fingerprint(pipe: DiffusionPipeline, parts: Sequence[str] = tuple(NETWORKS)) -> str:
    """Give 32 letters that change when any weight does, but not with the device, nor with half precision made full.

    Of `parts`, all networks by default. Attached parts count: take it while nothing is attached.

    Raises:
        ConfigError: If weights are not in memory, as with diffusers' sequential offload.

    >>> unet = diffusers.UNet2DConditionModel(block_out_channels=(32,), down_block_types=("DownBlock2D",),
    ...     up_block_types=("UpBlock2D",), layers_per_block=1, cross_attention_dim=8, attention_head_dim=4)
    >>> scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    >>> pipe = StableDiffusionPipeline(None, None, None, unet, scheduler, None, None, requires_safety_checker=False)
    >>> before = fingerprint(pipe)
    >>> _ = torch.nn.init.zeros_(unet.conv_out.weight)
    >>> fingerprint(pipe) == before
    False
    """
    nets = {part: net for part in parts if (net := getattr(pipe, part, None)) is not None}
    tensors = {f"{part}.{name}": value for part, net in nets.items() for name, value in net.state_dict().items()}
    if away := [name for name, value in tensors.items() if value.is_meta]:
        raise ConfigError(f"{away[0]}: is not in memory; sequential offload cannot be used, load(offload=True) can")
    return named.fingerprint((name, _exact(tensors[name])) for name in sorted(tensors))


def _exact(value: torch.Tensor) -> np.ndarray:
    """Give one weight as an array, half precision made full: all at once would be twice the model."""
    return (value.float() if value.dtype in (torch.float16, torch.bfloat16) else value).detach().cpu().numpy()


def frozen(folder: str | Path, *kinds: Any) -> tuple[Any, ...]:
    """Load helpers, such as a segmenter and its processor, from one folder as `save_pretrained` wrote it.

    Args:
        folder: The folder; nothing is looked for anywhere else.
        *kinds: Classes of transformers; networks come in evaluation mode, and frozen.

    Raises:
        RunError: If the folder is absent or damaged.

    >>> frozen("nowhere", transformers.CLIPModel)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere: there is no such folder; download the model and name where it is
    """
    if not Path(folder).is_dir():
        raise RunError(f"{folder}: there is no such folder; download the model and name where it is")
    made = []
    for kind in kinds:
        weights = {"use_safetensors": True} if torch.nn.Module in kind.__mro__ else {}
        try:
            one = kind.from_pretrained(folder, local_files_only=True, **weights)
        except Exception as error:  # transformers and safetensors each have their own for a damaged folder
            raise RunError(f"{folder}: cannot be loaded ({error}); restore it or save it anew") from error
        made.append(one.eval().requires_grad_(False) if weights else one)
    return tuple(made)


def size(pipe: DiffusionPipeline) -> int:
    """Give the side, in pixels, of the square pictures that a model was made for.

    >>> unet = diffusers.UNet2DConditionModel(16, block_out_channels=(32,), down_block_types=("DownBlock2D",),
    ...     up_block_types=("UpBlock2D",), layers_per_block=1, cross_attention_dim=8, attention_head_dim=4)
    >>> scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    >>> size(StableDiffusionPipeline(None, None, None, unet, scheduler, None, None, requires_safety_checker=False))
    128
    """
    return pipe.unet.config.sample_size * pipe.vae_scale_factor


def _index(folder: Path) -> dict[str, Any]:
    """Read what a folder says it holds, and refuse what is not a Stable Diffusion."""
    if not folder.is_dir():
        advice = "for a name on the hub, say hub=True"
        if folder == embedded():
            advice = "train it with: python -m bayes_persona.world.train_base, or give the folder of a model"
        raise RunError(f"{folder}: there is no such folder; {advice}")
    if not (folder / "model_index.json").is_file():
        raise DataError(
            f"{folder}: no model_index.json in it, so it is no diffusers model; save one with save_pretrained"
        )
    index = load_json(folder / "model_index.json")
    have = index.get("_class_name") if isinstance(index, dict) else None
    if have not in CLASSES:
        raise DataError(f"{folder}: holds a {have}; only models of class {' or '.join(CLASSES)} can be used")
    for part, classes in _networks(index).items():
        have = _named(index.get(part))[1]
        if have not in classes:
            raise DataError(f"{folder}: its {part} is a {have}; only {' or '.join(classes)} can be used")
    _require_of_libraries(folder, index)
    return index


def _named(part: Any) -> tuple[Any, Any]:
    """Give the library and the class of a part."""
    return (part[0], part[1]) if isinstance(part, list) and len(part) == 2 else (None, part)


def _require_of_libraries(folder: Path, index: dict[str, Any]) -> None:
    """Refuse parts of modules that nobody knows, and settings that diffusers would look for on the hub."""
    for part, have in index.items():
        if isinstance(have, list) and _named(have)[0] not in LIBRARIES:
            raise DataError(f"{folder}: its {part} is of {_named(have)[0]}; only parts of the libraries can be used")
    for path in (*folder.glob("*/config.json"), *folder.glob("*/scheduler_config.json")):
        if not isinstance(load_json(path), dict):  # diffusers takes a text for the name of a model, and asks for it
            raise DataError(f"{path}: expected a JSON object; restore it or save the model anew")


def _assembled(folder: Path, index: dict[str, Any], dtype: torch.dtype) -> DiffusionPipeline:
    """Load the networks one by one: only so do diffusers and transformers tell which weights were not in the files."""
    parts = {}
    for part in _networks(index):
        library, name = index[part]
        kind = getattr({"diffusers": diffusers, "transformers": transformers}[library], name)
        parts[part], info = kind.from_pretrained(
            folder / part, use_safetensors=True, local_files_only=True, output_loading_info=True, dtype=dtype
        )
        if missing := sorted(info["missing_keys"]):
            raise RunError(
                f"{folder / part}: lacks {len(missing)} weights, {missing[0]} first; restore it or save it anew"
            )
    kind = getattr(diffusers, CLASSES[index["_class_name"]])
    return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, **parts)


def _networks(index: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    two = CLASSES[index["_class_name"]] == "StableDiffusionXLPipeline"
    return {part: classes for part, classes in NETWORKS.items() if two or part != "text_encoder_2"}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the bars and warnings of diffusers and transformers from the screen: what matters is raised.

    >>> with quiet():
    ...     transformers.utils.logging.get_verbosity() == transformers.utils.logging.ERROR
    True
    """
    logs: list[Any] = [diffusers.utils.logging, transformers.utils.logging]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    try:
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        yield
    finally:
        for log, (verbosity, bars) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()
