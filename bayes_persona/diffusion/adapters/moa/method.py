"""Mixture-of-Attention as an adapter: a person is one vector, which an encoder makes of photos, and needs no training.

What is shared by all people, experts and routers, is a setting. What differs, the vectors, are params: members are
different opinions of who it is, such as means over different photos, and gradients can improve on them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from bayes_persona.diffusion import words
from bayes_persona.diffusion.adapter import Batch, Subject, denoising_loss, require_gates
from bayes_persona.diffusion.adapters.moa import mixture as mixtures
from bayes_persona.diffusion.adapters.moa.encoder import Encoder, feature
from bayes_persona.diffusion.adapters.moa.mixture import Mixture
from bayes_persona.diffusion.adapters.moa.now import Now, told
from bayes_persona.diffusion.pipelines import device
from bayes_persona.diffusion.text import encoders
from bayes_persona.diffusion.train import Tensors
from bayes_persona.errors import ConfigError, MismatchError, needs_extra
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline

FEATURE = "feature"
"""The one parameter: `(members, subjects, length)`."""


@dataclass(frozen=True)
class Cast(Subject):
    """One subject or several, each named by a word of its own behind the noun, whatever the noun is.

    Raises:
        ConfigError: If two have the same token, or one's is not a word.

    >>> us = Cast("robot", others=("<you>",))
    >>> us.phrase, us.prompt("a happy robot at night"), us.anyone("a robot <me> next to a cat <you>")
    ('a robot <me>', 'a happy robot <me> at night', 'a robot next to a cat')
    """

    template: str = "a {superclass} {token}"
    """How a subject is named: its token stands behind the noun."""
    others: tuple[str, ...] = ()
    """Tokens of the other subjects."""

    def __post_init__(self):
        super().__post_init__()
        if len({self.token, *self.others}) <= len(self.others):
            raise ConfigError(f"others: {', '.join(self.tokens)} are not all different; give each subject its own")
        if odd := [token for token in self.others if not token or any(letter.isspace() for letter in token)]:
            raise ConfigError(f"others: expected words, got {odd[0]!r}")

    @property
    def tokens(self) -> tuple[str, ...]:
        """The word of each subject.

        >>> Cast("robot", others=("<you>",)).tokens
        ('<me>', '<you>')
        """
        return (self.token, *self.others)

    def prompt(self, text: str) -> str:
        """Name the first subject in a prompt: for `{subject}`, or behind the first `a robot` or `the happy robot`.

        Raises:
            ConfigError: If the prompt leaves no place for it.

        >>> Cast("robot").prompt("in a meadow the sad robot wearing red")
        'in a meadow the sad robot <me> wearing red'
        """
        if "{subject}" in text:
            return text.replace("{subject}", self.phrase)
        if self.token in text.split():
            return text
        generic = rf"\b(?:an?|the) (?:\w+ )?{re.escape(self.superclass)}\b"
        if re.search(generic, text):
            return re.sub(generic, lambda found: f"{found[0]} {self.token}", text, count=1)
        raise ConfigError(f"prompt: {text!r} does not name the subject; write {{subject}} or a {self.superclass}")

    def anyone(self, text: str) -> str:
        """Give the prompt for anyone: what the prior reads."""
        text = text.replace("{subject}", f"a {self.superclass}")
        return " ".join(word for word in text.split(" ") if word not in self.tokens)


@dataclass(frozen=True)
class MoA:
    """The method and its settings: an `Adapter`.

    Raises:
        ConfigError: If there is not one vector for each subject, or a number is out of its range.

    >>> mixture = Mixture(mixtures.Config(feature=2), {}, base="…", encoder="world")
    >>> MoA(Cast("robot"), mixture, ((0.5, 0.5),)).gates[:2]
    ('down.self', 'down.cross')
    """

    subject: Cast
    """Who is shown."""
    mixture: Mixture
    """What was trained on many people."""
    features: tuple[tuple[float, ...], ...]
    """What an encoder makes of each subject's photos."""
    strength: float = 0.0
    """Added to every router's logit: more shows more of the subject and less of the prior's picture."""
    logits: Mapping[str, float] = field(default_factory=dict)
    """What is believed of the routers of each gate: log odds that are added besides, such as `gates.router_logits`."""
    delay: float = 0.0
    """Share of the noise schedule, from pure noise on, in which the prior works alone."""
    unmentioned: Literal["prior", "mixture"] = "prior"
    """What computes rows whose prompt names nobody, such as guidance's empty ones."""
    method: str = "moa"

    def __post_init__(self):
        have, want = len(self.features), self.subject.tokens
        if have != len(want):
            raise ConfigError(f"features: {have} for {len(want)} placeholders {', '.join(want)}; give one for each")
        length = self.mixture.config.feature
        if odd := [len(one) for one in self.features if len(one) != length]:
            raise ConfigError(f"features: {odd[0]} numbers, the mixture reads {length}; use its encoder")
        for name, (low, high) in self.knobs.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}: expected {low:g} to {high:g}, got {getattr(self, name)}")
        for gate, value in self.logits.items():
            if gate not in mixtures.GATES or not np.isfinite(value):
                raise ConfigError(
                    f"logits: expected finite numbers of {', '.join(mixtures.GATES)}, got {gate}: {value}"
                )
        if self.unmentioned not in ("prior", "mixture"):
            raise ConfigError(f"unmentioned: expected prior or mixture, got {self.unmentioned!r}")

    @property
    def gates(self) -> tuple[str, ...]:
        """One gate for each third of the U-Net and kind of attention: at 0 the prior is alone there."""
        return mixtures.GATES

    @property
    def knobs(self) -> Mapping[str, tuple[float, float]]:
        """How much the experts are trusted, and when they come in: turn them with `dataclasses.replace`."""
        return {"strength": (-4.0, 4.0), "delay": (0.0, 1.0)}

    @property
    def rates(self) -> Mapping[str, float]:
        """All is learned at the run's rate."""
        return {}

    def init(self, pipe: DiffusionPipeline, members: int, seed: int) -> Params:
        """Start every member at the photos' mean vectors, which need no training to be used.

        Raises:
            MismatchError: If the mixture was trained on another base model.
        """
        self.mixture.require(pipe)
        return {FEATURE: np.tile(np.array(self.features, np.float32), (members, 1, 1))}

    @contextmanager
    def attached(
        self,
        pipe: DiffusionPipeline,
        params: Mapping[str, Any],
        rows: Int[torch.Tensor, " n"],
        gates: Mapping[str, float] | None = None,
    ) -> Iterator[None]:
        """Put the mixture around the attentions, and teach the tokenizer the subjects' words, for the `with`.

        Raises:
            MismatchError: If vectors or mixture do not fit.
            ConfigError: If a token is a word already.
        """
        with self.watched(pipe, params, rows, gates):
            yield

    @contextmanager
    def watched(
        self,
        pipe: DiffusionPipeline,
        params: Mapping[str, Any],
        rows: Int[torch.Tensor, " n"],
        gates: Mapping[str, float] | None = None,
    ) -> Iterator[Now]:
        """Attach as `attached` does, and give what goes on in every pass, such as where the routers send pixels.

        Raises:
            MismatchError: If vectors or mixture do not fit.
            ConfigError: If a token is a word already.
        """
        tokens = self.subject.tokens
        with ExitStack() as stack:
            now = stack.enter_context(self._on(pipe, params, rows, require_gates(self, gates)))
            # nobody looks up what the new words mean: the text encoders never see them
            width = sum(net.config.hidden_size for net in encoders(pipe))
            blank = torch.zeros(now.features.shape[0], len(tokens), width)
            stack.enter_context(words.taught(pipe, tokens, blank, rows))
            yield now

    def loss(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Float[torch.Tensor, " n"]:
        """Give the denoising loss of every row."""
        with self._on(pipe, params, batch.member, {}):
            return denoising_loss(pipe, batch)

    def track(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Tensors:
        """Nothing is learned but by gradient."""
        return {}

    @contextmanager
    def _on(
        self, pipe: Any, params: Mapping[str, Any], rows: torch.Tensor, gates: Mapping[str, float]
    ) -> Iterator[Now]:
        learned = torch.as_tensor(params[FEATURE])
        want = (len(self.subject.tokens), self.mixture.config.feature)
        if learned.ndim != 3 or tuple(learned.shape[1:]) != want:
            raise MismatchError(
                f"feature: expected {want} a member, got {tuple(learned.shape[1:])}; was it made for another mixture?"
            )
        now = Now(
            learned.to(device(pipe), pipe.unet.dtype),
            rows,
            pipe.scheduler.config.num_train_timesteps,
            delay=self.delay,
            everywhere=self.unmentioned == "mixture",
        )
        mixed = mixtures.mixed(
            pipe.unet,
            self.mixture.config,
            self.mixture.tensors,
            now,
            gates=gates,
            lean=self.strength,
            leans=self.logits,
        )
        with mixed, told(pipe, now, first=len(pipe.tokenizer)):
            yield now


def introduced(
    subject: Cast, mixture: Mixture, encoder: Encoder, photos: Sequence[UInt8[np.ndarray, "_n _h _w 3"]]
) -> MoA:
    """Give the method for subjects that photos show.

    Args:
        subject: Who they are called.
        mixture: What was trained on many people.
        encoder: What it was trained with.
        photos: Those of each subject, in the order of their tokens.

    Raises:
        ConfigError: If there are not as many subjects with photos as tokens.
        DataError: If a subject has no photo.

    >>> mixture = Mixture(mixtures.Config(feature=3), {}, base="…", encoder="mean colour")
    >>> red = np.zeros((1, 8, 8, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    >>> introduced(Cast("robot"), mixture, lambda pixels: pixels.mean(axis=(1, 2)) / 255, [red]).features
    ((1.0, 0.0, 0.0),)
    """
    return MoA(subject, mixture, tuple(feature(encoder, own) for own in photos))


def blended(one: Mapping[str, Any], other: Mapping[str, Any], amount: float) -> Params:
    """Give who lies between two people, from the first (0) to the second (1): a morph, with the same noise.

    >>> blended({"feature": np.zeros((1, 1, 2))}, {"feature": np.ones((1, 1, 2))}, 0.25)["feature"].tolist()
    [[[0.25, 0.25]]]
    """
    first, second = np.asarray(one[FEATURE]), np.asarray(other[FEATURE])
    if first.shape != second.shape:
        raise MismatchError(f"feature: {first.shape} and {second.shape} cannot be blended; take as many of each")
    return {FEATURE: ((1 - amount) * first + amount * second).astype(first.dtype)}
