"""The page: photos and settings on the left, what was learned on the right. What happens is in `desk`."""

from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

from bayes_persona.diffusion import photos
from bayes_persona.errors import needs_extra
from bayes_persona.persona.config import Config as Personalize
from bayes_persona.studio import desk, panel
from bayes_persona.studio.config import Config
from bayes_persona.world import facts

with needs_extra("studio"):
    import gradio as gr

METHODS = {
    "textual_inversion": "Textual inversion: a new word",
    "celeb_basis": "Celeb Basis: a word among the well-known, from few steps",
    "perfusion": "Perfusion: a gated rank-one edit",
    "low_rank": "DreamBooth-LoRA: low-rank updates",
    "moa": "Mixture-of-Attention: next to no training",
    "lipe": "LIPE: for editing photos; captions say pose and scene",
    "dual_pivot": "Dual-Pivot Tuning: for restoring photos",
}
"""The methods of the command, in a few words each."""
ONE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
"""One thing at a time works on the model, whoever asks."""
LEAD = (
    "Learn somebody from a few photos, with a posterior: every member is one way in which the photos can be read, and "
    "where members part, the photos leave it open. Nothing leaves this machine."
)


def build(config: Config) -> gr.Blocks:
    """Give the page.

    Args:
        config: Of the studio.

    >>> import asyncio
    >>> async def title():  # where no loop runs, Gradio makes some and leaves them open
    ...     return build(Config()).title
    >>> asyncio.run(title())
    'bayes_persona studio'
    """
    usual = _usual()
    with gr.Blocks(title="bayes_persona studio", analytics_enabled=False) as page:
        table = gr.State(desk.Desk())
        gr.HTML(f"<h1>Studio</h1><p>{LEAD}</p>", elem_classes="title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=340):
                asked, buttons = _left(config, usual)
            with gr.Column(scale=9, min_width=480):
                status = gr.HTML(panel.EMPTY, elem_classes="shown", elem_id="status")
                with gr.Tab("Turn and see"):
                    turned, pictures, show = _turning(usual)
                with gr.Tab("Report"):
                    report = gr.HTML('<p class="quiet">The page that the command writes as well.</p>')
                with gr.Tab("Take along"):
                    files, keep, kept = _files()
        prompt, guidance, _, _, gates, *dials = turned
        learn, stop, somebody = buttons
        told = [table, status, pictures, report, files, prompt, guidance, gates, *dials]
        learn.click(partial(desk.learn, config), [table, *asked], told, api_name="learn", show_progress="hidden", **ONE)
        stop.click(desk.stop, table, None, queue=False, api_name="stop")
        if somebody is not None:
            photo, kind, _, _, captions = asked[:5]
            made_up = [table, photo, kind, captions]
            somebody.click(partial(desk.somebody, config), table, made_up, api_name="somebody")
        gr.on([show.click, prompt.submit], desk.see, [table, *turned], [table, pictures], api_name="see", **ONE)
        keep.click(desk.save, [table, *turned], [files, kept], api_name="save", **ONE)
    return page


def _usual() -> Personalize:
    """The command's own settings, where the page begins."""
    return Personalize(photos=Path(), superclass=facts.superclasses()[0])


def _left(config: Config, usual: Personalize) -> tuple[list[Any], tuple[Any, Any, Any]]:
    """Give what is asked, in the order of `desk.Asked`, and the buttons."""
    kinds, embedded = list(facts.superclasses()), config.base is None
    gr.HTML("<h2>1 · Photos</h2>", elem_classes="step")
    files = gr.File(
        label="Photos of one subject", file_count="multiple", file_types=list(photos.SUFFIXES), height=110,
        elem_id="photos",
    )  # fmt: skip
    shown = gr.HTML(elem_classes="shown", elem_id="given")
    files.change(desk.given, files, shown, api_name="given", show_progress="hidden")
    somebody = gr.Button("Take somebody made up", size="sm", elem_id="somebody") if embedded else None
    kind = gr.Dropdown(
        kinds if embedded else [*kinds, "dog", "person"], value=usual.superclass, allow_custom_value=not embedded,
        label="What they are, in the model's words",
    )  # fmt: skip
    gr.HTML("<h2>2 · How to learn</h2>", elem_classes="step")
    known: tuple[str, ...] = get_args(get_type_hints(Personalize)["method"])
    method = gr.Dropdown(
        [(METHODS[name], name) for name in known], value=usual.method,
        label="Method", elem_id="method",
    )  # fmt: skip
    prompts = gr.Textbox(
        "", label="What to show in the report, a line each", lines=2, placeholder="{subject} on the beach",
    )  # fmt: skip
    with gr.Row():
        learn = gr.Button("Learn", variant="primary", elem_id="learn")
        stop = gr.Button("Stop", elem_id="stop")
    with gr.Accordion("More", open=False, elem_id="more"):
        captions = gr.Textbox("", label="What each photo shows, a line a photo", lines=2, max_lines=6)
        particles = _slider(1, 32, usual.particles, "members of the posterior", elem_id="particles")
        steps = _slider(1, 2000, usual.steps, "steps of training", elem_id="steps")
        alpha = _slider(0, 8, float(usual.alpha), "α: photos that the prior is worth", step=0.1)
        held_out = gr.Checkbox(False, label="or choose α by leaving photos out", container=False)
        sampling = _slider(1, 100, usual.sampling, "steps of sampling a picture", elem_id="sampling")
        tune = _slider(0, 60, usual.tune, "generations for tuning guidance and knobs")
        seed = gr.Number(usual.seed, precision=0, minimum=0, label="seed")
    asked = [files, kind, method, prompts, captions, particles, steps, alpha, held_out, sampling, tune, seed]
    return asked, (learn, stop, somebody)


def _turning(usual: Personalize) -> tuple[list[Any], Any, Any]:
    """Give what is turned, in the order that `desk.see` takes it, the pictures, and the button."""
    with gr.Row(equal_height=True):
        prompt = gr.Textbox("{subject}", label="prompt", scale=4, elem_id="prompt")
        count = _slider(1, 8, usual.pictures, "noises")
        seed = gr.Number(0, precision=0, minimum=0, label="their seed", min_width=120)
    with gr.Row(equal_height=True):
        guidance = _slider(0, 15, 3.0, "guidance", step=0.1, elem_id="guidance")
        dials = [_slider(0, 1, 1, "", step=0.01, visible=False, elem_id=f"dial{k}") for k in range(desk.DIALS)]
    gates = gr.CheckboxGroup([], label="open gates", visible=False, elem_id="gates")
    show = gr.Button("Show", variant="primary", elem_id="show")
    pictures = gr.HTML(elem_classes="shown", elem_id="pictures")
    return [prompt, guidance, count, seed, gates, *dials], pictures, show


def _slider(low: float | int, high: float | int, now: float | int, label: str, **more: Any) -> gr.Slider:
    return gr.Slider(low, high, now, label=label, buttons=[], **{"step": 1, **more})


def _files() -> tuple[Any, Any, Any]:
    """Give the files, and the button that makes one more."""
    gr.HTML(
        '<p class="quiet">personalization.safetensors holds every member, soup.safetensors one adapter for all of '
        "them, index.html the report. They lie in the folder of the studio as well.</p>"
    )
    files = gr.File(label="Files", file_count="multiple", interactive=False, elem_id="files")
    keep = gr.Button("Save the knobs as they are turned now", elem_id="keep")
    return files, keep, gr.HTML()
