"""Your own tasks: read from files or data sets, split for validation, and drawn from in training."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from text2lora.encoder import check_description
from text2lora.errors import InvalidDescriptionError, MissingExtraError, TrainingError
from text2lora.installation import install_command
from text2lora.language import Example, Prompt
from text2lora.textfiles import read_lines, read_text
from text2lora.training.data import Probe, TaskDraw
from text2lora.training.recipe import at_least, settings, share

LOTS_OF_LORAS = {
    "prompt": "{input}",
    "response": "{output[0]}",
    "definition_pattern": r"Definition:.*Now complete the following example\s*-?\s*|Definition:.*?(?=Input:)",
}
"""The columns of the Lots-of-LoRAs data sets (Natural Instructions): what is before the input says the task."""


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
class TaskFiles:
    """Tasks in files of your own.

    Attributes:
        path: a YAML file with one task, a JSON lines file with one a line, or a folder of them; see `read_tasks`.
    """

    path: str


@settings
class HubTasks:
    """Tasks in data sets, of the Hub or whatever `datasets.load_dataset` reads; one data set is one task.

    Attributes:
        descriptions: a JSON lines file with `dataset` and `descriptions` a line, and `held_out_descriptions` if there
            are; lines that say `"used_for_training": false` are left out.
        datasets: which of them; all, if empty. Any name of `load_dataset`, or a format as `json` with `data_files`.
        config: of the data sets, where they have several.
        data_files: for `load_dataset`.
        split: of the data sets.
        revision: their commit, branch or tag.
        prompt, response: templates over the columns of a row, as `{question}` or `{answers[0]}`.
        definition_pattern: a regular expression; what it finds in a prompt is the task's definition.
        layout: `lots-of-loras` sets the three above for the data sets of that name.
        limit: examples per task at most; 0 for all.
    """

    descriptions: str
    datasets: list[str] = field(default_factory=list)
    config: str = ""
    data_files: str = ""
    split: str = "train"
    revision: str = ""
    prompt: str = ""
    response: str = ""
    definition_pattern: str = ""
    layout: Literal["", "lots-of-loras"] = ""
    limit: int = at_least(0, default=0)


def read_tasks(path: Path, described: bool = True) -> list[Task]:
    """Read tasks from a YAML or JSON lines file, or from a folder of them.

    A task is a mapping with `name` (default: the file's), `descriptions`, `examples` and, if there are,
    `held_out_descriptions`, `held_out_examples` and `definition`. An example is a mapping with `prompt` (or chat
    `messages`) and `response`, or a list of the two; `answer` says what counts of the response, or stands in its place.
    Examples may be the name of a JSON lines file beside the task's.

    A YAML file holds one task, and a file of JSON lines a task a line, or one task's examples, one a line.

    Args:
        path: the file or folder.
        described: whether every task needs a description.

    Raises:
        TrainingError: a file that cannot be read, or a task that lacks something, by name.
    """
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in YAML)
        found = found or sorted(p for p in path.iterdir() if p.name.endswith((".jsonl", ".jsonl.gz")))
        if not found:
            raise TrainingError(f"{path} holds no tasks: expected YAML or JSON lines files")
        return [task for file in found for task in read_tasks(file, described)]
    if path.suffix in YAML:
        try:
            return [_task(yaml.safe_load(read_text(path)), path, path.stem, described)]
        except yaml.YAMLError as error:
            raise TrainingError(f"the task {path} cannot be read ({' '.join(str(error).split())})") from error
    if not (rows := read_lines(path)):
        raise TrainingError(f"{path} holds no tasks: expected a task or an example a line")
    if not _is_example(rows[0]):
        return [_task(row, path, f"line {i + 1}", described) for i, row in enumerate(rows)]
    if described:
        raise TrainingError(
            f"{path} holds examples and no descriptions: expected a task a line, with `descriptions` and `examples`; "
            f"`t2l describe {path}` makes one of them"
        )
    name = re.sub(r"\.jsonl?(\.gz)?$", "", path.name)
    return [_task({"name": name, "examples": path.name}, path, name, described)]


YAML = (".yaml", ".yml")


def _is_example(row: object) -> bool:
    return isinstance(row, list) or (isinstance(row, dict) and bool({"prompt", "messages"} & row.keys()))


def read_wordings(path: Path) -> tuple[list[str], list[str]]:
    """The names and descriptions of training tasks, side by side, one pair for each description.

    Args:
        path: tasks as `read_tasks` reads them, or JSON lines with `task` and `descriptions` alone; a line whose
            `used_for_training` is false is passed over.

    Raises:
        TrainingError: see `read_tasks`.
    """
    if path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz")):
        rows = [row for row in read_lines(path) if not isinstance(row, dict) or row.get("used_for_training", True)]
        found: dict[str, list[str]] = {}
        for number, row in enumerate(rows, 1):
            name = row.get("name", row.get("task", f"line {number}")) if isinstance(row, dict) else None
            if name is None or "descriptions" not in row:
                raise TrainingError(f"{path} holds {str(row)[:80]}: expected `task` and `descriptions`")
            found[str(name)] = _descriptions(row["descriptions"], str(path), "descriptions")
    else:
        found = {task.name: task.descriptions for task in read_tasks(path)}
    return [name for name, texts in found.items() for _ in texts], [text for texts in found.values() for text in texts]


def locate(name: str, folder: Path) -> Path:
    """What a path in a recipe means: something beside the recipe, or else relative to the working directory."""
    return folder / name if (folder / name).exists() else Path(name)


def _task(content: object, path: Path, place: str, described: bool) -> Task:
    keys = ("name", "descriptions", "held_out_descriptions", "definition", "examples", "held_out_examples")
    where = f"{path}, {place}" if place != path.stem else str(path)
    needed = ["descriptions", "examples"] if described else ["examples"]
    if not isinstance(content, dict) or not set(needed) <= content.keys():
        raise TrainingError(f"{where} is not a task: expected a mapping with `{'` and `'.join(needed)}`")
    if unknown := sorted(set(content) - set(keys)):
        raise TrainingError(f"{where} has no setting {unknown[0]!r}: expected some of {', '.join(keys)}")
    name, definition = str(content.get("name", place)), str(content.get("definition") or "")

    def examples(key: str) -> list[TaskExample]:
        rows = content.get(key) or []
        numbers = isinstance(rows, str) or path.suffix not in YAML  # to YAML, 010 is 8 and 12:30 is 750
        rows = read_lines(path.parent / rows) if isinstance(rows, str) else rows
        if not isinstance(rows, list):
            raise TrainingError(f"{where}: `{key}` is {rows!r}, expected a list or the name of a JSON lines file")
        one = key.removesuffix("s").replace("_", " ")
        return [_example(row, definition, f"{where}, {one} {i + 1}", numbers) for i, row in enumerate(rows)]

    texts = [_descriptions(content.get(key) or [], where, key) for key in ("descriptions", "held_out_descriptions")]
    shown, held_out = examples("examples"), examples("held_out_examples")
    if not shown or (described and not texts[0]):
        raise TrainingError(f"{where} has no {'descriptions' if shown else 'examples'}: expected at least one")
    return Task(name, texts[0], shown, texts[1], held_out)


def _descriptions(given: object, where: str, key: str) -> list[str]:
    if not isinstance(given, list):
        raise TrainingError(f"{where}: `{key}` is {given!r}, expected a list of texts")
    try:
        return [check_description(text) for text in given]
    except InvalidDescriptionError as error:
        raise TrainingError(f"{where}: {error}") from error


def _example(row: object, definition: str, where: str, numbers: bool) -> TaskExample:
    if isinstance(row, list | tuple) and len(row) == 2:
        row = {"prompt": row[0], "response": row[1]}

    def text(value: object) -> object:
        is_number = numbers and isinstance(value, int | float) and not isinstance(value, bool)
        return str(value) if is_number else value

    if isinstance(row, dict):
        prompt, answer = row.get("messages", row.get("prompt")), text(row.get("answer", ""))
        response = text(row.get("response", answer))
        chat = isinstance(prompt, list) and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in prompt)
        if (
            (prompt and (chat or isinstance(prompt, str)))
            and (isinstance(response, str) and isinstance(answer, str))
            and ("response" in row or answer.strip())
        ):
            return TaskExample(prompt, response, definition, "" if answer == response else answer)
    raise TrainingError(
        f"{where} is {str(row)[:80]}: expected a `prompt` (or `messages` of `role` and `content`) and a `response` or "
        f"`answer`, texts{'' if numbers else '; numbers, yes and no need quotes'}"
    )


def task_to_dict(task: Task) -> dict[str, Any]:
    """The task as `read_tasks` takes it."""
    definitions = {example.definition for example in task.examples + task.held_out_examples}
    same = len(definitions) == 1

    def rows(examples: list[TaskExample]) -> list[dict[str, Any]]:
        pairs = [(e, e.without_definition() if same else e.with_definition()) for e in examples]
        return [
            {"prompt" if isinstance(prompt, str) else "messages": prompt, "response": response}
            | ({"answer": example.answer} if example.answer else {})
            for example, (prompt, response) in pairs
        ]

    found: dict[str, Any] = {"name": task.name, "descriptions": task.descriptions}
    if task.held_out_descriptions:
        found["held_out_descriptions"] = task.held_out_descriptions
    if same and definitions != {""}:
        found["definition"] = definitions.pop()
    found["examples"] = rows(task.examples)
    return found | ({"held_out_examples": rows(task.held_out_examples)} if task.held_out_examples else {})


def load_hub_tasks(source: HubTasks, folder: Path = Path()) -> list[Task]:
    """Read data sets through `datasets`.

    Args:
        source: see `HubTasks`.
        folder: where relative paths are looked up first; see `locate`.

    Raises:
        TrainingError: a data set that cannot be loaded, a column it has not, or a task without descriptions.
        MissingExtraError: `datasets` is not installed.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError(f"data sets need `datasets`: {install_command('train')}") from error
    if source.layout:
        defaults: dict[str, Any] = {k: v for k, v in LOTS_OF_LORAS.items() if not getattr(source, k)}
        source = replace(source, **defaults)
    if not source.prompt or not source.response:
        raise TrainingError("a data set needs templates `prompt` and `response`, or a `layout`")
    wordings = {
        str(row.get("dataset", "")): row
        for row in read_lines(locate(source.descriptions, folder))
        if row.get("used_for_training", True)
    }
    tasks = []
    for dataset in source.datasets or wordings:
        if dataset not in wordings:
            raise TrainingError(f"{source.descriptions} has no descriptions of {dataset!r}: expected a line for it")
        try:
            rows = load_dataset(
                dataset,
                source.config or None,
                data_files=str(locate(source.data_files, folder)) if source.data_files else None,
                split=source.split,
                revision=source.revision or None,
            )
        except Exception as error:  # datasets raises many kinds
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(f"the data set {dataset!r} cannot be loaded ({reason})") from error
        name = str(dataset).rstrip("/").rpartition("/")[2]
        if source.limit:
            rows = rows.select(range(min(source.limit, len(rows))))
        try:
            examples = [_from_row(row, source) for row in rows]
        except (KeyError, IndexError, AttributeError) as error:
            raise TrainingError(
                f"the templates do not fit {name!r} ({error!r}): its columns are {', '.join(rows.column_names)}"
            ) from error
        wording = wordings[dataset]
        lists = [_descriptions(wording.get(k) or [], name, k) for k in ("descriptions", "held_out_descriptions")]
        tasks.append(Task(name, lists[0], examples, lists[1]))
    return tasks


def _from_row(row: dict[str, Any], source: HubTasks) -> TaskExample:
    prompt, response = source.prompt.format(**row), source.response.format(**row)
    found = re.search(source.definition_pattern, prompt, re.S) if source.definition_pattern else None
    if not found:
        return TaskExample(prompt, response)
    bare = prompt[: found.start()] + prompt[found.end() :]
    return TaskExample(bare.strip(), response, found[0].strip())


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
