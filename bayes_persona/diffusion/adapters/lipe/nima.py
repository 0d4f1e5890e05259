"""Stage 2 of LIPE, NIMA: a photo is walked back to noise and forth again under another prompt, and blended on the way.

On the way back the words for the subject say where it is (M_s), on the way forth where it goes (M_e). At every step
x ← M ⊙ x + (1 − M) ⊙ x_photo with M = M_s ∪ M_e, grown: what is outside both stays the photo's. The paper gives neither
thresholds nor steps; those of `Config` are ours.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from bayes_persona import ranges
from bayes_persona.diffusion import generate, inversion
from bayes_persona.diffusion.adapters.lipe import edit_friendly
from bayes_persona.diffusion.adapters.lipe.attention import Recorder, grown, mask, positions, recording
from bayes_persona.diffusion.adapters.lipe.sampling import ddim, sample
from bayes_persona.diffusion.latents import encode
from bayes_persona.diffusion.text import added, cached_text, hidden, tokens
from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline

FAR = 2.0
"""The noise that a photo is walked back to has a root mean square of about 1; one beyond this is no noise."""


@dataclass(frozen=True)
class Config:
    """How a photo is edited.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Config(skip=1.5)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: skip: expected 0 to 1, got 1.5
    """

    steps: int = 50
    """Steps between photo and noise."""
    guidance: float = 3.0
    """Classifier-free guidance of the edit; the embedded base wants 3, Stable Diffusion about 7.5."""
    inversion: Literal["ddim", "edit_friendly"] = "edit_friendly"
    """How a photo is walked back: by DDIM, or with a noise for every step, which gives it back exactly."""
    refinements: int = 0
    """Of DDIM: evaluations of the U-Net, beyond the first, that make each step back more exact."""
    blend: bool = True
    """Whether the photo is blended in at all; without it this is plain inversion and regeneration."""
    start: float = 0.4
    """Share of the first steps forth in which all is the photo's: there is less noise to come from, so more of the
    photo stays. 0.36 in the paper of edit-friendly inversion; 0 is usual with DDIM."""
    skip: float = 0.1
    """Share of the steps, the first after `start`, that are not blended, so that a pose can move."""
    low: int = 0
    """Blending is done at times from this one …"""
    high: int = 1000
    """… to this one."""
    threshold_source: float = 0.3
    """Where the subject is in the photo: attention above this, of its range; Prompt-to-Prompt's 0.3."""
    threshold_target: float = 0.3
    """Where it goes: likewise. 1 leaves it out."""
    scales: tuple[int, ...] = ()
    """Layers whose attention counts, by how many latent pixels theirs are wide; none are all."""
    spread: int = 5
    """How often attention to the words is spread by the picture's attention to itself; the paper says nothing of it."""
    components: int = 1
    """Connected parts of a mask that are kept, the largest first."""
    grow: int = 0
    """Latent pixels by which the mask is grown; 1 is right for models with 64 of them along a side."""
    feather: int | None = None
    """Pixels over which the photo itself is faded in outside the mask, at the end; 0 is a hard edge. None leaves the
    edit as the autoencoder gives it, which changes the background a little."""
    seed: int = 0
    """Names the noises of edit-friendly inversion."""

    def __post_init__(self):
        ranges.share(self, "start", "skip", "threshold_source", "threshold_target")
        ranges.at_least(self, 2, "steps")
        ranges.at_least(self, 0, "refinements", "guidance", "grow", "spread", "feather")
        ranges.at_least(self, 1, "components")
        if not self.low <= self.high:
            raise ConfigError(f"low: {self.low} is above high, {self.high}; nothing would be blended")


class Inverted(NamedTuple):
    """A photo's way to noise, and where the subject is in it. `repeat` it to edit it in several ways at once.

    >>> one = Inverted(torch.zeros(3, 1, 4, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 2, 2), None)
    >>> one.repeat(5).mask.shape
    torch.Size([5, 2, 2])
    """

    path: Float[torch.Tensor, "k n c h w"]
    """Clean latents first, noise last."""
    mask: Bool[torch.Tensor, "n h w"]
    """M_s."""
    maps: Float[torch.Tensor, "n h w"]
    """The attention that it is cut from."""
    kept: edit_friendly.Kept | None
    """Of edit-friendly inversion."""

    def repeat(self, times: int) -> "Inverted":
        """Give every photo so many times, one after another."""
        path, rows = self.path.repeat_interleave(times, dim=1), (self.mask, self.maps)
        mask, maps = (part.repeat_interleave(times, dim=0) for part in rows)
        if self.kept is None:
            return Inverted(path, mask, maps, None)
        missed = {time: part.repeat_interleave(times, dim=0) for time, part in self.kept.missed.items()}
        return Inverted(path, mask, maps, edit_friendly.Kept(path, missed))


class Edited(NamedTuple):
    """Edited photos, and what of them was painted anew.

    >>> mask = torch.ones(1, 2, 2, dtype=torch.bool)
    >>> Edited(np.zeros((1, 8, 8, 3), np.uint8), mask, torch.zeros(1, 4, 2, 2)).mask.sum()
    tensor(4)
    """

    pixels: UInt8[np.ndarray, "n height width 3"]
    mask: Bool[torch.Tensor, "n h w"]
    """M of the last step, on the grid of the latents."""
    latents: Float[torch.Tensor, "n c h w"]
    """As they were decoded."""


@torch.no_grad()
def invert(
    pipe: DiffusionPipeline,
    pixels: UInt8[np.ndarray, "n height width 3"],
    captions: Sequence[str],
    phrase: str,
    config: Config | None = None,
) -> Inverted:
    """Walk photos back to noise, and find the subject on the way.

    Args:
        pipe: The base model, with the person attached.
        pixels: Photos of the model's size.
        captions: What each shows, the phrase included.
        phrase: The words for the subject, `adapter.subject.phrase`.
        config: How.

    Raises:
        ConfigError: If a caption does not name the subject, or the model's schedule cannot be walked back.
        DataError: If the way diverges: it does not end in noise.
        MismatchError: If photos and captions differ in number, or photos do not fit the model.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe, grey, quick = load(), np.full((1, 64, 64, 3), 128, np.uint8), Config(steps=2)
    >>> invert(pipe, grey, ["a robot at night"], "robot", quick).path.shape
    torch.Size([3, 1, 8, 16, 16])
    """
    config = Config() if config is None else config
    if len(pixels) != len(captions):
        raise MismatchError(f"captions: {len(captions)} for {len(pixels)} photos; give one for each")
    latents = encode(pipe, pixels).to(pipe.unet.dtype)
    _require_grid(pipe, _shape(latents))
    words = [positions(pipe, text, phrase) for text in captions]
    recorder = Recorder(words, _shape(latents), config.scales, config.spread)
    said = hidden(pipe, torch.tensor([_ids(pipe, text) for text in captions], device=latents.device))
    more = added(pipe, said)
    with ddim(pipe) as scheduler, cached_text(pipe.unet), recording(pipe.unet, recorder):
        if config.inversion == "ddim":
            walk = inversion.Config(steps=config.steps, refinements=config.refinements)
            path, kept = inversion.invert(pipe, latents, said.states, walk, added=more), None
        else:

            def predict(x: torch.Tensor, time: int) -> torch.Tensor:
                return pipe.unet(x, time, said.states, **more).sample

            kept = edit_friendly.invert(scheduler, latents, predict, config.steps, seed=config.seed)
            path = kept.path
    _require_noise(path)
    found = mask(recorder.maps, config.threshold_source, components=config.components, grow=0)
    return Inverted(path, found, recorder.maps, kept)


class Nima:
    """Blends what was stored into what is being made, step by step.

    `blend` is an `on_step` of `generate.sample`, and `callback` a `callback_on_step_end` of a diffusers pipeline whose
    latents begin with `path[-1]` and whose scheduler walks the same steps.

    Args:
        path: Of the photos, as `invert` gives it.
        source: M_s.
        times: Of the steps forth, as the scheduler's `timesteps`.
        config: When to blend, and how to cut masks.
        recorder: Records where the subject goes; None takes M_s alone.

    Raises:
        MismatchError: If the path has not one latent more than there are steps.

    >>> path, nowhere = torch.zeros(3, 1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool)
    >>> nima = Nima(path, nowhere, [501, 1], Config(skip=0.0, grow=0))
    >>> nima.blend(0, torch.ones(1, 4, 2, 2)).abs().max().item()  # nothing is to be painted
    0.0
    """

    def __init__(
        self,
        path: Float[torch.Tensor, "k n c h w"],
        source: Bool[torch.Tensor, "n h w"],
        times: Sequence[int],
        config: Config,
        recorder: Recorder | None = None,
    ):
        if len(path) != len(times) + 1:
            raise MismatchError(f"path: {len(path)} latents for {len(times)} steps; expected {len(times) + 1}")
        if path.shape[1] != len(source) or path.shape[3:] != source.shape[1:]:
            raise MismatchError(f"mask: {tuple(source.shape)} does not fit latents {tuple(path.shape[1:])}")
        self.path, self.source, self.times = path, source, list(times)
        self.config, self.recorder = config, recorder
        self.mask = grown(source, config.grow)
        self.latents = path[-1]

    def blend(self, number: int, latents: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n c h w"]:
        """Give a step's latents, blended with the photo's own; the mask is made anew of all steps so far."""
        config, time = self.config, self.times[number]
        found = self.source
        if self.recorder is not None and config.threshold_target < 1:
            goes = mask(self.recorder.maps, config.threshold_target, components=config.components, grow=0)
            found = found | goes.to(found.device)
        self.mask = grown(found, config.grow)
        own, steps = self.path[-2 - number].to(latents), len(self.times)
        begin = round(config.start * steps)
        if number < begin:
            latents = own
        elif config.blend and number >= begin + round(config.skip * steps) and config.low <= time <= config.high:
            latents = torch.where(self.mask[:, None].to(latents.device), latents, own)
        self.latents = latents
        return latents

    def callback(self, pipe: Any, number: int, time: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Blend inside a diffusers pipeline: `pipe(…, latents=path[-1], callback_on_step_end=nima.callback)`."""
        return {"latents": self.blend(number, given["latents"])}


@contextmanager
def editing(
    pipe: DiffusionPipeline, inverted: Inverted, prompts: Sequence[str], phrase: str, config: Config
) -> Iterator[Nima]:
    """Make a pipeline ready to edit inside the block, and give what blends: for those who call `pipe(…)` themselves.

    Args:
        pipe: The base model, with the person attached; its scheduler is replaced for as long as the block lasts.
        inverted: As `invert` gives it, one photo a prompt.
        prompts: What is wanted.
        phrase: The words for the subject.
        config: As the photos were inverted with.

    Raises:
        ConfigError: If a prompt does not name the subject.
        MismatchError: If photos and prompts differ in number.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe, grey, quick = load(), np.full((1, 64, 64, 3), 128, np.uint8), Config(steps=2)
    >>> inverted = invert(pipe, grey, ["a robot"], "robot", quick)
    >>> with editing(pipe, inverted, ["a happy robot"], "robot", quick) as nima:
    ...     asked = {"num_inference_steps": 2, "latents": inverted.path[-1]}
    ...     pipe("a happy robot", **asked, callback_on_step_end=nima.callback).images[0].size
    (64, 64)
    """
    if len(prompts) != len(inverted.mask):
        raise MismatchError(f"prompts: {len(prompts)} for {len(inverted.mask)} photos; repeat the photos")
    words = [positions(pipe, text, phrase) for text in prompts]
    with ExitStack() as stack:
        scheduler = stack.enter_context(ddim(pipe))
        if inverted.kept is not None:
            scheduler = stack.enter_context(ddim(pipe, edit_friendly.Replay.of(scheduler, inverted.kept)))
        scheduler.set_timesteps(config.steps)
        recorder = Recorder(words, _shape(inverted.path[0]), config.scales, config.spread)
        stack.enter_context(recording(pipe.unet, recorder))
        yield Nima(inverted.path, inverted.mask, scheduler.timesteps.tolist(), config, recorder)


def paint(
    pipe: DiffusionPipeline,
    inverted: Inverted,
    prompts: Sequence[str],
    phrase: str,
    config: Config | None = None,
    photos: UInt8[np.ndarray, "n height width 3"] | None = None,
) -> Edited:
    """Make the edits: walk forth under other prompts.

    Args:
        pipe: The base model, with the person attached.
        inverted: As `invert` gives it, one photo a prompt.
        prompts: What is wanted.
        phrase: The words for the subject.
        config: As the photos were inverted with.
        photos: The photos themselves; needed to feather.

    Raises:
        ConfigError: If a prompt does not name the subject, or photos to feather are not given.
        MismatchError: If photos and prompts differ in number.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe, grey, quick = load(), np.full((1, 64, 64, 3), 128, np.uint8), Config(steps=2)
    >>> inverted = invert(pipe, grey, ["a robot"], "robot", quick)
    >>> paint(pipe, inverted, ["a happy robot"], "robot", quick).pixels.shape
    (1, 64, 64, 3)
    """
    config = Config() if config is None else config
    if config.feather is not None and photos is None:
        raise ConfigError("photos: what is outside the mask is theirs; give them, or feather=None")
    with editing(pipe, inverted, prompts, phrase, config) as nima:
        walk = generate.Config(steps=config.steps, guidance=config.guidance)
        pixels = sample(pipe, prompts, inverted.path[-1], walk, nima.blend)
    if config.feather is not None and photos is not None:
        pixels = pasted(pixels, photos, nima.mask.cpu(), config.feather)
    return Edited(pixels, nima.mask, nima.latents)


def pasted(
    edits: UInt8[np.ndarray, "n height width 3"],
    photos: UInt8[np.ndarray, "n height width 3"],
    masks: Bool[torch.Tensor, "n h w"],
    feather: int,
) -> UInt8[np.ndarray, "n height width 3"]:
    """Put the photo back outside the mask, fading it in over some pixels beyond the mask's edge.

    >>> black, white = np.zeros((1, 4, 8, 3), np.uint8), np.full((1, 4, 8, 3), 255, np.uint8)
    >>> left = torch.tensor([[[True, False]]])
    >>> pasted(black, white, left, 2)[0, 0, :, 0].tolist()
    [0, 0, 0, 0, 51, 153, 255, 255]
    """
    height, width = edits.shape[1:3]
    near = torch.nn.functional.interpolate(masks[:, None].float(), (height, width), mode="nearest")
    if feather:
        side = 2 * feather + 1
        mean = torch.nn.functional.avg_pool2d(near, side, stride=1, padding=feather, count_include_pad=False)
        near = torch.maximum(near, (2 * mean).clamp(max=1))
    share = near[:, 0, :, :, None].numpy()
    return (share * edits + (1 - share) * photos).round().astype(np.uint8)


def _require_grid(pipe: DiffusionPipeline, shape: tuple[int, int]) -> None:
    halved = 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    if any(side % halved or side < 2 * halved for side in shape):
        factor = pipe.vae_scale_factor * halved
        have = f"{shape[1] * pipe.vae_scale_factor}×{shape[0] * pipe.vae_scale_factor}"
        raise MismatchError(f"photos: {have}: both sides must be multiples of {factor}, at least {2 * factor}; resize")


def _require_noise(path: Float[torch.Tensor, "k n c h w"]) -> None:
    size = path[-1].float().square().mean(dim=(1, 2, 3)).sqrt()
    for i, value in enumerate(size.tolist()):
        if not value <= FAR:  # NaN is not either
            raise DataError(
                f"photo {i}: inversion diverged: it ends in {value:.3g} where noise has 1; take more steps, fewer "
                "refinements, a caption that fits better, or inversion='edit_friendly'"
            )


def _ids(pipe: DiffusionPipeline, text: str) -> tuple[int, ...]:
    words: Any = pipe.tokenizer
    convert = getattr(pipe, "maybe_convert_prompt", lambda given, _: given)
    return tokens(pipe, str(convert(text, words)))


def _shape(latents: torch.Tensor) -> tuple[int, int]:
    return int(latents.shape[-2]), int(latents.shape[-1])
