"""What all readers share: the clones and their files, the tasks, and which pairs of a task are kept."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median_low
from time import perf_counter
from typing import Any

Pair = tuple[str, str]
LONGEST_INPUT, LONGEST_OUTPUT = 280, 60
"""Characters."""
FEWEST, MOST = 24, 240
"""Pairs of a task."""
UNFIT = re.compile(
    r"\b((kill|murder|suicid|porn|fuck|shit|nazi|terroris|bomb|cannabis|marijuana|genocid|massacr|racis|tortur)\w*|"
    r"(rape|sex|nude|bastard|slut|whore|gun|drug|corpse|slave|breast|condom|buttock|thong|brassiere|bra)s?|"
    r"naked|damn|hell|cocaine|heroin|hitler|bitch|penis|vagina|genitals|lingerie|panties)\b",
    re.IGNORECASE,
)
"""Words that no pair may have."""


class SourceError(Exception):
    """A source is not there, or not as expected."""


@dataclass(frozen=True)
class Repository:
    """A public repository.

    Attributes:
        name: owner/name on GitHub.
        commit: that the readers were written for; the newest where there is none.
        licence: as the repository states it.
        paths: the files and folders that are read; a clone that is made here holds no others.
    """

    name: str
    commit: str
    licence: str
    paths: tuple[str, ...]

    @property
    def folder(self) -> str:
        return self.name.split("/")[1]

    @property
    def version(self) -> str:
        return f"commit {self.commit[:12]}" if self.commit else "the newest commit"

    def clone(self, into: Path, url: str = "https://github.com") -> None:
        """A shallow clone at the commit, with the files that are read."""
        target = into / self.folder
        if target.exists():
            return
        if not shutil.which("git"):
            raise SourceError(f"git is not installed: put a clone of {url}/{self.name} at {target} yourself")
        partial = into / f"{self.folder}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        for command in (
            ["init", "--quiet"],
            ["sparse-checkout", "set", "--no-cone", *self.paths],
            ["fetch", "--quiet", "--depth", "1", "--filter=blob:none", f"{url}/{self.name}", self.commit or "HEAD"],
            ["checkout", "--quiet", "FETCH_HEAD"],
        ):
            done = subprocess.run(["git", *command], cwd=partial, capture_output=True, text=True)
            if done.returncode:
                reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
                raise SourceError(f"git {command[0]} of {url}/{self.name} failed: {reason}")
        partial.rename(target)


@dataclass(frozen=True)
class Task:
    """A task with all the pairs that its source gives."""

    name: str
    source: str
    licence: str
    family: str
    pairs: Sequence[Pair]
    labels: Sequence[str] = ()

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "source": self.source,
            "licence": self.licence,
            "family": self.family,
            "labels": list(self.labels),
            "examples": sample(self.name, self.pairs, self.labels),
        }


@dataclass
class Source:
    """A clone of a repository, and its own files."""

    repository: Repository
    folder: Path
    last: str = field(default="", init=False)
    read_at: float = field(default=0.0, init=False)

    def path(self, file: str) -> Path:
        self.last, self.read_at = file, perf_counter()
        path = self.folder / file
        if not path.exists():
            raise SourceError(
                f"{self.repository.name}: {file} is missing in {self.folder}; it is there at {self.repository.version}"
            )
        return path

    def text(self, file: str) -> str:
        return self.path(file).read_text(encoding="utf-8", errors="replace")

    def json(self, file: str) -> Any:
        return json.loads(self.text(file))

    def json_lines(self, file: str) -> list[Any]:
        return [json.loads(line) for line in self.text(file).splitlines() if line.strip()]

    def files(self, pattern: str) -> list[str]:
        """The files of a pattern, by name; an error where there are none."""
        found = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))
        return found or [self.path(pattern).name]

    def task(self, name: str, part: str, family: str, pairs: Iterable[Pair], labels: Sequence[str] = ()) -> Task:
        source = self.repository.name + (f": {part}" if part else "")
        return Task(name, source, self.repository.licence, family, list(pairs), labels)


def checked(sources: Sequence[Source], reader: Callable[..., Iterator[Task]]) -> Iterator[Task]:
    """The tasks of a reader, its stumbling over a file turned into an error that names the file read last."""
    try:
        yield from reader(*sources)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        source = max(sources, key=lambda source: source.read_at)
        raise SourceError(
            f"{source.repository.name}: {source.last} looks different from what it is at "
            f"{source.repository.version}: {type(error).__name__}: {error}"
        ) from error


@cache
def readable(text: str) -> bool:
    """Without scripts that an English model cannot read, broken characters and words that are not fit."""
    letters = [character for character in text if character.isalpha()]
    return "\ufffd" not in text and all(ord(c) < 0x250 for c in letters) and not UNFIT.search(text)


def clean(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs within the limits, each input once, none that has several answers.

    Texts that differ in case alone are the same input; words are not, for their case may be what the task is about.
    """
    answers: dict[str, set[str]] = defaultdict(set)
    first: dict[str, Pair] = {}
    for prompt, answer in pairs:
        prompt, answer = prompt.strip(), answer.strip()
        fits = prompt and answer and len(prompt) <= LONGEST_INPUT and len(answer) <= LONGEST_OUTPUT
        if fits and readable(prompt) and readable(answer):
            key = prompt.casefold() if " " in prompt else prompt
            answers[key].add(answer)
            first.setdefault(key, (prompt, answer))
    return [pair for key, pair in first.items() if len(answers[key]) == 1]


def sample(name: str, pairs: Iterable[Pair], labels: Sequence[str] = ()) -> list[Pair]:
    """At most `MOST` clean pairs in random order, labels evenly; elsewhere no answer makes up more than a third.

    A task with one answer to everything keeps it.
    """
    rng = random.Random(name)
    kept = [pair for pair in clean(pairs) if not labels or pair[1] in labels]
    rng.shuffle(kept)
    groups: dict[str, list[Pair]] = {label: [] for label in labels}
    for pair in kept:
        groups.setdefault(pair[1], []).append(pair)
    sizes = [len(group) for group in groups.values() if group]
    if not sizes:
        return []
    most = 2 * median_low(sizes) if labels else max(1, min(len(kept), MOST) // 3) if len(sizes) > 1 else MOST
    queues = [group[:most] for group in groups.values()]
    if labels:  # in turns, so that what is cut off is cut off evenly
        kept = [pair for turn in range(max(map(len, queues))) for pair in (q[turn] for q in queues if turn < len(q))]
    else:
        chosen = {pair for queue in queues for pair in queue}
        kept = [pair for pair in kept if pair in chosen]
    kept = kept[:MOST]
    rng.shuffle(kept)
    return kept


def by_label(texts: Mapping[str, Iterable[str]]) -> Iterator[Pair]:
    """The pairs of lists of texts by label."""
    for label, own in texts.items():
        for text in own:
            yield text, label
