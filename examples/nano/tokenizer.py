"""The nano tokenizer: bytes, plus whole phrases of the record templates, field names and formal task tokens.

Values are spelled byte by byte, so that the model can copy and transform names it never saw; everything that is the
same in every record is one token, so that an example is about sixty tokens long.
"""

from __future__ import annotations

import re

from catalogue import TASKS, header
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from text2lora.nano.records import KIND_FIELDS, KINDS, TEMPLATES

RECORD, ANSWER, END, PAD = "<|record|>", "<|answer|>", "<|end|>", "<|pad|>"

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{ '<|record|>' + message['content'] + '<|answer|>' }}"
    "{%- elif message['role'] == 'assistant' %}{{ message['content'] + '<|end|>' }}"
    "{%- endif %}{%- endfor %}"
)
"""User = a record, assistant = the answer; several turns make demonstrations. A prompt ends in `<|answer|>`."""


def _phrases() -> list[str]:
    """What the templates hold between the fields, but for the record kind itself, which is a value like any other."""
    kinds = "|".join(KINDS)
    parts = set()
    for templates in TEMPLATES.values():
        for template in templates:
            for part in re.split(r"\{\w+\}", template):
                parts.update(re.split(rf"\b(?:{kinds})\b", part))
    return sorted(part for part in parts if len(part) > 1)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer. `tokenizer(line)` adds `<|record|>` before and `<|answer|>` behind: it is the prompt."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    formal = sorted({token for task in TASKS.values() for token in header(task)})
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (PAD, RECORD, ANSWER, END, *formal)])
    names = sorted({name for fields in KIND_FIELDS.values() for name in fields})
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p in _phrases()])
    tokenizer.add_tokens([AddedToken(n, normalized=False, single_word=True) for n in names])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{RECORD} $A {ANSWER}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (RECORD, ANSWER)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=RECORD,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
