"""Parts of the page as HTML. Everything written by a visitor or a model is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Literal

from text2lora.files import size
from text2lora.inference import without_loop
from text2lora.novelty import Novelty
from text2lora.tuning import tuning_report
from text2lora.ui.service import ComparedAnswers, Exchange, VisitorAdapter

Kind = Literal["busy", "error", "warning", "done"]

HEADER = """<div class="t2l-header"><h1>text<b>2</b>lora</h1>
<p>Describe a task and get a LoRA adapter for it. See what it changes, then take it with you.</p></div>"""


def _empty(text: str) -> str:
    return f'<div class="t2l-empty">{text}</div>'


NO_ADAPTER = _empty("Make an adapter to see how close your description is to those seen in training.")
NO_TURNS = _empty("The answers of the base model and of your adapter appear here, side by side.")
NO_COMPARISON = _empty("The answers for each description appear here, with how similar the adapters are.")


def note(kind: Kind, text: str, link: str = "") -> str:
    """A status line: what is going on, or what went wrong."""
    role = "alert" if kind in ("error", "warning") else "status"
    shown = f'<a href="{escape(link)}" target="_blank" rel="noopener">{escape(link)}</a>' if link else ""
    return (
        f'<div class="t2l-note {kind}" role="{role}"><span>{escape(text[:1].upper() + text[1:])} {shown}</span></div>'
    )


def made_card(made: VisitorAdapter) -> str:
    """The adapter that was made, and how close its description is to those seen in training."""
    time = f"{made.seconds * 1000:.0f} ms" if made.seconds < 1 else f"{made.seconds:.1f} s"
    done = note("done", f"Made an adapter of {size(made.adapter.num_bytes)} in {time}")
    done += f'<p class="t2l-small t2l-made">for “{escape(made.description)}”</p>'
    if report := tuning_report(made.adapter.metadata):
        done += f'<p class="t2l-small">{escape(report)}</p>'
    if made.novelty is None:
        return done + '<p class="t2l-small">This checkpoint has no statistics about its training descriptions.</p>'
    warning = note("warning", made.novelty.warning) if made.novelty.warning else ""
    return done + warning + _novelty(made.novelty)


def chat(turns: Sequence[Exchange], running: bool = False) -> str:
    """The conversation: each message with both answers below it."""
    if not turns:
        return NO_TURNS
    parts = []
    for number, turn in enumerate(turns, 1):
        now = running and number == len(turns)
        base = _answer("Base model", without_loop(turn.base), "base", now)
        adapted = _answer("With your adapter", turn.adapted, "adapted", now)
        message = f'<div class="t2l-message">{escape(turn.message)}</div>'
        parts.append(f'<div class="t2l-turn">{message}<div class="t2l-pair">{base}{adapted}</div></div>')
    return f'<div class="t2l-chat" aria-live="polite">{"".join(parts)}</div>'


def comparison(found: ComparedAnswers, running: bool = False) -> str:
    """The answers of the base and of each description's adapter, and a table of how similar the adapters are."""
    base, *answers = found.answers
    least, most = found.unrelated
    alone = _answer("", without_loop(base), "base", running)
    cards = [f'<div class="t2l-card"><div class="t2l-head">No adapter</div>{alone}</div>']
    for number, (made, answer) in enumerate(zip(found.made, answers, strict=True), 1):
        novelty = made.novelty
        nearest = (
            f"Nearest training task: {_readable(novelty.nearest[0].task)} {novelty.similarity:.2f}" if novelty else ""
        )
        far = ' <b class="t2l-far">unlike training</b>' if novelty and novelty.warning else ""
        cards.append(
            f'<div class="t2l-card"><div class="t2l-head"><b class="t2l-number">{number}</b>{escape(made.description)}'
            f'</div>{_answer("", answer, "adapted", running)}<div class="t2l-small">{nearest}{far}</div></div>'
        )
    numbers = range(1, len(found.made) + 1)
    rows = "".join(
        f"<tr><th>{number}</th>{''.join(_cell(cosine) for cosine in row)}</tr>"
        for number, row in zip(numbers, found.cosines, strict=True)
    )
    return (
        f'<div class="t2l-cards" aria-live="polite">{"".join(cards)}</div>'
        '<div class="t2l-alike"><table><caption>How similar the adapters are</caption>'
        f"<tr><th></th>{''.join(f'<th>{number}</th>' for number in numbers)}</tr>{rows}</table>"
        '<p class="t2l-small">The cosine between the changes that two adapters make to the base model: 1 means the '
        "same change. For comparison, the adapters for the example descriptions, which ask for different things, have "
        f"cosines from {least:.2f} to {most:.2f}.</p></div>"
    )


def _novelty(novelty: Novelty) -> str:
    where = "Below" if novelty.warning else "Within"
    rows = "".join(
        f'<div class="t2l-near"><span>{_readable(task)}</span><span class="t2l-bar" '
        f'style="--at: {100 * max(0.0, similarity):.0f}%; --from: {100 * max(0.0, novelty.threshold):.0f}%"></span>'
        f"<span>{similarity:.2f}</span></div>"
        for task, similarity in novelty.nearest
    )
    return (
        f'<div class="t2l-novelty"><div class="t2l-label">Nearest training tasks</div>{rows}<p class="t2l-small">'
        f"{where} the range seen in training. If even the longest bar ends left of the mark, you get a warning."
        "</p></div>"
    )


def _readable(task: str) -> str:
    """The name of a training task, which a line may break between its words."""
    return escape(task.replace("_", " "))


def _answer(label: str, text: str, kind: str, running: bool) -> str:
    head = f'<div class="t2l-label">{label}</div>' if label else ""
    shown = escape(text) or ("" if running else '<i class="t2l-small">no answer</i>')
    return (
        f'<div class="t2l-answer {kind}{" running" if running else ""}">{head}<div class="t2l-text">{shown}</div></div>'
    )


def _cell(cosine: float) -> str:
    return f'<td style="--heat: {100 * max(0.0, cosine):.0f}%">{cosine:.2f}</td>'
