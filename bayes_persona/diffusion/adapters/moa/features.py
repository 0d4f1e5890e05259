"""What a mixture is good for: one picture of several people, people in between, other people in real pictures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from bayes_persona.diffusion import generate, inversion, pipelines
from bayes_persona.diffusion.adapters.moa.method import FEATURE, MoA, blended
from bayes_persona.diffusion.adapters.moa.now import require_tokens
from bayes_persona.diffusion.adapters.moa.routers import shares
from bayes_persona.diffusion.latents import decode, encode
from bayes_persona.diffusion.text import Hidden, added, conditions, hidden, tokens
from bayes_persona.errors import ConfigError, DataError, needs_extra
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from torch.nn import functional

OWN = 0.5
"""A latent pixel is the subject's where the experts' share is more than so much of its largest."""


def swapped(
    pipe: DiffusionPipeline,
    method: MoA,
    people: Sequence[Mapping[str, Any]],
    prompt: str,
    start: Float[torch.Tensor, "1 c h w"],
    config: generate.Config | None = None,
) -> UInt8[np.ndarray, "n height width 3"]:
    """Make the same picture of several people: the noise and the prompt are the same, the vectors are not.

    Args:
        pipe: The pipeline.
        method: How they are named; its own vectors are not used.
        people: Params of one member each.
        prompt: Speaks of every subject.
        start: The noise.
        config: Steps and guidance.

    Raises:
        ConfigError: If the prompt does not speak of a subject, or there is nobody.

    >>> from bayes_persona.diffusion.adapters.moa.method import Cast, Mixture, mixtures
    >>> from diffusers import StableDiffusionPipeline
    >>> pipe = StableDiffusionPipeline(None, None, None, None, None, None, None, requires_safety_checker=False)
    >>> method = MoA(Cast("robot"), Mixture(mixtures.Config(feature=1), {}, base="…", encoder="…"), ((0.0,),))
    >>> swapped(pipe, method, [], "a robot <me>", torch.zeros(1, 4, 8, 8))
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: people: there is nobody to show
    """
    require_tokens([prompt], method.subject.tokens)
    if not people:
        raise ConfigError("people: there is nobody to show")
    params = {FEATURE: np.concatenate([np.asarray(one[FEATURE])[:1] for one in people])}
    with method.attached(pipe, params, torch.arange(len(people))):
        return generate.sample(pipe, [prompt] * len(people), start.expand(len(people), -1, -1, -1), config)


def morphed(
    pipe: DiffusionPipeline,
    method: MoA,
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    prompt: str,
    start: Float[torch.Tensor, "1 c h w"],
    config: generate.Config | None = None,
    *,
    steps: int = 5,
) -> UInt8[np.ndarray, "steps height width 3"]:
    """Make the same picture on the way from one person to another, both ends included.

    Raises:
        ConfigError: If the prompt does not speak of a subject, or there are fewer than two steps.

    >>> from bayes_persona.diffusion.adapters.moa.method import Cast, Mixture, mixtures
    >>> from diffusers import StableDiffusionPipeline
    >>> pipe = StableDiffusionPipeline(None, None, None, None, None, None, None, requires_safety_checker=False)
    >>> method = MoA(Cast("robot"), Mixture(mixtures.Config(feature=1), {}, base="…", encoder="…"), ((0.0,),))
    >>> morphed(pipe, method, {}, {}, "a robot <me>", torch.zeros(1, 4, 8, 8), steps=1)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: steps: expected at least the two ends, got 1
    """
    if steps < 2:
        raise ConfigError(f"steps: expected at least the two ends, got {steps}")
    way: list[Params] = [blended(one, other, amount) for amount in np.linspace(0, 1, steps).tolist()]
    return swapped(pipe, method, way, prompt, start, config)


class Placed(NamedTuple):
    """A real picture with somebody else in it.

    >>> blank = np.zeros((1, 64, 64, 3), np.uint8)
    >>> Placed(blank, blank, np.zeros((1, 16, 16), bool)).mask.any()
    np.False_
    """

    pixels: UInt8[np.ndarray, "n height width 3"]
    reconstructed: UInt8[np.ndarray, "n height width 3"]
    """What the prior alone makes of the picture's noise: how exact the inversion was."""
    mask: Bool[np.ndarray, "n h w"]
    """Latent pixels that were given to the new subject, on the grid of the latents."""


@torch.no_grad()
def placed(
    pipe: DiffusionPipeline,
    method: MoA,
    params: Mapping[str, Any],
    pixels: UInt8[np.ndarray, "n height width 3"],
    prompts: Sequence[str],
    config: inversion.Config | None = None,
    *,
    guidance: float = 1.0,
    keep: bool = True,
    masks: Bool[np.ndarray, "_n _height _width"] | None = None,
) -> Placed:
    """Put other people into real pictures: the way back to noise is the prior's, the way to the picture the mixture's.

    Args:
        pipe: The pipeline, whose own scheduler is not used: both ways are deterministic DDIM.
        method: Who is shown instead.
        params: Their vectors, of one member.
        pixels: The pictures.
        prompts: What they show, with the subjects' words behind the nouns of who is to be replaced.
        config: Steps of both ways, and how exact the way back is; its guidance must be 1.
        guidance: Of the way to the picture; much more than 1 leaves the picture.
        keep: Outside the subject, take the real picture's latents at every step. Where the subject is, the routers say
            in a first pass, unless there are masks.
        masks: Where in the pictures the new subjects may be.

    Raises:
        ConfigError: If a prompt does not speak of a subject, or the way back has guidance.
        DataError: If pictures are not of the model's size, or masks not of the pictures'; or if the way back diverges.

    >>> from bayes_persona.diffusion.adapters.moa.method import Cast, Mixture, mixtures
    >>> from diffusers import StableDiffusionPipeline
    >>> pipe = StableDiffusionPipeline(None, None, None, None, None, None, None, requires_safety_checker=False)
    >>> method = MoA(Cast("robot"), Mixture(mixtures.Config(feature=1), {}, base="…", encoder="…"), ((0.0,),))
    >>> placed(pipe, method, {}, np.zeros((1, 8, 8, 3), np.uint8), ["a robot at night"])
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: prompt: 'a robot at night' does not say who is <me>; write it behind the noun
    """
    config = inversion.Config(refinements=3) if config is None else config
    _require(pipe, method, pixels, prompts, masks)
    if config.guidance != 1:
        raise ConfigError(f"guidance: the way back needs 1, got {config.guidance}; guide the way to the picture")
    plain = [method.subject.anyone(prompt) for prompt in prompts]
    latents = encode(pipe, pixels)
    said = _said(pipe, plain)
    path = inversion.invert(pipe, latents, said.states, config, added=added(pipe, said))
    if not bool(torch.isfinite(path[-1]).all()) or float(path[-1].std()) > 3:
        raise DataError("pixels: the way back to noise diverges; more steps or a truer prompt may help")
    again = inversion.regenerate(pipe, path[-1], said.states, config, added=added(pipe, said))
    source = path.flip(0)  # from noise to the picture
    with method.watched(pipe, params, torch.zeros(1, dtype=torch.long)) as now:
        text, empty = _said(pipe, prompts), _said(pipe, [""] * len(prompts))

        def way(own: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
            x, seen = source[0], []
            for k, step in enumerate(inversion.walk(pipe, config.steps)):
                guess = _guess(pipe, x, step.time, text, empty, guidance)
                maps = shares(now, len(x))
                if len(maps):
                    seen.append(torch.from_numpy(maps.mean(axis=0)))
                x = step.keep * x + step.add * guess
                if own is not None:
                    x = torch.where(own[:, None], x, source[k + 1])
            return x, torch.stack(seen).mean(dim=0).to(x.device) if seen else torch.zeros_like(x[:, 0])

        own = None if masks is None else _small(masks, latents)
        if keep and own is None:
            share = way(None)[1]
            own = share > OWN * share.amax(dim=(1, 2), keepdim=True)
        elif not keep:
            own = None
        x, share = way(own)
    mask = torch.ones_like(share, dtype=torch.bool) if own is None else own
    return Placed(decode(pipe, x), decode(pipe, again), mask.cpu().numpy())


def _guess(pipe, x: torch.Tensor, time: int, text: Hidden, empty: Hidden, guidance: float) -> torch.Tensor:
    if guidance == 1:
        return pipe.unet(x, time, **conditions(pipe, text)).sample
    pooled = None if text.pooled is None or empty.pooled is None else torch.cat([empty.pooled, text.pooled])
    both = Hidden(torch.cat([empty.states, text.states]), pooled)
    without, found = pipe.unet(torch.cat([x, x]), time, **conditions(pipe, both)).sample.chunk(2)
    return without + guidance * (found - without)


def _said(pipe, prompts: Sequence[str]) -> Hidden:
    ids = [tokens(pipe, prompt) for prompt in prompts]
    return hidden(pipe, torch.tensor(ids, device=pipelines.device(pipe)))


def _small(masks: np.ndarray, latents: torch.Tensor) -> torch.Tensor:
    small = functional.adaptive_max_pool2d(torch.from_numpy(masks).float(), (latents.shape[2], latents.shape[3]))
    return (small > 0).to(latents.device)


def _require(pipe, method: MoA, pixels: np.ndarray, prompts: Sequence[str], masks: np.ndarray | None) -> None:
    require_tokens(prompts, method.subject.tokens)
    if len(prompts) != len(pixels):
        raise ConfigError(f"prompts: {len(prompts)} for {len(pixels)} pictures; give one for each")
    side = pipelines.size(pipe)
    if pixels.shape[1:3] != (side, side):
        have = f"{pixels.shape[2]}×{pixels.shape[1]}"
        raise DataError(f"pixels: {have}, the model draws {side}×{side}; resize them (photos.read does)")
    if masks is not None and masks.shape != pixels.shape[:3]:
        raise DataError(f"masks: expected shape {pixels.shape[:3]}, that of the pictures, got {masks.shape}")
