"""Perfusion as an adapter: one new word, and for each layer that reads the text one output that stands for the subject.

The word's encoding, remembered as a moving average i*, is where each key and value projection is edited (`layer`). Keys
are locked: they stay those of the superclass, so the subject is looked for where anyone of its kind would be. Values
are learned. A subject is the word, i*, C⁻¹ i*, the superclass's encoding and one value a layer: 65 kilobytes for Stable
Diffusion 1.5, and the covariance C is not needed to use it.

The paper's code was never published: the edit, both gates (β = .75, τ = .1 in training, β = .7, τ = .15 after it), the
memory of .99 and the rates' ratio are what its public rebuilds agree on; on a gradient through i* they do not. Here
there is none.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from bayes_persona import ranges
from bayes_persona.diffusion import covariance, words
from bayes_persona.diffusion.adapter import Batch, Subject, denoising_loss, require_gates
from bayes_persona.diffusion.adapters.perfusion.together import (
    BLOCKS,
    DIRECTION,
    EMBEDDING,
    INPUT,
    OUTPUT,
    SIDES,
    SUPERCLASS,
    Concept,
    edits,
    gate_of,
    projections,
    together,
)
from bayes_persona.diffusion.attach import attached
from bayes_persona.diffusion.pipelines import device
from bayes_persona.diffusion.text import hidden, tokens
from bayes_persona.diffusion.train import Tensors
from bayes_persona.errors import ConfigError, needs_extra
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Perfusion:
    """The method and its settings: an `Adapter`.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Perfusion(Subject("robot"), beta=0.6).knobs["beta"]
    (0.1, 0.9)
    """

    subject: Subject
    """Who is learned."""
    beta: float = 0.70
    """How alike to i* a token must be for its gate to be half open, at generation: more lets less of the subject in."""
    tau: float = 0.15
    """How softly gates open, at generation."""
    betas: Mapping[str, float] = field(default_factory=dict)
    """Other β for some layers, at generation: by gate (`up.value`) or by a layer's name."""
    training_beta: float = 0.75
    """β while it is trained."""
    training_tau: float = 0.10
    """τ while it is trained."""
    memory: float = 0.99
    """How much of i* stays at each step."""
    keys: Literal["locked", "global", "trained"] = "locked"
    """`locked`: the keys are the superclass's; `global`: at generation, of all words of the prompt, as if it spoke of
    anyone; `trained`: not locked, as an ablation."""
    value_rate: float = 5.0
    """Learning rate of the values over the word's; 5 is what public rebuilds have."""
    covariance: str | None = None
    """File of the text encoder's covariance, needed for training alone; None is the model's own, or is estimated."""
    method: str = "perfusion"

    def __post_init__(self):
        each = {f"betas {layer}": beta for layer, beta in self.betas.items()}
        for name, value in {"beta": self.beta, "training_beta": self.training_beta, **each}.items():
            if not 0 < value < 1:
                raise ConfigError(f"{name}: expected more than 0 and less than 1, got {value}")
        ranges.positive(self, "tau", "training_tau", "value_rate")
        ranges.below_one(self, "memory")

    @property
    def gates(self) -> tuple[str, ...]:
        """One for the word, from the superclass's (0) to the learned one, and one for each third and side."""
        return (EMBEDDING, *(f"{block}.{side}" for block in BLOCKS.values() for side in SIDES.values()))

    @property
    def knobs(self) -> Mapping[str, tuple[float, float]]:
        """The gate's place and softness: turn them with `dataclasses.replace(adapter, beta=…)`."""
        return {"beta": (0.1, 0.9), "tau": (0.05, 0.3)}

    @property
    def rates(self) -> Mapping[str, float]:
        """The word is learned at the run's rate, values faster; inputs are followed, not learned."""
        return {f"*{OUTPUT}": self.value_rate, INPUT: 0.0, DIRECTION: 0.0, SUPERCLASS: 0.0}

    def init(self, pipe: DiffusionPipeline, members: int, seed: int) -> Params:
        """Start every member at the superclass: its embedding, its encoding, its values.

        Raises:
            ConfigError: If the tokenizer does not know the superclass.
            DataError: If the covariance cannot be inverted.
        """
        word = words.meaning(pipe, self.subject.superclass)[None, None]
        with torch.no_grad(), words.taught(pipe, [self.subject.token], word, torch.zeros(1, dtype=torch.long)):
            ids = torch.tensor([tokens(pipe, self.subject.phrase)], device=device(pipe))
            start = _encoding(pipe, ids, len(pipe.tokenizer) - 1)[0][0].float().cpu()
        inverse = torch.as_tensor(covariance.of(pipe, self.covariance).inverse)
        params = {EMBEDDING: word[0], INPUT: start, DIRECTION: (inverse @ start.double()).float(), SUPERCLASS: start}
        for name, layer in projections(pipe.unet).items():
            if name.endswith("to_v") or self.keys == "trained":
                params[f"{name}{OUTPUT}"] = layer.get_parameter("weight").detach().float().cpu() @ start
        return {name: np.repeat(value.numpy()[None], members, axis=0) for name, value in params.items()}

    def concept(self, params: Mapping[str, Any], gates: Mapping[str, float] | None = None) -> Concept:
        """Give this subject as `together` takes it, to put several on one pipeline.

        Raises:
            ConfigError: If a gate has no such name or a value outside 0 to 1.
        """
        subject, open_ = self.subject, require_gates(self, gates)
        anyone = self.keys == "global"
        return Concept(subject.token, subject.superclass, params, open_, self.beta_of, self.tau, anyone)

    @contextmanager
    def attached(
        self,
        pipe: DiffusionPipeline,
        params: Mapping[str, Any],
        rows: Int[torch.Tensor, " n"],
        gates: Mapping[str, float] | None = None,
    ) -> Iterator[None]:
        """Teach the pipeline the word, and edit its projections of the text, for as long as the `with` lasts.

        Raises:
            MismatchError: If the params are of another model.
            ConfigError: If the token is a word already, or a gate has no such name.
        """
        with together(pipe, [self.concept(params, gates)], rows):
            yield

    def loss(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Float[torch.Tensor, " n"]:
        """Give the denoising loss of every row."""
        trained = replace(self, beta=self.training_beta, betas={}, tau=self.training_tau, keys="locked")
        with (
            self._reading(pipe, params, batch),
            attached(pipe.unet, edits(pipe, [trained.concept(params)], batch.member)),
        ):
            return denoising_loss(pipe, batch)

    def track(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Tensors:
        """Let i* follow the word's encoding in each member's rows, and C⁻¹ i* with it."""
        with torch.no_grad(), self._reading(pipe, params, batch):
            encoded, said = _encoding(pipe, batch.tokens, len(pipe.tokenizer))
        inputs, members = params[INPUT].clone(), batch.member[said]
        for member in members.unique():
            now = encoded[members == member].mean(dim=0).to(inputs)
            inputs[member] = torch.lerp(now, inputs[member], self.memory)
        inverse = torch.as_tensor(covariance.of(pipe, self.covariance).inverse, device=inputs.device)
        moved = (inputs != params[INPUT]).any(dim=1, keepdim=True)
        return {INPUT: inputs, DIRECTION: torch.where(moved, (inputs.double() @ inverse).to(inputs), params[DIRECTION])}

    def beta_of(self, layer: str) -> float:
        """Give β of a layer at generation.

        >>> Perfusion(Subject("robot"), betas={"up.value": 0.5}).beta_of("up_blocks.1.attentions.0.attn2.to_v")
        0.5
        """
        return self.betas.get(layer, self.betas.get(gate_of(layer), self.beta))

    def _reading(self, pipe: DiffusionPipeline, params: Mapping[str, Any], batch: Batch) -> AbstractContextManager[Any]:
        """Let text encoders read the batch's tokens."""
        return words.known(pipe, torch.as_tensor(params[EMBEDDING]), batch.member, 1)


def _encoding(pipe: DiffusionPipeline, ids: torch.Tensor, word: int) -> tuple[Float[torch.Tensor, "m d"], torch.Tensor]:
    """Give the encoding of a word in every prompt that has it, and say which these are."""
    said = (ids == word).any(dim=1)
    at = (ids[said] == word).int().argmax(dim=1)
    return hidden(pipe, ids).states[said][torch.arange(len(at)), at], said
