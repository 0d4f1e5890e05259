"""What every personalization method is: parameters with a leading axis of members, a way on and off a pipeline, a loss.

Samplers know adapters through this interface alone, and adapters know priors only as row weights and gate values.
Members are trained and used together: the trunk is frozen and shared, every row of a batch belongs to one member, and
that row is computed with that member's parameters. So K members cost one pass over the rows, not K runs.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int

from bayes_persona.diffusion.text import conditions, hidden
from bayes_persona.diffusion.train import Tensors
from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.files import load_arrays, save_arrays
from bayes_persona.posterior import Posterior
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Subject:
    """Who or what is learned, and how prompts speak of it.

    Raises:
        ConfigError: If the token is not one word, or a template has no place for it.

    >>> me = Subject("robot")
    >>> me.phrase, me.prompt("{subject} looking happy"), me.prompt("a robot at night")
    ('<me> the robot', '<me> the robot looking happy', '<me> the robot at night')
    """

    superclass: str
    """What the base model would call it."""
    token: str = "<me>"
    """The new word."""
    template: str = "{token} the {superclass}"
    """How both are put together; for a model trained on web captions `{token} {superclass}` is usual."""

    def __post_init__(self):
        if not self.token or any(letter.isspace() for letter in self.token):
            raise ConfigError(f"token: expected one word, got {self.token!r}")
        if not self.superclass.strip():
            raise ConfigError("superclass: expected a word that the base model knows, such as robot; got nothing")
        if "{token}" not in self.template:
            raise ConfigError(f"template: expected a place for {{token}}, got {self.template!r}")

    @property
    def phrase(self) -> str:
        """The subject as a prompt names it."""
        return self.template.format(token=self.token, superclass=self.superclass)

    def prompt(self, text: str) -> str:
        """Put the subject into a prompt: for `{subject}`, or else for the first `a robot` or `the happy robot`.

        Raises:
            ConfigError: If the prompt leaves no place for it.
        """
        if "{subject}" in text:
            return text.replace("{subject}", self.phrase)
        if self.token in text.split():
            return text
        generic = rf"\b(?:an?|the) (\w+ )?{re.escape(self.superclass)}\b"
        if re.search(generic, text):
            return re.sub(generic, lambda found: f"{found[1] or ''}{self.phrase}", text, count=1)
        raise ConfigError(f"prompt: {text!r} does not name the subject; write {{subject}} or a {self.superclass}")

    def anyone(self, text: str) -> str:
        """Give the prompt for anyone of the superclass: what the base model, which knows no subject, can be asked.

        >>> me = Subject("robot")
        >>> me.anyone("{subject} at night"), me.anyone("a happy robot"), me.anyone("<me> alone")
        ('a robot at night', 'a happy robot', 'a robot alone')
        """
        one = f"a {self.superclass}"
        text = text.replace("{subject}", one).replace(self.phrase, one)
        return " ".join(one if word == self.token else word for word in text.split(" "))


class Batch(NamedTuple):
    """Rows of several members, with all that is random in them, so that a loss is a function of its arguments.

    >>> blank, zeros = torch.zeros(2, 4, 16, 16), torch.zeros(2, dtype=torch.long)
    >>> batch = Batch(blank, blank, zeros, torch.zeros(2, 40, dtype=torch.long), member=zeros, weight=torch.ones(2))
    >>> batch.time.tolist()
    [0, 0]
    """

    latents: Float[torch.Tensor, "n c h w"]
    noise: Float[torch.Tensor, "n c h w"]
    time: Int[torch.Tensor, " n"]
    tokens: Int[torch.Tensor, "n words"]
    member: Int[torch.Tensor, " n"]
    weight: Float[torch.Tensor, " n"]
    mask: Float[torch.Tensor, "n h w"] | None = None
    """How much each latent pixel counts; None is 1 everywhere."""


@runtime_checkable
class Adapter(Protocol):
    """A personalization method.

    Everything a method learns is in its params: named arrays whose first axis is the member. A method holds settings,
    never parameters and never a random state. `bayes_persona.diffusion.contract.check` puts one through its paces.

    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> isinstance(TextualInversion(Subject("robot")), Adapter)
    True
    """

    @property
    def method(self) -> str:
        """The method's name in files and on the command line."""
        ...

    @property
    def subject(self) -> Subject:
        """Who is learned."""
        ...

    @property
    def gates(self) -> tuple[str, ...]:
        """Names of the components that can be turned off (0), on (1) or half on."""
        ...

    @property
    def knobs(self) -> Mapping[str, tuple[float, float]]:
        """Names and ranges of what a user may turn at generation: settings, so `dataclasses.replace` turns them."""
        ...

    @property
    def rates(self) -> Mapping[str, float]:
        """Learning rates over the run's, by pattern of a param's name, such as `*.output`; 1 where none fits.

        What has rate 0 is not learned by gradient but kept by `track`.
        """
        ...

    def init(self, pipe: DiffusionPipeline, members: int, seed: int) -> Params:
        """Give the params that training starts from, first axis members."""
        ...

    def attached(
        self,
        pipe: DiffusionPipeline,
        params: Mapping[str, Any],
        rows: Int[torch.Tensor, " n"],
        gates: Mapping[str, float] | None = None,
    ) -> AbstractContextManager[None]:
        """Put the method on a pipeline inside a `with`; row i of every batch is computed with member `rows[i]`.

        A batch of m times as many rows, as in classifier-free guidance, holds m such blocks one after another.
        """
        ...

    def loss(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Float[torch.Tensor, " n"]:
        """Give the loss of every row, not yet weighted."""
        ...

    def track(self, pipe: DiffusionPipeline, params: Tensors, batch: Batch) -> Tensors:
        """Give new values of what has rate 0, such as moving averages, after a step on a batch.

        Members without rows keep theirs.
        """
        ...


def members_of(rows: Int[torch.Tensor, " n"], batch: int) -> Int[torch.Tensor, " batch"]:
    """Give the member of each row of a batch that holds whole blocks of `rows`.

    Raises:
        MismatchError: If the batch is not a whole number of blocks.

    >>> members_of(torch.tensor([0, 1]), 4).tolist()
    [0, 1, 0, 1]
    """
    blocks, rest = divmod(batch, len(rows))
    if rest or not blocks:
        raise MismatchError(f"rows: {len(rows)} rows are attached, which does not divide a batch of {batch}")
    return rows.repeat(blocks)


def denoising_loss(pipe: DiffusionPipeline, batch: Batch) -> Float[torch.Tensor, " n"]:
    """Give the mean squared error of each row's noise (or v) prediction by the pipeline as it is now attached.

    Where the batch has masks, each pixel's squared error counts as much as they say.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe, latents, ids = load(), torch.ones(2, 8, 16, 16), torch.zeros(2, 40, dtype=torch.long)
    >>> denoising_loss(pipe, Batch(latents, latents, torch.tensor([1, 999]), ids, ids[:, 0], torch.ones(2))).shape
    torch.Size([2])
    """
    noisy = noised(pipe, batch.latents, batch.noise, batch.time).to(pipe.unet.dtype)
    guess = pipe.unet(noisy, batch.time, **conditions(pipe, hidden(pipe, batch.tokens))).sample.to(batch.latents)
    error = (guess - target(pipe, batch)).square().mean(dim=1)
    return (error if batch.mask is None else batch.mask * error).mean(dim=(1, 2))


def noised(
    pipe: DiffusionPipeline,
    latents: Float[torch.Tensor, "n c h w"],
    noise: Float[torch.Tensor, "n c h w"],
    time: Int[torch.Tensor, " n"],
) -> Float[torch.Tensor, "n c h w"]:
    """Give latents as the U-Net was trained to see them at a time, whatever scheduler the pipeline samples with.

    Euler's own `add_noise`, which SDXL comes with, leaves the picture at its full size, for a sampler to scale.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> pipe, latents, time = load(), torch.ones(1, 8, 16, 16), torch.tensor([300])
    >>> torch.equal(noised(pipe, latents, 2 * latents, time), pipe.scheduler.add_noise(latents, 2 * latents, time))
    True
    """
    signal, scatter = levels(pipe, latents, time)
    return signal * latents + scatter * noise


def levels(
    pipe: DiffusionPipeline, latents: Float[torch.Tensor, "n c h w"], time: Int[torch.Tensor, " n"]
) -> tuple[Float[torch.Tensor, "n 1 1 1"], Float[torch.Tensor, "n 1 1 1"]]:
    """Give how much of the picture and of the noise there is at a time: √ᾱ and √(1 − ᾱ).

    >>> from bayes_persona.diffusion.pipelines import load
    >>> signal, scatter = levels(load(), torch.ones(1, 8, 16, 16), torch.tensor([999]))
    >>> signal.item(), scatter.item()
    (0.0, 1.0)
    """
    kept = pipe.scheduler.alphas_cumprod.to(latents)[time][:, None, None, None]
    return kept**0.5, (1 - kept) ** 0.5


def target(pipe: DiffusionPipeline, batch: Batch) -> Float[torch.Tensor, "n c h w"]:
    """Give what the U-Net should predict.

    Raises:
        ConfigError: If the scheduler's kind of prediction is neither of noise nor of v.

    >>> from bayes_persona.diffusion.pipelines import load
    >>> latents, time, ids = torch.zeros(1, 8, 16, 16), torch.tensor([999]), torch.zeros(1, 40, dtype=torch.long)
    >>> batch = Batch(latents, torch.ones(1, 8, 16, 16), time, ids, torch.tensor([0]), torch.ones(1))
    >>> target(load(), batch).abs().max().item()  # v of a picture that is nothing: at the last step no noise is in it
    0.0
    """
    kind = pipe.scheduler.config.prediction_type
    if kind == "epsilon":
        return batch.noise
    if kind == "v_prediction":
        signal, scatter = levels(pipe, batch.latents, batch.time)
        return signal * batch.noise - scatter * batch.latents
    raise ConfigError(f"scheduler: predicts {kind}; only epsilon and v_prediction can be trained")


def rates_of(adapter: Adapter, names: Iterable[str]) -> dict[str, float]:
    """Give the relative learning rate of every param: that of the first pattern that fits, or else 1.

    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> rates_of(TextualInversion(Subject("robot")), ["embedding"])
    {'embedding': 1.0}
    """
    patterns = adapter.rates.items()
    return {name: next((rate for pattern, rate in patterns if fnmatchcase(name, pattern)), 1.0) for name in names}


def require_gates(adapter: Adapter, gates: Mapping[str, float] | None) -> dict[str, float]:
    """Give a value for every gate, 1 where none is said.

    Raises:
        ConfigError: If a gate has no such name or a value outside 0 to 1.

    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> require_gates(TextualInversion(Subject("robot")), {"embedding": 0.5})
    {'embedding': 0.5}
    """
    gates = {} if gates is None else gates
    for name, value in gates.items():
        if name not in adapter.gates:
            raise ConfigError(f"gates: {adapter.method} has none called {name}; it has {', '.join(adapter.gates)}")
        if not 0 <= value <= 1:
            raise ConfigError(f"gates: {name}: expected 0 to 1, got {value}")
    return {name: float(gates.get(name, 1.0)) for name in adapter.gates}


def save(path: str | Path, adapter: Adapter, posterior: Posterior, *, base: str, **facts: Any) -> None:
    """Write a personalization to one safetensors file.

    Args:
        path: The file.
        adapter: The method, which names itself and its subject.
        posterior: One particle a member.
        base: Fingerprint of the base model it was trained on.
        **facts: More for people to know, such as alpha: plain JSON values.

    Raises:
        ConfigError: If a fact has a name that the file uses itself.
        RunError: If the disk is full or the place cannot be written.

    >>> import tempfile
    >>> import numpy as np
    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> path = Path(tempfile.mkdtemp()) / "me.safetensors"
    >>> save(path, TextualInversion(Subject("robot")), Posterior(({"embedding": np.ones((2, 16))},)), base="a", alpha=4)
    >>> posterior, about = load(path, base="a")
    >>> len(posterior), about["method"], about["alpha"]
    (1, 'textual_inversion', 4)
    """
    own = {
        "method": adapter.method,
        "subject": asdict(adapter.subject),
        "settings": settings(adapter),
        "base": base,
        "members": len(posterior),
    }
    if taken := sorted(own.keys() & facts.keys()):
        raise ConfigError(f"facts: {', '.join(taken)} is what the file says by itself; call the fact something else")
    about = {**own, **facts}
    save_arrays(Path(path), posterior.stacked(), about)


def load(path: str | Path, *, base: str | None = None) -> tuple[Posterior, dict[str, Any]]:
    """Read a personalization and what is known of it.

    Raises:
        MismatchError: If it was trained on another base model than `base`.
        DataError: If the file holds no personalization.
        RunError: If it is damaged.

    >>> load("nowhere.safetensors")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere.safetensors: there is no such file
    """
    arrays, about = load_arrays(Path(path))
    count = about.get("members")
    said = "method" in about and isinstance(count, int) and count > 0 and bool(arrays)
    if not said or any(array.shape[:1] != (count,) for array in arrays.values()):
        raise DataError(f"{path}: holds no personalization; was it written by bayes-persona personalize?")
    if base is not None:
        require_base(path, about, base)
    return Posterior(tuple({name: array[k] for name, array in arrays.items()} for k in range(about["members"]))), about


def require_base(path: str | Path, about: Mapping[str, Any], base: str) -> None:
    """Check that a personalization was trained on a base model.

    Raises:
        MismatchError: If it was not.

    >>> require_base("me.safetensors", {"base": "a"}, "b")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.MismatchError: me.safetensors: was trained on base model a, this is b; load that one
    """
    if about.get("base") != base:
        raise MismatchError(f"{path}: was trained on base model {about.get('base')}, this is {base}; load that one")


def settings(adapter: Adapter) -> dict[str, Any]:
    """Give an adapter's settings, besides its subject, as plain values; arrays that it holds by their fingerprint.

    >>> from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
    >>> settings(TextualInversion(Subject("robot"), vectors=3))
    {'vectors': 3, 'spread': 0.0}
    """
    own = fields(adapter) if is_dataclass(adapter) else ()
    values = {field.name: getattr(adapter, field.name) for field in own if field.name not in {"subject", "method"}}
    return {
        name: asdict(value) if _is_config(value) else getattr(value, "fingerprint", value)
        for name, value in values.items()
    }


def _is_config(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "fingerprint")
