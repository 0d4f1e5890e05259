"""Generations: settings of knobs, and what came of them. Those of earlier subjects are a prior for the next one."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayes_persona.errors import DataError, MismatchError
from bayes_persona.files import load_arrays, save_arrays, understood
from bayes_persona.named import require_finite
from bayes_persona.persona import knobs as turning
from bayes_persona.persona.knobs import Knob
from bayes_persona.persona.session import QUALITIES, Quality, Recorded, utility


class Made(NamedTuple):
    """One generation.

    >>> Made((0, 1), {"identity": 0.7}, 0.5).utility
    0.5
    """

    places: tuple[int, ...]
    values: dict[str, float]
    utility: float


def best(made: Sequence[Made]) -> tuple[int, ...]:
    """Give the setting of the best generation: what is left to those who learn no model.

    >>> best([Made((0,), {}, 0.2), Made((1,), {}, 0.7)])
    (1,)
    """
    return max(made, key=lambda one: one.utility).places


def recorded(session: Recorded, qualities: Sequence[Quality] = QUALITIES) -> tuple[Made, ...]:
    """Give every generation of a recorded session.

    >>> from bayes_persona.persona.tuning import shipped
    >>> len(recorded(shipped()))  # 72 settings
    144
    """
    known = [one for one in qualities if one.name in session.names]
    sizes = [len(knob.values) for knob in session.knobs]
    found = []
    for setting, repeats in enumerate(session.values.tolist()):
        places = tuple(int(place) for place in np.unravel_index(setting, sizes))
        for one in repeats:
            values = dict(zip(session.names, one, strict=True))
            found.append(Made(places, values, utility(known, values)))
    return tuple(found)


def save(path: str | Path, knobs: Sequence[Knob], made: Sequence[Made]) -> None:
    """Write generations to one safetensors file.

    >>> import tempfile
    >>> path, guidance = Path(tempfile.mkdtemp()) / "tuned.safetensors", Knob("guidance", (1.0, 3.0))
    >>> save(path, [guidance], [Made((1,), {"identity": 0.7}, 0.5)])
    >>> load(path, [guidance])
    (Made(places=(1,), values={'identity': 0.7}, utility=0.5),)
    """
    names = list(made[0].values) if made else []
    arrays = {
        "places": np.array([one.places for one in made], np.int64).reshape(len(made), len(knobs)),
        "values": np.array([[one.values[name] for name in names] for one in made]).reshape(len(made), len(names)),
        "utility": np.array([one.utility for one in made], np.float64),
    }
    save_arrays(path, arrays, {"knobs": turning.as_json(knobs), "names": names})


def load(path: str | Path, knobs: Sequence[Knob]) -> tuple[Made, ...]:
    """Read generations.

    Args:
        path: The file.
        knobs: What is turned now; what other knobs did says nothing of these.

    Raises:
        RunError: If the file is absent or damaged.
        DataError: If it holds something else, or NaN.
        MismatchError: If other knobs were turned, or the same to other places.

    >>> load("nowhere.safetensors", [Knob("guidance", (1.0, 3.0))])
    Traceback (most recent call last):
    ...
    bayes_persona.errors.RunError: nowhere.safetensors: there is no such file
    """
    arrays, about = load_arrays(path)
    shapes = {name: (array.ndim, array.dtype.kind) for name, array in arrays.items()}
    if shapes != {"places": (2, "i"), "values": (2, "f"), "utility": (1, "f")} or "knobs" not in about:
        raise DataError(f"{path}: holds no generations; tuning writes them (personalize --tune)")
    with understood(path, "generations"):
        columns = (arrays[name].tolist() for name in ("places", "values", "utility"))
        made = tuple(
            Made(tuple(places), dict(zip(about["names"], values, strict=True)), worth)
            for places, values, worth in zip(*columns, strict=True)
        )
    require_finite({name: arrays[name] for name in ("values", "utility")}, str(path))
    if about["knobs"] != turning.as_json(knobs):
        want = {knob.name: knob.values for knob in knobs}
        raise MismatchError(f"{path}: expected generations of {want}, got others; give those of one method and model")
    if bad := [one.places for one in made if not _there(one.places, knobs)]:
        raise DataError(
            f"{path}: {bad[0]} are no places of {', '.join(knob.name for knob in knobs)}; the file is damaged"
        )
    return made


def _there(places: Sequence[int], knobs: Sequence[Knob]) -> bool:
    return len(places) == len(knobs) and all(0 <= k < len(knob.values) for k, knob in zip(places, knobs, strict=True))
