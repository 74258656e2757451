"""The `code_` tasks: exact rules on the sentences, words and lists of the other sources."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from operations import VOWELS, bare, bare_words, yes_no

from .core import Pair, Source, Task
from .facts import CORPORA, MADE, random_lists
from .utterances import (
    CLINC,
    POLYAI,
    SNIPS,
    banking_utterances,
    clinc_utterances,
    joined,
    nlupp_utterances,
    restaurant_utterances,
    snips_utterances,
)

SOURCES = (CORPORA, SNIPS, POLYAI, CLINC)
TRIED = 3000
"""Inputs of a pool that a rule is tried on, at most."""
Change = Callable[[str], str | None]


@dataclass(frozen=True)
class Rule:
    """A task by rule.

    Attributes:
        name: of the task, without `code_`.
        family: of the task.
        pool: what it is done to, as `pools` names it.
        change: the answer; None for an input that it does not fit.
        labels: the closed set of answers, where there is one.
    """

    name: str
    family: str
    pool: str
    change: Change
    labels: Sequence[str] = ()


# -- what the rules read ----------------------------------------------------------------------------------------------

NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)  # fmt: skip
CLOCK = r"\d{1,2}(?::\d\d)?\s?(?:[ap]\.m\.|[ap]m\b)|\d{1,2}:\d\d"
LITTLE = set(
    "a about after all am an and any are as at be been before by can could did do does for from had has have he her "
    "here his how i if in into is it".split()
)
PERSONS = {"i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself", "am": "are"}
EXPANDED = {
    "don't": "do not", "doesn't": "does not", "didn't": "did not", "isn't": "is not", "aren't": "are not",
    "wasn't": "was not", "weren't": "were not", "haven't": "have not", "hasn't": "has not", "hadn't": "had not",
    "can't": "cannot", "couldn't": "could not", "won't": "will not", "wouldn't": "would not",
    "shouldn't": "should not", "i'm": "i am", "i've": "i have", "i'll": "i will", "you're": "you are",
    "we're": "we are", "they're": "they are", "you've": "you have", "we've": "we have",
}  # fmt: skip


def words_with(change: Callable[[list[str]], str | None]) -> Change:
    """A change of the words between the spaces."""
    return lambda text: change(text.split())


def bare_with(change: Callable[[list[str]], str | None]) -> Change:
    """A change of the words without punctuation."""
    return lambda text: change(bare_words(text))


def items_with(change: Callable[[list[str]], str | None]) -> Change:
    """A change of comma-separated items."""
    return lambda text: change(text.split(", "))


def only(values: Sequence[str]) -> str | None:
    """The only value."""
    return values[0] if len(values) == 1 else None


def best(values: Sequence[str]) -> str | None:
    """The only longest value."""
    most = max(map(len, values))
    return only([value for value in values if len(value) == most])


def only_match(pattern: str, text: str, flags: int = 0) -> str | None:
    return only([match.group() for match in re.finditer(pattern, text, flags)])


def changed(text: str, new: str) -> str | None:
    """The new text, unless it is the old one."""
    return new if new != text else None


def next_to(word: str, step: int) -> Change:
    """The word beside one that occurs once."""

    def change(text: str) -> str | None:
        words = bare_words(text)
        lowered = [w.lower() for w in words]
        place = lowered.index(word) + step if lowered.count(word) == 1 else -1
        return words[place] if 0 <= place < len(words) else None

    return change


def replaced_words(text: str, new: Mapping[str, str]) -> str | None:
    """The text with whole words replaced; None where there are none."""
    done = re.sub(r"[a-z']+", lambda match: new.get(match.group(), match.group()), text)
    return changed(text, done)


def contracted(text: str) -> str | None:
    if "'" in text:
        return None
    for short, long in EXPANDED.items():
        if short.endswith(("'ve", "'ll")):  # "can i have a card" is none
            continue
        text = re.sub(rf"\b{long}\b", short, text)
    return text if "'" in text else None


def middle_word(words: list[str]) -> str | None:
    return words[len(words) // 2] if len(words) % 2 and len(words) >= 3 else None


def only_number(text: str) -> str | None:
    found = only(re.findall(r"\d+", text))
    return found if found and re.search(rf"(?<![\w.,:$£€/-]){found}(?![\w:/-]|[.,]\d)", text) else None


def without_numbers(text: str) -> str | None:
    left = re.sub(r"(?<![\w:.,$£€/-])\d+(?![\w:/-]|[.,]\d)", "", text)
    return changed(text, re.sub(r" ([.,?!])", r"\1", joined(left)))


def year_of(text: str) -> str | None:
    return only(re.findall(r"\b(1[5-9]\d\d|20[0-4]\d)\b", text))


def century(text: str) -> str | None:
    year = year_of(text)
    number = (int(year) - 1) // 100 + 1 if year else 0
    return f"{number}{'st' if number == 21 else 'th'}" if 16 <= number <= 21 else None


def month(text: str) -> str | None:
    """The only name of a month; "may" is one only where a date stands beside it."""
    found = only(re.findall(rf"\b({'|'.join(MONTHS)})\b", text, re.IGNORECASE))
    if found and found.lower() == "may" and not re.search(r"\b(in|of|\d(st|nd|rd|th)?) May\b", text):
        return None
    return found


def proper_name(text: str) -> str | None:
    """The only run of capitalised words, not counting the first word of the sentence."""
    rest = text.rstrip(".!?").split()[1:]
    runs = re.findall(
        r"(?:\x01\S+ ?)+", " ".join(f"\x01{w}" if re.match(r"(?!I')[A-Z].*[a-z]", w) else w for w in rest)
    )
    names = [run.replace("\x01", "").strip().strip(",;:") for run in runs]
    found = only(names)
    return found if found and re.fullmatch(r"[A-Za-z .'-]+", found) and not found.endswith("'s") else None


def repeated_word(words: list[str]) -> str | None:
    counts = Counter(word.lower() for word in words)
    return only([word for word, count in counts.items() if count == 2]) if max(counts.values()) == 2 else None


def roman(text: str) -> str | None:
    number, found = int(text), ""
    for value, letters in (
        (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
    ):  # fmt: skip
        found += letters * (number // value)
        number %= value
    return found if int(text) < 200 else None


def rounded(text: str) -> str | None:
    return str(round(int(text), -1)) if text[-1] != "5" else None


def has_digit(text: str) -> str:
    return "true" if re.search(r"\d", text) else "false"


def has_the(text: str) -> str:
    return yes_no("the" in map(str.lower, bare_words(text)))


def first_three(text: str) -> str | None:
    words = text.split()
    return bare(" ".join(words[:3])) if len(words) > 3 else None


def last_two(text: str) -> str | None:
    words = text.split()
    return bare(" ".join(words[-2:])) if len(words) > 2 else None


def long_words(text: str) -> str | None:
    return ", ".join(word for word in bare_words(text) if len(word) > 5) or None


def camel_case(text: str) -> str:
    first, *others = text.split()
    return first.lower() + "".join(word.capitalize() for word in others)


def numbered_lines(text: str) -> str:
    return "\n".join(f"{n}. {item}" for n, item in enumerate(text.split(", "), 1))


def final_punctuation(text: str) -> str:
    return {".": "period", "?": "question mark", "!": "exclamation mark"}.get(text[-1], "none")


def length_bucket(text: str) -> str:
    return "short" if len(text) < 30 else "long" if len(text) > 70 else "medium"


def unquestioned(text: str) -> Pair | None:
    """The sentence without its final punctuation, and whether that was a question mark."""
    return (text[:-1], yes_no(text[-1] == "?")) if text[-1] in ".?" and text[-2].isalnum() else None


def after_comma(text: str) -> str | None:
    return text.split(",")[1].strip().rstrip(".!?") if text.count(",") == 1 and text[-1] != "," else None


def before_is(text: str) -> str | None:
    before, is_, after = text.partition(" is ")
    return before if is_ and after and " is " not in after and len(before.split()) <= 6 else None


def iso_of(text: str) -> str | None:
    name, day, year = text.replace(",", "").split()
    return f"{year}-{MONTHS.index(name) + 1:02d}-{int(day):02d}"


def date_of(text: str) -> str | None:
    year, number, day = text.split("-")
    return f"{MONTHS[int(number) - 1]} {int(day)}, {year}"


def lines_of(text: str) -> list[str]:
    """The sentences of `1: ...` and `2: ...`."""
    return [line[3:] for line in text.split("\n")]


def content(text: str) -> list[str]:
    return [w for word in text.split() if (w := bare(word).lower()) and w not in LITTLE]


def common_word(text: str) -> str | None:
    first, second = map(content, lines_of(text))
    return only([word for word in dict.fromkeys(first) if word in second])


def longer(text: str) -> str | None:
    first, second = (len(line.split()) for line in lines_of(text))
    return None if first == second else "first" if first > second else "second"


def same_words(text: str) -> str:
    first, second = (sorted(map(str.lower, bare_words(line))) for line in lines_of(text))
    return yes_no(first == second)


def json_of(**values: str | int) -> str:
    return json.dumps(values, ensure_ascii=False)


def array(words: list[str]) -> str:
    return json.dumps(words, ensure_ascii=False)


SENTENCES = [
    Rule("alphabetically_first_word", "extraction", "sentence", bare_with(lambda w: min(map(str.lower, w)))),
    Rule("century_of_year", "arithmetic", "dated", century, ("16th", "17th", "18th", "19th", "20th", "21st")),
    Rule("clock_time", "extraction", "utterance", lambda t: only_match(CLOCK, t)),
    Rule("contains_number", "classification", "sentence", has_digit, ("true", "false")),
    Rule("contains_the", "classification", "sentence", has_the, ("yes", "no")),
    Rule("contract", "rewriting", "lowered", contracted),
    Rule("count_commas", "word", "sentence", lambda t: str(t.count(",")), ("0", "1", "2", "3")),
    Rule("double_the_number", "arithmetic", "sentence", lambda t: str(2 * int(n)) if (n := only_number(t)) else None),
    Rule("every_other_word", "extraction", "sentence", bare_with(lambda w: " ".join(w[::2]))),
    Rule("expand_contractions", "rewriting", "lowered", lambda t: replaced_words(t, EXPANDED)),
    Rule(
        "final_punctuation", "classification", "sentence", final_punctuation,
        ("period", "question mark", "exclamation mark", "none"),
    ),
    Rule("first_three_words", "extraction", "sentence", first_three),
    Rule("first_word", "extraction", "sentence", bare_with(lambda w: w[0])),
    Rule("last_two_words", "extraction", "sentence", last_two),
    Rule("last_word", "extraction", "sentence", bare_with(lambda w: w[-1])),
    Rule("longest_word", "extraction", "sentence", bare_with(best)),
    Rule("mask_digits", "formatting", "sentence", lambda t: changed(t, re.sub(r"\d", "#", t))),
    Rule("middle_word", "extraction", "sentence", bare_with(middle_word)),
    Rule("money_amount", "extraction", "utterance", lambda t: only_match(r"[$£€]\d+(?:[.,]\d+)*", t)),
    Rule("month_named", "extraction", "utterance", month),
    Rule("next_year", "arithmetic", "sentence", lambda t: str(int(y) + 1) if (y := year_of(t)) else None),
    Rule("number_in_text", "extraction", "sentence", only_number),
    Rule("number_plus_one", "arithmetic", "sentence", lambda t: str(int(n) + 1) if (n := only_number(t)) else None),
    Rule(
        "number_words_to_digits", "formatting", "utterance",
        lambda t: replaced_words(t, {word: str(n) for n, word in enumerate(NUMBERS, 1)}),
    ),
    Rule("proper_name", "extraction", "statement", proper_name),
    Rule("remove_numbers", "formatting", "sentence", without_numbers),
    Rule("repeated_word", "extraction", "sentence", bare_with(repeated_word)),
    Rule("second_to_last_word", "extraction", "sentence", bare_with(lambda w: w[-2] if len(w) > 2 else None)),
    Rule("subject_before_is", "extraction", "statement", before_is),
    Rule("text_after_comma", "extraction", "sentence", after_comma),
    Rule("text_length_bucket", "classification", "sentence", length_bucket, ("short", "medium", "long")),
    Rule("third_word", "extraction", "sentence", bare_with(lambda w: w[2] if len(w) > 3 else None)),
    Rule("word_after_the", "extraction", "sentence", next_to("the", 1)),
    Rule("word_before_preposition_in", "extraction", "sentence", next_to("in", -1)),
    Rule("word_count", "word", "sentence", words_with(lambda w: str(len(w))), [str(n) for n in range(3, 11)]),
    Rule("words_longer_than_five", "extraction", "sentence", long_words),
    Rule("year_in_text", "extraction", "sentence", year_of),
]  # fmt: skip
STATEMENTS = [
    Rule("bold_tag", "formatting", "statement", lambda t: f"<b>{t}</b>"),
    Rule("capitalise_last_word", "formatting", "statement", words_with(lambda w: " ".join([*w[:-1], w[-1].upper()]))),
    Rule("note_prefix", "formatting", "statement", lambda t: f"Note: {t}"),
    Rule("period_to_exclamation", "formatting", "statement", lambda t: f"{t[:-1]}!"),
    Rule("quote_it", "formatting", "statement", lambda t: f'"{t}"'),
    Rule("swap_case", "formatting", "statement", str.swapcase),
    Rule("truncate_20", "formatting", "statement", lambda t: f"{t[:20]}..." if len(t) > 20 else None),
    Rule("uppercase", "formatting", "statement", str.upper),
]
REQUESTS = [
    Rule("acronym", "word", "plain", words_with(lambda w: "".join(x[0].upper() for x in w))),
    Rule("comma_separated", "formatting", "plain", words_with(", ".join)),
    Rule("duplicate_last_word", "rewriting", "plain", lambda t: f"{t} {t.split()[-1]}"),
    Rule("first_letters_spaced", "word", "plain", words_with(lambda w: " ".join(x[0] for x in w))),
    Rule("first_to_second_person", "rewriting", "plain", lambda t: replaced_words(t, PERSONS)),
    Rule("hashtag_words", "formatting", "plain", words_with(lambda w: " ".join(f"#{x}" for x in w))),
    Rule("json_array", "formatting", "plain", words_with(array)),
    Rule("json_first_last", "formatting", "plain", words_with(lambda w: json_of(first=w[0], last=w[-1]))),
    Rule("json_text_words", "formatting", "plain", words_with(lambda w: json_of(words=len(w), start=w[0]))),
    Rule("markdown_first_word_bold", "formatting", "plain", words_with(lambda w: " ".join([f"**{w[0]}**", *w[1:]]))),
    Rule("parentheses", "formatting", "plain", lambda t: f"({t})"),
    Rule("remove_first_word", "rewriting", "plain", words_with(lambda w: " ".join(w[1:]))),
    Rule("remove_last_word", "rewriting", "plain", words_with(lambda w: " ".join(w[:-1]))),
    Rule("remove_spaces", "formatting", "plain", words_with("".join)),
    Rule(
        "remove_stop_words", "rewriting", "plain",
        lambda t: changed(t, " ".join(w for w in t.split() if w not in LITTLE)) or None,
    ),
    Rule("repeat_sentence", "rewriting", "plain", lambda t: f"{t} / {t}"),
    Rule("reverse_words", "rewriting", "plain", words_with(lambda w: " ".join(w[::-1]))),
    Rule("slash_separated", "formatting", "plain", words_with("/".join)),
    Rule("sort_words_in_sentence", "word", "plain", words_with(lambda w: " ".join(sorted(w)))),
    Rule("swap_first_last_word", "rewriting", "plain", words_with(lambda w: " ".join([w[-1], *w[1:-1], w[0]]))),
    Rule("word_lengths", "word", "plain", words_with(lambda w: " ".join(str(len(x)) for x in w))),
    Rule("camel_case", "formatting", "named", camel_case),
    Rule("kebab_case", "formatting", "named", lambda t: t.lower().replace(" ", "-")),
    Rule("snake_case", "formatting", "named", lambda t: t.lower().replace(" ", "_")),
    Rule("please_prefix", "rewriting", "request", lambda t: f"Please {t[0].lower()}{t[1:]}"),
]  # fmt: skip
WORDS = [
    Rule("first_and_last_letter", "word", "word", lambda t: t[0] + t[-1]),
    Rule("first_half_of_word", "word", "word", lambda t: t[: len(t) // 2] if len(t) % 2 == 0 else None),
    Rule("has_double_letter", "classification", "word", lambda t: yes_no(bool(re.search(r"(.)\1", t))), ("yes", "no")),
    Rule("last_three_letters", "word", "word", lambda t: t[-3:]),
    Rule("next_letter_shift", "word", "word", lambda t: "".join(chr((ord(c) - 96) % 26 + 97) for c in t)),
    Rule("remove_vowels", "word", "word", lambda t: "".join(c for c in t if c not in VOWELS)),
    Rule("repeat_word", "word", "word", lambda t: f"{t} {t} {t}"),
    Rule("sort_letters", "word", "word", lambda t: "".join(sorted(t))),
    Rule("starts_with_vowel", "classification", "word", lambda t: yes_no(t[0] in VOWELS), ("yes", "no")),
    Rule("swap_first_last_letter", "word", "word", lambda t: t[-1] + t[1:-1] + t[0]),
    Rule("vowel_count", "word", "word", lambda t: str(sum(c in VOWELS for c in t)), [str(n) for n in range(1, 6)]),
    Rule("vowels_only", "word", "word", lambda t: "".join(c for c in t if c in VOWELS)),
    Rule("vowels_to_stars", "word", "word", lambda t: "".join("*" if c in VOWELS else c for c in t)),
    Rule("word_reversed", "word", "word", lambda t: t[::-1]),
]
ITEMS = [
    Rule("bullet_list", "formatting", "items", lambda t: "- " + t.replace(", ", "\n- ")),
    Rule("capitalise_items", "formatting", "items", items_with(lambda i: ", ".join(x[0].upper() + x[1:] for x in i))),
    Rule("join_with_and", "formatting", "items", items_with(lambda i: f"{', '.join(i[:-1])} and {i[-1]}")),
    Rule("list_to_semicolons", "formatting", "items", lambda t: t.replace(", ", "; ")),
    Rule("longest_item", "extraction", "items", items_with(best)),
    Rule("numbered_list", "formatting", "items", numbered_lines),
    Rule("reverse_list", "formatting", "items", items_with(lambda i: ", ".join(i[::-1]))),
    Rule("sort_list", "word", "items", items_with(lambda i: ", ".join(sorted(i)))),
]  # fmt: skip
MADE_UP = [
    Rule("date_iso_to_words", "formatting", "iso date", date_of),
    Rule("date_words_to_iso", "formatting", "date", iso_of),
    Rule("larger_of_two_numbers", "arithmetic", "two numbers", items_with(lambda i: max(i, key=int))),
    Rule("roman_numeral", "formatting", "small number", roman),
    Rule("round_to_ten", "arithmetic", "number", rounded),
    Rule("thousands_commas", "formatting", "large number", lambda t: f"{int(t):,}"),
    Rule("common_word_of_two", "extraction", "two sentences", common_word),
    Rule("longer_sentence", "classification", "two sentences", longer, ("first", "second")),
    Rule("same_sentence_order", "classification", "reordered", same_words, ("yes", "no")),
]
RULES = [*SENTENCES, *STATEMENTS, *REQUESTS, *WORDS, *ITEMS, *MADE_UP]
QUESTIONS = Rule("is_question", "classification", "sentence", lambda t: None, ("yes", "no"))
"""Its input is the sentence without its end: `unquestioned`."""

# -- what the rules are done to ---------------------------------------------------------------------------------------


def numbered(first: str, second: str) -> str:
    return f"1: {first}\n2: {second}"


def pairs_of(statements: Sequence[str], rng: random.Random) -> list[str]:
    """Two sentences each, about half of them with a word in common."""
    by_word: dict[str, list[str]] = {}
    for text in statements:
        for word in dict.fromkeys(content(text)):
            by_word.setdefault(word, []).append(text)
    shared = [own for own in by_word.values() if len(own) > 1]
    found = [numbered(*rng.sample(rng.choice(shared), 2)) for _ in range(2 * MADE)] if shared else []
    return found + [numbered(*rng.sample(statements, 2)) for _ in range(MADE)]


def reordered(statements: Sequence[str], rng: random.Random) -> Iterator[str]:
    """A sentence, and the sentence with its first word, or a word of another one, moved to its end."""
    for i in range(MADE):
        text, other = rng.sample(statements, 2)
        first, *rest = text.split()
        word = first if i % 2 else rng.choice(bare_words(other))
        yield numbered(text, " ".join([*rest, word]))


def date_texts(rng: random.Random) -> list[str]:
    return [f"{rng.randint(1900, 2029)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}" for _ in range(MADE)]


def pools(corpora: Source, requests: Source, polyai: Source, intents: Source) -> dict[str, list[str]]:
    """The inputs by kind, each once, in an order that is the same each time."""
    clinc = [text for text, _ in clinc_utterances(intents)]
    snips = [u.text for own in snips_utterances(requests).values() for u in own]
    banking = [u.text for u in banking_utterances(polyai)]
    spoken = [u.text for own in nlupp_utterances(polyai).values() for u in own]
    tables = [u.text for u in restaurant_utterances(polyai)]
    harvard = list(corpora.json("data/words/harvard_sentences.json")["data"])
    sentences = [t for t in [*banking, *snips, *spoken, *tables, *harvard] if len(t.split()) >= 3]
    statements = [t for t in [*harvard, *banking, *tables, *spoken] if re.fullmatch(r"[A-Z][^.?!:]*[a-z]\.", t)]
    plain = [t for t in clinc if 3 <= len(t.split()) <= 12 and re.fullmatch(r"[a-z][a-z0-9', $]*", t)]
    counts = Counter(word for text in [*clinc, *sentences] for word in bare_words(text))
    rng = random.Random("pools")
    dates = date_texts(rng)
    found = {
        "sentence": sentences,
        "utterance": [*clinc, *snips, *spoken, *tables, *banking],
        "statement": statements,
        "lowered": [text.lower() for text in [*clinc, *banking, *spoken]],
        "plain": plain,
        "named": [t for t in [*plain, *snips] if re.fullmatch(r"[A-Za-z ]+", t) and 3 <= len(t.split()) <= 8],
        "request": [t for t in snips if re.match(r"(Add|Book|Find|Give|Play|Put|Rate|Search|Show) ", t)],
        "dated": re.findall(
            r"^.*\b(?:in|since|until) \d{4}\b.*$", intents.text("data/all_wiki_sents.txt"), re.MULTILINE
        ),
        "word": [w for w, n in counts.items() if n > 1 and re.fullmatch(r"[a-z]{4,9}", w) and VOWELS & set(w)],
        "items": [", ".join(i) for i in random_lists(corpora, ("animal", "room", "clothing", "fruit"), 3, 3, rng)],
        "iso date": dates,
        "date": [date_of(text) or "" for text in dates],
        "two numbers": [", ".join(map(str, rng.sample(range(1, 1000), 2))) for _ in range(MADE)],
        "small number": [str(n) for n in range(1, 200)],
        "number": [str(n) for n in range(11, 1000)],
        "large number": [str(rng.randint(1000, 9_999_999)) for _ in range(MADE)],
        "two sentences": pairs_of([text for text in statements if len(text) <= 70], rng),
        "reordered": list(reordered(harvard, rng)),
    }
    found = {name: list(dict.fromkeys(texts)) for name, texts in found.items()}
    for texts in found.values():
        rng.shuffle(texts)
    return found


def rules(*sources: Source) -> Iterator[Task]:
    licence = ", ".join(sorted({source.repository.licence for source in sources}))
    origin = f"rule over {', '.join(source.repository.name for source in sources)}"
    kinds = pools(*sources)
    for rule in [*RULES, QUESTIONS]:
        pairs: list[Pair] = []
        for text in kinds[rule.pool]:
            if rule is QUESTIONS:
                made = unquestioned(text)
            else:
                answer = rule.change(text)
                made = (text, answer) if answer else None
            pairs += [made] if made else []
            if len(pairs) == TRIED:
                break
        yield Task(f"code_{rule.name}", origin, licence, rule.family, pairs, rule.labels)
