"""Where an answer begins and ends: the same in training and in everything that asks a model."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
import warnings

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from text2lora import LoraAdapter, Text2LoraModel
from text2lora.base import load_base_with_tokenizer
from text2lora.errors import CheckpointError, InvalidInputError
from text2lora.export import export_merged
from text2lora.inference import complete, generate_answers
from text2lora.language import prompt_batch
from text2lora.turns import AnswerForm, Stops, as_turn, keeps_turns

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAYERED = (  # of a model that names the channel of an answer, and ends the last turn otherwise than those before it
    "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}<|im_end|>{% else %}<answer>final<unk>"
    "{{ m.content }}{% if loop.last %}<|return|>{% else %}<|im_end|>{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)
THOUGHT = (  # whose prompt opens a thought that answers of the past do not have
    "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% else %}<answer>{{ m.content }}<eos>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<answer><unk>{% endif %}"
)


def turn(before: str, after: str) -> str:
    return (
        "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}<answer>{% else %}"
        f"{before}{{{{ m.content }}}}{after}{{% endif %}}{{% endfor %}}"
    )


@pytest.fixture
def chat(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer with the marks of ChatML in its vocabulary; its end token stays `<eos>`."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>", "<|return|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [
        (CHATML, "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", "A<|im_end|>"),
        (turn("", ""), "<user>q<answer>", "A<eos>"),
        (turn(" ", " <eos>"), "<user>q<answer>", " A<eos>"),
        (turn("", "<|im_end|>\n<eos>"), "<user>q<answer>", "A<|im_end|>"),
        (turn("", "</turn>"), "<user>q<answer>", "A</turn><eos>"),
        (turn("", "</turn>\n<|im_end|>"), "<user>q<answer>", "A</turn>\n<|im_end|>"),
        (LAYERED, "<user>q<|im_end|><answer>final<unk>", "A<|return|>"),
        (THOUGHT, "<user>q<answer><unk>", "A<eos>"),
        (
            "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('no') }}{% endif %}{% endfor %}?",
            "?",
            "A<eos>",
        ),
        (None, "q", "A<eos>"),
    ],
)
def test_training_teaches_the_end_at_which_use_stops(
    chat: PreTrainedTokenizerBase, base: PreTrainedModel, template: str | None, prompt: str, answer: str
) -> None:
    chat.chat_template = template
    batch = prompt_batch(chat, [("q", "A")])
    assert chat.decode(batch.ids[0]) == prompt + answer
    taught = batch.ids[0][1:][batch.is_target[0]].tolist()
    assert chat.decode(taught) == answer
    assert as_turn(chat, "q") == prompt
    assert Stops.of(chat, base).read(chat, [*taught, *chat("more")["input_ids"]]).strip() == "A"


def test_a_mark_that_is_not_called_special_ends_an_answer(tokenizer, base) -> None:
    chat = copy.deepcopy(tokenizer)
    chat.add_tokens(["<|im_end|>", "word"])
    chat.chat_template = turn("", "<|im_end|>")
    end = chat.convert_tokens_to_ids("<|im_end|>")
    assert AnswerForm.of(chat).end_id == end
    assert Stops.of(chat, base).ids == (1, end)
    chat.chat_template = turn("", "a word<|im_end|>")
    assert AnswerForm.of(chat).end == "a word<|im_end|><eos>"  # no end but a text, closed as the tokenizer closes texts
    assert Stops.of(chat, base).texts == ("a word<|im_end|>",)


def test_a_form_follows_its_tokenizer(chat) -> None:
    assert AnswerForm.of(chat).end == "<|im_end|>"
    chat.chat_template = None
    assert AnswerForm.of(chat).end == "<eos>"
    chat.eos_token = "<|return|>"
    assert AnswerForm.of(chat).end == "<|return|>"


def test_without_any_end_training_is_refused_and_answers_go_on(tokenizer, base) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = bare.eos_token = bare.pad_token = None
    with pytest.raises(CheckpointError, match="no token that ends an answer: give it an eos_token"):
        prompt_batch(bare, [("q", "A")])
    base.generation_config.eos_token_id = None
    assert len(complete(base, bare, ["q", "longer"], 7)) == 2


def test_messages_that_a_template_refuses_are_named(chat) -> None:
    chat.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    with pytest.raises(InvalidInputError, match=r"does not take messages of these roles: system, user \(no system\)"):
        as_turn(chat, turns)


def test_a_template_is_tried_before_it_is_given_a_conversation(tokenizer) -> None:
    chat = copy.deepcopy(tokenizer)
    assert keeps_turns(chat)
    one, filtered = "{{ raise_exception('one turn only') }}", "{{ messages[1]['content'] | round }}"
    for template in (None, "{{ messages[-1]['content'] }}", one, filtered):
        chat.chat_template = template
        assert not keeps_turns(chat)


def script(model: PreTrainedModel, tokens: list[int]) -> None:
    """Let a model say these tokens, whatever came before the first of them; all must differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1.0)
        embeddings = torch.nn.functional.normalize(torch.randn(model.config.vocab_size, 32))
        model.model.embed_tokens.weight.copy_(embeddings)
        for token, following in itertools.pairwise(tokens):
            model.lm_head.weight[following] = embeddings[token]


@pytest.fixture
def talker(base: PreTrainedModel, chat: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Says `Duke`, ends its turn as ChatML does, and would go on as if it were asked the next thing."""
    base.resize_token_embeddings(len(chat))
    script(base, chat("\nDuke<|im_end|>now<eos>")["input_ids"])
    return base


def test_answers_end_where_the_template_ends_a_turn(talker, chat) -> None:
    assert generate_answers(talker, chat, ["q", "a longer one"], 12) == ["Duke", "Duke"]
    pieces: list[str] = []
    text = complete(talker, chat, [as_turn(chat, "q")], 12, on_text=pieces.append)
    assert text == ["Duke"] == ["".join(pieces)]


def test_answers_end_where_the_template_writes_a_text(talker, chat) -> None:
    chat.chat_template = turn("\n", "ke")
    talker.generation_config.stop_strings = "D"
    assert complete(talker, chat, ["\n"], 12) == [""]
    talker.generation_config.stop_strings = None
    assert complete(talker, chat, ["\n"], 12) == ["Du"]


def test_a_base_that_we_load_ends_there_in_its_own_generate(
    talker, chat, make_model, encoder_dir, tmp_path, ids
) -> None:
    folder = tmp_path / "base"
    talker.save_pretrained(folder)
    chat.save_pretrained(folder)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == 1
    ends = sorted([1, chat.convert_tokens_to_ids("<|im_end|>")])
    t2l: Text2LoraModel = make_model(base_model_name_or_path=str(folder))
    adapter: LoraAdapter = t2l.generate_lora(task_emb=torch.zeros(1, 24))[0]
    assert t2l.load_base_model().generation_config.eos_token_id == ends
    assert load_base_with_tokenizer(*adapter.spec.base())[0].generation_config.eos_token_id == ends
    merged = export_merged(adapter, tmp_path / "merged")
    assert json.loads((merged / "generation_config.json").read_text())["eos_token_id"] == ends


def test_a_base_without_a_tokenizer_keeps_its_own_ends(make_model, base_dir, tmp_path) -> None:
    AutoModelForCausalLM.from_pretrained(base_dir).save_pretrained(tmp_path / "base")
    t2l = make_model(base_model_name_or_path=str(tmp_path / "base"))
    assert t2l.load_base_model().generation_config.eos_token_id == 1


def test_a_damaged_tokenizer_is_not_taken_for_none(make_model, base_dir, tmp_path) -> None:
    """Its base would answer without an end."""
    shutil.copytree(base_dir, tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text("{")
    t2l = make_model(base_model_name_or_path=str(tmp_path / "base"))
    for load in (t2l.load_base_model, lambda: t2l.load_base_model(tmp_path / "base")):
        with pytest.raises(CheckpointError, match=r"base' cannot be loaded \("):
            load()


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 9.0},
        {"no_repeat_ngram_size": 1},
        {"encoder_repetition_penalty": 9.0},
        {"encoder_no_repeat_ngram_size": 1},
        {"min_length": 60},
        {"min_new_tokens": 9},
        {"suppress_tokens": ["u"]},
        {"begin_suppress_tokens": ["D"]},
        {"bad_words_ids": [["D", "u"]]},
        {"forced_bos_token_id": "x"},
        {"forced_eos_token_id": "x"},
        {"exponential_decay_length_penalty": (1, 9.0)},
        {"sequence_bias": [[["D"], -99.0]]},
        {"do_sample": True, "temperature": 50.0, "top_k": 3, "top_p": 0.5},
        {"temperature": 0.0, "top_p": 0.7},
        {"num_beams": 3, "length_penalty": 9.0, "early_stopping": True},
        {"num_beams": 2, "num_return_sequences": 2},
        {"guidance_scale": 9.0},
        {"prompt_lookup_num_tokens": 2},
        {"max_time": 1e-9},
        {"max_length": 3},
        {"max_new_tokens": 1},
        {"return_dict_in_generate": True, "output_scores": True},
        {"cache_implementation": "quantized"},
        {"token_healing": True},
        {"stop_strings": ["zzz"]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_greedy_is_greedy_whatever_a_base_asks_for(talker, chat, settings: dict) -> None:
    def ids(value):
        return chat(value)["input_ids"][0] if isinstance(value, str) and len(value) == 1 else value

    def numbers(value):
        return [numbers(item) for item in value] if isinstance(value, list) else ids(value)

    for name, value in settings.items():
        setattr(talker.generation_config, name, numbers(value))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert generate_answers(talker, chat, ["Duke", "a longer Duke"], 12) == ["Duke", "Duke"]


def test_a_folder_without_a_tokenizer_is_named(tmp_path) -> None:
    """transformers makes an empty one of nothing, which reads every text as no tokens."""
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = Qwen3Config(**sizes, num_attention_heads=2, num_key_value_heads=2, head_dim=8)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    with pytest.raises(CheckpointError, match=r"base' (has no tokenizer|cannot be loaded)"):
        load_base_with_tokenizer(str(tmp_path / "base"))
