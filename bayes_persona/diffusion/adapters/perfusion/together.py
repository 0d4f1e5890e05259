"""Subjects on a pipeline, one or several that were trained separately: their words, and the edits of every layer."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from typing import Any, NamedTuple

from jaxtyping import Int

from bayes_persona.diffusion import words
from bayes_persona.diffusion.adapters.perfusion.layer import Inputs, RankOneLinear
from bayes_persona.diffusion.adapters.perfusion.lock import beside, halves
from bayes_persona.diffusion.attach import attached
from bayes_persona.diffusion.pipelines import device
from bayes_persona.errors import ConfigError, MismatchError, needs_extra

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from torch import nn

EMBEDDING, INPUT, DIRECTION, SUPERCLASS = "embedding", "input", "direction", "superclass"
"""The params of a subject: its word, i*, C⁻¹ i*, and the superclass's encoding."""
OUTPUT = ".output"
"""End of the names of the layers' target outputs o*; where a layer has none, it is what the superclass gives."""
TWINS = 0.95
"""Cosine of two subjects' inputs above which gates that are apart rest on what little tells them apart."""
SIDES = {"to_k": "key", "to_v": "value"}
"""The projections of the text, as diffusers and as gates call them."""
BLOCKS = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}
"""The three thirds of a U-Net, likewise."""


class Concept(NamedTuple):
    """One subject, and how far it is let in.

    >>> Concept("<me>", "robot", {}, {"mid.key": 1.0}, beta=lambda layer: 0.7, tau=0.15).anyone
    False
    """

    token: str
    superclass: str
    params: Mapping[str, Any]
    gates: Mapping[str, float]
    beta: Callable[[str], float]
    """β of a layer."""
    tau: float
    anyone: bool = False
    """Keys are those of the prompt as if it spoke of anyone."""


@contextmanager
def together(
    pipe: DiffusionPipeline, concepts: Sequence[Concept], rows: Int[torch.Tensor, " n"], *, apart: bool = True
) -> Iterator[None]:
    """Put subjects on a pipeline for as long as the `with` lasts.

    Each edit is exact: what one takes from a token is not taken again by another (appendix B, for inputs at any angle).

    Args:
        pipe: Whose.
        concepts: The subjects, with as many members each.
        rows: Member of each row of a batch.
        apart: Whether each gate is shut at the other subjects' words (`layer.Inputs`). The paper's are not: subjects
            that are more alike than β open each other's.

    Raises:
        MismatchError: If params are of another model, or not of as many members each.
        ConfigError: If a token is a word already, or two are the same.

    Warns:
        UserWarning: If two subjects are so alike that each opens the other's gate, or that hardly anything tells them
            apart.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe, robot, cat = load(), Perfusion(Subject("robot", "<r2>")), Perfusion(Subject("cat", "<tom>"))
    >>> with together(pipe, [one.concept(one.init(pipe, 1, 0)) for one in (robot, cat)], torch.tensor([0])):
    ...     len(pipe.tokenizer.tokenize("<r2> the robot and <tom> the cat"))
    7
    """
    named = [concept.token for concept in concepts]
    if len(set(named)) < len(named):
        raise ConfigError(f"tokens: {', '.join(named)} are not all different; train one of them under another token")
    parts = edits(pipe, concepts, rows, apart=apart)  # first, so that params of another model are refused by name
    usual = torch.stack([words.meaning(pipe, concept.superclass) for concept in concepts])[None]
    learned = torch.cat([torch.as_tensor(concept.params[EMBEDDING]).cpu() for concept in concepts], dim=1)
    shares = torch.tensor([concept.gates[EMBEDDING] for concept in concepts])[None, :, None]
    usual = usual.to(learned).expand_as(learned)
    vectors = torch.where(shares == 1, learned, torch.lerp(usual, learned, shares))
    with ExitStack() as stack:
        stack.enter_context(words.taught(pipe, named, vectors.to(device(pipe)), rows))
        if any(concept.anyone for concept in concepts):
            stack.enter_context(beside(pipe, usual.to(device(pipe))))
        stack.enter_context(attached(pipe.unet, parts))
        yield


def edits(
    pipe: DiffusionPipeline, concepts: Sequence[Concept], rows: Int[torch.Tensor, " n"], *, apart: bool = True
) -> dict[str, RankOneLinear]:
    """Give what goes in the place of each projection of the text.

    Args:
        pipe: Whose.
        concepts: The subjects.
        rows: Member of each row of a batch.
        apart: Whether each gate is shut at the other subjects' words.

    Raises:
        MismatchError: If params are of another model, or not of as many members each.

    Warns:
        UserWarning: If two subjects are so alike that each opens the other's gate, or that hardly anything tells them
            apart.

    >>> from bayes_persona.diffusion.adapter import Subject
    >>> from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe, robot = load(), Perfusion(Subject("robot"))
    >>> len(edits(pipe, [robot.concept(robot.init(pipe, 1, 0))], torch.tensor([0])))
    14
    """
    found = projections(pipe.unet)
    for concept in concepts:
        _require_own(concept, found)
    if len({len(concept.params[INPUT]) for concept in concepts}) > 1:
        raise MismatchError(
            "members: subjects that meet need as many each; take one member of each, or the same number"
        )

    def stacked(name: str) -> torch.Tensor:
        return torch.stack([_tensor(pipe, concept.params[name]).detach().float() for concept in concepts], dim=1)

    inputs = Inputs(stacked(INPUT), stacked(DIRECTION), rows.to(device(pipe)), apart=apart)
    superclasses = stacked(SUPERCLASS)
    _warn_if_alike(concepts, inputs)
    anyone = any(concept.anyone for concept in concepts)
    parts = {}
    for name, base in found.items():
        learned = [concept.params.get(f"{name}{OUTPUT}") for concept in concepts]
        kept = superclasses @ base.get_parameter("weight").detach().float().mT
        output = [kept[:, j] if value is None else _tensor(pipe, value) for j, value in enumerate(learned)]
        parts[name] = RankOneLinear(
            base,
            inputs,
            torch.stack(output, dim=1),
            beta=_numbers(pipe, [concept.beta(name) for concept in concepts]),
            tau=_numbers(pipe, [concept.tau for concept in concepts]),
            amount=_numbers(pipe, [concept.gates[gate_of(name)] for concept in concepts]),
            reads=halves(pipe, usual=name.endswith("to_k")) if anyone else None,
        )
    return parts


def gate_of(layer: str) -> str:
    """Give the gate of a projection.

    >>> gate_of("mid_block.attentions.0.transformer_blocks.0.attn2.to_k")
    'mid.key'
    """
    return f"{BLOCKS.get(layer.partition('.')[0])}.{SIDES.get(layer.rpartition('.')[2])}"


def projections(unet: nn.Module) -> dict[str, nn.Module]:
    """Give the key and value projections of the text, by name.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> len(projections(load().unet))
    14
    """
    ends = tuple(f"attn2.{side}" for side in SIDES)
    return {name: module for name, module in unet.named_modules() if name.endswith(ends)}


def _require_own(concept: Concept, found: Mapping[str, nn.Module]) -> None:
    """Refuse params that are not a subject's, or are another model's."""
    for name in (EMBEDDING, INPUT, DIRECTION, SUPERCLASS):
        if name not in concept.params:
            raise MismatchError(f"{concept.token}: {name} is missing; was it trained by Perfusion?")
    width = next(iter(found.values())).get_parameter("weight").shape[1]
    for name in (INPUT, DIRECTION, SUPERCLASS):
        if concept.params[name].shape[-1] != width:
            have = concept.params[name].shape[-1]
            raise MismatchError(f"{name}: is {have} long, this model's text {width}; was it made for another model?")
    learned = {name.removesuffix(OUTPUT) for name in concept.params if name.endswith(OUTPUT)}
    wanted = {name for name in found if name.endswith("to_v")}
    if strange := sorted((learned - found.keys()) | (wanted - learned)):
        raise MismatchError(f"{strange[0]}: not learned, or not a part of this model; was it made for another one?")


def _warn_if_alike(concepts: Sequence[Concept], inputs: Inputs) -> None:
    lengths = inputs.lengths.sqrt()
    cosine = (inputs.gram / (lengths[:, :, None] * lengths[:, None, :])).amax(dim=0)
    for a, b in combinations(range(len(concepts)), 2):
        alike, least = float(cosine[a, b]), min(concepts[a].beta(""), concepts[b].beta(""))
        if alike > (TWINS if inputs.apart else least):
            harm = "hardly anything tells them apart" if inputs.apart else "each opens the other's gate; raise beta"
            warnings.warn(
                f"{concepts[a].token} and {concepts[b].token} are alike ({alike:.2f} of 1): {harm}",
                UserWarning, stacklevel=4,
            )  # fmt: skip


def _tensor(pipe: DiffusionPipeline, value: Any) -> torch.Tensor:
    return torch.as_tensor(value).to(device(pipe))


def _numbers(pipe: DiffusionPipeline, values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device(pipe))
