"""Answers texts with an exported adapter in llama.cpp: no text2lora, no PyTorch, no transformers.

    pip install xllamacpp
    python answer.py BASE.gguf ADAPTER.gguf "Will it rain in Lisbon on Sunday morning?"

Without a text, each line of standard input gets a line with its answer; an empty one stays empty.
"""

import sys
from pathlib import Path

import xllamacpp


def load(base: str, adapter: str) -> xllamacpp.Server:
    """llama.cpp with a base model and an adapter on it."""
    if missing := [file for file in (base, adapter) if not Path(file).is_file()]:
        sys.exit(f"{missing[0]} does not exist: pass BASE.gguf and ADAPTER.gguf")
    params = xllamacpp.CommonParams()
    params.model.path = base
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    params.n_parallel = 1
    params.n_ctx = 1024  # tokens of a text and its answer
    params.cpuparams.n_threads = 1  # more are slower on cores that have other work
    params.warmup = False
    params.verbosity = -1
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        sys.exit(f"llama.cpp cannot use {base} with {adapter} ({error}): pass a base model and an adapter made for it")


def answer(server: xllamacpp.Server, text: str) -> str:
    """The greedy answer, in the chat format that the base's file carries."""
    request = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 64}
    reply = server.handle_chat_completions(request)
    return reply["choices"][0]["message"]["content"].strip()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    base, adapter, *texts = sys.argv[1:]
    server = load(base, adapter)
    for text in texts or map(str.strip, sys.stdin):
        print(text.strip() and answer(server, text), flush=True)
