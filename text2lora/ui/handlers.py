"""What happens when a visitor clicks: handlers that stream updates of the page, including error messages."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from text2lora.adapter import LoraAdapter
from text2lora.encoder import check_description
from text2lora.errors import InvalidDescriptionError, InvalidInputError, Text2LoraError
from text2lora.export import export_zip
from text2lora.names import slug
from text2lora.ui import render
from text2lora.ui.layout import Clicks, Page, Updates, about_inputs, padded
from text2lora.ui.service import Engine, Exchange, Service, VisitorAdapter, snippet


class Asked(NamedTuple):
    """What answering a message takes."""

    checkpoint: str
    made: VisitorAdapter | None
    scale: float
    turns: Sequence[Exchange]
    message: str
    clicks: Clicks


class Handlers:
    """The handlers of a page. Each visitor passes their own adapter and conversation."""

    def __init__(self, page: Page, service: Service):
        self.page, self.service = page, service

    def load(self, name: str, clicks: Clicks) -> Updates:
        """Load another checkpoint and discard what was made with the previous one."""
        yield from clicks.latest(self._load(name), makes=True)

    def _load(self, name: str) -> Updates:
        yield {
            self.page.novelty: render.note("busy", f"Loading {name} and its base model"),
            self.page.made: None,
            self.page.turns: (),
        }
        samples = self.service.engine(name).samples
        message = gr.Textbox(samples.inputs[0], info=about_inputs(samples))
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
            self.page.scale: 1,
            self.page.message: message,
            self.page.messages: gr.Dataset(samples=[[text] for text in samples.inputs]),
            self.page.compare_message: message,
            self.page.code: snippet(name, samples.descriptions[0], 1),
            **dict(zip(self.page.wordings, padded(samples.descriptions, len(self.page.wordings)))),
        }

    def make(self, name: str, text: str, examples: Sequence[Sequence[str]], clicks: Clicks) -> Updates:
        """Make an adapter, and load its checkpoint first if necessary. Empty rows of the examples are left out."""
        yield from clicks.latest(self._make(name, text, examples), makes=True)

    def _make(self, name: str, text: str, examples: Sequence[Sequence[str]]) -> Updates:
        pairs = [(given, answer) for given, answer in examples if given.strip() or answer.strip()]
        doing = f"Learning from {len(pairs)} example{'s' * (len(pairs) > 1)}" if pairs else "Making the adapter"
        doing = doing if self.service.is_loaded(name) else f"Loading {name} and its base model"
        yield {self.page.novelty: render.note("busy", doing), self.page.made: None}
        found = self.service.engine(name).make([text], [pairs])[0]
        yield {
            self.page.made: found,
            self.page.scale: 1,
            self.page.novelty: render.made_card(found),
            self.page.chat_note: "",
            self.page.take_note: "",
        }

    def ask(self, *inputs: Any) -> Updates:
        """Answer a message as the next one of the conversation. An answer that is still being written ends."""
        asked = Asked(*inputs)
        adapter, engine = _adapter(asked.made, asked.scale), self.service.engine(asked.checkpoint)
        yield from asked.clicks.latest(self._ask(engine, adapter, asked.turns, asked.message))

    def _ask(self, engine: Engine, adapter: LoraAdapter, turns: Sequence[Exchange], text: str) -> Updates:
        before, turn = tuple(turns[-self.service.limits.turns :]), Exchange(text)
        yield {self.page.chat_note: "", self.page.talk: render.chat([*before, turn], running=True)}
        try:
            for turn in engine.chat(adapter, before, text):
                yield {self.page.talk: render.chat([*before, turn], running=True), self.page.turns: (*before, turn)}
        except Text2LoraError:
            yield {self.page.talk: render.chat(before)}
            raise
        yield {self.page.talk: render.chat([*before, turn]), self.page.turns: (*before, turn)}

    def ask_again(self, *inputs: Any) -> Updates:
        """Answer the last message again with another adapter or strength; without one, answer the text in the box."""
        asked = Asked(*inputs)
        if asked.turns:
            asked = asked._replace(turns=asked.turns[:-1], message=asked.turns[-1].message)
        yield from self.ask_if_made(*asked)

    def ask_if_made(self, *inputs: Any) -> Updates:
        """Answer a message if there is an adapter."""
        if Asked(*inputs).made:
            yield from self.ask(*inputs)

    def start_again(self, *inputs: Any) -> Updates:
        """Answer the last message again as the first of a new conversation, since the new adapter has no history."""
        asked = Asked(*inputs)
        if not asked.made:  # what was asked before has ended all the same
            yield {self.page.talk: render.chat(asked.turns)}
        yield from self.ask_again(*asked._replace(turns=asked.turns[-1:]))

    def compare(self, clicks: Clicks, name: str, text: str, *wordings: str) -> Updates:
        """Answer a message under several wordings of a description, side by side. An earlier comparison ends."""
        yield from clicks.latest(self._compare(name, text, wordings))

    def _compare(self, name: str, text: str, wordings: Sequence[str]) -> Updates:
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
        """Write the Python code that makes the same adapter, or that of the text, or else that of a sample."""
        if found:
            return snippet(name, found.description, scale, found.examples)
        try:
            return snippet(name, check_description(text), scale)
        except InvalidDescriptionError:  # which Python refuses as the page does
            return snippet(name, self.service.engine(name).samples.descriptions[0], scale)


def _adapter(found: VisitorAdapter | None, scale: float) -> LoraAdapter:
    if found is None:
        raise InvalidInputError("there is no adapter yet: make one first")
    return found.adapter.scaled(scale)


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
