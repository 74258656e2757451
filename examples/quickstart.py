"""A sentence in, a working adapter out: the bundled nano model, on the CPU, in seconds.

Run it with `make demo`, or `python examples/quickstart.py "a description of your own"`.
"""

import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import text2lora
from text2lora.cli.adapters import answer_table
from text2lora.inference import generate_answers
from text2lora.nano import sample_record

DESCRIPTIONS = [
    "Where does it ship to? Answer in capital letters.",
    "Who placed the order? Just the initials.",
    "Give me the price and the item as one JSON object.",
    "The price without the cents.",
    "Suppose they ordered twice as many. How many would that be?",
]

warnings.filterwarnings("ignore", category=FutureWarning)
logging.disable_progress_bar()
console = Console(record=True)

t2l = text2lora.Text2LoraModel.from_pretrained("nano")
base = AutoModelForCausalLM.from_pretrained(text2lora.base_model_path("nano"))
encoder = t2l.encoder  # loaded here, once, so that the times below are those of an adapter
records = [sample_record("order", seed)[0] for seed in (1, 2, 3)]
before = generate_answers(base, t2l.base_tokenizer, records)

with tempfile.TemporaryDirectory() as folder:
    for number, description in enumerate(sys.argv[1:] or DESCRIPTIONS):
        begin = time.perf_counter()
        adapter = t2l.generate_lora(description)
        seconds = time.perf_counter() - begin
        path = adapter.save_pretrained(Path(folder) / f"adapter-{number}")

        plain = AutoModelForCausalLM.from_pretrained(text2lora.base_model_path("nano"))
        model = PeftModel.from_pretrained(plain, path)  # plain PEFT from here on
        after = generate_answers(model, t2l.base_tokenizer, records)

        console.print(f'\n[bold]"{description}"[/]  ({adapter.num_bytes / 1000:.0f} kB in {seconds * 1000:.0f} ms)')
        rows = [{"input": i, "base": b, "adapter": a} for i, b, a in zip(records, before, after, strict=True)]
        console.print(answer_table(rows))

if picture := os.environ.get("QUICKSTART_SVG"):  # how the picture in the README is made
    console.save_svg(picture, title="make demo")
