"""How well a function knows which of its answers are right: candidates, and the calibration that a checkpoint carries.

    python examples/nano/confidence.py --write text2lora/nano/checkpoint
    python examples/nano/confidence.py --split test
    python examples/nano/confidence.py --model smol --data runs/smol

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

from text2lora import Text2LoraModel
from text2lora.confidence import Calibration, confidence, features, fit_logistic
from text2lora.functions import Function
from text2lora.inference import complete_ids
from text2lora.training.task_files import read_tasks

SCALE = 0.75
"""Of the weaker adapter that an adapter has to agree with."""


@dataclass(frozen=True)
class Case:
    """A description of a task that is seen or unseen, with inputs and the right answers."""

    kind: str
    task: str
    description: str
    examples: list[tuple[str, str]]


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
    """

    right: bool
    log_probs: list[float]
    similarity: float
    norm: float
    weaker: bool
    others: float

    @property
    def all(self) -> list[float]:
        """Everything but the other wordings, which a function does not have."""
        return [*features(self.log_probs), self.similarity, self.norm, self.weaker]


def read_cases(split: str, records: int) -> list[Case]:
    """The descriptions of a split of nano, with records that no training saw."""
    return [
        Case(kind, task, text, evaluation_examples(TASKS[task], records, FIRST_SEED))
        for kind in ("seen", "unseen")
        for task, text in read_split(f"{split}_{kind}")
    ]


def read_smol(folder: Path, tasks: int, records: int) -> list[Case]:
    """Two wordings of some tasks of smol, half of them of kinds that training saw."""
    cases = []
    for kind in ("seen", "unseen"):
        found = [task for task in read_tasks(folder / f"dev_{kind}.jsonl") if len(task.held_out_examples) >= records]
        for task in random.Random("confidence").sample(found, min(len(found), tasks // 2)):
            pairs = [example.without_definition() for example in task.held_out_examples[:records]]
            cases += [Case(kind, task.name, text, [(str(i), o) for i, o in pairs]) for text in task.descriptions[:2]]
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
    novelties = model.novelty(descriptions) or []
    wordings: dict[str, list[str]] = {}
    for case in cases:
        wordings.setdefault(case.task, []).append(case.description)
    found = []
    for (i, text), (answer, log_probs), (second, _) in zip(places, answers, again, strict=True):
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
            )
        )
    return found


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


def make_table(cases: Sequence[Case], judged: Sequence[Judged], calibration: Calibration | None) -> list[list[str]]:
    """A row for each candidate.

    Args:
        cases: the descriptions.
        judged: the answers, in the order of the cases.
        calibration: what to score; None fits one on half of the tasks for the other half.
    """
    tasks = [case.task for case in cases for _ in case.examples]
    kinds = [case.kind for case in cases for _ in case.examples]
    right = [one.right for one in judged]
    total = [sum(one.log_probs) for one in judged]
    calibrated = (
        [confidence(one.log_probs, calibration) for one in judged]
        if calibration
        else out_of_fold([list(features(one.log_probs)) for one in judged], right, tasks)
    )
    candidates: dict[str, list[float]] = {
        "distance of the description": [one.similarity for one in judged],
        "size of the adapter's update": [-one.norm for one in judged],
        "agreement with the adapter at 3/4 strength": [one.weaker for one in judged],
        "agreement with the adapters of other wordings": [one.others for one in judged],
        "probability of the answer": [math.exp(value) for value in total],
        "mean log probability of its tokens": [math.exp(features(one.log_probs)[1]) for one in judged],
        "least probability of its tokens": [math.exp(features(one.log_probs)[2]) for one in judged],
        "calibrated: the last three": calibrated,
    }
    if calibration is None:
        candidates["calibrated: all but the other wordings"] = out_of_fold([one.all for one in judged], right, tasks)
    rows = [["Certainty from", "Error", "Error at 80 %", "Ratio", "Calibration error"]]

    def add(name: str, values: list[float], of: list[bool], probable: bool) -> None:
        error, kept = error_at(values, of, 1), error_at(values, of, 0.8)
        gap = f"{calibration_error(values, of):.3f}" if probable else ""
        rows.append([name, f"{error:.3f}", f"{kept:.3f}", f"{kept / max(error, 1e-9):.2f}", gap])

    for name, values in candidates.items():
        add(name, values, right, "prob" in name or "calibrated" in name)
    for kind in dict.fromkeys(kinds):
        places = [i for i, one in enumerate(kinds) if one == kind]
        add(f"calibrated, {kind} tasks", [calibrated[i] for i in places], [right[i] for i in places], True)
    return rows


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
    parser.add_argument("--write", type=Path, help="folder of the checkpoint to write the calibration into")
    options = parser.parse_args()
    model = Text2LoraModel.from_pretrained(options.model)
    cases = (
        read_smol(options.data, options.tasks, options.records)
        if options.data
        else read_cases(options.split, options.records)
    )
    judged = judge(model, cases)
    rows = make_table(cases, judged, model.calibration if options.split == "test" else None)
    print("\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]))
    if options.write:
        Calibration.fit([one.log_probs for one in judged], [one.right for one in judged]).save(options.write)


if __name__ == "__main__":
    main()
