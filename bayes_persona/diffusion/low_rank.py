"""DreamBooth with low-rank updates: a person is a small change of the attention that draws it, and no new word.

Ruiz et al. (CVPR 2023, arXiv 2208.12242) say how: photos under a rare word beside the superclass, and the superclass's
own pictures so that it is not forgotten, which here is the work of the prior's pseudo-rows. Hu et al. (ICLR 2022, arXiv
2106.09685) say what is learned: `up @ down` beside every attention projection of the U-Net. PEFT finds the projections
and draws their start, so what is learned here is PEFT's LoRA, with one difference: every row of a batch has its own.

The token is written in letters that the tokenizer knows (`<me>` is `< m e >`): no vocabulary changes, so the rarer the
better, and a lone token such as `sks` is best where the tokenizer has one. A word that it does not know is refused.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayes_persona import ranges
from bayes_persona.diffusion.adapter import Batch, Subject, denoising_loss, members_of, require_gates
from bayes_persona.diffusion.attach import Part, attached
from bayes_persona.diffusion.text import OfText
from bayes_persona.diffusion.train import Tensors
from bayes_persona.errors import ConfigError, MismatchError, needs_extra
from bayes_persona.seeds import child
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import save_file
    from torch import nn

PARTS = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out"}
"""The four projections of an attention, as diffusers and as gates call them."""
BLOCKS = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}
"""The three thirds of a U-Net, likewise."""
ATTENTIONS = {"attn1": "self", "attn2": "cross"}
"""Attention of the picture to itself, and to the text."""


@dataclass(frozen=True)
class LowRank:
    """The method and its settings: an `Adapter`.

    Raises:
        ConfigError: If a number is out of its range, or a target is not a projection of an attention.

    >>> LowRank(Subject("robot"), targets=("attn2.to_k", "to_v")).gates[:3]
    ('down.self.value', 'down.cross.key', 'down.cross.value')
    """

    subject: Subject
    """Who is learned; its token is written in letters that the tokenizer knows."""
    rank: int = 4
    """Directions that each projection may change in: more say more, and are easier to overfit."""
    alpha: int = 4
    """The change is multiplied by alpha / rank."""
    targets: tuple[str, ...] = tuple(PARTS)
    """Ends of names, as PEFT's `target_modules`: `to_k` is every attention's, `attn2.to_k` those that read the text."""
    shut: tuple[str, ...] = ()
    """Gates of parts that are not touched: nothing is learned for them. `mid` is all gates that begin so."""
    scale: float = 1.0
    """How much of the change is made; a knob for generation, which training leaves at 1."""
    method: str = "low_rank"

    def __post_init__(self):
        ranges.at_least(self, 1, "rank")
        ranges.at_least(self, 1, "alpha")
        if not self.targets:
            raise ConfigError("targets: expected at least one; name projections such as to_k")
        for name in self.targets:
            if _part(name) is None:
                raise ConfigError(f"targets: {name!r} is no projection; it must end in one of {', '.join(PARTS)}")
        for name in self.shut:
            if not any(_within(gate, name) for gate in self._every_gate):
                raise ConfigError(f"shut: there is no gate {name}; there are {', '.join(self._every_gate)}")
        if self.shut and not self.gates:
            raise ConfigError("shut: every gate is, so that nothing is learned; leave one open")
        low, high = self.knobs["scale"]
        if not low <= self.scale <= high:
            raise ConfigError(f"scale: expected {low:g} to {high:g}, got {self.scale}")

    @property
    def gates(self) -> tuple[str, ...]:
        """One gate for each third of the U-Net, attention and projection that is learned, such as `mid.cross.value`."""
        return tuple(gate for gate in self._every_gate if not any(_within(gate, name) for name in self.shut))

    @property
    def knobs(self) -> Mapping[str, tuple[float, float]]:
        """How much of the change is made: turn it with `dataclasses.replace(adapter, scale=…)`."""
        return {"scale": (0.0, 1.5)}

    @property
    def rates(self) -> Mapping[str, float]:
        """All is learned at the run's rate."""
        return {}

    def init(self, pipe: DiffusionPipeline, members: int, seed: int) -> Params:
        """Start every member where PEFT starts: `down` uniform, `up` zero, so that nothing is changed yet.

        Raises:
            ConfigError: If the tokenizer does not know a letter of the token, or no part of the U-Net fits the targets.
        """
        ids = pipe.tokenizer(self.subject.token, add_special_tokens=False).input_ids
        if pipe.tokenizer.unk_token_id in ids:
            raise ConfigError(f"token: the tokenizer does not know all of {self.subject.token!r}; choose another")
        return self.start(pipe.unet, members, seed)

    def start(self, net: nn.Module, members: int, seed: int) -> Params:
        """Start in any of diffusers' networks, such as a ControlNet.

        Raises:
            ConfigError: If no part of it fits the targets.
        """
        params: Params = {}
        for name, layer in self._layers(net).items():
            starts = [_start(layer, child(seed, "member", k, name)) for k in range(members)]
            params[f"{name}.down"] = np.stack([down for down, _ in starts])
            params[f"{name}.up"] = np.stack([up for _, up in starts])
        return params

    @contextmanager
    def attached(
        self,
        pipe: DiffusionPipeline,
        params: Mapping[str, Any],
        rows: Int[torch.Tensor, " n"],
        gates: Mapping[str, float] | None = None,
    ) -> Iterator[None]:
        """Put every row's own update beside the projections, for as long as the `with` lasts.

        Raises:
            MismatchError: If the U-Net lacks a projection, or has one of another width.
        """
        with attached(pipe.unet, self.parts(params, rows, require_gates(self, gates))):
            yield

    def parts(
        self, params: Mapping[str, Any], rows: Int[torch.Tensor, " n"], gates: Mapping[str, float]
    ) -> dict[str, Part]:
        """Give what `attach.attached` puts into a network that the params were started for.

        Raises:
            MismatchError: If the params are not of this method's rank, targets and open gates.
        """
        parts: dict[str, Part] = {}
        for name in dict.fromkeys(name.rpartition(".")[0] for name in params):
            gate, down, up = gate_of(name), params.get(f"{name}.down"), params.get(f"{name}.up")
            if gate not in gates or down is None or up is None or down.shape[1:2] != (self.rank,):
                raise MismatchError(f"{name}: not learned by {self}; attach the adapter that was trained")
            amount = self._scaling * gates[gate]
            parts[name] = partial(_around, name, torch.as_tensor(down), torch.as_tensor(up), rows, amount)
        return parts

    def loss(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Float[torch.Tensor, " n"]:
        """Give the denoising loss of every row."""
        with self.attached(pipe, params, batch.member):
            return denoising_loss(pipe, batch)

    def track(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Tensors:
        """Nothing is learned but by gradient."""
        return {}

    def export(self, path: str | Path, member: Params) -> None:
        """Write one member as diffusers' `pipe.load_lora_weights` reads it.

        What the file adds is what this adapter adds: alpha, rank and scale are in its numbers, for any reader.
        """
        file = {}
        for name, value in member.items():
            layer, _, side = name.rpartition(".")
            tensor = torch.tensor(value)
            file[f"unet.{layer}.lora_{'A' if side == 'down' else 'B'}.weight"] = (
                tensor if side == "down" else self._scaling * tensor
            )
        save_file(file, Path(path), {"format": "pt"})

    @property
    def _scaling(self) -> float:
        return self.scale * self.alpha / self.rank

    def _layers(self, net: Any) -> dict[str, LoraLayer]:
        """Give what PEFT would put where gates are open, by the name of its place, without numbers."""
        with torch.device("meta"):  # the structure alone: nothing is copied or drawn
            unet = type(net).from_config(net.config)
            config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=list(self.targets))
            try:
                inject_adapter_in_model(config, unet)
            except ValueError as error:  # PEFT's own words name the targets
                raise ConfigError(f"targets: {error}") from error
        found = {name: layer for name, layer in unet.named_modules() if isinstance(layer, LoraLayer)}
        touched = {name: layer for name, layer in found.items() if gate_of(name) in self.gates}
        if not touched:
            raise ConfigError(f"shut: nothing of this network is left to learn, of {', '.join(self.gates)}")
        return touched

    @property
    def _every_gate(self) -> tuple[str, ...]:
        kinds = [
            (attention, part)
            for layer, attention in ATTENTIONS.items()
            for end, part in PARTS.items()
            if any(name.endswith(f"{layer}.{end}") or f"{layer}.{end}".endswith(name) for name in self.targets)
        ]
        return tuple(f"{block}.{attention}.{part}" for block in BLOCKS.values() for attention, part in kinds)


class LowRankLinear(OfText):
    """A projection and each row's own low-rank update of it.

    >>> base = nn.Linear(3, 2, bias=False)
    >>> down, up = torch.ones(2, 1, 3), torch.stack([torch.zeros(2, 1), torch.ones(2, 1)])  # member 0 changes nothing
    >>> wrapped = LowRankLinear(base, down, up, torch.tensor([1, 0]), scale=0.5)
    >>> x = torch.ones(2, 4, 3)
    >>> (wrapped(x) - base(x))[:, 0].detach().round(decimals=4).tolist()
    [[1.5, 1.5], [0.0, 0.0]]
    """

    def __init__(
        self,
        base: nn.Module,
        down: Float[torch.Tensor, "k r i"],
        up: Float[torch.Tensor, "k o r"],
        rows: Int[torch.Tensor, " n"],
        scale: float,
    ):
        super().__init__()
        self.base = base
        self.down, self.up = down, up  # plain tensors: gradients flow to whoever owns them
        self.rows = rows
        self.scale = scale

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What the output depends on, besides the text."""
        return (*self.base.parameters(), self.down, self.up, self.rows)

    def forward(self, x: Float[torch.Tensor, "n t i"]) -> Float[torch.Tensor, "n t o"]:
        """Add to the projection of each row what its own member adds."""
        out = self.base(x)
        member = members_of(self.rows, len(x)).to(x.device)
        down, up = self.down.to(x.device)[member], self.up.to(x.device)[member]
        change = x.to(down.dtype) @ down.mT @ up.mT
        return out + (self.scale * change).to(out.dtype)


def _around(
    name: str, down: torch.Tensor, up: torch.Tensor, rows: torch.Tensor, scale: float, base: nn.Module
) -> LowRankLinear:
    """Give what goes around a projection, checked against its widths."""
    want = (getattr(base, "in_features", None), getattr(base, "out_features", None))
    have = (down.shape[-1], up.shape[-2])
    if down.ndim != 3 or up.ndim != 3 or want != have or down.shape[:2] != (len(up), up.shape[-1]):
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise MismatchError(f"{name}: {shapes} do not fit a projection {want}; was it made for another model?")
    return LowRankLinear(base, down, up, rows, scale)


def gate_of(name: str) -> str:
    """Give the gate of a place in the U-Net.

    >>> gate_of("mid_block.attentions.0.transformer_blocks.0.attn2.to_v")
    'mid.cross.value'
    """
    attention = next((gate for layer, gate in ATTENTIONS.items() if f".{layer}." in name), "self")
    return f"{BLOCKS.get(name.partition('.')[0])}.{attention}.{_part(name)}"


def _within(gate: str, name: str) -> bool:
    """Say whether a gate is one of those that a name means."""
    return gate == name or gate.startswith(f"{name}.")


def _part(name: str) -> str | None:
    """Give the kind of projection that a name ends in."""
    return next((part for end, part in PARTS.items() if name == end or name.endswith(f".{end}")), None)


def _start(layer: LoraLayer, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one member's start of one place with PEFT's own initialisation: `down` (r, in) and `up` (out, r)."""
    layer.lora_A.to_empty(device="cpu")
    layer.lora_B.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # PEFT takes no generator of ours
        layer.reset_lora_parameters("default", init_lora_weights=True)
    down, up = layer.lora_A.get_parameter("default.weight"), layer.lora_B.get_parameter("default.weight")
    return down.detach().numpy().copy(), up.detach().numpy().copy()
