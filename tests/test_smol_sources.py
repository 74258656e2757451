"""The readers of smol's public sources, on made-up stand-ins of each source's own files."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

SMOL = Path(__file__).parents[1] / "examples/smol"
SOURCES = SMOL / "sources.py"
sys.path.append(str(SMOL))

from public import bigbench, core, facts, rules, sets, utterances, words  # noqa: E402

COLOURS = "red green blue yellow black white brown pink gold grey".split()


def put(root: Path, file: str, content: object) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def source(repository: core.Repository, root: Path) -> core.Source:
    return core.Source(repository, root / repository.folder)


def build(folder: Path, output: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SOURCES), "--sources", str(folder), "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True)


def built(folder: Path, output: Path, name: str = "real_tasks") -> dict[str, dict]:
    done = build(folder, output)
    assert done.returncode == 0, done.stderr
    with gzip.open(output / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return {row["name"]: row for row in map(json.loads, file)}


def write_emoji(root: Path, count: int = 30) -> None:
    rows = {chr(0x1F400 + i): [f"beast_{i}", "animal" if i % 2 else "food"] for i in range(count)}
    put(
        root,
        "emojilib/dist/emoji-en-US.json",
        {**rows, "\U0001f9f8": ["toy"], "\U0001f9e4\ufe0f": ["clothing", "tool"]},
    )


def write_clinc(root: Path) -> None:
    domains = {
        d: [f"{d}_first", f"{d}_second"]
        for d in "banking travel utility auto_and_commute credit_cards kitchen_and_dining small_talk home work".split()
    }
    domains["meta"] = ["yes", "no", "maybe"]
    rows = [
        [f"could the {colour} {intent.replace('_', ' ')} thing wait for {other}", intent]
        for intents in domains.values()
        for intent in intents
        for colour in COLOURS
        for other in COLOURS[:3]
    ]
    put(root, "oos-eval/data/domains.json", domains)
    put(root, "oos-eval/data/data_full.json", {"train": rows, "val": [], "test": [], "oos_test": [["odd one", "oos"]]})
    years = "".join(f"the {colour} barn was built in {year}\n" for colour in COLOURS for year in range(1520, 2020, 30))
    put(root, "oos-eval/data/all_wiki_sents.txt", years)


def test_keywords_of_emoji(tmp_path: Path) -> None:
    write_emoji(tmp_path)
    row = built(tmp_path, tmp_path / "out")["emoji_kind"]
    assert (row["source"], row["licence"], row["family"]) == ("muan/emojilib", "MIT", "classification")
    assert row["labels"][:2] == ["animal", "food"]
    assert sorted(row["examples"]) == [[chr(0x1F400 + i), "animal" if i % 2 else "food"] for i in range(30)]


def test_the_files_are_the_same_each_time(tmp_path: Path) -> None:
    write_emoji(tmp_path)
    built(tmp_path, tmp_path / "a"), built(tmp_path, tmp_path / "b")
    assert (tmp_path / "a/real_tasks.jsonl.gz").read_bytes() == (tmp_path / "b/real_tasks.jsonl.gz").read_bytes()


def test_a_missing_file_is_named_with_the_commit(tmp_path: Path) -> None:
    (tmp_path / "emojilib").mkdir()
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "muan/emojilib: dist/emoji-en-US.json is missing" in done.stderr
    assert "4e1c15de584d" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["[1, 2]", '{"a": 1}', "not JSON"])
def test_a_file_that_looks_different_is_named(content: str, tmp_path: Path) -> None:
    put(tmp_path, "emojilib/dist/emoji-en-US.json", content)
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "muan/emojilib: dist/emoji-en-US.json looks different from what it is at commit 4e1c15de584d" in done.stderr


def test_no_clones(tmp_path: Path) -> None:
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode == 1
    assert "has none of the clones: corpora, " in done.stderr
    assert "--clone" in done.stderr


def test_intents_and_domains(tmp_path: Path) -> None:
    write_clinc(tmp_path)
    rows = built(tmp_path, tmp_path / "out")
    assert rows["clinc_yes_no_maybe"]["labels"] == ["yes", "no", "maybe"]
    assert set(rows["clinc_travel_intent"]["labels"]) == {"travel first", "travel second"}
    assert all(("travel" in text) == (answer == "yes") for text, answer in rows["clinc_is_about_travel"]["examples"])
    answers = [answer for _, answer in rows["clinc_domain"]["examples"]]
    assert "auto and commute" in answers
    assert "odd one" not in str(rows)


def test_slots_of_requests(tmp_path: Path) -> None:
    folder = "nlu-benchmark/2017-06-custom-intent-engines"
    slots = (
        "artist location_name city country cuisine spatial_relation facility geographic_poi entity_name music_item "
        "service year party_size_description party_size_number object_name rating_value restaurant_name "
        "restaurant_type served_dish state condition_temperature timeRange object_type best_rating"
    ).split()
    for intent in utterances.SNIPS_INTENTS:
        rows = [
            [{"text": f"{intent} with  {c} "}, {"text": f"{slot} {c}", "entity": slot}, {"text": " and "}]
            for c in COLOURS[:2]
            for slot in slots
        ]
        rows.append([{"text": "x"}, {"text": "1", "entity": "artist"}, {"text": "2", "entity": "artist"}])
        both = [("4", "rating_value"), (" of ", ""), ("6", "best_rating")]
        rows.append([{"text": text, "entity": slot} if slot else {"text": text} for text, slot in both])
        for kind in ("train_{}_full", "train_{}", "validate_{}"):
            file = f"{folder}/{intent}/{kind.format(intent)}.json"
            put(tmp_path, file, {intent: [{"data": row} for row in rows]})
    tasks = {task.name: dict(task.pairs) for task in utterances.snips(source(utterances.SNIPS, tmp_path))}
    assert len(tasks) == 32
    assert tasks["snips_artist"]["AddToPlaylist with red artist red and"] == "artist red"
    assert "x12" not in tasks["snips_artist"]  # which has two
    assert tasks["snips_rating_as_fraction"] == {"4 of 6": "4/6"}
    named = tasks["snips_music_names_service"].items()
    assert all(("service" in text) == (answer == "yes") for text, answer in named)
    assert set(tasks["snips_intent"].values()) >= {"add to playlist", "search screening event"}


def write_polyai(root: Path) -> None:
    folder = "task-specific-datasets"
    lines = "".join(f'"The {c} card, it is  late",card_arrival\n"My {c} pin",change_pin\n' for c in COLOURS)
    put(root, f"{folder}/banking_data/train.csv", f"text,category\n{lines}")
    put(root, f"{folder}/banking_data/test.csv", "text,category\nsomething else,exchange_rate\n")
    said = {"text": "Rita Moss comes at half past 6", "intents": ["affirm"]}
    slots = {"person_name": {"text": "Rita Moss"}, "time": {"text": "half past 6", "value": {"hour": 18, "minute": 30}}}
    put(root, f"{folder}/nlupp/data/banking/fold0.json", [{**said, "slots": slots}])
    both = {"text": "a gym and a spa", "intents": ["gym", "spa"]}
    put(root, f"{folder}/nlupp/data/hotels/fold0.json", [both, {"text": "the wifi", "intents": ["wifi", "how"]}])
    table = {
        "userInput": {"text": "Rita Moss at 7"},
        "labels": [
            {"slot": "first_name", "valueSpan": {"endIndex": 4}},
            {"slot": "last_name", "valueSpan": {"startIndex": 5, "endIndex": 9}},
        ],
    }
    put(root, f"{folder}/span_extraction/restaurant8k/test.json", [table])


def test_banking_hotels_and_tables(tmp_path: Path) -> None:
    write_polyai(tmp_path)
    tasks = {task.name: task for task in utterances.polyai(source(utterances.POLYAI, tmp_path))}
    assert len(tasks) == 22
    assert ("The red card, it is late", "not arrived") in tasks["banking_card_problem"].pairs
    assert ("something else", "exchange") in tasks["banking_topic"].pairs
    assert tasks["nlupp_time_24h"].pairs == [("Rita Moss comes at half past 6", "18:30")]
    assert tasks["nlupp_person_name"].pairs == [("Rita Moss comes at half past 6", "Rita Moss")]
    assert tasks["nlupp_hotel_facility"].pairs == [("the wifi", "wifi")]  # not what has two of the intents
    assert tasks["restaurant8k_last_name"].pairs == [("Rita Moss at 7", "Moss")]


def test_facts_of_countries_and_relations(tmp_path: Path) -> None:
    names = {"AA": ("Aland", "Aaland", "EU", ["aa"]), "BB": ("Bee", "Bee", "AF", ["aa", "bb"])}
    rows = {
        code: {
            "name": name, "native": native, "phone": [12], "continent": continent, "capital": f"{name} City",
            "currency": ["AAA"], "languages": languages,
        }
        for code, (name, native, continent, languages) in names.items()
    }  # fmt: skip
    put(tmp_path, "Countries/dist/countries.min.json", rows)
    put(tmp_path, "Countries/dist/continents.min.json", {"EU": "Europe", "AF": "Africa"})
    languages = {"aa": {"name": "Aan", "native": "Aania"}, "bb": {"name": "Bean", "native": "bean"}}
    put(tmp_path, "Countries/dist/languages.all.min.json", languages)
    put(tmp_path, "Countries/dist/minimal/countries.2to3.min.json", {"AA": "AAL", "BB": "BEE"})
    tasks = {task.name: task.pairs for task in facts.countries(source(facts.COUNTRIES, tmp_path))}
    assert tasks["countries_calling_code"] == [("Aland", "+12"), ("Bee", "+12")]
    assert tasks["countries_language"] == [("Aland", "Aan")]  # not of two languages
    assert tasks["countries_native_to_english"] == [("Aaland", "Aland")]
    assert tasks["countries_of_flag"][0] == ("\U0001f1e6\U0001f1e6", "Aland")
    assert set(tasks["countries_same_continent"]) <= {("Aland, Bee", "no"), ("Bee, Aland", "no")}

    for part, _ in facts.RELATION_TASKS:
        samples = [{"subject": f"{part} {i}", "object": "solid" if i else "plasma"} for i in range(3)]
        put(tmp_path, f"relations/data/{part}.json", {"samples": samples})
    found = {task.name: task for task in facts.relations(source(facts.RELATIONS, tmp_path))}
    assert found["rel_substance_phase"].labels == ["solid"]  # not what there is once
    assert found["rel_company_hq"].pairs[1] == ("factual/company_hq 1", "solid")


def test_places_and_made_lists() -> None:
    assert facts.country("United States (Springfield, Ohio)") == "United States"
    assert facts.country("Lower Town, Ruritania") == "Ruritania"
    lists = {name: [f"{name} {i}" for i in range(5)] for name in ("hat", "pear")}
    for items, odd in facts.odd_ones(lists, core.random.Random(0)):
        kinds = [item.split()[0] for item in items.split(", ")]
        assert kinds.count(odd.split()[0]) == 1


@pytest.mark.parametrize(
    ("name", "given", "answer"),
    [
        ("acronym", "bring me tea", "BMT"),
        ("alphabetically_first_word", "Please bring tea.", "bring"),
        ("camel_case", "bring Me tea", "bringMeTea"),
        ("century_of_year", "built in 1700", "17th"),
        ("century_of_year", "built in 2001", "21st"),
        ("clock_time", "come at 5 p.m. or so", "5 p.m."),
        ("common_word_of_two", "1: The red fox ran.\n2: A fox is here.", "fox"),
        ("contract", "i do not think so", "i don't think so"),
        ("contract", "can i have tea", None),
        ("date_words_to_iso", "May 4, 1999", "1999-05-04"),
        ("double_the_number", "tea for 12, please", "24"),
        ("double_the_number", "tea at 12:30", None),
        ("first_to_second_person", "bring me my tea", "bring you your tea"),
        ("longer_sentence", "1: One two.\n2: One two three.", "second"),
        ("longest_word", "Bring some tea", "Bring"),
        ("longest_word", "Bring cakes", None),
        ("middle_word", "Bring me tea!", "me"),
        ("month_named", "we come in June", "June"),
        ("month_named", "we may come", None),
        ("next_letter_shift", "zebra", "afcsb"),
        ("number_words_to_digits", "tea for two people", "tea for 2 people"),
        ("proper_name", "We saw Rita Moss there.", "Rita Moss"),
        ("proper_name", "Well, I'd like my PIN.", None),
        ("remove_numbers", "Rate it 4 out of 6.", "Rate it out of."),
        ("repeated_word", "The cat and the dog", "the"),
        ("roman_numeral", "149", "CXLIX"),
        ("round_to_ten", "147", "150"),
        ("round_to_ten", "145", None),
        ("same_sentence_order", "1: Cats eat.\n2: eat. Cats", "yes"),
        ("subject_before_is", "My cat is grey.", "My cat"),
        ("text_after_comma", "Well, bring tea!", "bring tea"),
        ("vowels_to_stars", "teapot", "t**p*t"),
        ("word_after_the", "Bring the tea.", "tea"),
        ("word_after_the", "The cat drinks the tea.", None),
    ],
)
def test_rules(name: str, given: str, answer: str | None) -> None:
    assert {rule.name: rule for rule in rules.RULES}[name].change(given) == answer


def test_every_task_by_rule_has_wordings() -> None:
    described = {json.loads(line)["name"] for file in (SMOL / "wordings").glob("*.jsonl") for line in file.open()}
    names = [f"code_{rule.name}" for rule in [*rules.RULES, rules.QUESTIONS]]
    assert len(set(names)) == len(names) == 102
    assert set(names) <= described


def write_words(root: Path) -> None:
    entries = {
        "a": """abruptly:
  r:
    pronunciation:
    - value: x
    sense:
    - id: 'abruptly%4:02:00::'
      pertainym:
      - 'abrupt%3:01:00::'
      synset: 00000001-r
bake:
  v:
    sense:
    - derivation:
      - 'baker%1:18:00::'
      - 'bakery%1:06:00::'
      id: 'bake%2:30:00::'
      subcat:
      - vtai
      synset: 00000002-v
""",
        "b": """baker:
  n:
    sense:
    - id: 'baker%1:18:00::'
      synset: 00000003-n
feather:
  n:
    sense:
    - id: 'feather%1:18:00::'
      synset: 00000003-n
finch:
  n:
    sense:
    - id: 'finch%1:05:00::'
      synset: 00000004-n
    - id: 'finch%1:18:00::'
      synset: 00000003-n
""",
    }
    for letter, text in entries.items():
        put(root, f"english-wordnet/src/yaml/entries-{letter}.yaml", text)
    noun = "{}:\n  definition:\n  - {}\n{}  members:\n  - {}\n  partOfSpeech: n\n"
    bird = "  hypernym:\n  - 00000005-n\n"
    files = {
        "adv.all": "00000001-r:\n  definition:\n  - in a hurry\n  members:\n  - abruptly\n",
        "verb.change": "00000002-v:\n  definition:\n  - heat in an oven\n  members:\n  - bake\n",
        "noun.person": noun.format("00000003-n", "'someone who heats dough, and\n    sells it'", "", "baker"),
        "noun.animal": noun.format("00000004-n", "small and it sings", bird, "finch")
        + noun.format("00000005-n", "it has wings", "", "bird"),
    }
    for name, text in files.items():
        put(root, f"english-wordnet/src/yaml/{name}.yaml", text)
    lines = [
        "abruptly AH0 B R AH1 P T L IY0", "bake B EY1 K # a comment", "baker B EY1 K ER0", "finch F IH1 N CH",
        "feather F EH1 DH ER0",
        "bird B ER1 D", "baked B EY1 K T", "wanted W AO1 N T AH0 D", "wanted(2) W AA1 N T IH0 D", "smith S M IH1 TH",
    ]  # fmt: skip
    put(root, "cmudict/cmudict.dict", "\n".join(lines) + "\n")


def test_words_of_dictionaries(tmp_path: Path) -> None:
    write_words(tmp_path)
    dictionary, sounds = source(words.WORDNET, tmp_path), source(words.CMUDICT, tmp_path)
    tasks = {task.name: task.pairs for task in words.wordnet(dictionary, sounds)}
    assert len(tasks) == 14
    assert tasks["wordnet_adverb_to_adjective"] == [("abruptly", "abrupt")]
    assert tasks["wordnet_verb_to_doer"] == [("bake", "baker")]
    assert tasks["wordnet_verb_kind"] == [("bake", "change")]
    assert tasks["wordnet_animal_class"] == [("finch", "bird")]
    assert tasks["wordnet_hypernym"] == [("finch", "bird")]
    assert ("someone who heats dough, and sells it", "baker") in tasks["wordnet_definition_to_noun"]
    assert ("small and it sings", "animal") in tasks["wordnet_definition_kind"]
    tasks = {task.name: dict(task.pairs) for task in words.cmudict(sounds, dictionary)}
    assert tasks["cmudict_a_or_an"] == {"baker": "a baker", "feather": "a feather", "finch": "a finch"}
    assert tasks["cmudict_stressed_syllable"]["abruptly"] == "second"
    assert (tasks["cmudict_ed_sound"]["baked"], tasks["cmudict_ed_sound"]["wanted"]) == ("t", "id")


def test_prompts_without_their_instruction(tmp_path: Path) -> None:
    prompts = {
        "paws_labeled_final_Meaning": ("Sentence 1: A .\nSentence 2: B .\nQuestion: Same? Yes or No?\n", "No"),
        "qasc_is_correct_1": (
            'If I tell you that Cats eat, and ask you the question "what eats?", is the correct answer "cats"?\n',
            "Yes",
        ),
        "qasc_qa_with_separated_facts_3": (
            "Fact 1: Cats eat.\n\nFact 2: Eating is fun.\n\nGiven the two facts above, who has fun?\n", "cats",
        ),
        "quarel_heres_a_story": (
            "Here's a short story: Ann ran, Bo walked. Who was slow? (A) Ann (B) Bo.\n\n"
            'What is the most sensical answer between "bo" and  "ann"?\n', "bo",
        ),
        "quartz_use_info_from_paragraph_question": (
            "Use information from the paragraph to answer the question.\n\nParagraph :\n\nIce is cold.\n\n"
            "Question:\n\n\nIs ice cold or hot?\n", "cold",
        ),
    }  # fmt: skip
    for name, (prompt, answer) in prompts.items():
        row = json.dumps({"prompt": prompt, "completion": f"{answer}<|endoftext|>"})
        put(tmp_path, f"self-instruct/data/finetuning/t0_train_50k/data_per_template/{name}.jsonl", row + "\n")
    tasks = {task.name: task.pairs for task in sets.self_instruct(source(sets.SELF_INSTRUCT, tmp_path))}
    assert tasks == {
        "p3_paws_paraphrase": [("Sentence 1: A .\nSentence 2: B .", "No")],
        "p3_qasc_is_answer_correct": [("Fact: Cats eat\nQuestion: what eats?\nAnswer: cats", "Yes")],
        "p3_qasc_two_facts": [("Fact 1: Cats eat.\nFact 2: Eating is fun.\nQuestion: who has fun?", "cats")],
        "p3_quarel": [("Ann ran, Bo walked. Who was slow?\nA) Ann\nB) Bo", "Bo")],
        "p3_quartz": [("Ice is cold.\nQuestion: Is ice cold or hot?", "cold")],
    }


def test_function_vectors_have_their_own_file(tmp_path: Path) -> None:
    folder = "function_vectors/dataset_files"
    rows = [{"input": f"word {i}", "output": i % 2} for i in range(40)]
    put(tmp_path, f"{folder}/abstractive/parity.json", rows)
    put(tmp_path, f"{folder}/extractive/squad_val.json", "not read")
    found = built(tmp_path, tmp_path / "out", "function_vectors")
    assert set(found) == {"parity"}
    assert found["parity"]["family"] == "function vectors, abstractive"
    assert found["parity"]["labels"] == ["0", "1"]
    assert ["word 1", "1"] in found["parity"]["examples"]


def big(name: str, row: dict) -> tuple[str, str] | None:
    read = {read.name: read for read in bigbench.TASKS}[name]
    return read.pair(row, "", core.random.Random(0))


@pytest.mark.parametrize(
    ("name", "row", "pair"),
    [
        ("add_plus_one", {"input": "The symbol -> ...\n1 + 1 -> 3\n2 + 3 ->", "target": "6"}, ("2, 3", "6")),
        ("anachronisms", {"input": "Ann’s  tea.", "target_scores": {"Yes": 0, "No": 1}}, ("Ann's tea.", "no")),
        ("snarks", {"input": "Which? (a) Ann. (b) Bo.", "target_scores": {"(a)": 0, "(b)": 1}},
         ("A) Ann.\nB) Bo.", "B")),
        ("answer_from_fact", {"input": "Fact: A. \nQuestion: B?", "target": ["C."]}, ("Fact: A.\nQuestion: B?", "C")),
        ("known_unknowns", {"input": "Who?", "target_scores": {"Ann": 1, "Unknown": 0}}, ("Who?", "known")),
        ("navigate", {"input": "Go.", "target_scores": {"True": 1, "False": 1}}, None),
        ("object_counting", {"input": "I have tea. How many cups do I have?", "target": ["two", "2"]},
         ("I have tea. [cups]", "2")),
        ("si_unit_conversion", {"input": "When converted to units of g, 1 kg is ", "target_scores": {"1000 g.": 1}},
         ("1 kg -> g", "1000 g")),
        ("temporal_question_type", {"input": "Sentence: A.\nQuestion: When?\nCategory: Frequency.", "target": ["Yes."]},
         ("When?", "frequency")),
        ("tense", {"input": "I ran. Change tense to SIMPLE FUTURE: ", "target": "I will run."},
         ("I ran. [simple future]", "I will run.")),
    ],
)  # fmt: skip
def test_big_bench(name: str, row: dict, pair: tuple[str, str] | None) -> None:
    assert big(name, row) == pair


def test_options_of_big_bench_are_lines() -> None:
    row = {"input": "It is wet. What is it?", "target_scores": {"tea": 0, "rain": 1, "sand": 0, "milk": 0}}
    text, answer = big("riddle_sense", row)
    assert sorted(line[3:] for line in text.split("\n")[1:]) == ["milk", "rain", "sand", "tea"]
    assert answer == "rain"
    text, letter = big("social_iqa", {**row, "target_scores": {"tea": 0, "rain": 1, "sand": 0}})
    assert f"\n{letter}) rain" in text


def test_big_bench_has_the_tasks_that_have_wordings() -> None:
    described = {json.loads(line)["name"] for line in (SMOL / "wordings/bigbench.jsonl").open()}
    assert described == {f"bb_{read.name}" for read in bigbench.reads()}
    assert bigbench.unquoted("'it', 'is'") == "it, is"


def test_samples_are_even_and_clean() -> None:
    pairs = [(f"good {i}", "yes") for i in range(90)] + [(f"bad {i}", "no") for i in range(10)]
    kept = core.sample("x", [*pairs, ("Good 1", "no"), ("good \ufffd", "yes")], ("yes", "no"))
    answers = [answer for _, answer in kept]
    assert (answers.count("yes"), answers.count("no")) == (20, 10)
    assert ("good 1", "yes") not in kept  # with two answers
    open_ended = core.sample("x", [*pairs, *[(f"other {i}", f"{i}") for i in range(20)]])
    assert [answer for _, answer in open_ended].count("yes") == 40
    assert len(core.sample("x", pairs[:90])) == 90  # with one answer to everything


def test_clones_hold_the_files_that_are_read(tmp_path: Path) -> None:
    origin = tmp_path / "github/someone/things"
    put(origin, "data/a.json", "[1]")
    put(origin, "big/b.json", "[2]")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["commit", "-q", "-m", "x"],
        ["config", "uploadpack.allowFilter", "1"],
    ):
        subprocess.run([*git, *command], cwd=origin, check=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=origin, capture_output=True, text=True)
    repository = core.Repository("someone/things", done.stdout.strip(), "MIT", ("/data",))
    repository.clone(tmp_path / "clones", f"file://{tmp_path / 'github'}")
    assert source(repository, tmp_path / "clones").json("data/a.json") == [1]
    assert not (tmp_path / "clones/things/big").exists()
    gone = core.Repository("someone/others", "0" * 40, "MIT", ("/data",))
    with pytest.raises(core.SourceError, match=r"git fetch of file://.*/someone/others failed: "):
        gone.clone(tmp_path / "clones", f"file://{tmp_path / 'github'}")
