"""The picture of docs/perfusion.md: which words open the gate, and one training at every β, alone and beside another.

`python -m benchmarks.perfusion_picture` writes it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_persona.diffusion import generate, pipelines
from bayes_persona.diffusion.adapters.perfusion.layer import Inputs
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.diffusion.adapters.perfusion.together import DIRECTION, INPUT
from bayes_persona.diffusion.text import hidden, tokens
from bayes_persona.persona.plots import show
from bayes_persona.pictures import COLOURS, axes
from bayes_persona.posterior import Posterior
from bayes_persona.seeds import child
from bayes_persona.world import splits
from benchmarks import perfusion, subjects

BETAS = (0.4, 0.55, 0.7, 0.85)
WORDS = "{subject} with a hat on the beach at night"


def main(folder: Path = Path("docs"), seed: int = 3) -> None:
    torch.set_num_threads(1)
    pipe = pipelines.load()
    who = splits.held_out(8, child(seed, "pictured"))[2]
    method, photos = perfusion.perfusion(who), perfusion.shown(who, child(seed, "photos"))
    learned, _ = perfusion.trained(pipe, method, photos, perfusion.DRAW, seed)
    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(0.75, 1))
    left, right = parts[0].subplots(1, 2, width_ratios=(1.5, 1))
    alike = _words(left, pipe, method, learned)
    _gates(right, method, alike)
    grid = parts[1].subplots(2, 1 + len(BETAS) + 1)
    titles = ("one of four photos", *(f"β = {beta:g}" for beta in BETAS), "anyone")
    for row, text in enumerate(subjects.prompts(who.superclass, 2, seed)):
        start = generate.noise(pipe, 1, child(seed, "noise", row))
        made = [photos.pixels[row]]
        for beta in BETAS:
            made.append(
                subjects.drawn(pipe, replace(method, beta=beta), learned, [method.subject.prompt(text)], start)[0]
            )
        made.append(generate.sample(pipe, [text], start)[0])
        for axis, picture, title in zip(grid[row], made, titles, strict=True):
            show(axis, picture, title if row == 0 else "")
        grid[row, len(titles) // 2].set_xlabel(text, fontsize=9)
    figure.savefig(folder / "perfusion.png", dpi=110)


@torch.no_grad()
def _words(axis: Axes, pipe: Any, method: Perfusion, learned: Posterior) -> float:
    """Show how alike every word of a prompt is to the subject's, and give the largest of the others."""
    text, params = method.subject.prompt(WORDS), learned.stacked()
    with method.attached(pipe, params, torch.zeros(1, dtype=torch.long)):
        ids = tokens(pipe, str(pipe.maybe_convert_prompt(text, pipe.tokenizer)))
        said = hidden(pipe, torch.tensor([ids])).states
        spelled = [pipe.tokenizer.decode([k]) for k in ids]
    input, direction = (torch.as_tensor(params[name])[:, None] for name in (INPUT, DIRECTION))
    every = Inputs(input, direction, torch.tensor([0])).similarity(said)[0, :, 0].numpy()
    last = spelled.index(next(word for word in spelled if "night" in word))
    own = np.array([method.subject.token in word for word in spelled])[1 : last + 1]
    axes(axis, "How alike is each word to the subject's?")
    places = np.arange(last)
    axis.bar(places, every[1 : last + 1], color=np.where(own, COLOURS[1], COLOURS[0]), width=0.7)
    axis.axhline(method.beta, color="black", linewidth=0.8, linestyle=":")
    axis.annotate(f"β = {method.beta:g}", (places[-1] + 0.4, method.beta), ha="right", va="bottom", fontsize=9)
    axis.set_xticks(places, [word.removesuffix("</w>") for word in spelled[1 : last + 1]], rotation=35, ha="right")
    axis.set_ylabel("s(e)")
    return float(every[1 : last + 1][~own].max())


def _gates(axis: Axes, method: Perfusion, other: float) -> None:
    """Show how far each similarity opens the gate."""
    axes(axis, "How far does that open the gate?")
    s = np.linspace(0.0, 1.1, 200)
    for beta, colour in zip(BETAS, COLOURS, strict=False):
        axis.plot(s, 1 / (1 + np.exp(-(s - beta) / method.tau)), color=colour, label=f"β = {beta:g}")
    for place, name in ((1.0, "its own word"), (other, "the next")):
        axis.axvline(place, color="black", linewidth=0.6, linestyle=":")
        axis.annotate(name, (place, 0.02), rotation=90, ha="right", va="bottom", fontsize=8)
    axis.set(xlabel="s(e)", ylabel="share of the edit that is made")
    axis.legend(frameon=False, fontsize=8, loc="upper left")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
