"""The adapter: new words that are a point on a sphere of known people's names.

Learned directly, the coefficients are the parameters. Learned through a face, a layer that maps it to coefficients is,
and the coefficients that are kept are their moving average. Either way a person is a kilobyte or four.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayes_persona import ranges
from bayes_persona.diffusion import words
from bayes_persona.diffusion.adapter import Batch, Subject, denoising_loss, require_gates
from bayes_persona.diffusion.adapters.celeb_basis.basis import Basis, table
from bayes_persona.diffusion.adapters.celeb_basis.faces import Face, Mapper, coefficients
from bayes_persona.diffusion.text import encoders
from bayes_persona.diffusion.train import Tensors
from bayes_persona.errors import ConfigError, MismatchError, needs_extra
from bayes_persona.seeds import generator
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline
    from safetensors.torch import save_file

EMBEDDING = "embedding"
"""The one gate."""
COEFFICIENTS, WEIGHT, BIAS = "coefficients", "weight", "bias"
"""The parameters: a person's, `(members, people, p)`, and the layer's, where there is one."""


@dataclass(frozen=True)
class People(Subject):
    """Several people who are learned together, each by a word of their own.

    >>> us = People("woman", others=("<you>",))
    >>> us.prompt("a woman at night"), us.prompt("<you> the woman at night")
    ('<me> the woman at night', '<you> the woman at night')
    """

    others: tuple[str, ...] = ()
    """The words of all but the first."""

    def prompt(self, text: str) -> str:
        """Put the first person into a prompt that does not name another."""
        return text if set(self.others) & set(text.split()) else super().prompt(text)


@dataclass(frozen=True)
class CelebBasis:
    """The method and its settings: an `Adapter`.

    Raises:
        ConfigError: If a number is out of its range, or people and faces differ in number.

    >>> from bayes_persona.diffusion.adapters.celeb_basis.basis import build
    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe = load()
    >>> method = CelebBasis(Subject("woman"), build(pipe.text_encoder, pipe.tokenizer, ["ada finch", "clara vale"]))
    >>> method.words, method.init(pipe, members=3, seed=0)["coefficients"].shape
    (('<me>', '<me>_1'), (3, 1, 2))
    """

    subject: Subject
    """Who is learned; `People` if several are."""
    basis: Basis
    """Made from the pipeline's own text encoder."""
    radius: float | None = None
    """Distance of a person from the mean; None is the names' own mean one at each place. The paper's is 1."""
    like: str | None = None
    """A name to start at; None starts at the superclass. For coefficients that are learned directly."""
    faces: tuple[Face, ...] = ()
    """One for each person to learn through a layer; none to learn coefficients directly."""
    mapper: Mapper | None = None
    """Where the layer starts; None starts at random, as the paper does."""
    memory: float = 0.99
    """Of the moving average of coefficients that come from faces."""
    strength: float = 1.0
    """Multiplies the radius; a knob for generation, which training leaves at 1."""
    method: str = "celeb_basis"

    def __post_init__(self):
        ranges.positive(self, "radius")
        ranges.below_one(self, "memory")
        low, high = self.knobs["strength"]
        if not low <= self.strength <= high:
            raise ConfigError(f"strength: expected {low:g} to {high:g}, got {self.strength}")
        if self.faces and len(self.faces) != len(self.tokens):
            raise ConfigError(f"faces: expected one for each of {', '.join(self.tokens)}, got {len(self.faces)}")
        if len({len(face) for face in self.faces}) > 1:
            raise ConfigError("faces: they are of several lengths; read all of them with one identity net")
        if self.faces and self.like is not None:
            raise ConfigError("like: a layer says where a person starts; give either a name or faces")
        if self.mapper is not None and self.mapper.weight.shape != (sum(self.basis.sizes), len((*self.faces, ())[0])):
            raise ConfigError("mapper: fitted for another basis, or for faces of another length; fit it for these")

    @property
    def gates(self) -> tuple[str, ...]:
        """One gate: from the superclass's own embedding (0) to the learned one (1)."""
        return (EMBEDDING,)

    @property
    def knobs(self) -> Mapping[str, tuple[float, float]]:
        """How far from the mean a person is: turn it with `dataclasses.replace(adapter, strength=…)`."""
        return {"strength": (0.0, 1.5)}

    @property
    def rates(self) -> Mapping[str, float]:
        """Coefficients that come from a layer are tracked; all else is learned at the run's rate."""
        return {COEFFICIENTS: 0.0} if self.faces else {}

    @property
    def tokens(self) -> tuple[str, ...]:
        """The word of each person."""
        others = self.subject.others if isinstance(self.subject, People) else ()
        return (self.subject.token, *others)

    @property
    def words(self) -> tuple[str, ...]:
        """The new words of all people, named as diffusers names them."""
        return tuple(word for token in self.tokens for word in words.spelled(token, len(self.basis.positions)))

    def init(self, pipe: DiffusionPipeline, members: int, seed: int) -> Params:
        """Start at the superclass, at the person named by `like`, or at what the layer makes of the faces.

        Raises:
            MismatchError: If the basis was made for another text encoder.
            ConfigError: If the tokenizer does not know the superclass or the name.
        """
        self.basis.require(table(encoders(pipe)))
        if not self.faces:
            start = self.basis.unit(self.basis.coefficients(self._like(pipe))).numpy()
            return {COEFFICIENTS: np.tile(start.astype(np.float32), (members, len(self.tokens), 1))}
        shape = (sum(self.basis.sizes), len(self.faces[0]))
        if self.mapper is None:
            draws = [generator(seed, "member", k).standard_normal(shape) for k in range(members)]
            layer = {WEIGHT: np.stack(draws).astype(np.float32), BIAS: np.zeros((members, shape[0]), np.float32)}
        else:
            layer = {
                WEIGHT: np.tile(self.mapper.weight, (members, 1, 1)),
                BIAS: np.tile(self.mapper.bias, (members, 1)),
            }
        first = self._mapped({name: torch.as_tensor(value) for name, value in layer.items()})
        return {**layer, COEFFICIENTS: first.numpy()}  # where the moving average starts

    @contextmanager
    def attached(
        self,
        pipe: DiffusionPipeline,
        params: Mapping[str, Any],
        rows: Int[torch.Tensor, " n"],
        gates: Mapping[str, float] | None = None,
    ) -> Iterator[None]:
        """Teach tokenizer and text encoder the new words, for as long as the `with` lasts.

        Coefficients are all that is read: what `person` keeps is enough.

        Raises:
            MismatchError: If basis or coefficients were made for another model.
            ConfigError: If a token is a word already.
        """
        gate = require_gates(self, gates)[EMBEDDING]
        self.basis.require(table(encoders(pipe)))
        vectors = self._vectors(torch.as_tensor(params[COEFFICIENTS]))
        if gate != 1:
            vectors = torch.lerp(
                words.meaning(pipe, self.subject.superclass).to(vectors).expand_as(vectors), vectors, gate
            )
        with words.taught(pipe, self.words, vectors, rows):
            yield

    def loss(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Float[torch.Tensor, " n"]:
        """Give the denoising loss of every row."""
        learned = self._mapped(params) if self.faces else params[COEFFICIENTS]
        with words.known(pipe, self._vectors(learned), batch.member, len(self.words)):
            return denoising_loss(pipe, batch)

    def track(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Tensors:
        """Move the average of what the layer makes of the faces."""
        if not self.faces:
            return {}
        old = params[COEFFICIENTS]
        new = torch.lerp(self._mapped(params).to(old), old, self.memory)
        seen = torch.isin(torch.arange(len(old), device=old.device), batch.member.to(old.device))
        return {COEFFICIENTS: torch.where(seen[:, None, None], new, old)}

    def person(self, member: Mapping[str, np.ndarray], who: int = 0) -> Params:
        """Give all that must be kept of one person of a member: coefficients of unit length at every place.

        >>> from bayes_persona.diffusion.adapters.celeb_basis.basis import Position
        >>> basis = Basis((Position(np.zeros(3), np.eye(3)[:2], 0.5),), np.array([7]), "…")
        >>> CelebBasis(Subject("cat"), basis).person({"coefficients": np.array([[0.0, 3.0]])})["coefficients"].tolist()
        [[0.0, 1.0]]
        """
        kept = torch.as_tensor(member[COEFFICIENTS])[who : who + 1]
        return {COEFFICIENTS: self.basis.unit(kept).numpy()}

    def export(self, path: str | Path, member: Mapping[str, np.ndarray], who: int = 0) -> None:
        """Write one person of a member as diffusers' `pipe.load_textual_inversion` reads it."""
        vectors = self._vectors(torch.as_tensor(member[COEFFICIENTS])[None])[0].unflatten(0, (len(self.tokens), -1))
        save_file(words.file(self.tokens[who], vectors[who]), Path(path))

    def _mapped(self, params: Mapping[str, torch.Tensor]) -> torch.Tensor:
        faces = torch.tensor(self.faces, dtype=params[WEIGHT].dtype, device=params[WEIGHT].device)
        return self.basis.unit(coefficients(params[WEIGHT], params[BIAS], faces))

    def _vectors(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Give the embeddings of all people's words, (members, words, width)."""
        have, want = tuple(coefficients.shape[1:]), (len(self.tokens), sum(self.basis.sizes))
        if have != want:
            raise MismatchError(
                f"coefficients: expected {want} a member, got {have}; were they made for another basis?"
            )
        if self.strength == 1:
            return self.basis.vectors(coefficients, self.radius).flatten(1, 2)
        mean = self.basis.vectors(coefficients, 0.0)
        return torch.lerp(mean, self.basis.vectors(coefficients, self.radius), self.strength).flatten(1, 2)

    def _like(self, pipe: DiffusionPipeline) -> torch.Tensor:
        """Give the embeddings (places, width) to start at."""
        places = len(self.basis.positions)
        if self.like is None:
            return words.meaning(pipe, self.subject.superclass).expand(places, -1)
        ids = pipe.tokenizer(self.like, add_special_tokens=False).input_ids
        if len(ids) < places or pipe.tokenizer.unk_token_id in ids:
            raise ConfigError(f"like: {self.like!r} should be at least {places} tokens that the tokenizer knows")
        return words.embeddings(pipe, ids[:places]).cpu()
