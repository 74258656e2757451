"""Adapters against their base on the same questions, from names to a report: what `t2l eval` runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from text2lora.adapter import LoraAdapter
from text2lora.arguments import checked
from text2lora.errors import EvaluationError
from text2lora.evaluation.backends import Backend, ServerBackend, TransformersBackend
from text2lora.evaluation.data import load_tasks
from text2lora.evaluation.harness import check_tasks, evaluate_tasks, make_conditions, summarise
from text2lora.evaluation.lm_harness import HARNESS_PREFIX, evaluate_with_lm_eval, find_tasks
from text2lora.evaluation.report import EvalReport

Places = Mapping[str, tuple[str, str | None]]
"""By the name of an adapter in the report, its folder or Hub id, and the subfolder that it is in."""


@checked(EvaluationError)
def evaluate(
    model: str,
    tasks: Sequence[str],
    adapters: Sequence[str] | Places = (),
    *,
    description: str | None = None,
    shots: int = 3,
    limit: int | None = None,
    data: Path | None = None,
    server: str | None = None,
    allow_code_execution: bool = False,
    max_new_tokens: int | None = None,
    batch_size: int = 16,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    token: str | None = None,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> EvalReport:
    """Ask the same questions of the base model alone, with demonstrations, with a description, and with each adapter.

    Args:
        model: the base model: a folder, a Hub id or a bundled name; with a server, a name that it serves.
        tasks: the tasks: benchmarks, files or folders of tasks, and tasks of lm-evaluation-harness as `lm_eval:NAME`.
        adapters: the adapters: folders or Hub ids, or names that the server knows; or a mapping, see `Places`.
        description: also ask the base model with this text before the question.
        shots: also ask the base model after this many demonstrations; 0 leaves that out.
        limit: use only the first questions of each task; None uses all.
        data: a file or folder with the benchmarks, used instead of the Hub. A folder may also contain task definitions
            for lm-evaluation-harness.
        server: the address of a server with OpenAI's chat API, which then answers instead of this process.
        allow_code_execution: whether to run what the model writes for a programming task, in a confined process.
        max_new_tokens: the longest answer, in tokens; None is each task's own.
        batch_size: the number of questions to answer at a time; on a server, simultaneous requests.
        device: the device of the base model.
        dtype: the dtype of the base model; None is that of its weights.
        token: a Hub token; None uses HF_TOKEN or the token from `hf auth login`.
        seed: the random seed of the intervals and of the demonstrations that lm-evaluation-harness chooses.
        report: receives a line about each step.

    Raises:
        EvaluationError: a task is unknown, or may not or cannot run here. Tasks are checked before the model is loaded.
    """
    places = adapters if isinstance(adapters, Mapping) else {name: (name, None) for name in adapters}
    theirs = [name for name in tasks if name.startswith(HARNESS_PREFIX)]
    own = [name for name in tasks if name not in theirs]
    if theirs and server:
        raise EvaluationError(f"{theirs[0]} cannot be run on a server: leave out --server")
    conditions = make_conditions([*places], description, shots)
    report("reading the tasks")
    sets = [found for name in own for found in load_tasks(name, data, shots, limit)]
    check_tasks(sets, allow_code_execution)
    theirs = [name.removeprefix(HARNESS_PREFIX) for name in theirs]
    manager = find_tasks(theirs, data if data and data.is_dir() else None) if theirs else None
    report("loading the model")
    backend: Backend
    if server:
        backend = ServerBackend(server, model, [*places], batch_size, seed=seed)
    else:
        loras = {name: LoraAdapter.from_pretrained(*place, token=token) for name, place in places.items()}
        backend = TransformersBackend.from_names(model, loras, batch_size, device, dtype or "auto", token)
    samples = evaluate_tasks(backend, sets, conditions, allow_code_execution, max_new_tokens, report)
    if manager and isinstance(backend, TransformersBackend):
        samples += evaluate_with_lm_eval(backend, manager, theirs, conditions, limit, seed, report)
    report("computing the intervals")
    return EvalReport(model, server or "transformers", seed, conditions, summarise(samples, seed), samples)
