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

from text2lora import base_model_path, samples  # noqa: E402
from text2lora.inference import generate_answers  # noqa: E402
from text2lora.nano import sample_record  # noqa: E402
from text2lora.ui import app  # noqa: E402
from text2lora.ui.service import Engine, Limits, Service  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
CITY, INITIALS = samples.NANO.descriptions[:2]
ANSWER = ".t2l-answer.adapted:not(.running) .t2l-text"
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
]


@pytest.fixture(scope="module")
def service(checkpoint_dir: Path) -> Service:
    return Service(["nano", str(checkpoint_dir)], limits=Limits(new_tokens=60, seconds=36_000))


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
        context.set_default_timeout(600_000)  # a busy machine may take its time
        yield context


@pytest.fixture
def visit(browser: sync_api.BrowserContext, address: str):
    """Opens the page as another visitor. Nothing else than this server may be asked for anything."""
    pages, foreign = [], []
    sync_api.expect.set_options(timeout=600_000)

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
    page.wait_for_selector("#novelty .t2l-note.done")


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
    assert "city/upper" in page.inner_text("#novelty")
    page.locator("#messages").get_by_text("new order from Mio Negrom").click()
    sync_api.expect(page.locator("#talk .t2l-answer.adapted").last).to_have_text(re.compile("QUITO$"))
    sync_api.expect(page.locator("#message textarea")).to_have_value(samples.NANO.inputs[1])
    page.locator("#descriptions").get_by_text("The price without the cents.").click()
    sync_api.expect(page.locator("#talk .t2l-answer.adapted").last).to_have_text(re.compile("54$"))
    page.fill("#message textarea", samples.NANO.inputs[0])
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


def test_a_new_adapter_starts_at_strength_one(visit):
    page = visit()
    make(page, CITY)
    assert answers(page) == ["1", "LYON"]
    page.locator("#scale input[type=range]").press("Home")
    shown = page.locator(f"#talk {ANSWER}").last
    sync_api.expect(shown).to_have_text("1")
    make(page, INITIALS)
    sync_api.expect(shown).to_have_text("R.F.")
    sync_api.expect(page.locator("#scale input[type=number]")).to_have_value("1")


def test_enter_sends_and_shift_enter_starts_a_new_line(visit):
    page = visit()
    page.press("#description textarea", "Enter")
    assert answers(page) == ["1", "LYON"]
    page.fill("#message textarea", "first")
    page.press("#message textarea", "Shift+Enter")
    page.type("#message textarea", "second")
    sync_api.expect(page.locator("#message textarea")).to_have_value("first\nsecond")
    page.press("#message textarea", "Enter")
    sync_api.expect(page.locator("#talk .t2l-message").last).to_have_text("first\nsecond")
    tab(page, "Compare")
    page.press("#compare-message textarea", "Enter")
    page.wait_for_selector(f"#compared {ANSWER}")
    page.fill("#wording-1 textarea, #wording-1 input", INITIALS)
    page.press("#wording-1 textarea, #wording-1 input", "Enter")
    sync_api.expect(page.locator("#compared .t2l-text").nth(1)).to_have_text("R.F.")


def test_a_typed_strength_counts_on_enter_whatever_was_typed(visit, caplog, capsys):
    page = visit()
    make(page, CITY)
    assert answers(page) == ["1", "LYON"]
    tab(page, "Take it with you")
    number, code = page.locator("#scale input[type=number]"), page.locator("#code")
    for typed, used in (("0", "0"), ("5", "2"), ("1e9", "2"), ("-1", "0"), ("0.5", "0.5"), ("", "0.5"), ("abc", "0.5")):
        number.fill("")
        number.press_sequentially(typed)
        number.press("Enter")
        sync_api.expect(number).to_have_value(used)
        sync_api.expect(code).to_contain_text(f"scale={used})")
    tab(page, "Chat")
    page.fill("#scale input[type=number]", "-3")
    page.press("#scale input[type=number]", "Enter")
    sync_api.expect(page.locator("#talk .t2l-answer.adapted").last).to_have_text(re.compile("1$"))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err + caplog.text


def test_a_strength_set_by_keys_on_the_slider_changes_the_answer(visit):
    page = visit()
    make(page, CITY)
    assert answers(page) == ["1", "LYON"]
    slider, number = page.locator("#scale input[type=range]"), page.locator("#scale input[type=number]")
    for key, strength, answer in (("Home", "0", "1"), ("End", "2", "LYON")):
        slider.press(key)
        sync_api.expect(number).to_have_value(strength)
        sync_api.expect(page.locator(f"#talk {ANSWER}").last).to_have_text(answer)


def test_a_strength_set_while_an_answer_is_written_counts(visit, monkeypatch):
    page, written, go_on = visit(), threading.Event(), threading.Event()
    make(page, CITY)
    assert answers(page) == ["1", "LYON"]
    chat = Engine.chat

    def held(*args):
        yield from chat(*args)
        written.set()
        go_on.wait(600)

    monkeypatch.setattr(Engine, "chat", held)
    for strength in ("0.95", "0"):  # the second one comes before the first one's answer is finished
        page.fill("#scale input[type=number]", strength)
        page.press("#scale input[type=number]", "Enter")
        assert written.wait(600)
    page.wait_for_timeout(300)  # for the browser to hand on what was pressed
    go_on.set()
    sync_api.expect(page.locator(f"#talk {ANSWER}").last).to_have_text("1")


def test_the_page_says_what_the_model_can_read(visit):
    page = visit()
    sync_api.expect(page.locator("#message")).to_contain_text("an order, ticket, contact, event, log or invoice record")
    sync_api.expect(page.locator("#message")).to_contain_text("its answers, often just 1, mean nothing")
    page.click("#checkpoint input")
    page.get_by_role("option").nth(1).click()
    for name in ("#message", "#compare-message"):
        tab(page, "Chat" if name == "#message" else "Compare")
        sync_api.expect(page.locator(name)).to_contain_text("This model reads any text of up to")
        sync_api.expect(page.locator(name)).not_to_contain_text("mean nothing")


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
    sync_api.expect(page.locator("#compared .t2l-alike")).to_contain_text(
        re.compile(r"cosines from 0\.\d\d to 0\.\d\d")
    )


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
    found = [generate_answers(model, tokenizer, samples.NANO.inputs[:1])[0] for model in (base,)]
    found += generate_answers(PeftModel.from_pretrained(base, tmp_path), tokenizer, samples.NANO.inputs[:1])
    assert found == expected


def test_the_code_runs(visit):
    page = visit()
    make(page, INITIALS)
    tab(page, "Take it with you")
    sync_api.expect(page.locator("#code")).to_contain_text(INITIALS)
    names: dict = {}
    exec("\n".join(page.locator("#code .cm-line").all_inner_texts()), names)
    assert generate_answers(names["model"], names["t2l"].base_tokenizer, samples.NANO.inputs[:1]) == ["R.F."]


def test_examples_teach_the_adapter(visit):
    page = visit()
    page.get_by_text("Teach it with examples").click()
    rows = [
        ("02:45 | log | INFO | chat | mend@ream.com | a6503", '"mend"'),
        ("22:10 | log | ERROR | auth | bkim@post.net | b4711", '"bkim"'),
    ]
    for place, text in enumerate(text for row in rows for text in row):
        cell = page.locator(f"#examples [data-row='{place // 2}'][data-col='{place % 2}']").last
        cell.dblclick()
        cell.locator("textarea, input").fill(text)  # typed letters could come before the box is there
        page.keyboard.press("Enter")
        sync_api.expect(cell).to_contain_text(text)
    make(page, "Return the login in quotes.")
    sync_api.expect(page.locator("#novelty")).to_contain_text("2 examples, ")
    sync_api.expect(page.locator("#novelty")).to_contain_text("2 of 2 after")
    tab(page, "Take it with you")
    sync_api.expect(page.locator("#code")).to_contain_text("examples=examples")


def test_errors_are_shown_and_junk_is_warned_of(visit):
    page = visit()
    page.click("#send")
    sync_api.expect(page.locator("#chat-note .error")).to_contain_text("make one first")
    page.fill("#description textarea", " ")
    page.click("#make")
    sync_api.expect(page.locator("#novelty .error")).to_contain_text("The description is empty")
    page.fill("#description textarea", "capital letters " * 100)
    page.click("#make")
    sync_api.expect(page.locator("#novelty .error")).to_contain_text("1,600 characters: expected 1,000 at most")
    make(page, "banana banana")
    sync_api.expect(page.locator("#novelty .warning")).to_contain_text("unlike what this checkpoint was trained on")
    page.fill("#message textarea", "order " * 600)
    page.click("#send")
    sync_api.expect(page.locator("#chat-note .error")).to_contain_text("tokens, but this base model reads")
    page.fill("#message textarea", "")
    page.click("#send")
    sync_api.expect(page.locator("#chat-note .error")).to_contain_text("The input is empty")
    tab(page, "Compare")
    page.fill("#wording-2 textarea, #wording-2 input", "")
    page.click("#compare")
    sync_api.expect(page.locator("#compare-note .error")).to_contain_text("ill in at least two descriptions")


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
    """A word is written when the test says so, and else every two seconds: no answer ends by itself before it is."""
    step, turns, steps = chatty._base.forward, threading.Semaphore(0), []
    monkeypatch.setattr(
        chatty._base,
        "forward",
        lambda *args, **inputs: steps.append(turns.acquire(timeout=2)) or step(*args, **inputs),
    )
    page = visit()
    page.click("#checkpoint input")
    page.get_by_role("option").nth(1).click()
    sync_api.expect(page.locator("#description textarea")).to_have_value(
        "Solve the problem step by step and end with the answer."
    )
    page.click("#make")
    shown = page.locator("#talk .t2l-answer.adapted.running .t2l-text").last
    for _ in range(3):
        before = shown.inner_text()
        turns.release()
        sync_api.expect(shown).not_to_have_text(before)
    page.click("#stop")
    with chatty._lock:
        assert len(steps) < 60
    sync_api.expect(page.locator("#talk .running")).to_have_count(0)
    steps.clear()
    page.click("#send")
    page.wait_for_selector("#talk .t2l-answer.adapted.running")
    assert page.locator("#talk .t2l-turn").count() == 2
    page.close()
    with chatty._lock:
        assert len(steps) < 60


def test_sending_ends_the_answer_that_is_being_written(visit, chatty, monkeypatch):
    """The one that follows on making an adapter, or that was sent; a word takes two seconds, so none ends by itself."""
    most = 50  # words, of the sixty that an answer has: a machine that is too busy must have time to click
    step, steps, pause = chatty._base.forward, [], threading.Event()
    monkeypatch.setattr(
        chatty._base, "forward", lambda *args, **inputs: steps.append(pause.wait(2)) or step(*args, **inputs)
    )
    page = visit()
    page.click("#checkpoint input")
    page.get_by_role("option").nth(1).click()
    sync_api.expect(page.locator("#description textarea")).to_have_value(re.compile("Solve the problem"))
    page.click("#make")
    running = page.locator("#talk .t2l-answer.adapted.running .t2l-text")
    for text in ("second", "third"):
        sync_api.expect(running).not_to_be_empty()
        steps.clear()
        page.fill("#message textarea", text)
        page.click("#send")
        sync_api.expect(page.locator("#talk .t2l-message").last).to_have_text(text)
        assert len(steps) < most
    page.locator("#descriptions button, #descriptions .gallery-item").last.click()
    page.wait_for_selector("#novelty .t2l-note.done")
    assert len(steps) < 60
    sync_api.expect(running).not_to_be_empty()  # the answer that follows, which making another adapter ends
    page.fill("#description textarea", " ")
    page.click("#make")
    sync_api.expect(page.locator("#novelty .error")).to_contain_text("The description is empty")
    sync_api.expect(page.locator("#talk .running")).to_have_count(0)
    tab(page, "Compare")
    page.click("#compare")
    running = page.locator("#compared .t2l-answer.adapted.running .t2l-text")
    sync_api.expect(running.first).not_to_be_empty()
    steps.clear()
    page.fill("#wording-1 textarea, #wording-1 input", "another")
    page.click("#compare")
    sync_api.expect(page.locator("#compared .t2l-head").nth(1)).to_contain_text("another")
    assert len(steps) < most
    pause.set()


TOO_PALE = """() => {
    // each text with the background that it is on, both as they are painted: [r, g, b] of 0 to 255
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((c, i) => a * c + (1 - a) * below[i]);
    const behind = (element) => {
        const below = element.parentElement ? behind(element.parentElement) : [255, 255, 255];
        return over(rgba(getComputedStyle(element).backgroundColor), below);
    };
    const light = (colour) => {
        const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = colour.map((c) => linear(c / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const contrast = (one, other) => Math.max(light(one), light(other)) / Math.min(light(one), light(other));
    const opacity = (element) =>
        (element.parentElement ? opacity(element.parentElement) : 1) * getComputedStyle(element).opacity;
    const found = [];
    const check = (element, what, colour, least, ground = behind(element)) => {
        const [r, g, b, a] = rgba(colour);
        const ratio = contrast(over([r, g, b, a * opacity(element)], ground), ground);
        found.push([what, Math.round(ratio * 100) / 100, ratio >= least]);
    };
    for (const element of document.body.querySelectorAll("*")) {
        if (!element.checkVisibility({ visibilityProperty: true }) || !element.getClientRects().length) continue;
        const style = getComputedStyle(element);
        const texts = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
        const text = texts.map((node) => node.data.trim()).join("");
        const points = parseFloat(style.fontSize) * 0.75;
        const least = points >= 18 || (points >= 14 && style.fontWeight >= 700) ? 3 : 4.5;
        if (text) check(element, text, style.color, least);
        if (element.matches("button:hover")) {
            check(element, `frame of ${text}`, style.borderTopColor, 3, behind(element.parentElement));
        }
        if (!element.matches("input, textarea") || ["file", "range"].includes(element.type)) continue;
        const name = `${element.type} of ${element.closest("[id]").id}`;
        if (element.type !== "checkbox") check(element, name, style.color, least);
        const hint = getComputedStyle(element, "::placeholder").color;
        if (element.placeholder) check(element, element.placeholder, hint, least);
        let framed = element;
        while (!parseFloat(getComputedStyle(framed).borderTopWidth)) framed = framed.parentElement;
        check(framed, `frame of ${name}`, getComputedStyle(framed).borderTopColor, 3, behind(framed.parentElement));
    }
    return found;
}"""
"""By https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio: what is shown, its contrast, and whether AA is met."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_and_all_boxes_have_the_contrast_that_wcag_asks_for(visit, scheme):
    page = visit(color_scheme=scheme)
    make(page, "banana banana")
    assert answers(page)
    page.fill("#message textarea", "")
    page.click("#send")
    page.wait_for_selector("#chat-note .error")
    seen: dict[str, float] = {}

    def look() -> None:
        page.wait_for_timeout(300)  # transitions of colours
        found = page.evaluate(TOO_PALE)
        assert [(what, ratio) for what, ratio, enough in found if not enough] == []
        seen.update((what, ratio) for what, ratio, _ in found)

    for name in ("Chat", "Compare", "Take it with you"):
        tab(page, name)
        if name == "Compare":
            page.click("#compare")
            page.wait_for_selector(f"#compared {ANSWER}")
        look()
    for name in ("#make", "#push", "#download", "#descriptions .gallery-item"):
        page.hover(f"{name} >> nth=0")
        look()
    boxes = {"frame of checkbox of private", "frame of Push"}
    assert seen.keys() > boxes | {"Strength", "Make the adapter", "NAME or USER/NAME", "Push"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit, scheme):
    page = visit(390, 844, color_scheme=scheme, reduced_motion="reduce")
    make(page, "banana banana")
    assert answers(page)
    tab(page, "Compare")
    page.click("#compare")
    page.wait_for_selector(f"#compared {ANSWER}")
    for name in ("Chat", "Compare", "Take it with you"):
        tab(page, name)
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name


def test_a_phone_scrolls_to_what_was_made(visit):
    page = visit(390, 844, reduced_motion="reduce")
    page.locator("#descriptions").get_by_text(CITY).click()
    assert answers(page) == ["1", "LYON"]
    for made in ("#novelty .t2l-note.done", "#talk .t2l-answer.adapted"):
        sync_api.expect(page.locator(made)).to_be_in_viewport(ratio=1)
    page.locator("#messages").get_by_text("new order from Mio Negrom").click()
    sync_api.expect(page.locator("#talk .t2l-answer.adapted").last).to_have_text(re.compile("QUITO$"))
    sync_api.expect(page.locator("#talk .t2l-answer.adapted").last).to_be_in_viewport(ratio=1)
    tab(page, "Compare")
    page.click("#compare")
    page.wait_for_selector(f"#compared {ANSWER}")
    sync_api.expect(page.locator("#compared .t2l-answer.adapted").last).to_be_in_viewport(ratio=1)
