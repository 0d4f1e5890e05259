"""The demo's page: one static file with its pictures inside, and the numbers beside it as JSON."""

from importlib.resources import files
from pathlib import Path
from string import Template

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bayes_persona.files import save_json, write


def save(folder: Path, parts: dict[str, str], numbers: dict, *, overview: str) -> None:
    """Write `index.html`, `results.json` and `overview.svg`."""
    template = Template((files("bayes_persona.demo") / "assets" / "page.html").read_text())
    save_json(folder / "results.json", numbers)
    write(folder / "overview.svg", overview.encode())
    write(folder / "index.html", template.substitute(parts).encode())


def html_table(columns: tuple[str, ...], rows: dict[str, list[str]], ours: str) -> str:
    """Give a table with one named row a line; the row of our own method stands out."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = ""
    for name, cells in rows.items():
        values = "".join(f"<td>{_small(cell)}</td>" for cell in cells)
        body += f"<tr{' class=ours' if name == ours else ''}><td>{name}</td>{values}</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


def terminal_table(title: str, columns: tuple[str, ...], rows: dict[str, list[str]], ours: str) -> Table:
    """Give the same table for the terminal."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for name, cells in rows.items():
        table.add_row(name, *cells, style="bold blue" if name == ours else None)
    return table


def _small(cell: str) -> str:
    value, plus_minus, width = cell.partition(" ± ")
    return f"{value}<small>{plus_minus}{width}</small>"
