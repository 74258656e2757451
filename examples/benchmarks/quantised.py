"""How often llama.cpp answers as PEFT does, for each type of an exported adapter, and how large the file is.

    python examples/benchmarks/quantised.py nano
    python examples/benchmarks/quantised.py smol

Greedy answers of at most 24 tokens, compared as texts. Needs gguf and xllamacpp.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from measuring import markdown

from text2lora import Text2LoraModel
from text2lora.base import find_packaged
from text2lora.export import export_gguf
from text2lora.export.gguf import TYPES
from text2lora.inference import generate_answers
from text2lora.nano import sample_record
from text2lora.turns import as_turn

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from llama_cpp import LlamaServer, write_base

TASKS = {
    "nano": (
        [
            "Return the city in capital letters.",
            "Who placed the order? Just the initials.",
            "Give me the price and the item as one JSON object.",
            "Return the first name only.",
            "Which item was ordered?",
            "What is the total, without the dollar sign?",
            "The date of the order, please.",
            "Write the customer's surname backwards.",
        ],
        [sample_record("order", 900 + i)[0] for i in range(8)],
    ),
    "smol": (
        [
            "Is it about a restaurant, the weather or music?",
            "Is the review positive or negative?",
            "Which city is mentioned? Just the name.",
            "the day of the week",
            "Put the text in round brackets.",
            "Write the last word in capital letters.",
            "name of the restaurant",
            "Say card or transfer.",
        ],
        [
            "Will it rain in Lisbon on Sunday morning?",
            "Table for 5 people at the Golden Dragon on Friday",
            "My bank card was swallowed by the machine at the station.",
            "We waited an hour for a table and the soup was cold.",
            "Best pizza in town, and the waiter even remembered my name!",
            "Play some quiet jazz in the kitchen",
            "The money I sent to Oslo yesterday has not arrived.",
            "Please book two seats at the Old Mill for Tuesday evening",
        ],
    ),
}


def compare(name: str, descriptions: int = 8, inputs: int = 8, max_new_tokens: int = 24) -> list[list[str]]:
    """Rows of the table: a type, the size of the first adapter's file, and the answers that are PEFT's.

    Args:
        name: of a bundled checkpoint.
        descriptions: how many adapters.
        inputs: for each of them.
        max_new_tokens: longest answer.
    """
    t2l = Text2LoraModel.from_pretrained(name)
    tokenizer, model = t2l.base_tokenizer, t2l.load_base_model().eval()
    adapters = t2l.generate_lora(TASKS[name][0][:descriptions])
    texts = TASKS[name][1][:inputs]
    expected = [generate_answers(adapter.apply_to(model), tokenizer, texts, max_new_tokens) for adapter in adapters]
    special = not tokenizer.chat_template
    prompts = [tokenizer(as_turn(tokenizer, text), add_special_tokens=special)["input_ids"] for text in texts]
    rows = [["Type", "Size of an adapter", "Answers as PEFT's"]]
    with tempfile.TemporaryDirectory() as folder:
        packaged = find_packaged(t2l.config.base_model_name_or_path or "")
        base = packaged or write_base(t2l.load_base_model(), tokenizer, Path(folder, "base.gguf"))
        for kind in TYPES:
            files = [export_gguf(lora, Path(folder, f"{i}.gguf"), dtype=kind) for i, lora in enumerate(adapters)]
            server = LlamaServer(base, *files)
            found = [
                [
                    tokenizer.decode(server.answer(ids, i, 1.0, max_new_tokens), skip_special_tokens=True)
                    for ids in prompts
                ]
                for i in range(len(adapters))
            ]
            same = [
                one.strip() == other
                for ours, theirs in zip(found, expected, strict=True)
                for one, other in zip(ours, theirs, strict=True)
            ]
            size = f"{files[0].stat().st_size / 1000:,.0f} kB"
            rows.append([f"`{kind}`", size, f"{sum(same)} of {len(same)} ({sum(same) / len(same):.0%})"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=TASKS, help="the checkpoint")
    parser.add_argument("--descriptions", type=int, default=8, help="number of adapters (default: 8)")
    parser.add_argument("--inputs", type=int, default=8, help="number of inputs for each adapter (default: 8)")
    options = parser.parse_args()
    print(markdown(compare(options.model, options.descriptions, options.inputs)))


if __name__ == "__main__":
    main()
