"""BIG-bench (google/BIG-bench): tasks for evaluation alone; its authors ask that nothing be trained on them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .core import Pair, Repository, Source, Task
from .utterances import joined

ROOT = "bigbench/benchmark_tasks"


@dataclass(frozen=True)
class Read:
    """How a task is read.

    Attributes:
        name: of the task, without `bb_`.
        family: of the task.
        paths: the folders of its files, or patterns of them; what stands behind `=` is the answer to all of a file.
        pattern: of an input, whose groups are kept; others are left out.
        form: what is made of the groups, as a format or a function.
        labels: the closed set of answers, where there is one; others are left out.
        end: what is left out at the end of an answer.
        options: whether the options follow as lines, and whether the answer is a `letter` or the option's `text`.
    """

    name: str
    family: str
    paths: str
    pattern: str = r"(.*)"
    form: str | Callable[..., str] = "{}"
    labels: Sequence[str] = ()
    options: str = ""
    end: str = ""

    def pairs(self, source: Source) -> Iterator[Pair]:
        rng = random.Random(self.name)
        for path in self.paths.split():
            pattern, _, fixed = path.partition("=")
            for file in source.files(f"{ROOT}/{pattern}/task.json"):
                for row in source.json(file)["examples"]:
                    if pair := self.pair(row, fixed, rng):
                        yield pair

    def pair(self, row: Mapping[str, Any], fixed: str, rng: random.Random) -> Pair | None:
        match = re.fullmatch(self.pattern, unquoted(row["input"]), re.DOTALL)
        answer = fixed or (self.labelled(answered(row).removesuffix(self.end)) if match else "")
        if not match or not answer:
            return None
        made = self.form.format if isinstance(self.form, str) else self.form
        text = made(*(part and part.strip() for part in match.groups()))
        if self.options:
            choices = list(row["target_scores"])
            rng.shuffle(choices)
            letters = [chr(ord("A") + i) for i in range(len(choices))]
            lines = (f"{letter}) {choice.strip().rstrip('.')}" for letter, choice in zip(letters, choices, strict=True))
            text = "\n".join((text, *lines))
            answer = letters[choices.index(answer)] if self.options == "letter" else answer.rstrip(".")
        return text, answer

    def labelled(self, answer: str) -> str:
        """The label that an answer is, in the label's own case, or as the letter of `(a)`."""
        if not self.labels or self.options:
            return answer
        plain = answer.strip("(). ").casefold()
        return next((label for label in self.labels if label.casefold() == plain), "")


class Known(Read):
    """A task whose answer is whether the question has a known one."""

    def labelled(self, answer: str) -> str:
        return "unknown" if answer == "Unknown" else "known"


class Category(Read):
    """A task whose answer stands in the input: the category that it asks about, where the target says that it fits."""

    def pair(self, row: Mapping[str, Any], fixed: str, rng: random.Random) -> Pair | None:
        match = re.fullmatch(self.pattern, unquoted(row["input"]), re.DOTALL)
        fits = match and answered(row).startswith("Yes")
        return (match[1], match[2].lower()) if match and fits else None


def answered(row: Mapping[str, Any]) -> str:
    """The only best option or the target; of several targets the last, which is the shortest form of numbers."""
    scores = row.get("target_scores")
    if scores:
        best = [option for option, score in scores.items() if score == max(scores.values())]
        return best[0] if len(best) == 1 else ""
    target = row["target"]
    return unquoted(str(target[-1] if isinstance(target, list) else target))


def unquoted(text: str) -> str:
    """The text with plain apostrophes and single spaces, without the quotation marks around it or around its parts."""
    text = "\n".join(joined(line) for line in text.replace("’", "'").strip().split("\n"))
    return text.replace("'", "") if re.fullmatch(r"'[^']*'(, '[^']*')*", text) else text


def converted(first: str | None, what: str, second: str | None) -> str:
    return f"{what} -> {first or second}"


TWO = "{}, {}"
YES_NO, TRUE_FALSE, A_B = ("yes", "no"), ("True", "False"), ("A", "B")
COLOURS = ("blue", "brown", "gray", "green", "orange", "purple", "red", "yellow", "black", "white")
NATURAL = "natural_instructions/subtask"
TASKS = [
    *(
        Read(f"{name}_plus_one", "arithmetic", f"modified_arithmetic/{path}_plus_one", r".*\n(\d+) . (\d+) ->", TWO)
        for name, path in {
            "add": "three_digit_addition", "subtract": "three_digit_subtraction",
            "multiply": "two_digit_multiplication",
        }.items()
    ),
    Read("adjective_order", "word", "hyperbaton", r'.* a " (.*?) " b " (.*?) " \?', "A) {}\nB) {}", A_B),
    Read("anachronisms", "classification", "anachronisms", labels=YES_NO),
    Read(
        "analogical_similarity", "reasoning", "analogical_similarity", r"(.*?) This is an example of",
        labels=(
            "literal similarity", "an analogy", "a cross mapping", "surface similarity", "a false analogy",
            "only objects similarity", "no similarity",
        ),
    ),
    Read("analytic_entailment", "reasoning", "analytic_entailment", labels=("entailment", "no-entailment")),
    Read("answer_from_fact", "extraction", NATURAL + "041_*", r"(Fact: .*?)\s+(Question: .*)", "{}\n{}", end="."),
    Read(
        "answer_from_sentence", "extraction", NATURAL + "051_*", r"(Sentence: .*?)\s+(Question: .*)", "{}\n{}", end=".",
    ),
    *(
        Read(f"arithmetic_{task}", "arithmetic", f"arithmetic/{task}", r"What is (\d+) [a-z ]+ (\d+)\?", TWO)
        for task in ("1_digit_multiplication", "2_digit_division", "2_digit_multiplication", "3_digit_division")
    ),
    Read("claim_against_text", "reasoning", "vitaminc_fact_verification", labels=("True", "False", "Neither")),
    Read(
        "codenames", "reasoning", "codenames",
        r"Try to identify the (\d+) words? best associated with the word (.*) from the following list: (.*?)\. Give.*",
        "{1} ({0}): {2}",
    ),
    Read("color_hex", "knowledge", "color/hex", r".*: (\S+) \?", labels=COLOURS),
    Read("color_rgb", "knowledge", "color/rgb", r".*: (rgb.*\)) \?", labels=COLOURS),
    Read("color_of_object", "reasoning", "reasoning_about_colored_objects", r"(.*What color is .*)"),
    Read("common_morpheme", "word", "common_morpheme", r".*: (.*)", options="text"),
    Read(
        "crash_blossom", "word", "crash_blossom", r".*what part of speech is (.*?)\?\s+Sentence: (.*)", "{}\n{}",
        ("noun", "verb", "adjective"),
    ),
    Read("cs_algorithms_valid_parentheses", "other", "cs_algorithms/valid_parentheses", labels=("Valid", "Invalid")),
    Read("date_understanding", "reasoning", "date_understanding", r"(.*) in MM/DD/YYYY\?", "{}?"),
    Read("dyck_languages", "other", "dyck_languages"),
    Read("element_of_atomic_number", "knowledge", "periodic_elements/subtask_0", r".*atomic number of (\d+)\?"),
    Read("emoji_movie", "knowledge", "emoji_movie", r".*\? (.*)", options="text"),
    Read("empirical_judgments", "classification", "empirical_judgments", labels=("causal", "correlative", "neutral")),
    Read("epistemic_reasoning", "reasoning", "epistemic_reasoning", labels=("entailment", "non-entailment")),
    Read(
        "fact_checker_fever", "knowledge", "fact_checker/fever", r".*claim was made: (.*)\nQ: .*",
        labels=("true", "false"),
    ),
    Read(
        "figure_of_speech_detection", "classification", "figure_of_speech_detection",
        labels=(
            "Simile", "Metaphor", "Personification", "Apostrophe", "Oxymoron", "Hyperbole", "Pun", "Euphemism",
            "Alliteration", "Onomatopoeia",
        ),
    ),
    Read("fill_the_blank", "reasoning", NATURAL + "033_*", r"Context Word.*?Question: (.*)", end="."),
    Read("general_knowledge", "knowledge", "general_knowledge"),
    Read(
        "goal_of_step", "reasoning", "goal_step_wikihow/goal_inference", r"The most reasonable goal of '(.*)' is",
        labels=("A", "B", "C", "D"), options="letter",
    ),
    Read("human_organs_senses", "knowledge", "human_organs_senses", options="text"),
    Read("implicatures", "reasoning", "implicatures", labels=YES_NO),
    Read("irony_identification", "classification", "irony_identification", labels=("ironic", "not ironic")),
    Known("known_unknowns", "classification", "known_unknowns", labels=("known", "unknown")),
    Read(
        "language_of_sentence", "classification",
        " ".join(
            f"multiemo/all_sentence_{code}={name}"
            for code, name in {
                "de": "German", "en": "English", "es": "Spanish", "fr": "French", "it": "Italian", "nl": "Dutch",
                "pl": "Polish", "pt": "Portuguese",
            }.items()
        ),
        labels=("German", "English", "Spanish", "French", "Italian", "Dutch", "Polish", "Portuguese"),
    ),
    Read(
        "logical_deduction_three_objects", "reasoning", "logical_deduction/three_objects",
        labels=("A", "B", "C"), options="letter",
    ),
    Read(
        "logical_fallacy_detection", "reasoning", "logical_fallacy_detection", r".*? as appropriate\. (.*)",
        labels=("Valid", "Invalid"),
    ),
    Read("misconceptions", "knowledge", "misconceptions", labels=("T", "F")),
    Read("navigate", "reasoning", "navigate", labels=TRUE_FALSE),
    Read(
        "object_counting", "reasoning", "object_counting", r"(.*\.) How many (.*) do I have\?", "{} [{}]",
        [str(n) for n in range(2, 19)],
    ),
    Read("odd_one_out", "word", "odd_one_out", r"Pick the odd word out: (.*)"),
    Read("operators", "reasoning", "operators"),
    Read("pig_latin_decode", "rewriting", "language_games/pig_latin_decode"),
    Read("pig_latin_encode", "rewriting", "language_games/pig_latin_encode"),
    Read(
        "presuppositions_as_nli", "reasoning", "presuppositions_as_nli",
        r"(Sentence 1: .*?)\s+(Sentence 2: .*?)\s+The answer is:", "{}\n{}", ("entailment", "neutral", "contradiction"),
    ),
    Read("pronoun_replacement", "rewriting", "linguistic_mappings/pronoun_replacement_json"),
    Read("question_formation", "rewriting", "linguistic_mappings/question_formation_json"),
    Read(
        "question_from_context", "extraction", "contextual_parametric_knowledge_conflicts",
        r"(Question: .*)\n(Context: .*)", "{}\n{}",
    ),
    Read("reorder_words", "rewriting", "undo_permutation/reorder_words", r"(.*?)\.?"),
    Read("reverse_letter_list", "word", "unnatural_in_context_learning/reverse_natural_content"),
    Read(
        "review_domain", "classification",
        "multiemo/hotels_sentence_en=hotels multiemo/medicine_sentence_en=medicine "
        "multiemo/products_sentence_en=products multiemo/reviews_sentence_en=schools",
        labels=("hotels", "medicine", "products", "schools"),
    ),
    Read("riddle_sense", "reasoning", "riddle_sense", options="text"),
    Read(
        "science_question", "knowledge", NATURAL + "047_*",
        r"Question: (.*?)\s+\(A\)\s*(.*?)\s*\(B\)\s*(.*?)\s*\(C\)\s*(.*?)\s*\(D\)\s*(.*?)\??",
        "{}\nA) {}\nB) {}\nC) {}\nD) {}", ("A", "B", "C", "D"),
    ),
    Read("sentence_ambiguity", "knowledge", "sentence_ambiguity", labels=TRUE_FALSE),
    Read("shared_word", "extraction", NATURAL + "039_*", r"(Sentence1: .*?)\s+(Sentence2: .*)", "{}\n{}", end="."),
    Read(
        "si_unit_conversion", "arithmetic", "unit_conversion/si_conversion",
        r"(?:When (?:converted to|expressed in) units of (\S+), )?(.*?)(?: expressed in units of (\S+))? is",
        converted, end=".",
    ),
    Read("snarks", "classification", "snarks", r".*? \(a\) (.*?) \(b\) (.*)", "A) {}\nB) {}", A_B),
    Read("social_iqa", "reasoning", "social_iqa", labels=("A", "B", "C"), options="letter"),
    Read("strategyqa", "knowledge", "strategyqa", labels=YES_NO),
    Category(
        "temporal_question_type", "classification", NATURAL + "019_*", r".*?Question: (.*?)\s+Category: (.*?)\.?",
        labels=("event duration", "transient v. stationary", "event ordering", "absolute timepoint", "frequency"),
    ),
    Read(
        "tense", "rewriting", "tense", r"(.*) Change tense to (.*):",
        lambda t, to: f"{t} [{to.lower()}]",
    ),
    Read("unit_word_problems", "reasoning", "unit_interpretation/lv[123]"),
    Read(
        "which_step_first", "reasoning", "goal_step_wikihow/step_ordering", r"In order to [\"'](.*?)[\"'],? one can .*",
        "Goal: {}", A_B, "letter",
    ),
    *(
        Read(f"wikidata_{name}", "knowledge", "qa_wikidata", rf"The {asked} of (.*) is")
        for name, asked in {
            "continent_of_place": "continent", "country_of_work": "original country", "genre": "genre",
            "form_of_government": "basic form of government", "language_of_work": "language",
            "native_language": "native language", "position_of_player": "team position",
            "quantity_of_unit": "measured physical quantity", "voice_type": "voice type",
        }.items()
    ),
    Read("winowhy", "reasoning", "winowhy", labels=("correct", "incorrect")),
    Read("word_sorting", "word", "word_sorting"),
    Read("word_unscrambling", "word", "word_unscrambling", r"The word (\S+) is a scrambled version of .*"),
]  # fmt: skip
LISTS = {
    "absolute_difference_of_each_consecutive_pair_in": "c146",
    "add_2_to_every_element": "c071",
    "concatenate_input_and_7_3_8_4_3": "c068",
    "concatenate_input_with_itself": "c070",
    "concatenate_input_with_itself_separated_by_0": "c187",
    "cumulative_sum_of_elements": "c171",
    "each_element_followed_by_its_original_index": "c147",
    "element_3": "c001 c002 c081 c082",
    "elements_2_through_4": "c011",
    "elements_before_the_first_0": "c247",
    "elements_in_ascending_order": "c106",
    "elements_in_reverse_order": "c080 c100",
    "even_elements_divided_by_2": "c236",
    "first_2_elements": "c006",
    "input_length": "c077 c103",
    "insert_an_8_as_element_2": "c021",
    "keep_every_third_element": "c182",
    "keep_only_elements_divisible_by_3": "c167",
    "keep_only_elements_that_appear_exactly_once": "c238",
    "left_rotate_by_three_elements": "c117",
    "maximum_element": "c078 c104",
    "number_of_3s": "c244",
    "number_of_unique_elements": "c246",
    "prepend_7": "c046",
    "prepend_9_and_append_7": "c065",
    "prepend_element_1": "c050",
    "prepend_the_last_element": "c114",
    "reflect_the_input_on_itself": "c116",
    "remove_all_but_element_1": "c048 c120",
    "remove_all_but_element_1_and_last_element": "c170",
    "remove_all_but_the_last_element": "c061 c121",
    "remove_element_1": "c049 c126",
    "remove_element_2": "c025",
    "remove_every_element_whose_value_below_8": "c074",
    "remove_every_element_with_an_even_index": "c075",
    "remove_the_first_and_last_elements": "c064 c095",
    "remove_the_first_two_elements": "c029",
    "remove_the_last_element": "c062 c127",
    "remove_the_last_two_elements": "c030",
    "repeat_element_1_ten_times": "c052 c093",
    "repeat_every_element_2_times_in_order_of_appeara": "c072",
    "replace_each_element_m_with_99_m": "c160",
    "replace_each_element_m_with_its_tens_digit": "c192",
    "replace_each_element_with_1_if_it_is_divisible_b": "c188",
    "replace_each_element_with_the_input_length": "c222",
    "replace_element_2_with_an_8": "c016",
    "replace_element_2_with_element_1": "c053",
    "second_largest_element": "c169",
    "sums_of_each_consecutive_pair_of_elements_in_ord": "c176",
    "swap_elements_1_and_4": "c033 c086",
    "swap_elements_2_and_3": "c034 c087",
    "swap_the_digits_of_each_element": "c223",
    "swap_the_first_and_last_elements": "c067",
    "the_list_5_2": "c042",
    "three_largest_elements_in_ascending_order": "c110",
    "unique_elements": "c107",
    "unique_elements_in_descending_order": "c198",
}
"""Functions of lists, and their folders."""
WRANGLING = [
    ("after_comma", "extraction", "get_after_comma_[12]_freetext"),
    ("append_seconds", "formatting", "append_time_[12]_times"),
    ("between_commas", "extraction", "get_between_commas_[12]_freetext"),
    ("capital_letters", "word", "get_caps_[123]_freetext"),
    ("close_brackets", "formatting", "brackets_[12]_freetext"),
    ("date_add_hyphens", "formatting", "add_punctuation_[12]_dates"),
    ("date_separator_to_hyphen", "formatting", "change_punctuation_[12]_dates"),
    ("date_to_us_format", "formatting", "change_format_[12]_dates"),
    ("dimension_of_quantity", "knowledge", "get_system_[12]_units"),
    ("drop_hyphens", "formatting", "delete_punctuation_[12]_freetext"),
    ("drop_spaces", "formatting", "delete_spaces_[12]_freetext"),
    ("email_domain", "extraction", "get_after_at_[1234]_emails"),
    ("end_time_of_range", "extraction", "after_symbol_[12]_freetext"),
    ("find_phone_number", "extraction", "get_number_[12]_phones"),
    ("from_first_digit", "extraction", "digit_to_end_[12]_freetext"),
    ("hour_of_time", "extraction", "get_hour_[12]_times"),
    ("initial_dot_last_name", "formatting", "reduce_name_[67]_names"),
    ("initial_space_last_name", "formatting", "reduce_name_[89]_names"),
    ("last_name_first_initial", "formatting", "reduce_name_[123]_names"),
    ("make_email", "formatting", "generate_[123]_emails"),
    ("make_login", "formatting", "login_[12]_names"),
    ("month_of_date", "extraction", "get_month_name_[12]_dates"),
    ("phone_add_hyphens", "formatting", "set_punctuation_[12]_phones"),
    ("phone_drop_parentheses", "formatting", "delete_parentheses_[12]_phones"),
    ("phone_prefix_hyphen", "formatting", "set_prefix_[12]_phones"),
    ("phone_prefix_parentheses", "formatting", "set_prefix_[34]_phones"),
    ("time_drop_last_field", "formatting", "delete_time_[12]_times"),
    ("time_to_12_hour", "formatting", "convert_[56]_times"),
    ("title_of_name", "extraction", "get_title_[12]_names"),
    ("unit_of_quantity", "extraction", "get_units_[12]_units"),
    ("weekday_of_date", "extraction", "get_week_day_[12]_dates"),
]
"""Task, family, and a pattern of its folders."""


def reads() -> Iterator[Read]:
    """All tasks."""
    yield from TASKS
    for name, folders in LISTS.items():
        yield Read(f"list_{name}", "other", " ".join(f"list_functions/{folder}" for folder in folders.split()))
    for name, family, folders in WRANGLING:
        yield Read(f"wrangle_{name}", family, f"mult_data_wrangling/{folders}_*")


BIG_BENCH = Repository(
    "google/BIG-bench",
    "",
    "Apache-2.0",
    tuple(sorted({f"/{ROOT}/{path.split('=')[0]}/task.json" for read in reads() for path in read.paths.split()})),
)
"""At its newest commit. The readers were written for the files of release 1.0.0, as PyPI has it."""


def bigbench(source: Source) -> Iterator[Task]:
    for read in reads():
        yield source.task(f"bb_{read.name}", read.paths.split("=")[0], read.family, read.pairs(source), read.labels)
