"""Adapters as functions: each call sees its own adapter, alone, in a batch, in threads and in an event loop."""

from __future__ import annotations

import asyncio
import copy
import gc
import math
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tiny_models import randomise
from transformers import AutoModelForCausalLM

import text2lora
from text2lora import LoraAdapter, Text2LoraModel
from text2lora.confidence import Calibration
from text2lora.errors import CheckpointError, InvalidArgumentError, InvalidInputError
from text2lora.functions import call_many
from text2lora.inference import generate_answers

TEXTS = ["x", "a much longer text than the others", "order A1", "y", "what"]
DESCRIPTIONS = ["upper case the city", "the price", "two words"]


@pytest.fixture(scope="module")
def maker(checkpoint_dir) -> Text2LoraModel:
    return Text2LoraModel.from_pretrained(checkpoint_dir)


@pytest.fixture(scope="module")
def functions(maker):
    return [maker.function(text, max_new_tokens=8, scale=2) for text in DESCRIPTIONS]


@pytest.fixture(scope="module")
def expected(functions, base_dir, tokenizer) -> list[list[str]]:
    """What plain PEFT answers, one text at a time."""

    def answers(adapter: LoraAdapter) -> list[str]:
        model = adapter.apply_to(AutoModelForCausalLM.from_pretrained(base_dir))
        return [generate_answers(model, tokenizer, [text], 8)[0] for text in TEXTS]

    found = [answers(function.adapter) for function in functions]
    assert found[0] != found[1] != found[2]
    return found


def test_a_function_answers_as_peft_does(functions, expected) -> None:
    assert [functions[0](text) for text in TEXTS] == expected[0]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_batch_gives_the_answers_of_one_by_one_in_order(functions, expected, batch_size: int) -> None:
    assert functions[0].many(TEXTS, batch_size) == expected[0]
    assert functions[0].many([]) == []


def test_a_batch_may_mix_functions(functions, expected) -> None:
    calls = [(function, text) for text in TEXTS for function in functions]
    assert call_many(calls, 4) == [answers[i] for i in range(len(TEXTS)) for answers in expected]


def test_adapters_of_other_ranks_and_modules_share_a_batch(functions, make_model, load_base, tokenizer) -> None:
    other = make_model(("down_proj",), lora_r=2, use_rslora=False).generate_lora(task_emb=torch.randn(1, 24))[0]
    function = text2lora.function(other.scaled(3), max_new_tokens=8)
    assert function._runner is functions[0]._runner
    alone = generate_answers(other.scaled(3).apply_to(load_base()), tokenizer, ["x"], 8)
    assert call_many([(functions[0], "y"), (function, "x")])[1:] == alone


def test_threads_do_not_see_each_others_adapters(functions, expected) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda pair: pair[0](pair[1]), [(f, text) for f in functions for text in TEXTS]))
    assert found == [answer for answers in expected for answer in answers]


def test_waiting_calls_share_a_batch_and_only_the_wrong_one_fails(functions, expected, monkeypatch) -> None:
    sizes, generate = [], functions[0]._runner.model.generate
    monkeypatch.setattr(
        functions[0]._runner.model, "generate", lambda **kw: [sizes.append(len(kw["input_ids"])), generate(**kw)][1]
    )

    async def serve() -> list[object]:
        calls = [function.acall(text) for function in functions for text in TEXTS]
        return await asyncio.gather(*calls, functions[0].acall(" "), return_exceptions=True)

    *answers, refused = asyncio.run(serve())
    assert answers == [answer for answers in expected for answer in answers]
    assert isinstance(refused, InvalidInputError)
    assert max(sizes) > 1


def test_a_failure_of_the_model_reaches_everyone_who_waits(functions, monkeypatch) -> None:
    def fail(**options: object) -> None:
        raise MemoryError

    async def serve() -> list[object]:
        return await asyncio.gather(*(functions[0].acall(text) for text in TEXTS), return_exceptions=True)

    with monkeypatch.context() as patched:
        patched.setattr(functions[0]._runner.model, "generate", fail)
        assert {type(result) for result in asyncio.run(serve())} == {MemoryError}
    assert asyncio.run(functions[0].acall("x")) == functions[0]("x")


def test_functions_share_one_base_and_leave_it_as_it_is(functions, maker, expected, load_base, monkeypatch) -> None:
    monkeypatch.setattr("text2lora.base.load_base", lambda *args, **kw: pytest.fail("a second base was loaded"))
    another = text2lora.function(functions[0].adapter, max_new_tokens=8)
    model = maker.generate_adapter(DESCRIPTIONS[1])
    pointers = {f._runner.model.lm_head.weight.data_ptr() for f in [another, *functions]}
    assert pointers == {model.get_base_model().lm_head.weight.data_ptr()}
    assert another.many(TEXTS) == expected[0]
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        assert torch.equal(functions[0]._runner.model(ids).logits, load_base()(ids).logits)


def test_a_base_goes_when_no_function_needs_it(base_dir, functions, tmp_path) -> None:
    from text2lora.functions import _RUNNERS

    shutil.copytree(base_dir, tmp_path / "copy")
    function = text2lora.function(functions[0].adapter, base=tmp_path / "copy")
    before = len(_RUNNERS)
    del function
    gc.collect()
    assert len(_RUNNERS) == before - 1


def test_a_sentence_becomes_a_function_in_one_call(checkpoint_dir, functions, tmp_path) -> None:
    made = text2lora.function(do=DESCRIPTIONS[0], model=checkpoint_dir, max_new_tokens=8)
    made.adapter.save_pretrained(tmp_path / "mine")
    assert made("x") == text2lora.function(tmp_path / "mine", max_new_tokens=8)("x")
    assert "upper case the city" in repr(made)


def test_a_copy_answers_alike_and_another_process_needs_the_adapter(functions, expected) -> None:
    for made in (copy.copy(functions[0]), copy.deepcopy(functions[0])):
        assert made is not functions[0]
        assert made.many(TEXTS) == expected[0]
    with pytest.raises(InvalidInputError, match=r"cannot be pickled.*text2lora\.function\(adapter\)"):
        pickle.dumps(functions[0])
    sent = pickle.loads(pickle.dumps(functions[0].adapter))
    assert text2lora.function(sent, max_new_tokens=8).many(TEXTS) == expected[0]


def test_functions_of_a_checkpoint_use_one_hypernetwork(checkpoint_dir, monkeypatch) -> None:
    loads: list[object] = []
    load = Text2LoraModel._read.__func__
    monkeypatch.setattr(
        Text2LoraModel, "_read", classmethod(lambda cls, *args, **kw: loads.append(args) or load(cls, *args, **kw))
    )
    made = [text2lora.function(do=text, model=checkpoint_dir, subfolder="./") for text in DESCRIPTIONS]
    assert len(loads) == 1
    del made[:2]
    made.append(text2lora.function(do="another", model=checkpoint_dir, subfolder="./"))
    assert len(loads) == 1


LABELS = ["yes", "yesterday", "no"]


def slow_scores(adapter: LoraAdapter, base, tokenizer, text: str) -> dict[str, float]:
    """The log probability of every token of a label and of the end, one label at a time."""
    model = adapter.apply_to(base)
    prompt = tokenizer(f"<user>{text}<answer>", add_special_tokens=False)["input_ids"]
    sums = []
    for label in LABELS:
        answer = tokenizer(label + "<eos>", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            log_probabilities = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        sums.append(sum(log_probabilities[len(prompt) + i - 1, token] for i, token in enumerate(answer)))
    return dict(zip(LABELS, torch.stack(sums).softmax(0).tolist(), strict=True))


@pytest.mark.parametrize("stateful", [False, True])
def test_scores_are_the_probabilities_of_whole_labels(maker, load_base, tokenizer, monkeypatch, stateful: bool) -> None:
    function = maker.function(DESCRIPTIONS[0], labels=LABELS)
    monkeypatch.setattr(function._runner.model, "_is_stateful", stateful)  # as of a model that takes no mask of ours
    found = function.scores(TEXTS)
    for text, scores in zip(TEXTS, found, strict=True):
        slow = slow_scores(function.adapter, load_base(), tokenizer, text)
        assert scores == pytest.approx(slow, rel=1e-3)
        assert list(scores) == sorted(slow, key=lambda label: -slow[label])
        assert function(text) == next(iter(scores))
        assert function.scores(text) == pytest.approx(scores, rel=1e-3)
    assert function.many(TEXTS) == [next(iter(scores)) for scores in found]


def test_labelled_and_free_functions_share_a_call(functions, expected, maker) -> None:
    labelled = maker.function(DESCRIPTIONS[1], labels=LABELS)
    assert call_many([(functions[0], "x"), (labelled, "x"), (functions[0], "y")]) == [
        expected[0][0],
        labelled("x"),
        expected[0][3],
    ]


def slow_log_probs(adapter: LoraAdapter, base, tokenizer, text: str, answer: list[int]) -> list[float]:
    """The log probability of each token of an answer, in one pass over all of it."""
    prompt = tokenizer(f"<user>{text}<answer>", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        log_probs = adapter.apply_to(base)(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return [float(log_probs[len(prompt) + i - 1, token]) for i, token in enumerate(answer)]


@torch.no_grad()
def written(adapter: LoraAdapter, base, tokenizer, text: str, count: int) -> list[int]:
    """The tokens of a greedy answer, up to and with its end."""
    ids = tokenizer(f"<user>{text}<answer>", add_special_tokens=False)["input_ids"]
    model, found = adapter.apply_to(base), []
    while len(found) < count and tokenizer.eos_token_id not in found:
        found.append(int(model(torch.tensor([ids + found])).logits[0, -1].argmax()))
    return found


def test_confidence_is_the_probability_of_the_answer_where_nothing_is_calibrated(
    functions, expected, load_base, tokenizer
) -> None:
    for batch_size in (1, 32):
        found = functions[0].many(TEXTS, batch_size, with_confidence=True)
        assert [answer.text for answer in found] == expected[0]
        for text, answer in zip(TEXTS, found, strict=True):
            ids = written(functions[0].adapter, load_base(), tokenizer, text, 8)
            slow = math.exp(sum(slow_log_probs(functions[0].adapter, load_base(), tokenizer, text, ids)))
            assert answer.confidence == pytest.approx(slow, rel=1e-3)
            assert answer.probabilities is None


def test_the_confidence_of_a_stopped_answer_is_that_of_its_tokens_alone_and_in_a_batch(maker, expected) -> None:
    end = max(expected[0], key=len)[2]
    function = maker.function(DESCRIPTIONS[0], stop=end, max_new_tokens=8, scale=2)
    together = [answer.confidence for answer in function.many(TEXTS, with_confidence=True)]
    assert together == pytest.approx([function(text, with_confidence=True).confidence for text in TEXTS], rel=1e-3)


def test_the_confidence_of_a_label_is_its_probability_among_the_labels(maker) -> None:
    function = maker.function(DESCRIPTIONS[0], labels=LABELS)
    for text, answer in zip(TEXTS, function.many(TEXTS, with_confidence=True), strict=True):
        assert answer.probabilities == pytest.approx(function.scores(text), rel=1e-3)
        assert answer.confidence == answer.probabilities[answer.text] == max(answer.probabilities.values())


def test_a_calibration_goes_with_the_checkpoint_and_its_adapters(checkpoint_dir, tmp_path) -> None:
    maker = Text2LoraModel.from_pretrained(checkpoint_dir)
    assert maker.calibration is None
    plain = maker.function(DESCRIPTIONS[0], max_new_tokens=8)
    maker.calibration = Calibration(total=0.5, mean=0.25, least=0.125, bias=1.0)
    maker.save_pretrained(tmp_path / "checkpoint")
    loaded = Text2LoraModel.from_pretrained(tmp_path / "checkpoint")
    loaded.function(DESCRIPTIONS[0]).adapter.save_pretrained(tmp_path / "adapter")
    function = text2lora.function(tmp_path / "adapter", max_new_tokens=8)
    assert function.calibration == loaded.calibration == maker.calibration
    answer = asyncio.run(function.acall("x", with_confidence=True))
    assert answer == function("x", with_confidence=True)
    assert answer.text == plain("x")
    assert answer.confidence != plain("x", with_confidence=True).confidence
    (tmp_path / "checkpoint" / "confidence.json").write_text('{"total": "much"}')
    damaged = Text2LoraModel.from_pretrained(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"confidence\.json does not contain a calibration"):
        _ = damaged.calibration
    with pytest.raises(
        CheckpointError, match=r"confidence\.json does not contain a calibration of answers .*: download it again"
    ):
        damaged.function(DESCRIPTIONS[0])  # and none whose confidence nobody can trust
    with pytest.raises(InvalidArgumentError, match=r"calibration is 1: expected Calibration \| None"):
        damaged.calibration = 1


@pytest.mark.parametrize("made", [False, True])
def test_a_base_or_checkpoint_that_is_written_anew_is_loaded_anew(
    make_model, base_dir, tmp_path, monkeypatch, made: bool
) -> None:
    """As one is that was trained further in place; what is in use goes on with what it has."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base_dir, "nano")  # a Path is no name of a built-in base
    model = make_model(base_model_name_or_path=str(tmp_path / "nano"))
    model.save_pretrained("smol")
    adapter = model.generate_lora(DESCRIPTIONS[0])

    def make() -> text2lora.Function:
        if made:
            return text2lora.function(do=DESCRIPTIONS[0], model=Path("smol"))
        return text2lora.function(adapter, base=Path("nano"))

    first, second = make(), make()
    assert first._runner is second._runner
    changed = model if made else AutoModelForCausalLM.from_pretrained(base_dir)
    randomise(changed, seed=9)
    changed.save_pretrained("smol" if made else "nano")
    third = make()
    assert all(torch.equal(v, first.adapter.weights[k]) for k, v in second.adapter.weights.items())
    assert (third._runner is first._runner) == made
    assert third("x") != first("x") == second("x")


def test_stop_ends_an_answer_before_it(maker, functions, expected) -> None:
    text = max(expected[0], key=len)
    row, end = expected[0].index(text), text[2]
    function = maker.function(DESCRIPTIONS[0], stop=end, max_new_tokens=8, scale=2)
    assert function(TEXTS[row]) == text[: text.index(end)].strip()


def test_an_answer_ends_with_the_context_alone_and_in_a_batch(maker) -> None:
    function = maker.function(DESCRIPTIONS[0], max_new_tokens=500)  # the base reads 256 tokens
    texts = ["x" * 190, "y" * 189, "z" * 150, "w"]
    assert function.many(texts) == [function(text) for text in texts]
    with pytest.raises(InvalidInputError, match=r"the input has 193 tokens, but this base model reads at most 192"):
        function("x" * 191)
    with pytest.raises(InvalidInputError, match=r"text 2 of 2: the input has 193"):
        function.many(["x", "x" * 191])
    labelled = maker.function(DESCRIPTIONS[0], labels=["no", "y" * 90])
    with pytest.raises(InvalidInputError, match=r"the answer has 91 tokens, but .* 256 tokens leaves only \d+ after"):
        labelled("x" * 180)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the input is empty"),
        (" \n", "the input is empty"),
        (None, "the input is NoneType: expected a string"),
        (b"x", "the input is bytes: expected a string"),
        ("half \ud800", "not valid text"),
    ],
)
def test_an_input_that_is_no_text_is_refused(functions, text, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        functions[0](text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "yes"}, "labels are 'yes': expected two or more"),
        ({"labels": ["yes"]}, "expected two or more"),
        ({"labels": ["yes", ""]}, "expected two or more texts, none of them empty"),
        ({"labels": ["yes", 1]}, "expected two or more"),
        ({"labels": ["yes", "no", "yes"]}, "'yes' more than once"),
        ({"stop": [""]}, "stop is"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(maker, options, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        maker.function("the price", **options)
    with pytest.raises(InvalidInputError, match=message):  # before anything is loaded
        text2lora.function("absent", **options)


def test_other_wrong_calls_are_refused(functions, maker, make_model, base_dir) -> None:
    with pytest.raises(InvalidInputError, match="many takes a list of texts"):
        functions[0].many("one text")
    with pytest.raises(InvalidInputError, match="with_confidence is 'yes': expected True or False"):
        functions[0]("x", with_confidence="yes")
    with pytest.raises(InvalidInputError, match="batch_size is 0"):
        functions[0].many(["x"], 0)
    with pytest.raises(InvalidInputError, match="has no labels to score"):
        functions[0].scores("x")
    with pytest.raises(InvalidArgumentError, match="got neither of them"):
        text2lora.function()
    with pytest.raises(InvalidArgumentError, match="got both of them"):
        text2lora.function(functions[0].adapter, do="the price")
    with pytest.raises(InvalidArgumentError, match="got model with an adapter, pass base instead"):
        text2lora.function(functions[0].adapter, model="smol")
    with pytest.raises(InvalidArgumentError, match="got base with do or examples, pass model instead"):
        text2lora.function(do="the price", base="smol")
    with pytest.raises(InvalidArgumentError, match="'revision' is of no use with a LoraAdapter"):
        text2lora.function(functions[0].adapter, revision="main")
    with pytest.raises(InvalidArgumentError, match=r"^model is a loaded Text2LoraModel: call its own function\(...\)"):
        text2lora.function(do="the price", model=maker)
    with pytest.raises(InvalidArgumentError, match=r"^adapter is Text2LoraModel: call its own function"):
        text2lora.function(maker)
    adapted = functions[0].adapter.apply_to(AutoModelForCausalLM.from_pretrained(base_dir))
    with pytest.raises(InvalidArgumentError, match=r"^adapter is PeftModelForCausalLM: pass a folder, a Hub id"):
        text2lora.function(adapted)
    with pytest.raises(CheckpointError, match=r"^PeftModelForCausalLM is not a path"):
        LoraAdapter.from_pretrained(adapted)
    with pytest.raises(InvalidArgumentError, match=r"^device is 'abacus', which cannot be used here"):
        text2lora.function(do="the price", device="abacus")
    with pytest.raises(TypeError, match="unexpected keyword argument 'lables'"):
        text2lora.function(functions[0].adapter, lables=["yes", "no"])
    weights = {key: torch.ones(4, 5) if "_A" in key else torch.ones(5, 4) for key in functions[0].adapter.weights}
    with pytest.raises(CheckpointError, match="5 features for"):
        text2lora.function(LoraAdapter(weights, functions[0].adapter.spec))


def test_the_options_of_the_hub_are_used_for_the_base_of_an_adapter_too(functions, monkeypatch, tmp_path) -> None:
    asked = []
    load, hub = AutoModelForCausalLM.from_pretrained, {"token": "hf_x", "cache_dir": "c", "local_files_only": True}

    def note(*args, **options):
        asked.append(options)
        return load(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", note)
    adapter = functions[0].adapter
    shutil.copytree(adapter.spec.base_model_name_or_path, tmp_path / "base")
    text2lora.function(adapter, base=tmp_path / "base", **hub)
    assert asked[0].items() >= hub.items()


def test_names_of_one_device_share_a_base(make_model, load_base, tmp_path: Path, monkeypatch) -> None:
    """As `cuda`, which `t2l run` takes, and `cuda:0`, which a checkpoint on it names."""
    monkeypatch.chdir(tmp_path)
    make_model().save_pretrained("checkpoint")
    made = text2lora.function(do=DESCRIPTIONS[0], model="checkpoint", device="cpu:0")
    plain = [text2lora.function(made.adapter, device=device) for device in ("cpu", "cpu:0", "auto")]
    assert len({id(function._runner) for function in [made, *plain]}) == (1 if not torch.cuda.is_available() else 2)
