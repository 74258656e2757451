"""How fast a function answers, beside transformers' own `generate` on the same adapter, in one run.

    python examples/benchmarks/functions.py nano
    python examples/benchmarks/functions.py smol --inputs 16

Every figure is the median of several rounds; in each round, all ways are timed one after the other on the same inputs,
so that whatever else the machine does concerns them alike. With xllamacpp and gguf installed, `smol` runs in llama.cpp,
too, with the exported adapter on the package's own file of the base.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from measuring import markdown, medians, rounds
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from text2lora import LoraAdapter, Text2LoraModel
from text2lora.base import base_source, find_packaged
from text2lora.export import export_gguf
from text2lora.nano import sample_record

NAMES = ["Golden Dragon", "Blue Door", "Old Mill", "Green Olive", "Red Lantern", "Corner House", "Sea Star"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]
TASKS = {
    "nano": ("Where does it ship to? Answer in capital letters.", lambda i: sample_record("order", i)[0]),
    "smol": (
        "name of the restaurant",
        lambda i: f"Table for {2 + i} people at the {NAMES[i % len(NAMES)]} on {DAYS[i % len(DAYS)]}",
    ),
}


def llama_cpp(adapter: LoraAdapter, base: str) -> Callable[[str], str] | None:
    """What answers a text in llama.cpp, where it is installed and a package carries the base as a GGUF file."""
    file = find_packaged(base)
    if file is None or not all(map(importlib.util.find_spec, ("gguf", "xllamacpp"))):
        return None
    sys.path.append(str(Path(__file__).parents[1] / "edge"))
    from answer import answer, load

    with tempfile.TemporaryDirectory() as folder:
        server = load(str(file), str(export_gguf(adapter, Path(folder, "adapter.gguf"))))
    return lambda text: answer(server, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=TASKS, help="the checkpoint")
    parser.add_argument("--inputs", type=int, default=64, help="number of inputs (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds, whose median is taken (default: 3)")
    parser.add_argument("--threads", type=int, default=0, help="number of PyTorch's threads (default: its own choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    logging.disable_progress_bar()
    description, make_input = TASKS[options.model]
    texts = [make_input(i) for i in range(options.inputs)]

    t2l = Text2LoraModel.from_pretrained(options.model)
    function = t2l.function(description)
    begin = time.perf_counter()
    t2l.function(f"{description} ")
    second = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        function.adapter.save_pretrained(folder)
        source = base_source(t2l.config.base_model_name_or_path or "")
        base = AutoModelForCausalLM.from_pretrained(source, dtype="float32")
        model = PeftModel.from_pretrained(base, folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")

    def plain(texts: list[str]) -> list[str]:
        chats = [[{"role": "user", "content": text}] for text in texts]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

    ways: dict[str, Callable[[], list[str]]] = {
        "generate, one by one": lambda: [plain([text])[0] for text in texts],
        "function, one by one": lambda: [function(text) for text in texts],
        "generate, batches of 32": lambda: [a for i in range(0, len(texts), 32) for a in plain(texts[i : i + 32])],
        "function.many, batches of 32": lambda: function.many(texts),
    }
    answers = function.many(texts)
    if other := llama_cpp(function.adapter, t2l.config.base_model_name_or_path or ""):
        ways["llama.cpp, one by one"] = lambda: [other(text) for text in texts]
    found: dict[str, list[str]] = {}

    def run(name: str) -> None:
        found[name] = ways[name]()

    times = dict(zip(ways, medians(rounds([partial(run, name) for name in ways], options.rounds)), strict=True))
    print(f"{options.model}, {len(texts)} inputs, {torch.get_num_threads()} thread(s)")
    print(f"a second function: {second * 1000:.0f} ms\n")
    rows = [["", "ms per input", "times as fast as generate, one by one", "the same answers"]]
    for name, seconds in times.items():
        ratio = times["generate, one by one"] / seconds
        same = sum(one == answer for one, answer in zip(found[name], answers, strict=True))
        rows.append([name, f"{seconds / len(texts) * 1000:.1f}", f"{ratio:.2f}", f"{same} of {len(texts)}"])
    print(markdown(rows))


if __name__ == "__main__":
    main()
