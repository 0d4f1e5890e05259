"""Every adapter on Stable Diffusion of full size: trained for two steps, saved, loaded into a fresh pipeline, drawn.

`python -m benchmarks.stable_diffusion [--folder WHERE] [--models sd15 sdxl] [--methods …]`: the models' weights are
random (`full_size`), so pictures show nothing; what counts is that the whole way works, what it takes, and that what
was loaded draws the very pictures that were drawn before. Each adapter has a process of its own, whose memory is
measured.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from diffusers import DiffusionPipeline

from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import covariance, generate, pipelines
from bayes_persona.diffusion.adapter import Adapter, Subject
from bayes_persona.diffusion.adapters.celeb_basis.basis import build
from bayes_persona.diffusion.adapters.celeb_basis.method import CelebBasis
from bayes_persona.diffusion.adapters.dual_pivot.method import DualPivot
from bayes_persona.diffusion.adapters.lipe.method import Lipe
from bayes_persona.diffusion.adapters.lipe.others import Others
from bayes_persona.diffusion.adapters.moa import mixture
from bayes_persona.diffusion.adapters.moa.method import Cast, introduced
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.diffusion.restoration.guide import Guide
from bayes_persona.diffusion.text import encoders
from bayes_persona.errors import ConfigError
from bayes_persona.files import load_json, write
from bayes_persona.persona import dual
from bayes_persona.persona.base_measure import Shown
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import personalize
from benchmarks import full_size
from benchmarks.rows import HERE, Row, row, save

ROBOT = Subject("robot", template="{token} {superclass}")
CAPTIONS = ("a robot at night", "a happy robot in the snow")
STEPS = 2


@dataclass(frozen=True)
class Config:
    """What is tried, and where the models are kept."""

    folder: Path = Path("full_size")
    """Where the models are, or are made: 2.1 GB and 6.9 GB."""
    models: tuple[full_size.Name, ...] = ("sd15", "sdxl")
    """Which."""
    methods: tuple[str, ...] = ()
    """Which adapters; none is all."""
    latent: tuple[int, ...] = (64, 32)
    """Side of the latents for each model; their own sizes are 64 and 128."""
    checkpointing: bool = False
    """Compute the U-Net's blocks twice instead of remembering them."""
    one: bool = False
    """Try one method on one model in this process, and print what was found as JSON."""


def methods(pipe: DiffusionPipeline, pixels: np.ndarray) -> dict[str, Callable[[], Adapter]]:
    """Give every adapter with what it needs, small where size does not matter."""
    few = ("ada finch", "clara vale", "ada moss", "otto vale")

    def mixed() -> Adapter:
        new = mixture.build(pipe, mixture.Config(feature=3, rank=8, hidden=64, frequencies=16))
        said = {
            "token.last.weight": new.params["token.second.weight"][:1].repeat(len(new.params["token.last.bias"]), 0)
        }
        heard = replace(new, params={**new.params, **said})  # a new mixture would say nothing of anyone
        return introduced(Cast("robot"), heard, lambda photos: photos.mean(axis=(1, 2)) / 255, [pixels])

    return {
        "textual_inversion": lambda: TextualInversion(ROBOT),
        "low_rank": lambda: LowRank(ROBOT),
        "perfusion": lambda: Perfusion(ROBOT),
        "celeb_basis": lambda: CelebBasis(ROBOT, build(encoders(pipe), pipe.tokenizer, few)),
        "moa": mixed,
        "lipe": lambda: Lipe(ROBOT, Others(pipe, pixels, ["a robot", "a sad robot"])),
        "dual_pivot": lambda: DualPivot(ROBOT, Guide.of(pipe)),
    }


def trained(pipe: DiffusionPipeline, method: Adapter, pixels: np.ndarray, folder: Path) -> Any:
    """Learn for two steps; Dual-Pivot for two with each pivot."""
    shown, draw = Shown(pixels, CAPTIONS), Draw(particles=1, steps=STEPS, rows=1, alpha=0.0, rate=1e-3)
    if isinstance(method, DualPivot):
        return dual.fit(pipe, method, shown, draw, dual.Config(steps=STEPS), anyone=shown)
    return personalize(pipe, method, shown, draw)


def pictures(pipe: DiffusionPipeline, method: Adapter, posterior: Any) -> np.ndarray:
    """Draw one picture in one step."""
    start = generate.noise(pipe, 1, seed=0)
    with method.attached(pipe, posterior.stacked(), torch.zeros(1, dtype=torch.long)):
        return generate.sample(pipe, [method.subject.prompt(CAPTIONS[0])], start, generate.Config(1, 2.0))


class Clock:
    """Seconds from one training step's pass through the U-Net to the next one's: forward, backward and update."""

    def __init__(self, pipe: DiffusionPipeline):
        self.seen: list[float] = []
        pipe.unet.register_forward_pre_hook(self._look)

    def _look(self, net: Any, given: Any) -> None:
        if torch.is_grad_enabled():
            self.seen.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Of the first step, which the second one ends."""
        return self.seen[1] - self.seen[0]


def opened(folder: Path, latent: int, checkpointing: bool) -> DiffusionPipeline:
    """Load a model in half precision, for pictures of a size."""
    pipe = pipelines.load(folder, dtype=torch.bfloat16, checkpointing=checkpointing)
    pipe.unet.register_to_config(sample_size=latent)
    return pipe


def whole_way(folder: Path, name: str, latent: int, *, checkpointing: bool = False) -> dict[str, Any]:
    """Train, draw, save, load anew, draw again; a method that refuses the model says why."""
    pipe = opened(folder, latent, checkpointing)
    place = folder / covariance.NAME
    if name == "perfusion" and not place.is_file():  # a few captions instead of 1,500: it need not be good here
        covariance.save(place, covariance.estimate(pipe, covariance.shipped()[:16]))
    clock = Clock(pipe)
    side = pipelines.size(pipe)
    pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    method = methods(pipe, pixels)[name]()
    try:
        posterior = trained(pipe, method, pixels, folder)
    except ConfigError as error:
        return {"refused": str(error)}
    peak = _memory()
    before, base = pictures(pipe, method, posterior), pipelines.fingerprint(pipe)
    file = folder / f"{name}.safetensors"
    adapters.save(file, method, posterior, base=base)
    del pipe, posterior  # two would not fit
    fresh = opened(folder, latent, checkpointing=False)
    own = replace(method, guide=Guide.of(fresh)) if isinstance(method, DualPivot) else method
    again, about = adapters.load(file, base=pipelines.fingerprint(fresh))
    after = pictures(fresh, own, again)
    return {
        "seconds": clock.seconds,
        "peak": peak,
        "kilobytes": file.stat().st_size / 1000,
        "equal": float(np.array_equal(before, after) and about["method"] == name),
        "learned": float(any(bool(np.any(value)) for value in again[0].values())),
    }


def _memory() -> float:
    """Give the most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def rows_of(
    model: str, name: str, found: dict[str, Any], latent: int, seconds: float, more: Sequence[str]
) -> list[Row]:
    """Give the rows of one adapter on one model."""
    flags = " ".join(["", *more])
    how: Any = {
        "command": f"python -m benchmarks.stable_diffusion --models {model} --methods {name} --latent {latent}{flags}",
        "seconds": seconds,
    }
    id, about = f"sd.{model}.{name}", f"{latent}×{latent} latents, 1 row, bf16"
    if "refused" in found:
        return [row(f"{id}.refused", 1.0, "1 if a ConfigError says why", **how)]
    if more:
        id, about = f"{id}.checkpointing", f"{about}, checkpointing"
    return [
        row(
            f"{id}.restored_equal", found["equal"], "1 if pictures before saving and after loading are the same", **how
        ),
        row(f"{id}.seconds_per_step", found["seconds"], f"s, 1 thread, {about}", **how),
        row(f"{id}.gigabytes", found["peak"], f"GB, most of the process until training ended, {about}", **how),
        row(f"{id}.kilobytes", found["kilobytes"], "kB, one member on disk", **how),
    ]


def with_table(page: str) -> str:
    """Give the page of the docs with its table made anew from the rows."""
    path = HERE / "results" / "sd.json"
    known = {old["id"]: f"{old['value']:.3g}" for old in (load_json(path) if path.exists() else [])}
    lines = ["| model | adapter | seconds a step | GB | kB on disk | same pictures |", "|---|---|---|---|---|---|"]
    for model, name, way in product(full_size.PARAMETERS, ALL, ("", ".checkpointing")):
        id, said = f"sd.{model}.{name}{way}", "".join([name.replace("_", " "), way.replace(".", ", ")])
        if f"{id}.refused" in known:
            lines.append(f"| {TITLES[model]} | {said} | refused, and says why | | | |")
        if f"{id}.gigabytes" in known:
            cells = [known[f"{id}.{what}"] for what in ("seconds_per_step", "gigabytes", "kilobytes")]
            same = "yes" if known[f"{id}.restored_equal"] == "1" else "no"
            lines.append(f"| {TITLES[model]} | {said} | {' | '.join(cells)} | {same} |")
    before, start, rest = page.partition("<!-- numbers -->\n")
    _, end, after = rest.partition("<!-- end of numbers -->")
    return before + start + "\n".join(lines) + "\n" + end + after


def main(config: Config) -> None:
    if config.one:
        (model,), (name,) = config.models, config.methods
        folder, latent = full_size.folder(model, config.folder), config.latent[0]
        print(json.dumps(whole_way(folder, name, latent, checkpointing=config.checkpointing)))
        return
    more = ["--checkpointing"] if config.checkpointing else []
    for model, latent in zip(config.models, config.latent, strict=False):
        full_size.folder(model, config.folder)
        for name in config.methods or ALL:
            started = time.perf_counter()
            words = ["--models", model, "--methods", name, "--latent", str(latent), "--folder", str(config.folder)]
            command = [sys.executable, "-m", "benchmarks.stable_diffusion", "--one", *words, *more]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(model, name, found, flush=True)
            save("sd", rows_of(model, name, found, latent, time.perf_counter() - started, more))
    write(PAGE, with_table(PAGE.read_text()).encode())


PAGE = HERE.parent / "docs" / "stable_diffusion.md"
TITLES = {"sd15": "1.5", "sdxl": "XL"}
ALL = ("textual_inversion", "low_rank", "perfusion", "celeb_basis", "moa", "lipe", "dual_pivot")

if __name__ == "__main__":
    main(tyro.cli(Config))
