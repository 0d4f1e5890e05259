"""The main job: all three acts, the table in the terminal, and the page."""

import html
import os
import platform
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console

from bayes_persona import __version__
from bayes_persona.demo import page, plots, portrait, taxi, transfer
from bayes_persona.demo.config import Config
from bayes_persona.metrics import Interval, mean_interval
from bayes_persona.persona import plots as portraits
from bayes_persona.persona import uncertainty


def run(config: Config, console: Console) -> dict[str, Any]:
    """Do all three acts, print their tables, write the page, and give the numbers."""
    started = time.perf_counter()
    console.print(f"NPTL: {config.splits} splits, 5 methods, {config.particles} particles …")
    digits = transfer.compare(config)
    console.print(page.terminal_table("From print to handwriting", *_transfer_table(digits), ours="NPTL"))
    console.print(f"C-PSRL: {config.drivers} drivers, {config.episodes} episodes, 3 agents …")
    rides = taxi.compare(config)
    console.print(page.terminal_table("Gymnasium's Taxi", *_taxi_table(rides), ours="C-PSRL"))
    console.print(f"persona: {config.photos} pictures of one person, {config.portraits} members …")
    person = portrait.compare(config)
    console.print(page.terminal_table("A person from a few pictures", *_portrait_table(person), ours="model average"))
    seconds = time.perf_counter() - started
    numbers, tuned = _numbers(config, digits, rides, person, seconds), person.turned.tuned
    parts = {
        "splits": str(config.splits),
        "drivers": str(config.drivers),
        "examples": str(config.examples),
        "particles": str(config.particles),
        "judged": f"{len(digits.y) // config.splits:,}",
        "horizon": str(taxi.HORIZON),
        "transfer_headline": _transfer_headline(digits),
        "transfer_table": page.html_table(*_transfer_table(digits), ours="NPTL"),
        "reliability": plots.reliability_diagram(digits),
        "intervals": plots.score_intervals(digits),
        "doubtful": plots.doubtful_digits(config, digits),
        "taxi_headline": _taxi_headline(rides),
        "taxi_table": page.html_table(*_taxi_table(rides), ours="C-PSRL"),
        "regret": plots.regret_curves(rides),
        "graph": plots.causal_graph(rides),
        "photos": str(config.photos),
        "portraits": str(config.portraits),
        "superclass": person.superclass,
        "portrait_headline": _portrait_headline(person),
        "portrait_table": page.html_table(*_portrait_table(person), ours="model average"),
        "photo_strip": portraits.photo_strip(person.photos),
        "scenes": "".join(_scene(scene) for scene in person.scenes),
        "verdict": html.escape(person.verdict.text),
        "situations": portraits.situations(person.verdict.situations, person.verdict.sure),
        "tunings": str(config.tunings),
        "turned": ", ".join(f"{name} {value:g}" for name, value in tuned.setting.items()),
        "tuning": portraits.tuning(np.array([one.utility for one in tuned.history]), tuned.edges),
        "command": _command(config),
        "made": f"{seconds:.0f} seconds on {os.cpu_count()} cores ({platform.machine()}), version {__version__}",
    }
    page.save(config.out, parts, numbers, overview=plots.overview(digits, rides, person))
    console.print(f"{seconds:.0f} seconds. Open [bold]{config.out / 'index.html'}[/bold]")
    return numbers


def _transfer_table(result: transfer.Result):
    columns = ("method", "accuracy", "NLL", "ECE", "Brier")
    rows = {
        method: [_interval(mean_interval(values)) for values in outcome.scores.values()]
        for method, outcome in result.outcomes.items()
    }
    return columns, rows


def _taxi_table(result: taxi.Result):
    columns = ("agent", "regret in all", "last fifth", "seconds")
    rows = {
        agent: [
            _interval(mean_interval(outcome.regret.sum(axis=1)), digits=0),
            _interval(mean_interval(taxi.last_fifth(outcome.regret)), digits=1),
            f"{outcome.seconds:.3f}",
        ]
        for agent, outcome in result.outcomes.items()
    }
    return columns, rows


def _transfer_headline(result: transfer.Result) -> str:
    ours, rival = (result.outcomes[method].scores for method in ("NPTL", "deep ensemble"))
    nll = mean_interval(ours["nll"] - rival["nll"])
    ece = mean_interval(ours["ece"] - rival["ece"])
    return (
        f"Against a deep ensemble of the same size, split by split, NPTL changes NLL by {_signed(nll)} "
        f"and ECE by {_signed(ece)}: {_verdict(nll, 'NLL')}, {_verdict(ece, 'ECE')}."
    )


def _taxi_headline(result: taxi.Result) -> str:
    ours, rival = (taxi.last_fifth(result.outcomes[agent].regret) for agent in ("C-PSRL", "flat PSRL"))
    ratio, paired = ours.mean() / rival.mean(), mean_interval(ours - rival)
    return (
        f"In the last fifth of its episodes C-PSRL loses {ratio:.2f} times what flat PSRL does "
        f"({_signed(paired, digits=1)} an episode, driver by driver): {_verdict(paired, 'regret')}."
    )


def _portrait_table(result: portrait.Result):
    columns = ("pictures of", "identity error", "pictures")
    rows = {name: [_interval(mean_interval(errors)), str(len(errors))] for name, errors in result.errors.items()}
    return columns, rows


def _portrait_headline(result: portrait.Result) -> str:
    ours, anyone = (
        errors.mean() for name, errors in result.errors.items() if name not in ("the photos", "its members")
    )
    return (
        f"By the oracles' reading the model average is {ours:.2f} from the person (root mean square over identity "
        f"factors between 0 and 1); without personalization the base model is {anyone:.2f} away."
    )


def _scene(scene: portrait.Scene) -> str:
    picture, maps = portraits.posterior(scene.averaged, scene.members), portraits.maps(uncertainty.maps(scene.members))
    said = f"“{scene.prompt}”, with the person in place of anyone."
    parts = "Its variance: what more photos would take away, and what the noise decides."
    return (
        f"<figure>{picture}<figcaption>{said}</figcaption></figure>"
        f'<figure class="small">{maps}<figcaption>{parts}</figcaption></figure>'
    )


def _verdict(paired: Interval, name: str) -> str:
    if np.isnan(paired.low):
        return f"one repetition says nothing about {name}"
    if paired.high < 0:
        return f"lower {name}"
    return f"higher {name}" if paired.low > 0 else f"no difference in {name} that this many repetitions can show"


def _interval(interval: Interval, digits: int = 3) -> str:
    return f"{interval.mean:.{digits}f} ± {(interval.high - interval.low) / 2:.{digits}f}"


def _signed(interval: Interval, digits: int = 3) -> str:
    return f"{interval.mean:+.{digits}f} ({interval.low:+.{digits}f} to {interval.high:+.{digits}f})"


def _command(config: Config) -> str:
    changed = [(name, value) for name, value in asdict(config).items() if value != getattr(Config(), name)]
    return " ".join(["bayes-persona demo", *(f"--{name} {value}" for name, value in changed)])


def _numbers(
    config: Config, digits: transfer.Result, rides: taxi.Result, person: portrait.Result, seconds: float
) -> dict[str, Any]:
    return {
        "config": {name: str(value) if name == "out" else value for name, value in asdict(config).items()},
        "seconds": round(seconds, 1),
        "transfer": {
            method: {name: values.tolist() for name, values in outcome.scores.items()}
            for method, outcome in digits.outcomes.items()
        },
        "taxi": {
            agent: {"regret": outcome.regret.round(6).tolist(), "seconds_per_episode": outcome.seconds}
            for agent, outcome in rides.outcomes.items()
        },
        "portrait": {name: errors.round(6).tolist() for name, errors in person.errors.items()},
        "verdict": {"dispersion": person.verdict.dispersion, "situations": person.verdict.situations},
        "tuned": {"setting": person.turned.tuned.setting, "expected": person.turned.tuned.expected},
        "edges": [
            {"cause": cause, "effect": effect, "probability": probability, "true": rides.truth.has_edge(cause, effect)}
            for cause, effect, probability in rides.learned.edges(data="probability")
        ],
    }
