"""Requests to assistants and banks: sonos/nlu-benchmark, PolyAI-LDN/task-specific-datasets and clinc/oos-eval."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .core import Pair, Repository, Source, Task

SNIPS = Repository(
    "sonos/nlu-benchmark",
    "b86ac7f1577868c42158d0dec77db50956046696",
    "CC0-1.0",
    ("/2017-06-custom-intent-engines",),
)
POLYAI = Repository(
    "PolyAI-LDN/task-specific-datasets",
    "57ec275d8078af65b7731c2a98be812d844a6d6b",
    "CC-BY-4.0",
    ("/banking_data", "/nlupp/data", "/span_extraction/restaurant8k"),
)
CLINC = Repository("clinc/oos-eval", "828f8093932c8fe6ca7936c3d2e52903b1c523de", "CC-BY-3.0", ("/data",))


@dataclass(frozen=True)
class Utterance:
    """A text with its slots (name to the text, once each) and its intents."""

    text: str
    slots: dict[str, str]
    intents: tuple[str, ...] = ()
    values: dict[str, Any] | None = None


def joined(text: str) -> str:
    """The text with single spaces."""
    return " ".join(text.split())


# -- sonos/nlu-benchmark ----------------------------------------------------------------------------------------------

SNIPS_INTENTS = (
    "AddToPlaylist BookRestaurant GetWeather PlayMusic RateBook SearchCreativeWork SearchScreeningEvent".split()
)
SNIPS_SLOTS = [
    ("artist", "artist", "AddToPlaylist PlayMusic"),
    ("cinema", "location_name", "SearchScreeningEvent"),
    ("city", "city", "BookRestaurant GetWeather"),
    ("country", "country", "BookRestaurant GetWeather"),
    ("cuisine", "cuisine", "BookRestaurant"),
    ("distance_word", "spatial_relation", "BookRestaurant GetWeather SearchScreeningEvent"),
    ("facility", "facility", "BookRestaurant"),
    ("geographic_place", "geographic_poi", "GetWeather"),
    ("item_to_add", "entity_name", "AddToPlaylist"),
    ("music_item_type", "music_item", "AddToPlaylist PlayMusic"),
    ("music_service", "service", "PlayMusic"),
    ("music_year", "year", "PlayMusic"),
    ("party_members", "party_size_description", "BookRestaurant"),
    ("party_size", "party_size_number", "BookRestaurant"),
    ("rated_title", "object_name", "RateBook"),
    ("rating_value", "rating_value", "RateBook"),
    ("restaurant_name", "restaurant_name", "BookRestaurant"),
    ("restaurant_type", "restaurant_type", "BookRestaurant"),
    ("served_dish", "served_dish", "BookRestaurant"),
    ("state", "state", "BookRestaurant GetWeather"),
    ("temperature_word", "condition_temperature", "GetWeather"),
    ("time_range", "timeRange", "BookRestaurant GetWeather SearchScreeningEvent"),
    ("work_title", "object_name", "SearchCreativeWork"),
    ("work_type", "object_type", "SearchCreativeWork"),
]
"""Task, slot, intents: the answer is the slot's text, in utterances that have the slot once."""
SNIPS_NAMED = [
    ("booking_names_party_size", "party_size_number", "BookRestaurant"),
    ("music_names_service", "service", "PlayMusic"),
    ("weather_names_time", "timeRange", "GetWeather"),
]
"""Task, slot, intent: does the utterance have the slot?"""
SNIPS_JOINED = [
    ("artist_then_service", "PlayMusic", ("artist", "service"), "{} - {}"),
    ("json_city_people", "BookRestaurant", ("city", "party_size_number"), '{{"city": {}, "people": {}}}'),
    ("json_city_state", "GetWeather", ("city", "state"), '{{"city": {}, "state": {}}}'),
    ("rating_as_fraction", "RateBook", ("rating_value", "best_rating"), "{}/{}"),
]
"""Task, intent, two slots, and what the answer makes of them."""


def snips_utterances(source: Source) -> dict[str, list[Utterance]]:
    """The utterances of all files, by intent; `slots` holds those that occur once."""
    found: dict[str, list[Utterance]] = {}
    for intent in SNIPS_INTENTS:
        found[intent] = []
        for kind in ("train_{}_full", "train_{}", "validate_{}"):
            for row in source.json(f"2017-06-custom-intent-engines/{intent}/{kind.format(intent)}.json")[intent]:
                slots: dict[str, list[str]] = defaultdict(list)
                for part in row["data"]:
                    if "entity" in part:
                        slots[part["entity"]].append(joined(part["text"]))
                text = joined("".join(part["text"] for part in row["data"]))
                found[intent].append(Utterance(text, {k: v[0] for k, v in slots.items() if len(v) == 1}, tuple(slots)))
    return found


def snips(source: Source) -> Iterator[Task]:
    told = snips_utterances(source)
    for name, slot, intents in SNIPS_SLOTS:
        pairs = [(u.text, u.slots[slot]) for intent in intents.split() for u in told[intent] if slot in u.slots]
        part = ", ".join(f"{intent}.{slot}" for intent in intents.split())
        yield source.task(f"snips_{name}", part, "extraction", pairs)
    for name, slot, intent in SNIPS_NAMED:
        pairs = [(u.text, "yes" if slot in u.intents else "no") for u in told[intent]]
        yield source.task(f"snips_{name}", f"{intent}.{slot}", "classification", pairs, ("yes", "no"))
    for name, intent, (first, second), pattern in SNIPS_JOINED:
        quote = json_string if pattern.startswith("{{") else str
        pairs = [
            (u.text, pattern.format(quote(u.slots[first]), quote(u.slots[second])))
            for u in told[intent]
            if first in u.slots and second in u.slots
        ]
        yield source.task(f"snips_{name}", intent, "formatting", pairs)
    labels = {intent: "".join(f" {c.lower()}" if c.isupper() else c for c in intent).strip() for intent in told}
    pairs = [(u.text, labels[intent]) for intent, own in told.items() for u in own]
    yield source.task("snips_intent", "all intents", "classification", pairs, tuple(labels.values()))


def json_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# -- PolyAI-LDN/task-specific-datasets --------------------------------------------------------------------------------

BANKING = {
    "account_question": {
        "age limit": "age_limit", "personal details": "edit_personal_details", "close account": "terminate_account",
        "countries": "country_support", "passcode": "passcode_forgotten", "lost phone": "lost_or_stolen_phone",
        "why verify identity": "why_verify_identity", "receiving money": "receiving_money",
        "apple or google pay": "apple_pay_or_google_pay",
    },
    "card_problem": {
        "lost or stolen": "lost_or_stolen_card", "swallowed by machine": "card_swallowed",
        "not working": "card_not_working", "not arrived": "card_arrival", "about to expire": "card_about_to_expire",
        "contactless not working": "contactless_not_working", "virtual card not working": "virtual_card_not_working",
        "compromised": "compromised_card", "activation": "activate_my_card",
    },
    "payment_problem": {
        "extra fee": "card_payment_fee_charged", "not recognised": "card_payment_not_recognised",
        "declined": "declined_card_payment", "pending": "pending_card_payment",
        "charged twice": "transaction_charged_twice", "wrong exchange rate": "card_payment_wrong_exchange_rate",
        "reverted": "reverted_card_payment?",
    },
    "top_up_question": {
        "automatic": "automatic_top_up", "pending": "pending_top_up", "limits": "top_up_limits",
        "reverted": "top_up_reverted", "by card": "topping_up_by_card", "verification": "verify_top_up",
        "cash or cheque": "top_up_by_cash_or_cheque", "failed": "top_up_failed",
    },
    "topic": {
        "card": "activate_my_card card_about_to_expire card_acceptance card_arrival card_delivery_estimate "
        "card_linking card_not_working card_swallowed compromised_card contactless_not_working "
        "disposable_card_limits get_disposable_virtual_card get_physical_card getting_spare_card "
        "getting_virtual_card lost_or_stolen_card order_physical_card virtual_card_not_working visa_or_mastercard",
        "transfer": "balance_not_updated_after_bank_transfer beneficiary_not_allowed cancel_transfer "
        "declined_transfer failed_transfer pending_transfer transfer_fee_charged transfer_into_account "
        "transfer_not_received_by_recipient transfer_timing",
        "top up": "automatic_top_up pending_top_up top_up_by_bank_transfer_charge top_up_by_card_charge "
        "top_up_by_cash_or_cheque top_up_failed top_up_limits top_up_reverted topping_up_by_card verify_top_up",
        "cash withdrawal": "atm_support cash_withdrawal_charge cash_withdrawal_not_recognised "
        "declined_cash_withdrawal pending_cash_withdrawal wrong_amount_of_cash_received "
        "wrong_exchange_rate_for_cash_withdrawal",
        "exchange": "exchange_charge exchange_rate exchange_via_app fiat_currency_support",
        "identity": "edit_personal_details unable_to_verify_identity verify_my_identity verify_source_of_funds "
        "why_verify_identity",
        "pin or passcode": "change_pin passcode_forgotten pin_blocked",
        "refund": "Refund_not_showing_up request_refund",
    },
    "transfer_problem": {
        "cancel": "cancel_transfer", "not received": "transfer_not_received_by_recipient",
        "declined": "declined_transfer", "pending": "pending_transfer", "timing": "transfer_timing",
        "beneficiary not allowed": "beneficiary_not_allowed", "fee": "transfer_fee_charged",
        "failed": "failed_transfer",
    },
}  # fmt: skip
"""Task, label, categories of banking77."""
NLUPP_SLOTS = [
    ("adults", "adults", "hotels"),
    ("amount_of_money", "amount_of_money", "banking"),
    ("check_out_date", "date_to", "hotels"),
    ("company_name", "company_name", "banking"),
    ("date_period", "date_period", "banking hotels"),
    ("kids", "kids", "hotels"),
    ("person_name", "person_name", "banking hotels"),
    ("shopping_category", "shopping_category", "banking"),
]
"""Task, slot, domains."""
NLUPP_INTENTS = [
    ("agree_or_deny", "banking", {"affirm": "affirm", "deny": "deny", "dont_know": "don't know"}),
    (
        "hotel_facility",
        "hotels",
        {
            "restaurant": "restaurant", "spa": "spa", "room_service": "room service", "gym": "gym",
            "parking": "parking", "swimming_pool": "swimming pool", "wifi": "wifi", "pets": "pets",
        },
    ),
]  # fmt: skip
"""Task, domain, and the label of each intent: the utterance has exactly one of the intents."""
RESTAURANT_SLOTS = ("date", "first_name", "last_name", "people", "time")


def nlupp_utterances(source: Source) -> dict[str, list[Utterance]]:
    found: dict[str, list[Utterance]] = {}
    for domain in ("banking", "hotels"):
        found[domain] = [
            Utterance(
                joined(row["text"]),
                {name: joined(slot["text"]) for name, slot in row.get("slots", {}).items()},
                tuple(row.get("intents", ())),
                {name: slot.get("value") for name, slot in row.get("slots", {}).items()},
            )
            for file in source.files(f"nlupp/data/{domain}/fold*.json")
            for row in source.json(file)
        ]
    return found


def restaurant_utterances(source: Source) -> list[Utterance]:
    """The slots are spans of the text; a span from the beginning has no `startIndex`."""
    found = []
    for file in source.files("span_extraction/restaurant8k/*.json"):
        for row in source.json(file):
            text, slots = row["userInput"]["text"], defaultdict(list)
            for label in row.get("labels", []):
                span = label["valueSpan"]
                slots[label["slot"]].append(text[span.get("startIndex", 0) : span["endIndex"]])
            found.append(Utterance(joined(text), {k: joined(v[0]) for k, v in slots.items() if len(v) == 1}))
    return found


def banking_utterances(source: Source) -> list[Utterance]:
    return [
        Utterance(joined(row["text"]), {}, (row["category"],))
        for file in ("train", "test")
        for row in csv.DictReader(source.text(f"banking_data/{file}.csv").splitlines(keepends=True))
    ]


def polyai(source: Source) -> Iterator[Task]:
    banking = banking_utterances(source)
    for name, labels in BANKING.items():
        label_of = {category: label for label, categories in labels.items() for category in categories.split()}
        pairs = [(u.text, label_of[u.intents[0]]) for u in banking if u.intents[0] in label_of]
        yield source.task(f"banking_{name}", "banking77", "classification", pairs, tuple(labels))
    hotels_and_banking = nlupp_utterances(source)
    for name, slot, domains in NLUPP_SLOTS:
        pairs = [(u.text, u.slots[slot]) for d in domains.split() for u in hotels_and_banking[d] if slot in u.slots]
        part = f"nlupp {domains.replace(' ', '/')}.{slot}"
        yield source.task(f"nlupp_{name}", part, "extraction", pairs)
    times = [
        (u.text, f"{u.values['time']['hour']:02d}:{u.values['time'].get('minute', 0):02d}")
        for own in hotels_and_banking.values()
        for u in own
        if u.values and isinstance(u.values.get("time"), dict) and "hour" in u.values["time"]
    ]
    yield source.task("nlupp_time_24h", "nlupp banking/hotels.time", "formatting", times)
    for name, domain, intents in NLUPP_INTENTS:
        pairs = []
        for u in hotels_and_banking[domain]:
            own = [intents[intent] for intent in u.intents if intent in intents]
            pairs += [(u.text, own[0])] if len(own) == 1 else []
        yield source.task(f"nlupp_{name}", f"nlupp {domain} intents", "classification", pairs, [*intents.values()])
    tables = restaurant_utterances(source)
    for slot in RESTAURANT_SLOTS:
        pairs = [(u.text, u.slots[slot]) for u in tables if slot in u.slots]
        yield source.task(f"restaurant8k_{slot}", f"restaurant8k.{slot}", "extraction", pairs)


# -- clinc/oos-eval ---------------------------------------------------------------------------------------------------

CLINC_INTENTS = "auto_and_commute banking credit_cards kitchen_and_dining meta small_talk travel utility".split()
"""Domains: the label is the intent."""


def clinc_utterances(source: Source) -> list[tuple[str, str]]:
    """Utterance and intent, without those out of scope."""
    rows = source.json("data/data_full.json")
    return [(text, intent) for split in ("train", "val", "test") for text, intent in rows[split]]


def clinc(source: Source) -> Iterator[Task]:
    utterances = clinc_utterances(source)
    domains: dict[str, list[str]] = source.json("data/domains.json")
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}

    def said(name: str) -> str:
        return name.replace("_", " ")

    for domain in CLINC_INTENTS:
        pairs: list[Pair] = [(text, said(i).replace(" you's", "")) for text, i in utterances if domain_of[i] == domain]
        labels = sorted({label for _, label in pairs})
        yield source.task(f"clinc_{domain}_intent", f"domain {domain}", "classification", pairs, labels)
    pairs = [(text, said(domain_of[i])) for text, i in utterances]
    yield source.task("clinc_domain", "all domains", "classification", pairs, [said(domain) for domain in domains])
    for name, own in (("clinc_is_about_travel", "travel"), ("clinc_is_small_talk", "small_talk")):
        pairs = [(text, "yes" if domain_of[i] == own else "no") for text, i in utterances]
        yield source.task(name, "all domains", "classification", pairs, ("yes", "no"))
    pairs = [(text, i) for text, i in utterances if i in ("yes", "no", "maybe")]
    yield source.task("clinc_yes_no_maybe", "domain meta", "classification", pairs, ("yes", "no", "maybe"))
