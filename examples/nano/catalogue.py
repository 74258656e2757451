"""The nano tasks: what to return of a record, and in which form.

A task is `(what, transform, wrap)`: one field, two fields, a yes/no question or a small computation; a change of its
letters; and what stands around it. `city/upper+quoted` turns `... ship to Berlin ...` into `"BERLIN"`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from text2lora.nano.records import KIND_FIELDS

Fields = dict[str, str]

TRANSFORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda v: v,
    "upper": str.upper,
    "lower": str.lower,
    "first_letter": lambda v: v[0],
    "last_letter": lambda v: v[-1],
    "spelled": lambda v: "-".join(v.replace(" ", "")),
    "hashtag": lambda v: "#" + v.lower().replace(" ", ""),
    "shouted": lambda v: v.upper() + "!",
    "initials": lambda v: "".join(word[0].upper() + "." for word in v.split()),
    "slug": lambda v: v.lower().replace(" ", "-"),
}

WRAPS: dict[str, Callable[[str, str], str]] = {  # (field name, value)
    "none": lambda f, v: v,
    "quoted": lambda f, v: f'"{v}"',
    "json": lambda f, v: json.dumps({f: v}, ensure_ascii=False),
    "label": lambda f, v: f"{f}: {v}",
    "brackets": lambda f, v: f"[{v}]",
    "parens": lambda f, v: f"({v})",
    "twice": lambda f, v: f"{v} {v}",
    "bullet": lambda f, v: f"- {v}",
    "bold": lambda f, v: f"**{v}**",
    "xml": lambda f, v: f"<{f}>{v}</{f}>",
    "sentence": lambda f, v: f"The {f} is {v}.",
}

JOINS: dict[str, Callable[[Fields], str]] = {
    "comma": lambda d: ", ".join(d.values()),
    "slash": lambda d: " / ".join(d.values()),
    "paren": lambda d: "{} ({})".format(*d.values()),
    "json": lambda d: json.dumps(d, ensure_ascii=False),
    "dash": lambda d: " - ".join(d.values()),
    "arrow": lambda d: " -> ".join(d.values()),
}

QUESTIONS: dict[str, tuple[str, Callable[[str], bool]]] = {  # name: (field asked about, predicate)
    "price_50": ("price", lambda v: float(v) >= 50),
    "price_100": ("price", lambda v: float(v) >= 100),
    "below_50": ("price", lambda v: float(v) < 50),
    "below_100": ("price", lambda v: float(v) < 100),
    "year_2020": ("year", lambda v: int(v) >= 2020),
    "before_2020": ("year", lambda v: int(v) < 2020),
    "com_address": ("email_domain", lambda v: v.endswith(".com")),
    "not_com": ("email_domain", lambda v: not v.endswith(".com")),
    "urgent": ("level", lambda v: v == "urgent"),
    "not_urgent": ("level", lambda v: v != "urgent"),
    "error": ("level", lambda v: v == "ERROR"),
    "before_noon": ("hour", lambda v: int(v) < 12),
    "after_noon": ("hour", lambda v: int(v) >= 12),
    "weekend": ("weekday", lambda v: v in ("Saturday", "Sunday")),
    "weekday_only": ("weekday", lambda v: v not in ("Saturday", "Sunday")),
    "ten_or_more": ("quantity", lambda v: int(v) >= 10),
}
ANSWERS = {"yes_no": ("yes", "no"), "true_false": ("true", "false"), "one_zero": ("1", "0"), "y_n": ("Y", "N")}

COMPUTATIONS: dict[str, tuple[str, Callable[[str], str]]] = {
    "quantity_plus_one": ("quantity", lambda v: str(int(v) + 1)),
    "quantity_minus_one": ("quantity", lambda v: str(int(v) - 1)),
    "quantity_doubled": ("quantity", lambda v: str(2 * int(v))),
    "whole_dollars": ("price", lambda v: v.split(".")[0]),
    "next_year": ("year", lambda v: str(int(v) + 1)),
}

WORDS = ("kind", "first", "last", "name", "city", "item", "email", "email_user", "email_domain", "service", "level",
         "company", "job", "weekday", "id", "month", "date")  # fmt: skip
NUMBERS = ("quantity", "price", "year", "day", "iso_date", "time", "hour")
SPACED = ("name", "company")
"""Fields of letters; of figures; of two words (these have initials)."""

PAIRED = ("id", "name", "first", "last", "city", "item", "quantity", "price", "date", "iso_date", "year", "email",
          "email_domain", "service", "level", "company", "job", "weekday", "time")  # fmt: skip
WITHIN = {"name": ("first", "last"), "email": ("email_domain",), "date": ("year", "iso_date"), "iso_date": ("year",)}
"""Fields that make pairs, and fields that a pair would say twice."""


@dataclass(frozen=True)
class Task:
    """One task. `what` holds a field, a question or a computation, or two fields."""

    what: tuple[str, ...]
    transform: str = "plain"
    wrap: str = "none"  # of WRAPS; of JOINS for two fields; of ANSWERS for a question

    @property
    def name(self) -> str:
        """`city/upper+quoted`; `plain` and `none` are left out unless nothing else is there."""
        form = "+".join(part for part in (self.transform, self.wrap) if part not in ("plain", "none"))
        return f"{'+'.join(self.what)}/{form or 'plain'}"

    @property
    def group(self) -> str:
        """`field`, `combined` (a field with both a transform and a wrap), `pair`, `question` or `computation`."""
        if len(self.what) == 2:
            return "pair"
        if self.what[0] in QUESTIONS:
            return "question"
        if self.what[0] in COMPUTATIONS:
            return "computation"
        return "field" if self.transform == "plain" or self.wrap == "none" else "combined"

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """The record fields that the answer is made of."""
        sources = {**QUESTIONS, **COMPUTATIONS}
        return tuple(sources[w][0] if w in sources else w for w in self.what)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The record kinds that have these fields, and on which the question makes sense."""
        kinds = tuple(kind for kind, fields in KIND_FIELDS.items() if set(self.reads) <= set(fields))
        if self.what[0] in ("urgent", "not_urgent"):
            return ("ticket",)
        return ("log",) if self.what[0] == "error" else kinds

    def answer(self, fields: Fields) -> str:
        """The right output for a record with these fields."""
        values = [TRANSFORMS[self.transform](fields[f]) for f in self.reads]
        group = self.group
        if group == "pair":
            return JOINS[self.wrap](dict(zip(self.what, values, strict=True)))
        if group == "question":
            return ANSWERS[self.wrap][0 if QUESTIONS[self.what[0]][1](values[0]) else 1]
        if group == "computation":
            values[0] = COMPUTATIONS[self.what[0]][1](values[0])
        return WRAPS[self.wrap](self.what[0], values[0])


def _pairs() -> list[tuple[str, str]]:
    return [
        (a, b)
        for a in PAIRED
        for b in PAIRED
        if a != b
        and b not in WITHIN.get(a, ())
        and a not in WITHIN.get(b, ())
        and any({a, b} <= set(fields) for fields in KIND_FIELDS.values())
    ]


def _all_tasks() -> list[Task]:
    tasks = []
    for field in WORDS + NUMBERS:
        letters = field in WORDS
        transforms = [t for t in TRANSFORMS if letters or t in ("plain", "first_letter", "spelled", "hashtag")]
        if field not in SPACED:
            transforms = [t for t in transforms if t != "initials"]
        if field in ("email", "email_user", "email_domain", "id"):
            transforms = [t for t in transforms if t != "slug"]
        for transform in transforms:
            wraps = list(WRAPS) if transform in ("plain", "upper", "lower") else ["none"]
            tasks += [Task((field,), transform, wrap) for wrap in wraps]
    for pair in _pairs():
        letters = any(f in WORDS for f in pair)
        tasks += [
            Task(pair, t, join) for t in (("plain", "upper", "lower") if letters else ("plain",)) for join in JOINS
        ]
    tasks += [Task((q,), "plain", style) for q in QUESTIONS for style in ANSWERS]
    tasks += [
        Task((c,), "plain", w) for c in COMPUTATIONS for w in WRAPS if w not in ("json", "label", "xml", "sentence")
    ]
    return tasks


def _share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32


def _is_unseen(task: Task) -> bool:
    """Whether the task is held out. A combination is also held out where one of its halves is."""
    if task.group == "pair":
        pair = "+".join(sorted(task.what))
        return _share("pair " + pair) < 0.08 or _share(task.name) < 0.1
    if task.group == "combined":
        return any(_is_unseen(Task(task.what, *half)) for half in ((task.transform,), ("plain", task.wrap)))
    return not task.name.endswith("/plain") and _share(task.name) < 0.15


TASKS: dict[str, Task] = {task.name: task for task in _all_tasks()}
UNSEEN: frozenset[str] = frozenset(name for name, task in TASKS.items() if _is_unseen(task))
"""Tasks that no training saw, neither the base's nor the hypernetwork's: combinations of a known field or question
with a known form, and pairs of fields that never stood together."""


def header(task: Task) -> list[str]:
    """The formal tokens of a task, with which the base model is pre-trained."""
    return [
        f"<|{re.sub('[^a-z0-9_]', '', part)}|>"
        for part in (*task.what, task.transform, task.wrap)
        if part not in ("plain", "none")
    ]
