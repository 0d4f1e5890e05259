"""Transfer to real targets: `python -m benchmarks.transfer.run --data FOLDER [--only cifar characters …]`.

Every method starts from the same probe, takes as many steps, and has its settings chosen from equally many, on examples
that no reported number comes from. A user's own pictures and net: `--images FOLDER --net PATH`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from bayes_persona import metrics, nptl
from bayes_persona.bma import average, predictions
from bayes_persona.files import load_json, save_json
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
    steps: int = 100
    """Gradient steps of one fit."""
    images: Path | None = None
    """Pictures of your own, a folder a class, in place of the targets."""
    net: str = ""
    """Path of an image classifier of transformers, for `images`."""
    shots: int = 20
    """Examples of each class, for `images`."""


LR = (0.003, 0.01, 0.03, 0.1)
GRIDS: Mapping[str, Mapping[str, tuple[float, ...] | tuple[str, ...]]] = {
    # eight settings each; what a method has besides its rate is what its paper tunes
    "fine-tuning": {"lr": LR, "weight_decay": (0.0, 1e-3)},
    "L2-SP": {"lr": LR, "anchor": (1e-3, 1e-2)},
    "deep ensemble": {"lr": LR, "weight_decay": (0.0, 1e-3)},
    "multi-start": {"lr": LR, "weight_decay": (0.0, 1e-3)},
    "MC dropout": {"lr": LR, "rate": (0.1, 0.3)},
    "SWAG": {"lr": LR, "rate": (0.5, 1.0)},
    "SGHMC": {"rate": (0.003, 0.01, 0.03, 0.1), "prior_sd": (0.1, 1.0)},
    "last-layer Laplace": {"lr": (0.01, 0.03), "prior_precision": (10.0, 100.0, 1000.0, 10000.0)},
    # with random heads, which the tuning parts of both picture targets had preferred to the probe's
    "distillation ensemble": {"lr": LR, "rho": (1.0, 10.0)},
    "NPTL": {"lr": LR, "rho": (1.0, 10.0)},
    "Bayesian bootstrap": {"lr": LR, "weight_decay": (0.0, 1e-3)},
}
DESCENT = ("lr", "weight_decay", "anchor")
"""Settings that are the learner's and not the method's."""
COMPARED = ("nll", "tempered_nll", "accuracy", "ece")
SCORES = {"accuracy": metrics.accuracy, "nll": metrics.nll, "ece": metrics.ece, "brier": metrics.brier}


def method(name: str, config: Config, settings: Mapping[str, Any]) -> nptl.Method:
    """Make a method by its word."""
    own: dict[str, Any] = {key: value for key, value in settings.items() if key not in DESCENT}
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
        own |= {"burn_in": config.steps, "every": max(1, config.steps // 10)}
    if name == "SWAG":
        own |= {"snapshots": 20, "every": max(1, config.steps // 20)}
    if name == "Bayesian bootstrap":
        own |= {"rho": 0.0}
    if name in ("NPTL", "distillation ensemble"):
        own |= {"heads": "random"}
    particles = 1 if name in ("fine-tuning", "L2-SP") else config.particles
    return makers[name](particles=particles, **own)


def fitted(
    name: str, config: Config, settings: Mapping[str, Any], target: Target, split: Split, seed: int
) -> tuple[TorchLearner, Posterior, float]:
    """Give a learner, a method's posterior on a split, and the seconds that it took, the probe's included."""
    descent = {key: value for key, value in settings.items() if key in DESCENT}
    started = time.perf_counter()
    learner = TorchLearner(target.net(), replace(Fit(steps=config.steps, batch=50), **descent))
    data = nptl.classification(split.x, split.y, target.classes)
    base = nptl.linear_probe(learner, data)
    if name == "linear probe":
        posterior = Posterior((base.params,))
    else:
        posterior = method(name, config, settings).sample(learner, base, data, seed=seed)
    return learner, posterior, time.perf_counter() - started


def tuned(
    config: Config, target: Target, known: Mapping[str, tuple[dict[str, Any], float]]
) -> dict[str, tuple[dict[str, Any], float]]:
    """Choose the settings of every method that is not known, and a temperature, on two splits of the tuning part.

    Two members say as much of a rate as ten; ensembles are chosen by the NLL of their model average.
    """
    few = replace(config, particles=min(2, config.particles))
    splits = [target.split(child(0, "tuning", number), "tuning") for number in range(2)]
    found: dict[str, tuple[dict[str, Any], float]] = dict(known)
    grids = {name: grid for name, grid in GRIDS.items() if name not in known}
    with bar(f"{target.name}: settings", total=sum(len(LR) * 2 for _ in grids)) as advance:
        for name, grid in grids.items():
            best = (np.inf, {}, 1.0)
            for values in product(*grid.values()):
                settings = dict(zip(grid, values, strict=True))
                probs, labels = [], []
                for number, split in enumerate(splits):
                    learner, posterior, _ = fitted(name, few, settings, target, split, child(1, "tuning", number))
                    probs.append(average(predictions(learner, posterior, split.x_test)))
                    labels.append(split.y_test)
                nll = float(np.mean([metrics.nll(p, y) for p, y in zip(probs, labels, strict=True)]))
                if nll < best[0]:
                    best = (nll, settings, fit_temperature(np.concatenate(probs), np.concatenate(labels)))
                advance()
            found[name] = best[1:]
    found["linear probe"] = ({}, 1.0)
    return found


def measured(config: Config, target: Target, chosen: Mapping[str, tuple[dict[str, Any], float]]) -> dict[str, Any]:
    """Give every score of every method on every reported split."""
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in chosen}
    with bar(f"{target.name}: splits", total=len(chosen) * config.seeds) as advance:
        for number in range(config.seeds):
            split = target.split(child(0, "split", number), "report")
            for name, (settings, temperature) in chosen.items():
                learner, posterior, seconds = fitted(name, config, settings, target, split, child(2, number))
                judged = _judge(learner, posterior, split, temperature) | {"seconds": seconds}
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
        place = Path("runs") / "transfer" / f"{name}.json"
        # choosing takes longer than measuring: keep what was chosen
        known = {key: (value[0], value[1]) for key, value in (load_json(place) if place.exists() else {}).items()}
        settings = tuned(config, target, known)
        save_json(place, {key: list(value) for key, value in settings.items()})
        scores = measured(config, target, settings)
        save("transfer", rows(name, scores, time.perf_counter() - started))
    if {"cifar", "characters"} & set(chosen):
        save("nptl", verdict())


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
