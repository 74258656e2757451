"""What the page offers to click for a checkpoint, and what it says about the inputs that the base model can read."""

from __future__ import annotations

from dataclasses import dataclass

from text2lora.nano import KINDS, sample_record


@dataclass(frozen=True)
class Samples:
    """Descriptions and inputs to click.

    Attributes:
        descriptions: texts that ask for different things.
        inputs: texts that the base model can read.
        reads: what an input may be, in a sentence.
    """

    descriptions: list[str]
    inputs: list[str]
    reads: str


NANO = Samples(
    [
        "Where does it ship to? Answer in capital letters.",
        "Who placed the order? Just the initials.",
        "Give me the price and the item as one JSON object.",
        "The price without the cents.",
        "Suppose they ordered twice as many. How many would that be?",
    ],
    [sample_record("order", seed)[0] for seed in (1, 3, 7)],
    f"nano reads one line like the examples: an {', '.join(KINDS[:-1])} or {KINDS[-1]} record. It cannot read other "
    "text.",
)


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
