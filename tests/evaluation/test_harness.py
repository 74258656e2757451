"""Conditions, prompts, figures and files, on the tiny base and on nano."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from text2lora import Text2LoraModel
from text2lora.errors import CheckpointError, EvaluationError, OutputError
from text2lora.evaluation.backends import Request, TransformersBackend
from text2lora.evaluation.data import TaskData, load_tasks
from text2lora.evaluation.evaluate import evaluate
from text2lora.evaluation.harness import Sample, check_tasks, evaluate_tasks, make_conditions, summarise
from text2lora.evaluation.metrics import bootstrap_samples
from text2lora.evaluation.report import EvalReport, eval_results, write_report
from text2lora.evaluation.tasks import BENCHMARKS, EvalItem, own_task
from text2lora.names import distinct_names
from text2lora.nano import sample_record


@pytest.fixture(scope="module")
def cities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Orders, with their city in capitals as the answer."""
    path = tmp_path_factory.mktemp("tasks") / "cities.jsonl"
    records = [sample_record("order", 900 + i) for i in range(15)]
    lines = [json.dumps({"prompt": line, "answer": fields["city"].upper()}) for line, fields in records]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("adapters")
    t2l = Text2LoraModel.from_pretrained("nano")
    made = t2l.generate_lora(["Return the city in capital letters.", "Return the first name only."])
    return [str(lora.save_pretrained(folder / name)) for lora, name in zip(made, ("capitals", "names"), strict=True)]


@pytest.fixture(scope="module")
def report(cities: Path, adapters: list[str]) -> EvalReport:
    description = "Return the city in capital letters."
    return evaluate("nano", [str(cities)], adapters, description=description, batch_size=5)


def test_the_right_adapter_beats_the_base_and_another_does_not(report: EvalReport, adapters: list[str]) -> None:
    found = {figure.condition: figure for figure in report.figures}
    assert list(found) == ["base", "base + 3-shot", "base + description", "capitals", "names"]
    assert [row["adapter"] for row in report.summary()] == [None, None, None, *adapters]
    assert found["base"].difference is None
    assert found["capitals"].accuracy.mean == 1
    assert found["capitals"].difference
    assert found["capitals"].difference.low > 0.5
    assert found["names"].accuracy.mean == 0
    assert {figure.accuracy.samples for figure in report.figures} == {12}


def test_an_adapter_called_base_and_two_of_one_name_have_rows_of_their_own() -> None:
    conditions = make_conditions(["base", "/x/a/cap", "/x/b/cap", "base"], shots=0)
    shown = [("base", None), ("base (2)", "base"), ("a/cap", "/x/a/cap"), ("b/cap", "/x/b/cap")]
    assert [(condition.name, condition.adapter) for condition in conditions] == shown
    samples = [Sample(c.name, "t", 0, "", "", None, "", float(i)) for i, c in enumerate(conditions)]
    report = EvalReport("nano", "transformers", 0, conditions, summarise(samples), samples)
    assert [figure.accuracy.mean for figure in report.figures] == [0, 1, 2, 3]
    assert [line.split("|")[2].strip() for line in report.to_markdown().splitlines()[2:]] == [n for n, _ in shown]


def test_one_name_in_place_of_a_list_is_refused(cities: Path) -> None:
    with pytest.raises(EvaluationError, match=r"tasks is '.*': expected Sequence\[str\]"):
        evaluate("nano", str(cities))
    with pytest.raises(EvaluationError, match="adapters is 'city'"):
        evaluate("nano", [str(cities)], "city")


def test_a_task_called_average_is_refused(cities: Path, tmp_path: Path) -> None:
    (tmp_path / "average.jsonl").write_bytes(cities.read_bytes())
    with pytest.raises(EvaluationError, match="a task cannot be called 'average'"):
        check_tasks(load_tasks(str(tmp_path / "average.jsonl")), False)


def test_every_prompt_output_and_verdict_is_kept(report: EvalReport, cities: Path) -> None:
    content = json.loads(report.to_json())
    assert len(content["samples"]) == 5 * 12
    lines = [json.loads(line) for line in cities.read_text().splitlines()]
    plain, shots, described = (content["samples"][i * 12] for i in range(3))
    assert plain["prompt"] == f"<|record|>{lines[3]['prompt']}<|answer|>"
    assert shots["prompt"].count("<|record|>") == 4
    assert f"<|answer|>{lines[0]['answer']}<|end|>" in shots["prompt"]
    assert described["prompt"].startswith("<|record|>Return the city in capital letters.\n\n")
    assert all(sample["score"] == (sample["parsed"] == sample["gold"]) for sample in content["samples"])


def test_batches_and_order_of_conditions_change_nothing(report: EvalReport, cities: Path, adapters: list[str]) -> None:
    backend = TransformersBackend.from_names("nano", adapters, batch_size=1)
    again = evaluate_tasks(backend, load_tasks(str(cities)), list(reversed(report.conditions)))
    order = [condition.name for condition in report.conditions]
    assert sorted(again, key=lambda sample: (order.index(sample.condition), sample.id)) == list(report.samples)


def test_report_replaces_only_a_report(report: EvalReport, tmp_path: Path) -> None:
    for _ in range(2):
        write_report(report, tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"contains mine\.txt, which is not part of an earlier report"):
        write_report(report, tmp_path / "out")


def test_markdown_and_model_index_hold_the_figures(report: EvalReport, adapters: list[str]) -> None:
    table = report.to_markdown(adapters[0])
    assert len(table.splitlines()) == 2 + 4
    assert "| cities | capitals | 12 | 1.000 | 1.000 to 1.000 | +1.000 |" in table
    (result,) = eval_results(report, adapters[0])
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("cities", "accuracy", 1.0)
    assert "n=12" in result.metric_name


def test_adapters_that_are_named_alike_keep_rows_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["a/cap", str(tmp_path / "b/cap"), "me/cap", "base"]
    for name in names[:2]:
        Path(name).mkdir(parents=True)
    assert distinct_names(names) == ["a/cap", "b/cap", "me/cap", "base"]
    assert distinct_names(names[1:]) == ["cap", "me/cap", "base"]


def test_difference_is_paired_and_average_weighs_tasks_alike() -> None:
    def samples(condition: str, task: str, scores: list[int]) -> list[Sample]:
        return [Sample(condition, task, i, "", "", None, "", float(s)) for i, s in enumerate(scores)]

    base = samples("base", "a", [0, 1] * 50) + samples("base", "b", [0] * 10)
    other = samples("x", "a", [0, 1] * 50) + samples("x", "b", [1] * 10)
    found = {(f.condition, f.task): f for f in summarise(base + other)}
    same = found["x", "a"].difference
    assert same
    assert (same.mean, same.low, same.high) == (0, 0, 0)  # however wide the interval of each
    assert found["x", "a"].accuracy.low < 0.45
    assert found["x", "average"].accuracy.mean == 0.75
    assert found["base", "average"].accuracy.mean == 0.25
    assert found["x", "average"].accuracy.samples == 110


def test_interval_of_samples_is_the_binomial_one() -> None:
    estimate = bootstrap_samples([torch.tensor([1.0] * 30 + [0.0] * 70)])
    assert estimate.mean == pytest.approx(0.3)
    assert estimate.low == pytest.approx(0.3 - 1.96 * (0.21 / 100) ** 0.5, abs=0.02)
    assert estimate.high == pytest.approx(0.3 + 1.96 * (0.21 / 100) ** 0.5, abs=0.02)
    assert bootstrap_samples([torch.ones(5)], seed=1) == (1, 1, 1, 1, 5)


def test_code_needs_leave_before_anything_is_asked(base, tokenizer) -> None:
    data = TaskData(BENCHMARKS["humaneval"], [EvalItem("p", "g", "t")], [])
    with pytest.raises(EvaluationError, match="allow it with --allow-code-execution"):
        evaluate_tasks(TransformersBackend(base, tokenizer), [data], make_conditions())


def test_prefill_begins_the_answer_and_stop_strings_end_it(base, tokenizer) -> None:
    backend = TransformersBackend(base, tokenizer)
    request = Request(("2+2?", "4", "3+3?"), "It is")
    assert backend.render(request) == "<user>2+2?<user>4<user>3+3?<answer>It is"
    (full,) = backend.answer([request], 16, ())
    assert full.text
    stop = full.text[3]
    (cut,) = backend.answer([request], 16, (stop,))
    assert cut.text == full.text[: full.text.index(stop)]


def test_without_a_chat_template_turns_stand_below_each_other(base, tokenizer) -> None:
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        backend = TransformersBackend(base, tokenizer)
        assert not backend.chat
        assert backend.render(Request(("a?", "b", "c?"), "so")) == "a?\nb\n\nc?\nso"
        data = TaskData(own_task("mine"), [EvalItem("hi", "x", "x")], [])
        (sample,) = evaluate_tasks(backend, [data], make_conditions(shots=0), max_new_tokens=8)
        assert sample.prompt == "hi\n"
        assert "\n\n" not in sample.output
    finally:
        tokenizer.chat_template = template


def test_prompt_that_is_too_long_is_wrong_and_said_to_be(base, tokenizer) -> None:
    data = TaskData(own_task("mine"), [EvalItem("x" * 300, "x", "x"), EvalItem("y", "x", "x")], [])
    long, short = evaluate_tasks(TransformersBackend(base, tokenizer), [data], make_conditions(shots=0))
    assert (long.score, long.output, long.parsed) == (0, "", None)
    assert long.reason == "prompt and answer need 366 tokens, the model has 256"
    assert short.output


def test_adapters_are_swapped_on_one_base(base, tokenizer, make_model) -> None:
    made = make_model().generate_lora(task_emb=torch.randn(2, 24))
    backend = TransformersBackend(base, tokenizer, dict(zip("ab", made, strict=True)))
    request = [Request(("hello",))]
    said = {}
    for name in ("a", None, "b", "a", None):
        with backend.use(name):
            (answer,) = backend.answer(request, 12, ())
            assert said.setdefault(name, answer.text) == answer.text
    assert len(set(said.values())) == 3


def test_base_or_adapter_that_is_not_there_or_does_not_fit_is_named(
    tmp_path: Path, adapters: list[str], base_dir: Path
) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        TransformersBackend.from_names("nano", [str(tmp_path / "none")])
    with pytest.raises(CheckpointError, match=r"the base model '\./none' cannot be loaded"):
        TransformersBackend.from_names("./none")
    with pytest.raises(CheckpointError):
        TransformersBackend.from_names(str(base_dir), adapters[:1])


def test_programs_are_judged_through_the_whole_chain(base, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    from text2lora.evaluation import backends

    said = ["```python\ndef one():\n    return 1\n```", "```python\ndef one():\n    return 2\n```"]
    monkeypatch.setattr(backends, "complete", lambda *args: said)
    row = {"prompt": "def one():\n", "canonical_solution": "    return 1\n", "entry_point": "one"}
    row["test"] = "def check(f):\n    assert f() == 1\n"
    task = BENCHMARKS["humaneval"]
    data = TaskData(task, [task.read(row)] * 2, [])
    found = evaluate_tasks(TransformersBackend(base, tokenizer), [data], make_conditions(shots=0), True, 8)
    assert [(sample.score, sample.reason) for sample in found] == [(1.0, ""), (0.0, "AssertionError:")]
