"""Tasks of lm-evaluation-harness on the live model, with definitions and data of our own."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch

from text2lora import Text2LoraModel
from text2lora.errors import EvaluationError
from text2lora.evaluation.backends import TransformersBackend
from text2lora.evaluation.harness import make_conditions, summarise
from text2lora.evaluation.lm_harness import _as_harness_model, evaluate_with_lm_eval, find_tasks
from text2lora.nano import sample_record
from text2lora.turns import as_turn

manager = pytest.importorskip("lm_eval.tasks.manager")

YAML = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{prompt}}}}"
output_type: {kind}
{more}
"""
SAID = """
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 32, do_sample: false}
metric_list: [{metric: exact_match}]
"""
CHOSEN = """
doc_to_target: 0
doc_to_choice: "{{[answer, answer|lower]}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    records = [sample_record("order", 900 + i) for i in range(12)]
    lines = [json.dumps({"prompt": line, "answer": fields["city"].upper()}) for line, fields in records]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines))
    definitions = tmp_path / "tasks"
    definitions.mkdir()
    for name, kind, more in (("said", "generate_until", SAID), ("chosen", "multiple_choice", CHOSEN)):
        text = YAML.format(name=f"city_{name}", data=data, kind=kind, more=more)
        (definitions / f"{name}.yaml").write_text(text)
    return definitions


def test_answers_end_where_the_template_ends_a_turn(base, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though neither the tokenizer nor the base names that token."""
    chat = copy.deepcopy(tokenizer)
    chat.add_tokens(["<|im_end|>"])
    chat.chat_template = "{% for m in messages %}<user>{{ m.content }}<|im_end|>{% endfor %}"
    (end,) = chat("<|im_end|>")["input_ids"]
    answer, given = chat("Dakar<|im_end|>more")["input_ids"], {}

    def generate(input_ids: torch.Tensor, **options: object) -> torch.Tensor:
        given.update(options)
        return torch.cat([input_ids, torch.tensor([answer])], 1)

    monkeypatch.setattr(base, "generate", generate)
    model = _as_harness_model(TransformersBackend(base, chat))
    found = model._model_generate(torch.tensor([[5, 6, 7]]), 9, [], repetition_penalty=1.5)
    assert given["eos_token_id"] == [1, end]
    assert (given["do_sample"], given["repetition_penalty"]) == (False, 1.5)
    assert model.tok_decode(found[0, 3:].tolist()) == "Dakar"


def test_models_that_can_think_are_asked_as_in_training(base, tokenizer) -> None:
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    model = _as_harness_model(TransformersBackend(base, chat))
    turns = [{"role": "system", "content": "Do it."}, {"role": "user", "content": "q"}]
    assert model.apply_chat_template(turns) == "<user>Do it.\n\nq<assistant><think></think>"
    assert model.apply_chat_template(turns[1:]) == as_turn(chat, "q")


def test_adapters_take_turns_on_one_model(folder: Path, tmp_path: Path) -> None:
    t2l = Text2LoraModel.from_pretrained("nano")
    t2l.generate_lora("Return the city in capital letters.").save_pretrained(tmp_path / "capitals")
    adapter = str(tmp_path / "capitals")
    backend = TransformersBackend.from_names("nano", [adapter])
    names = ["city_said", "city_chosen"]
    conditions = make_conditions([adapter], "Return the city in lower case.", shots=2)
    conditions += conditions[:1]  # the base again, after the adapter
    samples = evaluate_with_lm_eval(backend, find_tasks(names, folder), names, conditions, limit=6)
    assert len(samples) == 5 * 2 * 6
    assert samples[:12] == samples[-12:]
    found = {(f.condition, f.task): f.accuracy for f in summarise(samples[:-12])}
    assert found["capitals", "lm_eval:city_said"].mean == 1
    assert found["base", "lm_eval:city_said"].mean == 0
    assert found["capitals", "lm_eval:city_chosen"].samples == 6
    described = next(s for s in samples if s.condition == "base + description")
    assert described.prompt.startswith("<|record|>Return the city in lower case.\n\n")
    shown = next(s for s in samples if s.condition == "base + 2-shot" and s.task == "lm_eval:city_said")
    assert shown.prompt.count("<|record|>") == 3
    assert shown.reason == "exact_match"


def test_what_cannot_be_run_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = folder.parent / "library"  # of the thousands of tasks, one
    shutil.copytree(Path(manager.__file__).with_name("hellaswag"), library / "hellaswag")
    monkeypatch.setattr(manager, "__file__", str(library / "manager.py"))
    assert "hellaswag" in find_tasks(["hellaswag"], folder).all_tasks
    with pytest.raises(EvaluationError, match="has no task 'city_sung'"):
        find_tasks(["city_said", "city_sung", "hellaswag"], folder)
    (folder.parent / "data.jsonl").unlink()
    backend = TransformersBackend.from_names("nano")
    with pytest.raises(EvaluationError, match="lm-evaluation-harness cannot run city_said"):
        evaluate_with_lm_eval(backend, find_tasks(["city_said"], folder), ["city_said"], make_conditions())
