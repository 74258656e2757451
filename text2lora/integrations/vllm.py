"""A plugin of vLLM: a request for the model `t2l:DESCRIPTION` is answered with an adapter made on the spot.

vLLM calls `register` in each of its processes. See docs/how-to/serve.md.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from concurrent.futures import ThreadPoolExecutor

from fastapi import HTTPException
from vllm.logger import init_logger
from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from text2lora.errors import InvalidDescriptionError, LimitError, Text2LoraError
from text2lora.integrations.on_demand import AdaptersOnDemand, OnDemandSettings

NAME = "text2lora"
DESCRIPTION_PREFIX = "t2l:"
THREADS = 32
"""How many requests for new adapters are taken at once; the threads hardly do more than wait for each other."""

logger = init_logger("vllm.text2lora")  # below vLLM's own logger, which has its handlers


def register() -> None:
    """Register the resolver, once, if `T2L_VLLM_CHECKPOINT` is set; nothing is loaded before the first request.

    Raises:
        ServingError: a variable cannot be used.
    """
    settings = OnDemandSettings.from_environment(os.environ)
    if settings and NAME not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver(NAME, Text2LoraResolver(settings))


class _Lent(LoRARequest, weakref=True):  # type: ignore[call-arg]  # an option of msgspec's
    """vLLM keeps a request for as long as its adapter is loaded: when it goes, the lease of the folder ends."""


class Text2LoraResolver(LoRAResolver):
    """Finds an adapter for every name that begins with `t2l:`."""

    def __init__(self, settings: OnDemandSettings):
        self.adapters = AdaptersOnDemand(settings)
        self._threads = ThreadPoolExecutor(THREADS, NAME)  # off the event loop; adapters are made together

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter of a name, made if necessary; None for a name that does not begin with `t2l:`.

        Raises:
            HTTPException: 400 for a description that cannot be used, 429 beyond a limit, 503 for a fault of the server,
                whose log then says more.
        """
        if not lora_name.startswith(DESCRIPTION_PREFIX):
            return None
        loop, description = asyncio.get_running_loop(), lora_name.removeprefix(DESCRIPTION_PREFIX)
        try:
            lease = await loop.run_in_executor(self._threads, self.adapters.lend, description, base_model_name)
        except InvalidDescriptionError as error:
            raise HTTPException(400, str(error)) from error
        except LimitError as error:
            logger.warning("text2lora: %s", error)
            raise HTTPException(429, str(error)) from error
        except Text2LoraError as error:
            logger.error("text2lora: %s", error)
            raise HTTPException(503, "this server cannot make adapters: its log says why") from error
        request = _Lent(lora_name, abs(hash(lora_name)) or 1, str(lease.folder))  # vLLM sets a number of its own
        weakref.finalize(request, lease.release)
        return request
