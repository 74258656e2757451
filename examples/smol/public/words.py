"""Words: globalwordnet/english-wordnet and cmusphinx/cmudict."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .core import Pair, Repository, Source, Task, by_label
from .facts import MADE

WORDNET = Repository(
    "globalwordnet/english-wordnet", "d94538ad0df3d7a4c77837bde6af69d7a6592c32", "CC-BY-4.0", ("/src/yaml",)
)
CMUDICT = Repository(
    "cmusphinx/cmudict", "0f8072f814306c5ee4fbf992ed853601b12c01f9", "BSD-2-Clause", ("/cmudict.dict",)
)

# -- globalwordnet/english-wordnet ------------------------------------------------------------------------------------


@dataclass
class Sense:
    """A sense of a lemma: its key and synset, and the keys of the senses it is derived from or pertains to."""

    lemma: str
    pos: str
    id: str = ""
    synset: str = ""
    derivation: list[str] = field(default_factory=list)
    pertainym: list[str] = field(default_factory=list)


@dataclass
class Synset:
    """A set of synonyms with its lexicographer file."""

    file: str
    fields: dict[str, list[str]]

    def __getitem__(self, name: str) -> list[str]:
        return self.fields.get(name, [])


def unquoted(text: str) -> str:
    text = text.strip()
    if text[:1] == text[-1:] == "'":
        return text[1:-1].replace("''", "'")
    return text[1:-1].replace('\\"', '"') if text[:1] == text[-1:] == '"' else text


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """The entries of a file: its keys without indentation, and the lines below each.

    The files are plain block YAML, 45 MB of it; a YAML library takes minutes for what is read here in seconds.
    """
    key, lines = "", list[str]()
    for line in text.splitlines():
        if line[:1] not in ("", " ", "#") and line.endswith(":"):
            if key:
                yield key, lines
            key, lines = unquoted(line[:-1]), []
        else:
            lines.append(line)
    if key:
        yield key, lines


def read_synsets(source: Source) -> dict[str, Synset]:
    found = {}
    for file in source.files("src/yaml/*.*.yaml"):
        for key, lines in blocks(source.text(file)):
            fields: dict[str, list[str]] = {}
            own: list[str] = []
            for line in lines:
                if match := re.match(r"  (\w+):(?: (.*))?$", line):
                    own = fields[match[1]] = [match[2]] if match[2] else []
                elif line.startswith("  - "):
                    own.append(line[4:])
                elif own and line.startswith("    "):
                    own[-1] += f" {line.strip()}"
            kept = {name: [unquoted(value) for value in values] for name, values in fields.items()}
            found[key] = Synset(file.split("/")[-1].removesuffix(".yaml"), kept)
    return found


def read_senses(source: Source) -> list[Sense]:
    """The senses of all lemmas, in the order of the files: those of a lemma begin with the most usual one."""
    found: list[Sense] = []
    for file in source.files("src/yaml/entries-*.yaml"):
        for lemma, lines in blocks(source.text(file)):
            pos = section = name = ""
            for line in lines:
                if match := re.match(r"  (\w)[\w-]*:$", line):
                    pos = match[1]
                elif match := re.match(r"    (\w+):", line):
                    section = match[1]
                elif section == "sense":
                    if line.startswith("    - "):
                        found.append(Sense(lemma, pos))
                        line = f"      {line[6:]}"
                    if match := re.match(r"      (\w+):(?: (.*))?$", line):
                        name = match[1]
                        if name in ("id", "synset"):
                            setattr(found[-1], name, unquoted(match[2]))
                    elif line.startswith("      - ") and name in ("derivation", "pertainym"):
                        getattr(found[-1], name).append(unquoted(line[8:]))
    return found


ANIMALS = {"bird": "bird", "fish": "fish", "mammal": "mammal", "insect": "insect", "reptile": "reptile"}
DEFINED = {
    "animal": "noun.animal", "plant": "noun.plant", "food": "noun.food", "object": "noun.artifact",
    "body part": "noun.body", "person": "noun.person",
}  # fmt: skip
VERBS = {
    "motion": "verb.motion", "communication": "verb.communication", "thinking": "verb.cognition",
    "emotion": "verb.emotion", "eating or drinking": "verb.consumption", "possession": "verb.possession",
    "change": "verb.change", "perception": "verb.perception",
}  # fmt: skip
FIELDS = ("law", "military", "biology", "medicine", "chemistry", "music", "computer science")
PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
DERIVED = [
    ("adjective_to_noun", "as", "n", ("ness", "ity")),
    ("verb_to_action_noun", "v", "n", ("tion", "sion", "ment")),
    ("verb_to_doer", "v", "n", ("er", "or")),
]
"""Task, parts of speech of the input, part of speech of the answer, and how the answer may end."""


def is_plain(word: str) -> bool:
    return re.fullmatch(r"[a-z]{3,14}", word) is not None


def lemma_of(key: str) -> str:
    """The lemma of a sense key, as `abandonment%1:04:02::`."""
    return key.split("%")[0].replace("_", " ")


def pos_of(key: str) -> str:
    return " nvars"[int(key.split("%")[1][0])]


def wordnet(source: Source, pronunciations: Source) -> Iterator[Task]:
    """Tasks of WordNet; all but those on animals and on terms are on words that CMUdict has too, the less rare ones."""
    senses, synsets = read_senses(source), read_synsets(source)
    common = set(filter(is_plain, read_sounds(pronunciations)))
    first: dict[tuple[str, str], Sense] = {}
    poses: dict[str, set[str]] = defaultdict(set)
    files: dict[tuple[str, str], set[str]] = defaultdict(set)
    for sense in senses:
        first.setdefault((sense.lemma, sense.pos), sense)
        poses[sense.lemma].add(PARTS_OF_SPEECH[sense.pos])
        files[sense.lemma, sense.pos].add(synsets[sense.synset].file)

    def task(name: str, family: str, pairs: Sequence[Pair], labels: Sequence[str] = ()) -> Task:
        return source.task(f"wordnet_{name}", "", family, pairs, labels)

    manners = [
        (s.lemma, lemma_of(key))
        for s in senses if s.pos == "r" and s.lemma in common and s.lemma.endswith("ly")
        for key in s.pertainym
    ]  # fmt: skip
    yield task("adverb_to_adjective", "word", manners)
    yield task("adjective_to_adverb", "word", [(adjective, adverb) for adverb, adjective in manners])
    for name, given, wanted, endings in DERIVED:
        pairs = [
            (s.lemma, lemma_of(key))
            for s in senses if s.pos in given and s.lemma in common
            for key in s.derivation if pos_of(key) == wanted and lemma_of(key).endswith(endings)
        ]  # fmt: skip
        yield task(name, "word", pairs)

    pairs = [(word, next(iter(own))) for word, own in poses.items() if len(own) == 1 and word in common]
    yield task("part_of_speech", "word", pairs, ("noun", "verb", "adjective", "adverb"))
    file_of = {file: label for label, file in VERBS.items()}
    pairs = [
        (lemma, file_of[file])
        for (lemma, pos), own in files.items()
        if pos == "v" and lemma in common and len(own) == 1 and (file := next(iter(own))) in file_of
    ]
    yield task("verb_kind", "classification", pairs, tuple(VERBS))

    def roots(key: str, names: Sequence[str]) -> set[str]:
        """Which of the names are those of the synset or of one above it."""
        own = {name for name in names if name in synsets[key]["members"]}
        return own or {root for above in synsets[key]["hypernym"] for root in roots(above, names)}

    nouns = [sense for (lemma, pos), sense in first.items() if pos == "n" and is_plain(lemma)]
    animals = [s for s in nouns if synsets[s.synset].file == "noun.animal"]
    pairs = [(s.lemma, found.pop()) for s in animals if len(found := roots(s.synset, tuple(ANIMALS))) == 1]
    yield task("animal_class", "classification", pairs, tuple(ANIMALS))
    topics: dict[str, list[str]] = defaultdict(list)
    for s in first.values():
        for above in synsets[s.synset]["domain_topic"]:
            for name in set(FIELDS) & set(synsets[above]["members"]):
                topics[name] += [s.lemma] if is_plain(s.lemma) else []
    yield task("field_of_term", "classification", list(by_label({f: topics[f] for f in FIELDS})), FIELDS)

    usual = [(s.lemma, synsets[s.synset]) for s in nouns if s.lemma in common]
    pairs = [(word, synsets[own["hypernym"][0]]["members"][0]) for word, own in usual if len(own["hypernym"]) == 1]
    yield task("hypernym", "knowledge", [(word, kind) for word, kind in pairs if kind == kind.lower()])
    pairs = [
        (synsets[part]["members"][0], whole["members"][0])
        for whole in synsets.values() if whole.file.startswith("noun")
        for part in whole["mero_part"]
    ]  # fmt: skip
    yield task("part_to_whole", "knowledge", [(part, whole) for part, whole in pairs if {part, whole} <= common])

    kinds = {file: label for label, file in DEFINED.items()}
    pairs = [
        (s["definition"][0], kinds[s.file])
        for s in synsets.values()
        if s.file in kinds and defined(s) and s["members"][0] in common
    ]
    yield task("definition_kind", "classification", pairs, tuple(DEFINED))
    for pos, name in (("n", "noun"), ("v", "verb")):
        pairs = [
            (synsets[s.synset]["definition"][0], lemma)
            for (lemma, kind), s in first.items()
            if kind == pos and lemma in common and defined(synsets[s.synset])
            and synsets[s.synset]["members"][0] == lemma
        ]  # fmt: skip
        yield task(f"definition_to_{name}", "knowledge", pairs)


def defined(synset: Synset) -> bool:
    """Whether there is a definition of some words, without a word that it defines."""
    text = synset["definition"][0] if synset["definition"] else ""
    words = {word for member in synset["members"] for word in member.lower().split()}
    return len(text.split()) > 2 and len(text) <= 150 and not words & set(re.findall(r"[a-z]+", text.lower()))


# -- cmusphinx/cmudict ------------------------------------------------------------------------------------------------

COUNTED = re.compile(r"(?<!s)%1:(05|06|13|18|20):")
"""Keys of senses in the files of animals, things, food, people and plants, but for plurals."""
SYLLABLES = ("first", "second", "third")


def read_sounds(source: Source) -> dict[str, list[list[str]]]:
    """The pronunciations of each word."""
    found: dict[str, list[list[str]]] = defaultdict(list)
    for line in source.text("cmudict.dict").splitlines():
        word, *sounds = line.split("#")[0].split()
        found[re.sub(r"\(\d+\)$", "", word)].append(sounds)
    return found


def stress(sounds: Sequence[str]) -> str:
    """Which syllable carries the primary stress."""
    vowels = [sound[-1] for sound in sounds if sound[-1].isdigit()]
    place = vowels.index("1") if vowels.count("1") == 1 and len(vowels) > 1 else len(SYLLABLES)
    return SYLLABLES[place] if place < len(SYLLABLES) else ""


def ed_sound(word: str, sounds: Sequence[str]) -> str:
    if not word.endswith("ed") or len(word) < 5:
        return ""
    if sounds[-1] == "D" and sounds[-2] in ("AH0", "IH0"):
        return "id" if sounds[-3] in ("T", "D") else ""
    return {"T": "t", "D": "d"}.get(sounds[-1], "")


def agreed(values: Sequence[str]) -> str:
    """What all pronunciations agree on, or nothing."""
    return values[0] if len(set(values)) == 1 else ""


def cmudict(source: Source, dictionary: Source) -> Iterator[Task]:
    """Tasks of CMUdict, on words that WordNet has too (so no names), but for those in -ed."""
    sounds = {word: own for word, own in read_sounds(source).items() if is_plain(word)}
    known = {sense.lemma: sense.id for sense in reversed(read_senses(dictionary))}
    words = {word: own for word, own in sounds.items() if word in known}

    def task(name: str, pairs: Sequence[Pair], labels: Sequence[str] = ()) -> Task:
        return source.task(f"cmudict_{name}", "", "word", pairs, labels)

    articles = {w: agreed(["an" if p[0][-1].isdigit() else "a" for p in own]) for w, own in words.items()}
    yield task("a_or_an", [(w, f"{a} {w}") for w, a in articles.items() if a and COUNTED.search(known[w])])
    past = [(w, agreed([ed_sound(w, p) for p in own])) for w, own in sounds.items()]
    yield task("ed_sound", past, ("t", "d", "id"))
    yield task("stressed_syllable", [(w, agreed([stress(p) for p in own])) for w, own in words.items()], SYLLABLES)
    same: dict[tuple[str, ...], list[str]] = defaultdict(list)
    first_sound: dict[str, list[str]] = defaultdict(list)
    for word, own in words.items():
        if len(own) == 1:
            same[tuple(own[0])].append(word)
            first_sound[own[0][0]].append(word)
    twins = [(a, b) for group in same.values() if len(group) == 2 for a in group for b in group if a != b]
    yield task("homophone", twins)
    yield task("alliteration", list(alliterations(first_sound, random.Random("alliteration"))), ("yes", "no"))


def alliterations(groups: Mapping[str, Sequence[str]], rng: random.Random) -> Iterator[Pair]:
    """Two words of a first sound, or of two."""
    usable = [sound for sound, words in groups.items() if len(words) > 1]
    for i in range(MADE):
        sound, other = rng.sample(usable, 2)
        pair = rng.sample(groups[sound], 2) if i % 2 else [rng.choice(groups[sound]), rng.choice(groups[other])]
        yield ", ".join(pair), "yes" if i % 2 else "no"
