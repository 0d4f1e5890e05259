"""Build sdist and wheel, and install them into bare environments: with no extras, and with one extra alone.

`python tests/wheel.py [--extra NAME]`: without a name, each day another extra has its turn.

Every module must import, or say in our own words which extra it needs; and one that was installed must not be missed.
What an extra promises is then tried by the examples of docstrings.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROBE = """
import importlib, pkgutil, re, sys, bayes_persona
from bayes_persona import MissingExtraError

have = set(sys.argv[1:])
light, refused = ["bayes_persona"], []
found = pkgutil.walk_packages(bayes_persona.__path__, "bayes_persona.", onerror=lambda name: None)
names = [module.name for module in found]
for name in [*names, "bayes_persona_envs"]:
    try:
        importlib.import_module(name)
        light.append(name)
    except MissingExtraError as error:
        found = re.search(r"pip install 'bayes-persona\\[([a-z,]+)\\]'", str(error))
        assert found, error
        assert not set(found[1].split(",")) <= have, f"{name}: {error}, which was installed"
        refused.append(f"{name} ({error.name}: {found[1]})")
hall = "types errors seeds named weights posterior store loop parallel progress bma metrics export cli".split()
missing = [name for name in hall if f"bayes_persona.{name}" not in light]
assert not missing, f"the hall must import with no extras: {missing}"
print(f"{len(light)} modules import with {', '.join(sorted(have)) or 'no extras'}; {len(refused)} say which they need:")
print("  " + "\\n  ".join(refused))
"""
SHOW = """
import doctest, importlib, sys
for name in sys.argv[1:]:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.attempted and not found.failed, f"{name}: {found}"
    print(f"{name}: {found.attempted} lines of examples")
"""
CLUSTER = """
import numpy as np
from bayes_persona import parallel
found = parallel.map(lambda item: {"x": np.full(1, item)}, [3, 4], engine=parallel.cluster(2))
assert [int(one["x"][0]) for one in found] == [3, 4]
print("two items in a cluster of two workers")
"""
PERSONA = ("diffusion.generate", "diffusion.low_rank", "diffusion.adapters.perfusion.method", "persona.posterior")
EXAMPLES = {
    "torch": ("nptl.learner_torch", "nptl.references.swag", "nptl.predictor"),
    "jax": ("nptl.learner_jax", "nptl.npl.numpyro_model", "cpsrl.agents", "cpsrl.experiment"),
    "diffusion": PERSONA,
    "studio": ("studio.panel", "studio.sitting", "studio.desk"),
    "envs": ("bayes_persona_envs.taxi", "bayes_persona_envs.sepsis", "bayes_persona_envs.wrappers"),
    "sklearn": ("nptl.estimator",),
    "pictures": ("nptl.plots",),
    "references": ("nptl.references.sghmc",),
    "laplace": ("nptl.references.laplace",),
    "pyro": ("nptl.npl.pyro_model",),
    "processes": ("parallel",),
    "ray": (),
    "export": ("export",),
    "docs": (),
    "demo": ("demo.digits", *PERSONA),
    "notebooks": ("demo.digits", "export"),
    "all": ("nptl.estimator", "nptl.npl.pyro_model", "nptl.references.sghmc", "cpsrl.agents", "export", *PERSONA),
}
"""Modules whose docstrings' examples show what an extra is for."""
OTHERS = {"dev", "peers"}
"""Extras for those who work on this, and what it is compared with, which installs in part."""
SHIPPED = (
    "py.typed",
    "demo/assets/digit_net.safetensors",
    "demo/assets/page.html",
    "persona/assets/page.html",
    "world/data/subjects.json",
    "world/assets/base/unet/diffusion_pytorch_model.safetensors",
    "world/assets/oracles/oracles.safetensors",
)


def main() -> None:
    """Build, install, import, try."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert EXAMPLES.keys() == extras.keys() - OTHERS, "each extra has its examples"
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--extra", choices=[*EXAMPLES, "none"], default=_todays(list(EXAMPLES)))
    extra = asked.parse_args().extra
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        # the wheel is built from what the sdist holds
        subprocess.run([sys.executable, "-m", "build", "--outdir", place, ROOT], check=True, stdout=subprocess.DEVNULL)
        wheel, sdist = next(place.glob("*.whl")), next(place.glob("*.tar.gz"))
        _require_shipped(wheel, sdist)
        print("the wheel, with no extras", flush=True)
        bare = _installed(place / "bare", str(wheel))
        _run(bare, place, PROBE)
        subprocess.run([bare.parent / "bayes-persona", "--help"], check=True, cwd=place, stdout=subprocess.DEVNULL)
        if extra != "none":
            print(f"the sdist, with the extra {extra}", flush=True)
            if extra == "laplace":  # its torchvision does not load beside a CPU build of torch
                python = _installed(place / "one", f"{sdist}[references]")
                subprocess.run([*_pip(python), "--no-deps", "-r", ROOT / "references.txt"], check=True)
            else:
                python = _installed(place / "one", f"{sdist}[{extra}]")
            _try(python, place, extra, _with_its_own(extra, extras))


def _try(python: Path, place: Path, extra: str, brought: set[str]) -> None:
    _run(python, place, PROBE, *brought)
    names = EXAMPLES[extra]
    if names:
        _run(python, place, SHOW, *(name if "_envs" in name else f"bayes_persona.{name}" for name in names))
    if extra in ("ray", "all"):
        _run(python, place, CLUSTER)
    if extra == "docs":
        command = [python, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", place / "site"]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
        print("the site is built")


def _with_its_own(extra: str, extras: dict[str, list[str]]) -> set[str]:
    """Give an extra and those that it names, which it brings."""
    named = [re.fullmatch(r"bayes-persona\[(.*)\]", line) for line in extras[extra]]
    below = {name for match in named if match for name in match[1].split(",")}
    return {extra}.union(*(_with_its_own(name, extras) for name in below))


def _todays(extras: list[str]) -> str:
    return extras[date.today().toordinal() % len(extras)]


def _installed(folder: Path, what: str) -> Path:
    """Make a bare environment, install into it, and give its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([*_pip(python), "-c", ROOT / "constraints.txt", what], check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True)
    return python


def _pip(python: Path) -> list[str | Path]:
    return [python, "-m", "pip", "install", "-q"]


def _run(python: Path, place: Path, code: str, *words: str) -> None:
    """Run code in an environment, away from the checkout."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([python, "-c", code, *words], check=True, cwd=place, env=own)


def _require_shipped(wheel: Path, sdist: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    missing = {f"bayes_persona/{name}" for name in SHIPPED} - inside
    assert not missing, f"the wheel lacks {missing}"
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/constraints.txt") for name in archive.getnames()), "the sdist lacks constraints.txt"


if __name__ == "__main__":
    main()
