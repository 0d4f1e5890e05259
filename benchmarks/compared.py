"""Methods beside one another: rows named NAME.TARGET.METHOD.SCORE as tables of methods by scores, to be read."""

from collections.abc import Mapping, Sequence
from typing import Any

SCORES = {
    "accuracy": "accuracy",
    "nll": "NLL",
    "tempered_nll": "NLL, tempered",
    "ece": "ECE",
    "brier": "Brier",
    "ood_auroc_entropy": "OOD AUROC, entropy",
    "ood_auroc_epistemic": "OOD AUROC, disagreement",
    "seconds": "seconds",
}
WORDS = {"nptl": "**NPTL**", "l2-sp": "L2-SP", "mc_dropout": "MC dropout", "swag": "SWAG", "sghmc": "SGHMC"} | {
    "last-layer_laplace": "last-layer Laplace",
    "bayesian_bootstrap": "Bayesian bootstrap",
}
AGAINST = "nptl_minus_"


def tables(name: str, titles: Mapping[str, str], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Give lines of markdown: for every target a table of its methods, the best NLL first.

    Args:
        name: What ids begin with.
        titles: Targets (as ids have them, a kind of inputs after a dot) and what they are.
        entries: Rows, as they lie in results/NAME.json.
    """
    found, lines = {entry["id"]: entry for entry in entries}, []
    for target, title in titles.items():
        place, _, kind = target.partition(".")
        prefix, kind = f"{name}.{place}.", kind and f"{kind}."
        methods = [id.removeprefix(prefix).partition(".")[0] for id in found if id.startswith(prefix)]
        methods = [one for one in dict.fromkeys(methods) if f"{prefix}{one}.{kind}nll" in found and AGAINST not in one]
        if not methods:
            continue
        methods.sort(key=lambda one, of=f"{kind}nll", at=prefix: found[f"{at}{one}.{of}"]["value"])
        scores = [score for score in SCORES if any(f"{prefix}{one}.{kind}{score}" in found for one in methods)]
        head = ["method", *(SCORES[score] for score in scores), "NPTL's NLL less its"]
        lines += [f"**{title}**", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for one in methods:
            cells = [_value(found.get(f"{prefix}{one}.{kind}{score}")) for score in scores]
            difference = found.get(f"{prefix}{AGAINST}{one}.{kind}nll")
            words = one.replace("_", " ")
            lines.append(
                f"| {'**NPTL**' if one == 'nptl' else words} | {' | '.join(cells)} | {_difference(difference)} |"
            )
        lines.append("")
    return lines


def _value(entry: Mapping[str, Any] | None) -> str:
    return "" if entry is None else f"{entry['value']:.3g}"


def _difference(entry: Mapping[str, Any] | None) -> str:
    return "" if entry is None else f"{entry['value']:+.4f} ({entry['low']:+.4f} to {entry['high']:+.4f})"
