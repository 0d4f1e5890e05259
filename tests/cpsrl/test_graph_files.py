import networkx as nx
import numpy as np
import pytest

from bayes_persona.cpsrl import graph, structure
from bayes_persona.cpsrl.graph_files import read, write
from bayes_persona.errors import ConfigError, RunError

BIF = """network "two slices" { property "a { brace" ; }
variable a { type discrete [ 2 ] { off, on }; }  // a comment, with } a brace
variable "b" { type discrete [ 2 ] { off, on }; property position = (1, 2) ; }
variable a' { type discrete [ 2 ] { off, on }; }
/* not
   read */
probability ( a ) { table 0.5, 0.5; }
probability ( a' | a, "b" ) { (off, off) 0.1, 0.9; default 1.0, 0.0; }
"""
GRAPHML = """<?xml version="1.0"?>{0}<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="{1}">
<node id="a"/><node id="a'"/>{2}</graph></graphml>"""


def saved(folder, content, name):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_what_was_learned_is_the_next_prior_to_the_last_digit(spec, tmp_path):
    prior = graph.prior(spec(0), {"a'": ["a"], ("b", "a'"): 0.0}, max_parents=3)
    rng = np.random.default_rng(0)
    x, y = rng.integers(2, size=(20, 5)), rng.integers(2, size=(20, 3))
    learned = structure.edge_marginals(prior, structure.update(prior, structure.init(prior), x, y, 0.5))
    write(tmp_path / "learned.graphml", learned)
    again = read(tmp_path / "learned.graphml")
    assert dict(again.edges) == dict(learned.edges)
    have, want = (graph.prior(spec(0), known, max_parents=3) for known in (again, learned))
    np.testing.assert_array_equal(have.log_prior, want.log_prior)


def test_infinite_odds_survive_the_file(tmp_path):
    write(tmp_path / "a.graphml", nx.DiGraph([("a", "a'", {"odds": float("inf")}), ("b", "a'", {"odds": 0.1})]))
    assert [odds for *_, odds in read(tmp_path / "a.graphml").edges(data="odds")] == [float("inf"), 0.1]


def test_the_edges_of_a_bif_are_its_conditions(spec, tmp_path):
    found = read(saved(tmp_path, BIF, "a.bif"))
    assert set(found.edges) == {("a", "a'"), ("b", "a'")}
    assert set(found.nodes) == {"a", "b", "a'"}
    assert graph.prior(spec(0), found, max_parents=2).members[0].astype(int)[0].tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("( a' | a,", "( a' | c,", r"line 8: 'c' is not a variable that was declared before"),
        ("( a' | a,", '( a\' | "b",', r"line 8: 'b' comes twice"),
        ("( a' | a,", "( a' | a',", r"line 8: \"a'\" comes twice"),
        ("( a )", "( a' )", r"line 8: \"a'\" comes twice"),
        ("( a' | a,", "( a' a,", r"line 8: expected \| or \), got 'a'"),
        ("variable a'", "variable a", "line 4: 'a' comes twice"),
        ("variable a'", "variables a'", "line 4: expected network, variable or probability, got 'variables'"),
        ("0.0; }", "0.0; ", "line 9: a { is never closed"),
        ("( a' |", "( { |", "line 8: expected a name, got '{'"),
        ('"b" )', '"b )', "line 8: cannot read"),
    ],
)
def test_what_is_wrong_with_a_bif_is_said_with_its_line(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        read(saved(tmp_path, BIF.replace(old, new), "a.bif"))


EDGE = '<edge source="a" target="a\'"/>'


def test_a_graphml_file_by_another_program_is_read(tmp_path):
    assert list(read(saved(tmp_path, GRAPHML.format("", "directed", EDGE), "a.graphml")).edges) == [("a", "a'")]


@pytest.mark.parametrize("code", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "entities",
    ['<!ENTITY a "ha"><!ENTITY b "&a;&a;">', '<!ENTITY a SYSTEM "file:///etc/passwd">', ""],
)
def test_a_file_that_could_define_entities_is_refused(tmp_path, entities, code):
    text = GRAPHML.format(f"<!DOCTYPE graphml [{entities}]>", "directed", EDGE).replace(
        '"1.0"', f'"1.0" encoding="{code}"'
    )
    with pytest.raises(ConfigError, match=r"has a document type \(DOCTYPE\), which GraphML does not need"):
        read(saved(tmp_path, text.encode(code), "a.graphml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GRAPHML.format("", "undirected", EDGE), "expected one directed graph without parallel edges"),
        (GRAPHML.format("", "directed", EDGE + EDGE), "expected one directed graph without parallel edges"),
        (GRAPHML.format("", "directed", EDGE)[:-9], r"not valid GraphML \(.*line 2"),
        ("<graphml/>", "not valid GraphML"),
        (GRAPHML.format("", "directed", EDGE.replace("/>", '><data key="k">1</data></edge>')), "not valid GraphML"),
        (b"\x00\x01", "not valid GraphML"),
    ],
)
def test_what_is_wrong_with_a_graphml_file_is_said(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        read(saved(tmp_path, content, "a.graphml"))


def test_files_of_another_sort_or_of_none_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a name that ends in .graphml or .bif"):
        read(tmp_path / "a.pickle")
    with pytest.raises(ConfigError, match=r"expected a name that ends in .graphml"):
        write(tmp_path / "a.bif", nx.DiGraph())
    with pytest.raises(RunError, match="could not be read"):
        read(tmp_path / "a.bif")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read(saved(tmp_path, b"\xff", "a.bif"))
    with pytest.raises(ConfigError, match="attributes must be numbers or text"):
        write(tmp_path / "a.graphml", nx.DiGraph([("a", "a'", {"odds": [1]})]))
    assert not (tmp_path / "a.graphml").exists()
