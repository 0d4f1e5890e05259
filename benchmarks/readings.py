"""What the oracles read in pictures of the people of `benchmarks.persona`, in one small file for the sixth notebook.

`python -m benchmarks.readings` takes what that benchmark kept, and makes what is missing.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayes_persona.files import save_arrays
from benchmarks import persona, subjects

OUT = Path("notebooks") / "readings.safetensors"
FITS: dict[str, tuple[str, dict[str, Any]]] = {
    "textual_inversion": ("textual_inversion", {}),
    "perfusion": ("perfusion", {}),
    "celeb_basis": ("celeb_basis", {}),
    "ensemble": ("celeb_basis", persona.PLAIN),
}
"""Each on people that the constant is found on, and on people that are reported."""


def main(config: persona.Config) -> None:
    torch.set_num_threads(1)
    groups = {"tuning": (subjects.TUNING, config.tuned), "report": (subjects.REPORT, config.identities)}
    arrays = {}
    for name, (method, changed) in FITS.items():
        for group, (seed, n) in groups.items():
            found = persona.people(method, seed, n, f"{name}, {group}", **changed)
            arrays[f"{name}.{group}"] = found.members.mean(axis=2)
            arrays[f"truth.{group}"], arrays[f"visible.{group}"] = found.truth, found.visible
    for count in persona.COUNTS:
        found = persona.people("celeb_basis", subjects.REPORT, config.identities, f"{count} photos", count)
        arrays[f"photos{count}.report"] = found.members.mean(axis=2)
    small = {name: value if value.dtype == bool else value.astype(np.float32) for name, value in arrays.items()}
    save_arrays(OUT, small, {"command": "python -m benchmarks.readings", "axes": "people × members × factors"})


if __name__ == "__main__":
    main(persona.Config())
