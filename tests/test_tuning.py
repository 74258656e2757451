"""Adapters that are tuned on examples: better on inputs that were not among them, and never at the base's expense."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import text2lora
from text2lora import LoraAdapter, Text2LoraModel, tuning
from text2lora.cli import app
from text2lora.confidence import Calibration, carried_calibration
from text2lora.errors import InvalidArgumentError, InvalidDescriptionError, InvalidInputError, TaskError
from text2lora.nano import sample_record
from text2lora.training.task_files import read_examples
from text2lora.tuning import tuning_report

EXAMPLES = [("order A1", "yes"), ("a longer text", "no"), ("x", "yes")]


def same(one: LoraAdapter, other: LoraAdapter) -> bool:
    return all(torch.equal(weight, other.weights[key]) for key, weight in one.weights.items())


def distance(one: LoraAdapter, other: LoraAdapter) -> float:
    return max(float((weight - other.weights[key]).abs().max()) for key, weight in one.weights.items())


def loss(adapter: LoraAdapter, base, tokenizer, examples) -> float:
    from text2lora.language import answer_loss, prompt_batch

    with torch.no_grad():
        return float(answer_loss(adapter.apply_to(base), prompt_batch(tokenizer, examples), "answer"))


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that a model with random weights can follow; their latents give answers in no order."""
    monkeypatch.setattr(tuning, "LATENT_RATE", 0.001)
    monkeypatch.setattr(tuning, "OFFSET_RATE", 0.0001)


def quoted_users(count: int, seed: int) -> list[tuple[str, str]]:
    """Log-ins in quotes, out of records that are not among the training ones."""
    found = []
    for i in range(count):
        kind = ("contact", "log", "invoice")[i % 3]
        record, fields = sample_record(kind, 1_000_000 + 1000 * seed + i)
        found.append((record, f'"{fields["email_user"]}"'))
    return found


def test_an_example_lowers_its_loss_and_leaves_everything_else_alone(t2l, load_base, tokenizer, slowly) -> None:
    base = t2l.generate_adapter("the city").get_base_model()
    before = {name: value.clone() for name, value in [*t2l.named_parameters(), *base.named_parameters()]}
    plain, steps = t2l.generate_lora("the city"), []
    tuned = t2l.generate_lora("the city", examples=EXAMPLES[:1], on_step=lambda *step: steps.append(step))
    assert loss(tuned, load_base(), tokenizer, EXAMPLES[:1]) < loss(plain, load_base(), tokenizer, EXAMPLES[:1])
    assert steps[0] == (1, tuning.STEPS)
    assert tuned.metadata["examples"] == "1"
    assert 1 <= int(tuned.metadata["tuning_steps"]) <= len(steps)
    after = dict([*t2l.named_parameters(), *base.named_parameters()])
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(value.grad is None for value in after.values())
    assert all(parameter.requires_grad for parameter in t2l.parameters())
    assert not any(weight.requires_grad for weight in tuned.weights.values())


@pytest.mark.parametrize("other", ["LATENT_RATE", "OFFSET_RATE"])
def test_latent_and_offset_are_both_tuned(other: str, t2l, load_base, tokenizer, slowly, monkeypatch) -> None:
    monkeypatch.setattr(tuning, other, 0.0)
    plain, tuned = t2l.generate_lora("the city"), t2l.generate_lora("the city", examples=EXAMPLES[:1])
    assert loss(tuned, load_base(), tokenizer, EXAMPLES[:1]) < loss(plain, load_base(), tokenizer, EXAMPLES[:1])


def test_the_step_is_kept_after_which_most_is_right_and_nothing_left_out_is_lost() -> None:
    weights = {"q": (torch.zeros(3, 1, 1, 1), torch.zeros(3, 1, 1, 1))}
    task = tuning._Task(torch.zeros(2), {name: (a[:1], b[:1]) for name, (a, b) in weights.items()}, [("x", "y")] * 4)
    left_out = ([0, 0], [1, 0], [1, 0], [0, 0])  # right answers of the two rows that each leave out a half
    seen = ([0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1])
    for step, (first, all_seen) in enumerate(zip(left_out, seen, strict=True)):
        right = torch.zeros(3, 4, dtype=torch.bool)
        right[0, ::2], right[2] = torch.tensor(first).bool(), torch.tensor(all_seen).bool()
        losses = torch.full((3, 4), 1.0 + step)
        losses[2] = 1.0 - step / 10
        task.judge(step, right, losses, weights)
    assert (task.steps, task.before, task.after) == (2, 0, 1)


def test_tasks_side_by_side_give_what_they_give_alone(t2l, slowly) -> None:
    texts, examples = ["the city", "the price", "two words"], [EXAMPLES, [], EXAMPLES[:1]]
    together = t2l.generate_lora(texts, examples=examples)
    for text, pairs, adapter in zip(texts, examples, together, strict=True):
        alone = t2l.generate_lora(text, examples=pairs or None)
        assert alone.metadata == adapter.metadata
        assert distance(alone, adapter) < 2e-3
    assert distance(together[1], t2l.generate_lora("the price")) < 1e-5
    assert same(t2l.generate_lora("the city", examples=EXAMPLES), t2l.generate_lora("the city", examples=EXAMPLES))


def test_without_a_pack_a_model_gives_the_same(t2l, monkeypatch, slowly) -> None:
    packed = t2l.generate_lora("the city", examples=EXAMPLES)
    base = t2l.load_base_model()
    monkeypatch.setattr(type(base), "_is_stateful", True)
    apart = t2l.generate_lora("the city", examples=EXAMPLES)
    assert packed.metadata == apart.metadata
    assert distance(packed, apart) < 2e-3


def test_a_live_model_is_tuned_on_its_own_base(t2l, load_base) -> None:
    expected = t2l.generate_lora("the city", examples=EXAMPLES)
    for base in (load_base(), t2l.generate_adapter("two words", load_base()), None):
        model = t2l.generate_adapter("the city", base, examples=EXAMPLES)
        key = next(key for key in model.state_dict() if key.endswith("lora_B.default.weight"))
        assert torch.allclose(model.state_dict()[key], expected.weights[key.replace(".default", "")], atol=1e-6)


def test_examples_may_be_written_as_in_files(t2l, slowly) -> None:
    written = [{"prompt": EXAMPLES[0][0], "answer": EXAMPLES[0][1]}, {"prompt": "x", "response": "yes", "answer": "y"}]
    pairs = [EXAMPLES[0], ("x", "yes")]
    assert same(t2l.generate_lora("the city", examples=written), t2l.generate_lora("the city", examples=pairs))


def test_an_adapter_carries_what_its_left_out_examples_say_of_its_answers(t2l, monkeypatch, slowly) -> None:
    calibration = Calibration(total=0.5, mean=0.25, least=0.125, bias=1.0, tuned=-2.0, left_out=3.0)
    monkeypatch.setattr(type(t2l), "calibration", calibration)
    plain, one, tuned = t2l.generate_lora(3 * ["the city"], examples=[[], EXAMPLES[:1], EXAMPLES])
    right = int(tuned.metadata["left_out_correct_after"].split()[0])
    assert carried_calibration(plain.metadata) == carried_calibration(one.metadata) == calibration
    assert carried_calibration(tuned.metadata) == calibration.after_tuning(right / len(EXAMPLES))


def test_no_examples_leave_the_adapter_to_the_description(t2l) -> None:
    assert "examples" not in t2l.generate_lora("the city", examples=[]).metadata


def test_examples_alone_say_what_to_do(t2l) -> None:
    adapter = t2l.generate_lora(examples=EXAMPLES)
    assert "description" not in adapter.metadata
    function = t2l.function(examples=EXAMPLES)
    assert function.adapter.metadata["examples"] == "3"
    assert repr(function) == "Function(from 3 examples)"


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ("x => y", "expected a list of pairs"),
        ([("x",)], "example 1 is"),
        ([("x", "y"), ("", "y")], "example 2: the input is empty"),
        ([("x", " ")], "example 1: the answer is empty"),
        ([("x", 3)], "example 1: the answer is int: expected a string"),
        ([("x", "half \ud800")], "example 1: the answer is not valid text"),
        ([{"prompt": "x"}], "example 1: the answer is NoneType: expected a string"),
        ([{"question": "x", "answer": "y"}], "example 1 is"),
        ([("x", "y")] * 65, "65 examples are too many: expected at most 64"),
    ],
)
def test_examples_that_are_no_pairs_are_refused(t2l, examples, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        t2l.generate_lora("the city", examples=examples)
    with pytest.raises(InvalidInputError, match=message):
        t2l.function("the city", examples=examples)


def test_examples_that_the_base_cannot_read_are_refused_before_tuning(t2l, load_base, monkeypatch) -> None:
    monkeypatch.setattr(tuning, "tune", None)  # the base reads 256 tokens
    long, answered = [("x", "y"), ("x" * 255, "y")], [("x" * 150, "y" * 150)]
    with pytest.raises(InvalidInputError, match=r"^example 2: the input has 257 tokens, but .* at most 254"):
        t2l.generate_adapter("the city", load_base(), examples=long)
    with pytest.raises(InvalidInputError, match=r"^description 3 of 3: example 2: the input has 257 tokens"):
        t2l.generate_lora(["the city", "x", "y"], examples=[EXAMPLES, [], long])
    with pytest.raises(InvalidInputError, match=r"^example 1: the answer has 151 tokens, but .* leaves only 104 after"):
        t2l.function(examples=answered)


def test_other_wrong_calls_are_refused(t2l, tmp_path) -> None:
    with pytest.raises(InvalidInputError, match="a list of pairs for each of the 2 descriptions"):
        t2l.generate_lora(["the city", "x"], examples=EXAMPLES)
    with pytest.raises(InvalidInputError, match="on_step is 3"):
        t2l.generate_lora("the city", examples=EXAMPLES, on_step=3)
    with pytest.raises(InvalidDescriptionError):
        t2l.generate_lora(examples=[])
    with pytest.raises(InvalidArgumentError, match="both of them"):
        text2lora.function("folder", examples=EXAMPLES)
    (tmp_path / "two.jsonl").write_text(json.dumps({"descriptions": ["x"], "examples": [["a", "b"]]}) + "\n\n" * 2)
    assert read_examples(tmp_path / "two.jsonl") == [("a", "b")]
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(TaskError, match=r"bad\.jsonl"):
        read_examples(tmp_path / "bad.jsonl")


@pytest.fixture(scope="module")
def nano() -> Text2LoraModel:
    return Text2LoraModel.from_pretrained("nano")


@pytest.mark.filterwarnings("ignore::text2lora.DescriptionWarning")
def test_four_examples_teach_nano_what_a_sentence_does_not_say(nano) -> None:
    text, unseen = "Strip the domain off the address and quote what's left.", quoted_users(8, 1)
    before = nano.function(text).many([record for record, _ in unseen])
    tuned = nano.function(text, examples=quoted_users(4, 0))
    after = tuned.many([record for record, _ in unseen])
    right = [sum(a == b for a, (_, b) in zip(answers, unseen, strict=True)) for answers in (before, after)]
    assert right[1] >= 7 > right[0] + 3
    assert tuned.adapter.metadata["left_out_correct_after"] == "4 of 4"
    known = nano.generate_lora("Return the city in upper case.")
    record, fields = sample_record("order", 1_000_005)
    kept = nano.generate_lora("Return the city in upper case.", examples=[(record, fields["city"].upper())])
    assert kept.metadata["tuning_steps"] == "0"
    assert same(known, kept)
    assert tuning_report(kept.metadata) == (
        "1 example: no step did better than the description alone, so the adapter is unchanged"
    )


def test_the_command_learns_from_examples(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, *others = quoted_users(3, 0)
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in others))
    given = ["--example", " => ".join(first), "--examples", "examples.jsonl"]
    result = CliRunner().invoke(app, ["make", "the quoted login", "-m", "nano", *given, "-o", "login", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["examples"] == "3"
    adapter = LoraAdapter.from_pretrained("login")
    assert report["tuning_steps"] == adapter.metadata["tuning_steps"]
    assert "a sentence and 3 examples" in (tmp_path / "login" / "README.md").read_text()
    assert "3 examples" in str(tuning_report(adapter.metadata))
    refused = CliRunner().invoke(app, ["make", *given])
    assert "--output" in refused.output
    assert "INPUT => ANSWER" in CliRunner().invoke(app, ["make", "x", "--example", "x"]).output


def test_ctrl_c_keeps_what_the_description_gives(tmp_path, monkeypatch) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "tune", stop)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["make", "the login", "-m", "nano", "--example", "x => y", "-o", "login"])
    assert result.exit_code == 0, result.output
    assert "Stopped" in result.stderr
    assert "examples" not in LoraAdapter.from_pretrained("login").metadata
