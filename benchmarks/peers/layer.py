"""Perfusion's edit of a projection beside the layer of lucidrains' `perfusion-pytorch`: all of Stable Diffusion 1.5's.

At generation both say eq. 3, so they must agree. In training theirs also remembers the concept's input, layer by layer,
and lets a gradient through it; ours remembers once for all layers, outside, and lets none through.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from bayes_persona.diffusion.adapters.perfusion.layer import Inputs, RankOneLinear
from bayes_persona.diffusion.adapters.perfusion.together import projections
from benchmarks.peers import race
from benchmarks.perfusion import SD15
from benchmarks.rows import Row, row

TOKENS, WIDTH, ROWS = 77, 768, 2
PLACE = 5
"""Of the concept's word."""


def rows() -> list[Row]:
    """Hold the numbers against one another, and time both in turns."""
    if not race.present("perfusion_pytorch"):
        return []
    from perfusion_pytorch import Rank1EditModule  # pyright: ignore[reportMissingImports]

    began, command = time.perf_counter(), "python -m benchmarks.peers --only layer"
    noise = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=noise)

    root, i, text = normal(WIDTH, WIDTH) / 28 + torch.eye(WIDTH), normal(WIDTH), normal(ROWS, TOKENS, WIDTH)
    covariance = torch.linalg.inv(root.T @ root)
    inverse = torch.linalg.inv(covariance)
    text[:, PLACE] = i + 0.1 * normal(ROWS, WIDTH)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15)
    shapes = [tuple(layer.get_parameter("weight").shape) for layer in projections(unet).values()]
    bases = [nn.Linear(shape[1], shape[0], bias=False).requires_grad_(False) for shape in shapes]
    outputs = [normal(shape[0]) for shape in shapes]
    theirs = [_theirs(Rank1EditModule, base, covariance, i, o) for base, o in zip(bases, outputs, strict=True)]
    inputs = Inputs(i[None, None], (inverse @ i)[None, None], torch.zeros(1, dtype=torch.long))

    def ours(beta: float, tau: float, learned: bool = False) -> list[RankOneLinear]:
        gate = torch.tensor([beta]), torch.tensor([tau])
        values = [nn.Parameter(o[None, None].clone()) if learned else o[None, None] for o in outputs]
        return [RankOneLinear(base, inputs, o, *gate) for base, o in zip(bases, values, strict=True)]

    layers, learning = ours(0.7, 0.15), ours(0.75, 0.1, learned=True)
    with torch.no_grad():
        pairs = [(mine(text), other.eval()(text)) for mine, other in zip(layers, theirs, strict=True)]
    apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    rest = {"command": command, "seconds": time.perf_counter() - began}
    found = [row("peers.perfusion.difference", apart, "largest, relative, in float32, at generation", **rest)]
    unit = f"seconds, ours / theirs, {len(shapes)} projections of {ROWS} × {TOKENS} tokens"
    once = _quiet(lambda: [layer(text) for layer in layers])
    again = _quiet(lambda: [layer.eval()(text) for layer in theirs])
    found.append(race.speed("peers.speed.perfusion_layer.forward", once, again, f"{unit}, forward", command))
    places = torch.full((ROWS,), PLACE)

    def mine() -> None:
        words = text.clone().requires_grad_()
        _learned([layer(words) for layer in learning])

    def other() -> None:
        words = text.clone().requires_grad_()
        _learned([layer.train()(words, concept_indices=places, text_enc_with_superclass=text) for layer in theirs])

    unit = f"{unit}, forward and backward"
    found.append(race.speed("peers.speed.perfusion_layer.training", mine, other, unit, command))
    return found


def _theirs(kind: Any, base: nn.Linear, covariance: torch.Tensor, i: torch.Tensor, o: torch.Tensor) -> Any:
    """Give their layer as it is after training; values, whose output is learned."""
    layer = kind(base, C=covariance, is_key_proj=False, text_seq_len=TOKENS)
    layer.initted.fill_(True)
    layer.ema_concept_text_encs.data.copy_(i[None])
    layer.concept_outputs.data.copy_(o[None])
    return layer


def _learned(found: list[torch.Tensor]) -> None:
    torch.stack([one.square().mean() for one in found]).sum().backward()


def _quiet(work: Callable[[], Any]) -> Callable[[], Any]:
    return torch.no_grad()(work)
