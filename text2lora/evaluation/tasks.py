"""The paper's ten benchmarks as generative tasks, and tasks of your own: prompts, answers, verdicts.

An answer is read from what the model says, not from probabilities. What cannot be read is wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from text2lora.errors import EvaluationError
from text2lora.evaluation.sandbox import run_program

Row = Mapping[str, Any]


@dataclass(frozen=True)
class EvalItem:
    """One question.

    Attributes:
        prompt: what the user says.
        gold: the right answer as `parse` returns it; for a programming task, the tests.
        target: an answer as a good model would write it, for demonstrations.
        labels: the answers to choose from, for a multiple-choice task.
        texts: the texts that the labels stand for.
        entry: the name of the function to write, for a programming task; empty for whole programs.
        header: the code that goes before the answer, for a programming task.
        before: what user and assistant said before the prompt, in turn.
    """

    prompt: str
    gold: str
    target: str
    labels: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    entry: str = ""
    header: str = ""
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What was read from an answer (None: nothing), whether it is right, and for code why not."""

    parsed: str | None
    correct: bool
    reason: str = ""


@dataclass(frozen=True)
class HubSource:
    """Where a benchmark is on the Hub: data set, configuration, the split to score, that of the demonstrations."""

    path: str
    config: str | None
    split: str
    shots_split: str | None = None


@dataclass(frozen=True)
class EvalTask:
    """A task that is answered in text.

    Attributes:
        name: the task's name in tables and files.
        example: turns a row of the data set into a question.
        parse: extracts what counts from an answer; None if nothing can be read.
        score: says whether that is right, and if not, why.
        source: the data set on the Hub; None for a task in a file.
        max_new_tokens: the longest answer, in tokens.
        prefill: the text with which the model's answer is made to begin.
        stop: texts before which an answer ends.
        runs_code: whether scoring runs what the model wrote.
    """

    name: str
    example: Callable[[Row], EvalItem]
    parse: Callable[[str, EvalItem], str | None]
    score: Callable[[str, EvalItem], tuple[bool, str]]
    source: HubSource | None = None
    max_new_tokens: int = 32
    prefill: str = ""
    stop: tuple[str, ...] = ()
    runs_code: bool = False

    def judge(self, output: str, example: EvalItem) -> Verdict:
        """The verdict on an answer."""
        parsed = self.parse(output, example)
        if parsed is None:
            return Verdict(None, False, "no answer found")
        return Verdict(parsed, *self.score(parsed, example))

    def read(self, row: Row) -> EvalItem:
        """Turn a row into a question: a row of the data set, or `prompt`, `answer` and optionally `response`.

        Raises:
            EvaluationError: it is neither.
        """
        try:
            # HumanEval's rows have a prompt too
            if "answer" in row and "prompt" in row and not self.runs_code:
                return _from_instruction(self, row)
            return self.example(row)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            columns = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
            raise EvaluationError(
                f"{self.name}: a row with {columns} cannot be read ({type(error).__name__}: {error}): expected the "
                "columns of the data set on the Hub, or prompt and answer"
            ) from error


# ---- Reading answers


def normalise(text: str) -> str:
    """Text without what a comparison should not depend on: Unicode form, and the amount of white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


STATEMENT = r"\banswer(?:\s+is)?\s*:?\s*[\"'*(\[]*"
TRUTH = {"yes": "true", "no": "false"}


def parse_text(output: str, example: EvalItem) -> str | None:
    """The whole answer, normalised."""
    return normalise(output) or None


def parse_choice(output: str, example: EvalItem) -> str | None:
    """The label that the answer names: by saying `the answer is ...`, at its beginning, or as the only one at all.

    An answer that names several labels without settling on one names none. The text of a choice counts as its label.
    """
    text, labels = output.strip(), {label.lower(): label for label in example.labels}
    if set(labels) == {"true", "false"}:
        labels |= TRUTH
    letters = all(len(label) == 1 for label in example.labels)
    names = "|".join(map(re.escape, sorted(example.labels if letters else labels, key=len, reverse=True)))
    # "A" is a word, too: as a label it stands before a mark or at the end
    ends = r"(?=\W*$|[^\w\s]|\s+(?:because|since|as)\b|\s*\n)" if letters else ""
    label = rf"({names})(?![\w/]){ends}"
    flags = re.NOFLAG if letters else re.IGNORECASE
    if said := re.search(rf"(?i:{STATEMENT}){label}", text, flags):
        return labels[said[1].lower()]
    plain = normalise(text).rstrip(".").lower()
    same = [name for name, own in zip(example.labels, example.texts) if normalise(own).rstrip(".").lower() == plain]
    if len(same) == 1:
        return same[0]
    begins = re.match(rf"\W*{label}[)\].:*\"'\s]*", text, flags)
    if begins:
        chosen, rest = labels[begins[1].lower()], text[begins.end() :]
        if example.texts:
            own = example.texts[example.labels.index(chosen)]
            rest = rest.removeprefix(own) if own else rest
    else:
        chosen, rest = None, text
    found = {
        labels[name.lower()] for name in re.findall(rf"(?<![\w/]){label}", rest, flags) if name.lower() not in TRUTH
    }
    others = found - {chosen}  # "no" means false at the beginning only
    if chosen is None and len(others) == 1:
        return others.pop()
    return chosen if not others else None


NUMBER = r"(?:(?<![\w.)])-)?\d[\d,]*(?:\.\d+)?"


def parse_number(output: str, example: EvalItem) -> str | None:
    """The number that the answer is said to be; where none is, the last number."""
    text = output.replace("$", "").replace("**", "")
    sum_first = rf"(?:{NUMBER}(?:\s*[-+*/x×÷]\s*{NUMBER})+\s*=\s*)?"  # the answer is 3 + 4 = 7
    said = re.search(rf"(?:(?i:\banswer(?:\s+is\b|\s*:))|####)[^\d\n-]{{0,24}}{sum_first}({NUMBER})", text)
    found = [said[1]] if said else re.findall(NUMBER, text)
    return as_number(found[-1]) if found else None


def as_number(text: str) -> str:
    """One spelling for each number: 1,200.0 is 1200."""
    number = Decimal(text.strip().replace(",", "").rstrip("."))
    return f"{number.normalize():f}" if number else "0"


def parse_code(output: str, example: EvalItem) -> str | None:
    """The program: the block of code that defines what was asked for, the first one, or all that was said."""
    blocks = re.findall(r"```[^\n`]*\n(.*?)(?:```|\Z)", output, re.S)
    if example.entry:
        blocks.sort(key=lambda code: not _defines(code, example.entry))  # stable
    code = blocks[0] if blocks else output
    if not code.strip():
        return None
    if not example.entry or _defines(code, example.entry):
        return f"{example.header}    pass\n\n{code}" if example.entry else f"{example.header}\n{code}"
    body = []  # of the function that the prompt began, as far as it goes
    for line in code.lstrip("\n").split("\n"):
        if line.strip() and not line.startswith((" ", "\t")):
            break
        body.append(line)
    return example.header + "\n".join(body) if any(line.strip() for line in body) else None


def _defines(code: str, name: str) -> bool:
    return re.search(rf"^(?:async )?def {re.escape(name)}\b|^{re.escape(name)}\s*=", code, re.M) is not None


# ---- Verdicts


def score_equal(parsed: str, example: EvalItem) -> tuple[bool, str]:
    """Whether the answer is the right one."""
    return parsed == example.gold, ""


def score_own(parsed: str, example: EvalItem) -> tuple[bool, str]:
    """Whether the answer is the part of the response that counts, or the whole response."""
    return parsed in (example.gold, normalise(example.target)), ""


def score_program(parsed: str, example: EvalItem) -> tuple[bool, str]:
    """Run the program with its tests, confined."""
    return run_program(f"{parsed}\n\n{example.gold}\n")


# ---- Questions


def _from_instruction(task: EvalTask, row: Row) -> EvalItem:
    """A row that brings its prompt, as those of LLM-Adapters do: `Answer format: answer1/answer2`."""
    prompt, gold = str(row["prompt"]), str(row["answer"]).strip()
    if task.parse is parse_number:
        gold = as_number(gold)
    elif task.parse is parse_text:
        gold = normalise(gold)
    offered = re.search(r"Answer format:\s*(\S+)\s*$", prompt)
    labels = tuple(offered[1].split("/")) if offered else ()
    if task.parse is parse_choice and gold not in labels:
        raise ValueError(f"the answer {gold!r} is not among those offered at the end of the prompt")
    example = EvalItem(prompt, gold, str(row.get("response") or row["answer"]), labels)
    if task.judge(example.target, example).correct:
        return example
    return EvalItem(prompt, gold, str(row["answer"]), labels)


def _choice(question: str, texts: list[str], right: int, ask: str = "") -> EvalItem:
    labels = tuple("ABCDEFGH"[: len(texts)])
    listed = "\n".join(f"{label}. {text}" for label, text in zip(labels, texts, strict=True))
    head = f"{ask}\n\n" if ask else ""
    prompt = f"{head}{question}\n\n{listed}\n\nAnswer with the letter of the right choice only."
    return EvalItem(prompt, labels[right], labels[right], labels, tuple(texts))


def _arc(row: Row) -> EvalItem:
    labels = list(row["choices"]["label"])
    right = labels.index(str(row["answerKey"]).strip())
    return _choice(row.get("question", row.get("question_stem")), list(row["choices"]["text"]), right)


def _boolq(row: Row) -> EvalItem:
    gold = "true" if row["answer"] else "false"
    prompt = f"{row['passage']}\n\nQuestion: {row['question'].rstrip('?')}?\n\nAnswer with true or false only."
    return EvalItem(prompt, gold, gold, ("true", "false"))


def _hellaswag(row: Row) -> EvalItem:
    return _choice(row["ctx"], list(row["endings"]), int(row["label"]), "Which ending continues this text best?")


def _piqa(row: Row) -> EvalItem:
    return _choice(row["goal"], [row["sol1"], row["sol2"]], int(row["label"]), "Which is the better way to do this?")


def _winogrande(row: Row) -> EvalItem:
    ask = "Which choice belongs in place of the underscore?"
    return _choice(row["sentence"], [row["option1"], row["option2"]], int(row["answer"]) - 1, ask)


STEPS = "Let's work it out step by step."


def _gsm8k(row: Row) -> EvalItem:
    reasons, _, gold = row["answer"].partition("####")
    gold = as_number(gold)
    reasons = " ".join(re.sub(r"<<.*?>>", "", reasons).split())
    prompt = f"{row['question']}\n\nEnd with `The answer is` and the number."
    return EvalItem(prompt, gold, f"{STEPS} {reasons} The answer is {gold}.")


def _humaneval(row: Row) -> EvalItem:
    prompt = "Complete this function. Reply with the whole function, in one block of Python code."
    code = row["prompt"]
    target = f"```python\n{code}{row['canonical_solution']}```"
    tests = f"{row['test']}\ncheck({row['entry_point']})"
    return EvalItem(f"{prompt}\n\n```python\n{code}```", tests, target, entry=row["entry_point"], header=code)


def _mbpp(row: Row) -> EvalItem:
    tests = "\n".join(row["test_list"])
    header = "\n".join([row.get("test_setup_code") or "", *(row.get("test_imports") or [])]).strip()
    ask = "Reply with the code only, in one block of Python code. It must pass these tests:"
    prompt = f"{row.get('text') or row['prompt']}\n\n{ask}\n\n```python\n{tests}\n```"
    return EvalItem(prompt, tests, f"```python\n{row['code'].strip()}\n```", header=header)


def own_task(name: str) -> EvalTask:
    """A task from a file, by exact match after `normalise`."""

    def example(row: Row) -> EvalItem:
        raise KeyError("prompt and answer are needed")

    return EvalTask(name, example, parse_text, score_own, max_new_tokens=64)


def _with_choice(name: str, example: Callable[[Row], EvalItem], source: HubSource) -> EvalTask:
    return EvalTask(name, example, parse_choice, score_equal, source)


BENCHMARKS: dict[str, EvalTask] = {
    task.name: task
    for task in (
        _with_choice("arc_challenge", _arc, HubSource("allenai/ai2_arc", "ARC-Challenge", "test", "train")),
        _with_choice("arc_easy", _arc, HubSource("allenai/ai2_arc", "ARC-Easy", "test", "train")),
        _with_choice("boolq", _boolq, HubSource("google/boolq", None, "validation", "train")),
        EvalTask(
            "gsm8k", _gsm8k, parse_number, score_equal, HubSource("openai/gsm8k", "main", "test", "train"),
            max_new_tokens=512, prefill=STEPS, stop=("\nQuestion:", "\nQ:"),
        ),
        _with_choice("hellaswag", _hellaswag, HubSource("Rowan/hellaswag", None, "validation", "train")),
        _with_choice("openbookqa", _arc, HubSource("allenai/openbookqa", "main", "test", "train")),
        _with_choice("piqa", _piqa, HubSource("baber/piqa", None, "validation", "train")),
        _with_choice(
            "winogrande", _winogrande, HubSource("allenai/winogrande", "winogrande_xl", "validation", "train")
        ),
        EvalTask(
            "humaneval", _humaneval, parse_code, score_program, HubSource("openai/openai_humaneval", None, "test"),
            max_new_tokens=768, runs_code=True,
        ),
        EvalTask(
            "mbpp", _mbpp, parse_code, score_program,
            HubSource("google-research-datasets/mbpp", "full", "test", "prompt"), max_new_tokens=512, runs_code=True,
        ),
    )
}  # fmt: skip
"""By name, in the paper's order but for the letters."""
