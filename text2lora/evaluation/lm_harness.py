"""Tasks of lm-evaluation-harness, on the model that is already loaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from text2lora.errors import EvaluationError, MissingExtraError
from text2lora.evaluation.backends import TransformersBackend
from text2lora.evaluation.harness import Condition, Sample
from text2lora.files import first_line
from text2lora.inference import greedy_settings
from text2lora.installation import install_command
from text2lora.turns import Stops, as_turn, padding_id

HARNESS_PREFIX = "lm_eval:"


def find_tasks(names: Sequence[str], include: Path | None = None) -> Any:
    """The library's task manager, after a check that it has these tasks and groups, such as `hellaswag`.

    `include` is a folder with definitions of more tasks.

    Raises:
        MissingExtraError: the library is not installed.
        EvaluationError: a task is unknown.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingExtraError(
            f"{HARNESS_PREFIX}{names[0]} needs lm-evaluation-harness: {install_command('eval')}"
        ) from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=str(include), include_defaults=False) if include else None
    if manager is None or not set(names) <= set(manager.all_tasks):  # reading those of the library takes seconds
        manager = TaskManager(include_path=str(include) if include else None)
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise EvaluationError(f"lm-evaluation-harness has no task {unknown[0]!r}: see `lm-eval ls tasks`")
    return manager


def evaluate_with_lm_eval(
    backend: TransformersBackend,
    manager: Any,
    names: Sequence[str],
    conditions: Sequence[Condition],
    limit: int | None = None,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> list[Sample]:
    """Ask the questions of its tasks in all conditions; the base stays loaded and adapters are swapped in place.

    A task's score is its first metric, through its first filter. A group gives one task for each of its members. The
    description comes before the first question. The seed is that of the choice of demonstrations.

    Raises:
        EvaluationError: a task's data cannot be read, it runs code, or it has no score for each question.
    """
    import lm_eval
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # about settings that the library passes twice
    model, samples = _as_harness_model(backend), []
    for condition in conditions:
        report(f"{condition.name}: {', '.join(names)} of lm-evaluation-harness")
        # it would ask git about the working directory, print git's answer, and list all packages, which takes seconds
        no_facts: dict[str, Any] = {name: lambda *_: None for name in ("get_git_commit_hash", "add_env_info")}
        with backend.use(condition.adapter), mock.patch.multiple("lm_eval.evaluator", create=True, **no_facts):
            try:
                results = lm_eval.simple_evaluate(
                    model=model,
                    tasks=list(names),
                    num_fewshot=condition.shots,
                    limit=limit,
                    bootstrap_iters=0,
                    log_samples=True,
                    system_instruction=condition.description,
                    apply_chat_template=backend.chat,
                    fewshot_as_multiturn=backend.chat,
                    task_manager=manager,
                    random_seed=seed,
                    numpy_random_seed=seed,
                    torch_random_seed=seed,
                    fewshot_random_seed=seed,
                )
            except Exception as error:  # of many kinds, of the library and of the data sets
                told = f"lm-evaluation-harness cannot run {', '.join(names)} ({first_line(error)})"
                raise EvaluationError(told) from error
        assert results is not None  # on the main process
        for task, found in sorted(results["samples"].items()):
            samples += _samples(condition, task, results["configs"][task], found)
    return samples


def _as_harness_model(backend: TransformersBackend) -> Any:
    """The backend's model, as lm-evaluation-harness asks it."""
    from lm_eval.models.huggingface import HFLM

    class Model(HFLM):
        """Puts the description before the first question, since many chat templates have no system turn."""

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """Write a conversation as the model reads it."""
            turns = [dict(turn) for turn in chat_history]
            if len(turns) > 1 and turns[0]["role"] == "system":
                description = turns.pop(0)["content"]
                turns[0]["content"] = f"{description}\n\n{turns[0]['content']}"
            if add_generation_prompt:
                return as_turn(backend.tokenizer, turns)
            return str(super().apply_chat_template(turns, add_generation_prompt))

        def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
            """Greedily, unless a task says otherwise, and up to where training ends an answer."""
            stops = Stops.of(backend.tokenizer, backend.model)
            options = greedy_settings() | {"eos_token_id": list(stops.ids) or None} | kwargs
            found = super()._model_generate(context, *args, **options)
            for row in found[:, context.shape[1] :]:  # the mark need not be special, so it would be read as text
                row[len(stops.cut(row.tolist())) :] = padding_id(backend.tokenizer)
            return found

    device = str(backend.model.device)
    return Model(pretrained=backend.model, tokenizer=backend.tokenizer, batch_size=backend.batch_size, device=device)


def _samples(
    condition: Condition, task: str, config: Mapping[str, Any], found: Sequence[Mapping[str, Any]]
) -> list[Sample]:
    first = found[0]
    listed = [metric["metric"] for metric in config.get("metric_list") or []]
    metric = next((name for name in [*listed, *first.get("metrics", [])] if name in first), None)
    if metric is None or not isinstance(first[metric], int | float):
        raise EvaluationError(
            f"{HARNESS_PREFIX}{task} has no score for each question: choose a task with accuracy or exact match"
        )
    rows = sorted((row for row in found if row.get("filter") == first.get("filter")), key=lambda row: row["doc_id"])
    return [
        Sample(
            condition=condition.name,
            task=f"{HARNESS_PREFIX}{task}",
            id=int(row["doc_id"]),
            prompt=_prompt(row["arguments"]),
            output=json.dumps(row["resps"], default=str),
            parsed=json.dumps(row["filtered_resps"], default=str),
            gold=str(row["target"]),
            score=float(row[metric]),
            reason=metric,
        )
        for row in rows
    ]


def _prompt(arguments: Any) -> str:
    """The text that the model read: the library gives a list, or a mapping of mappings, of argument tuples."""
    while isinstance(arguments, Mapping | list | tuple) and arguments:
        arguments = next(iter(arguments.values())) if isinstance(arguments, Mapping) else arguments[0]
    return str(arguments)
