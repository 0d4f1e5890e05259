"""The page about the world is made from the world."""

from pathlib import Path

from bayes_persona.world import facts, gallery

PAGE = Path(__file__).parents[2] / "docs" / "world.md"


def test_the_table_in_the_docs_is_made_from_the_data():
    assert gallery.MARKS[0] + gallery.table() + gallery.MARKS[1] in PAGE.read_text(encoding="utf-8")


def test_the_docs_name_every_choice():
    text = PAGE.read_text(encoding="utf-8")
    for attribute in facts.ATTRIBUTES:
        assert f"| {attribute} | {', '.join(facts.choices(attribute))} |" in text
