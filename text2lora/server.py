"""A client for servers with OpenAI's chat API, such as vLLM, llama.cpp, Ollama and hosted ones."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from text2lora.errors import ServerError
from text2lora.hub import proxy_fault

BAD_KEY = "the key in OPENAI_API_KEY cannot be sent: it has a line break or a letter outside ASCII"


class ChatClient:
    """A client of a chat server. The key is read from OPENAI_API_KEY, if set.

    Args:
        url: the address of the server, with or without `/v1`.
        retries: how often a request is repeated if the server is busy; waits start at one second and double.
        timeout: the longest time for an answer, in seconds.

    Raises:
        ServerError: the address, the key or the proxy cannot be used.
    """

    def __init__(self, url: str, retries: int = 4, timeout: float = 600):
        import httpx2  # what huggingface_hub speaks HTTP with

        if not url.startswith(("http://", "https://")):
            raise ServerError(f"{url!r} is not the address of a server: expected one such as http://localhost:8000")
        self.url = url.rstrip("/").removesuffix("/v1") + "/v1"
        self.retries = retries
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        try:
            self._client = httpx2.Client(timeout=timeout, headers={"Authorization": f"Bearer {key}"} if key else {})
        except (ImportError, ValueError) as error:
            raise ServerError(proxy_fault(error) or BAD_KEY) from error

    def models(self) -> list[str]:
        """The names of the server's models; an empty list if it does not list them.

        Raises:
            ServerError: the server does not answer.
        """
        return [str(entry.get("id")) for entry in self._ask("GET", "models", None).get("data") or []]

    def chat(self, model: str, messages: Sequence[dict[str, str]], **options: Any) -> str:
        """Ask for one answer.

        Args:
            model: the name of the model on the server.
            messages: the conversation, as messages with `role` and `content`.
            **options: options of the request, such as `max_tokens`, `temperature`, `seed`, `stop`.

        Raises:
            ServerError: the server does not answer, or not in the expected format.
        """
        found = self._ask("POST", "chat/completions", {"model": model, "messages": list(messages), **options})
        try:
            return str(found["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError) as error:
            raise ServerError(f"{self.url} sent an answer without a message: expected OpenAI's format") from error

    def _ask(self, method: str, path: str, body: object) -> dict[str, Any]:
        import httpx2

        reason, status = "", None
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(2 ** (attempt - 1))
            try:
                response = self._client.request(method, f"{self.url}/{path}", json=body)
            except UnicodeEncodeError as error:
                raise ServerError(f"a request to {self.url} is not valid text ({error.reason})") from error
            except httpx2.LocalProtocolError as error:  # it would show the key
                raise ServerError(BAD_KEY) from error
            except httpx2.HTTPError as error:
                reason, status = f"cannot be reached ({error or type(error).__name__})", None
                continue
            status = response.status_code
            reason = f"refuses {path} with status {status}: {' '.join(response.text.split())[:200]}"
            if status < 400:
                try:
                    found = response.json()
                except ValueError as error:
                    raise ServerError(f"{self.url}/{path} did not answer in JSON: expected OpenAI's API") from error
                return found if isinstance(found, dict) else {}
            if path == "models" and status in (404, 405):
                return {}
            if status not in (408, 409, 425, 429) and status < 500:
                break
        refusal = ServerError(f"the server at {self.url} {reason}: check its address and the model's name")
        refusal.status = status
        raise refusal
