"""The web app: connects the page to its handlers, and serves it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from text2lora.errors import ServerError
from text2lora.ui import render
from text2lora.ui.handlers import Handlers, reporting
from text2lora.ui.layout import Page, Updates
from text2lora.ui.service import Service

STYLE = Path(__file__).with_name("style.css")
THEME = Path(__file__).with_name("theme.json")
"""Text has a contrast of at least 4.5 and input boxes one of 3 (WCAG AA), as the browser tests measure."""
SCRIPT = Path(__file__).with_name("page.js")
CLICK_DOWNLOAD = "() => document.getElementById('download-file').click()"
SESSIONS = 200
"""The number of visitors whose adapter is kept; beyond it, whoever has been idle longest must make theirs again."""
PARALLEL = 8
"""The number of handlers that run at the same time; further requests wait in a queue."""
QUICK: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build(service: Service) -> gr.Blocks:
    """Build the page for a service."""
    page = Page(service)
    with page.blocks:
        wiring = _Wiring(page, service)
        wiring.scrolling()
        wiring.answering()
        wiring.making()
        wiring.loading()
        wiring.comparing()
        wiring.taking()
        wiring.instant()
    return page.blocks


class _Wiring:
    """Attaches the handlers to the components of a page."""

    def __init__(self, page: Page, service: Service):
        self._page, self._handlers = page, Handlers(page, service)
        self._visitor: list[Any] = [page.checkpoint, page.made, page.scale, page.turns, page.message, page.clicks]
        self._asking: list[Any] = []  # events that answer a message, which stopping and clearing cancel
        self._comparing = [page.compare.click, page.compare_message.submit]
        self._comparing += [wording.submit for wording in page.wordings]
        self._description_chosen = page.descriptions.click(_text, page.descriptions, page.description, **QUICK)
        self._message_chosen = page.messages.click(_text, page.messages, page.message, **QUICK)

    def answering(self) -> None:
        """Answer a message that is sent, and the last one again when the strength changes."""
        page, handlers = self._page, self._handlers
        for trigger, handler in (
            (page.send.click, handlers.ask),
            (page.message.submit, handlers.ask),
            (self._message_chosen.then, handlers.ask_if_made),
            (page.scale.release, handlers.ask_again),
        ):
            self._answer(trigger, handler)

    def making(self) -> None:
        """Make an adapter, and then answer the last message with it."""
        page, handlers = self._page, self._handlers
        inputs = [page.checkpoint, page.description, page.examples, page.clicks]
        changed = [page.made, page.scale, page.chat_note, page.take_note]
        for trigger in (page.make.click, page.description.submit, self._description_chosen.then):
            made = self._on(trigger, handlers.make, inputs, page.novelty, changed)
            self._answer(made.then, handlers.start_again)

    def _answer(self, trigger: Any, handler: Callable[..., Updates]) -> None:
        """Answer a message at once when an event fires; the handler ends the answer that is being written."""
        page = self._page
        changed, mode = [page.talk, page.turns], "multiple"
        self._asking.append(self._on(trigger, handler, self._visitor, page.chat_note, changed, trigger_mode=mode))

    def loading(self) -> None:
        """Load another checkpoint, which fills the page anew."""
        page = self._page
        filled = [page.made, page.turns, page.talk, page.compared, page.code, page.description, page.descriptions]
        filled += [page.scale, page.message, page.messages, page.compare_message, *page.wordings]
        filled += [page.chat_note, page.compare_note, page.take_note, page.push_note]
        self._on(page.checkpoint.input, self._handlers.load, [page.checkpoint, page.clicks], page.novelty, filled)

    def comparing(self) -> None:
        """Compare wordings."""
        page, trigger = self._page, functools.partial(gr.on, self._comparing)
        inputs = [page.comparisons, page.checkpoint, page.compare_message, *page.wordings]
        changed, mode = [page.compared], "multiple"
        self._on(trigger, self._handlers.compare, inputs, page.compare_note, changed, trigger_mode=mode)

    def taking(self) -> None:
        """Download and push the adapter. A second click must not make a second file or push."""
        page, handlers, made = self._page, self._handlers, [self._page.made, self._page.scale]
        trigger = page.download.click
        packed = self._on(trigger, handlers.pack, made, page.take_note, [page.file], trigger_mode="once")
        packed.then(None, js=CLICK_DOWNLOAD)
        trigger, inputs = page.push.click, [*made, page.repo, page.token, page.private]
        self._on(trigger, handlers.push, inputs, page.push_note, [page.token], trigger_mode="once")

    def scrolling(self) -> None:
        """Bring into view what a click changes: before all else, since the browser runs what a click starts in turn."""
        page = self._page
        for triggers, shown in (
            ([page.make.click, page.description.submit, page.descriptions.click], page.novelty),
            ([page.send.click, page.message.submit, page.messages.click], page.talk),
            (self._comparing, page.compared),
        ):
            gr.on(triggers, None, js=f"() => window.text2loraShow({json.dumps(shown.elem_id)})")

    def instant(self) -> None:
        """Stop an answer, clear the conversation and update the code without waiting in the queue.

        Handlers that are running are cancelled first, since their last update would otherwise overwrite these.
        """
        page, instant = self._page, {**QUICK, "queue": False}
        cancel: dict[str, Any] = {"cancels": self._asking, **instant}
        page.stop.click(lambda: None, **cancel).then(render.chat, page.turns, page.talk, **instant)
        emptied = [page.turns, page.talk, page.chat_note]
        page.clear.click(lambda: None, **cancel).then(lambda: ((), render.NO_TURNS, ""), None, emptied, **instant)
        changes = [page.made.change, page.scale.change, page.description.change]
        inputs = [page.checkpoint, page.made, page.scale, page.description]
        gr.on(changes, self._handlers.write_code, inputs, page.code, **instant)

    def _on(
        self,
        trigger: Any,
        handler: Callable[..., Updates],
        inputs: list[Any],
        note: Any,
        changed: list[Any],
        **more: Any,
    ) -> Any:
        """Run a handler when an event fires, and show its errors in `note`. The first of `changed` shows the progress.

        Events that arrive while the handler is running are handled when it has finished; by default Gradio drops them.
        """
        more.setdefault("trigger_mode", "always_last")
        return trigger(
            reporting(handler, note),
            inputs,
            [*changed, note],
            show_progress="minimal",
            show_progress_on=changed[0] if changed[0] in (self._page.talk, self._page.compared) else note,
            api_visibility="private",
            **more,
        )


def _text(sample: list[str]) -> str:
    return sample[0]


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
    ).set(**json.loads(THEME.read_text(encoding="utf-8"))),
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
