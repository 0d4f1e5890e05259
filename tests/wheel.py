"""Build the wheel, install it with no extras in a bare environment, and import every module that should then work.

A module that needs an extra must say which one, in our own words; that counts as working.
"""

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

PROBE = """
import importlib, pkgutil, bayes_persona
from bayes_persona import MissingExtraError

light, refused = ["bayes_persona"], []
for package, path in (("bayes_persona", bayes_persona.__path__),):
    names = [module.name for module in pkgutil.walk_packages(path, package + ".", onerror=lambda name: None)]
for name in [*names, "bayes_persona_envs"]:
    try:
        importlib.import_module(name)
        light.append(name)
    except MissingExtraError as error:
        assert "pip install 'bayes-persona[" in str(error), error
        refused.append(f"{name} ({error.name})")
hall = "types errors seeds named weights posterior store loop parallel progress bma metrics export cli".split()
missing = [name for name in hall if f"bayes_persona.{name}" not in light]
assert not missing, f"the hall must import with no extras: {missing}"
print(f"{len(light)} modules import with no extras; {len(refused)} say which extra they need:")
print("  " + "\\n  ".join(refused))
"""
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
    """Build, install, import."""
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, root], check=True)
        bare = Path(folder) / "bare"
        venv.create(bare, with_pip=True)
        wheel = next(Path(folder).glob("*.whl"))
        inside = set(zipfile.ZipFile(wheel).namelist())
        missing = {f"bayes_persona/{name}" for name in SHIPPED} - inside
        assert not missing, f"the wheel lacks {missing}"
        python = bare / "bin" / "python"
        install = [python, "-m", "pip", "install", "-q", "-c", root / "constraints.txt", wheel]
        subprocess.run(install, check=True)
        subprocess.run([python, "-c", PROBE], check=True, cwd=folder)
        subprocess.run([bare / "bin" / "bayes-persona", "--help"], check=True, cwd=folder, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
