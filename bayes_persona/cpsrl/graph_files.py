"""Causal graphs in files: GraphML, which keeps probabilities, and the structure of BIF, which has none.

A graph read from a file goes into `graph.prior`, which checks it against the variables of a world. So the file names
inputs as the world does, and outputs with a prime: `row -> row'`.

A file may come from anywhere. GraphML is XML, whose entities can make a small file fill the memory or read others:
a file with a document type, the only place where entities are defined, is refused before any is looked at.
"""

import io
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from xml.etree.ElementTree import ParseError
from xml.parsers import expat

import networkx as nx

from bayes_persona import files
from bayes_persona.errors import ConfigError, RunError

TOKENS = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)|(?P<text>"[^"\n]*")|(?P<word>[^\s{}()\[\]|,;"]+)|(?P<mark>[{}()\[\]|,;])""",
    re.DOTALL,
)


def read(path: str | Path) -> nx.DiGraph:
    """Read a graph from a file whose name ends in `.graphml` or `.bif`.

    Of a BIF file only the structure is read: who is conditioned on whom. All its edges are certain.

    Raises:
        ConfigError: If the file is of another sort, or is not what its name says; the message says where.
        RunError: If the file cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "lamp.bif"
    >>> _ = path.write_text('''network lamp {}
    ... variable switch { type discrete [ 2 ] { off, on }; }
    ... variable lamp' { type discrete [ 2 ] { off, on }; }
    ... probability ( lamp' | switch ) { (off) 1, 0; (on) 0, 1; }''')
    >>> list(read(path).edges)
    [('switch', "lamp'")]
    """
    path = Path(path)
    readers = {".graphml": _graphml, ".bif": _bif}
    if path.suffix.lower() not in readers:
        raise ConfigError(f"{path}: expected a name that ends in {' or '.join(readers)}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: could not be read ({error.strerror}); check the path and its permissions") from error
    return readers[path.suffix.lower()](path, content)


def write(path: str | Path, graph: nx.DiGraph) -> None:
    """Write a graph to a GraphML file, whole or not at all; `read` gives back the same numbers to the last digit.

    Raises:
        ConfigError: If the name does not end in `.graphml`, or an attribute is no number or text.
        RunError: If the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "lamp.graphml"
    >>> write(path, nx.DiGraph([("switch", "lamp'", {"probability": 0.9})]))
    >>> read(path).edges["switch", "lamp'"]
    {'probability': 0.9}
    """
    if Path(path).suffix.lower() != ".graphml":
        raise ConfigError(f"{path}: expected a name that ends in .graphml")
    content = io.BytesIO()
    try:
        nx.write_graphml_xml(graph, content)
    except nx.NetworkXError as error:
        raise ConfigError(f"{path}: {error}; attributes must be numbers or text") from error
    files.write(path, content.getvalue())


def _graphml(path: Path, content: bytes) -> nx.DiGraph:
    def refuse(*_) -> None:
        raise ConfigError(f"{path}: has a document type (DOCTYPE), which GraphML does not need; take it away")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
        graph = nx.read_graphml(io.BytesIO(content))
    # networkx meets the unexpected in many ways: a wrong type is a KeyError, a wrong number a ValueError, an unknown
    # encoding a LookupError
    except (expat.ExpatError, ParseError, nx.NetworkXError, LookupError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not valid GraphML ({error})") from error
    if not graph.is_directed() or graph.is_multigraph():
        raise ConfigError(f"{path}: expected one directed graph without parallel edges")
    edges = [(cause, effect, said) for cause, effect, said in graph.edges(data=True)]
    # new, because networkx keeps ids and default attributes that are nobody's belief
    plain = nx.DiGraph()
    plain.add_nodes_from(graph.nodes)
    plain.add_edges_from((cause, effect, {k: v for k, v in said.items() if k != "id"}) for cause, effect, said in edges)
    return plain


def _bif(path: Path, content: bytes) -> nx.DiGraph:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid BIF (byte {error.start} is not UTF-8)") from error
    tokens = _Tokens(path, text)
    graph, families = nx.DiGraph(), {}
    for kind in iter(tokens.next, None):
        if kind == "network":
            tokens.next()
        elif kind == "variable":
            graph.add_node(tokens.new_name(graph))
        elif kind == "probability":
            child, parents = _family(tokens, graph, families)
            families[child] = parents
            graph.add_edges_from((parent, child) for parent in parents)
        else:
            raise tokens.wrong(f"expected network, variable or probability, got {kind!r}")
        tokens.skip_block()
    return graph


def _family(tokens: "_Tokens", declared: nx.DiGraph, given: Mapping[str, list[str]]) -> tuple[str, list[str]]:
    """Read `( child | parent, parent )`."""
    tokens.expect("(")
    child, parents = tokens.new_name(given), []
    mark = tokens.expect("|", ")")
    while mark != ")":
        parents.append(tokens.new_name({child, *parents}))
        mark = tokens.expect(",", ")")
    for name in (child, *parents):
        if name not in declared:
            raise tokens.wrong(f"{name!r} is not a variable that was declared before")
    return child, parents


class _Tokens:
    """The words and marks of a BIF file, and the line that each is on."""

    def __init__(self, path: Path, text: str):
        self.path, self.line, self.rest = path, 1, self._split(text)

    def _split(self, text: str) -> Iterator[tuple[str, bool]]:
        place = 0
        while place < len(text):
            found = TOKENS.match(text, place)
            if found is None:
                raise self.wrong(f"cannot read {text[place : place + 20]!r}")
            if found.lastgroup != "space":
                yield found[0].strip('"'), found.lastgroup != "mark"
            self.line += found[0].count("\n")
            place = found.end()

    def wrong(self, what: str) -> ConfigError:
        return ConfigError(f"{self.path}: not valid BIF (line {self.line}: {what})")

    def next(self) -> str | None:
        return next(self.rest, (None, False))[0]

    def new_name(self, old: Container[str]) -> str:
        token, is_name = next(self.rest, ("", False))
        if not is_name or not token:
            raise self.wrong(f"expected a name, got {token or 'the end of the file'!r}")
        if token in old:
            raise self.wrong(f"{token!r} comes twice")
        return token

    def expect(self, *marks: str) -> str:
        token, is_name = next(self.rest, ("", False))
        if is_name or token not in marks:
            raise self.wrong(f"expected {' or '.join(marks)}, got {token or 'the end of the file'!r}")
        return token

    def skip_block(self) -> None:
        """Pass over { … }, with the blocks in it."""
        self.expect("{")
        depth = 1
        for token, is_name in self.rest:
            depth += 0 if is_name else (token == "{") - (token == "}")
            if depth == 0:
                return
        raise self.wrong("a { is never closed")
