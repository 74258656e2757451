"""The web app without a browser: what visitors get, and that none sees another's adapter."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from text2lora import LoraAdapter, Text2LoraModel, base_model_path
from text2lora.errors import CheckpointError, HubError, InvalidDescriptionError, InvalidInputError
from text2lora.inference import complete, generate_answers
from text2lora.nano import sample_record
from text2lora.novelty import Neighbour, Novelty
from text2lora.turns import as_turn
from text2lora.ui.handlers import Handlers
from text2lora.ui.render import made_card
from text2lora.ui.service import Engine, Exchange, Limits, Service, VisitorAdapter, snippet, split_name

RECORD = sample_record("order", 1)[0]
CITY, INITIALS = "Where does it ship to? Answer in capital letters.", "Who placed the order? Just the initials."


@pytest.fixture(scope="module")
def service() -> Service:
    return Service(["nano"])


@pytest.fixture(scope="module")
def engine(service: Service) -> Engine:
    return service.engine("nano")


@pytest.fixture(scope="module")
def chatty(checkpoint_dir: Path) -> Engine:
    """A random base with a chat template, which talks on to the end."""
    return Engine(Text2LoraModel.from_pretrained(checkpoint_dir), Limits(message=40, new_tokens=40))


def last(answers):
    *_, found = answers
    return found


def test_chat_answers_as_peft_does_and_as_the_base_does(engine):
    nano = AutoModelForCausalLM.from_pretrained(base_model_path("nano"))
    records = [sample_record(kind, 7)[0] for kind in ("order", "invoice", "event")]
    before = generate_answers(nano, engine.model.base_tokenizer, records)
    made = engine.make([CITY])[0]
    after = generate_answers(made.adapter.scaled(0.7).apply_to(nano), engine.model.base_tokenizer, records)
    turns = [last(engine.chat(made.adapter.scaled(0.7), (), record)) for record in records]
    assert turns == [Exchange(*row) for row in zip(records, before, after, strict=True)]
    assert before != after


def test_a_base_that_repeats_itself_is_not_waited_for(chatty, monkeypatch):
    assert len(list(chatty._stream([None], [[]], "hello"))) > 1
    monkeypatch.setattr("text2lora.ui.service.without_loop", lambda text: "")
    assert len(list(chatty._stream([None], [[]], "hello"))) == 1


def test_a_description_is_read_once(engine, monkeypatch):
    encode, read = engine.model.encoder.encode, []
    monkeypatch.setattr(engine.model.encoder, "encode", lambda texts: read.append(list(texts)) or encode(texts))
    made = engine.make([CITY, INITIALS])
    assert read == [[CITY, INITIALS]]
    assert [one.novelty.description for one in made] == read[0]


def test_an_answer_grows(chatty):
    seen = list(chatty.chat(chatty.make(["the city"])[0].adapter, (), "hello"))
    lengths = [len(turn.adapted) for turn in seen]  # steps that come while the reader is busy are taken together
    assert lengths == sorted(lengths)
    assert lengths[-1] > 0


def test_a_chat_model_remembers_each_sides_own_answers(chatty):
    adapter, tokenizer = chatty.make(["the city"])[0].adapter, chatty.model.base_tokenizer
    first = last(chatty.chat(adapter, (), "hello"))
    second = last(chatty.chat(adapter, [first], "and then?"))
    base = chatty.model.load_base_model()

    def continued(model, answer):
        said = [("user", "hello"), ("assistant", answer), ("user", "and then?")]
        text = as_turn(tokenizer, [{"role": role, "content": content} for role, content in said])
        return complete(model, tokenizer, [text], 40)[0].strip().rstrip("\ufffd")

    assert second.base == continued(base, first.base)
    assert second.adapted == continued(adapter.apply_to(base), first.adapted)


def test_a_base_that_takes_one_turn_only_is_asked_without_the_others(checkpoint_dir):
    model = Text2LoraModel.from_pretrained(checkpoint_dir)
    model.base_tokenizer.chat_template = (
        "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}{{ messages[0].content }}<answer>"
    )
    engine = Engine(model, Limits(new_tokens=3))
    adapter = engine.make(["the city"])[0].adapter
    first = last(engine.chat(adapter, (), "hello"))
    assert last(engine.chat(adapter, [first], "hello")) == first


def test_old_turns_are_forgotten_where_the_base_has_no_room_for_them(chatty):
    turns = [Exchange(f"{number:02}" + "x" * 30, "y" * 30, "z" * 30) for number in range(12)]
    adapter = chatty.make(["the city"])[0].adapter
    assert last(chatty.chat(adapter, turns, "now")) == last(chatty.chat(adapter, turns[-3:], "now"))
    assert last(chatty.chat(adapter, turns[-3:], "now")) != last(chatty.chat(adapter, turns[-2:], "now"))


def test_a_base_that_names_no_longest_context_reads_any_length(checkpoint_dir, monkeypatch):
    model = Text2LoraModel.from_pretrained(checkpoint_dir)
    base = model.load_base_model()
    vars(base.config)["max_position_embeddings"] = None  # as some published configs have it
    monkeypatch.setattr(model, "load_base_model", lambda: base)
    free = Engine(model, Limits(new_tokens=3))
    assert last(free.chat(free.make(["the city"])[0].adapter, (), "hello")).adapted
    assert free.samples.reads.startswith("This model reads any text. ")


def test_an_answer_leaves_room_for_the_input(checkpoint_dir):
    wordy = Engine(Text2LoraModel.from_pretrained(checkpoint_dir), Limits(new_tokens=5000))
    answers = wordy.chat(wordy.make(["the city"])[0].adapter, (), "hello")
    assert next(answers).adapted
    answers.close()


def test_nano_reads_one_record_at_a_time(engine):
    adapter = engine.make([CITY])[0].adapter
    assert last(engine.chat(adapter, [Exchange("x", "y", "z")], RECORD)) == last(engine.chat(adapter, (), RECORD))


def test_visitors_at_the_same_time_get_their_own_adapter(engine):
    records = [sample_record("order", seed)[0] for seed in (1, 3, 7)]
    before = {key: value.clone() for key, value in engine._base.state_dict().items()}
    made = engine.make([CITY, INITIALS])
    alone = {(i, r): last(engine.chat(made[i].adapter, (), r)) for i in (0, 1) for r in records}

    def visit(job):
        return job, last(engine.chat(made[job[0]].adapter, (), job[1]))

    with ThreadPoolExecutor(8) as pool:
        for job, turn in pool.map(visit, list(alone) * 4):
            assert turn == alone[job]
    assert len({turn.adapted for turn in alone.values()}) == 6
    after = engine._base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    with engine._lock:  # whoever has a whole answer does not wait until the model is free
        assert not any(module._forward_hooks for module in engine._base.modules())


def test_a_visitor_who_leaves_frees_the_model(chatty):
    answers = chatty.chat(chatty.make(["the city"])[0].adapter, (), "hello")
    next(answers)
    waiting = chatty.chat(chatty.make(["the city"])[0].adapter, (), "hello")
    answers.close()
    assert last(waiting).adapted
    assert chatty._lock.acquire(timeout=600)
    chatty._lock.release()


def test_an_error_in_a_pass_reaches_its_visitor_and_frees_the_model(chatty, monkeypatch):
    adapter = chatty.make(["the city"])[0].adapter
    with monkeypatch.context() as patch:
        patch.setattr(chatty._base, "generate", lambda **inputs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            last(chatty.chat(adapter, (), "hello"))
    assert last(chatty.chat(adapter, (), "hello")).adapted


def test_compare_shows_answers_and_how_alike_the_adapters_are(engine):
    found = last(engine.compare(["the city in capitals", "Where does it ship to? Shout it.", INITIALS], RECORD))
    assert found.answers == ["1", "LYON", "LYON!", "R.F."]
    assert found.cosines[0][0] == 1
    assert found.cosines[0][1] == found.cosines[1][0] > found.cosines[0][2]
    least, most = found.unrelated
    assert -1 < least < most < found.cosines[0][1]
    assert found.made[0].novelty.nearest[0].task.startswith("city/")


@pytest.mark.parametrize(
    ("call", "error", "reason"),
    [
        (lambda e: e.make([" "]), InvalidDescriptionError, "empty"),
        (lambda e: e.make(["x" * 1001]), InvalidDescriptionError, "1,001 characters: expected 1,000 at most"),
        (lambda e: e.make(["\0"]), InvalidDescriptionError, "control characters"),
        (lambda e: last(e.compare([CITY], RECORD)), InvalidInputError, "fill in at least two descriptions"),
        (lambda e: last(e.compare([CITY] * 5, RECORD)), InvalidInputError, "expected at most 4"),
        (lambda e: last(e.compare([CITY] * 2, "")), InvalidInputError, "empty"),
        (lambda e: last(e.chat(e.make([CITY])[0].adapter, (), "\n")), InvalidInputError, "empty"),
        (lambda e: last(e.chat(e.make([CITY])[0].adapter, (), "y" * 4001)), InvalidInputError, "4,000 at most"),
        (lambda e: last(e.chat(e.make([CITY])[0].adapter, (), "y" * 3999)), InvalidInputError, "reads at most 896"),
    ],
)
def test_what_is_empty_or_too_long_is_refused(engine, call, error, reason):
    with pytest.raises(error, match=reason):
        call(engine)


def test_an_adapter_at_a_scale_is_the_one_that_the_library_makes(engine, tmp_path):
    engine.make([CITY])[0].adapter.scaled(0.5).save_pretrained(tmp_path / "page")
    engine.model.generate_lora(CITY, scale=0.5).save_pretrained(tmp_path / "library")
    for file in (tmp_path / "page").iterdir():
        assert file.read_bytes() == (tmp_path / "library" / file.name).read_bytes()


def test_the_lines_of_python_make_the_same_adapter(engine):
    text = 'The "city", in\ncapitals — please 🙂\\'
    names: dict = {}
    exec(snippet("nano", text, 0.5), names)
    made = engine.make([text])[0].adapter.scaled(0.5)
    live = get_peft_model_state_dict(names["model"])
    assert live.keys() == made.weights.keys()
    assert all(torch.equal(live[key], weight) for key, weight in made.weights.items())
    assert names["model"].peft_config["default"].lora_alpha == made.spec.lora_alpha


@pytest.mark.parametrize("text", ["", " ", "a\0b"])
def test_the_lines_of_python_run_whatever_was_refused(service, text):
    shown = Handlers(SimpleNamespace(), service).write_code("nano", None, 1, text)
    assert shown == snippet("nano", service.engine("nano").samples.descriptions[0], 1)


def test_a_folder_in_a_repository_follows_its_id(checkpoint_dir):
    assert split_name("SakanaAI/text-to-lora/trained_t2l/gemma_2b_t2l") == (
        "SakanaAI/text-to-lora",
        "trained_t2l/gemma_2b_t2l",
    )
    for name in ("nano", "me/mine", str(checkpoint_dir), "./here/and/there", "~/here/and/there"):
        assert split_name(name) == (name, "")
    assert 'from_pretrained("a/b", subfolder="c/d")' in snippet("a/b/c/d", "city", 1)


def test_only_what_is_offered_is_loaded_and_once(service, engine, monkeypatch):
    with pytest.raises(CheckpointError, match="not offered here: expected one of nano"):
        service.engine("me/other")
    fresh, loads, load = Service(["nano"]), [], Text2LoraModel.from_pretrained
    monkeypatch.setattr(Text2LoraModel, "from_pretrained", lambda *args, **kw: loads.append(args) or load(*args, **kw))
    threads = [threading.Thread(target=fresh.engine, args=("nano",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert fresh.is_loaded("nano")


def test_a_visitor_without_a_token_does_not_push_as_the_server(service, engine, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_ofthehost")
    adapter = engine.make([CITY])[0].adapter
    with pytest.raises(HubError, match="no token was given"):
        service.push(adapter, "me/city", "  ")
    with pytest.raises(HubError, match="no repository was given"):
        service.push(adapter, " ", "hf_writertoken")


def test_a_push_takes_the_visitors_token_and_the_hosts_only_where_that_is_wished(engine, monkeypatch):
    pushed: list = []

    def push(adapter, repo_id, **given):
        pushed.append((repo_id, given))
        return SimpleNamespace(repo_url=f"https://huggingface.co/{repo_id}")

    monkeypatch.setattr(LoraAdapter, "push_to_hub", push)
    adapter = engine.make([CITY])[0].adapter
    assert Service(["nano"]).push(adapter, " me/city ", " hf_mine ", private=True) == "https://huggingface.co/me/city"
    Service(["nano"], own_login=True).push(adapter, "city", "")
    assert pushed == [("me/city", {"token": "hf_mine", "private": True}), ("city", {"token": None, "private": None})]


def test_names_of_training_tasks_are_shown_in_words():
    novelty = Novelty("the city", [Neighbour("pen_pal_cards_<b>", 0.7)], 31, 0.5)
    made = VisitorAdapter(SimpleNamespace(num_bytes=1000, metadata={}), novelty, 0.1, ())
    made.adapter.metadata["description"] = "the city"
    assert "<span>pen pal cards &lt;b&gt;</span>" in made_card(made)
