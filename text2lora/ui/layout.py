"""The components of the page, and where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from text2lora.samples import Samples
from text2lora.ui import render
from text2lora.ui.service import Service, snippet

Updates = Iterator[dict[Any, Any]]


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


class Page:
    """The components of the page, which handlers read or change; each visitor has their own states.

    They are filled in for the first checkpoint, so that every button works right away.
    """

    def __init__(self, service: Service):
        name = service.names[0]
        samples = service.engine(name).samples
        with gr.Blocks(title="text2lora", analytics_enabled=False, delete_cache=(600, 3600)) as self.blocks:
            self.made, self.turns = gr.State(None), gr.State(())
            self.clicks, self.comparisons = gr.State(Clicks()), gr.State(Clicks())
            gr.HTML(render.HEADER)
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    self.checkpoint = gr.Dropdown(
                        service.names, value=name, label="Checkpoint", filterable=False, elem_id="checkpoint"
                    )
                    self._making(samples)
                with gr.Column(scale=7, min_width=300), gr.Tabs():
                    with gr.Tab("Chat"):
                        self._chatting(samples)
                    with gr.Tab("Compare"):
                        self._comparing(samples, service.limits.descriptions)
                    with gr.Tab("Take it with you"):
                        self._taking(snippet(name, samples.descriptions[0], 1), service.own_login)

    def _making(self, samples: Samples) -> None:
        self.description = gr.Textbox(
            samples.descriptions[0],
            label="What should the adapter do?",
            max_lines=8,
            elem_id="description",
            elem_classes="t2l-tall",
        )
        self.make = gr.Button("Make the adapter", variant="primary", elem_id="make")
        self.descriptions = _chips(samples.descriptions, "descriptions")
        with gr.Accordion("Teach it with examples", open=False, elem_id="teach"):
            self.examples = gr.Dataframe(
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
        self.novelty = gr.HTML(render.NO_ADAPTER, elem_id="novelty")
        self.scale = gr.Slider(
            minimum=0,
            maximum=2,
            value=1,
            step=0.05,
            label="Strength",
            info="1 is as trained; 0 is the base model alone.",
            elem_id="scale",
        )

    def _chatting(self, samples: Samples) -> None:
        self.talk = gr.HTML(render.NO_TURNS, max_height=560, autoscroll=True, elem_id="talk")
        self.chat_note = _note("chat-note")
        self.message = _input_box(samples, "message")
        with gr.Row():
            self.send = gr.Button("Send", variant="primary", scale=3, min_width=80, elem_id="send")
            self.stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
            self.clear = gr.Button("Clear", scale=1, min_width=80, elem_id="clear")
        self.messages = _chips(samples.inputs, "messages")

    def _comparing(self, samples: Samples, most: int) -> None:
        with gr.Row(elem_classes="t2l-grid"):
            self.wordings = [
                gr.Textbox(text, label=f"Description {number}", max_lines=4, elem_id=f"wording-{number}")
                for number, text in enumerate(padded(samples.descriptions, most), 1)
            ]
        self.compare_message = _input_box(samples, "compare-message")
        self.compare = gr.Button("Compare", variant="primary", elem_id="compare")
        self.compare_note = _note("compare-note")
        self.compared = gr.HTML(render.NO_COMPARISON, elem_id="compared")

    def _taking(self, code: str, own_login: bool) -> None:
        self.download = gr.Button("Download the adapter as a zip", variant="primary", elem_id="download")
        self.take_note = _note("take-note")
        self.file = gr.DownloadButton(visible="hidden", elem_id="download-file")
        self.code = gr.Code(
            code,
            language=None,  # the colours of syntax highlighting have too little contrast
            label="The same in Python",
            interactive=False,
            wrap_lines=True,
            show_line_numbers=False,
            buttons=["copy"],
            elem_id="code",
        )
        with gr.Accordion("Push it to the Hugging Face Hub", open=True):
            with gr.Row():
                self.repo = gr.Textbox(label="Repository", placeholder="NAME or USER/NAME", elem_id="repo")
                self.token = gr.Textbox(
                    label="Token with write access",
                    type="password",
                    placeholder="leave empty to use this machine's login" if own_login else "hf_…",
                    info="Used for this push, then forgotten.",
                    html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
                    elem_id="token",
                )
            self.private = gr.Checkbox(label="If the repository is new, make it private", elem_id="private")
            self.push = gr.Button("Push", elem_id="push")
            self.push_note = _note("push-note")


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
