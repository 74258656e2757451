"""Your own tasks: what a task is, what validation keeps of it, and how training draws from the rest."""

from __future__ import annotations

import random
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from text2lora.arguments import check_count, checked, checked_class
from text2lora.errors import TaskError, TrainingError, shown
from text2lora.language import Example, Prompt
from text2lora.training.data import Probe, TaskDraw
from text2lora.training.recipe import at_least, settings, share


@dataclass(frozen=True)
class TaskExample:
    """An example: `prompt` is a text or chat messages; `definition` is the task's definition, which may precede it.

    `answer` is the part of the response that counts, if that is not all of it.
    """

    prompt: Prompt
    response: str
    definition: str = ""
    answer: str = ""

    def __post_init__(self) -> None:
        for name in ("response", "definition", "answer"):
            if not isinstance(text := getattr(self, name), str):
                raise TaskError(f"the {name} of an example is {shown(text)}: expected a text")
        if not isinstance(self.prompt, str) and not (
            isinstance(self.prompt, list)
            and self.prompt
            and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in self.prompt)
        ):
            raise TaskError(
                f"the prompt of an example is {shown(self.prompt)}: expected a text, or messages with `role` and "
                "`content`"
            )

    def with_definition(self) -> Example:
        """The prompt, preceded by the definition, and the response."""
        if not self.definition:
            return self.prompt, self.response
        if isinstance(self.prompt, str):
            return f"{self.definition}\n\n{self.prompt}", self.response
        first, *rest = self.prompt
        return [{**first, "content": f"{self.definition}\n\n{first['content']}"}, *rest], self.response

    def without_definition(self) -> Example:
        """The prompt without the definition, and the response."""
        return self.prompt, self.response


@checked_class(TaskError)
@dataclass(frozen=True)
class Task:
    """What an adapter should do.

    Attributes:
        name: The name of the task, unique within a run.
        descriptions: The wordings for training.
        examples: Prompts and responses.
        held_out_descriptions: The wordings for validation.
        held_out_examples: The examples for validation; if there are none, some of `examples` are kept back.
        weight: How many times as often as a task of weight 1 this one is drawn.
    """

    name: str
    descriptions: list[str]
    examples: list[TaskExample]
    held_out_descriptions: list[str] = field(default_factory=list)
    held_out_examples: list[TaskExample] = field(default_factory=list)
    weight: int = 1

    def __post_init__(self) -> None:
        if self.weight < 1:
            raise TaskError(f"the weight of {self.name!r} is {self.weight}: expected 1 or more")


@settings
class SplitConfig:
    """What to keep for validation.

    Attributes:
        unseen_tasks: How many whole tasks to keep, or their names.
        held_out_descriptions: The share of a task's descriptions to keep, if it has several and holds out none itself.
        examples: The number of unseen examples per task. All validated tasks have the same number: at most as many as
            the task with the fewest holds out, or half of its examples if it holds out none.
        wordings: The maximum number of descriptions to validate per task and split.
        tasks: The maximum number of trained tasks to validate, drawn at random; 0 for all. The other tasks keep back
            only what they hold out themselves.
        seed: The seed of the random choices.
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


@checked_class(TaskError)
@dataclass
class TaskSet:
    """Tasks to train on; a `TaskSource`.

    Attributes:
        tasks: The tasks, which are drawn in proportion to their weights.
        definition_dropout: The share of draws whose prompts omit the task's definition, so that the adapter must
            convey it.
    """

    tasks: Sequence[Task]
    definition_dropout: float = 0.9
    descriptions: list[str] = field(init=False)
    task_names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise TaskError("there are no tasks: expected at least one")
        for task in self.tasks:
            for what in ("descriptions", "examples"):
                if not getattr(task, what):
                    raise TaskError(
                        f"the task {task.name!r} has no {what} to train on: expected at least one that differs from "
                        "those that are held out for validation"
                    )
        if not 0 <= self.definition_dropout <= 1:
            raise TaskError(f"definition_dropout is {self.definition_dropout:g}: expected a share from 0 to 1")
        self.descriptions = [text for task in self.tasks for text in task.descriptions]
        self.task_names = [task.name for task in self.tasks for _ in task.descriptions]
        starts = [0]
        for task in self.tasks:
            starts.append(starts[-1] + len(task.descriptions))
        self._starts = starts
        self._ends = list(accumulate(task.weight for task in self.tasks))

    @checked(TaskError)
    def draw(self, rng: random.Random, examples: int) -> TaskDraw:
        """Draw a task, one of its descriptions, and examples; no example repeats if there are enough."""
        check_count(examples, "examples")
        number = bisect(self._ends, rng.randrange(self._ends[-1]))
        task = self.tasks[number]
        row = self._starts[number] + rng.randrange(len(task.descriptions))
        chosen = (
            rng.sample(task.examples, examples)
            if examples <= len(task.examples)
            else rng.choices(task.examples, k=examples)
        )
        bare = rng.random() < self.definition_dropout
        return TaskDraw(row, [e.without_definition() if bare else e.with_definition() for e in chosen])


@checked(TrainingError)
def split_tasks(
    tasks: Sequence[Task], config: SplitConfig, report: Callable[[str], None] = print
) -> tuple[list[Task], dict[str, list[Probe]]]:
    """Take out what is kept for validation, and report if a task has too few examples for it.

    Returns:
        The tasks as training sees them, and the probes of each validation split: `unseen_examples` of trained tasks
        under trained descriptions, `unseen_descriptions` of trained tasks, and `unseen_tasks`. Examples are unseen in
        all three, and prompts have no definitions. Empty splits are left out.

    Raises:
        TaskError: two tasks have the same name, or a task has a single example.
        TrainingError: a name in `unseen_tasks` is unknown, or no task is left to train on.
    """
    names = [task.name for task in tasks]
    rng = random.Random(f"splits {config.seed}")
    unseen = _choose_unseen(names, config, rng)
    train: list[Task] = []
    splits: dict[str, list[Probe]] = {"unseen_examples": [], "unseen_descriptions": [], "unseen_tasks": []}
    if poor := [task.name for task in tasks if len(task.examples) < 2 and not task.held_out_examples]:
        raise TaskError(f"the task {poor[0]!r} has a single example: expected one to train on and one to validate on")
    trained = sorted(set(names) - unseen)
    validated = set(rng.sample(trained, min(config.tasks or len(trained), len(trained)))) | unseen
    # the same number for all tasks, so that they have equal weight
    room = {task.name: len(task.held_out_examples) or len(task.examples) // 2 for task in tasks}
    poorest = min((name for name in names if name in validated), key=lambda name: room[name])
    if (count := min(config.examples, room[poorest])) < config.examples:
        report(f"validating with {count} examples a task instead of {config.examples}: {poorest!r} can spare no more")
    for task in tasks:
        if task.name not in validated:
            train.append(task)
            continue
        own = random.Random(f"{config.seed} {task.name}")
        wordings, held_out = list(task.descriptions), list(task.held_out_descriptions)
        if not held_out and len(wordings) > 1:
            share = max(1, round(config.held_out_descriptions * len(wordings))) if config.held_out_descriptions else 0
            held_out = own.sample(wordings, min(share, len(wordings) - 1))  # leave one for training
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


def _choose_unseen(names: Sequence[str], config: SplitConfig, rng: random.Random) -> set[str]:
    """The names of the tasks that training does not see."""
    if twice := {name for name in names if names.count(name) > 1}:
        raise TaskError(f"there are several tasks {min(twice)!r}: expected unique names")
    if isinstance(config.unseen_tasks, list):
        unseen = {str(name) for name in config.unseen_tasks}
        if unknown := sorted(unseen - set(names)):
            raise TrainingError(f"unseen_tasks holds {unknown[0]!r}: expected some of {', '.join(names)}")
    else:
        unseen = set(rng.sample(sorted(names), min(config.unseen_tasks, len(names))))
    if len(unseen) == len(names):
        raise TrainingError(f"unseen_tasks leaves none of the {len(names)} tasks to train on")
    return unseen


def _words(prompt: Prompt) -> list[str]:
    text = prompt if isinstance(prompt, str) else "\n".join(str(message["content"]) for message in prompt)
    return re.findall(r"\w+", text.lower()) or [text]


def decontaminate(
    train: Sequence[Task],
    held_out: Iterable[Example],
    report: Callable[[str], None] = print,
) -> list[Task]:
    """Remove training examples that also occur in the evaluation data.

    An example is removed if an evaluation example has the same prompt and response, ignoring case and punctuation, or
    if their prompts share 13 words in a row. Sequences that occur in more than ten training examples, or in more
    than half of a task's, are regarded as templates and ignored (as in Brown et al. 2020, appendix C, except for the
    rule about half of a task's examples).

    Raises:
        TaskError: no example of a task would be left.
    """
    pairs: set[tuple[str, str]] = set()
    grams: set[tuple[str, ...]] = set()
    for prompt, response in held_out:
        words = _words(prompt)
        pairs.add((" ".join(words), " ".join(_words(response))))
        grams |= _grams(words)
    everywhere: Counter[tuple[str, ...]] = Counter()
    shared = [[_grams(_words(example.prompt)) & grams for example in task.examples] for task in train]
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
            raise TaskError(f"all examples of {task.name!r} also occur in the evaluation data: use other examples")
        gone += len(task.examples) - len(examples)
        clean.append(replace(task, examples=examples))
    if gone:
        report(f"decontamination: left out {gone} training examples that validation uses")
    return clean


def _grams(words: Sequence[str]) -> set[tuple[str, ...]]:
    """All sequences of 13 words."""
    return {tuple(words[i : i + 13]) for i in range(len(words) - 12)}
