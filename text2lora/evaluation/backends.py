"""What answers the questions: a model in this process, or a server that speaks OpenAI's API."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from text2lora.adapter import LoraAdapter
from text2lora.errors import CheckpointError, EvaluationError
from text2lora.hub import BASES, hub_fault, resolve_name
from text2lora.inference import complete


@dataclass(frozen=True)
class Request:
    """A question in its conversation: what user and assistant say by turns, and how the answer is made to begin."""

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
        model: the base.
        tokenizer: of the base; turns go through its chat template, or are put below each other where it has none.
        adapters: by name.
        batch_size: answers at a time.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapters: Mapping[str, LoraAdapter] | None = None,
        batch_size: int = 16,
    ):
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        self.adapters = dict(adapters or {})
        self.chat = bool(tokenizer.chat_template)
        self._live: Any = model

    @classmethod
    def from_names(
        cls,
        model: str,
        adapters: Sequence[str] = (),
        batch_size: int = 16,
        device: str = "cpu",
        dtype: Any = "auto",
        token: str | None = None,
    ) -> TransformersBackend:
        """Load adapters and their base; folders, Hub ids, or a base that ships with the package.

        Raises:
            CheckpointError: one of them cannot be loaded, or an adapter does not fit the base.
        """
        loras = {
            name: LoraAdapter.from_pretrained(name, token=token) for name in adapters
        }  # first, as they are quick to fail
        path = resolve_name(model, BASES)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, token=token)
            base = AutoModelForCausalLM.from_pretrained(
                path, trust_remote_code=False, device_map=device, dtype=dtype, token=token
            )
        except (OSError, ValueError) as error:
            reason = hub_fault(error, model) or str(error).strip().split("\n")[0]
            raise CheckpointError(f"the base model {model!r} cannot be loaded ({reason})") from error
        backend = cls(base, tokenizer, loras, batch_size)
        for name in loras:  # one that does not fit is told now, not after an hour
            with backend.use(name):
                pass
        return backend

    @contextlib.contextmanager
    def use(self, adapter: str | None) -> Iterator[None]:
        """See `Backend`."""
        if adapter is not None:
            self._live = self.adapters[adapter].apply_to(self.model)
            yield
        elif self._live is self.model:
            yield
        else:
            with self._live.disable_adapter():
                yield

    def answer(self, requests: Sequence[Request], max_new_tokens: int, stop: Sequence[str]) -> list[Answer]:
        """See `Backend`; a prompt that does not fit the model's context is not asked."""
        texts = [self.render(request) for request in requests]
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        problems = {}
        for i, text in enumerate(texts):
            count = len(self._ids(text)) + max_new_tokens
            if context and count > context:
                problems[i] = f"prompt and answer need {count} tokens, the model has {context}"
        asked = [i for i in range(len(texts)) if i not in problems]
        said = complete(
            self._live, self.tokenizer, [texts[i] for i in asked], max_new_tokens, self.batch_size, tuple(stop)
        )
        answers = dict(zip(asked, said, strict=True))
        return [Answer(text, answers.get(i, ""), problems.get(i, "")) for i, text in enumerate(texts)]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=not self.chat, verbose=False)["input_ids"]
        return ids

    def render(self, request: Request) -> str:
        """A request as the text that the model reads."""
        if self.chat:
            text = self.tokenizer.apply_chat_template(
                request.messages(), tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            return str(text) + request.prefill
        *before, last = request.turns
        shown = [f"{user}\n{answer}\n\n" for user, answer in zip(before[::2], before[1::2], strict=True)]
        return "".join(shown) + f"{last}\n{request.prefill}"


class ServerBackend:
    """A server that speaks OpenAI's chat completions, as vLLM does.

    An adapter is asked for by the name under which the server has it. A prefill is sent as the assistant's last turn,
    with vLLM's `continue_final_message`. The key is that of OPENAI_API_KEY, if set.

    Args:
        url: of the server, with or without `/v1`.
        model: the base's name there.
        adapters: names there; all names are checked before anything is asked.
        concurrency: requests at a time.
        retries: of a request that the server is too busy for, with doubled waits from one second on.
        timeout: seconds for an answer.
        seed: sent along.

    Raises:
        EvaluationError: no answer, or a name that the server does not have.
    """

    chat = True

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
        import httpx2  # what huggingface_hub speaks HTTP with

        if not url.startswith(("http://", "https://")):
            raise EvaluationError(f"{url!r} is no address of a server: expected one as http://localhost:8000")
        self.url = url.rstrip("/").removesuffix("/v1") + "/v1"
        self.model, self._current, self.seed = model, model, seed
        self.concurrency, self.retries = concurrency, retries
        key = os.environ.get("OPENAI_API_KEY")
        self._client = httpx2.Client(timeout=timeout, headers={"Authorization": f"Bearer {key}"} if key else {})
        listed = self._ask("GET", "models", None)
        known = [entry.get("id") for entry in listed.get("data") or []]
        for name in [model, *adapters]:
            if known and name not in known:
                raise EvaluationError(f"{self.url} serves no model {name!r}: it has {', '.join(map(str, known[:9]))}")

    @contextlib.contextmanager
    def use(self, adapter: str | None) -> Iterator[None]:
        """See `Backend`."""
        self._current = adapter or self.model
        yield

    def answer(self, requests: Sequence[Request], max_new_tokens: int, stop: Sequence[str]) -> list[Answer]:
        """See `Backend`."""

        def one(request: Request) -> Answer:
            messages = request.messages()
            body: dict[str, Any] = {"model": self._current, "messages": messages, "max_tokens": max_new_tokens}
            body |= {"temperature": 0, "seed": self.seed} | ({"stop": list(stop)} if stop else {})
            if request.prefill:
                messages.append({"role": "assistant", "content": request.prefill})
                body |= {"add_generation_prompt": False, "continue_final_message": True}
            found = self._ask("POST", "chat/completions", body)
            try:
                text = found["choices"][0]["message"]["content"] or ""
            except (KeyError, IndexError, TypeError) as error:
                raise EvaluationError(f"{self.url} answers with no message: expected OpenAI's format") from error
            prompt = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
            return Answer(prompt, str(text).removeprefix(request.prefill))

        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(one, requests))

    def _ask(self, method: str, path: str, body: object) -> dict[str, Any]:
        import httpx2

        reason = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(2 ** (attempt - 1))
            try:
                response = self._client.request(method, f"{self.url}/{path}", json=body)
            except httpx2.HTTPError as error:
                reason = f"cannot be reached ({error or type(error).__name__})"
                continue
            status, text = response.status_code, response.text[:200].strip()
            reason = f"refuses {path} with status {status}: {text}"
            if status < 400:
                try:
                    found = response.json()
                except ValueError as error:
                    raise EvaluationError(f"{self.url}/{path} answers with no JSON: is it OpenAI's API?") from error
                return found if isinstance(found, dict) else {}
            if path == "models" and status in (404, 405):  # not every server lists them
                return {}
            if status not in (408, 409, 425, 429) and status < 500:
                break
        raise EvaluationError(f"the server at {self.url} {reason}; check --server and the names of the models")
