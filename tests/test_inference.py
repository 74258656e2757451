"""What texts of a batch begin with is read once, and their answers stay as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from text2lora import inference
from text2lora.errors import InvalidInputError
from text2lora.functions import call_many
from text2lora.inference import complete, complete_ids, generate_answers

BEGINNING = list(range(5, 55))
IDS = [BEGINNING + rest for rest in ([60], [70, 71, 72, 73, 74], [80, 81], [60, 90, 91])]
SIZES = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """How many tokens each batch has read beforehand."""
    found = []

    def spy(*args, real=inference._read_beginning):
        found.append((result := real(*args))[0])
        return result

    monkeypatch.setattr(inference, "_read_beginning", spy)
    return found


@pytest.mark.parametrize(
    ("kind", "options", "shared"),
    [
        ("llama", {}, 50),
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, 50),
        ("qwen3", {}, 50),
        ("gemma3_text", {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}, 0),
        ("mamba", {"state_size": 4}, 0),
        ("bloom", {"n_layer": 2, "n_head": 4}, 0),
    ],
)
def test_a_batch_reads_its_common_beginning_once(kind: str, options: dict, shared: int, tokenizer, read) -> None:
    config = AutoConfig.for_model(kind, **SIZES | options)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)  # or all texts have the same answer
    alone = [complete_ids(model, tokenizer, [row], 6)[0] for row in IDS]
    together = complete_ids(model, tokenizer, IDS, 6)
    assert read == [0, 0, 0, 0, shared]
    assert [one.text for one in together] == [one.text for one in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-3)


@pytest.mark.parametrize("ids", [[[1, 2, 3], [1, 2, 4]], [[*BEGINNING, 60], [61, *BEGINNING]], [BEGINNING]])
def test_a_beginning_that_saves_little_is_not_read_beforehand(ids, base, tokenizer, read) -> None:
    complete_ids(base, tokenizer, ids, 2)
    assert read == [0]


def test_a_text_may_be_the_beginning_of_the_others(base, tokenizer, read) -> None:
    ids = [BEGINNING, BEGINNING, [*BEGINNING, 60]]
    found = [one.text for one in complete_ids(base, tokenizer, ids, 6)]
    assert found[:2] == [one.text for one in complete_ids(base, tokenizer, ids[:2], 6)]
    assert read == [49, 0]


def test_a_base_that_keeps_no_cache_reads_every_row(base, tokenizer, read) -> None:
    expected = complete_ids(base, tokenizer, IDS, 6)
    base.generation_config.use_cache = False
    assert [one.text for one in complete_ids(base, tokenizer, IDS, 6)] == [one.text for one in expected]
    assert read == [50, 0]


def test_every_adapter_of_a_batch_reads_the_beginning(t2l, load_base, tokenizer, read) -> None:
    texts = [f"{'the same words before ' * 4}{end}" for end in ("x", "a longer end", "y", "z", "order", "what")]
    functions = [t2l.function(text, max_new_tokens=8, scale=2) for text in ("upper case the city", "the price")]
    answers = call_many([(functions[i % 2], text) for i, text in enumerate(texts)])
    assert read == [1 + len("the same words before ") * 4]
    for number, function in enumerate(functions):
        model = copy.deepcopy(function.adapter).apply_to(load_base())
        assert answers[number::2] == [generate_answers(model, tokenizer, [text], 8)[0] for text in texts[number::2]]
    assert answers[0::2] != answers[1::2]


def test_a_text_without_tokens_is_named(base, tokenizer) -> None:
    with pytest.raises(InvalidInputError, match="text 2 of 2: the text is empty"):
        complete(base, tokenizer, ["x", ""])
