"""The adapter: low-rank changes of the generator, learned around a fixed text, and of the guide, learned around those.

The first pivot is a text: the generator learns the person while the guide, which stays as it is, holds bad photos of
the person up to it. The second pivot is the generator so found: the guide learns, on pictures of anyone, to be
understood by it again. Neither moves while the other learns, and both are kept: a tuned guide fits one generator alone.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from jaxtyping import Float, Int

from bayes_persona.diffusion import degrade
from bayes_persona.diffusion.adapter import Batch, Subject, denoising_loss, require_gates
from bayes_persona.diffusion.attach import attached
from bayes_persona.diffusion.latents import decode, encode
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.diffusion.restoration.guide import Guide, guided
from bayes_persona.diffusion.train import Tensors
from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.seeds import child
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline

Stage = Literal["generator", "generator alone", "guide"]
GENERATOR, GUIDE = "generator", "guide"
"""The two sides: names of gates, and first words of params."""


@dataclass(frozen=True)
class DualPivot:
    """The method and its settings: an `Adapter`.

    `attached` puts a person on the pipeline and on the guide; `restoration.restore` then restores photos of theirs.

    Raises:
        ConfigError: If a number is out of its range.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> method = DualPivot(Subject("robot"), Guide.of(load()))
    >>> method.gates, method.rates
    (('generator', 'guide'), {'guide.*': 0.0})
    """

    subject: Subject
    """Who is learned; its token is written in letters that the tokenizer knows."""
    guide: Guide
    """The restorer's own, which stays as it is."""
    rank: int = 4
    """Directions that each attention projection may change in, on both sides."""
    stage: Stage = "generator"
    """What learns: the generator, on photos of the person, with the guide attached (the paper's first pivot) or without
    (the first step of the authors' code); or the guide, on pictures of anyone (the second pivot)."""
    damage: degrade.Config | degrade.SecondOrder = field(default_factory=degrade.Config)
    """How training damages pictures."""
    scale: float = 1.0
    """How much of both changes is made; a knob for generation, which training leaves at 1."""
    method: str = "dual_pivot"

    def __post_init__(self):
        if self.stage not in get_args(Stage):
            raise ConfigError(f"stage: expected one of {', '.join(get_args(Stage))}, got {self.stage!r}")
        _ = self.change  # which has ranges of its own

    @cached_property
    def change(self) -> LowRank:
        """What is learned on either side."""
        return LowRank(self.subject, rank=self.rank, alpha=self.rank, scale=self.scale)

    @property
    def gates(self) -> tuple[str, ...]:
        """One for each pivot: closed, that side is the restorer's own."""
        return (GENERATOR, GUIDE)

    @property
    def knobs(self) -> Mapping[str, tuple[float, float]]:
        """How much of the changes is made: turn it with `dataclasses.replace(adapter, scale=…)`."""
        return self.change.knobs

    @property
    def rates(self) -> Mapping[str, float]:
        """The side that is the pivot does not learn."""
        return {f"{GENERATOR if self.stage == GUIDE else GUIDE}.*": 0.0}

    def init(self, pipe: DiffusionPipeline, members: int, seed: int) -> Params:
        """Start where nothing is changed: each side as `LowRank` does.

        Raises:
            ConfigError: If the tokenizer does not know a letter of the token.
        """
        sides = {
            GENERATOR: self.change.init(pipe, members, child(seed, GENERATOR)),
            GUIDE: self.change.start(self.guide, members, child(seed, GUIDE)),
        }
        return {f"{side}.{name}": value for side, params in sides.items() for name, value in params.items()}

    @contextmanager
    def attached(
        self,
        pipe: DiffusionPipeline,
        params: Mapping[str, Any],
        rows: Int[torch.Tensor, " n"],
        gates: Mapping[str, float] | None = None,
    ) -> Iterator[None]:
        """Put every row's own changes into the pipeline's U-Net and into the guide.

        Raises:
            MismatchError: If a network lacks a projection, or has one of another width.
        """
        values = require_gates(self, gates)
        nets = {GENERATOR: pipe.unet, GUIDE: self.guide}
        if strange := [name for name in params if name.partition(".")[0] not in nets]:
            raise MismatchError(f"{strange[0]}: neither the generator's nor the guide's; was it learned by DualPivot?")
        with ExitStack() as stack:
            for side, net in nets.items():
                own = {name.partition(".")[2]: value for name, value in params.items() if name.startswith(f"{side}.")}
                parts = self.change.parts(own, rows, dict.fromkeys(self.change.gates, values[side]))
                stack.enter_context(attached(net, parts))
            yield

    def loss(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Float[torch.Tensor, " n"]:
        """Give the denoising loss of every row, guided by its own picture, damaged.

        What damages a row follows from its noise: the same batch always gives the same loss, and a row the same alone.
        """
        still = f"{GENERATOR if self.stage == GUIDE else GUIDE}."
        held = {name: value.detach() if name.startswith(still) else value for name, value in params.items()}
        alone = self.stage == "generator alone"
        by = nullcontext() if alone else guided(pipe, self.guide, self.condition(pipe, batch))
        with self.attached(pipe, held, batch.member), by:
            return denoising_loss(pipe, batch)

    def track(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Tensors:
        """The pivot stays, and all else is learned by gradient."""
        return {}

    @torch.no_grad()
    def condition(self, pipe: DiffusionPipeline, batch: Batch) -> Float[torch.Tensor, "n c h w"]:
        """Give the latents of a batch's pictures after damage."""
        rows = []
        for latent, noise in zip(batch.latents, batch.noise, strict=True):
            digest = hashlib.blake2b(noise.float().cpu().numpy().tobytes(), digest_size=7).digest()
            bad = degrade.degrade(decode(pipe, latent[None]), self.damage, int.from_bytes(digest, "big"))
            rows.append(encode(pipe, bad))
        return torch.cat(rows)


def restored(pipe: DiffusionPipeline, guide: Guide, about: Mapping[str, Any]) -> DualPivot:
    """Give the method that a personalization was learned with, from what its file says (`adapter.load`).

    Raises:
        DataError: If the file is of another method.
        MismatchError: If it was learned with another guide.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> restored(pipe := load(), Guide.of(pipe), {"method": "low_rank"})
    Traceback (most recent call last):
    ...
    bayes_persona.errors.DataError: method: expected dual_pivot, got low_rank; restoring takes a person of dual_pivot
    """
    if (have := about.get("method")) != "dual_pivot":
        raise DataError(f"method: expected dual_pivot, got {have}; restoring takes a person of dual_pivot")
    own = dict(about["settings"])
    if (want := own.pop("guide")) != guide.fingerprint:
        raise MismatchError(f"guide: was learned with guide {want}, this is {guide.fingerprint}; load that one")
    return DualPivot(Subject(**about["subject"]), guide, **{**own, "damage": _ranges(own["damage"])})


def _ranges(said: Mapping[str, Any]) -> degrade.Config | degrade.SecondOrder:
    """Read ranges back from JSON, which knows no tuples."""
    plain = _tuples(said)
    if "first" not in plain:
        return degrade.Config(**plain)
    passes = {name: degrade.Pass(**_tuples(plain.pop(name))) for name in ("first", "second")}
    return degrade.SecondOrder(**passes, **plain)


def _tuples(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
