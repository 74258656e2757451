"""Descriptions of the nano tasks to train with: hand-written phrases, composed and roughened at random.

The phrases stand in `data/lexicon_*.yaml`: what is wanted (nouns, clauses, questions, terse keys), in which form
(adverbs, adjectives, imperatives, verbs), sentences around both, and free sentences for one of the two. Neither the
development nor the test descriptions were written with them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from catalogue import COMPUTATIONS, QUESTIONS, Task

Phrases = dict[str, list[str]]
FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # where it is built, it saves two seconds


@cache
def lexicon() -> dict[str, Any]:
    """All phrase files as one nested mapping; lists of the same name are joined."""
    merged: dict[str, Any] = {}

    def add(into: dict[str, Any], new: dict[str, Any]) -> None:
        for key, value in new.items():
            if isinstance(value, dict):
                add(into.setdefault(key, {}), value)
            else:
                into.setdefault(key, []).extend(str(v) for v in value)

    for path in sorted(Path(__file__).parent.glob("data/lexicon_*.yaml")):
        add(merged, yaml.load(path.read_text(encoding="utf-8"), FAST_LOADER))
    return merged


def describe(task: Task, rng: random.Random) -> str:
    """A random description of a task."""
    if task.group == "pair":
        text = _describe_pair(task, rng)
    elif task.group == "question":
        text = _describe_question(task, rng)
    else:
        text = _describe_value(task, rng)
    return roughen(text, rng)


def _pick(rng: random.Random, phrases: list[str]) -> str:
    return rng.choice(phrases) if phrases else ""


def _kind(task: Task, rng: random.Random) -> str:
    kinds = lexicon()["kinds"]
    return rng.choice(kinds["any"] if len(task.kinds) > 1 or rng.random() < 0.4 else kinds[task.kinds[0]])


def _form(task: Task, rng: random.Random) -> dict[str, str]:
    """Phrases for the form: `adverb` and `imperative`, and perhaps `adjective` and `verb` (with {x})."""
    words, field = lexicon(), task.what[0]
    parts: list[Phrases] = []
    if task.transform != "plain":
        parts.append(words["transforms"][task.transform])
    if task.wrap != "none":
        parts.append(words["wraps"][task.wrap])
    if not parts:
        bare = rng.random() < 0.55
        return {k: "" if bare else _pick(rng, words["plain"][k + "s"]) for k in ("adverb", "imperative")}
    chosen = [
        {
            key[:-1]: _pick(rng, part[key]).format(f=field, x="{x}")
            for key in ("adverbs", "adjectives", "imperatives", "verbs")
        }
        for part in parts
    ]
    if len(chosen) == 1:
        return {k: v for k, v in chosen[0].items() if v}
    rng.shuffle(chosen)
    first, second = chosen
    join = rng.choice([" and ", ", ", ", then ", " and also ", " plus "])
    both = {
        "adverb": first["adverb"] + join + second["adverb"],
        "imperative": first["imperative"] + join + second["imperative"],
    }
    if first["adjective"]:
        both |= {"adjective": first["adjective"], "adverb_rest": second["adverb"]}
    return both | {"verb": first["verb"], "verb_rest": second["adverb"]}


def _describe_value(task: Task, rng: random.Random) -> str:
    words = lexicon()
    key = task.what[0]
    what: Phrases = words["computations" if key in COMPUTATIONS else "fields"][key]
    form, kind, frames = _form(task, rng), _kind(task, rng), words["frames"]
    noun, adverb, imperative = _pick(rng, what["nouns"]), form["adverb"], form["imperative"]

    def by_noun() -> str:
        return _pick(rng, frames["noun"]).format(noun=noun, adv=adverb, kind=kind)

    def by_imperative() -> str:
        if not imperative:
            return by_noun()
        return _pick(rng, frames["noun_imperative"]).format(noun=noun, imp=imperative, kind=kind)

    def by_adjective() -> str:
        if "adjective" not in form:
            return by_noun()
        text = _pick(rng, frames["noun_adjective"]).format(adj=form["adjective"], noun=noun, kind=kind)
        return _append(text, form.get("adverb_rest", ""))

    def by_verb() -> str:
        if "verb" not in form:
            return by_noun()
        verb = form["verb"].format(x=f"the {noun}")
        return _append(_pick(rng, frames["noun_verb"]).format(verbed=verb, kind=kind), form.get("verb_rest", ""))

    def by_clause() -> str:
        return _pick(rng, frames["clause"]).format(clause=_pick(rng, what["clauses"]), adv=adverb, kind=kind)

    def by_question() -> str:
        question = _pick(rng, what["questions"])
        if not adverb:
            return f"{question}?"
        return _pick(rng, frames["question"]).format(question=question, adv=adverb, imp=imperative, kind=kind)

    def by_key() -> str:
        return _pick(rng, frames["bare"]).format(bare=_pick(rng, what["bare"]), adv=adverb, kind=kind)

    def by_opening() -> str:
        return _pick(rng, what.get("openings", []) or ["the " + noun + " {how}"]).format(how=adverb)

    def by_imperative_opening() -> str:
        if not imperative or not what.get("imperative_openings"):
            return by_opening()
        return _pick(rng, what["imperative_openings"]).format(imp=imperative)

    ways: list[tuple[Callable[[], str], float]] = [
        (by_noun, 2.5), (by_imperative, 1.5), (by_adjective, 0.8), (by_verb, 1), (by_clause, 1.2), (by_question, 1.7),
        (by_key, 0.8), (by_opening, 2.5), (by_imperative_opening, 1.5),
        (lambda: _free_form(task, what, noun, rng), 3.5),
    ]  # fmt: skip
    return rng.choices([way for way, _ in ways], [weight for _, weight in ways])[0]()


def _free_form(task: Task, what: Phrases, noun: str, rng: random.Random) -> str:
    """A free sentence for the form. Where that has two parts, it says one of them, and a tail the other."""
    words, key = lexicon(), task.what[0]
    forms = []  # free sentences, and the phrases that say the same
    if task.transform != "plain":
        forms.append((words["free_transforms"].get(task.transform, []), words["transforms"][task.transform]))
    if task.wrap != "none":
        forms.append((words["free_wraps"].get(task.wrap, []), words["wraps"][task.wrap]))
    if not forms:
        return _fill(_pick(rng, words["free_plain"]), what, noun, key, rng)
    rng.shuffle(forms)
    tail = ""
    if len(forms) == 2:
        tail = _pick(rng, forms[1][1]["adverbs" if rng.random() < 0.5 else "imperatives"]).format(f=key)
    return _append(_fill(_pick(rng, forms[0][0]), what, noun, key, rng), tail)


def _fill(template: str, what: Phrases, noun: str, key: str, rng: random.Random) -> str:
    slots = {"clause": "clauses", "question": "questions", "bare": "bare", "condition": "conditions"}
    values = {slot: _pick(rng, what.get(name, []) or [noun]) for slot, name in slots.items()}
    return template.format(noun=noun, f=key, **values)


def _append(text: str, tail: str) -> str:
    return f"{text.rstrip(' .')}, {tail}" if tail else text


def _describe_question(task: Task, rng: random.Random) -> str:
    words, key = lexicon(), task.what[0]
    what, answers = words["questions"][key], words["answers"][task.wrap]
    adverb, imperative = _pick(rng, answers["adverbs"]), _pick(rng, answers["imperatives"])
    kind, way = _kind(task, rng), rng.random()
    condition, question = _pick(rng, what["conditions"]), _pick(rng, what["questions"])
    if task.wrap == "yes_no" and way < 0.12:
        return f"{question}?"
    if way < 0.35:
        return _pick(rng, words["frames"]["condition"]).format(
            condition=condition, adv=adverb, imp=imperative, kind=kind
        )
    if way < 0.52:
        return _pick(rng, words["frames"]["question"]).format(question=question, adv=adverb, imp=imperative, kind=kind)
    if way < 0.58:
        return f"{_pick(rng, what['bare'])}{rng.choice(['? ', ', ', ': ', ' - '])}{adverb}"
    if way < 0.8 and what.get("openings"):
        return _pick(rng, what["openings"]).format(how=adverb)
    return _fill(_pick(rng, words["free_answers"][task.wrap]), what, condition, QUESTIONS[key][0], rng)


def _describe_pair(task: Task, rng: random.Random) -> str:
    words = lexicon()
    terse = rng.random() < 0.25
    first, second = (
        _pick(rng, words["fields"][f]["bare"] if terse else words["fields"][f]["nouns"]) for f in task.what
    )  # fmt: skip
    if rng.random() < 0.45:
        text = _pick(rng, words["free_joins"][task.wrap]).format(a=first, b=second)
    else:
        article = "" if terse or rng.random() < 0.35 else "the "
        pattern = _pick(rng, words["joins"][task.wrap]["patterns"]).format(a=article + first, b=article + second)
        text = _pick(rng, words["frames"]["pair"]).format(pattern=pattern, kind=_kind(task, rng))
    if task.transform != "plain":
        pool = words["pair_transforms"][task.transform] + words["transforms"][task.transform]["adverbs"]
        tail = _pick(rng, pool)
        text = f"{tail}: {text}" if rng.random() < 0.2 else _append(text, tail)
    return text


def roughen(text: str, rng: random.Random) -> str:
    """Tidy the spaces, then write it as people do: openers and tails, lower case, missing full stops, slips."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([,.;:?!])", r"\1", text)
    text = re.sub(r"[,;:]\s*([.?!,])", r"\1", text).strip(" ,;:-")
    words = lexicon()
    if rng.random() < 0.06:
        text = f"{rng.choice(words['openers'])} {text}"
    if rng.random() < 0.1:
        text = f"{text.rstrip('.')}. {rng.choice(words['tails'])}"
    style = rng.random()
    if style < 0.3:
        text = text.lower()
    elif style < 0.7:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.35:
        text = text.rstrip(".")
    if rng.random() < 0.08:
        text = re.sub(r"[,;]", "", text)
    if rng.random() < 0.08 and len(text) > 12:
        i = rng.randrange(3, len(text) - 2)
        slip = rng.randrange(3)  # a letter lost, doubled or swapped with the next
        text = (
            text[:i] + text[i + 1 :],
            text[:i] + text[i] + text[i:],
            text[:i] + text[i + 1] + text[i] + text[i + 2 :],
        )[slip]
    return text
