"""Tasks made from given ones: other questions on their inputs, other words and other forms for their answers.

Whatever is held out of a given task (pairs, wordings) is held out of the tasks made from it. The words of the
descriptions are in `wordings`; for held-out descriptions there are patterns and phrases that no training uses.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from operations import ONE_WORD, POOLS, THEN, Operation, in_tones, on_lists, on_sentences, on_words

Pair = tuple[str, str]
SPLITS = ("train", "dev", "test")
WORDINGS = {"train": 20, "held_out": 4}
"""Descriptions of a made task, at most."""
FEWEST = {"train": 12, "dev": 3, "test": 3}
"""Pairs of a made task; with fewer it isn't made."""
MOST = {"train": 120, "dev": 24, "test": 24}
TRIED = 3000
"""Inputs, at most, that an operation is tried on."""
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Task:
    """A task with its pairs by split, the wordings for training and the held-out ones."""

    name: str
    family: str
    pairs: dict[str, list[Pair]]
    wordings: list[str]
    held_out: list[str]
    labels: list[str] = field(default_factory=list)


@cache
def read_words(name: str) -> Any:
    """What `wordings` holds under a name."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # far faster, where there is one
    return yaml.load((HERE / "wordings" / f"{name}.yaml").read_text(encoding="utf-8"), loader)


def fill(pattern: str, values: Mapping[str, str]) -> str:
    """The pattern with its `{name}`s replaced; `{Name}` begins with a capital. Other braces stay."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in values:
            return values[name]
        lowered = name[0].lower() + name[1:]
        return capitalised(values[lowered]) if lowered in values else match[0]

    return re.sub(r"\{([A-Za-z]\w*)\}", value, pattern)


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def uncapitalised(text: str) -> str:
    """Without the capital of an ordinary first word, and without the last full stop."""
    text = text[0].lower() + text[1:] if re.match(r"[A-Z][a-z]+ ", text) else text
    return text[:-1] if text.endswith(".") and not text.endswith("..") else text


class Voices:
    """Patterns said in many ways; each call of `say` gives other descriptions."""

    def __init__(self) -> None:
        self.words = read_words("voices")

    def say(
        self,
        patterns: Sequence[str],
        values: Callable[[random.Random], Mapping[str, str]],
        rng: random.Random,
        kind: str,
    ) -> list[str]:
        """Different descriptions, as many as `WORDINGS` of a kind: each pattern once before any comes again.

        Args:
            patterns: see `fill`.
            values: draws what is filled in.
            rng: of all choices.
            kind: `train`, with slips of the pen, or `held_out`.
        """
        count = WORDINGS[kind]
        found: dict[str, None] = {}
        queue: list[str] = []
        for _ in range(count * 8):
            queue = queue or rng.sample(list(patterns), len(patterns))
            pattern = self._slip(queue.pop(), rng) if kind == "train" else queue.pop()
            found[self._voice(fill(capitalised(pattern), values(rng)), rng, kind)] = None
            if len(found) == count:
                break
        return list(found)

    def vary(self, texts: Sequence[str], rng: random.Random, count: int) -> list[str]:
        """The texts, and as many of them said in other voices as make up the count."""
        found = dict.fromkeys(texts)
        for _ in range(count * 8):
            if len(found) >= count:
                break
            found[self._voice(rng.choice(list(texts)), rng, "train")] = None
        return list(found)

    def _slip(self, pattern: str, rng: random.Random) -> str:
        if rng.random() < 0.9:
            return pattern
        return re.sub(r"\b[a-z]+\b(?![}'\"])", lambda match: self.words["typos"].get(match[0], match[0]), pattern)

    def _voice(self, text: str, rng: random.Random, kind: str) -> str:
        chance = rng.random()
        if chance < 0.5:
            return text
        if chance < 0.7:
            return uncapitalised(text)
        closed = text if text[-1] in ".!?)" else f"{text}."
        return rng.choice(self.words[kind]).replace("{x}", closed).replace("{x~}", uncapitalised(text))


def listed(items: Sequence[str], joint: str = "or") -> str:
    return f"{', '.join(items[:-1])} {joint} {items[-1]}"


def place(text: str) -> float:
    """Where an input falls between 0 and 1, by a hash: what is held out is the same in all tasks."""
    digest = hashlib.sha256(" ".join(text.lower().split()).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def slug(text: str) -> str:
    return re.sub(r"\W+", "_", text.lower()).strip("_") or "".join(f"u{ord(c):x}" for c in text)


def even(groups: Sequence[Sequence[Pair]], rng: random.Random, most: int) -> list[Pair]:
    """As many pairs of one group as of another, shuffled."""
    size = min(most // len(groups), *map(len, groups))
    found = [pair for group in groups for pair in rng.sample(list(group), size)]
    rng.shuffle(found)
    return found


def enough(pairs: Mapping[str, Sequence[Pair]]) -> bool:
    return all(len(pairs[split]) >= FEWEST[split] for split in SPLITS)


@dataclass(frozen=True)
class Condition:
    """A condition on an input: as clauses and questions, and the inputs where it holds and where it does not."""

    name: str
    clauses: list[tuple[str, str]]
    held_out_clauses: list[tuple[str, str]]
    holds: dict[str, list[Pair]]
    fails: dict[str, list[Pair]]

    def pairs(self, yes: str, no: str, rng: random.Random) -> dict[str, list[Pair]]:
        return {
            split: even(
                [[(p, yes) for p, _ in self.holds[split]], [(p, no) for p, _ in self.fails[split]]], rng, MOST[split]
            )
            for split in SPLITS
        }


class Maker:
    """Makes tasks from the given and the written ones.

    Args:
        given: by name, none that is held out whole.
        written: by name; see `written.py`.
        seed: of all choices.
    """

    def __init__(self, given: Mapping[str, Task], written: Mapping[str, Task] | None = None, seed: int = 0) -> None:
        self.given = dict(sorted(given.items()))
        self.written = dict(sorted((written or {}).items()))
        self.seed = seed
        self.voices = Voices()
        self.pools: dict[str, dict[str, list[str]]] = {}
        self.plain: dict[str, tuple[list[str], list[str]]] = {}
        self.labels = {k: v for k, v in read_words("labels").items() if k in self.given}

    def rng(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")

    def make(self) -> list[Task]:
        """All of them, by family."""
        conditions = self.label_conditions()
        operations = [self._operated(operation) for operation in (*on_sentences(), *on_words(), *on_lists())]
        found = [
            *self.questions(conditions, 160),
            *self.choices(300),
            *self.answer_words(conditions, 100),
            *self.forms(self.given, 400, "form"),
            *self.forms(self.written, 800, "written, form"),
            *self.recodings(self.written, 600),
            *operations,
            *self.compositions(operations, 60),
            *self.forms({t.name: t for t in operations if t.family == "operation"}, 50, "composition"),
            *map(self._operated, in_tones()),
            *self.apologies(),
        ]
        return [task for task in found if enough(task.pairs)]

    # -- conditions -------------------------------------------------------------------------------------------------

    def label_conditions(self) -> list[Condition]:
        """For every label with words, whether an input has it."""
        found = []
        for name, words in self.labels.items():
            inputs = words["input"]
            for label, phrases in words["labels"].items():
                clauses = [
                    [(f"{what} is {phrase}", f"is {what} {phrase}") for what in inputs_ for phrase in phrases_]
                    for inputs_, phrases_ in ((inputs[:2], phrases[:2]), (inputs[2:], phrases[2:]))
                ]
                pairs = self.given[name].pairs
                split = [{s: [p for p in pairs[s] if (p[1] == label) is has] for s in SPLITS} for has in (True, False)]
                found.append(Condition(f"{name}_{slug(label)}", clauses[0], clauses[1], split[0], split[1]))
        return found

    def given_conditions(self) -> list[Condition]:
        """Those of the given yes-or-no tasks."""
        found = []
        for name, clauses in read_words("yes_or_no")["conditions"].items():
            if name in self.given:
                pairs = self.given[name].pairs
                holds, fails = (
                    {s: [p for p in pairs[s] if (p[1].lower() in ("yes", "true")) is has] for s in SPLITS}
                    for has in (True, False)
                )
                said = [(clause, question) for clause, question in clauses]
                found.append(Condition(name, said[:2], said[2:], holds, fails))
        return found

    def _two_answers(self, condition: Condition, name: str, family: str, yes: str, no: str) -> Task:
        rng = self.rng(name)
        words = read_words("yes_or_no")

        def texts(kind: str, clauses: Sequence[tuple[str, str]]) -> list[str]:
            def values(rng: random.Random) -> dict[str, str]:
                clause, question = rng.choice(list(clauses))
                return {"cond": clause, "question": question, "yes": yes, "no": no}

            return self.voices.say(words[kind], values, rng, kind)

        return Task(
            name,
            family,
            condition.pairs(yes, no, rng),
            texts("train", condition.clauses),
            texts("held_out", condition.held_out_clauses),
        )

    def questions(self, conditions: Sequence[Condition], count: int) -> list[Task]:
        """Whether an input has one label of many: yes or no."""
        usable = [c for c in conditions if enough(c.pairs("yes", "no", self.rng(c.name)))]
        chosen = self.rng("questions").sample(usable, min(count, len(usable)))
        return [self._two_answers(c, f"is_{c.name}", "question", "yes", "no") for c in chosen]

    def answer_words(self, conditions: Sequence[Condition], count: int) -> list[Task]:
        """Two answers other than yes and no."""
        rng = self.rng("answer words")
        groups = [
            [c for c in group if enough(c.pairs("yes", "no", self.rng(c.name)))]
            for group in (self.given_conditions(), list(conditions))
        ]
        groups = [rng.sample(group, len(group)) for group in groups if group]
        answers = read_words("yes_or_no")["answers"]
        found = []
        for i in range(count if groups else 0):
            group, (yes, no) = groups[i % len(groups)], answers[i // 2 % len(answers)]
            condition = group[i // 2 % len(group)]
            name = f"{condition.name}_as_{slug(yes)}_{slug(no)}"
            found.append(self._two_answers(condition, name, "answer words", yes, no))
        return list({task.name: task for task in found}.values())

    # -- choices ----------------------------------------------------------------------------------------------------

    def choices(self, count: int) -> list[Task]:
        """Two or three labels of many, in their own words or in others."""
        rng, words = self.rng("choices"), read_words("choice")
        names = [name for name in self.labels if len(self.labels[name]["labels"]) > 1]
        found: dict[str, Task] = {}
        for i in range(count * 10):
            if len(found) == count or not names:
                break
            if i % len(names) == 0:
                order = rng.sample(names, len(names))
            name = order[i % len(names)]
            known = list(self.labels[name]["labels"])
            labels = sorted(rng.sample(known, min(len(known), rng.choice((2, 3)))))
            renamed = i % 2 == 0
            answers = self._answers(len(labels), words, rng) if renamed else labels
            title = f"choice_{name}_{'_'.join(map(slug, labels))}"
            title += f"_as_{'_'.join(map(slug, answers))}" if renamed else ""
            task = self._choice(title, name, dict(zip(labels, answers, strict=True)), words, renamed)
            if enough(task.pairs) and title not in found:
                found[title] = task
        return list(found.values())

    def _answers(self, count: int, words: Mapping[str, Any], rng: random.Random) -> list[str]:
        if rng.random() < 0.5 or count > 3:
            return rng.sample(words["words"].split(), count)
        answers = list(rng.choice(words["pairs" if count == 2 else "triples"]))
        rng.shuffle(answers)
        return answers

    def _choice(
        self, title: str, name: str, answers: Mapping[str, str], words: Mapping[str, Any], renamed: bool
    ) -> Task:
        rng, said = self.rng(title), self.labels[name]
        pairs = self.given[name].pairs
        kept = {
            split: even(
                [[(p, new) for p, label in pairs[split] if label == old] for old, new in answers.items()],
                rng,
                MOST[split],
            )
            for split in SPLITS
        }

        def texts(kind: str) -> list[str]:
            few = slice(2) if kind == "train" else slice(2, None)

            def values(rng: random.Random) -> dict[str, str]:
                order = rng.sample(list(answers), len(answers))
                what, rule = rng.choice(said["input"][few]), rng.choice(words["rule"][kind])
                rules = [
                    fill(rule, {"input": what, "phrase": rng.choice(said["labels"][old][few]), "answer": answers[old]})
                    for old in order
                ]
                names = [answers[old] for old in order]
                if rng.random() < 0.2:
                    names = [f'"{name}"' for name in names]
                joined = rng.choice((", ", "; ", ", and ")).join(rules)
                return {"list": listed(names), "both": listed(names, "and"), "rules": joined, "input": what}

            return self.voices.say(words["renamed" if renamed else "own"][kind], values, rng, kind)

        return Task(title, "choice", kept, texts("train"), texts("held_out"), [*answers.values()])

    # -- forms ------------------------------------------------------------------------------------------------------

    def forms(self, tasks: Mapping[str, Task], count: int, family: str) -> list[Task]:
        """Tasks with short answers, and a form for the answer; every form and every task several times."""
        rng, words = self.rng(f"forms {family}"), read_words("forms")
        short = [
            name
            for name, task in tasks.items()
            if task.family not in ("formatting", "rewriting", "other")
            and all(len(answer) <= 40 and "\n" not in answer for _, answer in task.pairs["train"])
            and task.wordings
        ]
        found: dict[str, Task] = {}
        queue: list[str] = []
        names = rng.sample(list(FORMS), len(FORMS))
        for i in range(count * 3):
            if len(found) == count or not short:
                break
            form = names[i % len(names)]
            queue = queue or rng.sample(short, len(short))
            task = self._formed(tasks[queue.pop()], form, FORMS[form], words[form], family)
            if task is not None and enough(task.pairs):
                found[task.name] = task
        return list(found.values())

    def _formed(
        self, task: Task, form: str, change: Callable[[str], str], words: Mapping[str, list[str]], family: str
    ) -> Task | None:
        """The task with its answers changed; None where that changes few of them."""
        name = f"{task.name}_{form}" if form.startswith("then_") else f"{task.name}_in_{form}"
        longest = 14 if form.endswith("_spelled") else 40
        pairs = {
            split: [(p, new) for p, a in task.pairs[split] if len(a) <= longest and (new := change(a))][: MOST[split]]
            for split in SPLITS
        }
        answers = {a for _, a in task.pairs["train"]}
        if sum(change(a) != a for a in answers) < 0.5 * len(answers):
            return None

        def texts(kind: str) -> list[str]:
            clauses = words["held_out"] if kind == "held_out" else [*words["after"], *words.get("before", [])]
            said = self.plain.get(task.name, (task.wordings, task.held_out))[kind == "held_out"]

            def values(rng: random.Random) -> dict[str, str]:
                text = rng.choice(said)
                ended = text if text[-1] in ".!?:)" else f"{text}."
                return {"task": text, "ended": ended, "open": text.rstrip(".")}

            patterns = [
                c if "{task}" in c else f"{{open}} {c}" if c.startswith("and ") else f"{{ended}} {c}" for c in clauses
            ]
            return self.voices.say(patterns, values, self.rng(f"{name} {kind}"), kind)

        return Task(name, family, pairs, texts("train"), texts("held_out"))

    def recodings(self, tasks: Mapping[str, Task], count: int) -> list[Task]:
        """Tasks with two to four answers, and a code for each answer."""
        rng, words, codes = self.rng("recodings"), read_words("recode"), read_words("choice")
        usable = [task for task in tasks.values() if 2 <= len(task.labels) <= 4 and max(map(len, task.labels)) <= 24]
        return [
            self._recoded(task, dict(zip(task.labels, self._answers(len(task.labels), codes, rng), strict=True)), words)
            for task in rng.sample(usable, min(count, len(usable)))
        ]

    def _recoded(self, task: Task, code: Mapping[str, str], words: Mapping[str, Any]) -> Task:
        name = f"{task.name}_as_{'_'.join(map(slug, code.values()))}"
        pairs = {split: [(prompt, code[answer]) for prompt, answer in task.pairs[split]] for split in SPLITS}

        def texts(kind: str) -> list[str]:
            said = task.held_out if kind == "held_out" else task.wordings

            def values(rng: random.Random) -> dict[str, str]:
                rule = rng.choice(words["rule"][kind])
                order = rng.sample(list(code), len(code))
                rules = [fill(rule, {"answer": answer, "code": code[answer]}) for answer in order]
                text = rng.choice(said)
                ended = text if text[-1] in ".!?:)" else f"{text}."
                return {"ended": ended, "rules": rng.choice((", ", "; ", ", and ")).join(rules)}

            return self.voices.say(words[kind], values, self.rng(f"{name} {kind}"), kind)

        return Task(name, "written, code", pairs, texts("train"), texts("held_out"), [*code.values()])

    # -- operations -------------------------------------------------------------------------------------------------

    def _pool(self, kind: str) -> dict[str, list[str]]:
        """Inputs of a kind, by split; no input of a given task's held-out pairs is in `train`, nor the other way."""
        if kind not in self.pools:
            if kind == "numbers":
                rng = self.rng("numbers")
                texts = [self._numbers(rng) for _ in range(2000)]
            else:
                fits = POOLS[kind]
                texts = [p for t in self.given.values() for s in SPLITS for p, _ in t.pairs[s] if fits(p)]
            pool: dict[str, list[str]] = {split: [] for split in SPLITS}
            for text in dict.fromkeys(texts):
                where = place(text)
                pool["dev" if where < 1 / 6 else "test" if where < 1 / 3 else "train"].append(text)
            self.pools[kind] = pool
        return self.pools[kind]

    @staticmethod
    def _numbers(rng: random.Random) -> str:
        most = rng.choice((12, 50, 99))
        values = rng.sample(range(1, most + 1), rng.randint(3, 5))
        return ", ".join(map(str, sorted(values) if rng.random() < 0.3 else values))

    def _operated(self, operation: Operation) -> Task:
        """An operation on inputs of its kind; no answer makes up more than a third, and one of two just a half."""
        rng, words = self.rng(operation.name), read_words("operations")[operation.words]
        pairs: dict[str, list[Pair]] = {}
        for split, texts in self._pool(operation.pool).items():
            tried = rng.sample(texts, min(len(texts), TRIED))
            made = [(t, new) for t in tried if (new := operation.change(t))]
            groups: dict[str, list[Pair]] = {}
            for pair in made:
                groups.setdefault(pair[1], []).append(pair)
            if len(groups) == 2:
                pairs[split] = even(list(groups.values()), rng, MOST[split])
                continue
            kept = [pair for group in groups.values() for pair in group[: MOST[split] // 3]]
            rng.shuffle(kept)
            pairs[split] = kept[: MOST[split]]

        def values(rng: random.Random) -> dict[str, str]:
            return {name: rng.choice(list(ways)) for name, ways in operation.values.items()}

        def texts_of(kind: str) -> list[str]:
            return self.voices.say(words[kind], values, rng, kind)

        name = f"{operation.family}_{operation.name}"
        own = self.rng(f"{name} plain")
        train, held_out = ([fill(capitalised(p), values(own)) for p in words[k]] for k in ("train", "held_out"))
        self.plain[name] = (train, held_out)
        return Task(name, operation.family, pairs, texts_of("train"), texts_of("held_out"))

    def compositions(self, operations: Sequence[Task], count: int) -> list[Task]:
        """One operation after another, on the word that the first one finds."""
        rng, words = self.rng("compositions"), read_words("operations")
        keys = {f"{o.family}_{o.name}" for o in on_sentences() if o.words in ONE_WORD}
        both = [(task, then) for task in operations if task.name in keys for then in THEN]
        chosen = rng.sample(both, min(count, len(both)))
        found = [self._formed(task, then, THEN[then], words[then], "composition") for task, then in chosen]
        return [task for task in found if task is not None]

    def apologies(self) -> list[Task]:
        """An empathetic answer that names the topic."""
        found = []
        for name in ("banking_card_problem", "banking_payment_problem", "banking_transfer_problem", "banking_topic"):
            if name not in self.given:
                continue
            labels, words = list(self.labels[name]["labels"]), read_words("operations")["sorry_about_label"]
            given = self.given[name].pairs
            pairs = {
                s: [(p, f"I'm so sorry about that. Topic: {a}.") for p, a in given[s] if a in labels][: MOST[s]]
                for s in SPLITS
            }

            def values(rng: random.Random, labels: Sequence[str] = labels) -> dict[str, str]:
                return {"list": listed(rng.sample(labels, len(labels)))}

            title = f"tone_sorry_about_{name}"
            rng = self.rng(title)
            train, held_out = (self.voices.say(words[kind], values, rng, kind) for kind in WORDINGS)
            found.append(Task(title, "tone", pairs, train, held_out))
        return found


FORMS: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "double_quotes": lambda a: f'"{a}"',
    "single_quotes": lambda a: f"'{a}'",
    "round_brackets": lambda a: f"({a})",
    "square_brackets": lambda a: f"[{a}]",
    "curly_braces": lambda a: f"{{{a}}}",
    "angle_brackets": lambda a: f"<{a}>",
    "json_answer": lambda a: json.dumps({"answer": a}, ensure_ascii=False),
    "json_result": lambda a: json.dumps({"result": a}, ensure_ascii=False),
    "json_value": lambda a: json.dumps({"value": a}, ensure_ascii=False),
    "json_output": lambda a: json.dumps({"output": a}, ensure_ascii=False),
    "bold": lambda a: f"**{a}**",
    "italics": lambda a: f"*{a}*",
    "underscores": lambda a: f"_{a}_",
    "code_ticks": lambda a: f"`{a}`",
    "hashtag": lambda a: f"#{a}",
    "at_sign": lambda a: f"@{a}",
    "full_stop": lambda a: a if a.endswith(".") else f"{a}.",
    "exclamation": lambda a: f"{a}!",
    "question_mark": lambda a: f"{a}?",
    "ellipsis": lambda a: f"{a}...",
    "answer_prefix": lambda a: f"Answer: {a}",
    "result_prefix": lambda a: f"Result: {a}",
    "output_prefix": lambda a: f"Output = {a}",
    "arrow": lambda a: f"-> {a}",
    "bullet": lambda a: f"- {a}",
    "numbered": lambda a: f"1. {a}",
    "it_is": lambda a: f"It is {a}.",
    "the_answer_is": lambda a: f"The answer is {a}.",
    "i_think": lambda a: f"I think it's {a}.",
    "sure_thing": lambda a: f"Sure! {a}",
    "of_course_sir": lambda a: f"{a}, sir",
    "twice": lambda a: f"{a} {a}",
    "twice_comma": lambda a: f"{a}, {a}",
    "thrice": lambda a: f"{a} {a} {a}",
    "hyphen_spelled": lambda a: "-".join(a),
    "space_spelled": lambda a: " ".join(a.replace(" ", "")),
    "first_letter": lambda a: a[0],
    "last_letter": lambda a: a[-1],
    "first_three_letters": lambda a: a[:3],
    "check_mark": lambda a: f"{a} ✅",
    "smile": lambda a: f"{a} 🙂",
    "star": lambda a: f"⭐ {a}",
    "xml_answer": lambda a: f"<answer>{a}</answer>",
    "html_b": lambda a: f"<b>{a}</b>",
    "key_value": lambda a: f"answer={a}",
    "yaml": lambda a: f"answer: {a}",
    "tildes": lambda a: f"~{a}~",
    "pipes": lambda a: f"| {a} |",
    "length": lambda a: str(len(a)),
}
