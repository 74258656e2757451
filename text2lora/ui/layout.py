"""The components of the page, and where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from text2lora.samples import Samples
from text2lora.ui import render
from text2lora.ui.service import Limits, Service, snippet

Updates = Iterator[dict[Any, Any]]
STRENGTHS = (0.0, 2.0)
"""The smallest and the largest adapter scale that the slider offers."""


class Clicks:
    """How often a visitor has asked for something."""

    def __init__(self) -> None:
        self.count, self.makes = 0, 0

    def latest(self, updates: Updates, makes: bool = False) -> Updates:
        """The updates that answer a click, until the visitor's next one.

        Args:
            updates: what the click changes on the page.
            makes: whether it makes an adapter or loads a checkpoint. Only another such click ends these updates: the
                answer that follows on making one adapter may begin after the click that makes the next one.
        """
        self.count, self.makes = self.count + 1, self.makes + makes
        number, made = self.count, self.makes
        for update in updates:
            if (made != self.makes) if makes else (number != self.count):
                return
            yield update


@dataclass(frozen=True)
class Page:
    """The components that handlers read or change; each visitor has their own states."""

    blocks: gr.Blocks
    made: gr.State
    turns: gr.State
    clicks: gr.State
    comparisons: gr.State
    checkpoint: gr.Dropdown
    description: gr.Textbox
    descriptions: gr.Dataset
    examples: gr.Dataframe
    make: gr.Button
    novelty: gr.HTML
    scale: gr.Slider
    talk: gr.HTML
    chat_note: gr.HTML
    message: gr.Textbox
    messages: gr.Dataset
    send: gr.Button
    stop: gr.Button
    clear: gr.Button
    wordings: list[gr.Textbox]
    compare_message: gr.Textbox
    compare: gr.Button
    compare_note: gr.HTML
    compared: gr.HTML
    download: gr.Button
    take_note: gr.HTML
    file: gr.DownloadButton
    code: gr.Code
    repo: gr.Textbox
    token: gr.Textbox
    private: gr.Checkbox
    push: gr.Button
    push_note: gr.HTML


def lay_out(service: Service) -> Page:
    """Create the components, filled in for the first checkpoint so that every button works right away."""
    name, limits = service.names[0], service.limits
    samples = service.engine(name).samples
    parts: dict[str, Any] = {}
    with gr.Blocks(title="text2lora", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        parts |= {"made": gr.State(None), "turns": gr.State(())}
        parts |= {"clicks": gr.State(Clicks()), "comparisons": gr.State(Clicks())}
        gr.HTML(render.HEADER)
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                parts["checkpoint"] = gr.Dropdown(
                    service.names, value=name, label="Checkpoint", filterable=False, elem_id="checkpoint"
                )
                parts["description"] = gr.Textbox(
                    samples.descriptions[0],
                    label="What should the adapter do?",
                    max_lines=8,
                    elem_id="description",
                    elem_classes="t2l-tall",
                )
                parts["make"] = gr.Button("Make the adapter", variant="primary", elem_id="make")
                parts["descriptions"] = _chips(samples.descriptions, "descriptions")
                with gr.Accordion("Teach it with examples", open=False, elem_id="teach"):
                    parts["examples"] = _examples_table()
                parts["novelty"] = gr.HTML(render.NO_ADAPTER, elem_id="novelty")
                parts["scale"] = gr.Slider(
                    *STRENGTHS,
                    value=1,
                    step=0.05,
                    label="Strength",
                    info="1 is as trained; 0 is the base model alone.",
                    elem_id="scale",
                )
            with gr.Column(scale=7, min_width=300), gr.Tabs():
                with gr.Tab("Chat"):
                    parts |= _chat_tab(samples)
                with gr.Tab("Compare"):
                    parts |= _compare_tab(samples, limits)
                with gr.Tab("Take it with you"):
                    parts |= _take_tab(snippet(name, samples.descriptions[0], 1), service.own_login)
    return Page(blocks, **parts)


def _examples_table() -> gr.Dataframe:
    return gr.Dataframe(
        [["", ""]] * 4,
        headers=["Input", "Right answer"],
        datatype="str",
        type="array",
        column_count=(2, "fixed"),
        interactive=True,
        wrap=True,
        column_widths=["60%", "40%"],
        buttons=[],
        show_label=False,
        elem_id="examples",
    )


def _chat_tab(samples: Samples) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "talk": gr.HTML(render.NO_TURNS, max_height=560, autoscroll=True, elem_id="talk"),
        "chat_note": _note("chat-note"),
        "message": _input_box(samples, "message"),
    }
    with gr.Row():
        parts["send"] = gr.Button("Send", variant="primary", scale=3, min_width=80, elem_id="send")
        parts["stop"] = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
        parts["clear"] = gr.Button("Clear", scale=1, min_width=80, elem_id="clear")
    parts["messages"] = _chips(samples.inputs, "messages")
    return parts


def _compare_tab(samples: Samples, limits: Limits) -> dict[str, Any]:
    with gr.Row(elem_classes="t2l-grid"):
        wordings = [
            gr.Textbox(
                text,
                label=f"Description {number}",
                max_lines=4,
                elem_id=f"wording-{number}",
            )
            for number, text in enumerate(padded(samples.descriptions, limits.descriptions), 1)
        ]
    return {
        "wordings": wordings,
        "compare_message": _input_box(samples, "compare-message"),
        "compare": gr.Button("Compare", variant="primary", elem_id="compare"),
        "compare_note": _note("compare-note"),
        "compared": gr.HTML(render.NO_COMPARISON, elem_id="compared"),
    }


def _take_tab(code: str, own_login: bool) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "download": gr.Button("Download the adapter as a zip", variant="primary", elem_id="download"),
        "take_note": _note("take-note"),
        "file": gr.DownloadButton(visible="hidden", elem_id="download-file"),
        "code": gr.Code(
            code,
            language=None,  # the colours of syntax highlighting have too little contrast
            label="The same in Python",
            interactive=False,
            wrap_lines=True,
            show_line_numbers=False,
            buttons=["copy"],
            elem_id="code",
        ),
    }
    with gr.Accordion("Push it to the Hugging Face Hub", open=True):
        with gr.Row():
            parts["repo"] = gr.Textbox(label="Repository", placeholder="NAME or USER/NAME", elem_id="repo")
            parts["token"] = gr.Textbox(
                label="Token with write access",
                type="password",
                placeholder="leave empty to use this machine's login" if own_login else "hf_…",
                info="Used for this push, then forgotten.",
                html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
                elem_id="token",
            )
        parts["private"] = gr.Checkbox(label="If the repository is new, make it private", elem_id="private")
        parts["push"] = gr.Button("Push", elem_id="push")
        parts["push_note"] = _note("push-note")
    return parts


def _input_box(samples: Samples, name: str) -> gr.Textbox:
    """A text box in which Enter sends and Shift+Enter starts a new line (Gradio's behaviour when `lines` is 1)."""
    return gr.Textbox(
        samples.inputs[0],
        label="Input",
        info=about_inputs(samples),
        placeholder="Enter sends; Shift+Enter starts a new line.",
        max_lines=8,
        elem_id=name,
        elem_classes="t2l-tall",
    )


def _note(name: str) -> gr.HTML:
    return gr.HTML(elem_id=name, elem_classes="t2l-notes")


def _chips(texts: Sequence[str], name: str) -> gr.Dataset:
    return gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=[[text] for text in texts],
        label="Examples",
        layout="gallery",
        elem_id=name,
        elem_classes="t2l-chips",
    )


def about_inputs(samples: Samples) -> str:
    """What an input may be, and what to know of the answers of the base alone."""
    return f"{samples.reads} {samples.note}".strip()


def padded(texts: Sequence[str], count: int) -> list[str]:
    """The first two texts, padded with empty texts to `count`."""
    return [*texts[:2], *[""] * (count - 2)]
