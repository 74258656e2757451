"""Losses and matches on answers, against token-by-token references."""

from __future__ import annotations

import pytest
import torch
from documents import AnswerCollator, exact_match
from transformers import (
    Gemma2ForCausalLM,
    GPT2LMHeadModel,
    GraniteForCausalLM,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3ForCausalLM,
)

from text2lora.errors import InvalidArgumentError
from text2lora.inference import generate_answers
from text2lora.language import answer_logits, answer_loss, prompt_batch
from text2lora.turns import as_turn

EXAMPLES = [("city?", "Oslo"), ("a much longer question", "no"), ("x", "")]


def test_exactly_the_response_and_its_end_are_predicted(tokenizer) -> None:
    batch = prompt_batch(tokenizer, EXAMPLES)
    for row, target, (prompt, response) in zip(batch.ids, batch.is_target, EXAMPLES, strict=True):
        assert tokenizer.decode(row).startswith(f"<user>{prompt}<answer>{response}<eos>")
        assert tokenizer.decode(row[1:][target]) == response + "<eos>"
        assert (row[len(tokenizer(f"<user>{prompt}<answer>{response}<eos>")["input_ids"]) :] == 0).all()


def test_prompt_ends_where_generation_begins(tokenizer) -> None:
    batch = prompt_batch(tokenizer, EXAMPLES[:1])
    chat = [{"role": "user", "content": "city?"}]
    begin = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert batch.ids[0][: len(begin)].tolist() == begin
    assert batch.is_target[0].nonzero()[0].item() == len(begin) - 1  # that position predicts the first answer token


def test_models_that_can_think_learn_and_give_answers_only(tokenizer) -> None:
    """The empty thought of Qwen3's template is part of the prompt, not of what is learned."""
    template, tokenizer.chat_template = (
        tokenizer.chat_template,
        "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% else %}<answer><unk>{{ m.content }}"
        "<eos>{% endif %}{% endfor %}{% if add_generation_prompt %}<answer>"
        "{% if enable_thinking is defined and enable_thinking is false %}<unk>{% endif %}{% endif %}",
    )
    try:
        batch = prompt_batch(tokenizer, [("a", "c")])
        assert tokenizer.decode(batch.ids[0]) == "<user>a<answer><unk>c<eos>"
        assert tokenizer.decode(batch.ids[0][1:][batch.is_target[0]]) == "c<eos>"
        assert as_turn(tokenizer, "a") == "<user>a<answer><unk>"
    finally:
        tokenizer.chat_template = template


@torch.no_grad()
def test_loss_equals_that_of_one_unpadded_row_at_a_time(base, tokenizer) -> None:
    expected = torch.tensor(0.0)
    for prompt, response in EXAMPLES:
        begin = tokenizer(f"<user>{prompt}<answer>")["input_ids"]
        ids = begin + tokenizer(response + "<eos>")["input_ids"]
        log_probs = base(torch.tensor([ids])).logits[0].log_softmax(-1)
        for position in range(len(begin), len(ids)):
            expected -= log_probs[position - 1, ids[position]]
    torch.testing.assert_close(answer_loss(base, prompt_batch(tokenizer, EXAMPLES)), expected, rtol=1e-4, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (Gemma2ForCausalLM, {"head_dim": 8, "final_logit_softcapping": 2.0}),
        (GraniteForCausalLM, {"logits_scaling": 0.1}),
        (Qwen3ForCausalLM, {"head_dim": 8}),
    ],
)
def test_loss_is_that_of_the_models_own_logits(tokenizer, kind: type, more: dict) -> None:
    """Some architectures cap or scale what their output layer gives."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    base = kind(kind.config_class(vocab_size=261, num_key_value_heads=2, pad_token_id=0, **sizes, **more)).eval()
    base.get_output_embeddings().weight.normal_()
    batch = prompt_batch(tokenizer, EXAMPLES)
    logits = base(batch.ids[:, :-1]).logits[batch.is_target]
    expected = torch.nn.functional.cross_entropy(logits, batch.ids[:, 1:][batch.is_target], reduction="sum")
    torch.testing.assert_close(answer_loss(base, batch), expected, rtol=1e-4, atol=1e-3)


PACKABLE = {
    "llama": (LlamaForCausalLM, {"num_key_value_heads": 2}),
    "gemma2": (Gemma2ForCausalLM, {"head_dim": 8, "num_key_value_heads": 2, "sliding_window": 256}),
    "gpt2": (GPT2LMHeadModel, {"n_positions": 128}),
}


@pytest.mark.parametrize("name", PACKABLE)
@pytest.mark.parametrize("pack", [2, 3, 6])
@torch.no_grad()
def test_packed_examples_are_read_as_if_each_stood_alone(tokenizer, name: str, pack: int) -> None:
    kind, more = PACKABLE[name]
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = kind(kind.config_class(vocab_size=261, pad_token_id=0, **sizes, **more)).eval()
    model.get_output_embeddings().weight.normal_()
    examples = [(f"the same beginning, {prompt}", response) for prompt, response in [*EXAMPLES, *EXAMPLES[::-1]]]
    alone, packed = prompt_batch(tokenizer, examples), prompt_batch(tokenizer, examples, pack=pack)
    assert packed.ids.shape[0] == 6 // pack
    assert packed.num_tokens < alone.num_tokens
    for weighting in ("token", "answer"):
        assert packed.units(weighting) == alone.units(weighting)
        expected = answer_loss(model, alone, weighting)
        torch.testing.assert_close(answer_loss(model, packed, weighting), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(exact_match(model, packed), exact_match(model, alone))


@torch.no_grad()
def test_examples_longer_than_a_models_window_have_their_own_rows(tokenizer) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=261, num_key_value_heads=2, pad_token_id=0, sliding_window=16, **sizes)
    model = MistralForCausalLM(config).eval()
    model.get_output_embeddings().weight.normal_()
    for prompt, rows in (("short", 1), ("one that is longer than sixteen tokens", 2)):
        examples = [(prompt, "yes"), (prompt, "no")]
        batch = prompt_batch(tokenizer, examples, pack=2, model=model)
        assert batch.ids.shape[0] == rows
        expected = answer_loss(model, prompt_batch(tokenizer, examples))
        torch.testing.assert_close(answer_loss(model, batch), expected, rtol=1e-4, atol=1e-4)
    model.config._attn_implementation = "flash_attention_2"
    assert prompt_batch(tokenizer, [("a", "b"), ("c", "d")], pack=2, model=model).ids.shape[0] == 2


def test_one_prompt_that_begins_another_can_be_packed(base, tokenizer) -> None:
    examples = [("a", "b"), ("a", "c"), ("aa", "d")]
    alone, packed = prompt_batch(tokenizer, examples), prompt_batch(tokenizer, examples, pack=3)
    torch.testing.assert_close(answer_loss(base, packed), answer_loss(base, alone), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_by_answer_every_answer_counts_the_same(base, tokenizer) -> None:
    collate = AnswerCollator(tokenizer, "<answer>", "<eos>")
    batch = collate(["<user>a<answer>bc<eos><user>d<answer>efgh<eos>", "<user>i<answer>j<eos>"])
    log_probs = base(batch.ids).logits.log_softmax(-1)
    means = []
    for row, answers in ((0, ["bc", "efgh"]), (1, ["j"])):
        ids = batch.ids[row].tolist()
        for answer in answers:
            wanted = tokenizer(answer + "<eos>")["input_ids"]
            start = next(i for i in range(len(ids)) if ids[i : i + len(wanted)] == wanted)
            means.append(-sum(log_probs[row, start + i - 1, token] for i, token in enumerate(wanted)) / len(wanted))
    assert batch.units("answer") == 3
    assert batch.units("token") == 3 + 5 + 2
    torch.testing.assert_close(answer_loss(base, batch, "answer"), sum(means), rtol=1e-4, atol=1e-4)


def test_an_unknown_weighting_is_refused(base, tokenizer) -> None:
    with pytest.raises(InvalidArgumentError, match="'sentence': expected 'token' or 'answer'"):
        prompt_batch(tokenizer, EXAMPLES).units("sentence")


def test_collator_marks_what_stands_between_begin_and_end(tokenizer) -> None:
    collate = AnswerCollator(tokenizer, "<answer>", "<eos>")
    batch = collate(["<user>a<answer>bc<eos><user>d<answer>e<eos>", "<user>f<answer>g<eos>"])
    answers = [tokenizer.decode(row[1:][target]) for row, target in zip(batch.ids, batch.is_target, strict=True)]
    assert answers == ["bc<eos>e<eos>", "g<eos>"]


@pytest.fixture
def deterministic(base):
    """A base whose next token follows from the last one alone, so that greedy answers are short and end."""
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.zero_()
        base.model.norm.weight.fill_(1.0)
        generator = torch.Generator().manual_seed(0)
        base.model.embed_tokens.weight.copy_(torch.randn(261, 32, generator=generator))
        base.lm_head.weight.copy_(base.model.embed_tokens.weight.roll(7, 0))  # token i is followed by i + 7
    return base


@torch.no_grad()
def test_exact_match_equals_greedy_generation(deterministic, tokenizer) -> None:
    base = deterministic
    gold = generate_answers(base, tokenizer, ["q"], max_new_tokens=4)[0]
    examples = [("q", gold[:n]) for n in range(1, 5)] + [("q", "no"), ("other", gold), ("q", gold + "x")]
    batch = prompt_batch(tokenizer, examples)
    expected = []
    for prompt, response in examples:
        begin = tokenizer(f"<user>{prompt}<answer>", return_tensors="pt")["input_ids"]
        answer = tokenizer(response + "<eos>")["input_ids"]
        made = base.generate(begin, max_new_tokens=len(answer), do_sample=False, eos_token_id=1, pad_token_id=0)
        expected.append(made[0, begin.shape[1] :].tolist() == answer)
    assert exact_match(base, batch).tolist() == expected


@torch.no_grad()
def test_exact_match_finds_right_answers_and_the_last_of_a_row(base, tokenizer) -> None:
    """Gold answers are made greedily token by token, one of them is spoilt, and two stand in one row."""
    collate = AnswerCollator(tokenizer, "<answer>", "<eos>")
    batch = collate(["<user>a<answer>bc<eos><user>d<answer>e<eos>", "<user>f<answer>g<eos>"])
    base.model.embed_tokens.weight.normal_()
    # teach the output layer nothing: overwrite the gold by what the model says, from left to right
    for row in range(2):
        for position in batch.is_target[row].nonzero()[:, 0].tolist():
            batch.ids[row, position + 1] = base(batch.ids[row : row + 1, : position + 1]).logits[0, -1].argmax()
    assert exact_match(base, batch).tolist() == [True, True, True]
    logits, labels = answer_logits(base, batch)
    assert torch.equal(logits.argmax(-1), labels)
    last = batch.is_target[0].nonzero()[-1, 0] + 1
    batch.ids[0, last] = (batch.ids[0, last] + 1) % 261
    assert exact_match(base, batch).tolist() == [True, False, True]
    assert exact_match(base, batch, last_only=True).tolist() == [False, True]
