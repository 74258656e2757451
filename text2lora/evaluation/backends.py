"""The models that answer questions: one in this process, or one on a server with OpenAI's API."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.adapter import LoraAdapter
from text2lora.arguments import check_count, checked
from text2lora.base import context_length, load_base_with_tokenizer
from text2lora.errors import EvaluationError, ServerError, shown
from text2lora.inference import complete
from text2lora.server import ChatClient
from text2lora.turns import as_turn


@dataclass(frozen=True)
class Request:
    """A question at the end of a conversation: the turns of user and assistant, and a text that begins the answer."""

    turns: tuple[str, ...]
    prefill: str = ""

    def messages(self) -> list[dict[str, str]]:
        """The turns as a chat template takes them."""
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(self.turns)]


@dataclass(frozen=True)
class Answer:
    """What the model read and what it said, without the prefill; or why it was not asked."""

    prompt: str
    text: str
    problem: str = ""


class Backend(Protocol):
    """Answers questions under an adapter or none; `chat` says whether it puts the turns into a chat template."""

    chat: bool

    def use(self, adapter: str | None) -> AbstractContextManager[None]:
        """The model with an adapter, or the base alone, for the block."""

    def answer(self, requests: Sequence[Request], max_new_tokens: int, stop: Sequence[str]) -> list[Answer]:
        """Greedy answers, in the order of the requests."""


class TransformersBackend:
    """A base model that is loaded once; adapters are swapped in place.

    Args:
        model: the base model.
        tokenizer: the base model's tokenizer. Without a chat template, turns are joined by line breaks.
        adapters: the adapters by name.
        batch_size: the number of questions to answer at a time.
    """

    @checked(EvaluationError)
    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapters: Mapping[str, LoraAdapter] | None = None,
        batch_size: int = 16,
    ):
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, check_count(batch_size, "batch_size")
        self.adapters = dict(adapters or {})
        self.chat = bool(tokenizer.chat_template)
        self._live: Any = model

    @classmethod
    @checked(EvaluationError)
    def from_names(
        cls,
        model: str,
        adapters: Sequence[str] | Mapping[str, LoraAdapter] = (),
        batch_size: int = 16,
        device: str = "cpu",
        dtype: str | torch.dtype = "auto",
        token: str | None = None,
    ) -> TransformersBackend:
        """Load adapters and their base model from folders or Hub ids, or a base model that ships with the package.

        A mapping of names to adapters that are already loaded also works.

        Raises:
            CheckpointError: one of them cannot be loaded, or an adapter does not fit the base.
        """
        loras = (
            adapters
            if isinstance(adapters, Mapping)
            else {name: LoraAdapter.from_pretrained(name, token=token) for name in adapters}
        )  # first, as they are quick to fail
        own = None if dtype == "auto" else dtype
        base, tokenizer = load_base_with_tokenizer(model, device=device, token=token, dtype=own)
        backend = cls(base, tokenizer, loras, batch_size)
        for name in loras:  # one that does not fit is told now, not after an hour
            with backend.use(name):
                pass
        return backend

    @contextlib.contextmanager
    def use(self, adapter: str | None) -> Iterator[None]:
        """See `Backend`."""
        if adapter is not None:
            if not isinstance(adapter, str) or adapter not in self.adapters:
                raise EvaluationError(f"no adapter {shown(adapter)}: expected one of {', '.join(self.adapters)}")
            self._live = self.adapters[adapter].apply_to(self.model)
            yield
        elif self._live is self.model:
            yield
        else:
            with self._live.disable_adapter():
                yield

    @checked(EvaluationError)
    def answer(self, requests: Sequence[Request], max_new_tokens: int, stop: Sequence[str]) -> list[Answer]:
        """See `Backend`; a prompt that does not fit the model's context is not asked."""
        check_count(max_new_tokens, "max_new_tokens")
        texts = [self.render(request) for request in requests]
        context = context_length(self.model)
        problems = {}
        for i, text in enumerate(texts):
            ids = self.tokenizer(text, add_special_tokens=not self.chat, verbose=False)["input_ids"]
            count = len(ids) + max_new_tokens
            if context and count > context:
                problems[i] = f"prompt and answer need {count} tokens, the model has {context}"
        asked = [i for i in range(len(texts)) if i not in problems]
        said = complete(
            self._live, self.tokenizer, [texts[i] for i in asked], max_new_tokens, self.batch_size, tuple(stop)
        )
        answers = dict(zip(asked, said, strict=True))
        return [Answer(text, answers.get(i, ""), problems.get(i, "")) for i, text in enumerate(texts)]

    @checked(EvaluationError)
    def render(self, request: Request) -> str:
        """A request as the text that the model reads."""
        if self.chat:
            return as_turn(self.tokenizer, request.messages()) + request.prefill
        *before, last = request.turns
        earlier = [f"{user}\n{answer}\n\n" for user, answer in zip(before[::2], before[1::2], strict=True)]
        return "".join(earlier) + f"{last}\n{request.prefill}"


REFUSALS = (400, 413, 422)
"""Statuses with which a server refuses a single request, for what is in it."""


class ServerBackend:
    """A server that speaks OpenAI's chat completions, as vLLM does.

    Adapters are requested by their names on the server. A prefill is sent as the assistant's last turn, with vLLM's
    `continue_final_message`. The key is read from OPENAI_API_KEY, if set.

    Args:
        url: the address of the server, with or without `/v1`.
        model: the base model's name on the server.
        adapters: the adapters' names on the server; all names are checked before the first request.
        concurrency: the number of simultaneous requests.
        retries: how often a request is repeated if the server is busy; waits start at one second and double.
        timeout: the longest time for an answer, in seconds.
        seed: the seed that is sent with each request.

    Raises:
        ServerError: the server does not answer, or does not know a name.
    """

    chat = True

    @checked(ServerError)
    def __init__(
        self,
        url: str,
        model: str,
        adapters: Sequence[str] = (),
        concurrency: int = 16,
        retries: int = 4,
        timeout: float = 600,
        seed: int = 0,
    ):
        check_count(concurrency, "concurrency")
        if retries < 0 or not 0 < timeout < 2**31:
            raise ServerError(f"retries is {retries} and timeout is {timeout:g}: expected numbers from 0 and above 0")
        self._server = ChatClient(url, retries, timeout)
        self.model, self._current, self.seed, self.concurrency = model, model, seed, concurrency
        known = self._server.models()
        for name in [model, *adapters]:
            if known and name not in known:
                raise ServerError(f"{self._server.url} does not serve a model {name!r}: it has {', '.join(known[:9])}")

    @contextlib.contextmanager
    def use(self, adapter: str | None) -> Iterator[None]:
        """See `Backend`."""
        if not isinstance(adapter, str | None):
            raise EvaluationError(f"no adapter {shown(adapter)}: expected a name on the server, or None")
        self._current = adapter or self.model
        yield

    @checked(EvaluationError)
    def answer(self, requests: Sequence[Request], max_new_tokens: int, stop: Sequence[str]) -> list[Answer]:
        """See `Backend`; a request that the server refuses, as one that is too long, is not answered.

        Raises:
            ServerError: the server does not answer, or refuses every request.
        """
        check_count(max_new_tokens, "max_new_tokens")

        def one(request: Request) -> Answer:
            messages = request.messages()
            options: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": 0, "seed": self.seed}
            options |= {"stop": list(stop)} if stop else {}
            if request.prefill:
                messages.append({"role": "assistant", "content": request.prefill})
                options |= {"add_generation_prompt": False, "continue_final_message": True}
            prompt = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
            try:
                text = self._server.chat(self._current, messages, **options)
            except ServerError as error:
                if error.status not in REFUSALS:
                    raise
                return Answer(prompt, "", str(error))
            return Answer(prompt, text.removeprefix(request.prefill))

        with ThreadPoolExecutor(self.concurrency) as pool:
            answers = list(pool.map(one, requests))
        if answers and all(answer.problem for answer in answers):
            raise ServerError(answers[0].problem)
        return answers
