"""Notebooks hold no output, and their copies on the site are of the notebooks as they are."""

import importlib.util
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbmake is not installed: pip install 'bayes-persona[notebooks]'")
ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COPIES = ROOT / "docs" / "notebooks"


def rendering():
    spec = importlib.util.spec_from_file_location("render", ROOT / "docs" / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_output(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.outputs or cell.execution_count for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_copy_has_every_cell_of_its_notebook(path):
    copy, place = (COPIES / f"{path.stem}.md").read_text(), 0
    for text in rendering().texts(nbformat.read(path, as_version=4)):
        found = copy.find(text, place)
        assert found >= 0, f"the copy lacks this; run make notebooks:\n{text}"
        place = found + len(text)
    assert copy.count("```python\n") == copy.count("\n```python\n")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_and_pictures_of_a_copy_are_there(path):
    links = re.findall(r"\]\(([^)#]+)", (COPIES / f"{path.stem}.md").read_text())
    for link in links:
        assert link.startswith("http") or (COPIES / link).exists(), link


def test_pictures_are_small_and_all_are_shown():
    pictures = sorted(COPIES.rglob("*.png"))
    assert sum(picture.stat().st_size for picture in pictures) < 1_000_000
    assert max(picture.stat().st_size for picture in pictures) < 150_000
    shown = "".join(path.read_text() for path in COPIES.glob("*.md"))
    assert [str(one) for one in pictures if f"({one.parent.name}/{one.name})" not in shown] == []
