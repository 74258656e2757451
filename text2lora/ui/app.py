"""The page: its layout and the handlers of its buttons. Handlers stream their updates, including error messages."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from text2lora.adapter import LoraAdapter
from text2lora.errors import InvalidInputError, ServerError, Text2LoraError
from text2lora.export import export_zip
from text2lora.names import slug
from text2lora.samples import Samples
from text2lora.ui import render
from text2lora.ui.service import Limits, Made, Service, Turn, snippet

Updates = Iterator[dict[Any, Any]]

STYLE = Path(__file__).with_name("style.css")
SCRIPT = Path(__file__).with_name("page.js")
CLICK_DOWNLOAD = "() => document.getElementById('download-file').click()"
SESSIONS = 200
"""The number of visitors whose adapter is kept; beyond it, whoever has been idle longest must make theirs again."""
PARALLEL = 8
"""The number of handlers that run at the same time; further requests wait in a queue."""
STRENGTHS = (0.0, 2.0)
"""The smallest and the largest adapter scale that the slider offers."""


@dataclass(frozen=True)
class Page:
    """The components that handlers read or change; each visitor has their own `made` and `turns`."""

    blocks: gr.Blocks
    made: gr.State
    turns: gr.State
    checkpoint: gr.Dropdown
    description: gr.Textbox
    descriptions: gr.Dataset
    make: gr.Button
    standing: gr.HTML
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


def build(service: Service) -> gr.Blocks:
    """Build the page for a service."""
    page = lay_out(service)
    with page.blocks:
        connect(page, service)
    return page.blocks


def lay_out(service: Service) -> Page:
    """Create the components, filled in for the first checkpoint so that every button works right away."""
    name, limits = service.names[0], service.limits
    samples = service.engine(name).samples
    parts: dict[str, Any] = {}
    with gr.Blocks(title="text2lora", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        parts |= {"made": gr.State(None), "turns": gr.State(())}
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
                    max_length=limits.description,
                    elem_id="description",
                    elem_classes="t2l-tall",
                )
                parts["make"] = gr.Button("Make the adapter", variant="primary", elem_id="make")
                parts["descriptions"] = _chips(samples.descriptions, "descriptions")
                parts["standing"] = gr.HTML(render.NO_ADAPTER, elem_id="standing")
                parts["scale"] = _strength_slider()
            with gr.Column(scale=7, min_width=300), gr.Tabs():
                with gr.Tab("Chat"):
                    parts |= _chat_tab(samples, limits)
                with gr.Tab("Compare"):
                    parts |= _compare_tab(samples, limits)
                with gr.Tab("Take it with you"):
                    parts |= _take_tab(snippet(name, samples.descriptions[0], 1), service.own_login)
    return Page(blocks, **parts)


def _chat_tab(samples: Samples, limits: Limits) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "talk": gr.HTML(render.NO_TURNS, max_height=560, autoscroll=True, elem_id="talk"),
        "chat_note": _note("chat-note"),
        "message": _input_box(samples, limits, "message"),
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
                max_length=limits.description,
                elem_id=f"wording-{number}",
            )
            for number, text in enumerate(_some(samples.descriptions, limits.descriptions), 1)
        ]
    return {
        "wordings": wordings,
        "compare_message": _input_box(samples, limits, "compare-message"),
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


def _input_box(samples: Samples, limits: Limits, name: str) -> gr.Textbox:
    """A text box in which Enter sends and Shift+Enter starts a new line (Gradio's behaviour when `lines` is 1)."""
    return gr.Textbox(
        samples.inputs[0],
        label="Input",
        info=samples.reads,
        placeholder="Enter sends; Shift+Enter starts a new line.",
        max_lines=8,
        max_length=limits.message,
        elem_id=name,
        elem_classes="t2l-tall",
    )


def _strength_slider() -> gr.Slider:
    """A slider whose number box accepts anything; Gradio's own raises an error while the visitor is still typing."""
    least, most = STRENGTHS
    slider = gr.Slider(
        least, most, 1, step=0.05, label="Strength", info="1 is as trained; 0 is the base model alone.", elem_id="scale"
    )

    def nearest(typed: float | None) -> float:
        return 1.0 if typed is None else min(max(float(typed), least), most)

    slider.preprocess = nearest  # set on the instance: for a subclass, Gradio would write a .pyi file next to this one
    return slider


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


def connect(page: Page, service: Service) -> None:
    """Attach the handlers to the buttons."""
    visitor: list[Any] = [page.checkpoint, page.made, page.scale, page.turns]

    def load(name: str) -> Updates:
        """Load another checkpoint and discard what was made with the previous one."""
        yield {
            page.standing: render.note("busy", f"Loading {name} and its base model"),
            page.made: None,
            page.turns: (),
        }
        samples = service.engine(name).samples
        message = gr.Textbox(samples.inputs[0], info=samples.reads)
        yield {
            page.standing: render.NO_ADAPTER,
            page.talk: render.NO_TURNS,
            page.compared: render.NO_COMPARISON,
            page.chat_note: "",
            page.compare_note: "",
            page.take_note: "",
            page.push_note: "",
            page.description: samples.descriptions[0],
            page.descriptions: gr.Dataset(samples=[[text] for text in samples.descriptions]),
            page.message: message,
            page.messages: gr.Dataset(samples=[[text] for text in samples.inputs]),
            page.compare_message: message,
            page.code: snippet(name, samples.descriptions[0], 1),
            **dict(zip(page.wordings, _some(samples.descriptions, len(page.wordings)))),
        }

    def make(name: str, text: str) -> Updates:
        doing = "Making the adapter" if service.is_loaded(name) else f"Loading {name} and its base model"
        yield {page.standing: render.note("busy", doing), page.made: None}
        found = service.engine(name).make([text])[0]
        yield {page.made: found, page.standing: render.made_card(found), page.chat_note: "", page.take_note: ""}

    def ask(name: str, found: Made | None, scale: float, turns: Sequence[Turn], text: str) -> Updates:
        adapter, engine = _adapter(found, scale), service.engine(name)
        before = tuple(turns[-service.limits.turns :])
        yield {page.chat_note: ""}
        turn = Turn(text)
        for turn in engine.chat(adapter, before, text):
            yield {page.talk: render.chat([*before, turn], running=True), page.turns: (*before, turn)}
        yield {page.talk: render.chat([*before, turn]), page.turns: (*before, turn)}

    def ask_again(name: str, found: Made | None, scale: float, turns: Sequence[Turn], text: str) -> Updates:
        """Answer the last message again with another adapter or strength; without one, answer the text in the box."""
        if found:
            yield from ask(name, found, scale, turns[:-1], turns[-1].message if turns else text)

    def ask_if_made(name: str, found: Made | None, scale: float, turns: Sequence[Turn], text: str) -> Updates:
        if found:
            yield from ask(name, found, scale, turns, text)

    def start_again(name: str, found: Made | None, scale: float, turns: Sequence[Turn], text: str) -> Updates:
        """Answer the last message again as the first of a new conversation, since the new adapter has no history."""
        yield from ask_again(name, found, scale, turns[-1:], text)

    def compare(name: str, text: str, *wordings: str) -> Updates:
        yield {page.compare_note: render.note("busy", "Making the adapters")}
        found = None
        for found in service.engine(name).compare([wording for wording in wordings if wording.strip()], text):
            yield {page.compared: render.comparison(found, running=True), page.compare_note: ""}
        yield {page.compared: render.comparison(found) if found else render.NO_COMPARISON, page.compare_note: ""}

    def pack(found: Made | None, scale: float) -> Updates:
        yield {page.file: None, page.take_note: ""}
        adapter = _adapter(found, scale)
        with tempfile.TemporaryDirectory() as folder:
            name = f"{slug(adapter.metadata['description'])}.zip"
            yield {page.file: str(export_zip(adapter, Path(folder, name)))}

    def push(found: Made | None, scale: float, repo: str, token: str, private: bool) -> Updates:
        yield {page.push_note: render.note("busy", "Pushing"), page.token: ""}
        url = service.push(_adapter(found, scale), repo, token, private)
        yield {page.push_note: render.note("done", "Pushed to", url)}

    def write_code(name: str, found: Made | None, scale: float, text: str) -> str:
        return snippet(name, found.description if found else text, scale)

    def on(
        trigger: Any, handler: Callable[..., Updates], inputs: list[Any], note: Any, changed: list[Any], **more: Any
    ) -> Any:
        """Run a handler when an event fires, and show its errors in `note`. The first of `changed` shows the progress.

        Events that arrive while the handler is running are handled when it has finished; by default Gradio drops them.
        """
        more.setdefault("trigger_mode", "always_last")
        return trigger(
            _reporting(handler, note),
            inputs,
            [*changed, note],
            show_progress="minimal",
            show_progress_on=changed[0] if changed[0] in (page.talk, page.compared) else note,
            api_visibility="private",
            **more,
        )

    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    describe = page.descriptions.click(_text, page.descriptions, page.description, **quick)
    tell = page.messages.click(_text, page.messages, page.message, **quick)

    asking: list[Any] = []
    for trigger, handler in (
        (page.send.click, ask),
        (page.message.submit, ask),
        (tell.then, ask_if_made),
        (page.scale.release, ask_again),
    ):
        inputs = [*visitor, page.message]
        asking.append(on(trigger, handler, inputs, page.chat_note, [page.talk, page.turns], cancels=list(asking)))
    making: list[Any] = []
    for trigger in (page.make.click, page.description.submit, describe.then):
        changed = [page.made, page.chat_note, page.take_note]
        inputs = [page.checkpoint, page.description]
        making.append(on(trigger, make, inputs, page.standing, changed, cancels=[*asking, *making]))
    for made in tuple(making):
        asking.append(on(made.then, start_again, [*visitor, page.message], page.chat_note, [page.talk, page.turns]))
    everything = [page.made, page.turns, page.talk, page.compared, page.code, page.description, page.descriptions]
    everything += [page.message, page.messages, page.compare_message, *page.wordings]
    everything += [page.chat_note, page.compare_note, page.take_note, page.push_note]
    on(
        page.checkpoint.input,
        load,
        [page.checkpoint],
        page.standing,
        everything,
        cancels=[*asking, *making],
    )
    comparing = [page.compare.click, page.compare_message.submit, *(wording.submit for wording in page.wordings)]
    on(
        functools.partial(gr.on, comparing),
        compare,
        [page.checkpoint, page.compare_message, *page.wordings],
        page.compare_note,
        [page.compared],
    )
    once = {"trigger_mode": "once"}  # a second click must not make a second file or push
    packed = on(page.download.click, pack, [page.made, page.scale], page.take_note, [page.file], **once)
    packed.then(None, js=CLICK_DOWNLOAD)
    on(
        page.push.click,
        push,
        [page.made, page.scale, page.repo, page.token, page.private],
        page.push_note,
        [page.token],
        **once,
    )

    for triggers, shown in (
        ([page.make.click, page.description.submit, page.descriptions.click], page.standing),
        ([page.send.click, page.message.submit, page.messages.click], page.talk),
        (comparing, page.compared),
    ):
        gr.on(triggers, None, js=f"() => window.text2loraShow({json.dumps(shown.elem_id)})")

    instant: dict[str, Any] = {**quick, "queue": False}
    emptied = [page.turns, page.talk, page.chat_note]
    # cancel running handlers first: their last update would otherwise overwrite what these show
    page.stop.click(lambda: None, cancels=asking, **instant).then(render.chat, page.turns, page.talk, **instant)
    page.clear.click(lambda: None, cancels=asking, **instant).then(
        lambda: ((), render.NO_TURNS, ""), None, emptied, **instant
    )
    gr.on(
        [page.made.change, page.scale.change, page.description.change],
        write_code,
        [page.checkpoint, page.made, page.scale, page.description],
        page.code,
        **instant,
    )


@contextlib.contextmanager
def running(
    service: Service, host: str = "127.0.0.1", port: int | None = None, share: bool = False, max_queue: int = 32
) -> Iterator[str]:
    """Serve the page while the block runs, and yield its address.

    Args:
        service: The checkpoints that the page offers.
        host: The address to listen on; `0.0.0.0` means all of the machine's addresses.
        port: The port to listen on; None takes the first free one from 7860 up.
        share: Also create a public address through Gradio's servers, valid for at most a week.
        max_queue: The number of requests that may wait; further ones are told to try again later.

    Raises:
        ServerError: the port cannot be opened, or Gradio provides no public address.
    """
    for name in ("NO_PROXY", "no_proxy"):  # Gradio requests its own address to check that it is up
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost,::1")))
    with tempfile.TemporaryDirectory(prefix="text2lora-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # for downloads: private, and deleted at the end
        page = build(service).queue(max_size=max_queue, default_concurrency_limit=PARALLEL, api_open=False)
        try:
            _, local, public = page.launch(
                server_name=host, server_port=port, share=share, quiet=True, prevent_thread_lock=True, **OPTIONS
            )
        except OSError as error:
            where = f"{host}:{port}" if port else f"{host} from port 7860 on"
            raise ServerError(f"the web app cannot listen on {where}: choose another host or port") from error
        try:
            if share and not public:
                raise ServerError("Gradio provides no public address now: leave out --share, or try again later")
            yield public or local
        finally:
            page.close(verbose=False)


OPTIONS: dict[str, Any] = {
    "theme": gr.themes.Soft(
        primary_hue="indigo",
        secondary_hue="teal",
        neutral_hue="slate",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    ).set(
        # text has a contrast of at least 4.5 and input boxes one of 3 (WCAG AA), as the browser tests measure
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        block_title_text_color="*body_text_color_subdued",
        block_title_text_color_dark="*body_text_color_subdued",
        block_label_text_color="*body_text_color_subdued",
        block_label_text_color_dark="*body_text_color_subdued",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_300",
        input_border_color="*neutral_500",
        input_border_color_dark="*neutral_400",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        slider_color="*primary_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
        button_secondary_background_fill_hover="*neutral_200",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_400",
        block_title_background_fill="transparent",
        block_title_padding="0",
        block_title_text_size="*text_sm",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_shadow="none",
        body_background_fill="*neutral_50",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_shadow="none",
        input_border_width="1px",
        input_shadow="none",
        button_border_width="1px",
    ),
    "css_paths": STYLE,
    "js": SCRIPT.read_text(encoding="utf-8"),
    "run_history": False,  # it would store what visitors type
    "footer_links": [],
    "state_session_capacity": SESSIONS,
    "enable_monitoring": False,
    "max_file_size": "1kb",  # nothing is uploaded
    "ssr_mode": False,
    "mcp_server": False,
    "pwa": False,
}


def _text(sample: list[str]) -> str:
    return sample[0]


def _adapter(found: Made | None, scale: float) -> LoraAdapter:
    if found is None:
        raise InvalidInputError("there is no adapter yet: make one first")
    return found.at(scale)


def _some(texts: Sequence[str], count: int) -> list[str]:
    """The first two texts, padded with empty texts to `count`."""
    return [*texts[:2], *[""] * (count - 2)]


def _reporting(handler: Callable[..., Updates], note: Any) -> Callable[..., Updates]:
    """Wrap a handler so that errors are shown at `note` instead of raised."""

    @functools.wraps(handler)
    def run(*inputs: Any) -> Updates:
        try:
            yield from handler(*inputs)
        except Text2LoraError as error:
            yield {note: render.note("error", str(error))}
        except Exception:
            logging.getLogger(__name__).exception("%s failed", handler.__name__)
            yield {note: render.note("error", "Something went wrong on the server; its log has the details.")}

    return run
