"""A sentence in, a working adapter out: the bundled nano model, on the CPU, in seconds.

Run it with `make demo`, or `python examples/quickstart.py "a description of your own"`.
"""

import os
import shlex
import shutil
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
from text2lora.cli.terminal import use_any_encoding
from text2lora.inference import generate_answers
from text2lora.nano import sample_record
from text2lora.samples import NANO

warnings.filterwarnings("ignore", category=FutureWarning)
logging.disable_progress_bar()
use_any_encoding()
console = Console(record=True)

t2l = text2lora.Text2LoraModel.from_pretrained("nano")
base = AutoModelForCausalLM.from_pretrained(text2lora.base_model_path("nano"))
encoder = t2l.encoder  # loaded here, once, so that the times below are those of an adapter
records = [sample_record("order", seed)[0] for seed in (1, 2, 3)]
before = generate_answers(base, t2l.base_tokenizer, records)

with tempfile.TemporaryDirectory() as folder:
    for number, description in enumerate(sys.argv[1:] or NANO.descriptions):
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

console.print(f"\n[dim]{NANO.note}[/]", highlight=False)
if picture := os.environ.get("QUICKSTART_SVG"):  # how the picture in the README is made
    console.save_svg(picture, title="make demo")
else:
    commands = [
        't2l make "Return the city in capital letters." --output city',
        f"t2l run city {shlex.quote(records[0])}",
    ]
    if not shutil.which("t2l"):  # as after `make demo`, whose environment is its own
        prefix = Path(sys.prefix)
        prefix = prefix.relative_to(Path.cwd()) if prefix.is_relative_to(Path.cwd()) else prefix
        commands.insert(0, f"source {shlex.quote(str(prefix / 'bin/activate'))}")
    console.print("\nNext, a sentence of your own on the command line:\n", highlight=False)
    console.print(*(f"  {command}" for command in commands), sep="\n", markup=False, highlight=False, soft_wrap=True)
