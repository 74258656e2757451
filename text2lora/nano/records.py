"""One-line business records: what the nano model reads.

Six kinds, three templates each. Half of the proper names are invented from syllables, so that a model has to
copy them instead of remembering them.
"""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Callable
from pathlib import Path

WORDS: dict[str, list[str]] = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
"""Names, the words of records, and the syllables of invented names, by kind."""


def _invent(rng: random.Random, syllables: int) -> str:
    parts = [rng.choice(WORDS["onsets"]) + rng.choice(WORDS["vowels"]) for _ in range(syllables)]
    return ("".join(parts) + rng.choice(WORDS["codas"])).capitalize()


def _proper(rng: random.Random, known: list[str], syllables: tuple[int, int] = (2, 3)) -> str:
    """A known name or, half of the time, an invented one."""
    return rng.choice(known) if rng.random() < 0.5 else _invent(rng, rng.randint(*syllables))


def _person(rng: random.Random) -> dict[str, str]:
    first, last = _proper(rng, WORDS["first"], (1, 2)), _proper(rng, WORDS["last"], (2, 2))
    return {"first": first, "last": last, "name": f"{first} {last}"}


def _city(rng: random.Random) -> dict[str, str]:
    return {"city": _proper(rng, WORDS["cities"])}


def _company(rng: random.Random) -> dict[str, str]:
    name, form = _proper(rng, WORDS["companies"], (1, 2)), rng.choice(WORDS["company types"])
    return {"company": f"{name} {form}"}


def _date(rng: random.Random) -> dict[str, str]:
    day = datetime.date(rng.randint(2015, 2026), 1, 1) + datetime.timedelta(days=rng.randrange(365))
    month = WORDS["months"][day.month - 1]
    style = rng.randrange(3)
    written = (day.isoformat(), f"{day.day} {month[:3]} {day.year}", f"{month} {day.day}, {day.year}")[style]
    return {
        "date": written,
        "year": str(day.year),
        "month": (f"{day.month:02d}", month[:3], month)[style],
        "day": f"{day.day:02d}" if style == 0 else str(day.day),
        "iso_date": day.isoformat(),
    }


def _time(rng: random.Random) -> dict[str, str]:
    hour = f"{rng.randrange(24):02d}"
    return {"hour": hour, "time": f"{hour}:{rng.randrange(60):02d}"}


def _email(rng: random.Random, user: str | None = None) -> dict[str, str]:
    user = (user or _proper(rng, WORDS["first"], (1, 2))).lower()
    if rng.random() < 0.4:
        user += str(rng.randrange(1, 100))
    host = _proper(rng, WORDS["companies"], (1, 2)).lower()
    domain = f"{host}.{rng.choice(('com', 'com', 'com', 'org', 'net', 'de'))}"
    return {"email": f"{user}@{domain}", "email_user": user, "email_domain": domain}


def _price(rng: random.Random) -> dict[str, str]:
    return {"price": f"{10 ** rng.uniform(0.75, 2.7):.2f}"}


def _order(rng: random.Random) -> dict[str, str]:
    number = {"id": f"{rng.choice('ABCDEFGHKMPRSX')}{rng.randrange(1000, 10000)}"}
    customer = _person(rng) | _city(rng)
    goods = {"quantity": str(rng.randint(1, 40)), "item": rng.choice(WORDS["items"])}
    return number | customer | goods | _price(rng) | _date(rng)


def _ticket(rng: random.Random) -> dict[str, str]:
    level = rng.choice(("low", "normal", "high", "urgent"))
    service = {"id": f"T-{rng.randrange(100, 10000)}", "service": rng.choice(WORDS["services"]), "level": level}
    return service | _person(rng) | _date(rng)


def _contact(rng: random.Random) -> dict[str, str]:
    person = _person(rng)
    job = {"job": rng.choice(WORDS["jobs"])}
    return person | job | _company(rng) | _city(rng) | _email(rng, rng.choice((person["first"], person["last"], None)))


def _event(rng: random.Random) -> dict[str, str]:
    date = _date(rng)
    weekday = datetime.date.fromisoformat(date["iso_date"]).strftime("%A")
    return _person(rng) | _city(rng) | date | {"weekday": weekday} | _time(rng)


def _log(rng: random.Random) -> dict[str, str]:
    source = {"service": rng.choice(WORDS["services"]), "level": rng.choice(("DEBUG", "INFO", "WARN", "ERROR"))}
    return _time(rng) | source | {"id": f"{rng.choice('abcdef')}{rng.randrange(100, 10000)}"} | _email(rng)


def _invoice(rng: random.Random) -> dict[str, str]:
    return (
        {"id": f"INV-{rng.randrange(100, 10000)}"} | _company(rng) | _city(rng) | _price(rng) | _date(rng) | _email(rng)
    )


SAMPLERS: dict[str, Callable[[random.Random], dict[str, str]]] = {
    "order": _order,
    "ticket": _ticket,
    "contact": _contact,
    "event": _event,
    "log": _log,
    "invoice": _invoice,
}
KINDS = tuple(SAMPLERS)

TEMPLATES = {
    "order": (
        "order {id}: {quantity} x {item} for {name}, ship to {city}, total ${price}, {date}",
        "{date} | order {id} | {name} ({city}) | {quantity} x {item} | ${price}",
        "new order from {name} in {city}: {item}, qty {quantity}, amount ${price}, no. {id}, placed on {date}",
    ),
    "ticket": (
        "ticket {id} [{level}] {service}: opened by {name} on {date}",
        "{date} | ticket {id} | {service} | priority {level} | {name}",
        "support ticket {id} from {name}, service {service}, level {level}, {date}",
    ),
    "contact": (
        "contact: {name}, {job} at {company}, {city}, {email}",
        "contact | {name} | {email} | {company} | {job} | {city}",
        "contact card for {name} <{email}>: {job}, {company}, based in {city}",
    ),
    "event": (
        "event in {city} on {weekday}, {date} at {time}, host {name}",
        "{weekday} {time} | event | {city} | {date} | {name}",
        "event hosted by {name}: {date} ({weekday}), {time}, {city}",
    ),
    "log": (
        "log {time} {level} {service}: request {id} by {email}",
        "{time} | log | {level} | {service} | {email} | {id}",
        "log entry {id}: {level} in {service} at {time}, user {email}",
    ),
    "invoice": (
        "invoice {id} for {company}, {city}: ${price} due {date}, send to {email}",
        "{date} | invoice {id} | {company} | ${price} | {city} | {email}",
        "invoice to {company} ({email}), {city}, number {id}, amount ${price}, dated {date}",
    ),
}


def sample_record(kind: str, seed: int) -> tuple[str, dict[str, str]]:
    """Draw one record.

    Args:
        kind: one of `KINDS`.
        seed: any integer; the same kind and seed give the same record in every process.

    Returns:
        The line, and its fields by name. Values stand in the line as they are, but for `iso_date`, which is
        always YYYY-MM-DD; `price` is without the currency sign.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in SAMPLERS:
        raise ValueError(f"unknown record kind {kind!r}: expected one of {', '.join(KINDS)}")
    rng = random.Random(f"{kind} {seed}")
    fields = {"kind": kind} | SAMPLERS[kind](rng)
    return rng.choice(TEMPLATES[kind]).format(**fields), fields


KIND_FIELDS: dict[str, tuple[str, ...]] = {kind: tuple(sample_record(kind, 0)[1]) for kind in KINDS}
"""The fields of each kind; every record of a kind has all of them."""
