"""Sets of questions: yizhongw/self-instruct (its files of P3 templates) and ericwtodd/function_vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .core import Pair, Repository, Source, Task
from .utterances import joined

SELF_INSTRUCT = Repository(
    "yizhongw/self-instruct",
    "0b26ccaa415992100fa32df62d41b994cf928e23",
    "Apache-2.0",
    ("/data/finetuning/t0_train_50k/data_per_template",),
)
FUNCTION_VECTORS = Repository(
    "ericwtodd/function_vectors",
    "fb9eac7b6dc707ea1475a717379916007fe448d5",
    "MIT",
    ("/dataset_files/abstractive", "/dataset_files/extractive"),
)

# -- yizhongw/self-instruct -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Template:
    """A template of P3.

    Attributes:
        task: that is made of it.
        name: of the template.
        pattern: of its prompts.
        input: what is made of the parts of a prompt.
        labels: the closed set of answers, where there is one.
    """

    task: str
    name: str
    pattern: str
    input: str
    labels: Sequence[str] = ()

    def pair(self, prompt: str, answer: str) -> Pair | None:
        match = re.fullmatch(self.pattern, prompt.strip(), re.DOTALL)
        return (self.input.format(*map(joined, match.groups())), answer) if match else None


class Story(Template):
    """A template of stories that end in (A) and (B): the options are these, where they are what is asked for."""

    def pair(self, prompt: str, answer: str) -> Pair | None:
        match = re.fullmatch(self.pattern, prompt.strip(), re.DOTALL)
        told = match and re.fullmatch(r"(.*?)\(A\)(.*)\(B\)(.*)", match[1], re.DOTALL)
        if not match or not told:
            return None
        first, second = (joined(option).rstrip(".") for option in told.groups()[1:])
        if {first.lower(), second.lower()} != {match[2].lower(), match[3].lower()}:
            return None
        chosen = [option for option in (first, second) if option.lower() == answer.lower()]
        return (self.input.format(joined(told[1]), first, second), chosen[0]) if chosen else None


TEMPLATES = [
    Template(
        "paws_paraphrase",
        "paws_labeled_final_Meaning",
        r"Sentence 1: (.*?) ?\nSentence 2: (.*?) ?\nQuestion: .*",
        "Sentence 1: {}\nSentence 2: {}",
        ("Yes", "No"),
    ),
    Template(
        "qasc_is_answer_correct",
        "qasc_is_correct_1",
        r'If I tell you that (.*), and ask you the question "(.*)", is the correct answer "(.*)"\?',
        "Fact: {}\nQuestion: {}\nAnswer: {}",
        ("Yes", "No"),
    ),
    Template(
        "qasc_two_facts",
        "qasc_qa_with_separated_facts_3",
        r"Fact 1: (.*?)\s+Fact 2: (.*?)\s+Given the two facts above, (.*)",
        "Fact 1: {}\nFact 2: {}\nQuestion: {}",
    ),
    Story(
        "quarel",
        "quarel_heres_a_story",
        r"Here's a short story: (.*?)\s+What is the most sensical answer between \"(.*)\" and  \"(.*)\"\?",
        "{}\nA) {}\nB) {}",
    ),
    Template(
        "quartz",
        "quartz_use_info_from_paragraph_question",
        r"Use information from the paragraph to answer the question\.\s+Paragraph :\s+(.*?)\s+Question:\s+(.*)",
        "{}\nQuestion: {}",
    ),
]


def self_instruct(source: Source) -> Iterator[Task]:
    """The prompts without their instruction."""
    for template in TEMPLATES:
        rows = source.json_lines(f"data/finetuning/t0_train_50k/data_per_template/{template.name}.jsonl")
        pairs = [template.pair(row["prompt"], row["completion"].removesuffix("<|endoftext|>")) for row in rows]
        yield source.task(f"p3_{template.task}", template.name, "reasoning", filter(None, pairs), template.labels)


# -- ericwtodd/function_vectors ---------------------------------------------------------------------------------------

FEW = 5
"""As many different answers are labels."""


def function_vectors(source: Source) -> Iterator[Task]:
    """All but the reading of paragraphs."""
    for group in ("abstractive", "extractive"):
        for file in source.files(f"dataset_files/{group}/*.json"):
            name = file.split("/")[-1].removesuffix(".json")
            if name != "squad_val":
                pairs = [(str(row["input"]).strip(), str(row["output"]).strip()) for row in source.json(file)]
                answers = sorted({answer for _, answer in pairs})
                labels = answers if len(answers) <= FEW else ()
                yield source.task(name, group, f"function vectors, {group}", pairs, labels)
