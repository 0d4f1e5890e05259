"""Transfer to real targets: `python -m benchmarks.transfer.run --data FOLDER [--only cifar characters …]`.

Every method starts from the same probe, takes as many steps, and has its settings chosen from equally many, on examples
that no reported number comes from. A user's own pictures and net: `--images FOLDER --net PATH`. Settings and scores are
kept in `runs/kept` as they are found: a run that was stopped goes on where it was.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro

from bayes_persona import metrics, nptl
from bayes_persona.bma import average, predictions
from bayes_persona.errors import DataError
from bayes_persona.files import load_json
from bayes_persona.nptl.learner_torch import Config as Fit
from bayes_persona.nptl.learner_torch import TorchLearner
from bayes_persona.nptl.references.dropout import MCDropout
from bayes_persona.nptl.references.laplace import LastLayerLaplace
from bayes_persona.nptl.references.sghmc import SGHMC
from bayes_persona.nptl.references.swag import SWAG
from bayes_persona.nptl.temperature import fit_temperature, tempered
from bayes_persona.posterior import Posterior
from bayes_persona.progress import bar
from bayes_persona.seeds import child
from benchmarks.kept import kept
from benchmarks.rows import HERE, Row, row, save
from benchmarks.transfer import targets
from benchmarks.transfer.targets import Split, Target

Only = Literal["cifar", "characters", "sentences"]


@dataclass(frozen=True)
class Config:
    """What to measure."""

    data: Path = Path("data")
    """Folder with nets, images and text, as the notes in benchmarks/notes/transfer.md describe it."""
    only: tuple[Only, ...] = ("cifar", "characters", "sentences")
    """Targets to measure; the rows of the others are kept. The pictures of cifar are judged corrupted, too."""
    particles: int = 10
    """Members of every posterior."""
    seeds: int = 5
    """Splits that are reported."""
    steps: int | None = None
    """Gradient steps of one fit, of every method; None takes the target's own number."""
    sought: int = 3
    """Members of the posteriors that settings are chosen with, at most."""
    images: Path | None = None
    """Pictures of your own, a folder a class, in place of the targets."""
    net: str = ""
    """Path of an image classifier of transformers, for `images`."""
    shots: int = 20
    """Examples of each class, for `images`."""


LR = (0.002, 0.004, 0.008, 0.015, 0.03)
DECAY = {"lr": LR, "weight_decay": (0.0, 1e-3, 1e-2)}
PRIOR = {
    "lr": LR,
    "prior": ((1.0, None, 0.0, "probed"), (10.0, 0.01, 0.0, "random"), (30.0, 0.001, 0.01, "random")),
}
"""Strength of a base measure, the penalty of its probe (None: chosen), weight decay, and where heads start. The first
is the library's own. A first look at the pictures' tuning parts had random heads ahead of the probe's; an average of
such is less sure than its members, and wants labels that are surer than a probe which predicts well."""
GRIDS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    # fifteen settings each; what a method has besides its rate is what its paper tunes
    "fine-tuning": DECAY,
    "L2-SP": {"lr": LR, "anchor": (1e-3, 1e-2, 1e-1)},
    "deep ensemble": DECAY,
    "multi-start": DECAY,
    "MC dropout": {"lr": LR, "rate": (0.1, 0.3, 0.5)},
    "SWAG": {"lr": LR, "rate": (0.3, 0.5, 1.0)},
    "SGHMC": {"rate": LR, "prior_sd": (0.1, 0.3, 1.0)},
    "last-layer Laplace": {"lr": LR[1:4], "prior_precision": (1.0, 10.0, 100.0, 1000.0, 10000.0)},
    "distillation ensemble": PRIOR,
    "NPTL": PRIOR,
    "Bayesian bootstrap": DECAY,
}
DESCENT = ("lr", "weight_decay", "anchor")
"""Settings that are the learner's and not the method's."""
COMPARED = ("nll", "tempered_nll", "accuracy", "ece")
SCORES = {"accuracy": metrics.accuracy, "nll": metrics.nll, "ece": metrics.ece, "brier": metrics.brier}


class Chosen(NamedTuple):
    """What the tuning part chose for a method."""

    settings: dict[str, Any]
    temperature: float
    """Of its model average."""
    nll: float
    """On the tuning part."""


def method(name: str, particles: int, steps: int, settings: Mapping[str, Any]) -> nptl.Method:
    """Make a method by its word."""
    own: dict[str, Any] = {key: value for key, value in settings.items() if key not in (*DESCENT, "prior")}
    makers: dict[str, Callable[..., nptl.Method]] = {
        "fine-tuning": nptl.MAP,
        "L2-SP": nptl.MAP,
        "deep ensemble": nptl.DeepEnsemble,
        "multi-start": nptl.MultiStart,
        "MC dropout": MCDropout,
        "SWAG": SWAG,
        "SGHMC": SGHMC,
        "last-layer Laplace": LastLayerLaplace,
        "distillation ensemble": nptl.DistillationEnsemble,
        "NPTL": nptl.NPTL,
        "Bayesian bootstrap": nptl.NPTL,
    }
    if name == "SGHMC":
        own |= {"burn_in": steps, "every": max(1, steps // 10)}
    if name == "SWAG":
        own |= {"snapshots": 20, "every": max(1, steps // 20)}
    if name == "Bayesian bootstrap":
        own |= {"rho": 0.0}
    if name in ("NPTL", "distillation ensemble"):
        own |= {"rho": settings["prior"][0], "heads": settings["prior"][3]}
    return makers[name](particles=1 if name in ("fine-tuning", "L2-SP") else particles, **own)


def fitted(
    name: str,
    config: Config,
    settings: Mapping[str, Any],
    target: Target,
    split: Split,
    seed: int,
    bases: dict[Any, nptl.BaseMeasure] | None = None,
) -> tuple[TorchLearner, Posterior, float]:
    """Give a learner, a method's posterior on a split, and the seconds that it took, the probe's included.

    Probes that were fitted on the split before are in `bases`, by their penalty.
    """
    _, penalty, decay, _ = settings.get("prior", (None, None, 0.0, None))
    descent = {"weight_decay": decay} | {key: value for key, value in settings.items() if key in DESCENT}
    started, steps = time.perf_counter(), target.steps if config.steps is None else config.steps
    learner = TorchLearner(target.net(), replace(Fit(steps=steps, batch=target.batch), **descent))
    data = nptl.classification(split.x, split.y, target.classes)
    known = {} if bases is None else bases
    if penalty not in known:
        known[penalty] = nptl.linear_probe(learner, data, penalty=penalty)
    if name == "linear probe":
        posterior = Posterior((known[penalty].params,))
    else:
        drawn = method(name, config.particles, steps, settings)
        posterior = drawn.sample(learner, known[penalty], data, seed=seed)
    return learner, posterior, time.perf_counter() - started


def tuned(config: Config, target: Target) -> dict[str, Chosen]:
    """Choose every method's settings by the NLL of its model average, and its temperature, on two splits to tune on."""
    few = replace(config, particles=min(config.sought, config.particles))
    splits = [target.split(child(0, "tuning", number), "tuning") for number in range(2)]
    bases: list[dict[Any, nptl.BaseMeasure]] = [{} for _ in splits]

    def look(name: str, settings: dict[str, Any]) -> tuple[float, float]:
        probs = []
        for number, split in enumerate(splits):
            seed = child(1, "tuning", number)
            try:
                learner, posterior, _ = fitted(name, few, settings, target, split, seed, bases[number])
            except DataError:  # a rate at which it diverges is not chosen
                return 1.0, float("inf")
            probs.append(average(predictions(learner, posterior, split.x_test)))
        labels = [split.y_test for split in splits]
        nll = float(np.mean([metrics.nll(p, y) for p, y in zip(probs, labels, strict=True)]))
        return fit_temperature(np.concatenate(probs), np.concatenate(labels)), nll

    found = {}
    with bar(f"{target.name}: settings", total=sum(len(_settings(grid)) for grid in GRIDS.values())) as advance:
        for name, grid in GRIDS.items():
            tried = []
            for settings in _settings(grid):
                said = [*_said(target, few), name, settings]
                tried.append(Chosen(settings, *kept("transfer.tuned", said, partial(look, name, settings))))
                advance()
            found[name] = min(tried, key=lambda one: one.nll)
    found["linear probe"] = Chosen({}, 1.0, float("nan"))
    return found


def _settings(grid: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def _said(target: Target, config: Config) -> list[Any]:
    return [target.name, target.classes, target.steps, target.batch, config.particles, config.steps]


def measured(config: Config, target: Target, chosen: Mapping[str, Chosen]) -> dict[str, Any]:
    """Give every score of every method on every reported split."""
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in chosen}

    def look(name: str, split: Split, number: int) -> dict[str, float]:
        settings, temperature, _ = chosen[name]
        learner, posterior, seconds = fitted(name, config, settings, target, split, child(2, number))
        return _judge(learner, posterior, split, temperature) | {"seconds": seconds}

    with bar(f"{target.name}: splits", total=len(chosen) * config.seeds) as advance:
        for number in range(config.seeds):
            split = target.split(child(0, "split", number), "report")
            for name, choice in chosen.items():
                said = [*_said(target, config), name, choice.settings, choice.temperature, number]
                judged = kept("transfer.judged", said, partial(look, name, split, number))
                for score, value in judged.items():
                    scores[name].setdefault(score, []).append(value)
                advance()
    return scores


def _judge(learner: TorchLearner, posterior: Posterior, split: Split, temperature: float) -> dict[str, float]:
    inside, outside = (predictions(learner, posterior, x) for x in (split.x_test, split.outside))
    probs, y = average(inside), split.y_test
    scores = {name: score(probs, y) for name, score in SCORES.items()}
    scores["tempered_nll"] = metrics.nll(tempered(probs, temperature), y)
    foreign = np.repeat([False, True], [inside.shape[1], outside.shape[1]])
    both = metrics.uncertainty(np.concatenate([inside, outside], axis=1))
    scores["ood_auroc_entropy"] = metrics.auroc(both.total, foreign)
    if len(posterior) > 1:
        scores["ood_auroc_epistemic"] = metrics.auroc(both.epistemic, foreign)
    if split.shifted:
        scores |= _corrupted(learner, posterior, split, temperature)
    return scores


def _corrupted(learner: TorchLearner, posterior: Posterior, split: Split, temperature: float) -> dict[str, float]:
    """Give the scores on the corrupted pictures, all together, and the NLL at each severity."""
    count, severities = len(next(iter(split.shifted.values()))), [int(name.split()[-1]) for name in split.shifted]
    probs = average(predictions(learner, posterior, np.concatenate(list(split.shifted.values()))))
    y, severity = np.tile(split.y_test[:count], len(severities)), np.repeat(severities, count)
    scores = {f"corrupted.{name}": score(probs, y) for name, score in SCORES.items()}
    scores["corrupted.tempered_nll"] = metrics.nll(tempered(probs, temperature), y)
    for level in sorted(set(severities)):
        scores[f"corrupted.nll_severity_{level}"] = metrics.nll(probs[severity == level], y[severity == level])
    return scores


def rows(target: str, scores: Mapping[str, Mapping[str, list[float]]], seconds: float) -> list[Row]:
    """Make rows of every score, and of NPTL's paired differences from every other method."""
    command = f"python -m benchmarks.transfer.run --only {target}"

    def make(id: str, values: Any, unit: str) -> Row:
        return row(f"transfer.{target}.{id}", values, unit, command=command, seconds=seconds)

    found = []
    for name, judged in scores.items():
        word = name.lower().replace(" ", "_")
        found += [make(f"{word}.{score}", values, "") for score, values in judged.items()]
        if name != "NPTL":
            for score in sorted(set(judged) & {f"{kind}{score}" for kind in ("", "corrupted.") for score in COMPARED}):
                difference = np.array(scores["NPTL"][score]) - np.array(judged[score])
                found.append(make(f"nptl_minus_{word}.{score}", difference, "paired difference"))
    return found


def verdict() -> list[Row]:
    """Count the targets where no reference is better than NPTL in NLL by more than chance."""
    found = {one["id"]: one for one in load_json(HERE / "results" / "transfer.json")}
    references = set(GRIDS) - {"NPTL", "distillation ensemble", "Bayesian bootstrap"}  # its own ablations
    words = [name.lower().replace(" ", "_") for name in references]
    held = 0
    for target, score in (("cifar", "nll"), ("cifar", "corrupted.nll"), ("characters", "nll")):
        lows = [found[f"transfer.{target}.nptl_minus_{word}.{score}"]["low"] for word in words]
        held += max(lows) <= 0
    unit = "of 3: CIFAR-10, the same corrupted, characters; none of 8 references better, by a 95 % interval"
    command = "python -m benchmarks.transfer.run --only cifar characters"
    return [row("nptl.nll_wins_or_ties", held, unit, command=command, seconds=0.0)]


def main(config: Config) -> None:
    makers = {
        "cifar": lambda: targets.cifar(config.data, corrupted=50),
        "characters": lambda: targets.characters(config.data),
        "sentences": lambda: targets.sentences(config.data),
    }
    if config.images is not None:
        chosen = {"folder": lambda: targets.folder(config.images, config.net, config.shots)}  # pyright: ignore[reportArgumentType]
    else:
        chosen = {name: makers[name] for name in config.only}
    for name, maker in chosen.items():
        started, target = time.perf_counter(), maker()
        scores = measured(config, target, tuned(config, target))
        save("transfer", rows(name, scores, time.perf_counter() - started))
    if {"cifar", "characters"} & set(chosen):
        save("nptl", verdict())


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
