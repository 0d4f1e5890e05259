"""Laws of the house: floors are kept, importing is light, and every public name has an example that runs."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import bayes_persona_envs
import numpy as np
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

import bayes_persona
from benchmarks.rows import with_numbers

ROOT = Path(__file__).parent.parent
FRAMEWORKS = {
    "torch",
    "jax",
    "numpyro",
    "gymnasium",
    "scipy",
    "sklearn",
    "matplotlib",
    "arviz",
    "xarray",
    "networkx",
    "ray",
}
MODULES = sorted(
    module.name
    for package in (bayes_persona, bayes_persona_envs)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)


def public_names(module):
    """The functions and classes that a module defines, and shows."""
    for name, value in vars(module).items():
        defined_here = getattr(value, "__module__", None) == module.__name__
        if not name.startswith("_") and defined_here and (inspect.isfunction(value) or inspect.isclass(value)):
            yield name, value


def test_every_floor_imports_only_what_is_below_it():
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None) == EXIT_STATUS_SUCCESS


def test_importing_the_package_says_nothing():
    done = subprocess.run([sys.executable, "-W", "error", "-c", "import bayes_persona"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_package_loads_no_framework():
    code = "import sys, bayes_persona, bayes_persona.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not FRAMEWORKS & {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_every_module_allocates_no_array_and_opens_no_device():
    code = (
        "import importlib, gc, jax, torch, peft, pyro\n"  # pyro keeps a tensor of its own, and so
        "from diffusers import StableDiffusionPipeline\n"  # does this, a few
        "def tensors(): return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())\n"
        f"before = tensors()\nfor name in {MODULES}: importlib.import_module(name)\n"
        "print(len(jax.live_arrays()), tensors() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_keeps_no_array_and_no_random_state(name):
    module = importlib.import_module(name)
    kept = [key for key, value in vars(module).items() if isinstance(value, np.ndarray | np.random.Generator)]
    assert kept == []


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_says_what_it_is_and_shows_it(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    # These are programs, and run whole by tests of their own.
    program = ".demo." in name or name.endswith(
        (
            ".cli",
            ".persona.run",
            ".rl.run",
            ".studio.run",
            ".train_base",
            ".train_oracles",
            ".train_restorer",
            ".train_moa",
        )
    )
    finder = doctest.DocTestFinder(recurse=False)
    for public, value in public_names(module):
        assert value.__doc__, f"{name}.{public} has no docstring"
        assert program or any(found.examples for found in finder.find(value, public, module)), (
            f"{name}.{public}: no example"
        )


@pytest.mark.parametrize("path", sorted((ROOT / "bayes_persona").rglob("*.py")), ids=lambda path: path.stem)
def test_a_file_has_one_noun(path):
    assert len(path.read_text().splitlines()) <= 400, f"{path}: look for the second noun"


def test_a_missing_extra_is_an_error_of_ours_that_says_what_to_install():
    code = (
        "import sys\nsys.modules['torch'] = None\n"  # what an absent package looks like to an import
        "from bayes_persona import MissingExtraError\n"
        "try:\n    import bayes_persona.nptl.learner_torch\nexcept MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch is missing; install it with: pip install 'bayes-persona[torch]'"


def test_the_readme_shows_the_rows_that_were_measured():
    readme = (ROOT / "README.md").read_text()
    assert with_numbers(readme) == readme
