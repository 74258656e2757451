"""What to ask of a checkpoint and its base: sample descriptions and inputs, and what inputs the base can read."""

from __future__ import annotations

from dataclasses import dataclass

from text2lora.bundled import BASE_OF
from text2lora.nano import KINDS, sample_record


@dataclass(frozen=True)
class Samples:
    """What fits a base model.

    Attributes:
        descriptions: texts that ask for different things.
        inputs: texts that the base model can read.
        reads: what an input may be, in a sentence.
        note: what to know of the inputs, and of the answers of the base alone.
        single: whether adapters were trained on single inputs, so that earlier turns of a chat only confuse them.
    """

    descriptions: list[str]
    inputs: list[str]
    reads: str
    note: str = ""
    single: bool = False


NANO = Samples(
    [
        "Where does it ship to? Answer in capital letters.",
        "Who placed the order? Just the initials.",
        "Give me the price and the item as one JSON object.",
        "The price without the cents.",
        "Suppose they ordered twice as many. How many would that be?",
    ],
    [sample_record("order", seed)[0] for seed in (1, 3, 7)],
    f"nano reads one line: an {', '.join(KINDS[:-1])} or {KINDS[-1]} record. It cannot read other text.",
    "Names and orders are invented. The base model does not know the task, so its answers, often just 1, mean nothing.",
    single=True,
)
SMOL = Samples(
    [
        "Which city is mentioned? Just the name.",
        "Is the review positive or negative?",
        "the day of the week",
        "Extract the tracking number from the customer's mail.",
        "Write thumbs up for praise and thumbs down for complaints.",
    ],
    [
        "Will it rain in Lisbon on Sunday morning?",
        "Hello, parcel ZX4471093 never arrived, what now?",
        "Anna needs the green lamp in Porto on Tuesday.",
        "The soup was cold and the waiter was rude.",
        "Lovely evening, we will come back!",
    ],
    "This model reads one short English text, up to about 200 characters, and answers in a few words. It is often "
    "wrong.",
    single=True,
)
BY_BASE = {"nano": NANO, BASE_OF["smol"]: SMOL}
"""By the name of the base model, for the bases of the bundled checkpoints."""


def for_any_text(room: int | None, remembers: bool) -> Samples:
    """Samples for a general base model.

    Args:
        room: the longest input in tokens; None is without limit.
        remembers: whether the model reads earlier turns of the conversation too.
    """
    return Samples(
        [
            "Solve the problem step by step and end with the answer.",
            "Answer questions about return policies in empathetic language.",
            "Reason about everyday physics and choose the right answer.",
        ],
        [
            "A baker sells 12 loaves an hour. How many in a day of nine hours?",
            "My parcel came broken. Can I send it back?",
            "Which cools faster, a full or a half-full cup of tea?",
        ],
        f"This model reads any text{f' of up to {room:,} tokens' if room else ''}. "
        + ("It remembers the conversation." if remembers else "It answers each input on its own."),
    )
