"""Which of a visitor's clicks end what an earlier one began."""

import pytest

pytest.importorskip("gradio")

from text2lora.ui.layout import Clicks


def test_what_is_made_is_not_lost_to_the_answer_that_follows_on_an_earlier_click():
    clicks = Clicks()
    answer, made = clicks.latest(iter("abc")), clicks.latest(iter("xyz"), makes=True)
    assert [next(answer), next(made)] == ["a", "x"]
    assert list(answer) == []  # what is made later ends an answer
    follows = clicks.latest(iter("ab"))
    assert next(follows) == "a"
    assert next(made) == "y"
    assert next(clicks.latest(iter("mn"), makes=True)) == "m"
    assert list(made) == list(follows) == []
