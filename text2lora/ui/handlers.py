"""What happens when a visitor clicks: handlers that stream updates of the page, including error messages."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from text2lora.adapter import LoraAdapter
from text2lora.errors import InvalidInputError, Text2LoraError
from text2lora.export import export_zip
from text2lora.names import slug
from text2lora.ui import render
from text2lora.ui.layout import Page, padded
from text2lora.ui.service import Exchange, Service, VisitorAdapter, snippet

Updates = Iterator[dict[Any, Any]]


class Handlers:
    """The handlers of a page. Each visitor passes their own adapter and conversation.

    Args:
        page: The components that the handlers change.
        service: Makes adapters and answers messages.
    """

    def __init__(self, page: Page, service: Service):
        self.page, self.service = page, service

    def load(self, name: str) -> Updates:
        """Load another checkpoint and discard what was made with the previous one."""
        yield {
            self.page.novelty: render.note("busy", f"Loading {name} and its base model"),
            self.page.made: None,
            self.page.turns: (),
        }
        samples = self.service.engine(name).samples
        message = gr.Textbox(samples.inputs[0], info=samples.reads)
        yield {
            self.page.novelty: render.NO_ADAPTER,
            self.page.talk: render.NO_TURNS,
            self.page.compared: render.NO_COMPARISON,
            self.page.chat_note: "",
            self.page.compare_note: "",
            self.page.take_note: "",
            self.page.push_note: "",
            self.page.description: samples.descriptions[0],
            self.page.descriptions: gr.Dataset(samples=[[text] for text in samples.descriptions]),
            self.page.message: message,
            self.page.messages: gr.Dataset(samples=[[text] for text in samples.inputs]),
            self.page.compare_message: message,
            self.page.code: snippet(name, samples.descriptions[0], 1),
            **dict(zip(self.page.wordings, padded(samples.descriptions, len(self.page.wordings)))),
        }

    def make(self, name: str, text: str, examples: Sequence[Sequence[str]]) -> Updates:
        """Make an adapter, and load its checkpoint first if necessary. Empty rows of the examples are left out."""
        pairs = [(given, answer) for given, answer in examples if given.strip() or answer.strip()]
        doing = f"Learning from {len(pairs)} example{'s' * (len(pairs) > 1)}" if pairs else "Making the adapter"
        doing = doing if self.service.is_loaded(name) else f"Loading {name} and its base model"
        yield {self.page.novelty: render.note("busy", doing), self.page.made: None}
        found = self.service.engine(name).make([text], [pairs])[0]
        yield {
            self.page.made: found,
            self.page.novelty: render.made_card(found),
            self.page.chat_note: "",
            self.page.take_note: "",
        }

    def ask(
        self, name: str, found: VisitorAdapter | None, scale: float, turns: Sequence[Exchange], text: str
    ) -> Updates:
        """Answer a message as the next one of the conversation."""
        adapter, engine = _adapter(found, scale), self.service.engine(name)
        before = tuple(turns[-self.service.limits.turns :])
        yield {self.page.chat_note: ""}
        turn = Exchange(text)
        for turn in engine.chat(adapter, before, text):
            yield {self.page.talk: render.chat([*before, turn], running=True), self.page.turns: (*before, turn)}
        yield {self.page.talk: render.chat([*before, turn]), self.page.turns: (*before, turn)}

    def ask_again(
        self, name: str, found: VisitorAdapter | None, scale: float, turns: Sequence[Exchange], text: str
    ) -> Updates:
        """Answer the last message again with another adapter or strength; without one, answer the text in the box."""
        if found:
            yield from self.ask(name, found, scale, turns[:-1], turns[-1].message if turns else text)

    def ask_if_made(
        self, name: str, found: VisitorAdapter | None, scale: float, turns: Sequence[Exchange], text: str
    ) -> Updates:
        """Answer a message if there is an adapter."""
        if found:
            yield from self.ask(name, found, scale, turns, text)

    def start_again(
        self, name: str, found: VisitorAdapter | None, scale: float, turns: Sequence[Exchange], text: str
    ) -> Updates:
        """Answer the last message again as the first of a new conversation, since the new adapter has no history."""
        yield from self.ask_again(name, found, scale, turns[-1:], text)

    def compare(self, name: str, text: str, *wordings: str) -> Updates:
        """Answer a message under several wordings of a description, side by side."""
        yield {self.page.compare_note: render.note("busy", "Making the adapters")}
        found = None
        for found in self.service.engine(name).compare([wording for wording in wordings if wording.strip()], text):
            yield {self.page.compared: render.comparison(found, running=True), self.page.compare_note: ""}
        yield {
            self.page.compared: render.comparison(found) if found else render.NO_COMPARISON,
            self.page.compare_note: "",
        }

    def pack(self, found: VisitorAdapter | None, scale: float) -> Updates:
        """Write the adapter into a zip file to download."""
        yield {self.page.file: None, self.page.take_note: ""}
        adapter = _adapter(found, scale)
        with tempfile.TemporaryDirectory() as folder:
            name = f"{slug(adapter.metadata['description'])}.zip"
            yield {self.page.file: str(export_zip(adapter, Path(folder, name)))}

    def push(self, found: VisitorAdapter | None, scale: float, repo: str, token: str, private: bool) -> Updates:
        """Push the adapter to the Hub."""
        yield {self.page.push_note: render.note("busy", "Pushing"), self.page.token: ""}
        url = self.service.push(_adapter(found, scale), repo, token, private)
        yield {self.page.push_note: render.note("done", "Pushed to", url)}

    def write_code(self, name: str, found: VisitorAdapter | None, scale: float, text: str) -> str:
        """Write the Python code that makes the same adapter."""
        return snippet(name, found.description, scale, found.examples) if found else snippet(name, text, scale)


def _adapter(found: VisitorAdapter | None, scale: float) -> LoraAdapter:
    if found is None:
        raise InvalidInputError("there is no adapter yet: make one first")
    return found.at(scale)


def reporting(handler: Callable[..., Updates], note: Any) -> Callable[..., Updates]:
    """Wrap a handler so that errors are shown at `note` instead of raised."""

    @functools.wraps(handler)
    def run(*inputs: Any) -> Updates:
        """Run the handler, and show an error as a note."""
        try:
            yield from handler(*inputs)
        except Text2LoraError as error:
            yield {note: render.note("error", str(error))}
        except Exception:
            logging.getLogger(__name__).exception("%s failed", handler.__name__)
            yield {note: render.note("error", "Something went wrong on the server; its log has the details.")}

    return run
