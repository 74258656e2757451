"""Base, demonstrations, description and adapters, on the same questions: `t2l eval`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from text2lora.arguments import checked
from text2lora.errors import EvaluationError
from text2lora.evaluation.backends import Answer, Backend, Request
from text2lora.evaluation.data import TaskData
from text2lora.evaluation.metrics import Estimate, bootstrap_samples
from text2lora.evaluation.sandbox import check_sandbox
from text2lora.evaluation.tasks import Verdict
from text2lora.names import distinct_names

BASE = "base"
AVERAGE = "average"
"""The task of the figures over all tasks, each of the same weight."""


@dataclass(frozen=True)
class Condition:
    """One way to ask: under an adapter or none, with a description before the question, after demonstrations."""

    name: str
    adapter: str | None = None
    description: str | None = None
    shots: int = 0


@dataclass(frozen=True)
class Sample:
    """One question in one condition; `score` is 1 for a right answer, 0 for a wrong one."""

    condition: str
    task: str
    id: int
    prompt: str
    output: str
    parsed: str | None
    gold: str
    score: float
    reason: str = ""


@dataclass(frozen=True)
class Figure:
    """A condition's accuracy on a task or over all of them, and its difference from the base, question by question."""

    condition: str
    task: str
    accuracy: Estimate
    difference: Estimate | None


@checked(EvaluationError)
def make_conditions(adapters: Sequence[str] = (), description: str | None = None, shots: int = 3) -> list[Condition]:
    """The conditions: the base model alone, with demonstrations, with the description in the prompt; and each adapter.

    Args:
        adapters: the adapters, as the backend knows them; the names of their conditions are short, and all different.
        description: the text to put before the question.
        shots: the number of demonstrations.
    """
    conditions = [Condition(BASE)]
    if shots:
        conditions.append(Condition(f"{BASE} + {shots}-shot", shots=shots))
    if description:
        conditions.append(Condition(f"{BASE} + description", description=description))
    known = list(dict.fromkeys(adapters))
    names = distinct_names(known, [condition.name for condition in conditions])
    return conditions + [Condition(name, adapter=adapter) for name, adapter in zip(names, known, strict=True)]


@checked(EvaluationError)
def evaluate_tasks(
    backend: Backend,
    tasks: Sequence[TaskData],
    conditions: Sequence[Condition],
    allow_code_execution: bool = False,
    max_new_tokens: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[Sample]:
    """Ask all questions in all conditions.

    Args:
        backend: the model that answers.
        tasks: the tasks with their questions.
        conditions: the conditions, which are run in this order.
        allow_code_execution: whether to run what the model writes for a programming task, in a confined process.
        max_new_tokens: the longest answer, in tokens; None is each task's own.
        report: receives a line before each task in each condition.

    Raises:
        EvaluationError: the tasks cannot be run, see `check_tasks`, or the backend fails.
    """
    check_tasks(tasks, allow_code_execution)
    samples = []
    for condition in conditions:
        with backend.use(condition.adapter):
            for data in tasks:
                report(f"{condition.name}: {data.task.name}, {len(data.examples)} questions")
                task = data.task
                stop = task.stop + (() if backend.chat or task.runs_code else ("\n\n",))  # where a next turn would be
                requests = [_request(condition, data, i) for i in range(len(data.examples))]
                answers = backend.answer(requests, max_new_tokens or task.max_new_tokens, stop)
                samples += _judge(condition, data, answers)
    return samples


def check_tasks(tasks: Sequence[TaskData], allow_code_execution: bool) -> None:
    """Refuse tasks whose figures could be mixed up, that run code without leave, or on a system that cannot confine it.

    Raises:
        EvaluationError: there is such a task.
    """
    names = [data.task.name for data in tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise EvaluationError(f"two tasks have the same name {twice[0]!r}: rename one, or its file")
    if AVERAGE in names:
        raise EvaluationError(
            f"a task cannot be called {AVERAGE!r}, the name of the figures over all tasks: rename it, or its file"
        )
    for data in tasks:
        if data.task.runs_code:
            if not allow_code_execution:
                raise EvaluationError(
                    f"{data.task.name} runs code that the model writes, in a confined process: allow it with "
                    "--allow-code-execution (allow_code_execution=True)"
                )
            check_sandbox()


def _request(condition: Condition, data: TaskData, index: int) -> Request:
    shown = [text for shot in data.shots[: condition.shots] for text in (*shot.before, shot.prompt, shot.target)]
    example = data.examples[index]
    question = example.prompt
    if condition.description:
        question = f"{condition.description.strip()}\n\n{question}"
    return Request((*shown, *example.before, question), data.task.prefill)


def _judge(condition: Condition, data: TaskData, answers: Sequence[Answer]) -> list[Sample]:
    def verdict(i: int) -> Verdict:
        answer = answers[i]
        return (
            Verdict(None, False, answer.problem) if answer.problem else data.task.judge(answer.text, data.examples[i])
        )

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1) if data.task.runs_code else 1) as pool:
        verdicts = list(pool.map(verdict, range(len(answers))))
    return [
        Sample(
            condition=condition.name,
            task=data.task.name,
            id=i,
            prompt=answer.prompt,
            output=answer.text,
            parsed=found.parsed,
            gold=data.examples[i].gold,
            score=float(found.correct),
            reason=found.reason,
        )
        for i, (answer, found) in enumerate(zip(answers, verdicts, strict=True))
    ]


@checked(EvaluationError)
def summarise(samples: Sequence[Sample], seed: int = 0) -> list[Figure]:
    """Accuracy and difference from the base model for each condition and task, and the average over several tasks.

    Args:
        samples: the answered questions; those of a task are in the same order in all conditions.
        seed: the random seed of the bootstrap.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        scores.setdefault(sample.condition, {}).setdefault(sample.task, []).append(sample.score)
    tensors = {name: {task: torch.tensor(s) for task, s in by_task.items()} for name, by_task in scores.items()}
    figures = []
    for condition, by_task in tensors.items():
        groups = {task: [task] for task in by_task} | ({AVERAGE: list(by_task)} if len(by_task) > 1 else {})
        for group, names in groups.items():
            difference = None
            if condition != BASE and BASE in tensors:
                pairs = [by_task[task] - tensors[BASE][task] for task in names]
                difference = bootstrap_samples(pairs, seed=seed)
            accuracy = bootstrap_samples([by_task[task] for task in names], seed=seed)
            figures.append(Figure(condition, group, accuracy, difference))
    return figures
