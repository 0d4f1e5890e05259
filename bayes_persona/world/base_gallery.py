"""A contact sheet of the base model, the oracles' judgement under each picture.

`python -m bayes_persona.world.base_gallery` writes it.
"""

from pathlib import Path

import numpy as np

from bayes_persona.diffusion import generate, pipelines
from bayes_persona.seeds import child
from bayes_persona.world import base_scores, oracles, splits
from bayes_persona.world.gallery import COLUMNS, Tile, sheet

ROWS = {"one": "anyone, in combinations that no training showed", "named": "people with names", "two": "two of them"}


def main(folder: Path = Path("docs"), seed: int = 7) -> None:
    """Write `base.png`: prompts that were drawn, not picked; under each what the oracles miss in the picture.

    >>> import inspect
    >>> inspect.signature(main).parameters["folder"].default.name
    'docs'
    """
    pipe = pipelines.load()
    rows = []
    for kind, heading in ROWS.items():
        examples = base_scores.asked(kind, COLUMNS, seed)
        prompts = [example.caption for example in examples]
        pixels = generate.sample(pipe, prompts, generate.noise(pipe, len(prompts), child(seed, kind)))
        verdict = oracles.judge(pixels, prompts)
        tiles = [
            Tile(picture, f"{_judged(verdict, k)}{_likeness(kind, examples[k], picture)} · {prompts[k]}")
            for k, picture in enumerate(pixels)
        ]
        rows.append((heading, tiles))
    sheet(rows).save(folder / "base.png", optimize=True)


def _judged(verdict: dict[str, np.ndarray], k: int) -> str:
    missed = [name for name, values in verdict.items() if values[k] == 0]
    return f"misses {', '.join(missed)}" if missed else "all right"


def _likeness(kind: str, example: splits.Example, picture: np.ndarray) -> str:
    if kind != "named":
        return ""
    error = oracles.identity_error(picture[None], example.scene.subjects[0].identity).item()
    return f", off by {error:.2f}"


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
