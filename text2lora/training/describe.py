"""Writing descriptions of a task from its examples, with any chat model."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.attach import input_device
from text2lora.encoder import check_description
from text2lora.errors import InvalidArgumentError, InvalidDescriptionError, TaskError
from text2lora.language import Example
from text2lora.server import ChatClient
from text2lora.training.tasks import Task
from text2lora.turns import Stops, as_turn, padding_id

Chat = Callable[[str, int], str]
"""A function that takes a request and a seed, and returns the model's answer."""

TEMPERATURE, MAX_NEW_TOKENS = 0.9, 512

STYLES = (
    "as an instruction to an assistant, in one sentence",
    "as a user would ask for it, casually",
    "as a question",
    "in as few words as possible",
    "formally, in one or two long sentences",
    "for somebody who has never seen such a task",
    "by what the answer looks like",
    "in the words of a product manager",
)

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Letters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese."""


def describe_task(
    task: Task,
    count: int,
    chat: Chat,
    held_out: float = 0.2,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> Task:
    """Add descriptions to those of a task; see `write_descriptions`. Training does not see the share `held_out`.

    Raises:
        TaskError: the task has no examples, or the model writes nothing usable.
    """
    known = [*task.descriptions, *task.held_out_descriptions]
    examples = [example.without_definition() for example in task.examples]
    train, held = hold_out(write_descriptions(examples, count, chat, known, seed, report=report), held_out, seed)
    return replace(
        task,
        descriptions=[*task.descriptions, *train],
        held_out_descriptions=[*task.held_out_descriptions, *held],
    )


def write_descriptions(
    examples: Sequence[Example],
    count: int,
    chat: Chat,
    known: Sequence[str] = (),
    seed: int = 0,
    patience: int = 6,
    report: Callable[[str], None] = print,
) -> list[str]:
    """Ask a chat model for descriptions until there are enough different ones.

    Each request shows a few examples, drawn at random, and asks for one of several styles.

    Args:
        examples: Prompts and responses of the task.
        count: The number of descriptions to write.
        chat: The chat model.
        known: Existing descriptions, which are not written again.
        seed: The seed for drawing examples; it is also passed to the model.
        patience: The number of requests in a row without a new description after which to stop.
        report: A function that receives one line for each request.

    Returns:
        Up to `count` descriptions; fewer if the model runs out of ideas.

    Raises:
        TaskError: there are no examples, or the model writes nothing usable.
    """
    if not examples:
        raise TaskError("there are no examples to describe: expected prompts and responses")
    rng = random.Random(seed)
    words = [_words(text) for text in known]
    written: list[str] = []
    number, idle = 0, 0
    while len(written) < count and idle < patience:
        shown = rng.sample(list(examples), min(5, len(examples)))
        answer = chat(_request(shown, STYLES[number % len(STYLES)], 5), seed + number)
        before = len(written)
        for text in read_list(answer):
            found = _words(text)
            if len(written) < count and found and not any(_same(found, other) for other in words):
                written.append(text)
                words.append(found)
        number, idle = number + 1, 0 if len(written) > before else idle + 1
        report(f"{len(written)} of {count} descriptions after {number} requests")
    if not written:
        raise TaskError(
            f"the model wrote no usable description in {number} requests: try another model; its last answer was "
            f"{answer[:100]!r}"
        )
    return written


def _request(examples: Sequence[Example], style: str, count: int) -> str:
    shown = "\n\n".join(
        f"Input: {prompt if isinstance(prompt, str) else prompt[-1]['content']}\nOutput: {response}"
        for prompt, response in examples
    )
    return (
        "Here are examples of one and the same task:\n\n"
        f"{shown}\n\n"
        f"Write {count} different descriptions of the task, each {style}. Say what is to be done with any input, and "
        "do not quote the examples. Write one description a line, and nothing else."
    )


def read_list(answer: str) -> list[str]:
    """The lines of an answer that can be descriptions, without numbers, bullets and quotation marks."""
    found = []
    for line in re.sub(r"<think>.*?(</think>|$)", "", answer, flags=re.S).splitlines():
        text = re.sub(r"^\s*(?:[-*•]|\(?\d+[.):])\s*", "", line).strip().strip("\"“”'`*").strip()
        if len(text.split()) < 2 and not re.search(f"[{UNSPACED}]{{4}}", text):  # a heading
            continue
        if text.endswith((":", "\uff1a")) or len(text) > 600:  # a heading, or rambling
            continue
        try:
            found.append(check_description(text))
        except InvalidDescriptionError:
            continue
    return found


def _words(text: str) -> frozenset[str]:
    """The words of a text, and every three neighbouring letters of what is written without spaces."""
    found = re.findall(rf"[{UNSPACED}]+|[^\W{UNSPACED}]+", text.lower())
    runs = [run for run in found if re.match(f"[{UNSPACED}]", run)]
    parts = {run[i : i + 3] for run in runs for i in range(max(1, len(run) - 2))}
    return frozenset(found).difference(runs) | parts


def _same(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two descriptions share at least four fifths of their words (Jaccard index)."""
    return len(one & other) >= 0.8 * len(one | other)


def hold_out(descriptions: Sequence[str], share: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """Split descriptions into those for training and a share, rounded, for validation; both keep their order.

    Raises:
        InvalidArgumentError: the share is not between 0 and 1.
    """
    check_share(share)
    chosen = set(random.Random(seed).sample(range(len(descriptions)), round(share * len(descriptions))))
    return (
        [text for i, text in enumerate(descriptions) if i not in chosen],
        [text for i, text in enumerate(descriptions) if i in chosen],
    )


def check_share(share: float) -> None:
    """Refuse a held-out share that is not between 0 and 1.

    Raises:
        InvalidArgumentError: it is not.
    """
    if not 0 <= share < 1:
        raise InvalidArgumentError(f"the held-out share is {share}: expected a number from 0 to below 1")


def server_chat(url: str, model: str = "") -> Chat:
    """Wrap a model of a server; without a name, the first one that the server lists.

    Raises:
        ServerError: the server cannot be reached.
    """
    client = ChatClient(url)
    name = model or (client.models() or ["default"])[0]

    def chat(request: str, seed: int) -> str:
        messages = [{"role": "user", "content": request}]
        return client.chat(name, messages, temperature=TEMPERATURE, max_tokens=MAX_NEW_TOKENS, seed=seed)

    return chat


def local_chat(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int = MAX_NEW_TOKENS
) -> Chat:
    """Wrap a transformers chat model; it samples with the seed of each request."""
    stops = Stops.of(tokenizer, model)

    def chat(request: str, seed: int) -> str:
        text = as_turn(tokenizer, request)
        inputs = tokenizer(text, add_special_tokens=not tokenizer.chat_template, return_tensors="pt")
        torch.manual_seed(seed)
        with torch.inference_mode():
            out = model.generate(
                **inputs.to(input_device(model)),
                max_new_tokens=max_new_tokens,
                do_sample=True,
                temperature=TEMPERATURE,
                pad_token_id=padding_id(tokenizer),
                eos_token_id=list(stops.ids) or None,
            )
        return stops.read(tokenizer, out[0, inputs["input_ids"].shape[1] :].tolist())

    return chat
