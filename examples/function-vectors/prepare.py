"""Fifty-six word tasks (Todd et al. 2024) and a tiny base that learns them in context.

    python examples/function-vectors/prepare.py function_vectors.jsonl.gz

writes `tasks.jsonl`, with our descriptions and the data's own test split as held-out examples, and `base`, a Llama of
three million parameters. The base reads the training split of the training tasks as demonstrations, without any
description: a task is what a few pairs have in common. It never sees the ten tasks that `recipe.yaml` holds out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from text2lora.language import answer_loss
from text2lora.training.fit import FitConfig, fit, step_rng, summed

sys.path.append(str(Path(__file__).parents[1] / "nano"))
from documents import AnswerCollator, exact_match

HERE = Path(__file__).parent
INPUT, ANSWER, END, PAD = "<|in|>", "<|out|>", "<|end|>", "<|pad|>"
TEMPLATE = (
    "{%- for message in messages %}{%- if message['role'] == 'user' %}{{ '<|in|>' + message['content'] + '<|out|>' }}"
    "{%- else %}{{ message['content'] + '<|end|>' }}{%- endif %}{%- endfor %}"
)
LONGEST = 200
"""Characters of a prompt; of a longer one the end is left out, for base and adapters alike."""
SHOTS = 6


def read_pairs(data: Path) -> dict[str, dict[str, list[tuple[str, str]]]]:
    """By task and split, prompts and responses; a pair of both splits stays in `test` alone."""
    found = {}
    with gzip.open(data, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            splits = {s: [(p["prompt"][:LONGEST], p["response"]) for p in row[s]] for s in ("train", "test")}
            tested = set(splits["test"])
            found[row["name"]] = splits | {"train": [pair for pair in splits["train"] if pair not in tested]}
    return found


def write_tasks(pairs: dict[str, dict[str, list[tuple[str, str]]]], path: Path) -> None:
    """Tasks as text2lora reads them."""
    described = map(json.loads, (HERE / "descriptions.jsonl").read_text(encoding="utf-8").splitlines())
    with path.open("w", encoding="utf-8") as file:
        for row in described:
            if row["name"] in pairs:
                splits = pairs[row["name"]]
                task = row | {"examples": splits["train"], "held_out_examples": splits["test"]}
                file.write(json.dumps(task, ensure_ascii=False) + "\n")


def build_tokenizer(texts: Iterator[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the training tasks' texts, with the marks of a pair."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [PAD, INPUT, ANSWER, END]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(mark, tokenizer.token_to_id(mark)) for mark in (INPUT, ANSWER)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{INPUT} $A {ANSWER}", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=INPUT,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        chat_template=TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def demonstrations(pairs: list[tuple[str, str]], last: tuple[str, str], shots: int, rng: random.Random) -> str:
    """Pairs of one task in a row, and one more; fewer of them where prompts are long."""
    chosen = rng.sample(pairs, min(shots, len(pairs)))
    if sum(len(prompt) for prompt, _ in chosen) > 60 * shots:
        chosen = chosen[:2]
    return "".join(f"{INPUT}{prompt}{ANSWER}{response}{END}" for prompt, response in [*chosen, last])


def pretrain(
    pairs: dict[str, dict[str, list[tuple[str, str]]]],
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    steps: int,
    documents: int = 16,
    resume: bool = False,
) -> None:
    """Train the base in context and save it, with its tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model, names = LlamaForCausalLM(config), sorted(pairs)
    collate = AnswerCollator(tokenizer, ANSWER, END)

    def losses(step: int) -> Iterator[torch.Tensor]:
        rng = step_rng(0, step)
        tasks = [pairs[rng.choice(names)]["train"] for _ in range(documents)]
        texts = [demonstrations(task, rng.choice(task), SHOTS, rng) for task in tasks]
        texts.sort(key=len)
        for half in (texts[: documents // 2], texts[documents // 2 :]):
            batch = collate(half)
            yield answer_loss(model, batch, "answer") / batch.units("answer") / 2

    def validate() -> dict[str, float]:
        figures = {}
        for shots in (0, SHOTS):
            rng = random.Random(1)
            texts = [
                demonstrations(pairs[name]["train"], rng.choice(pairs[name]["test"]), shots, rng)
                for name in names
                for _ in range(8)
            ]
            found = [exact_match(model, collate(texts[i : i + 32]), last_only=True) for i in range(0, len(texts), 32)]
            figures[f"{shots}-shot/exact_match"] = torch.cat(found).float().mean().item()
        return figures

    config = FitConfig(steps=steps, lr=0.006, adamw_lr=0.003, warmup=0.03, eval_every=max(1, steps // 5), log_every=50)
    fit(model, summed(losses), config, output, validate, resume=resume)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def main() -> None:
    """Write tasks and base."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="function_vectors.jsonl.gz: one task per line, with `train` and `test`")
    parser.add_argument("--output", type=Path, default=Path("runs/function-vectors"))
    parser.add_argument("--steps", type=int, default=1200, help="number of pre-training steps")
    parser.add_argument("--vocabulary", type=int, default=2048, help="number of tokens")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted pre-training")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    pairs = read_pairs(options.data)
    write_tasks(pairs, options.output / "tasks.jsonl")
    unseen = yaml.safe_load((HERE / "recipe.yaml").read_text(encoding="utf-8"))["split"]["unseen_tasks"]
    seen = {name: splits for name, splits in pairs.items() if name not in unseen}
    texts = (text for splits in seen.values() for pair in splits["train"] for text in pair)
    pretrain(
        seen, build_tokenizer(texts, options.vocabulary), options.output / "base", options.steps, resume=options.resume
    )
    print(f"{len(pairs)} tasks, {len(seen)} of them in the base's pre-training: {options.output}")


if __name__ == "__main__":
    main()
