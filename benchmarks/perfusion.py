"""Perfusion against its bars: `python -m benchmarks.perfusion [--only layer size cost rates compare two ablation]`.

At generation β trades identity for what the prompt says. Comparisons with a baseline are made at the β where both err
as much in identity on tuning identities, so that what is left to compare is the prompt.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
from diffusers import UNet2DConditionModel
from torch import nn

from bayes_persona.diffusion import adapter as adapters
from bayes_persona.diffusion import generate, pipelines
from bayes_persona.diffusion.adapter import Adapter, Subject
from bayes_persona.diffusion.adapters.perfusion.layer import Inputs, RankOneLinear
from bayes_persona.diffusion.adapters.perfusion.method import Perfusion
from bayes_persona.diffusion.adapters.perfusion.together import projections, together
from bayes_persona.diffusion.text import cached_text
from bayes_persona.named import fingerprint
from bayes_persona.persona.posterior import Config as Draw
from bayes_persona.persona.posterior import Shown, personalize
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from bayes_persona.world import oracles, splits
from bayes_persona.world.draw import Identity
from benchmarks import subjects, world
from benchmarks.kept import kept
from benchmarks.rows import Row, ratio, row, save

Part = Literal["layer", "size", "cost", "rates", "compare", "two", "ablation"]
PARTS = ("layer", "size", "cost", "rates", "compare", "two", "ablation")
DRAW = Draw(alpha=0.0, weights="even", steps=200, rows=8, rate=5e-2)
"""As many steps and rows as the baselines have, and the rate that `rates` chose."""
BETAS = (0.5, 0.6, 0.7, 0.8)
"""The sweep."""
GRID = (2e-3, 5e-3, 2e-2, 5e-2)
"""As many rates as the baselines were given, on identities that are never reported."""
SD15: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "block_out_channels": (320, 640, 1280, 1280)}


@dataclass(frozen=True)
class Config:
    """What to measure."""

    only: tuple[Part, ...] = PARTS
    """Parts to measure; the rows of the others are kept."""
    identities: int = 16
    """Held-out identities that methods are judged on."""
    tuned: int = 4
    """Other held-out identities, that settings are chosen on."""


class Swept(NamedTuple):
    """Identity error and fidelity of one person's pictures at each β."""

    errors: list[float]
    fidelities: list[float]
    seconds: float


def perfusion(who: Identity, token: str = "<me>") -> Perfusion:
    """Give the method as it is judged."""
    # of 200 steps a memory of .99 would remember mostly where it starts
    return Perfusion(Subject(who.superclass, token), memory=0.95)


def shown(who: Identity, seed: int, *, count: int = 4, masked: bool = True) -> Shown:
    """Give somebody's photos, and where in them they are."""
    examples = splits.photos(who, count, seed=seed)
    pictures = [example.render() for example in examples]
    masks = np.stack([picture.masks.max(axis=0) for picture in pictures]).astype(np.float32)
    pixels = np.stack([picture.pixels for picture in pictures])
    return Shown(pixels, tuple(example.caption for example in examples), masks if masked else None)


def trained(pipe, adapter: Adapter, photos: Shown, draw: Draw, seed: int) -> tuple[Posterior, float]:
    """Give what is learned, and the seconds that it took."""
    started = time.perf_counter()
    posterior = personalize(pipe, adapter, photos, replace(draw, particles=1), seed=seed)
    return posterior, time.perf_counter() - started


def scored(pipe, adapter: Adapter, posterior: Posterior, who: Identity, study: subjects.Study, seed: int):
    """Give identity error and fidelity of the pictures that every method is asked for."""
    plain = [text for text in subjects.prompts(who.superclass, study.prompts, seed) for _ in range(study.noises)]
    start = generate.noise(pipe, len(plain), child(seed, "judged"))
    mine = subjects.drawn(pipe, adapter, posterior, [adapter.subject.prompt(text) for text in plain], start)
    verdict = oracles.judge(mine, plain)
    fidelity = float(np.nanmean(np.stack([verdict[name] for name in subjects.SAID])))
    return float(oracles.identity_error(mine, who).mean()), fidelity


def swept(pipe, adapter: Perfusion, photos: Shown, draw: Draw, who: Identity, study: subjects.Study, seed: int):
    """Train once, and look at every β."""

    def look() -> list[Any]:
        posterior, seconds = trained(pipe, adapter, photos, draw, seed)
        pairs = [scored(pipe, replace(adapter, beta=beta), posterior, who, study, seed) for beta in BETAS]
        return [[error for error, _ in pairs], [fidelity for _, fidelity in pairs], seconds]

    return Swept(*kept("perfusion.swept", [*_said(pipe, adapter, photos, draw, study, seed), BETAS], look))


def once(pipe, adapter: Adapter, photos: Shown, draw: Draw, who: Identity, study: subjects.Study, seed: int):
    """Train, and give identity error and fidelity."""

    def look() -> list[float]:
        return list(scored(pipe, adapter, trained(pipe, adapter, photos, draw, seed)[0], who, study, seed))

    return tuple(kept("perfusion.once", _said(pipe, adapter, photos, draw, study, seed), look))


def _said(pipe, adapter: Adapter, photos: Shown, draw: Draw, study: subjects.Study, seed: int) -> list[Any]:
    """Give all that a judgement depends on."""
    arrays = {"pixels": photos.pixels, **({} if photos.masks is None else {"masks": photos.masks})}
    method = [adapter.method, asdict(adapter.subject), adapters.settings(adapter)]
    return [pipelines.fingerprint(pipe), method, fingerprint(arrays), asdict(draw), asdict(study), seed]


def layer(config: Config) -> list[Row]:
    """Compare the layer with its formula written down, on all projections of Stable Diffusion 1.5, with guidance."""
    started, command = time.perf_counter(), "python -m benchmarks.perfusion --only layer"
    with torch.device("meta"):
        shapes = [
            tuple(module.get_parameter("weight").shape) for module in projections(UNet2DConditionModel(**SD15)).values()
        ]
    noise = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=noise)

    root, i, x = normal(768, 768) / 28 + torch.eye(768), normal(768), normal(2, 77, 768)
    inverse, beta, tau = root.T @ root, torch.tensor([0.7]), torch.tensor([0.15])
    inputs = Inputs(i[None, None], (inverse @ i)[None, None], torch.tensor([0]))
    bases = [nn.Linear(shape[1], shape[0], bias=False).requires_grad_(False) for shape in shapes]
    outputs = [normal(shape[0]) for shape in shapes]
    layers = [RankOneLinear(base, inputs, o[None, None], beta, tau) for base, o in zip(bases, outputs, strict=True)]

    def formula() -> list[torch.Tensor]:
        found = []
        for base, o in zip(bases, outputs, strict=True):
            s = (x @ inverse @ i) / (i @ inverse @ i)
            gate = torch.sigmoid((s - beta) / tau)
            found.append(base(x) - s[..., None] * base(i) + gate[..., None] * o)
        return found

    ratios, differences = [], []
    with torch.no_grad():
        for turn in range(-2, 20):  # two to warm up
            theirs, slow = _timed(formula)
            ours, quick = _timed(lambda: [layer(x) for layer in layers])
            if turn >= 0:
                ratios.append(slow / quick)
                pairs = zip(ours, theirs, strict=True)
                differences.append(max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs))
    rest = {"command": command, "seconds": time.perf_counter() - started}
    return [
        row("perfusion.layer_speedup_over_formula", ratios, "seconds of eq. 3 as it is written / ours", **rest),
        row("perfusion.layer_difference", max(differences), "largest, relative, in float32", **rest),
    ]


def size(config: Config) -> list[Row]:
    """Weigh a subject's file for Stable Diffusion 1.5."""
    started, command = time.perf_counter(), "python -m benchmarks.perfusion --only size"
    rng = np.random.default_rng(0)
    sizes = {f"{name}.output": shape[0] for name, shape in _full_size().items() if name.endswith("to_v")}
    sizes |= {"input": 768, "direction": 768, "superclass": 768}
    member = {name: rng.normal(size=n).astype(np.float32) for name, n in sizes.items()}
    member["embedding"] = rng.normal(size=(1, 768)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "me.safetensors"
        about = {"base": "0" * 32, "covariance": "0" * 32}
        adapters.save(path, Perfusion(Subject("person")), Posterior((member,)), **about)
        kilobytes = path.stat().st_size / 1000
    unit = "KB, float32, metadata included"
    seconds = time.perf_counter() - started
    return [row("perfusion.sd15_kilobytes", kilobytes, unit, command=command, seconds=seconds)]


def cost(config: Config) -> list[Row]:
    """Compare the seconds of generation with a subject, keys and values kept, with the plain U-Net's, in turns."""
    started, command = time.perf_counter(), "python -m benchmarks.perfusion --only cost"
    pipe, who = pipelines.load(), splits.held_out(1, subjects.TUNING)[0]
    method, start = perfusion(who), generate.noise(pipe, 2, seed=0)
    params = method.init(pipe, 1, seed=0)

    @torch.no_grad()
    def steps(text: torch.Tensor) -> None:
        for at in range(999, 0, -40):  # the 25 steps of a picture, guidance included
            pipe.unet(start, at, text)

    def plain() -> float:
        return _timed(partial(steps, _text(pipe, f"a {who.superclass}")))[1]

    def subject() -> float:
        with method.attached(pipe, params, torch.tensor([0])), cached_text(pipe.unet):
            return _timed(partial(steps, _text(pipe, method.subject.phrase)))[1]

    with_it, without = [], []
    for turn in range(-2, 60):  # who is first takes turns, too
        first, second = (plain, subject) if turn % 2 else (subject, plain)
        found = {first: first(), second: second()}
        if turn >= 0:
            with_it.append(found[subject])
            without.append(found[plain])
    seconds = time.perf_counter() - started
    unit = "seconds of 25 steps with a subject, text kept / of the plain U-Net"
    return [ratio("perfusion.generation_overhead", with_it, without, unit, command=command, seconds=seconds)]


def rates(config: Config) -> list[Row]:
    """Choose the rate, on tuning identities."""
    started, command = time.perf_counter(), "python -m benchmarks.perfusion --only rates"
    pipe, study, found = pipelines.load(), subjects.Study(prompts=4, noises=2), []
    people = splits.held_out(config.tuned, subjects.TUNING)
    with bar("rates", total=len(people) * len(GRID)) as advance:
        for rate in GRID:
            sweeps = []
            for k, who in enumerate(people):
                seed = child(subjects.TUNING, k)
                draw = replace(DRAW, rate=rate)
                sweeps.append(swept(pipe, perfusion(who), shown(who, seed), draw, who, study, seed))
                advance()
            for number, beta in enumerate(BETAS):
                for score, values in (
                    ("identity_error", [sweep.errors[number] for sweep in sweeps]),
                    ("fidelity", [sweep.fidelities[number] for sweep in sweeps]),
                ):
                    found.append(
                        row(
                            f"perfusion.rates.{rate:g}.beta{beta:g}.{score}",
                            values,
                            score,
                            command=command,
                            seconds=time.perf_counter() - started,
                        )
                    )
    return found


def compare(config: Config) -> list[Row]:
    """Compare fidelity with the baselines', at the β that errs as much in identity on tuning identities."""
    started, command = time.perf_counter(), "python -m benchmarks.perfusion --only compare"
    pipe, study = pipelines.load(), subjects.Study()
    groups = {
        seed: splits.held_out(n, seed)
        for seed, n in ((subjects.TUNING, config.tuned), (subjects.REPORT, config.identities))
    }
    methods = world.METHODS
    sweeps: dict[int, list[Swept]] = {seed: [] for seed in groups}
    others: dict[str, dict[int, list[tuple[float, float]]]] = {name: {seed: [] for seed in groups} for name in methods}
    with bar("compare", total=(1 + len(methods)) * sum(map(len, groups.values()))) as advance:
        for group, people in groups.items():
            for k, who in enumerate(people):
                seed = child(group, k)
                sweeps[group].append(swept(pipe, perfusion(who), shown(who, seed), DRAW, who, study, seed))
                advance()
                for name, (make, draw) in methods.items():
                    adapter = make(Subject(who.superclass))
                    photos = shown(who, seed, masked=False)
                    others[name][group].append(once(pipe, adapter, photos, draw, who, study, seed))
                    advance()
    rest = {"command": command, "seconds": time.perf_counter() - started}
    judged = sweeps[subjects.REPORT]
    found = [row("perfusion.seconds", [sweep.seconds for sweep in judged], "s, training", **rest)]
    for number, beta in enumerate(BETAS):
        for score, values in (
            ("identity_error", [sweep.errors[number] for sweep in judged]),
            ("fidelity", [sweep.fidelities[number] for sweep in judged]),
        ):
            found.append(row(f"perfusion.beta{beta:g}.{score}", values, score, **rest))
    for name, short in (("low_rank", "lora"), ("textual_inversion", "ti")):
        target = np.mean([error for error, _ in others[name][subjects.TUNING]])
        errors = np.array([sweep.errors for sweep in sweeps[subjects.TUNING]]).mean(axis=0)
        number = int(np.abs(errors - target).argmin())
        theirs = np.array(others[name][subjects.REPORT])
        mine = np.array([(sweep.errors[number], sweep.fidelities[number]) for sweep in judged])
        unit = (
            f"fidelity, Perfusion at β = {BETAS[number]:g} less {name}, where both err as much in identity when tuned"
        )
        found += [
            row(f"perfusion.fidelity_gain_over_{short}", mine[:, 1] - theirs[:, 1], unit, **rest),
            row(f"perfusion.identity_gain_over_{short}", theirs[:, 0] - mine[:, 0], "identity error, the same", **rest),
        ]
    return found


def two(config: Config) -> list[Row]:
    """Put two people, trained separately, into one prompt, and see whether each is who they should be.

    Beside it stand people whom the base model knows by name: what it can do with two people at all.
    """
    started, command = time.perf_counter(), "python -m benchmarks.perfusion --only two"
    pipe, tokens, found = pipelines.load(), ("<me>", "<you>"), []
    people = splits.held_out(config.identities, subjects.REPORT)
    learned = []
    with bar("two", total=len(people)) as advance:
        for k, who in enumerate(people):
            seed, method = child(subjects.REPORT, k), replace(perfusion(who, tokens[k % 2]), keys="global")
            learned.append((method, trained(pipe, method, shown(who, seed), DRAW, seed)[0]))
            advance()
    for k in range(0, len(people) - 1, 2):
        pair = learned[k : k + 2]
        concepts = [method.concept(posterior.stacked()) for method, posterior in pair]
        with together(pipe, concepts, torch.zeros(1, dtype=torch.long)):
            found.append(_told(pipe, [method.subject.phrase for method, _ in pair], people[k : k + 2], k))
    names = list(splits.named().items())
    chosen = np.random.default_rng(0).permutation(len(names))[: len(people)]
    usual = []
    for k in range(0, len(chosen) - 1, 2):
        pair = [names[chosen[k + j]] for j in (0, 1)]
        usual.append(_told(pipe, [f"{name} the {who.superclass}" for name, who in pair], [who for _, who in pair], k))
    rest = {"command": command, "seconds": time.perf_counter() - started}
    unit = "share of pictures in which both are nearer to who they should be than the mean person is, and not swapped"
    return [
        row("perfusion.two_concepts", found, unit, **rest),
        row("perfusion.two_named", usual, f"{unit}, of people whom the base model was trained on", **rest),
    ]


def _told(pipe: Any, phrases: list[str], who: Sequence[Identity], k: int) -> float:
    """Draw two people in two places, each on either side, and give the share of pictures that are right."""
    prompts = [f"{a} and {b} {place}" for a, b in (phrases, phrases[::-1]) for place in ("on the beach", "in the city")]
    pixels = generate.sample(pipe, prompts, generate.noise(pipe, len(prompts), child(subjects.REPORT, "two", k)))
    sides = [oracles.load().read(pixels, side).z for side in ("left", "right")]
    pairs = enumerate(zip(*sides, strict=True))
    return float(np.mean([subjects.told(*seen, *(who if n < 2 else who[::-1])) for n, seen in pairs]))


def ablation(config: Config) -> list[Row]:
    """Take one part away at a time, on half of the people; rows are what is lost without it."""
    started, command = time.perf_counter(), "python -m benchmarks.perfusion --only ablation"
    pipe, study = pipelines.load(), subjects.Study(prompts=4, noises=2)
    people = splits.held_out(max(1, config.identities // 2), subjects.REPORT)
    variants: dict[str, tuple[Callable[[Perfusion], Perfusion], dict[str, Any]]] = {
        "trained_keys": (lambda method: replace(method, keys="trained"), {}),
        "no_mask": (lambda method: method, {"masked": False}),
        "training_beta_0.6": (lambda method: replace(method, training_beta=0.6), {}),
        "one_photo": (lambda method: method, {"count": 1}),
    }
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in ("whole", *variants)}
    with bar("ablation", total=len(people) * len(scores)) as advance:
        for k, who in enumerate(people):
            seed = child(subjects.REPORT, k)
            for name, (change, options) in {"whole": (lambda method: method, {}), **variants}.items():
                method = change(perfusion(who))
                scores[name].append(once(pipe, method, shown(who, seed, **options), DRAW, who, study, seed))
                advance()
    rest, whole = {"command": command, "seconds": time.perf_counter() - started}, np.array(scores["whole"])
    rows = []
    for name in variants:
        apart = np.array(scores[name]) - whole
        rows.append(row(f"perfusion.without.{name}.identity_error", apart[:, 0], "more than with all", **rest))
        rows.append(row(f"perfusion.without.{name}.fidelity", apart[:, 1], "more than with all", **rest))
    return rows


def _full_size() -> dict[str, tuple[int, int]]:
    """Give the shapes of the projections of Stable Diffusion 1.5, by name."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15)
    weights = {name: module.get_parameter("weight") for name, module in projections(unet).items()}
    return {name: (weight.shape[0], weight.shape[1]) for name, weight in weights.items()}


@torch.no_grad()
def _text(pipe: Any, prompt: str) -> torch.Tensor:
    """Encode a prompt, and nothing before it, as guidance does."""
    said, nothing = pipe.encode_prompt([prompt], "cpu", 1, True)
    return torch.cat([nothing, said])


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def main(config: Config) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    parts = {"layer": layer, "size": size, "cost": cost, "rates": rates, "compare": compare, "two": two}
    parts |= {"ablation": ablation}
    for name in config.only:
        save("perfusion", parts[name](config))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
