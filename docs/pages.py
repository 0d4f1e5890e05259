"""Pages of the site that are made from what is there already: the README, the results, and the API of each room."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
COPIES = {
    "index.md": "README.md",
    "results.md": "benchmarks/RESULTS.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
PLACES = {source: page for page, source in COPIES.items()}


def on_files(files, config):
    """Add the copies, and a page of modules for each room."""
    for page, source in COPIES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    package = ROOT / "bayes_persona"
    rooms = {path.name: path for path in sorted(package.iterdir()) if (path / "__init__.py").exists()}
    for room, path in rooms.items() | {("envs", ROOT / "envs" / "bayes_persona_envs")}:
        if room != "demo":
            files.append(_reference(config, room, sorted(path.rglob("*.py"))))
    files.append(_reference(config, "hall", sorted(package.glob("*.py"))))
    return files


def on_page_markdown(markdown, page, config, files):
    """Lead links that point into the repository to the site's pages; those to other files become their names."""

    def lead(found):
        text, target = found[1], found[2]
        if target.startswith(("http", "#")):
            return found[0]
        path, mark, anchor = target.partition("#")
        place, folder = re.sub(r"^(\.\./)*(docs/)?", "", path), posixpath.dirname(page.file.src_uri)
        for there in (PLACES.get(place, place), posixpath.join(folder, place)):
            if files.get_file_from_path(there):
                return f"[{text}]({posixpath.relpath(there, folder)}{mark}{anchor})"
        return text

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)]+)\)", lead, markdown.replace("](docs/", "]("))


def _reference(config, room, paths):
    modules = [".".join(path.relative_to(_above(path)).with_suffix("").parts) for path in paths]
    names = [name.removesuffix(".__init__") for name in modules]
    shown = [name for name in names if not name.endswith(("__main__", ".py"))]
    text = f"# {room}\n\n" + "\n\n".join(f"::: {name}" for name in sorted(shown))
    return File.generated(config, f"api/{room}.md", content=text)


def _above(path):
    """Give the folder that the path's package is imported from."""
    return ROOT / "envs" if (ROOT / "envs") in path.parents else ROOT
