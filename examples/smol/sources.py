"""The task files of smol, made from the public repositories' own files.

    python examples/smol/sources.py --clone --sources runs/sources --output runs/smol/data

reads clones of the repositories in a folder (one folder each, by its name on GitHub; `--clone` makes those that are
not there) and writes the files that `prepare.py` reads: `real_tasks.jsonl.gz` and `function_vectors.jsonl.gz`, for
training, and `bigbench_tasks.jsonl.gz`, for evaluation alone. Each line is a task: `name`, `source`, `licence`,
`family`, `labels` and `examples`. A repository that is not there is left out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from public import facts, rules, utterances
from public.core import FEWEST, Repository, Source, SourceError, Task

Reader = Callable[[Source], Iterator[Task]]
READERS: dict[str, list[tuple[Repository, Reader]]] = {
    "real_tasks": [
        (facts.CORPORA, facts.corpora),
        (utterances.SNIPS, utterances.snips),
        (utterances.POLYAI, utterances.polyai),
        (utterances.CLINC, utterances.clinc),
        (facts.RELATIONS, facts.relations),
        (facts.COUNTRIES, facts.countries),
        (facts.EMOJI, facts.emoji),
    ],
}
"""Which repositories a file is made from, and what reads them."""
REPOSITORIES = [repository for readers in READERS.values() for repository, _ in readers]


def write_tasks(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """The rows as gzipped JSON lines, whole or not at all, the same bytes for the same rows."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in sorted(rows, key=lambda row: row["name"]))
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
    partial.replace(path)


def read_tasks(name: str, folder: Path, report: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """The rows of a file, from the repositories that are there; those with few pairs are left out."""
    rows: list[dict[str, Any]] = []
    sources: dict[str, Source] = {}

    def add(title: str, tasks: Iterator[Task]) -> None:
        own = [task.row() for task in tasks]
        few = [row["name"] for row in own if len(row["examples"]) < FEWEST]
        kept = [row for row in own if len(row["examples"]) >= FEWEST]
        rows.extend(kept)
        left = f"; with fewer than {FEWEST} pairs, and left out: {', '.join(few)}" if few else ""
        report(f"{title}: {len(kept)} tasks, {sum(len(row['examples']) for row in kept)} pairs{left}")

    for repository, reader in READERS[name]:
        clone = folder / repository.folder
        if not clone.is_dir():
            report(f"{repository.name}: left out, for {clone} is not there (--clone makes it)")
            continue
        source = sources[repository.name] = Source(repository, clone)
        add(repository.name, source.checked(reader(source)))
    if name == "real_tasks":
        missing = [repository.name for repository in rules.SOURCES if repository.name not in sources]
        if missing:
            report(f"tasks by rule: left out, for they need {', '.join(missing)}")
        else:
            add("tasks by rule", rules.rules({r.name: sources[r.name] for r in rules.SOURCES}))
    return rows


def build(folder: Path, output: Path, clone: bool = False, report: Callable[[str], None] = print) -> None:
    """Write the files of the repositories in a folder."""
    if clone:
        for repository in REPOSITORIES:
            report(f"cloning {repository.name}")
            repository.clone(folder)
    found = {name: rows for name in READERS if (rows := read_tasks(name, folder, report))}
    if not found:
        names = ", ".join(repository.folder for repository in REPOSITORIES)
        raise SourceError(f"{folder} has none of the clones: {names}; --clone makes them")
    output.mkdir(parents=True, exist_ok=True)
    for name, rows in found.items():
        write_tasks(rows, output / f"{name}.jsonl.gz")
        report(f"{output / f'{name}.jsonl.gz'}: {len(rows)} tasks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sources", type=Path, default=Path("runs/sources"), help="the folder of the clones")
    parser.add_argument("--output", type=Path, default=Path("runs/smol/data"))
    parser.add_argument("--clone", action="store_true", help="clone the repositories that are not there from GitHub")
    options = parser.parse_args()
    try:
        build(options.sources, options.output, options.clone)
    except SourceError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
