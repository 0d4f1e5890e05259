"""Examples of docstrings as blocks of code: what begins with >>> would be a quotation in Markdown."""

import re

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)  # up to an empty line


class Fenced(griffe.Extension):
    """Puts fences around the examples of every docstring."""

    def on_object(self, *, obj, **_):
        """Change one docstring."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(lambda found: f"\n```pycon\n{found[0]}\n```\n", obj.docstring.value)
