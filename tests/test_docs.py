"""The pages keep their word: examples run, imports are there, links lead somewhere, and the site builds."""

import ast
import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.stable_diffusion import with_table

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = [page for page in PAGES if ">>> " in page.read_text()]
PLAIN = [page for page in PAGES if any(">>> " not in block for block in BLOCK.findall(page.read_text()))]
WHOLE = {"world.md", "security.md"}
"""Pages whose blocks need nothing that the reader has: photos, a large model, weights to download."""


@pytest.mark.filterwarnings("ignore")  # of diffusers, of what its own loaders find in files
@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_and_give_what_it_says(page):
    # in a process of its own, because functions whose every call is type-checked, as here, cannot travel to workers
    flags = "doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE"
    script = f"import doctest, sys; sys.exit(doctest.testfile(sys.argv[1], False, optionflags={flags}).failed)"
    found = subprocess.run([sys.executable, "-c", script, str(page)], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("page", PLAIN, ids=lambda page: page.stem)
def test_code_that_needs_the_readers_own_things_imports_what_there_is(page, capsys):
    blocks = [block for block in BLOCK.findall(page.read_text()) if ">>> " not in block]
    trees = [ast.parse(block) for block in blocks]
    if page.name not in WHOLE:
        for tree in trees:
            tree.body = [line for line in tree.body if isinstance(line, ast.Import | ast.ImportFrom)]
    names: dict = {}
    for tree in trees:
        exec(compile(tree, page.name, "exec"), names)
    imported = [line for tree in trees for line in tree.body if isinstance(line, ast.Import | ast.ImportFrom)]
    wanted = [(name.asname or name.name).partition(".")[0] for line in imported for name in line.names]
    assert [name for name in wanted if names.get(name) is None] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    for link in links:
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings", reason="mkdocs is not installed: pip install 'bayes-persona[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "locked" in (tmp_path / "site" / "api" / "hall" / "index.html").read_text()


def test_the_examples_of_pages_are_right_in_types(tmp_path):
    parser = doctest.DocTestParser()
    for page in (ROOT / "README.md", *PAGES):
        text = page.read_text()
        runs = "".join(example.source for example in parser.get_examples(text))
        # what needs the reader's own things has names for them that are not said
        reads = "".join(block for block in BLOCK.findall(text) if ">>> " not in block)
        (tmp_path / f"{page.stem}_runs.py").write_text(runs)
        (tmp_path / f"{page.stem}_reads.py").write_text(f"# pyright: reportUndefinedVariable=false\n{reads}")
    settings = {"typeCheckingMode": "standard", "reportPrivateImportUsage": False, "reportUnusedExpression": False}
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({**settings, "extraPaths": [str(ROOT), str(ROOT / "envs")]})
    )
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--project", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_page_of_stable_diffusion_shows_the_rows_that_were_measured():
    page = (ROOT / "docs" / "stable_diffusion.md").read_text()
    assert with_table(page) == page


def test_every_page_is_in_the_sites_contents():
    contents = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in PAGES if f": {page.name}\n" not in contents] == []


def test_every_number_that_training_and_learning_log_is_explained():
    said = (ROOT / "docs" / "numbers.md").read_text()
    from bayes_persona.cpsrl.episode import LOG

    assert [name for name in (*LOG, "loss", "gradient", "rate", "utility", "setting") if f"`{name}`" not in said] == []


def test_doctests_are_found():
    assert sum(len(doctest.DocTestParser().get_examples(page.read_text())) for page in EXAMPLES) > 80
