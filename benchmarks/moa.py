"""Mixture-of-Attention beside DreamBooth-LoRA and textual inversion, on people whom no training has seen.

`python -m benchmarks.moa [--only exact router identity context pairs overhead ablation]`
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from bayes_persona.diffusion import generate, pipelines
from bayes_persona.diffusion.adapter import Adapter, Subject
from bayes_persona.diffusion.adapters.moa import losses, mixture
from bayes_persona.diffusion.adapters.moa.encoder import feature
from bayes_persona.diffusion.adapters.moa.method import Cast, MoA
from bayes_persona.diffusion.adapters.moa.now import Now
from bayes_persona.diffusion.adapters.textual_inversion import TextualInversion
from bayes_persona.diffusion.latents import encode
from bayes_persona.diffusion.low_rank import LowRank
from bayes_persona.files import load_arrays
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.world import face, facts, oracles, splits, train_moa
from bayes_persona.world.introduced import Introduced
from benchmarks import subjects
from benchmarks.rows import Row, ratio, row, save

Part = Literal["exact", "router", "identity", "context", "pairs", "overhead", "ablation"]
PHOTOS = 4
"""Of every identity."""
TRAINED: dict[str, tuple[Any, Draw]] = {
    "low_rank": (LowRank, Draw(particles=1, alpha=4.0, weights="even", prior="superclass", steps=200, rows=8)),
    "textual_inversion": (
        TextualInversion,
        Draw(particles=1, alpha=0.0, weights="even", steps=200, rows=8, rate=5e-3),
    ),
}
"""What MoA is compared with, at the rates that `python -m benchmarks.world --only rates` chose."""
SWAP = "a {kind} looking happy wearing red in the forest"
NEVER = 0.01
"""A pixel is outside where fewer than so many pictures of the kind show a subject."""
TIMES = (100, 300, 500, 700, 900)
ABLATIONS = {
    "none": {},
    "no_router": {"router": 0.0},
    "no_inside": {"inside": 0.0},
    "no_located": {"located": 0.0},
    "no_place": {"conditioned": False},
}
"""Shorter trainings, each with one part less."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    only: tuple[Part, ...] = ("exact", "router", "identity", "context", "pairs", "overhead")
    """Parts to measure; the rows of the others are kept."""
    mixture: Path = train_moa.SHIPPED
    """The mixture."""
    identities: int = 12
    """Held-out identities."""
    report: bool = True
    """Judge people for the report and write rows; otherwise tuning ones, and print."""
    strength: float = 0.0
    """Of MoA."""
    unmentioned: Literal["prior", "mixture"] = "prior"
    """What computes the empty prompts of guidance."""
    compare: bool = True
    """Train what MoA is compared with; otherwise only what has been trained on everybody counts."""
    runs: Path = Path("runs/moa")
    """Where trainings of what MoA is compared with, and of ablations, are kept."""
    ablation_steps: int = 600
    """Steps of each ablation."""

    @property
    def seed(self) -> int:
        """Give the seed of the people who are judged."""
        return subjects.REPORT if self.report else subjects.TUNING


class Bench:
    """The pipeline, the people and the methods."""

    def __init__(self, config: Config):
        self.config, self.pipe = config, pipelines.load()
        self.people = splits.held_out(config.identities, config.seed)
        self.mixture = mixture.load(config.mixture)
        self.mixture.require(self.pipe)
        examples = [splits.photos(who, PHOTOS, seed=child(config.seed, k)) for k, who in enumerate(self.people)]
        self.photos = [
            Shown(np.stack([one.render().pixels for one in own]), tuple(one.caption for one in own)) for own in examples
        ]
        self.features = [feature(face.encode, shown.pixels) for shown in self.photos]

    def moa(self, k: int, others: Sequence[int] = ()) -> tuple[Adapter, dict[str, np.ndarray]]:
        """Introduce a person, or several."""
        who = [k, *others]
        tokens = tuple(f"<you{j}>" for j in range(len(others)))
        config = self.config
        method = MoA(
            Cast(self.people[k].superclass, others=tokens),
            self.mixture,
            tuple(self.features[j] for j in who),
            strength=config.strength,
            unmentioned=config.unmentioned,
        )
        return method, {"feature": np.array([method.features], np.float32)}

    def trained(self, name: str, k: int) -> tuple[Adapter, dict[str, np.ndarray]]:
        """Train what MoA is compared with, or read what was trained."""
        make, draw = TRAINED[name]
        method = make(Subject(self.people[k].superclass))
        folder = self.config.runs / "compared" / f"{name}_{self.config.seed}_{k}"
        posterior = personalize(self.pipe, method, self.photos[k], draw, seed=child(self.config.seed, k), folder=folder)
        return method, posterior.stacked()

    def drawn(self, made: tuple[Adapter, dict[str, np.ndarray]], texts: list[str], start: torch.Tensor) -> np.ndarray:
        """Make pictures of prompts of anyone."""
        method, params = made
        with method.attached(self.pipe, params, torch.zeros(1, dtype=torch.long)):
            return generate.sample(self.pipe, [method.subject.prompt(text) for text in texts], start)


def exact(bench: Bench, command: str) -> list[Row]:
    """Compare an untrained mixture, which is the base model, with the base model."""
    started, pipe = time.perf_counter(), bench.pipe
    fresh = mixture.build(pipe, bench.mixture.config)
    text = pipe.encode_prompt(["a robot at night"], "cpu", 1, False)[0]
    marks = torch.zeros(1, text.shape[1], 1)
    marks[0, 2] = 1
    off = []
    for time_, seed in zip(TIMES, range(5), strict=True):
        x = generate.noise(pipe, 1, seed)
        now = Now(torch.ones(1, 1, face.WIDTH), torch.tensor([0]), 1000)
        with torch.no_grad():
            base = pipe.unet(x, time_, text).sample
            with mixture.mixed(pipe.unet, fresh.config, fresh.tensors, now):
                own = now.enter(x, torch.tensor(time_), torch.cat([text, marks], -1), text.shape[-1])
                off.append(float((pipe.unet(x, time_, own).sample - base).abs().max()))
    unit = "largest difference of an untrained mixture's prediction from the base model's"
    return [row("moa.init_equal", off, unit, command=command, seconds=time.perf_counter() - started)]


@torch.no_grad()
def router(bench: Bench, command: str) -> list[Row]:
    """Look at where the routers send the pixels of pictures that were drawn, where masks are exact."""
    started = time.perf_counter()
    back, front = [], []
    for k, who in enumerate(bench.people):
        examples = list(splits.photos(who, 3, seed=child(bench.config.seed, k, "router")))
        drawn = Introduced.of(examples, references=1, seed=child(bench.config.seed, k))
        found = shares(bench, drawn, bench.features[k], child(bench.config.seed, k, "noise"))
        union = torch.from_numpy(drawn.masks).float().amax(dim=1)
        back.append(float((found * (1 - union)).sum() / (1 - union).sum()))
        front.append(float((found * union).sum() / union.sum()))
    seconds = time.perf_counter() - started
    unit = "the prior's share {} subjects, mean over layers, times 100 to 900 and pictures"
    return [
        row("moa.background_prior_weight", back, unit.format("outside"), command=command, seconds=seconds),
        row("moa.subject_prior_weight", front, unit.format("inside"), command=command, seconds=seconds),
    ]


def shares(bench: Bench, drawn: Introduced, known: tuple[float, ...], seed: int) -> torch.Tensor:
    """Give the prior's share in every latent pixel of pictures, mean over layers and times."""
    pipe, clean = bench.pipe, encode(bench.pipe, drawn.pixels)
    text = pipe.text_encoder(torch.from_numpy(drawn.tokens).long())[0]
    nouns = torch.from_numpy(drawn.nouns[:, 0]).long()
    marks = torch.nn.functional.one_hot(nouns, text.shape[1])[..., None].float()
    config, total = bench.mixture.config, []
    for time_ in TIMES:
        now = Now(torch.tensor(known)[None, None], torch.tensor([0]), 1000)
        when = torch.full((len(clean),), time_)
        x = pipe.scheduler.add_noise(clean, generate.noise(pipe, len(clean), child(seed, time_)), when)
        with mixture.mixed(pipe.unet, config, bench.mixture.tensors, now, lean=bench.config.strength):
            pipe.unet(x, when, now.enter(x, when, torch.cat([text, marks], -1), text.shape[-1]))
        total.append(losses.prior_share(now.routed, (x.shape[2], x.shape[3])))
    return torch.stack(total).mean(dim=0)


def identity(bench: Bench, command: str) -> list[Row]:
    """Judge who is in pictures of held-out prompts, and what else is."""
    started, found, pipe = time.perf_counter(), {}, bench.pipe
    makes: dict[str, Callable[[int], tuple[Adapter, dict[str, np.ndarray]]]] = {"moa": bench.moa}
    makes |= {name: lambda k, name=name: bench.trained(name, k) for name in TRAINED if ready(bench, name)}
    with bar("people", total=len(bench.people)) as advance:
        for k, who in enumerate(bench.people):
            seed = child(bench.config.seed, k)
            plain = [text for text in subjects.prompts(who.superclass, 3, seed) for _ in range(2)]
            start = generate.noise(pipe, len(plain), child(seed, "judged"))
            pictures = {name: bench.drawn(make(k), plain, start) for name, make in makes.items()}
            pictures["anyone"] = generate.sample(pipe, plain, start)
            for name, pixels in pictures.items():
                verdict = oracles.judge(pixels, plain)
                error = float(oracles.identity_error(pixels, who).mean())
                followed = float(np.nanmean(np.stack([verdict[said] for said in subjects.SAID])))
                found.setdefault(name, []).append((error, followed))
            advance()
    rows, seconds = [], time.perf_counter() - started
    for name, pairs in found.items():
        error, followed = np.array(pairs).T
        label = "" if name == "moa" else f".{name}"
        said = {"identity_error": "RMSE of visible factors", "fidelity": "share of what prompts say"}
        for (score, unit), values in zip(said.items(), (error, followed), strict=True):
            rows.append(row(f"moa{label}.{score}", values, unit, command=command, seconds=seconds))
        if name != "moa":
            off = np.array(found["moa"])[:, 0] - error
            about = f"MoA − {name}, paired: identity error (less is better)"
            rows.append(row(f"moa.minus_{name}.identity_error", off, about, command=command, seconds=seconds))
    return rows


def ready(bench: Bench, name: str) -> bool:
    """Whether a method has been trained on everybody, or is to be."""
    places = [bench.config.runs / "compared" / f"{name}_{bench.config.seed}_{k}" for k in range(len(bench.people))]
    steps, states = TRAINED[name][1].steps, [place / "state.safetensors" for place in places]
    return bench.config.compare or all(one.exists() and load_arrays(one)[1]["step"] == steps for one in states)


def context(bench: Bench, command: str) -> list[Row]:
    """Swap people at the same seed, each for the next of their kind, and see what changes where no subject ever is."""
    started, pipe = time.perf_counter(), bench.pipe
    change: dict[str, list[float]] = {}
    names = [name for name in ("moa", "low_rank") if name == "moa" or ready(bench, name)]
    outside = {kind: never(kind) for kind in {who.superclass for who in bench.people}}
    start = generate.noise(pipe, 3, child(bench.config.seed, "context"))
    for name in names:
        pictures = []
        for k, who in enumerate(bench.people):
            made = bench.moa(k) if name == "moa" else bench.trained(name, k)
            texts = [SWAP.format(kind=who.superclass)] * len(start)
            pictures.append(bench.drawn(made, texts, start) / 255)
        for k, who in enumerate(bench.people):
            same = [j for j, other in enumerate(bench.people) if other.superclass == who.superclass]
            after = same[(same.index(k) + 1) % len(same)]
            off = np.abs(pictures[k] - pictures[after]).mean(axis=(0, 3))
            change.setdefault(name, []).append(float(off[outside[who.superclass]].mean()))
    seconds, unit = time.perf_counter() - started, "mean absolute change where no subject is, of the full range"
    rows = [
        row(f"moa.context_change.{name}", found, unit, command=command, seconds=seconds)
        for name, found in change.items()
    ]
    if "low_rank" in change:
        about = "change outside the subject when people are swapped at one seed: DreamBooth-LoRA's over MoA's"
        id = "moa.context_change_ratio_lora_over_moa"
        rows.append(ratio(id, change["low_rank"], change["moa"], about, command=command, seconds=seconds))
    return rows


def never(kind: str) -> np.ndarray:
    """Give the pixels in which pictures of a kind show no subject."""
    people = [who for who in splits.base(400, 0) if who.superclass == kind]
    shown = [one.render().masks[0] for who in people for one in splits.photos(who, 2, seed=0)]
    return np.mean(shown, axis=0) < NEVER


def pairs(bench: Bench, command: str) -> list[Row]:
    """Draw two people together, left and right, and see whether each is who and where they should be."""
    started, people = time.perf_counter(), bench.people
    found: dict[str, list[float]] = {"two_subjects": [], "two_subjects.one_kind": [], "two_subjects.two_kinds": []}
    for k, who in enumerate(people):
        start = generate.noise(bench.pipe, 3, child(bench.config.seed, k, "pair"))
        shares = {}
        for sort, step in (("one_kind", len(facts.superclasses())), ("two_kinds", 1)):  # kinds take turns
            place = (k + step) % len(people)
            other = people[place]
            text = f"a {who.superclass} <me> on the left and a {other.superclass} <you0> on the right at night"
            pixels = bench.drawn(bench.moa(k, [place]), [text] * len(start), start)
            left, right = (oracles.load().read(pixels, view).z for view in ("left", "right"))
            shares[sort] = float(np.mean([subjects.told(*seen, who, other) for seen in zip(left, right, strict=True)]))
            found[f"two_subjects.{sort}"].append(shares[sort])
        found["two_subjects"].append(float(np.mean(list(shares.values()))))
    seconds = time.perf_counter() - started
    about = "share of pictures in which both are nearer to who they should be than the mean person is, and not swapped"
    return [row(f"moa.{name}", share, about, command=command, seconds=seconds) for name, share in found.items()]


def overhead(bench: Bench, command: str) -> list[Row]:
    """Time a step of guided sampling with and without the mixture; of SD 1.5 the shapes alone, with random weights."""
    started, made, pipe = time.perf_counter(), bench.moa(0), bench.pipe
    text = "a robot <me> at night"
    start = generate.noise(pipe, 4, 0)
    quick, plain, mixed = generate.Config(steps=4), [], []
    for turn in range(8):
        for kept, run in ((plain, False), (mixed, True)):
            began = time.perf_counter()
            if run:
                with made[0].attached(pipe, made[1], torch.zeros(1, dtype=torch.long)):
                    generate.sample(pipe, [text] * 4, start, quick)
            else:
                generate.sample(pipe, [text.replace(" <me>", "")] * 4, start, quick)
            if turn:  # the first warms up
                kept.append(time.perf_counter() - began)
    seconds = time.perf_counter() - started
    about = "time of a guided picture with the mixture over the base model's"
    return [ratio("moa.overhead.embedded", mixed, plain, about, command=command, seconds=seconds), large(command)]


@torch.no_grad()
def large(command: str, turns: int = 3) -> Row:
    """Time one guided pass of SD 1.5's U-Net, 512 pixels."""
    from diffusers import UNet2DConditionModel

    started = time.perf_counter()
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()
    shape = mixture.Config(feature=768)
    params = {name: torch.tensor(value) for name, value in started_at(unet, shape).items()}
    now = Now(torch.ones(1, 1, 768), torch.tensor([0]), 1000)
    x, text = torch.randn(2, 4, 64, 64), torch.randn(2, 77, 768)
    marks = torch.zeros(2, 77, 1)
    marks[1, 5] = 1  # the empty prompt comes first
    plain, mixed = [], []
    for turn in range(turns + 1):
        began = time.perf_counter()
        unet(x, 500, text)
        between = time.perf_counter()
        with mixture.mixed(unet, shape, params, now):
            middle = time.perf_counter()
            unet(x, 500, now.enter(x, 500, torch.cat([text, marks], -1), 768))
            after = time.perf_counter()
        if turn:
            plain.append(between - began)
            mixed.append(after - middle)
    about = "time of a guided pass of SD 1.5's U-Net, 512 pixels, random weights, with the mixture over without"
    return ratio("moa.overhead.sd15", mixed, plain, about, command=command, seconds=time.perf_counter() - started)


def started_at(unet: Any, shape: mixture.Config) -> dict[str, np.ndarray]:
    from bayes_persona.diffusion.adapters.moa import layer, tokens

    params = tokens.start(shape.feature, 768, shape.hidden, shape.frequencies, 0)
    for name in mixture.layers(unet):
        params |= {f"{name}.{part}": value for part, value in layer.start(unet.get_submodule(name), seed=0).items()}
    return params


def ablation(bench: Bench, command: str) -> list[Row]:
    """Train shorter, each time with one part less, and measure again."""
    rows, config = [], bench.config
    for name, less in ABLATIONS.items():
        training = train_moa.Config(folder=config.runs, stage=f"ablation_{name}", steps=config.ablation_steps, **less)
        own = Bench(replace(config, mixture=train_moa.main(training)))
        torch.set_num_threads(1)
        found = [*router(own, command), *identity_alone(own, command), *pairs(own, command)]
        rows += [replace(one, id=one.id.replace("moa.", f"moa.ablation.{name}.", 1)) for one in found]
    return rows


def identity_alone(bench: Bench, command: str) -> list[Row]:
    kept = bench.config
    bench.config = replace(kept, compare=False, runs=Path("nowhere"))
    found = [one for one in identity(bench, command) if "anyone" not in one.id]
    bench.config = kept
    return found


def main(config: Config) -> None:
    torch.set_num_threads(1)
    parts = {
        "exact": exact,
        "router": router,
        "identity": identity,
        "context": context,
        "pairs": pairs,
        "overhead": overhead,
        "ablation": ablation,
    }
    bench = Bench(config)
    for name in config.only:
        alone = "" if config.compare else " --no-compare"
        found = parts[name](bench, f"python -m benchmarks.moa --only {name}{alone}")
        for one in found:
            print(f"{one.id}: {one.value:.4g} ({one.low} to {one.high}, n={one.n})", flush=True)
        if config.report:
            save("moa", found)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
