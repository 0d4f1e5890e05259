"""Copies of the notebooks with what they give, for the site: `python docs/render.py [NAME …]`, or `make notebooks`.

A notebook itself holds no output. Its copy is docs/notebooks/NAME.md, its pictures in a folder beside it; a test
compares texts and code, so that a copy cannot stay behind its notebook unnoticed.
"""

import base64
import io
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

DOCS = Path(__file__).parent
NOTEBOOKS, COPIES = DOCS.parent / "notebooks", DOCS / "notebooks"
COLOURS = 256
"""Of a picture: enough for drawings, and a third of the bytes."""


def texts(notebook):
    """Give what a copy must hold of a notebook, cell by cell, as the copy holds it."""
    return [_text(cell.source) if cell.cell_type == "markdown" else _code(cell.source) for cell in notebook.cells]


def render(path):
    """Run a notebook, and write its copy and its pictures."""
    notebook = nbformat.read(path, as_version=4)
    pieces = texts(notebook)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(path.parent)}}).execute()
    folder = COPIES / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    lines, pictures = [], 0
    for piece, cell in zip(pieces, notebook.cells, strict=True):
        lines.append(piece)
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                lines.append(f"```text\n{output.text.rstrip()}\n```")
            elif "image/png" in output.get("data", {}):
                pictures += 1
                _small(base64.b64decode(output.data["image/png"]), folder / f"{pictures}.png")
                lines.append(f"![Picture {pictures}]({path.stem}/{pictures}.png)")
    (COPIES / f"{path.stem}.md").write_text("\n\n".join(lines) + "\n")


def _text(source):
    """Lead links from where the copy lies: to other copies, and one folder further up."""
    source = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source)
    return re.sub(r"\]\(\.\./(docs/)?", lambda found: "](../" if found[1] else "](../../", source)


def _code(source):
    return f"```python\n{source}\n```"


def _small(png, path):
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    for name in names:
        render(NOTEBOOKS / f"{name}.ipynb")
