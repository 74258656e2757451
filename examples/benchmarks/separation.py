"""How well the warning of `t2l make` tells junk from real descriptions that training did not see.

    python examples/benchmarks/separation.py --data ../shared/data

measures nano on its test descriptions and, with --data, also the reference's descriptions with the demo's text encoder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import HERE, markdown

from text2lora import Text2LoraConfig, Text2LoraModel, TextEncoder
from text2lora.evaluation.metrics import ranks
from text2lora.files import read_json_lines
from text2lora.novelty import DescriptionStatistics, measure_descriptions
from text2lora.training.task_files import read_wordings

sys.path.insert(0, str(HERE.parent / "nano"))
from source import read_split


@dataclass(frozen=True)
class Separation:
    """Unseen real descriptions beside junk.

    Attributes:
        auc: how often a real one is closer to training than a junk one: the area under the ROC curve.
        caught: the share of junk that gets a warning.
        warned: the share of real ones that does.
        real, junk: how many there are.
        curve: points of the ROC curve, (share of real ones warned, share of junk caught), by rising threshold.
    """

    auc: float
    caught: float
    warned: float
    real: int
    junk: int
    curve: list[tuple[float, float]]


def roc_auc(negatives: torch.Tensor, positives: torch.Tensor) -> float:
    """How often a positive's number is above a negative's, ties counted half: the area under the ROC curve."""
    above = ranks(torch.cat([negatives, positives]))[len(negatives) :]
    count = len(positives)
    return float((above.sum() - count * (count + 1) / 2) / (count * len(negatives)))


def separate(
    statistics: DescriptionStatistics, encoder: TextEncoder, real: Sequence[str], junk: Sequence[str]
) -> Separation:
    """Measure how well the warning tells junk from real descriptions that training did not see."""

    def similarities(texts: Sequence[str]) -> torch.Tensor:
        embedded = encoder.encode(texts)
        found = [statistics.place(text, emb).similarity for text, emb in zip(texts, embedded, strict=True)]
        return torch.tensor(found, dtype=torch.double)

    good, bad = similarities(real), similarities(junk)
    curve = [
        ((good < at).double().mean().item(), (bad < at).double().mean().item())
        for at in sorted({*good.tolist(), *bad.tolist(), 2.0})
    ]
    return Separation(
        auc=roc_auc(bad, good),
        caught=(bad < statistics.threshold).double().mean().item(),
        warned=(good < statistics.threshold).double().mean().item(),
        real=len(real),
        junk=len(junk),
        curve=curve,
    )


def of_nano(junk: Sequence[str]) -> dict[str, Separation]:
    """The bundled statistics on nano's test descriptions."""
    model = Text2LoraModel.from_pretrained("nano")
    assert model.description_statistics is not None
    splits = {"seen tasks": "test_seen", "unseen tasks": "test_unseen", "free-form": "test_freeform"}
    return {
        f"nano, {name}": separate(
            model.description_statistics, model.encoder, [text for _, text in read_split(split)], junk
        )
        for name, split in splits.items()
    }


def of_reference(data: Path, junk: Sequence[str]) -> dict[str, Separation]:
    """The descriptions that the reference was trained on, beside those that it is evaluated with."""
    rows = {row["task"]: row["descriptions"] for row in read_json_lines(data / "t2l_eval_descriptions.jsonl.gz")}
    junk = [*junk, *rows.pop("__random__")]
    names, texts = read_wordings(data / "t2l_task_descriptions.jsonl.gz")
    unseen = {text for group in rows.values() for text in group}
    kept = [i for i, text in enumerate(texts) if text not in unseen]
    encoder_name = "sentence-transformers/all-MiniLM-L6-v2"
    encoder = TextEncoder.from_config(Text2LoraConfig(encoder_name_or_path=encoder_name, encoder_max_length=256))
    statistics = measure_descriptions(encoder, [texts[i] for i in kept], [names[i] for i in kept])
    assert statistics is not None
    real = {
        label: [text for task, group in rows.items() if (task in set(names)) == seen for text in group]
        for label, seen in (("seen tasks", True), ("unseen tasks", False))
    }
    return {f"reference, {label}": separate(statistics, encoder, own, junk) for label, own in real.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, help="folder with t2l_task_descriptions.jsonl.gz and t2l_eval_descriptions.jsonl.gz"
    )
    options = parser.parse_args()
    junk = [text for _, text in read_split("junk")]
    found = of_nano(junk) | (of_reference(options.data, junk) if options.data else {})
    rows = [["unseen descriptions", "real", "junk", "ROC AUC", "junk warned of", "real ones warned of"]]
    for name, row in found.items():
        shares = f"{100 * row.caught:.1f} %", f"{100 * row.warned:.1f} %"
        rows.append([name, str(row.real), str(row.junk), f"{row.auc:.4f}", *shares])
    print(markdown(rows))


if __name__ == "__main__":
    main()
