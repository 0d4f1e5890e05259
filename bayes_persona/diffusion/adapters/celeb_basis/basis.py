"""The basis: what the first words of names share, and the directions in which they differ.

A text encoder knows famous people by name. The rows of its table for the first words of many names have a mean, and
principal directions; the second words have theirs. A new person is looked for there and nowhere else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from bayes_persona.errors import ConfigError, DataError, MismatchError, needs_extra
from bayes_persona.files import load_arrays, save_arrays, understood
from bayes_persona.named import fingerprint
from bayes_persona.seeds import generator

with needs_extra("diffusion"):
    import torch
    from torch import nn

Mode = Literal["clean", "faithful"]


class Position(NamedTuple):
    """One place in a name: where its words lie.

    >>> Position(np.zeros(3), np.eye(3)[:2], distance=1.0).rows.shape
    (2, 3)
    """

    mean: Float[np.ndarray, " d"]
    rows: Float[np.ndarray, "p d"]
    """Orthonormal directions, the one that names differ most in first."""
    distance: float
    """How far the names' words lie from the mean, on average."""


@dataclass(frozen=True, eq=False)
class Basis:
    """A mean and directions for every place in a name, made from one text encoder's table.

    >>> basis = Basis((Position(np.zeros(3), np.eye(3)[:2], distance=0.5),), np.array([7, 9]), "…")
    >>> basis.vectors(torch.tensor([2.0, 0.0])).tolist()  # on the sphere, whatever the length
    [[0.5, 0.0, 0.0]]
    """

    positions: tuple[Position, ...]
    tokens: np.ndarray
    """Ids of the names' tokens."""
    table: str
    """Fingerprint of their rows in the table: a basis means nothing for another one."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Coefficients of every place; a person is all of them in a row.

        >>> Basis((Position(np.zeros(3), np.eye(3)[:2], 0.5),) * 2, np.array([7]), "…").sizes
        (2, 2)
        """
        return tuple(len(position.rows) for position in self.positions)

    @cached_property
    def fingerprint(self) -> str:
        """Name the basis by its numbers.

        >>> len(Basis((Position(np.zeros(3), np.eye(3)[:2], 0.5),), np.array([7]), "…").fingerprint)
        32
        """
        return fingerprint(self._arrays())

    def unit(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Give coefficients of length 1 at every place.

        >>> basis = Basis((Position(np.zeros(3), np.eye(3)[:2], 0.5),) * 2, np.array([7]), "…")
        >>> basis.unit(torch.tensor([3.0, 4.0, 0.0, 2.0])).tolist()
        [0.6..., 0.8..., 0.0, 1.0]
        """
        parts = coefficients.split(self.sizes, dim=-1)
        return torch.cat([nn.functional.normalize(part, dim=-1) for part in parts], dim=-1)

    def vectors(self, coefficients: torch.Tensor, radius: float | None = None) -> torch.Tensor:
        """Give the embeddings `(…, places, d)` of people, at a distance from the mean.

        Args:
            coefficients: Numbers of shape (…, sum of sizes); only their direction counts.
            radius: The distance; None is the names' own mean one.

        >>> basis = Basis((Position(np.ones(3), np.eye(3)[:2], 0.5),), np.array([7]), "…")
        >>> basis.vectors(torch.tensor([0.0, 4.0]), radius=2.0).tolist()
        [[1.0, 3.0, 1.0]]
        """
        parts = self.unit(coefficients).split(self.sizes, dim=-1)
        out = []
        for part, position in zip(parts, self.positions, strict=True):
            length = position.distance if radius is None else radius
            mean, rows = torch.as_tensor(position.mean).to(part), torch.as_tensor(position.rows).to(part)
            out.append(mean + length * part @ rows)
        return torch.stack(out, dim=-2)

    def coefficients(self, vectors: torch.Tensor) -> torch.Tensor:
        """Give what lies nearest to embeddings `(…, places, d)`: not of unit length.

        >>> basis = Basis((Position(np.zeros(3), np.eye(3)[:2], 0.5),), np.array([7]), "…")
        >>> basis.coefficients(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [1.0, 2.0]
        """
        parts = []
        for k, position in enumerate(self.positions):
            part = vectors[..., k, :]
            mean, rows = torch.as_tensor(position.mean).to(part), torch.as_tensor(position.rows).to(part)
            parts.append((part - mean) @ rows.mT)
        return torch.cat(parts, dim=-1)

    def random(self, seed: int) -> "Basis":
        """Give a basis of the same shape and the same means, but of random directions: what an ablation compares with.

        >>> basis = Basis((Position(np.zeros(3), np.eye(3)[:2], 0.5),), np.array([7]), "…")
        >>> basis.random(seed=0).sizes, basis.random(seed=0).fingerprint == basis.fingerprint
        ((2,), False)
        """
        made = []
        for k, (mean, rows, distance) in enumerate(self.positions):
            draws = generator(seed, "random basis", k).standard_normal(rows.T.shape)
            made.append(Position(mean, np.linalg.qr(draws)[0].T.astype(np.float32), distance))
        return Basis(tuple(made), self.tokens, self.table)

    def require(self, table: torch.Tensor) -> None:
        """Check that this basis was made from a table `(words, d)`.

        Raises:
            MismatchError: If it was made from another.

        >>> Basis((Position(np.zeros(3), np.eye(3)[:2], 0.5),), np.array([7]), "…").require(torch.zeros(8, 3))
        Traceback (most recent call last):
        ...
        bayes_persona.errors.MismatchError: basis: made from another text encoder's table; build it for this one
        """
        width = self.positions[0].mean.shape[0]
        if table.shape[1] != width:
            raise MismatchError(
                f"basis: made for embeddings of width {width}, not {table.shape[1]}; build it for this text encoder"
            )
        if self.tokens.max() >= len(table) or _rows_of(table, self.tokens) != self.table:
            raise MismatchError("basis: made from another text encoder's table; build it for this one")

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file.

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "basis.safetensors"
        >>> basis = Basis((Position(np.zeros(3), np.eye(3)[:2], 0.5),), np.array([7]), "…")
        >>> basis.save(path)
        >>> load(path).fingerprint == basis.fingerprint
        True
        """
        save_arrays(path, self._arrays(), {"basis": self.fingerprint, "table": self.table})

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {"tokens": self.tokens}
        for k, position in enumerate(self.positions):
            arrays |= {f"{k}.{name}": np.asarray(value) for name, value in position._asdict().items()}
        return arrays


def load(path: str | Path) -> Basis:
    """Read a basis.

    Raises:
        RunError: If the file is absent or damaged.
        DataError: If it holds something else.

    >>> load("nowhere.safetensors")
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere.safetensors: there is no such file
    """
    arrays, about = load_arrays(path)
    if "basis" not in about:
        raise DataError(f"{path}: holds no basis; build one with celeb_basis.basis.build")
    count = sum(name.endswith(".mean") for name in arrays)
    with understood(path, "basis"):
        positions = [
            Position(arrays[f"{k}.mean"], arrays[f"{k}.rows"], float(arrays[f"{k}.distance"])) for k in range(count)
        ]
        return Basis(tuple(positions), arrays["tokens"], about["table"])


def build(
    text_encoder: Any | Sequence[Any],
    tokenizer: Any,
    names: Iterable[str] | None = None,
    *,
    vectors: int = 2,
    components: int = 512,
    mode: Mode = "clean",
) -> Basis:
    """Build the basis of a text encoder from names; the same names give the same basis, in whatever order.

    Args:
        text_encoder: Any with a table: CLIP's, with a projection or without; or SDXL's two, for one person in both.
        tokenizer: Its tokenizer.
        names: Whom the model knows; None for `well_known()`. A name with too few tokens counts where it has some.
        vectors: Places in a name.
        components: Directions at most.
        mode: `clean` counts every token once, and takes no more directions than they span. `faithful` does as the
            paper's code: a token counts as often as names have it, and where they span fewer than `components`
            directions, any others are taken.

    Raises:
        ConfigError: If there are too few names or directions, or the tokenizer does not know a name.

    >>> from bayes_persona.diffusion.pipelines import load as pipeline
    >>> pipe = pipeline()
    >>> build(pipe.text_encoder, pipe.tokenizer, ["ada finch", "clara vale", "ada moss"]).sizes
    (1, 2)
    """
    if vectors < 1 or components < 1:
        raise ConfigError(f"vectors, components: expected at least 1 of each, got {vectors} and {components}")
    several = text_encoder if isinstance(text_encoder, Sequence) else [text_encoder]
    rows, ids = table(several), tokens_of(tokenizer, names)
    places = [[name[k] for name in ids if len(name) > k] for k in range(vectors)]
    positions = tuple(_position(rows, place, k, components, mode) for k, place in enumerate(places))
    used = np.unique(np.concatenate([np.array(place) for place in places]))
    return Basis(positions, used, _rows_of(rows, used))


def table(text_encoders: Sequence[Any]) -> torch.Tensor:
    """Give the embeddings `(words, d)` of all tokens, of several text encoders side by side.

    >>> from bayes_persona.diffusion.pipelines import load as pipeline
    >>> table([pipeline().text_encoder]).shape[1]
    128
    """
    tables = [net.get_input_embeddings().weight.detach() for net in text_encoders]
    return tables[0] if len(tables) == 1 else torch.cat(tables, dim=1)


def tokens_of(tokenizer: Any, names: Iterable[str] | None = None) -> list[list[int]]:
    """Give the token ids of every name, each name once and in the order of the alphabet.

    Raises:
        ConfigError: If there are fewer than two names, or the tokenizer does not know one.

    >>> from bayes_persona.diffusion.pipelines import load as pipeline
    >>> [len(name) for name in tokens_of(pipeline().tokenizer, ["ada finch", "clara vale", "ada finch"])]
    [2, 2]
    """
    listed = sorted(set(well_known() if names is None else names))
    if len(listed) < 2:
        raise ConfigError(f"names: a basis needs at least two different ones, got {len(listed)}")
    ids = tokenizer(listed, add_special_tokens=False).input_ids
    unknown = [
        name for name, one in zip(listed, ids, strict=True) if not len(one) or tokenizer.unk_token_id in list(one)
    ]
    if unknown:
        raise ConfigError(
            f"names: the tokenizer does not know all of {', '.join(map(repr, unknown[:3]))}; leave it out"
        )
    return [list(one) for one in ids]


def well_known() -> tuple[str, ...]:
    """Give names of public figures of many times and trades, whom models of the web's pictures may know.

    >>> len(well_known()) >= 700, "Marie Curie" in well_known()
    (True, True)
    """
    return tuple((files(__package__ or "") / "names.txt").read_text(encoding="utf-8").split("\n")[:-1])


def interpolate(basis: Basis, one: torch.Tensor, other: torch.Tensor, t: float) -> torch.Tensor:
    """Give the coefficients of someone between two people: along the great circle of the sphere, place by place.

    >>> basis = Basis((Position(np.zeros(3), np.eye(3)[:2], distance=0.5),), np.array([7]), "…")
    >>> interpolate(basis, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5).tolist()
    [0.707106..., 0.707106...]
    """
    pairs = zip(*(basis.unit(end).split(basis.sizes, dim=-1) for end in (one, other)), strict=True)
    return torch.cat([_between(a, b, t) for a, b in pairs], dim=-1)


def _between(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    # atan2 stays exact where acos of a product near 1 does not
    angle = 2 * torch.atan2((a - b).norm(dim=-1, keepdim=True), (a + b).norm(dim=-1, keepdim=True))
    sine = angle.sin()
    curved = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / sine.clamp(min=1e-12)
    return nn.functional.normalize(torch.where(sine > 1e-6, curved, torch.lerp(a, b, t)), dim=-1)


def _position(table: torch.Tensor, ids: Sequence[int], k: int, components: int, mode: Mode) -> Position:
    ids = sorted(set(ids)) if mode == "clean" else ids
    if len(set(ids)) < 2:
        raise ConfigError(f"names: their tokens at place {k} are {len(set(ids))} different ones; give more names")
    rows = table[torch.tensor(ids, device=table.device)].cpu().double().numpy()
    mean = rows.mean(axis=0)
    _, sizes, directions = np.linalg.svd(rows - mean, full_matrices=mode == "faithful")
    if mode == "clean":
        directions = directions[: int((sizes > sizes[0] * max(rows.shape) * np.finfo(float).eps).sum())]
    directions = directions[:components]
    # The sign of a singular vector is anyone's choice, and differs between machines: the largest entry is positive.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    distance = float(np.linalg.norm(rows - mean, axis=1).mean())
    return Position(mean.astype(np.float32), (directions * np.sign(largest)).astype(np.float32), distance)


def _rows_of(table: torch.Tensor, tokens: np.ndarray) -> str:
    # in half precision, so that a model loaded so is still the same one
    rows = table.detach()[torch.as_tensor(tokens, device=table.device)].half()
    return fingerprint({"rows": rows.cpu().numpy()})
