"""Whether the description matters: conditions, their intervals and the verdict."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from text2lora import CheckpointError, EvaluationError, MissingExtraError
from text2lora.arithmetic import cosine_matrix
from text2lora.evaluation.charts import plot_conditions, plot_similarities, require_matplotlib
from text2lora.evaluation.check import (
    CheckTask,
    Interval,
    _explained,
    check_conditioning,
    prepare_tasks,
)
from text2lora.evaluation.metrics import pearson, percentile_interval, resample, spearman
from text2lora.installation import install_command
from text2lora.novelty import mean_over_tokens
from text2lora.training.task_files import read_tasks

TASKS = [
    CheckTask("upper", ["the city in upper case", "upper case of the city"], [("x", "A"), ("y", "B"), ("z", "C")]),
    CheckTask("lower", ["the lower case"], [("x", "a"), ("y", "b")]),
    CheckTask("number", ["a number", "give a number"], [("x", "1"), ("y", "2"), ("w", "3")]),
    CheckTask("city", ["city"], [("oslo", "oslo")]),
]


@pytest.mark.parametrize("task_encoder", ["pooled", "tokens"])
def test_report_holds_every_condition_and_its_own_tasks(make_model, base, tokenizer, task_encoder: str) -> None:
    pooling = "none" if task_encoder == "tokens" else "mean"
    model = make_model(task_encoder=task_encoder, encoder_pooling=pooling)
    before = {name: p.clone() for name, p in base.named_parameters()}
    report = check_conditioning(model, base, tokenizer, TASKS, rows=4)
    assert list(report.conditions) == ["matched", "paraphrased", "shuffled", "junk", "average", "none"]
    assert all(torch.equal(p, before[name]) for name, p in base.named_parameters())
    matched, reworded = report.conditions["matched"], report.conditions["paraphrased"]
    assert (matched.loss.tasks, matched.loss.samples) == (4, 9)
    assert (reworded.loss.tasks, reworded.loss.samples) == (2, 6)
    assert [loss != loss for loss in reworded.losses] == [False, True, False, True]
    assert matched.loss.low <= matched.loss.mean <= matched.loss.high
    assert len(report.similarities.adapters) == 6
    assert len(report.similarities.same_adapters) == 2
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["tasks"][1]["paraphrased"]["loss"] is None
    assert check_conditioning(model, base, tokenizer, TASKS, rows=4).as_dict() == report.as_dict()


def test_matched_loss_is_that_of_the_adapter_through_peft(make_model, load_base, tokenizer) -> None:
    from text2lora.language import answer_logits, prompt_batch

    model = make_model()
    report = check_conditioning(model, load_base(), tokenizer, TASKS)
    for i, task in enumerate(TASKS):
        peft = model.generate_lora(task.descriptions[0]).apply_to(load_base())
        with torch.no_grad():
            logits, labels = answer_logits(peft.get_base_model(), prompt_batch(tokenizer, task.examples))
        expected = torch.nn.functional.cross_entropy(logits, labels).item()
        assert report.conditions["matched"].losses[i] == pytest.approx(expected, rel=1e-4)


def test_average_adapter_is_the_one_between_the_descriptions(make_model, load_base, tokenizer) -> None:
    from text2lora.language import answer_logits, prompt_batch

    for kwargs in ({}, {"task_encoder": "tokens", "encoder_pooling": "none"}):
        model = make_model(**kwargs)
        report = check_conditioning(model, load_base(), tokenizer, TASKS)
        adapter = model.interpolate([task.descriptions[0] for task in TASKS], [1] * len(TASKS))
        with torch.no_grad():
            logits, labels = answer_logits(
                adapter.apply_to(load_base()).get_base_model(), prompt_batch(tokenizer, TASKS[0].examples)
            )
        expected = torch.nn.functional.cross_entropy(logits, labels).item()
        assert report.conditions["average"].losses[0] == pytest.approx(expected, rel=1e-4)


def test_a_model_that_ignores_its_input_explains_nothing(make_model, base, tokenizer, monkeypatch) -> None:
    model = make_model(dropout=0.0)
    hear = model.encoder.encode
    monkeypatch.setattr(model.encoder, "encode", lambda texts: hear(["city"]).repeat(len(texts), 1))
    report = check_conditioning(model, base, tokenizer, TASKS)
    losses = {name: condition.losses for name, condition in report.conditions.items()}
    assert losses["matched"] == pytest.approx(losses["shuffled"], rel=1e-5)
    assert losses["matched"] == pytest.approx(losses["junk"], rel=1e-5)
    assert "explains" not in report.verdict.replace("to explain", "") or "may be due to chance" in report.verdict


def losses(matched, shuffled, none) -> dict[str, torch.Tensor]:
    return {
        name: torch.tensor(values, dtype=torch.double)
        for name, values in {"matched": matched, "shuffled": shuffled, "none": none}.items()
    }


def test_share_explained_is_what_shuffling_takes_away() -> None:
    gain, explained = _explained(losses([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]), 0)
    assert gain == Interval(2.0, 2.0, 2.0)
    assert explained == Interval(0.5, 0.5, 0.5)


def test_a_description_that_does_harm_explains_no_more_than_the_whole_gain() -> None:
    gain, explained = _explained(losses([1.0, 1.0, 1.0], [9.0, 9.0, 9.0], [3.0, 3.0, 3.0]), 0)
    assert (gain.value, explained) == (2.0, Interval(1.0, 1.0, 1.0))
    _, explained = _explained(losses([1.0] * 4, [100.0, 1.0, 1.0, 1.0], [3.0] * 4), 0)
    assert explained.value == 0.25  # that one task loses its gain says nothing of the other three
    assert 0 <= explained.low <= 0.25 <= explained.high <= 1


def test_no_share_is_given_where_there_is_no_gain() -> None:
    for none in ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [4.0, 1.1, -1.5]):
        _, explained = _explained(losses([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], none), 0)
        assert explained is None


def test_verdict_says_what_was_found(make_model, base, tokenizer) -> None:
    report = check_conditioning(make_model(), base, tokenizer, TASKS)

    def verdict(explained: Interval | None) -> str:
        return dataclasses.replace(report, explained=explained).verdict

    assert verdict(Interval(0.71, 0.6, 0.8)).startswith(
        "the description explains 71 % of the adapters' gain (95 % interval 60 to 80 %): this share is lost with "
        "another"
    )
    assert verdict(Interval(0.02, -0.1, 0.1)).endswith(
        "-10 to 10 %); this interval includes 0, so the share may be due to chance"
    )
    loss = "with adapters {matched:.3f}, without {none:.3f}".format(
        **{name: condition.loss.mean for name, condition in report.conditions.items()}
    )
    report = dataclasses.replace(report, gain=Interval(-0.2, -0.3, -0.1))
    assert verdict(None) == (
        f"the adapters do not lower the loss on these tasks ({loss}): there is no gain for the description to explain"
    )
    report = dataclasses.replace(report, gain=Interval(0.58, -0.02, 1.1))
    assert verdict(None).startswith(
        f"the adapters lower the loss on these 4 tasks by 0.580 ({loss}), but the 95 % interval, -0.020 to 1.100, "
        "includes zero: the gain may be due to chance"
    )


def test_pictures_are_drawn_without_a_display(make_model, base, tokenizer, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = check_conditioning(make_model(), base, tokenizer, TASKS)
    plot_conditions(report, tmp_path / "conditions.png")
    plot_similarities(report, tmp_path / "similarity.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("conditions.png", "similarity.png"))


def test_missing_matplotlib_is_said_in_one_line(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("train"))):
        require_matplotlib()


def test_of_a_prompt_that_is_too_long_the_middle_is_left_out(make_model, base, tokenizer) -> None:
    tasks = [CheckTask(name, [name], [("x" * 900 + name, "A")]) for name in ("city", "case")]
    report = check_conditioning(make_model(), base, tokenizer, tasks)
    cut = [CheckTask(t.name, t.descriptions, [("x" * (254 - 2 - len(t.name)) + t.name, "A")]) for t in tasks]
    assert (
        report.conditions["none"].losses
        == check_conditioning(make_model(), base, tokenizer, cut).conditions["none"].losses
    )


def test_one_task_cannot_be_shuffled(make_model, base, tokenizer) -> None:
    with pytest.raises(EvaluationError, match=r"expected two or more tasks, .* got 1"):
        check_conditioning(make_model(), base, tokenizer, TASKS[:1])


def test_tasks_come_with_their_held_out_wording_second(tmp_path: Path) -> None:
    row = {"name": "n", "descriptions": [" one ", "two"], "definition": "D", "examples": [["a", "b"], ["c", "d"]]}
    lines = [row, row | {"name": "m", "held_out_descriptions": ["three"]}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert prepare_tasks(read_tasks(tmp_path / "t.jsonl"), 1) == [
        CheckTask("n", ["one", "two"], [("a", "b")]),
        CheckTask("m", ["one", "three", "two"], [("a", "b")]),
    ]


def test_cosines_are_those_of_the_whole_delta_w(make_model) -> None:
    model = make_model()
    adapters = model.generate_lora(["city", "the case", "upper"])
    adapters[1] = dataclasses.replace(adapters[1], weights={k: w * -0.5 for k, w in adapters[1].weights.items()})
    adapters[2] = dataclasses.replace(
        adapters[2], weights={k: -w if ".lora_A." in k else w for k, w in adapters[2].weights.items()}
    )
    whole = []
    for adapter in adapters:
        keys = sorted(key for key in adapter.weights if ".lora_A." in key)
        parts = [adapter.spec.scaling * adapter.weights[k.replace("_A", "_B")] @ adapter.weights[k] for k in keys]
        whole.append(torch.cat([part.flatten() for part in parts]).double())
    expected = torch.nn.functional.cosine_similarity(torch.stack(whole)[:, None], torch.stack(whole)[None], dim=-1)
    assert torch.allclose(cosine_matrix(adapters), expected, atol=1e-5)
    assert cosine_matrix(adapters)[0, 2] < 0 < cosine_matrix(adapters)[0, 1]


def test_cosines_know_adapters_of_zeros_and_of_other_bases(make_model) -> None:
    adapters = make_model().generate_lora(["city", "case"])
    adapters[0] = dataclasses.replace(
        adapters[0], weights={key: torch.zeros_like(weight) for key, weight in adapters[0].weights.items()}
    )
    assert cosine_matrix(adapters).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(CheckpointError, match="different modules or shapes"):
        cosine_matrix([adapters[0], make_model(("q_proj",)).generate_lora("city")])


def test_means_leave_padding_out() -> None:
    states = torch.tensor([[[2.0, 0.0], [4.0, 2.0], [0.0, 0.0]]])
    assert mean_over_tokens(states).tolist() == [[3.0, 1.0]]
    assert mean_over_tokens(states[:, 0]).tolist() == [[2.0, 0.0]]


def test_correlations_on_known_numbers() -> None:
    one = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert pearson(one, 2 * one - 5) == pytest.approx(1)
    assert spearman(one, one.exp()) == pytest.approx(1)
    assert spearman(one, -(one**3)) == pytest.approx(-1)
    assert spearman(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(0.75**0.5)
    assert pearson(one, torch.ones(4)) != pearson(one, torch.ones(4))


def test_picks_are_the_same_for_all_who_ask() -> None:
    assert torch.equal(resample(7), resample(7))
    assert percentile_interval(torch.tensor([1.0, float("nan"), 1.0])) == (1.0, 1.0)
