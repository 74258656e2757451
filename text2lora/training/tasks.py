"""Your own tasks: what a task is, which parts validation keeps, and how training draws from the rest."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from text2lora.errors import TrainingError
from text2lora.language import Example, Prompt
from text2lora.training.data import Probe, TaskDraw
from text2lora.training.recipe import at_least, settings, share


class TaskExample(NamedTuple):
    """One example: `prompt` is a text or chat messages; `definition` says the task and may stand before it.

    `answer` is what counts of the response, where that is not all of it.
    """

    prompt: Prompt
    response: str
    definition: str = ""
    answer: str = ""

    def with_definition(self) -> Example:
        """The prompt with the definition before it, and the response."""
        if not self.definition:
            return self.prompt, self.response
        if isinstance(self.prompt, str):
            return f"{self.definition}\n\n{self.prompt}", self.response
        first, *rest = self.prompt
        return [{**first, "content": f"{self.definition}\n\n{first['content']}"}, *rest], self.response

    def without_definition(self) -> Example:
        """The bare prompt, and the response."""
        return self.prompt, self.response


@dataclass(frozen=True)
class Task:
    """What an adapter should do.

    Attributes:
        name: of the task, once in a run.
        descriptions: the wordings that training may see.
        examples: what to answer.
        held_out_descriptions: wordings for validation.
        held_out_examples: examples for validation; without them, some of `examples` are kept back.
    """

    name: str
    descriptions: list[str]
    examples: list[TaskExample]
    held_out_descriptions: list[str] = field(default_factory=list)
    held_out_examples: list[TaskExample] = field(default_factory=list)


@settings
class SplitConfig:
    """What validation keeps for itself.

    Attributes:
        unseen_tasks: how many whole tasks, or their names.
        held_out_descriptions: share of the wordings of a task that marks none as held out, if it has several.
        examples: unseen examples per task, at most those held out, or half of those of a task that holds none out.
        wordings: per task and split, so many descriptions are validated at most.
        tasks: trained tasks that are validated at most, drawn at random; 0 for all. From the others nothing is kept
            back but what they themselves hold out.
        seed: of the choice.
    """

    unseen_tasks: int | list[str] = 0
    held_out_descriptions: float = share(default=0.2)
    examples: int = at_least(1, default=8)
    wordings: int = at_least(1, default=2)
    tasks: int = at_least(0, default=0)
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.unseen_tasks, int) and self.unseen_tasks < 0:
            raise TrainingError(f"unseen_tasks is {self.unseen_tasks}: expected 0 or more, or a list of names")


@dataclass
class TaskSet:
    """Tasks to train on; a `TaskSource`.

    Attributes:
        tasks: each is drawn as often as any other.
        definition_dropout: share of the draws whose prompts lack the task's definition, so that the adapter must
            carry it.
    """

    tasks: Sequence[Task]
    definition_dropout: float = 0.9
    descriptions: list[str] = field(init=False)
    task_names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.descriptions = [text for task in self.tasks for text in task.descriptions]
        self.task_names = [task.name for task in self.tasks for _ in task.descriptions]
        starts = [0]
        for task in self.tasks:
            starts.append(starts[-1] + len(task.descriptions))
        self._starts = starts

    def draw(self, rng: random.Random, examples: int) -> TaskDraw:
        """A task, one of its descriptions, and examples of it; all different ones where it has enough."""
        number = rng.randrange(len(self.tasks))
        task = self.tasks[number]
        row = self._starts[number] + rng.randrange(len(task.descriptions))
        chosen = (
            rng.sample(task.examples, examples)
            if examples <= len(task.examples)
            else rng.choices(task.examples, k=examples)
        )
        bare = rng.random() < self.definition_dropout
        return TaskDraw(row, [e.without_definition() if bare else e.with_definition() for e in chosen])


def split_tasks(tasks: Sequence[Task], config: SplitConfig) -> tuple[list[Task], dict[str, list[Probe]]]:
    """Take out what validation reads.

    Returns:
        The tasks as training sees them, and by split what to validate on: `unseen_examples` of trained tasks under
        trained descriptions, `unseen_descriptions` of trained tasks, and `unseen_tasks`. Prompts are without
        definitions, and examples are unseen in all three. A split that would be empty is left out.

    Raises:
        TrainingError: two tasks of one name, an unknown name in `unseen_tasks`, no task left to train on, or a task
            with a single example.
    """
    names = [task.name for task in tasks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise TrainingError(f"there are several tasks {min(twice)!r}: expected names that differ")
    rng = random.Random(f"splits {config.seed}")
    if isinstance(config.unseen_tasks, list):
        unseen = {str(name) for name in config.unseen_tasks}
        if unknown := sorted(unseen - set(names)):
            raise TrainingError(f"unseen_tasks holds {unknown[0]!r}: expected some of {', '.join(names)}")
    else:
        unseen = set(rng.sample(sorted(names), min(config.unseen_tasks, len(names))))
    if len(unseen) == len(tasks):
        raise TrainingError(f"unseen_tasks leaves none of the {len(tasks)} tasks to train on")
    train: list[Task] = []
    splits: dict[str, list[Probe]] = {"unseen_examples": [], "unseen_descriptions": [], "unseen_tasks": []}
    if poor := [task.name for task in tasks if len(task.examples) < 2 and not task.held_out_examples]:
        raise TrainingError(
            f"the task {poor[0]!r} has a single example: expected one to train on and one to validate on"
        )
    # the same for all, so that tasks weigh the same
    count = min(config.examples, *(len(task.held_out_examples) or len(task.examples) // 2 for task in tasks))
    trained = sorted(set(names) - unseen)
    validated = set(rng.sample(trained, min(config.tasks or len(trained), len(trained)))) | unseen
    for task in tasks:
        if task.name not in validated:
            train.append(task)
            continue
        own = random.Random(f"{config.seed} {task.name}")
        wordings, held_out = list(task.descriptions), list(task.held_out_descriptions)
        if not held_out and len(wordings) > 1:
            share = max(1, round(config.held_out_descriptions * len(wordings))) if config.held_out_descriptions else 0
            held_out = own.sample(wordings, min(share, len(wordings) - 1))  # training needs one
            wordings = [text for text in wordings if text not in held_out]
        order = own.sample(task.examples, len(task.examples))
        if task.held_out_examples:
            kept_back = own.sample(task.held_out_examples, count)
        else:
            kept_back, order = order[:count], order[count:]
        held = [example.without_definition() for example in kept_back]

        def probes(texts: Sequence[str]) -> list[Probe]:
            return [Probe(text, held) for text in texts[: config.wordings]]  # noqa: B023 - used at once

        if task.name in unseen:
            splits["unseen_tasks"] += probes(held_out + wordings)
            continue
        splits["unseen_examples"] += probes(wordings)
        splits["unseen_descriptions"] += probes(held_out)
        train.append(replace(task, descriptions=wordings, held_out_descriptions=held_out, examples=order))
    return train, {name: found for name, found in splits.items() if found}


def _words(prompt: Prompt) -> list[str]:
    text = prompt if isinstance(prompt, str) else "\n".join(str(message["content"]) for message in prompt)
    return re.findall(r"\w+", text.lower()) or [text]


def decontaminate(
    train: Sequence[Task],
    held_out: Iterable[Example],
    report: Callable[[str], None] = print,
    ngram: int = 13,
) -> list[Task]:
    """Leave out the training examples that evaluation would recognise.

    An example goes where an evaluation example has its prompt and response, case and punctuation aside, or where the
    two prompts share so many words in a row as `ngram`. Words that are in more than ten training examples, or in more
    than half of a task's, are a form that examples are put into, and do not count (both as in Brown et al. 2020,
    appendix C, but for the half).

    Raises:
        TrainingError: nothing of a task would be left.
    """
    pairs: set[tuple[str, str]] = set()
    grams: set[tuple[str, ...]] = set()
    for prompt, response in held_out:
        words = _words(prompt)
        pairs.add((" ".join(words), " ".join(_words(response))))
        grams |= _grams(words, ngram)
    everywhere: Counter[tuple[str, ...]] = Counter()
    shared = [[_grams(_words(example.prompt), ngram) & grams for example in task.examples] for task in train]
    for found in shared:
        everywhere.update(gram for own in found for gram in own)
    clean, gone = [], 0
    for task, found in zip(train, shared, strict=True):
        here = Counter(gram for own in found for gram in own)
        forms = {gram for gram, count in here.items() if everywhere[gram] > 10 or 1 < count > len(found) / 2}
        examples = [
            example
            for example, own in zip(task.examples, found, strict=True)
            if own <= forms and (" ".join(_words(example.prompt)), " ".join(_words(example.response))) not in pairs
        ]
        if not examples:
            raise TrainingError(f"all examples of {task.name!r} are in the evaluation data, too: take other ones")
        gone += len(task.examples) - len(examples)
        clean.append(replace(task, examples=examples))
    if gone:
        report(f"decontamination: {gone} training examples left out, for validation has them")
    return clean


def _grams(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
