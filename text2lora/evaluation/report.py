"""What an evaluation found, as files, as Markdown, and in the card of an adapter on the Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2lora.arguments import checked, checked_class
from text2lora.cards import escape_markdown
from text2lora.errors import EvaluationError, HubError
from text2lora.evaluation.harness import AVERAGE, Condition, Figure, Sample
from text2lora.evaluation.metrics import Estimate
from text2lora.evaluation.tasks import BENCHMARKS
from text2lora.files import atomic_folder, check_output
from text2lora.hub import CARD_NAME, hub_errors
from text2lora.names import library_version
from text2lora.push import PushTarget, push

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

REPORT_NAMES = RESULTS_NAME, TABLE_NAME = "results.json", "table.md"
BEGIN, END = "<!-- begin: t2l eval -->", "<!-- end: t2l eval -->"
"""Around the table in a card, so that the next one takes its place."""


@checked_class(EvaluationError)
@dataclass(frozen=True)
class EvalReport:
    """The result of an evaluation.

    Attributes:
        model: the name of the base model.
        backend: `transformers`, or the address of a server.
        seed: the random seed of the intervals and of the demonstrations in lm-evaluation-harness.
        conditions: the conditions in order.
        figures: the figures of each condition and task.
        samples: every question with its answer.
    """

    model: str
    backend: str
    seed: int
    conditions: Sequence[Condition]
    figures: Sequence[Figure]
    samples: Sequence[Sample]

    def summary(self) -> list[dict[str, Any]]:
        """The figures as flat rows."""
        adapters = {condition.name: condition.adapter for condition in self.conditions}
        return [
            {
                "condition": figure.condition,
                "adapter": adapters.get(figure.condition),
                "task": figure.task,
                "n": figure.accuracy.samples,
                **_flat("accuracy", figure.accuracy),
                **_flat("difference", figure.difference),
            }
            for figure in self.figures
        ]

    def to_json(self) -> str:
        """Figures, and every prompt, output and verdict."""
        content = {
            "text2lora": library_version(),
            "model": self.model,
            "backend": self.backend,
            "seed": self.seed,
            "conditions": [asdict(condition) for condition in self.conditions],
            "figures": self.summary(),
            "samples": [asdict(sample) for sample in self.samples],
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def to_markdown(self, adapter: str | None = None) -> str:
        """The table for a model card; if an adapter is named, of this adapter and the base model only."""
        names = {c.name for c in self.conditions if adapter is None or c.adapter in (None, adapter)}
        shown = [figure for figure in self.figures if figure.condition in names]
        lines = [
            "| task | | n | accuracy | 95 % interval | against base | 95 % interval |",
            "|---|---|---|---|---|---|---|",
        ]
        for figure in sorted(shown, key=lambda f: [g.task for g in self.figures].index(f.task)):
            cells = [figure.task, figure.condition, f"{figure.accuracy.samples:,}", *cells_of(figure)]
            lines.append("| " + " | ".join(escape_markdown(c) if i < 2 else c for i, c in enumerate(cells)) + " |")
        return "\n".join(lines) + "\n"


def _flat(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    values = (estimate.mean, estimate.low, estimate.high) if estimate else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def cells_of(figure: Figure) -> list[str]:
    """Accuracy with its interval and difference with its interval, for a table."""
    a, d = figure.accuracy, figure.difference
    cells = [f"{a.mean:.3f}", f"{a.low:.3f} to {a.high:.3f}"]
    return cells + ([f"{d.mean:+.3f}", f"{d.low:+.3f} to {d.high:+.3f}"] if d else ["", ""])


@checked(EvaluationError)
def write_report(report: EvalReport, folder: Path) -> None:
    """Write `results.json` and `table.md`; the folder appears whole or not at all.

    Raises:
        OutputError: the folder cannot be written, or contains something else.
    """
    check_output(folder, REPORT_NAMES)
    with atomic_folder(folder) as temporary:
        # surrogates: a model may say half a character
        (temporary / RESULTS_NAME).write_text(report.to_json(), encoding="utf-8", errors="backslashreplace")
        (temporary / TABLE_NAME).write_text(report.to_markdown(), encoding="utf-8")


def push_report(report: EvalReport, adapter: str, token: str | None = None, create_pr: bool = False) -> CommitInfo:
    """Write an adapter's figures into its model card on the Hub: into its model-index, and as a table into the text.

    Only the README changes. Figures for the same task replace earlier ones.

    Args:
        report: the evaluation, with the adapter among its conditions.
        adapter: the Hub id of the adapter.
        token: a Hub token; None uses HF_TOKEN or the token from `hf auth login`.
        create_pr: whether to open a pull request instead of pushing directly.

    Raises:
        HubError: the repository cannot be written to, or the Hub cannot be reached.
    """
    from huggingface_hub import ModelCard, hf_hub_download

    def write(folder: Path, target: PushTarget) -> None:
        with hub_errors(target.repo_id, kind=HubError):
            path = hf_hub_download(target.repo_id, CARD_NAME, revision=target.head, token=token)
        card = ModelCard(Path(path).read_text("utf-8"), ignore_metadata_errors=True)
        metadata: Any = card.data
        results = eval_results(report, adapter)
        tasks = {result.dataset_type + result.dataset_name for result in results}
        others = (each for each in metadata.eval_results or [] if each.dataset_type + each.dataset_name not in tasks)
        metadata.eval_results = [*others, *results]
        metadata.model_name = metadata.model_name or adapter.rpartition("/")[2]
        table = f"{BEGIN}\n## Evaluation\n\n{report.to_markdown(adapter)}\nMeasured with `t2l eval`.\n{END}"
        body = re.sub(rf"{BEGIN}.*?{END}", lambda _: table, card.text, flags=re.S)
        card.text = body if body != card.text or table in body else f"{card.text.rstrip()}\n\n{table}\n"
        folder.mkdir()
        (folder / CARD_NAME).write_text(str(card), encoding="utf-8")

    message = "Add evaluation results"
    return push(write, adapter, "adapter", token=token, create_pr=create_pr, commit_message=message, force=True)


def eval_results(report: EvalReport, adapter: str) -> list[Any]:
    """An adapter's figures as the Hub's model-index has them."""
    from huggingface_hub import EvalResult

    names = [condition.name for condition in report.conditions if condition.adapter == adapter]
    found = []
    for figure in report.figures:
        if figure.condition not in names or figure.task == AVERAGE:
            continue
        source = BENCHMARKS[figure.task].source if figure.task in BENCHMARKS else None
        estimate = figure.accuracy
        found.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=source.path if source else figure.task,
                dataset_name=figure.task,
                dataset_config=source.config if source else None,
                dataset_split=source.split if source else None,
                metric_type="accuracy",
                metric_name=f"accuracy, n={estimate.samples}, 95 % interval {estimate.low:.3f} to {estimate.high:.3f}",
                metric_value=round(estimate.mean, 4),
            )
        )
    return found
