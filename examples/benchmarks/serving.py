"""What a vLLM server does with more descriptions than it has slots: is every answer right, and how long does it take?

The server must run already and share a cache folder with nobody else; docs/how-to/serve.md shows its command.

python examples/benchmarks/serving.py http://localhost:8000 --descriptions 1024 --clients 32
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product
from pathlib import Path
from typing import NamedTuple

import httpx2
from measuring import show

from text2lora.inference import generate_answers
from text2lora.modeling import Text2LoraModel
from text2lora.nano import sample_record

VERBS = ("Return", "Give me", "Print", "Tell me", "Write", "Show", "Say", "Name")
FIELDS = ("the city", "the item", "the price", "the date", "the order number", "the quantity", "the full name")
FORMS = ("", " in capitals", " in lower case", " in brackets", " in quotes", " as a JSON object")
ENDS = ("", ", please", ", and nothing else", " of this order")
RECORDS = [sample_record("order", seed)[0] for seed in range(3)]
MAX_TOKENS = 24


class Ask(NamedTuple):
    """A request, and how long its answer took."""

    model: str
    record: str
    answer: str
    seconds: float


def descriptions(count: int) -> list[str]:
    """So many different descriptions.

    Raises:
        ValueError: there are not so many.
    """
    texts = [f"{verb} {field}{form}{end}." for end, form, field, verb in product(ENDS, FORMS, FIELDS, VERBS)]
    if count > len(texts):
        raise ValueError(f"--descriptions is {count}: expected at most {len(texts)}")
    return texts[:count]


class Client:
    """A client of vLLM's API.

    Args:
        http: the connection to the server.
    """

    def __init__(self, http: httpx2.Client):
        self._http = http

    def ask(self, model: str, record: str) -> Ask:
        """Ask a model about a record."""
        messages = [{"role": "user", "content": record}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS}
        start = time.perf_counter()
        found = self._post("/v1/chat/completions", body).json()
        return Ask(model, record, found["choices"][0]["message"]["content"].strip(), time.perf_counter() - start)

    def load(self, name: str, folder: Path) -> None:
        """Load an adapter that lies on disk."""
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    def unload(self, name: str) -> None:
        """Let go of an adapter."""
        self._post("/v1/unload_lora_adapter", {"lora_name": name})

    def _post(self, path: str, body: dict[str, object]) -> httpx2.Response:
        response = self._http.post(path, json=body)
        if response.status_code != 200:
            raise SystemExit(f"{path} answered {response.status_code}: {response.text[:300]}")
        return response


def visit_model(client: Client, name: str, records: Sequence[str], unload: bool) -> list[Ask]:
    """Ask for all records, one after the other, as one user does; then let go of the adapter."""
    asked = [client.ask(name, record) for record in records]
    if unload:
        client.unload(name)
    return asked


def run_load(client: Client, names: Iterable[str], clients: int, unload: bool) -> tuple[list[list[Ask]], float]:
    """Let so many clients visit the models; what each visit gave, and the seconds in all."""
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        visits = list(pool.map(lambda name: visit_model(client, name, RECORDS, unload), names))
    return visits, time.perf_counter() - start


def wrong_answers(visits: Iterable[Sequence[Ask]], expected: Callable[[str, Sequence[str]], list[str]]) -> list[Ask]:
    """The requests whose answer is not the expected one."""
    wrong = []
    for asked in visits:
        answers = expected(asked[0].model, [ask.record for ask in asked])
        wrong += [ask for ask, answer in zip(asked, answers, strict=True) if ask.answer != answer]
    return wrong


def percentiles(seconds: Sequence[float]) -> list[str]:
    """The 50th, 95th and 99th percentile."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 99
    return [f"{cuts[percent - 1]:.2f} s" for percent in (50, 95, 99)]


def _rows(client: Client, model: Text2LoraModel, texts: list[str], options: argparse.Namespace) -> Iterator[list[str]]:
    yield ["Requests", "Number", "p50", "p95", "p99", "Requests per second", "Wrong answers"]
    adapted = model.generate_adapter(texts[0])

    def expected(text: str, records: Sequence[str]) -> list[str]:
        model.generate_adapter(text.removeprefix("t2l:"), base_model=adapted)
        return generate_answers(adapted, model.base_tokenizer, records, max_new_tokens=MAX_TOKENS)

    client.ask(f"t2l:{texts[0]}", RECORDS[0])  # loads the checkpoint
    client.unload(f"t2l:{texts[0]}")
    visits, took = run_load(client, [f"t2l:{text}" for text in texts], options.clients, unload=True)
    rate = f"{sum(map(len, visits)) / took:.1f}"
    checked = list(islice(visits, options.check))
    wrong = f"{len(wrong_answers(checked, expected))} of {sum(map(len, checked))}"
    first, later = [visit[0].seconds for visit in visits], [ask.seconds for visit in visits for ask in visit[1:]]
    yield ["first of a description", str(len(first)), *percentiles(first), rate, wrong]
    yield ["later ones", str(len(later)), *percentiles(later), "", ""]

    with tempfile.TemporaryDirectory() as folder:
        names = [f"disk-{number}" for number in range(options.slots)]
        for name, text in zip(names, texts, strict=False):
            model.generate_lora(text).save_pretrained(Path(folder, name))
            client.load(name, Path(folder, name))
        visits, took = run_load(client, [names[i % len(names)] for i in range(len(texts))], options.clients, False)
        for name in names:
            client.unload(name)
    known = [ask.seconds for visit in visits for ask in visit]
    yield [f"{len(names)} adapters on disk", str(len(known)), *percentiles(known), f"{len(known) / took:.1f}", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", help="of the server")
    parser.add_argument("--descriptions", type=int, default=1024, help="descriptions that were never asked for")
    parser.add_argument("--clients", type=int, default=32, help="clients that ask at the same time")
    parser.add_argument("--slots", type=int, default=8, help="adapters on disk to compare with")
    parser.add_argument("--check", type=int, help="descriptions whose answers are compared with PEFT's; default all")
    options = parser.parse_args()
    texts = descriptions(options.descriptions)
    model = Text2LoraModel.from_pretrained("nano")
    with httpx2.Client(base_url=options.url, timeout=3600) as http:
        show(_rows(Client(http), model, texts, options))


if __name__ == "__main__":
    main()
