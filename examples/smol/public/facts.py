"""Lists and facts: dariusk/corpora, evandez/relations, annexare/Countries and muan/emojilib."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .core import Pair, Repository, Source, Task, by_label, readable

CORPORA = Repository("dariusk/corpora", "cf30ca27ab176b63623af1ddcfa2447ac07305ba", "CC0-1.0", ("/data",))
RELATIONS = Repository("evandez/relations", "1b9ec3cf2b8368e42bde7e80fcef384312a6ec07", "MIT", ("/data",))
COUNTRIES = Repository("annexare/Countries", "99f49467c2f6571d0f0cc94268f4da81b65dc178", "MIT", ("/dist",))
EMOJI = Repository("muan/emojilib", "4e1c15de584dd07af4a7f580c8c57d1da616c89e", "MIT", ("/dist",))

# -- dariusk/corpora --------------------------------------------------------------------------------------------------

FIELDS = [
    ("airport_code", "knowledge", "geography/us_airport_codes", "states", "city", "IATA"),
    ("book_author", "knowledge", "books/bestsellers", "books", "title", "author"),
    ("canadian_province", "knowledge", "geography/canadian_municipalities", "municipalities", "name", "province"),
    ("capital_to_us_state", "knowledge", "geography/us_state_capitals", "capitals", "capital", "state"),
    ("us_state_capital", "knowledge", "geography/us_state_capitals", "capitals", "state", "capital"),
    ("us_city_state", "knowledge", "geography/us_cities", "cities", "city", "state"),
    ("element_symbol", "knowledge", "science/elements", "elements", "name", "symbol"),
    ("element_to_atomic_number", "knowledge", "science/elements", "elements", "name", "atomic_number"),
    ("symbol_to_element", "knowledge", "science/elements", "elements", "symbol", "name"),
    (
        "guitar_maker_country", "knowledge", "music/a_list_of_guitar_manufacturers", "guitar manufacturing companies",
        "name", "country founded in",
    ),
    ("prefix_meaning", "word", "words/prefix_root_suffix", "prefixes", "part", "definition"),
    ("root_meaning", "word", "words/prefix_root_suffix", "roots", "part", "definition"),
    ("river_mouth", "knowledge", "geography/rivers", "rivers", "name", "outflow"),
    ("sandwich_origin", "knowledge", "foods/sandwiches", "sandwiches", "name", "origin"),
]  # fmt: skip
"""Task, family, file, key of its list, and the fields of the input and of the answer."""
LISTS = {
    "animal": ("animals/common", "animals"),
    "appliance": ("technology/appliances", "appliances"),
    "body part": ("humans/bodyParts", "bodyParts"),
    "clothing": ("objects/clothing", "clothes"),
    "fabric": ("materials/fabrics", "fabrics"),
    "flower": ("plants/flowers", "flowers"),
    "fruit": ("foods/fruits", "fruits"),
    "instrument": ("music/instruments", "instruments"),
    "metal": ("materials/metals", "metals"),
    "room": ("architecture/rooms", "rooms"),
    "vegetable": ("foods/vegetables", "vegetables"),
    "cat": ("animals/cats", "cats"),
    "dog": ("animals/dogs", "dogs"),
    "horse": ("animals/horses", "horses"),
    "rabbit": ("animals/rabbits", "rabbits"),
    "donkey": ("animals/donkeys", "donkeys"),
}
"""Lists of words: file and key."""
MEMBERS = [
    ("breed_animal", "classification", ("cat", "dog", "horse", "rabbit", "donkey")),
    ("fruit_vegetable_flower", "classification", ("fruit", "vegetable", "flower")),
    ("metal_or_fabric", "classification", ("metal", "fabric")),
]
"""Task, family, lists: on which list is the word?"""
NOT_CLOTHING = ("instrument", "room", "body part", "fruit", "animal", "appliance")
CATEGORIES = ("room", "clothing", "vegetable", "body part", "appliance", "animal", "fruit", "instrument", "flower")
TEAMS = {
    "basketball": [("sports/nba_teams", "nba_teams")],
    "American football": [("sports/nfl_teams", "nfl_teams")],
    "baseball": [("sports/mlb_teams", "mlb_teams")],
    "ice hockey": [("sports/nhl_teams", "nhl_teams")],
    "soccer": [
        ("sports/football/epl_teams", "epl_teams"),
        ("sports/football/laliga_teams", "laLiga_teams"),
        ("sports/football/serieA", "serieA_teams"),
    ],
}
MYTHOLOGIES = {
    "Greek": (("greek_gods", "greek_gods"), ("greek_titans", "greek_titans")),
    "Roman": (("roman_deities", "roman_deities"),),
    "Norse": (("norse_gods", "norse_deities"),),
    "Egyptian": (("egyptian_gods", "egyptian_gods"),),
}
VENUES = (
    "arts & entertainment", "college & university", "food", "nightlife spot", "outdoors & recreation",
    "professional & other places", "shop & service", "travel & transport",
)  # fmt: skip
PROVERBS = (
    "Animal related", "Business", "Conversation", "Fools", "Friendship", "Growth", "Health & Food", "Life", "Love",
    "Money", "Relationships", "Rural", "Wisdom", "Work",
)  # fmt: skip
BIRDS = 12
"""Families that are asked for: the largest."""
MADE = 400
"""Lists that are made at random, before any is left out."""


def read_list(source: Source, name: str) -> list[str]:
    file, key = LISTS[name]
    return list(source.json(f"data/{file}.json")[key])


def names_in(node: Any) -> Iterator[str]:
    """The names of nested lists and groups of gods."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in ("gods", "goddesses"):
                yield from names_in(value)
            else:
                yield key
    else:
        yield from node


def country(origin: str) -> str:
    """The country of a place: without what is in brackets, the last part."""
    return re.sub(r" \(.*?\)", "", origin).split(", ")[-1]


def venues_in(node: Mapping[str, Any]) -> Iterator[str]:
    for child in node.get("categories", []):
        yield child["name"]
        yield from venues_in(child)


def exclusive(lists: Mapping[str, Sequence[str]], names: Sequence[str]) -> dict[str, list[str]]:
    """The lists of some names without what is on several of all."""
    return {
        name: [w for w in lists[name] if not any(w in own for other, own in lists.items() if other != name)]
        for name in names
    }


def random_lists(source: Source, names: Sequence[str], fewest: int, most: int, rng: random.Random) -> list[list[str]]:
    words = [(w, name) for name in names for w in read_list(source, name) if readable(w)]
    return [[w for w, _ in rng.sample(words, rng.randint(fewest, most))] for _ in range(MADE)]


def odd_ones(lists: Mapping[str, list[str]], rng: random.Random) -> Iterator[Pair]:
    for _ in range(MADE):
        name, other = rng.sample(list(lists), 2)
        odd = rng.choice(lists[other])
        items = [*rng.sample(lists[name], 3), odd]
        rng.shuffle(items)
        yield ", ".join(items), odd


def counted_clothing(source: Source, rng: random.Random) -> Iterator[Pair]:
    """Lists of up to eight words, of which up to five are things to wear."""
    clothes = read_list(source, "clothing")
    others = [w for name in ("room", "room", "room", "flower", "instrument") for w in read_list(source, name)]
    for _ in range(MADE):
        count = rng.randint(0, 5)
        items = rng.sample(clothes, count) + rng.sample(others, rng.randint(0 if count else 1, 3))
        rng.shuffle(items)
        yield ", ".join(items), str(count)


def corpora(source: Source) -> Iterator[Task]:
    def task(name: str, family: str, pairs: Any, labels: Sequence[str] = ()) -> Task:
        return source.task(f"corpora_{name}", "", family, pairs, labels)

    for name, family, file, key, asked, answer in FIELDS:
        rows = source.json(f"data/{file}.json")[key]
        if name == "airport_code":  # nested by state and city
            rows = [{"city": c, **codes} for s in rows for own in s.values() for a in own for c, codes in a.items()]
        rows = [row for row in rows if isinstance(row, dict) and row.get(asked) and row.get(answer)]
        said = country if name == "sandwich_origin" else str
        yield task(name, family, [(row[asked], said(row[answer])) for row in rows])

    animals = source.json("data/animals/collateral_adjectives.json")["animals"]
    both = [(row["name"], adjective) for row in animals for adjective in row["collateral_adjectives"]]
    yield task("animal_adjective", "word", both)
    yield task("adjective_to_animal", "word", [(adjective, animal) for animal, adjective in both])
    colours = source.json("data/colors/web_colors.json")["colors"]
    yield task("color_hex", "knowledge", [(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", c["color"]), c["hex"]) for c in colours])
    eggcorns = source.json("data/words/eggcorns.json")["eggcorns"]
    yield task("eggcorn", "rewriting", [(mistake, row["correct"]) for row in eggcorns for mistake in row["mistakes"]])
    games = source.json("data/sports/olympics.json")["olympics"]
    yield task(
        "olympics_city", "knowledge",
        [(f"{row['year']} {season.capitalize()}", row["city"]) for season, own in games.items() for row in own],
    )  # fmt: skip
    companies = [r for f in ("nasdaq", "djia") for r in source.json(f"data/corporations/{f}.json")["corporations"]]
    yield task("ticker_to_company", "knowledge", [(row["symbol"], row["name"]) for row in companies])
    stations = source.json("data/geography/london_underground_stations.json")["stations"]
    yield task("tube_line", "knowledge", [(s["name"], s["lines"][0]) for s in stations if len(s["lines"]) == 1])

    birds = source.json("data/animals/birds_north_america.json")["birds"]
    largest = sorted(birds, key=lambda row: -len(row["members"]))[:BIRDS]
    families = {row["family"]: row["members"] for row in largest}
    yield task("bird_family", "knowledge", by_label(families), list(families))
    elements = source.json("data/science/elements.json")["elements"]
    phases = [(e["name"], e["phase"]) for e in elements if e["phase"] in ("gas", "solid")]
    yield task("element_phase", "classification", phases, ("gas", "solid"))
    types = [(e["name"], e["type"]) for e in elements if e["type"]]
    yield task("element_type", "classification", types, sorted({kind for _, kind in types} - {"Halogen"}))
    topics = {t: own for row in source.json("data/words/proverbs.json")["proverbs"] for t, own in row.items()}
    yield task("proverb_topic", "classification", by_label({t: topics[t] for t in PROVERBS}), PROVERBS)
    venues = {v["name"]: list(venues_in(v)) for v in source.json("data/geography/venues.json")["categories"]}
    yield task("venue_category", "classification", by_label({v: venues[v] for v in VENUES}), VENUES)
    gods = {
        label: [name for file, key in files for name in names_in(source.json(f"data/mythology/{file}.json")[key])]
        for label, files in MYTHOLOGIES.items()
    }
    yield task("mythology_of_god", "knowledge", by_label(gods), list(gods))
    conferences = [
        (row["name"], row["conference"])
        for sport in ("basketball", "ice hockey")
        for file, key in TEAMS[sport]
        for row in source.json(f"data/{file}.json")[key]
    ]
    yield task("team_conference", "knowledge", conferences, ("Eastern", "Western"))
    teams = {
        sport: [row["name"] for file, key in files for row in source.json(f"data/{file}.json")[key]]
        for sport, files in TEAMS.items()
    }
    yield task("team_sport", "knowledge", by_label(teams), list(teams))

    for name, family, own in MEMBERS:
        yield task(name, family, by_label({label: read_list(source, label) for label in own}), own)
    wearing = {"yes": read_list(source, "clothing")}
    wearing["no"] = [w for name in NOT_CLOTHING for w in read_list(source, name) if w not in wearing["yes"]]
    yield task("is_clothing", "classification", by_label(wearing), ("yes", "no"))
    lists = {name: read_list(source, name) for name in CATEGORIES}
    kept = {n: [w for w in own if readable(w)] for n, own in exclusive(lists, CATEGORIES).items()}
    yield task("odd_one_out", "word", odd_ones(kept, random.Random("odd one out")))
    clothing = counted_clothing(source, random.Random("count clothing"))
    yield task("count_clothing", "word", clothing, [str(n) for n in range(6)])

    verbs = source.json("data/words/verbs_with_conjugations.json")
    forms = [
        (v["infinitive"][0], v["indicative"]["present"][2], v["gerund"][0], v["indicative"]["perfect"][0])
        for v in verbs
    ]
    yield task("verb_third_person", "word", [(base, third) for base, third, *_ in forms])
    yield task("verb_ing_form", "word", [(base, gerund) for base, _, gerund, _ in forms])
    inflected = [(form, base) for base, *others in forms for form in others if form != base]
    yield task("verb_base_form", "word", inflected)


# -- evandez/relations ------------------------------------------------------------------------------------------------

RELATION_TASKS = [
    ("linguistic/adj_comparative", "word"),
    ("factual/company_hq", "knowledge"),
    ("factual/food_from_country", "knowledge"),
    ("commonsense/fruit_inside_color", "classification"),
    ("commonsense/fruit_outside_color", "knowledge"),
    ("factual/landmark_on_continent", "knowledge"),
    ("commonsense/object_superclass", "knowledge"),
    ("factual/person_plays_position_in_sport", "knowledge"),
    ("factual/person_university", "knowledge"),
    ("factual/pokemon_evolutions", "knowledge"),
    ("factual/star_constellation", "knowledge"),
    ("commonsense/substance_phase", "classification"),
    ("factual/superhero_archnemesis", "knowledge"),
    ("factual/superhero_person", "knowledge"),
    ("commonsense/task_done_by_person", "knowledge"),
    ("commonsense/task_done_by_tool", "knowledge"),
    ("commonsense/work_location", "knowledge"),
]
"""File, family."""
LABELLED = ("fruit_inside_color", "landmark_on_continent", "substance_phase")
"""Relations whose answers are a closed set."""


def relations(source: Source) -> Iterator[Task]:
    for part, family in RELATION_TASKS:
        name = part.split("/")[1]
        pairs = [(row["subject"], row["object"]) for row in source.json(f"data/{part}.json")["samples"]]
        answers = Counter(answer for _, answer in pairs)
        labels = sorted(a for a in answers if answers[a] > 1) if name in LABELLED else ()
        yield source.task(f"rel_{name}", part, family, pairs, labels)


# -- annexare/Countries -----------------------------------------------------------------------------------------------


def flag(code: str) -> str:
    """The two letters of a code as regional indicators."""
    return "".join(chr(ord(letter) - ord("A") + 0x1F1E6) for letter in code)


def countries(source: Source) -> Iterator[Task]:
    rows: dict[str, dict[str, Any]] = source.json("dist/countries.min.json")
    continents: dict[str, str] = source.json("dist/continents.min.json")
    languages: dict[str, dict[str, str]] = source.json("dist/languages.all.min.json")
    named = {code: row["name"] for code, row in languages.items()}
    iso3: dict[str, str] = source.json("dist/minimal/countries.2to3.min.json")
    labels = sorted(continents.values())
    asked: list[tuple[str, str, Callable[[str, dict[str, Any]], Pair | None], Sequence[str]]] = [
        ("calling_code", "knowledge", lambda c, r: (r["name"], f"+{r['phone'][0]}"), ()),
        ("continent", "knowledge", lambda c, r: (r["name"], continents[r["continent"]]), labels),
        ("currency_code", "knowledge", lambda c, r: (r["name"], one(r["currency"])), ()),
        ("iso2", "knowledge", lambda c, r: (r["name"], c), ()),
        ("iso3", "knowledge", lambda c, r: (r["name"], iso3[c]), ()),
        ("language", "knowledge", lambda c, r: (r["name"], named[x]) if (x := one(r["languages"])) else None, ()),
        ("native_to_english", "translation", lambda c, r: (r["native"], r["name"]) if differ(r) else None, ()),
        ("of_capital", "knowledge", lambda c, r: (r["capital"], r["name"]), ()),
        ("of_flag", "knowledge", lambda c, r: (flag(c), r["name"]), ()),
    ]  # fmt: skip
    for name, family, made, own in asked:
        pairs = [pair for code, row in rows.items() if (pair := made(code, row))]
        yield source.task(f"countries_{name}", "", family, pairs, own)
    pairs = [(code, row["name"]) for code, row in languages.items()]
    yield source.task("countries_language_code", "", "knowledge", pairs)
    pairs = [(row["native"], row["name"]) for row in languages.values() if differ(row)]
    yield source.task("countries_language_native_name", "", "translation", pairs)
    rng, names = random.Random("same continent"), list(rows.values())
    pairs = []
    for i in range(2 * MADE):
        one_, other = rng.sample(names, 2)
        same = one_["continent"] == other["continent"]
        if same == (i % 2 == 0):
            pairs.append((f"{one_['name']}, {other['name']}", "yes" if same else "no"))
    yield source.task("countries_same_continent", "", "knowledge", pairs, ("yes", "no"))


def one(values: Sequence[str]) -> str:
    """The only value, or nothing."""
    return values[0] if len(values) == 1 else ""


def differ(row: Mapping[str, str]) -> bool:
    return row["native"].casefold() != row["name"].casefold()


# -- muan/emojilib ----------------------------------------------------------------------------------------------------

KINDS = ("animal", "food", "face", "vehicle", "weather", "body", "plant", "sports", "clothing", "tool")


def emoji(source: Source) -> Iterator[Task]:
    """The emoji that have exactly one of the keywords, and none that isn't fit."""
    found: dict[str, list[str]] = source.json("dist/emoji-en-US.json")
    rows = {e: words for e, words in found.items() if readable(" ".join(words))}
    pairs = [
        (e.replace("\ufe0f", ""), own[0])
        for e, words in rows.items()
        if len(own := [kind for kind in KINDS if kind in words]) == 1
    ]
    yield source.task("emoji_kind", "", "classification", pairs, KINDS)
