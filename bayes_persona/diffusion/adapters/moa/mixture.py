"""What is trained once, on many people: an expert and a router beside every attention, and the subjects' words."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from bayes_persona import ranges
from bayes_persona.diffusion.adapters.moa import layer, tokens
from bayes_persona.diffusion.adapters.moa.now import Now
from bayes_persona.diffusion.attach import attached
from bayes_persona.diffusion.pipelines import fingerprint
from bayes_persona.errors import DataError, MismatchError, needs_extra
from bayes_persona.files import load_arrays, save_arrays, understood
from bayes_persona.named import fingerprint as fingerprint_arrays
from bayes_persona.seeds import child
from bayes_persona.types import Params

with needs_extra("diffusion"):
    import torch
    from torch import nn

BLOCKS = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}
"""The three thirds of a U-Net in the order of the pass, as diffusers and as gates call them."""
KINDS = {"attn1": "self", "attn2": "cross"}
"""The two attentions of a transformer block, likewise."""
GATES = tuple(f"{block}.{kind}" for block in BLOCKS.values() for kind in KINDS.values())


@dataclass(frozen=True)
class Config:
    """The shape of a mixture.

    Raises:
        ConfigError: If a number is out of its range.

    >>> Config(feature=0)
    Traceback (most recent call last):
    ...
    bayes_persona.errors.ConfigError: feature: expected at least 1, got 0
    """

    feature: int
    """Length of the encoder's vectors."""
    rank: int | None = None
    """Directions in which each projection of the expert may differ from the prior's; None keeps full copies."""
    router: int | None = None
    """Width of the routers' hidden layer; None has none."""
    lean: float = 0.0
    """The routers' first logit: 0 mixes half and half, less trusts the prior more."""
    hidden: int = 256
    """Width of the net that makes a word of noun and picture."""
    frequencies: int = 256
    """Of the encoding of time and layer; 0 leaves both out."""
    silent_start: bool = False
    """Attention to the text's first mark gives nothing in the experts, as in the paper's anonymous version."""

    def __post_init__(self):
        ranges.at_least(self, 1, "feature", "hidden", "rank", "router")
        ranges.at_least(self, 0, "frequencies")


@dataclass(frozen=True, eq=False)
class Mixture:
    """Experts, routers and the words' net, as numbers.

    >>> Mixture(Config(feature=4), {"a": np.zeros(2, np.float32)}, base="…", encoder="world").fingerprint[:4]
    '...'
    """

    config: Config
    params: Params
    """Named by layer, such as `mid_block.attentions.0.transformer_blocks.0.attn1.q_p.weight`, and `token.…`."""
    base: str
    """Fingerprint of the model that it was trained on."""
    encoder: str
    """What its vectors come from."""

    @cached_property
    def fingerprint(self) -> str:
        """Name the mixture by its numbers.

        >>> len(Mixture(Config(feature=4), {"a": np.zeros(2, np.float32)}, base="…", encoder="world").fingerprint)
        32
        """
        return fingerprint_arrays(self.params)

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Give the numbers in full precision.

        >>> Mixture(Config(feature=4), {"a": np.zeros(2, np.float16)}, base="…", encoder="world").tensors["a"].dtype
        torch.float32
        """
        return {name: torch.tensor(value).float() for name, value in self.params.items()}

    def require(self, pipe: Any) -> None:
        """Check that this mixture was trained on a model.

        Raises:
            MismatchError: If it was trained on another.

        >>> from bayes_persona.diffusion.pipelines import load as pipeline
        >>> Mixture(Config(feature=4), {}, base="a", encoder="world").require(pipeline())
        Traceback (most recent call last):
        ...
        bayes_persona.errors.MismatchError: mixture: was trained on base model a, this is ...; load that one
        """
        have = fingerprint(pipe)
        if have != self.base:
            raise MismatchError(f"mixture: was trained on base model {self.base}, this is {have}; load that one")

    def save(self, path: str | Path, dtype: Any = np.float16) -> None:
        """Write it to one safetensors file, in half precision unless said otherwise.

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "moa.safetensors"
        >>> Mixture(Config(feature=4), {"a": np.ones(2, np.float32)}, base="b", encoder="world").save(path)
        >>> load(path).config, load(path).base
        (Config(feature=4, ...), 'b')
        """
        arrays = {name: np.asarray(value).astype(dtype) for name, value in self.params.items()}
        save_arrays(path, arrays, {"mixture": asdict(self.config), "base": self.base, "encoder": self.encoder})


def load(path: str | Path) -> Mixture:
    """Read a mixture.

    Raises:
        RunError: If the file is absent or damaged.
        DataError: If it holds something else.

    >>> load("nowhere.safetensors")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere.safetensors: there is no such file
    """
    arrays, about = load_arrays(path)
    if "mixture" not in about:
        raise DataError(f"{path}: holds no mixture of attention; train one with bayes_persona.world.train_moa")
    with understood(path, "mixture of attention"):
        return Mixture(Config(**about["mixture"]), arrays, about["base"], about["encoder"])


def build(pipe: Any, config: Config, *, encoder: str = "", seed: int = 0) -> Mixture:
    """Give a mixture to start training from: it draws what the base model draws.

    >>> from bayes_persona.diffusion.pipelines import load as pipeline
    >>> len(layers(pipeline().unet)), len(build(pipeline(), Config(feature=4)).params)
    (14, 105)
    """
    params = tokens.start(
        config.feature, pipe.unet.config.cross_attention_dim, config.hidden, max(config.frequencies, 1), seed
    )
    if not config.frequencies:
        del params["token.place.weight"]
    for name in layers(pipe.unet):
        own = layer.start(
            pipe.unet.get_submodule(name),
            seed=child(seed, name),
            rank=config.rank,
            router=config.router,
            lean=config.lean,
        )
        params |= {f"{name}.{part}": value for part, value in own.items()}
    return Mixture(config, params, fingerprint(pipe), encoder)


def layers(unet: nn.Module) -> dict[str, int]:
    """Give the attentions of a U-Net's transformer blocks in the order of the pass, each with its block's number.

    >>> from bayes_persona.diffusion.pipelines import load as pipeline
    >>> found = layers(pipeline().unet)
    >>> list(found)[0], list(found.values())
    ('down_blocks.0.attentions.0.transformer_blocks.0.attn1', [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6])
    """
    order = list(BLOCKS)
    names = [name for name, _ in unet.named_modules() if name.partition(".")[0] in order]
    names = [name for name in names if ".transformer_blocks." in name and name.rpartition(".")[2] in KINDS]
    names = sorted(names, key=lambda name: order.index(name.partition(".")[0]))  # stable: diffusers lists mid last
    blocks = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    return {name: blocks.index(name.rpartition(".")[0]) for name in names}


def gate_of(name: str) -> str:
    """Give the gate of a layer.

    >>> gate_of("mid_block.attentions.0.transformer_blocks.0.attn2")
    'mid.cross'
    """
    return f"{BLOCKS.get(name.partition('.')[0])}.{KINDS.get(name.rpartition('.')[2])}"


@contextmanager
def mixed(
    unet: nn.Module,
    config: Config,
    params: Mapping[str, torch.Tensor],
    now: Now,
    *,
    gates: Mapping[str, float] | None = None,
    lean: float = 0.0,
    leans: Mapping[str, float] | None = None,
) -> Iterator[None]:
    """Put a mixture around the attentions of a U-Net, for as long as the `with` lasts.

    Args:
        unet: The U-Net.
        config: The mixture's shape.
        params: Its numbers.
        now: What its layers share; `now.told` keeps it up to date.
        gates: How much of every expert is let in, by name; 1 where none is said.
        lean: Added to every router's logit.
        leans: Added to those of a gate besides, by its name.

    Raises:
        MismatchError: If the mixture is another U-Net's.

    >>> from bayes_persona.diffusion.pipelines import load as pipeline
    >>> pipe, shape = pipeline(), Config(feature=4)
    >>> now = Now(torch.zeros(1, 1, 4), torch.tensor([0]), times=1000)
    >>> with mixed(pipe.unet, shape, build(pipe, shape).tensors, now):
    ...     type(pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1).__name__
    'Mixed'
    """
    found, gates, leans = layers(unet), gates or {}, leans or {}
    said = {
        name.rpartition(".attn")[0] + ".attn" + name.rpartition(".attn")[2][0] for name in params if ".attn" in name
    }
    if strange := sorted(said ^ found.keys()):
        raise MismatchError(f"{strange[0]}: not in this U-Net, or not in the mixture; was it trained on another model?")
    here = next(unet.parameters())
    cast = {name: value.to(here.device, here.dtype) for name, value in params.items()}
    words = {name: value for name, value in cast.items() if name.startswith("token.")}
    parts = {}
    for name, block in found.items():
        own = {part.removeprefix(f"{name}."): value for part, value in cast.items() if part.startswith(f"{name}.")}
        parts[name] = partial(
            _around,
            name=name,
            params=own | (words if name.endswith("attn2") else {}),
            now=now,
            layer=block,
            amount=gates.get(gate_of(name), 1.0),
            lean=lean + leans.get(gate_of(name), 0.0),
            silent_start=config.silent_start,
        )
    with attached(unet, parts):
        yield


def _around(base: nn.Module, name: str, params: dict[str, torch.Tensor], **settings: Any) -> layer.Mixed:
    """Give what goes around an attention, checked against its widths."""
    layer.require_usual(base)
    for part, place in layer.PARTS.items():
        want = _widths(base.get_submodule(place))
        have = None
        if f"{part}.weight" in params:
            have = tuple(params[f"{part}.weight"].shape)
        elif f"{part}.down" in params:
            have = (len(params[f"{part}.up"]), params[f"{part}.down"].shape[1])
        if have != want:
            raise MismatchError(
                f"{name}.{part}: {have} does not fit a projection {want}; was it made for another model?"
            )
    return layer.Mixed(base, name, params, **settings)


def _widths(part: nn.Module) -> tuple[int, int]:
    """Give outputs and inputs of a projection, whatever is around it."""
    linear = next(module for module in part.modules() if isinstance(module, nn.Linear))
    return linear.out_features, linear.in_features
