"""The web app in a real browser: a headless Chromium, driven by playwright."""

from __future__ import annotations

import re
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")

from peft import PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from text2lora import base_model_path  # noqa: E402
from text2lora.inference import generate_answers  # noqa: E402
from text2lora.nano import sample_record  # noqa: E402
from text2lora.ui import app  # noqa: E402
from text2lora.ui.service import Engine, Limits, Service  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
CITY, INITIALS = app.NANO_DESCRIPTIONS[:2]
ANSWER = ".t2l-answer.adapted:not(.running) .t2l-text"
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
]


@pytest.fixture(scope="module")
def service(checkpoint_dir: Path) -> Service:
    return Service(["nano", str(checkpoint_dir)], limits=Limits(new_tokens=60))


@pytest.fixture(scope="module")
def chatty(service: Service) -> Engine:
    """The second checkpoint: a random base with a chat template, which talks to the end."""
    return service.engine(service.names[1])


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with app.running(service) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.BrowserContext]:
    """One for all, whose cache makes the page quick to open; a visitor's session is one opened page."""
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS).new_context()
        context.set_default_timeout(20_000)
        yield context


@pytest.fixture
def visit(browser: sync_api.BrowserContext, address: str):
    """Opens the page as another visitor. Nothing else than this server may be asked for anything."""
    pages, foreign = [], []
    sync_api.expect.set_options(timeout=20_000)

    def note(request: sync_api.Request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            foreign.append(request.url)

    def open_page(width: int = 1280, height: int = 900, **media: str) -> sync_api.Page:
        page = browser.new_page()
        pages.append(page)
        page.on("request", note)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(**media)
        page.goto(address)
        page.wait_for_selector("#make")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not foreign


def make(page: sync_api.Page, description: str) -> None:
    page.fill("#description textarea", description)
    page.click("#make")
    page.wait_for_selector("#standing .t2l-note.done")


def tab(page: sync_api.Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def answers(page: sync_api.Page) -> list[str]:
    """Of the base and the adapter, once they are whole."""
    page.wait_for_selector(f"#talk {ANSWER}")
    return page.locator("#talk .t2l-text").all_inner_texts()


def test_a_click_makes_the_adapter_and_shows_what_it_changes(visit):
    page = visit()
    page.click("#make")
    assert answers(page) == ["1", "LYON"]
    assert "city/upper" in page.inner_text("#standing")
    page.locator("#messages").get_by_text("new order from Mio Negrom").click()
    sync_api.expect(page.locator("#talk .t2l-answer.adapted").last).to_have_text(re.compile("QUITO$"))
    sync_api.expect(page.locator("#message textarea")).to_have_value(app.NANO_INPUTS[1])
    page.locator("#descriptions").get_by_text("The price without the cents.").click()
    sync_api.expect(page.locator("#talk .t2l-answer.adapted").last).to_have_text(re.compile("54$"))
    page.fill("#message textarea", app.NANO_INPUTS[0])
    page.click("#send")
    sync_api.expect(page.locator("#talk .t2l-answer.adapted").last).to_have_text(re.compile("10$"))


def test_the_strength_changes_the_answer_at_once_and_the_code(visit):
    page = visit()
    make(page, CITY)
    assert answers(page) == ["1", "LYON"]
    page.fill("#scale input[type=number]", "0")
    page.press("#scale input[type=number]", "Tab")
    sync_api.expect(page.locator("#talk .t2l-answer.adapted").last).to_have_text(re.compile("1$"))
    tab(page, "Take it with you")
    sync_api.expect(page.locator("#code")).to_contain_text("scale=0)")


def test_compare_shows_the_answers_side_by_side(visit):
    page = visit()
    tab(page, "Compare")
    for number, text in enumerate(["the city in capitals", "Where does it ship to? Shout it.", "banana banana"], 1):
        page.fill(f"#wording-{number} textarea, #wording-{number} input", text)
    page.click("#compare")
    page.wait_for_selector(f"#compared {ANSWER}")
    assert page.locator("#compared .t2l-text").all_inner_texts() == ["1", "LYON", "LYON!", "tripod"]
    cells = page.locator("#compared td").all_inner_texts()
    assert cells[0] == cells[4] == cells[8] == "1.00"
    assert float(cells[1]) > float(cells[2])
    assert page.locator("#compared .t2l-far").count() == 1


def test_the_download_loads_with_peft_and_answers_the_same(visit, tmp_path, service):
    page = visit()
    make(page, CITY)
    expected = answers(page)
    tab(page, "Take it with you")
    with page.expect_download() as waiting:
        page.click("#download")
    assert waiting.value.suggested_filename == "where-does-it-ship-to-answer-in-capital-letters.zip"
    with zipfile.ZipFile(waiting.value.path()) as archive:
        archive.extractall(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(base_model_path("nano"))
    tokenizer = service.engine("nano").model.base_tokenizer
    found = [generate_answers(model, tokenizer, app.NANO_INPUTS[:1])[0] for model in (base,)]
    found += generate_answers(PeftModel.from_pretrained(base, tmp_path), tokenizer, app.NANO_INPUTS[:1])
    assert found == expected


def test_the_code_runs(visit):
    page = visit()
    make(page, INITIALS)
    tab(page, "Take it with you")
    sync_api.expect(page.locator("#code")).to_contain_text(INITIALS)
    names: dict = {}
    exec("\n".join(page.locator("#code .cm-line").all_inner_texts()), names)
    assert generate_answers(names["model"], names["t2l"].base_tokenizer, app.NANO_INPUTS[:1]) == ["R.F."]


def test_errors_are_shown_and_junk_is_warned_of(visit):
    page = visit()
    page.click("#send")
    sync_api.expect(page.locator("#chat-note .error")).to_contain_text("make one first")
    page.fill("#description textarea", " ")
    page.click("#make")
    sync_api.expect(page.locator("#standing .error")).to_contain_text("The description is empty")
    page.evaluate("document.querySelectorAll('textarea').forEach(box => box.removeAttribute('maxlength'))")
    page.fill("#description textarea", "capital letters " * 100)
    page.click("#make")
    sync_api.expect(page.locator("#standing .error")).to_contain_text("1,600 characters: expected 1,000 at most")
    make(page, "banana banana")
    sync_api.expect(page.locator("#standing .warning")).to_contain_text("unlike what this checkpoint was trained on")
    page.fill("#message textarea", "order " * 600)
    page.click("#send")
    sync_api.expect(page.locator("#chat-note .error")).to_contain_text("tokens: this base model reads")
    page.fill("#message textarea", "")
    page.click("#send")
    sync_api.expect(page.locator("#chat-note .error")).to_contain_text("The input is empty")
    tab(page, "Compare")
    page.fill("#wording-2 textarea, #wording-2 input", "")
    page.click("#compare")
    sync_api.expect(page.locator("#compare-note .error")).to_contain_text("1 descriptions to compare")


def test_what_is_typed_is_shown_as_text(visit):
    page = visit()
    attack = '<img src="x" onerror="document.title = 1"><b>city</b>'
    make(page, attack)
    page.fill("#message textarea", attack)
    page.click("#send")
    sync_api.expect(page.locator("#talk .t2l-message").last).to_have_text(attack)
    tab(page, "Compare")
    page.fill("#wording-1 textarea, #wording-1 input", attack)
    page.fill("#compare-message textarea", attack)
    page.click("#compare")
    page.wait_for_selector(f"#compared {ANSWER}")
    assert page.locator("#compared .t2l-head").nth(1).inner_text().endswith(attack)
    assert page.title() == "text2lora"


def test_a_token_is_forgotten(visit, service, caplog):
    page = visit()
    make(page, CITY)
    tab(page, "Take it with you")
    page.click("#push")
    sync_api.expect(page.locator("#push-note .error")).to_contain_text("No token was given")
    page.fill("#repo input, #repo textarea", "me/city")
    page.fill("#token input", "hf_secrettoken")
    assert page.get_attribute("#token input", "type") == "password"
    page.click("#push")
    sync_api.expect(page.locator("#push-note .error")).to_be_visible()
    sync_api.expect(page.locator("#token input")).to_have_value("")
    assert "hf_secrettoken" not in page.content() + caplog.text


def test_visitors_see_their_own_adapters_only(visit):
    pages = {CITY: visit(), INITIALS: visit()}
    for description, page in pages.items():
        page.fill("#description textarea", description)
    for seed in (1, 3, 7, 9):
        record, fields = sample_record("order", seed)
        for page in pages.values():
            page.fill("#message textarea", record)
        for page in pages.values():
            page.click("#make" if seed == 1 else "#send")
        right = {CITY: fields["city"].upper(), INITIALS: f"{fields['first'][0]}.{fields['last'][0]}."}
        for description, page in pages.items():
            shown = page.locator("#talk .t2l-answer.adapted").last
            sync_api.expect(shown).to_have_text(re.compile(re.escape(right[description])))
    stranger = visit()
    stranger.click("#send")
    sync_api.expect(stranger.locator("#chat-note .error")).to_contain_text("make one first")
    tab(stranger, "Take it with you")
    stranger.click("#download")
    sync_api.expect(stranger.locator("#take-note .error")).to_contain_text("make one first")


def test_an_answer_streams_stops_and_ends_with_its_visitor(visit, chatty, monkeypatch):
    step, slow = chatty._base.forward, threading.Event()
    monkeypatch.setattr(chatty._base, "forward", lambda *args, **inputs: slow.wait(0.1) or step(*args, **inputs))
    page = visit()
    page.click("#checkpoint input")
    page.get_by_role("option").nth(1).click()
    sync_api.expect(page.locator("#description textarea")).to_have_value(app.DESCRIPTIONS[0])
    page.click("#make")
    page.wait_for_selector("#talk .t2l-answer.adapted.running")
    lengths = set()
    for _ in range(6):
        lengths.add(len(page.locator("#talk .t2l-answer.adapted .t2l-text").last.inner_text()))
        page.wait_for_timeout(150)
    assert len(lengths) > 2
    page.click("#stop")
    assert chatty._lock.acquire(timeout=3)  # well before its end of the answer
    chatty._lock.release()
    sync_api.expect(page.locator("#talk .running")).to_have_count(0)
    page.click("#send")
    page.wait_for_selector("#talk .t2l-answer.adapted.running")
    assert page.locator("#talk .t2l-turn").count() == 2
    page.close()
    assert chatty._lock.acquire(timeout=3)
    chatty._lock.release()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit, scheme):
    page = visit(390, 844, color_scheme=scheme)
    make(page, "banana banana")
    assert answers(page)
    tab(page, "Compare")
    page.click("#compare")
    page.wait_for_selector(f"#compared {ANSWER}")
    for name in ("Chat", "Compare", "Take it with you"):
        tab(page, name)
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
