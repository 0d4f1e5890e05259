"""One shape for every measurement, and the table that is made from them."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from bayes_persona.files import load_json, save_json, write
from bayes_persona.metrics import mean_interval
from benchmarks.compared import tables

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
HEADLINES = {
    "demo.digits.nptl.accuracy": "NPTL, 10 draws, 100 handwritten digits: accuracy",
    "demo.digits.nptl.nll": "the same: NLL, nats",
    "demo.digits.deep_ensemble.nll": "deep ensemble of 10, same start and steps: NLL, nats",
    "demo.digits.nptl_minus_deep_ensemble.nll": "NPTL − deep ensemble, split by split: NLL",
    "demo.digits.nptl_minus_fine-tuning.nll": "NPTL − fine-tuning, split by split: NLL",
    "demo.taxi.c-psrl.regret_last_fifth": "C-PSRL on Taxi, 7 edges told: regret an episode, last fifth of the run",
    "demo.taxi.flat_psrl.regret_last_fifth": "flat PSRL: the same (driving about costs 38)",
    "nptl.k10_cost_ratio.small_cnn": "cost of 10 NPTL draws, probe included / 10 fine-tunings: the digits' net",
    "nptl.k10_cost_ratio.resnet20": "the same: ResNet-20",
    "transfer.cifar.nptl.nll": "ImageNet's MobileNet on 500 CIFAR-10 pictures, NPTL of 10: NLL",
    "transfer.cifar.nptl_minus_deep_ensemble.nll": "the same less a deep ensemble's, split by split",
    "transfer.cifar.nptl_minus_multi-start.nll": "the same less that of an ensemble from random heads",
    "transfer.cifar.nptl_minus_deep_ensemble.corrupted.nll": "on corrupted pictures: less a deep ensemble's",
    "transfer.cifar.nptl_minus_multi-start.corrupted.nll": "on corrupted pictures: less that of random heads",
    "transfer.characters.nptl.nll": "the same net on 50 handwritten letters, 5 drawings of each, NPTL of 10: NLL",
    "transfer.characters.nptl_minus_deep_ensemble.nll": "the same less a deep ensemble's",
    "transfer.characters.nptl_minus_multi-start.nll": "the same less that of random heads",
    "transfer.sentences.nptl.nll": "MiniLM on 200 film reviews, NPTL of 10: NLL",
    "transfer.sentences.nptl_minus_deep_ensemble.nll": "the same less a deep ensemble's",
    "transfer.sentences.nptl_minus_multi-start.nll": "the same less that of random heads",
    "npl.misspecified_nll_gain_over_nuts": "NPL beside NUTS, a regression whose model is wrong: nats gained",
    "cpsrl.random_factored.regret_over_fpsrl": "C-PSRL's regret, 2 of 5 parents told / that of the true graph",
    "cpsrl.random_factored.regret_over_complete": "the same / that of PSRL without structure",
    "cpsrl.soft_edges_regret_ratio": "regret with a wrong edge at 9:1 / with a right one",
    "cpsrl.sbc_coverage_80": "true graphs in 80 % credible sets",
    "cpsrl.taxi5.last50_over_flat": "Taxi, last 50 of 300 episodes, 7 edges told: C-PSRL's regret / flat PSRL's",
    "cpsrl.sepsis.cpsrl.episodes_to_90": "sepsis, natural edges told: episodes to 90 % of the best value",
    "cpsrl.speedup.random_factored": "20 random worlds at once, compiling included: speed / NumPy prototype's",
    "cpsrl.speedup.taxi5": "20 taxis at once: the same",
    "oracle.identity_r2": "PersonaWorld's oracles on held-out people: R² of identity",
    "base.background": "its base model, held-out prompts: background as asked",
    "base.superclass": "the same: superclass",
    "base.expression": "the same: expression",
    "base.two_subjects": "the same: both of two subjects there",
    "base.named_identity_r2": "the same: R² of identity of the people it knows by name",
    "world.unpersonalized.identity_error": "someone new, without personalization: error of identity (RMSE of factors)",
    "world.textual_inversion.identity_error": "the same after textual inversion on four pictures",
    "world.low_rank.identity_error": "the same after DreamBooth-LoRA",
    "world.textual_inversion.fidelity": "textual inversion: share of prompts that is followed",
    "world.low_rank.fidelity": "DreamBooth-LoRA: the same",
    "moa.identity_error": "Mixture-of-Attention, nothing trained for the person: error of identity",
    "moa.background_prior_weight": "the same: share of the prior outside subjects",
    "moa.context_change_ratio_lora_over_moa": "people swapped at one seed, change of everything else: LoRA's / MoA's",
    "moa.two_subjects": "the same: both of two people recognised, and not swapped",
    "lipe.edit_success": "LIPE: photos edited as asked (pose, expression)",
    "lipe.background_psnr": "the same: dB outside the subject",
    "lipe.identity_ratio": "the same: error of identity / that of the photo's plain reconstruction",
    "dual.identity_error_ratio": "Dual-Pivot, strongly damaged photos: error of identity / the restorer's alone",
    "dual.psnr_difference": "the same: dB gained",
    "perfusion.sd15_kilobytes": "Perfusion, a subject for Stable Diffusion 1.5: kilobytes",
    "celeb.celeb_basis.identity_error": "Celeb Basis, from one photo in 25 steps: error of identity",
    "celeb.gain_over_ti": "the same: less than textual inversion's, person by person",
    "perfusion.fidelity_gain_over_lora": "prompts followed, Perfusion less LoRA, where both err as much in identity",
    "perfusion.two_concepts": "two people by Perfusion, trained separately: both right and not swapped",
    "persona.coverage80.celeb_basis": "persona, true identity factors in recalibrated 80 % intervals: Celeb Basis",
    "persona.coverage80.perfusion": "the same: Perfusion",
    "persona.coverage80.textual_inversion": "the same: textual inversion",
    "persona.averaged_less_single.celeb_basis": "error of identity, model average less a single member: Celeb Basis",
    "persona.photos1.averaged_less_plain": "the same, one photo: the model average less plain fine-tuning",
    "persona.epistemic_spearman": "Spearman of the members' variance and the true error",
    "persona.tuning_gain_over_random": "tuning with 20 generations, utility: C-PSRL less random search",
    "persona.tuning_gain_over_tpe": "the same: less Optuna's TPE",
    "persona.tuning_gain_over_tpe_told": "the same: less TPE that begins where earlier subjects did best",
    "persona.gating_context_reduction": "change of other people's pictures that chosen gates take away",
    "peers.transfer.nll.nptl_minus_posteriors_sghmc": "beside peers, digits: NPTL's NLL less that of posteriors' SGHMC",
    "peers.speed.nptl_over_torch_uncertainty_ensemble": "the same: seconds of 10 / of torch-uncertainty's ensemble",
    "peers.speed.flat_psrl_over_numpy_psrl.8_runs": "8 runs of flat PSRL in 64 states: seconds / plain NumPy's",
    "peers.speed.perfusion_layer.forward": "Perfusion's layers: seconds / perfusion-pytorch's",
    "ray.equal_to_serial": "particles drawn in a cluster, workers killed on the way: share equal to the serial ones",
    "faults.resumed_equal": "killed at a random moment and resumed: share equal to the undisturbed run, all files",
    "fuzz.undocumented_crashes": "changed files fed to the loaders: crashes that are no documented error",
    "demo.seconds": "`make demo`, seconds",
    "test.seconds": "`make test`, seconds",
}
"""The rows that the README shows, and what they are."""
COMPARED = {
    "transfer": {
        "cifar": "ImageNet's MobileNet, 50 pictures of each of CIFAR-10's classes",
        "cifar.corrupted": "The same posteriors on corrupted pictures",
        "characters": "ImageNet's MobileNet, 5 drawings of each of 50 handwritten letters",
        "sentences": "MiniLM, 100 sentences of each sentiment (SST-2)",
    }
}
"""Where methods are shown beside one another."""


@dataclass(frozen=True)
class Row:
    """A number that was measured: never a target."""

    id: str
    value: float
    low: float | None
    high: float | None
    n: int
    unit: str
    command: str
    commit: str
    seconds: float
    machine: str
    date: str


def row(id: str, values: ArrayLike, unit: str, *, command: str, seconds: float) -> Row:
    """Make a row of independent repetitions: their mean, and its 95 % interval where there are several."""
    repeats = np.atleast_1d(np.asarray(values, dtype=float))
    mean, low, high = mean_interval(repeats)
    several = len(repeats) > 1
    return Row(
        id=id,
        value=_short(mean),
        low=_short(low) if several else None,
        high=_short(high) if several else None,
        n=len(repeats),
        unit=unit,
        command=command,
        commit=_commit(),
        seconds=round(seconds, 2),
        machine=_machine(),
        date=date.today().isoformat(),
    )


def ratio(id: str, above: ArrayLike, below: ArrayLike, unit: str, *, command: str, seconds: float) -> Row:
    """Make a row of the mean of one column over the mean of another, pairs resampled for its 95 % interval."""
    pairs = np.stack([np.asarray(above, dtype=float), np.asarray(below, dtype=float)])
    chosen = np.random.default_rng(0).integers(pairs.shape[1], size=(10_000, pairs.shape[1]))
    again = pairs[:, chosen].mean(axis=-1)
    low, high = np.quantile(again[0] / again[1], [0.025, 0.975])
    one = row(id, pairs[0].mean() / pairs[1].mean(), unit, command=command, seconds=seconds)
    return replace(one, low=_short(low), high=_short(high), n=pairs.shape[1])


def save(name: str, rows: Sequence[Row]) -> None:
    """Write results/NAME.json, keeping rows that were not measured again, and make RESULTS.md anew."""
    path = HERE / "results" / f"{name}.json"
    kept = {old["id"]: old for old in (load_json(path) if path.exists() else [])}
    kept.update({new.id: asdict(new) for new in rows})
    save_json(path, list(kept.values()))
    write(HERE / "RESULTS.md", _table().encode())
    write(README, with_numbers(README.read_text()).encode())


def with_numbers(readme: str) -> str:
    """Give the README with its table made anew from the rows."""
    rows = {old["id"]: old for path in (HERE / "results").glob("*.json") for old in load_json(path)}
    lines = ["| | measured | 95 % interval | n |", "|---|---|---|---|"]
    for id, what in HEADLINES.items():
        if id in rows:
            lines.append(f"| {what} | {rows[id]['value']:.3g} | {_interval(rows[id])} | {rows[id]['n']} |")
    before, start, rest = readme.partition("<!-- numbers -->\n")
    _, end, after = rest.partition("<!-- end of numbers -->")
    return before + start + "\n".join(lines) + "\n" + end + after


def _table() -> str:
    lines = [
        "# Results",
        "",
        "Made from results/*.json by `benchmarks/rows.py`; every row can be measured again with its command.",
        "",
    ]
    for path in sorted((HERE / "results").glob("*.json")):
        about = HERE / "notes" / f"{path.stem}.md"
        lines += [f"## {path.stem}", ""]
        lines += [about.read_text().strip(), ""] if about.exists() else []
        lines += tables(path.stem, COMPARED.get(path.stem, {}), load_json(path))
        lines += [
            "| id | value | 95 % interval | n | unit | command | commit | machine | date |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for entry in json.loads(path.read_text()):
            cells = [f"`{entry['id']}`", f"{entry['value']:.4g}", _interval(entry), entry["n"], entry["unit"]]
            cells += [f"`{entry['command']}`", entry["commit"], entry["machine"], entry["date"]]
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _short(number: float) -> float:
    return float(f"{number:.6g}")


def _interval(entry: dict) -> str:
    return "" if entry["low"] is None else f"{entry['low']:.3g} to {entry['high']:.3g}"


def _commit() -> str:
    """Give the commit that was measured, and say if the code was changed since."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", HERE.parent, *words], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py", "constraints.txt", "*.safetensors")
    return (git("rev-parse", "--short", "HEAD") or "none") + (" + changes" if changed else "")


def _machine() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} threads"
