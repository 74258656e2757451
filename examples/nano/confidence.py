"""How well a function knows which of its answers are right: candidates, and the calibration that a checkpoint carries.

    python examples/nano/confidence.py --write text2lora/nano/checkpoint
    python examples/nano/confidence.py --split test
    python examples/nano/confidence.py --model smol --data runs/smol --examples 0

The calibration is fitted on the development split. `error at 80 %` is the error among the 80 % of the answers that a
candidate is most certain of; `calibration error` is the mean distance between confidence and accuracy in ten bins.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from catalogue import TASKS
from source import FIRST_SEED, evaluation_examples, read_split

import text2lora
from text2lora import Text2LoraModel
from text2lora.confidence import Calibration, confidence, features, fit_logistic
from text2lora.functions import Function
from text2lora.inference import complete_ids
from text2lora.injection import LoraInjector
from text2lora.scoring import score_examples
from text2lora.training.data import perturb
from text2lora.training.task_files import read_tasks
from text2lora.tuning import Pair

SCALE = 0.75
"""Of the weaker adapter that an adapter has to agree with."""
COPIES = 8
"""Adapters that are made of each description as training sees it, with noise and without some of its tokens."""
DROPOUT = 0.1
"""The share of tokens that are left out, and the standard deviation of the noise."""


@dataclass(frozen=True)
class Case:
    """A description of a task that is seen or unseen, with inputs and the right answers.

    Attributes:
        kind: `seen` or `unseen`.
        task: its name.
        description: one of its wordings.
        examples: inputs and right answers to judge.
        shown: others, which an adapter is tuned on.
    """

    kind: str
    task: str
    description: str
    examples: list[Pair]
    shown: list[Pair]


@dataclass(frozen=True)
class Judged:
    """An answer, whether it is right, and what might tell.

    Attributes:
        right: whether it is the right answer, all of it.
        log_probs: of its tokens.
        similarity: of the description to the nearest training task.
        norm: of the adapter's update of the weights.
        weaker: whether the adapter at three quarters of its strength gives the same answer.
        others: the share of the task's other wordings whose adapters give the same answer; 0.5 if there are none.
        dropout: the mean log probability of its tokens under adapters of the description with noise and dropout.
    """

    right: bool
    log_probs: list[float]
    similarity: float
    norm: float
    weaker: bool
    others: float
    dropout: float

    @property
    def all(self) -> list[float]:
        """Everything but the other wordings, which a function does not have."""
        return [*features(self.log_probs), self.similarity, self.norm, self.weaker, self.dropout]


@dataclass(frozen=True)
class Tuned:
    """An answer of an adapter that was tuned on examples, and the share of left-out ones that the adapter got right."""

    right: bool
    log_probs: list[float]
    left_out: float


def read_cases(split: str, records: int, shown: int) -> list[Case]:
    """The descriptions of a split of nano, with records that no training saw, and so many more to show."""
    cases = []
    for kind in ("seen", "unseen"):
        for task, text in read_split(f"{split}_{kind}"):
            pairs = evaluation_examples(TASKS[task], records + shown, FIRST_SEED)
            cases.append(Case(kind, task, text, pairs[:records], pairs[records:]))
    return cases


def read_smol(folder: Path, tasks: int, records: int, shown: int) -> list[Case]:
    """Two wordings of some tasks of smol, half of them of kinds that training saw."""
    cases = []
    for kind in ("seen", "unseen"):
        found = [task for task in read_tasks(folder / f"dev_{kind}.jsonl") if len(task.held_out_examples) >= records]
        for task in random.Random("confidence").sample(found, min(len(found), tasks // 2)):
            given = [*task.held_out_examples, *task.examples][: records + shown]
            pairs = [(str(asked), answer) for asked, answer in (example.without_definition() for example in given)]
            cases += [Case(kind, task.name, text, pairs[:records], pairs[records:]) for text in task.descriptions[:2]]
    return cases


def judge(model: Text2LoraModel, cases: Sequence[Case], max_new_tokens: int = 48) -> list[Judged]:
    """Answers under the adapters of all descriptions, with what might tell whether they are right."""
    descriptions = [case.description for case in cases]
    functions = [model.function(text, max_new_tokens=max_new_tokens) for text in descriptions]
    weaker = [Function(f._runner, f.adapter.scaled(SCALE), max_new_tokens=max_new_tokens) for f in functions]
    places = [(i, text) for i, case in enumerate(cases) for text, _ in case.examples]
    answers = write([(functions[i], text) for i, text in places])
    again = write([(weaker[i], text) for i, text in places])
    said = {(cases[i].description, text): answer for (i, text), (answer, _) in zip(places, answers, strict=True)}
    dropout = under_dropout(model, cases, [answer for answer, _ in answers])
    novelties = model.novelty(descriptions) or []
    wordings: dict[str, list[str]] = {}
    for case in cases:
        wordings.setdefault(case.task, []).append(case.description)
    found = []
    for (i, text), (answer, log_probs), (second, _), value in zip(places, answers, again, dropout, strict=True):
        case = cases[i]
        agree = [said[other, text] == answer for other in wordings[case.task] if other != case.description]
        found.append(
            Judged(
                answer == dict(case.examples)[text].strip(),
                log_probs,
                novelties[i].similarity,
                size_of(functions[i]),
                second == answer,
                sum(agree) / len(agree) if agree else 0.5,
                value,
            )
        )
    return found


def judge_tuned(model: Text2LoraModel, cases: Sequence[Case], max_new_tokens: int = 48) -> list[Tuned]:
    """Answers under adapters that were tuned on the examples that each description comes with."""
    adapters = model.generate_lora([case.description for case in cases], examples=[case.shown for case in cases])
    calls, shares = [], []
    for case, adapter in zip(cases, adapters, strict=True):
        function = text2lora.function(adapter, max_new_tokens=max_new_tokens)
        calls += [(function, text) for text, _ in case.examples]
        right, _, count = adapter.metadata["left_out_correct_after"].split()  # such as "3 of 4"
        shares += [int(right) / int(count)] * len(case.examples)
    expected = [answer.strip() for case in cases for _, answer in case.examples]
    return [
        Tuned(said == answer, log_probs, share)
        for (said, log_probs), answer, share in zip(write(calls), expected, shares, strict=True)
    ]


def write(calls: Sequence[tuple[Function, str]]) -> list[tuple[str, list[float]]]:
    """Answers, with the log probabilities of their tokens."""
    questions = [function._ask(text) for function, text in calls]
    runner = calls[0][0]._runner
    found = complete_ids(
        runner.model,
        runner.tokenizer,
        [question.prompt.ids for question in questions],
        calls[0][0].max_new_tokens,
        within=lambda rows: runner._adapted([calls[row][0] for row in rows]),
    )
    return [(one.text.strip(), one.log_probs) for one in found]


def under_dropout(model: Text2LoraModel, cases: Sequence[Case], answers: Sequence[str]) -> list[float]:
    """The mean log probability of each answer's tokens under adapters of perturbed descriptions, over all of them."""
    torch.manual_seed(0)
    base = model.load_base_model().eval().requires_grad_(False)
    injector, left = LoraInjector(base, model.config), iter(answers)
    found: list[float] = []
    for case in cases:
        pairs = [(text, next(left)) for text, _ in case.examples]
        copies = model.encoder.encode([case.description]).float().repeat_interleave(COPIES, 0)
        task_emb = perturb(copies, DROPOUT, DROPOUT).repeat(len(pairs), *[1] * (copies.ndim - 1))
        each = [[pair] for pair in pairs for _ in range(COPIES)]
        scores = score_examples(model, task_emb, each, injector, base, model.base_tokenizer)
        found += (-torch.tensor([score.loss for score in scores]).view(-1, COPIES).mean(1)).tolist()
    return found


def size_of(function: Function) -> float:
    """Root of the summed squares of an adapter's updates of the weights."""
    total = sum(float(((b.T @ b) * (a @ a.T)).sum()) for _, a, b in function.adapter.pairs())
    return math.sqrt(total) * function.adapter.spec.scaling


def error_at(certainty: Sequence[float], right: Sequence[bool], coverage: float) -> float:
    """The share of wrong answers among the most certain ones; equally certain ones share their error.

    Args:
        certainty: of each answer.
        right: whether each is right.
        coverage: the share of answers that are kept.
    """
    groups: dict[float, list[bool]] = {}
    for value, good in zip(certainty, right, strict=True):
        groups.setdefault(value, []).append(good)
    room = kept = coverage * len(right)
    wrong = 0.0
    for value in sorted(groups, reverse=True):
        taken = min(room, len(groups[value]))
        wrong += taken * (1 - sum(groups[value]) / len(groups[value]))
        room -= taken
    return wrong / kept


def calibration_error(probabilities: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """The mean distance between the confidence of answers and the share of right ones, over bins of confidence."""
    filled: dict[int, list[tuple[float, bool]]] = {}
    for value, good in zip(probabilities, right, strict=True):
        filled.setdefault(min(bins - 1, int(value * bins)), []).append((value, good))
    gaps = [abs(sum(v for v, _ in one) - sum(good for _, good in one)) for one in filled.values()]
    return sum(gaps) / len(right)


def out_of_fold(inputs: Sequence[Sequence[float]], right: Sequence[bool], tasks: Sequence[str]) -> list[float]:
    """Probabilities of being right, of each half of the tasks from a regression on the other half."""
    names = sorted(set(tasks))
    random.Random("folds").shuffle(names)
    half = set(names[::2])
    first = torch.tensor([task in half for task in tasks])
    x, y = torch.tensor(inputs, dtype=torch.float64), torch.tensor(right)
    found = torch.zeros(len(y), dtype=torch.float64)
    for fold in (first, ~first):
        weights, bias = fit_logistic(x[~fold], y[~fold])
        found[fold] = (x[fold] @ weights + bias).sigmoid()
    return found.tolist()


Candidates = dict[str, tuple[Sequence[float], bool]]
"""What might say how certain each answer is, by name, and whether these numbers are meant as probabilities."""


def candidates_of(judged: Sequence[Judged], tasks: Sequence[str], calibration: Calibration | None) -> Candidates:
    """What might tell right from wrong answers; without a calibration, one is fitted on half of the tasks at a time."""
    right, known = [one.right for one in judged], [features(one.log_probs) for one in judged]
    found: Candidates = {
        "distance of the description": ([one.similarity for one in judged], False),
        "size of the adapter's update": ([-one.norm for one in judged], False),
        "agreement with the adapter at 3/4 strength": ([one.weaker for one in judged], False),
        "agreement with the adapters of other wordings": ([one.others for one in judged], False),
        "probability of the answer": ([math.exp(total) for total, _, _ in known], True),
        "mean log probability of its tokens": ([math.exp(mean) for _, mean, _ in known], True),
        "least probability of its tokens": ([math.exp(least) for *_, least in known], True),
        "mean log probability under dropout": ([math.exp(one.dropout) for one in judged], True),
    }
    if calibration is None:
        more = {
            "calibrated: and under dropout": [
                [*values, one.dropout] for values, one in zip(known, judged, strict=True)
            ],
            "calibrated: all but the other wordings": [one.all for one in judged],
        }
        found |= {name: (out_of_fold(inputs, right, tasks), True) for name, inputs in more.items()}
        certain = out_of_fold([list(values) for values in known], right, tasks)
    else:
        certain = [confidence(one.log_probs, calibration) for one in judged]
    return found | {"calibrated": (certain, True)}


def candidates_of_tuned(tuned: Sequence[Tuned], tasks: Sequence[str], calibration: Calibration | None) -> Candidates:
    """The same of adapters that were tuned on examples, of which some were left out in turn."""
    right = [one.right for one in tuned]
    found: Candidates = {
        "left-out examples that are answered right": ([one.left_out for one in tuned], False),
        "probability of the answer": ([math.exp(features(one.log_probs)[0]) for one in tuned], True),
    }
    if calibration is None:
        inputs = [[*features(one.log_probs), one.left_out] for one in tuned]
        return found | {"calibrated": (out_of_fold(inputs, right, tasks), True)}
    alone = [confidence(one.log_probs, calibration) for one in tuned]
    both = [confidence(one.log_probs, calibration.after_tuning(one.left_out)) for one in tuned]
    return found | {"calibrated, without the left-out examples": (alone, True), "calibrated": (both, True)}


def make_table(candidates: Candidates, right: Sequence[bool], kinds: Sequence[str]) -> list[list[str]]:
    """A row for each candidate, and for the last one on each kind of tasks."""
    rows = [["Certainty from", "Error", "Error at 80 %", "Ratio", "Calibration error"]]

    def add(name: str, values: Sequence[float], of: Sequence[bool], probable: bool) -> None:
        error, kept = error_at(values, of, 1), error_at(values, of, 0.8)
        gap = f"{calibration_error(values, of):.3f}" if probable else ""
        rows.append([name, f"{error:.3f}", f"{kept:.3f}", f"{kept / max(error, 1e-9):.2f}", gap])

    for name, (values, probable) in candidates.items():
        add(name, values, right, probable)
    for kind in dict.fromkeys(kinds):
        places = [i for i, one in enumerate(kinds) if one == kind]
        add(f"{name}, {kind} tasks", [values[i] for i in places], [right[i] for i in places], probable)
    return rows


def show(rows: Sequence[Sequence[str]]) -> None:
    """Print a table, whose first row is its head."""
    print("\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", default="nano", help="nano, a checkpoint for its base model, or with --data any other checkpoint"
    )
    parser.add_argument("--split", choices=["dev", "test"], default="dev")
    parser.add_argument("--data", type=Path, help="the folder that examples/smol/prepare.py wrote, for smol")
    parser.add_argument(
        "--tasks", type=int, default=40, help="number of tasks from --data, half of them of unseen kinds (default: 40)"
    )
    parser.add_argument("--records", type=int, default=4, help="number of records for each description (default: 4)")
    parser.add_argument(
        "--examples",
        type=int,
        default=4,
        help="number of further records that adapters are tuned on for the second table, 2 or more; 0 leaves it out "
        "(default: 4)",
    )
    parser.add_argument("--write", type=Path, help="folder of the checkpoint to write the calibration into")
    options = parser.parse_args()
    model = Text2LoraModel.from_pretrained(options.model)
    cases = (
        read_smol(options.data, options.tasks, options.records, options.examples)
        if options.data
        else read_cases(options.split, options.records, options.examples)
    )
    tasks = [case.task for case in cases for _ in case.examples]
    kinds = [case.kind for case in cases for _ in case.examples]
    calibration = model.calibration if options.split == "test" else None
    judged = judge(model, cases)
    table = make_table(candidates_of(judged, tasks, calibration), [one.right for one in judged], kinds)
    show(table)
    tuned = judge_tuned(model, cases) if options.examples else []
    if tuned:
        print(f"\nAfter tuning on {options.examples} examples:\n")
        table = make_table(candidates_of_tuned(tuned, tasks, calibration), [one.right for one in tuned], kinds)
        show(table)
    if options.write:
        answers = [*judged, *tuned]
        shares = [None] * len(judged) + [one.left_out for one in tuned]
        fitted = Calibration.fit([one.log_probs for one in answers], [one.right for one in answers], shares)
        fitted.save(options.write)


if __name__ == "__main__":
    main()
