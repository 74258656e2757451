"""Exact operations on real sentences, words and lists, and on their outcomes; their wordings are in `wordings`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

VOWELS = set("aeiouAEIOU")
NTH = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
Change = Callable[[str], str | None]


@dataclass(frozen=True)
class Operation:
    """What is done to an input.

    Attributes:
        words: the key of its wordings.
        name: of the task.
        pool: the inputs it is for, as `Pools` names them.
        change: the outcome; None for an input that it does not fit.
        values: what fills the wordings, some ways each.
        family: of the task.
    """

    words: str
    name: str
    pool: str
    change: Change
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    family: str = "operation"


def bare(word: str) -> str:
    """The word without the punctuation around it."""
    return word.strip(".,!?;:\"'()")


@cache
def bare_words(text: str) -> list[str]:
    return [word for word in map(bare, text.split()) if word]


def is_sentence(text: str) -> bool:
    return "\n" not in text and 4 <= len(text.split()) <= 12 and len(text) <= 75 and ":" not in text


def is_word(text: str) -> bool:
    return re.fullmatch(r"[a-z]{4,10}", text) is not None


def is_list(text: str) -> bool:
    return re.fullmatch(r"[a-z][a-z -]*(, [a-z][a-z -]*){2,4}", text) is not None


def is_request(text: str) -> bool:
    return is_sentence(text) and re.match(r"(?i)(play|book|add|show|find|set|tell|give|rate|put) \w", text) is not None


def is_question(text: str) -> bool:
    return is_sentence(text) and text.endswith("?")


POOLS: dict[str, Callable[[str], bool]] = {
    "sentence": is_sentence,
    "word": is_word,
    "items": is_list,
    "request": is_request,
    "question": is_question,
}
"""Which inputs of the given tasks are of a kind; `numbers` are made."""


def at(items: Sequence[str], place: int) -> str | None:
    return items[place] if -len(items) <= place < len(items) else None


def with_changed(text: str, place: int, change: Callable[[str], str]) -> str | None:
    words = text.split()
    if place >= len(words):
        return None
    words[place] = change(words[place])
    return " ".join(words)


def swapped_words(text: str, old: str, new: str) -> str | None:
    words = [new if word.lower() == old else word for word in text.split()]
    changed = " ".join(words)
    return None if changed == " ".join(text.split()) else changed


def around(text: str, word: str) -> tuple[list[str], list[str]] | None:
    """The words before and after one that occurs once, if there are some on both sides."""
    words = bare_words(text)
    lowered = [w.lower() for w in words]
    if lowered.count(word) != 1:
        return None
    place = lowered.index(word)
    return (words[:place], words[place + 1 :]) if 0 < place < len(words) - 1 else None


def yes_no(holds: bool) -> str:
    return "yes" if holds else "no"


def listed_or_none(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"


def numbers_of(text: str) -> list[int]:
    return [int(number) for number in text.split(", ")]


def numbered(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def count_way(number: int) -> tuple[str, str]:
    return NUMBERS[number], str(number)


def on_sentences() -> Iterator[Operation]:
    """Operations on the words and letters of a sentence."""
    for family in (words_by_place, words_by_letter, with_texts, with_marks, by_length, by_neighbours, of_the_whole):
        yield from family()


def words_by_place() -> Iterator[Operation]:
    """Words at a place, from the beginning or from the end."""
    for n in (2, 4, 5):
        values = {"nth": (NTH[n],), "n": (str(n),)}
        yield Operation("nth_word", f"word_{n}", "sentence", lambda t, n=n: at(bare_words(t), n - 1), values)
    for n in (3, 4):
        yield Operation(
            "last_n_words", f"last_{n}_words", "sentence",
            lambda t, n=n: " ".join(bare_words(t)[-n:]) if len(bare_words(t)) > n else None, {"n": count_way(n)},
        )  # fmt: skip
    for n in (4, 5):
        yield Operation(
            "first_n_words", f"first_{n}_words", "sentence",
            lambda t, n=n: " ".join(t.split()[:n]) if len(t.split()) > n else None, {"n": count_way(n)},
        )  # fmt: skip
    for n in (3, 4):  # two at a time are functions of BIG-bench
        for key, part in (("drop_first_n", slice(n, None)), ("drop_last_n", slice(-n))):
            yield Operation(
                key, f"{key[:-1]}{n}_words", "sentence",
                lambda t, part=part: " ".join(t.split()[part]) or None, {"n": count_way(n)},
            )  # fmt: skip


def words_by_letter() -> Iterator[Operation]:
    """Words with a letter, and whether a letter or a word is there, and how often."""
    for letter in "abcmpstw":
        yield Operation(
            "words_with_initial", f"words_with_initial_{letter}", "sentence",
            lambda t, x=letter: listed_or_none([w for w in bare_words(t) if w.lower().startswith(x)]),
            {"letter": (letter, f"'{letter}'")},
        )  # fmt: skip
    for letter in "dghk":
        yield Operation(
            "words_with_letter", f"words_with_{letter}", "sentence",
            lambda t, x=letter: listed_or_none([w for w in bare_words(t) if x in w.lower()]),
            {"letter": (letter, f"'{letter}'")},
        )  # fmt: skip
        yield Operation(
            "first_word_with", f"first_word_with_{letter}", "sentence",
            lambda t, x=letter: next((w for w in bare_words(t) if x in w.lower()), None),
            {"letter": (letter, f"'{letter}'")},
        )  # fmt: skip
    for letter in "aeiot":
        yield Operation(
            "count_letter", f"count_{letter}", "sentence", lambda t, x=letter: str(t.lower().count(x)),
            {"letter": (letter, f"'{letter}'")},
        )  # fmt: skip
    for word in ("a", "my", "for", "is", "to", "in"):
        yield Operation(
            "contains_word", f"contains_{word}", "sentence",
            lambda t, w=word: yes_no(w in [x.lower() for x in bare_words(t)]), {"word": (word,)},
        )  # fmt: skip


def with_texts() -> Iterator[Operation]:
    """The sentence with words replaced, and with texts before, after, around or between them."""
    for old, new in (
        ("the", "that"), ("my", "our"), ("i", "we"), ("a", "one"), ("to", "2"), ("for", "4"), ("you", "u"),
        ("and", "&"), ("is", "was"), ("in", "inside"),
    ):  # fmt: skip
        yield Operation(
            "replace_word", f"{old}_becomes_{new if new != '&' else 'ampersand'}", "sentence",
            lambda t, o=old, n=new: swapped_words(t, o, n), {"word": (old,), "new": (new,)},
        )  # fmt: skip
    for name, new in (
        ("reminder", "Reminder: "), ("fyi", "FYI: "), ("hello", "Hello, "), ("q", "Q: "), ("user", "User said: "),
        ("chevrons", ">> "), ("todo", "TODO: "), ("draft", "[draft] "),
    ):  # fmt: skip
        yield Operation(
            "add_before", f"{name}_before", "sentence", lambda t, n=new: n + t, {"new": (new.strip(),)}
        )  # fmt: skip
    for name, new in (
        ("thanks", " Thanks."), ("end", " (end)"), ("over", " - over"), ("tag_todo", " #todo"), ("sam", " Yours, Sam"),
        ("asap", " ASAP"), ("etc", " etc."),
    ):  # fmt: skip
        yield Operation("add_after", f"{name}_after", "sentence", lambda t, n=new: t + n, {"new": (new.strip(),)})
    for word in ("p", "title", "li", "q", "i", "note"):
        yield Operation(
            "tag", f"tag_{word}", "sentence", lambda t, w=word: f"<{w}>{t}</{w}>", {"word": (word,)}
        )  # fmt: skip
    for name, sign in (("plus", "+"), ("dots", "."), ("tildes", "~"), ("stars", "*"), ("bars", "|")):
        yield Operation(
            "join_words", f"words_with_{name}", "sentence", lambda t, s=sign: s.join(bare_words(t)), {"sign": (sign,)}
        )  # fmt: skip
        if name in ("plus", "bars"):
            yield Operation(
                "first_and_last", f"ends_with_{name}", "sentence",
                lambda t, s=sign: s.join((bare_words(t)[0], bare_words(t)[-1])), {"sign": (sign,)},
            )  # fmt: skip


def with_marks() -> Iterator[Operation]:
    """Letters made large, and a word that is marked, counted or put into JSON."""
    yield Operation("title_case", "title_case", "sentence", lambda t: " ".join(w[0].upper() + w[1:] for w in t.split()))
    yield Operation(
        "sentence_case", "sentence_case", "sentence", lambda t: t[0].upper() + t[1:] if t[0].islower() else None
    )
    yield Operation(
        "alternate_words", "alternate_words", "sentence",
        lambda t: " ".join(w.upper() if i % 2 else w for i, w in enumerate(t.split())),
    )  # fmt: skip
    for n in (1, 2, 3):
        values = {"nth": (NTH[n],), "n": (str(n),)}
        yield Operation(
            "upper_nth", f"upper_word_{n}", "sentence", lambda t, n=n: with_changed(t, n - 1, str.upper), values
        )
        yield Operation(
            "mask_nth", f"mask_word_{n}", "sentence", lambda t, n=n: with_changed(t, n - 1, lambda w: "___"), values
        )
        yield Operation(
            "quote_nth",
            f"quote_word_{n}",
            "sentence",
            lambda t, n=n: with_changed(t, n - 1, lambda w: f'"{w}"'),
            values,
        )
        yield Operation(
            "letters_of_nth", f"letters_of_word_{n}", "sentence",
            lambda t, n=n: str(len(w)) if (w := at(bare_words(t), n - 1)) and w.isalpha() else None, values,
        )  # fmt: skip
    for key, n in (("word", 2), ("start", 1), ("item", 3)):
        yield Operation(
            "json_nth", f"json_{key}_{n}", "sentence",
            lambda t, k=key, n=n: json.dumps({k: w}, ensure_ascii=False) if (w := at(bare_words(t), n - 1)) else None,
            {"nth": (NTH[n],), "word": (key,)},
        )  # fmt: skip


def by_length() -> Iterator[Operation]:
    """Words by their length, lengths, and the last letters."""
    yield Operation("shortest_word", "shortest_word", "sentence", lambda t: min(bare_words(t), key=len))
    for n in (4, 6):
        yield Operation(
            "count_long_words", f"count_words_over_{n}", "sentence",
            lambda t, n=n: str(sum(len(w) > n for w in bare_words(t))), {"n": count_way(n)},
        )  # fmt: skip
        yield Operation(
            "short_words", f"words_under_{n}", "sentence",
            lambda t, n=n: listed_or_none([w for w in bare_words(t) if len(w) < n]), {"n": count_way(n)},
        )  # fmt: skip
    yield Operation("count_characters", "count_characters", "sentence", lambda t: str(len(t)))
    yield Operation("last_letters", "last_letters", "sentence", lambda t: " ".join(w[-1] for w in bare_words(t)))


def by_neighbours() -> Iterator[Operation]:
    """Words that change places, and what is beside a word."""
    yield Operation(
        "move_last_to_front", "last_word_to_front", "sentence",
        lambda t: " ".join((*t.split()[-1:], *t.split()[:-1])) if t[-1].isalnum() else None,
    )  # fmt: skip
    yield Operation(
        "move_first_to_end", "first_word_to_end", "sentence",
        lambda t: " ".join((*t.split()[1:], *t.split()[:1])) if t[-1].isalnum() else None,
    )  # fmt: skip
    for word in ("a", "my", "to", "for", "is"):
        yield Operation(
            "word_after", f"word_after_{word}", "sentence",
            lambda t, w=word: sides[1][0] if (sides := around(t, w)) else None, {"word": (word,)},
        )  # fmt: skip
    for word in ("to", "for", "is", "and"):
        yield Operation(
            "word_before", f"word_before_{word}", "sentence",
            lambda t, w=word: sides[0][-1] if (sides := around(t, w)) else None, {"word": (word,)},
        )  # fmt: skip
    for word in ("to", "for"):
        yield Operation(
            "text_before", f"text_before_{word}", "sentence",
            lambda t, w=word: " ".join(sides[0]) if (sides := around(t, w)) else None, {"word": (word,)},
        )  # fmt: skip
        yield Operation(
            "text_after", f"text_after_{word}", "sentence",
            lambda t, w=word: " ".join(sides[1]) if (sides := around(t, w)) else None, {"word": (word,)},
        )  # fmt: skip


def of_the_whole() -> Iterator[Operation]:
    """How long the whole is, how many capitals it has, and each word on a line of its own."""
    for n, long, short in ((6, "long", "short"), (7, "big", "small")):
        yield Operation(
            "many_words", f"{long}_or_{short}_{n}", "sentence",
            lambda t, n=n, x=long, y=short: x if len(t.split()) > n else y,
            {"n": count_way(n), "word": (long,), "new": (short,)},
        )  # fmt: skip
    yield Operation("count_capitals", "count_capitals", "sentence", lambda t: str(sum(c.isupper() for c in t)))
    yield Operation("word_per_line", "word_per_line", "sentence", lambda t: "\n".join(t.split()))


def on_words() -> Iterator[Operation]:
    """Operations on the letters of a word."""
    for letter in "kbgz":
        yield Operation(
            "contains_letter", f"has_letter_{letter}", "word", lambda t, x=letter: yes_no(x in t),
            {"letter": (letter, f"'{letter}'")},
        )  # fmt: skip
    for letter in "sey":
        yield Operation(
            "ends_with_letter", f"ends_in_{letter}", "word", lambda t, x=letter: yes_no(t.endswith(x)),
            {"letter": (letter, f"'{letter}'")},
        )  # fmt: skip
    for letter in "spc":
        yield Operation(
            "starts_with_letter", f"begins_with_{letter}", "word", lambda t, x=letter: yes_no(t.startswith(x)),
            {"letter": (letter, f"'{letter}'")},
        )  # fmt: skip
    yield Operation("long_word", "longer_than_6", "word", lambda t: yes_no(len(t) > 6), {"n": count_way(6)})
    for letter, new in (("e", "3"), ("a", "@"), ("o", "0"), ("s", "$"), ("i", "!")):
        yield Operation(
            "replace_letter", f"letter_{letter}_becomes_u{ord(new):x}", "word",
            lambda t, x=letter, n=new: t.replace(x, n) if x in t else None, {"letter": (letter,), "new": (new,)},
        )  # fmt: skip
    for letter in "eats":
        yield Operation(
            "remove_letter", f"without_letter_{letter}", "word",
            lambda t, x=letter: t.replace(x, "") if x in t else None, {"letter": (letter, f"'{letter}'")},
        )  # fmt: skip
    for n in (3, 4):
        yield Operation(
            "nth_letter", f"letter_{n}", "word", lambda t, n=n: t[n - 1], {"nth": (NTH[n],), "n": (str(n),)}
        )
    yield Operation("first_n_letters", "first_2_letters", "word", lambda t: t[:2], {"n": count_way(2)})
    yield Operation(
        "first_n_letters", "first_4_letters", "word", lambda t: t[:4] if len(t) > 4 else None, {"n": count_way(4)}
    )
    yield Operation("last_n_letters", "last_2_letters", "word", lambda t: t[-2:], {"n": count_way(2)})
    yield Operation("drop_first_letter", "without_first_letter", "word", lambda t: t[1:])
    yield Operation("drop_last_letter", "without_last_letter", "word", lambda t: t[:-1])
    yield Operation("double_letters", "double_letters", "word", lambda t: "".join(c + c for c in t))
    for name, sign in (("dots", "."), ("slashes", "/"), ("equals", "=")):
        yield Operation("letters_with", f"letters_with_{name}", "word", lambda t, s=sign: s.join(t), {"sign": (sign,)})
    for new in ("super", "mega", "pre"):
        yield Operation("glue_before", f"glue_{new}_before", "word", lambda t, n=new: n + t, {"new": (new, f"'{new}'")})
    for new in ("ish", "ville", "o"):
        yield Operation("glue_after", f"glue_{new}_after", "word", lambda t, n=new: t + n, {"new": (new, f"'{new}'")})
    yield Operation(
        "consonants_only", "consonants_only", "word", lambda t: "".join(c for c in t if c not in VOWELS) or None
    )


def on_lists() -> Iterator[Operation]:
    """Operations on comma-separated items and numbers; none of BIG-bench's functions of lists."""
    for n in (2, 4):
        yield Operation(
            "nth_item", f"item_{n}", "items", lambda t, n=n: at(t.split(", "), n - 1),
            {"nth": (NTH[n],), "n": (str(n),)}, "list",
        )  # fmt: skip
    yield Operation("shortest_item", "shortest_item", "items", lambda t: min(t.split(", "), key=len), {}, "list")
    for name, sign in (("plus", " + "), ("or", " or "), ("then", " then "), ("arrows", " -> "), ("bars", " | ")):
        yield Operation(
            "join_items", f"items_with_{name}", "items", lambda t, s=sign: t.replace(", ", s),
            {"sign": (sign.strip(), f'"{sign}"')}, "list",
        )  # fmt: skip
    for name, new in (("a_box", "[ ] "), ("new", "new "), ("hash", "#"), ("no", "no ")):
        yield Operation(
            "each_item_before", f"{name}_before_items", "items",
            lambda t, n=new: ", ".join(n + item for item in t.split(", ")), {"new": (f"'{new}'", f'"{new}"')}, "list",
        )  # fmt: skip
    for name, new in (("mark", "!"), ("x2", " x2"), ("two_euros", " (2€)")):
        yield Operation(
            "each_item_after", f"{name}_after_items", "items",
            lambda t, n=new: ", ".join(item + n for item in t.split(", ")), {"new": (f"'{new}'", f'"{new}"')}, "list",
        )  # fmt: skip
    yield Operation(
        "first_letters_of_items",
        "initials_of_items",
        "items",
        lambda t: "".join(i[0] for i in t.split(", ")),
        {},
        "list",
    )
    for letter in "sc":
        yield Operation(
            "item_with_initial", f"item_with_initial_{letter}", "items",
            lambda t, x=letter: some[0] if len(some := [i for i in t.split(", ") if i[0] == x]) == 1 else None,
            {"letter": (letter, f"'{letter}'")}, "list",
        )  # fmt: skip
    numbers: list[tuple[str, str, Change, Mapping[str, Sequence[str]]]] = [
        ("smallest_number", "smallest_number", lambda t: str(min(numbers_of(t))), {}),
        ("first_plus_last", "first_plus_last", lambda t: str(numbers_of(t)[0] + numbers_of(t)[-1]), {}),
        ("count_above", "count_above_20", lambda t: str(sum(n > 20 for n in numbers_of(t))), {"n": ("20", "twenty")}),
        ("count_above", "count_above_50", lambda t: str(sum(n > 50 for n in numbers_of(t))), {"n": ("50", "fifty")}),
        ("count_even", "count_even", lambda t: str(sum(n % 2 == 0 for n in numbers_of(t))), {}),
        ("numbers_rise", "numbers_rise", lambda t: yes_no(sorted(set(numbers_of(t))) == numbers_of(t)), {}),
        ("first_odd", "first_odd", lambda t: next((str(n) for n in numbers_of(t) if n % 2), "none"), {}),
        ("numbers_padded", "numbers_padded", lambda t: numbered([f"{n:03d}" for n in numbers_of(t)]), {}),
        ("numbers_negated", "numbers_negated", lambda t: numbered([-n for n in numbers_of(t)]), {}),
        ("largest_minus_smallest", "largest_minus_smallest",
         lambda t: str(max(numbers_of(t)) - min(numbers_of(t))), {}),
        ("numbers_in_words", "numbers_in_words",
         lambda t: numbered([NUMBERS[n] for n in numbers_of(t)]) if max(numbers_of(t)) <= 12 else None, {}),
    ]  # fmt: skip
    for words, name, change, values in numbers:
        yield Operation(words, name, "numbers", change, values, "list")


def in_tones() -> Iterator[Operation]:
    """Tone and persona, as far as a rule makes the answer exact."""

    def stripped(text: str) -> str:
        return text.rstrip(".!? ")

    tones: list[tuple[str, str, Change]] = [
        ("dear_customer", "sentence", lambda t: f"Dear customer, {t} Thank you for your patience."),
        ("hello_nice_day", "sentence", lambda t: f"Hello! {t} Have a nice day."),
        ("sorry_to_hear", "sentence", lambda t: f"I'm sorry to hear that. {t}"),
        ("pirate", "sentence", lambda t: f"Arr, {stripped(t)}, matey!"),
        ("robot", "sentence", lambda t: f"BEEP {t.upper()} BOOP"),
        ("whisper", "sentence", lambda t: f"psst... {t.lower()}"),
        ("breaking_news", "sentence", lambda t: f"Breaking news: {t} Back to you."),
        ("thank_for_asking", "question", lambda t: f"Thank you for asking! {t}"),
        ("if_i_may", "question", lambda t: f"If I may ask: {t}"),
        ("could_you", "request", lambda t: f"Could you please {t[0].lower()}{stripped(t)[1:]}?"),
        ("good_day_madam", "sentence", lambda t: f"Good day, madam. {t}"),
        ("yay", "sentence", lambda t: f"Yay! {t} :)"),
    ]
    for name, pool, change in tones:
        yield Operation(name, name, pool, change, {}, "tone")


THEN: dict[str, Callable[[str], str]] = {
    "then_reversed": lambda a: a[::-1],
    "then_no_vowels": lambda a: "".join(c for c in a if c not in VOWELS),
    "then_stars": lambda a: "".join("*" if c in VOWELS else c for c in a),
    "then_upper": str.upper,
    "then_count": lambda a: str(sum(c.isalpha() for c in a)),
    "then_twice": lambda a: f"{a}-{a}",
    "then_bracketed": lambda a: f"[{a}]",
    "then_spaced": lambda a: " ".join(a.replace(" ", "")),
    "then_capitalised": lambda a: a[:1].upper() + a[1:],
}
"""What else is done to an outcome."""

ONE_WORD = ("nth_word", "shortest_word", "first_word_with", "word_after", "word_before")
"""Operations whose outcome is a word, by their wordings."""
