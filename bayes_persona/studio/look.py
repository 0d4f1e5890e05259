"""How the page looks: plain, like the pages that the commands leave behind, with nothing from another machine."""

from typing import Any

from bayes_persona.errors import needs_extra

with needs_extra("studio"):
    import gradio as gr

FONTS = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")
MONO = ("ui-monospace", "Consolas", "monospace")
CSS = """
:root { --ink: #22262e; --soft: #5d6470; --line: #e2e5ea; --ours: #1f5fbf; }
.gradio-container { max-width: 1380px !important; margin: 0 auto !important; }
.title h1 { font-size: 30px; letter-spacing: -0.01em; margin: 12px 0 2px; }
.title p { color: var(--soft); font-size: 16px; margin: 0 0 8px; max-width: 60em; }
.step h2 { font-size: 18px; margin: 8px 0 0; }
.verdict, .problem { font-size: 17px; padding: 10px 16px; margin: 4px 0; border-left: 3px solid var(--ours); }
.verdict { background: #f4f7fc; } .problem { background: #fdf3f1; border-color: #c0392b; }
.quiet { color: var(--soft); padding: 24px 0; }
.moment p { margin: 4px 0; } .moment span { color: var(--soft); float: right; }
.track { height: 8px; border-radius: 4px; background: var(--line); overflow: hidden; }
.track div { height: 100%; background: var(--ours); transition: width .3s; }
.shown pre { font-size: 12px; color: var(--soft); background: none; border: 0; padding: 6px 0; white-space: pre-wrap; }
.shown h2 { display: none; }
.shown figure { margin: 8px 0; overflow-x: auto; } .shown figure svg { max-width: 100%; height: auto; }
.shown figcaption { color: var(--soft); font-size: 13px; max-width: 60em; }
.report { width: 100%; height: 1100px; border: 1px solid var(--line); border-radius: 6px; background: #fff; }
"""
"""What the theme does not say."""


def theme() -> Any:
    """Give the theme: the letters that the reader's own machine has, blue for ours, little round.

    >>> theme().name
    'base'
    """
    return gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", spacing_size="sm", radius_size="sm", font=FONTS, font_mono=MONO
    )
