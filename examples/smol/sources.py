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

from public import bigbench, facts, rules, sets, utterances, words
from public.core import FEWEST, Repository, Source, SourceError, Task, checked

from text2lora.files import atomic_file

Reader = Callable[..., Iterator[Task]]
READERS: dict[str, list[tuple[Reader, tuple[Repository, ...]]]] = {
    "real_tasks": [
        (facts.corpora, (facts.CORPORA,)),
        (utterances.snips, (utterances.SNIPS,)),
        (utterances.polyai, (utterances.POLYAI,)),
        (utterances.clinc, (utterances.CLINC,)),
        (facts.relations, (facts.RELATIONS,)),
        (words.wordnet, (words.WORDNET, words.CMUDICT)),
        (facts.countries, (facts.COUNTRIES,)),
        (words.cmudict, (words.CMUDICT, words.WORDNET)),
        (sets.self_instruct, (sets.SELF_INSTRUCT,)),
        (facts.emoji, (facts.EMOJI,)),
        (rules.rules, rules.SOURCES),
    ],
    "function_vectors": [(sets.function_vectors, (sets.FUNCTION_VECTORS,))],
    "bigbench_tasks": [(bigbench.bigbench, (bigbench.BIG_BENCH,))],
}
"""What makes the tasks of a file, and the repositories that it reads."""
REPOSITORIES = list(dict.fromkeys(r for readers in READERS.values() for _, own in readers for r in own))


def write_tasks(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """The rows as gzipped JSON lines, whole or not at all, the same bytes for the same rows."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in sorted(rows, key=lambda row: row["name"]))
    with atomic_file(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))


def read_tasks(name: str, folder: Path, report: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """The rows of a file, from the repositories that are there; those with few pairs are left out."""
    rows: list[dict[str, Any]] = []
    for reader, repositories in READERS[name]:
        title = f"{reader.__name__} ({', '.join(repository.name for repository in repositories)})"
        missing = [path for repository in repositories if not (path := folder / repository.folder).is_dir()]
        if missing:
            report(f"{title}: left out, without {', '.join(map(str, missing))}, which --clone makes")
            continue
        sources = [Source(repository, folder / repository.folder) for repository in repositories]
        made = [task.row() for task in checked(sources, reader)]
        few = [row["name"] for row in made if len(row["examples"]) < FEWEST]
        kept = [row for row in made if len(row["examples"]) >= FEWEST]
        rows += kept
        left = f"; left out, with fewer than {FEWEST} pairs: {', '.join(few)}" if few else ""
        report(f"{title}: {len(kept)} tasks, {sum(len(row['examples']) for row in kept)} pairs{left}")
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
