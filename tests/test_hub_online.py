"""Push and pull with the real clients against a Hub that speaks the real one's HTTP (`hub_server`)."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from gte_format import write_gte
from hub_server import Fault, HubClient, HubServer
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config
from upstream_format import LAYERS, write_checkpoint

from text2lora import LoraAdapter, Text2LoraModel
from text2lora.novelty import FILE_NAME, measure_descriptions

WRITER, READER, STRANGER = "hf_writertoken", "hf_readertoken", "hf_strangertoken"
ADAPTER = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
CITY = "me/upper-case-the-city"
"""What the first push of this module makes, under the name that it makes of the description."""


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Text2LoraModel]) -> Text2LoraModel:
    return make_model(base_model_name_or_path="org/base", encoder_name_or_path="org/encoder")


@pytest.fixture(scope="module")
def hub(
    base_dir: Path, encoder_dir: Path, model: Text2LoraModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HubServer]:
    folder = tmp_path_factory.mktemp("hub-checkpoint")
    model.save_pretrained(folder)
    with HubServer() as server:
        server.add("org/base", base_dir)
        server.add("org/encoder", encoder_dir)
        server.add("org/t2l", folder)
        yield server


@pytest.fixture(autouse=True)
def _no_faults(hub: HubServer) -> Iterator[None]:
    yield
    hub.faults.clear()


@pytest.fixture(scope="module")
def client(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    with HubClient(hub.url, tmp_path_factory.mktemp("home")) as process:
        yield process
    assert process.output
    assert not any(token in process.output for token in (WRITER, READER, STRANGER, "hf_old"))


@pytest.fixture(scope="module")
def pushed(hub: HubServer, client: HubClient, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The first push, of a Hub that is busy and stumbles on the way."""
    hub.faults += [Fault("whoami", 429), Fault("repos/create", 429), Fault("preupload", 503), Fault("PUT /lfs", 500)]
    hub.faults += [Fault(r"POST .*/commit/", 429), Fault("GET .*org/t2l", 429), Fault("PUT /lfs", "reset")]
    empty = tmp_path_factory.mktemp("empty")
    code, out, err = client(
        "with no_waiting():\n    result = cli('make', 'Upper case: the City!', '-m', 'org/t2l', '--push', '--json')",
        token=WRITER,
        cwd=empty,
    )
    assert code == 0, err
    assert not any(fault.times for fault in hub.faults)
    assert list(empty.iterdir()) == []
    return json.loads(out)


def adapters(hub: HubServer) -> dict[str, list[str]]:
    return {name: [commit[1] for commit in repo.log] for name, repo in hub.repos.items()}


def test_push_is_one_commit_of_three_files_even_when_the_hub_stumbles(hub: HubServer, pushed: dict) -> None:
    repo = hub.repos[CITY]
    assert pushed["url"] == f"{hub.url}/{CITY}"
    assert pushed["path"] is None
    assert sorted(repo.files) == ADAPTER
    assert [message for _, _, message in repo.log] == ["add", "Upload with text2lora"]
    assert pushed["commit"] == repo.refs["main"]
    assert not repo.private


def test_pushed_card_says_where_the_adapter_comes_from(hub: HubServer, pushed: dict) -> None:
    text = hub.repos[CITY].files["README.md"].decode()
    card = ModelCard(text)
    assert (card.data.library_name, card.data.base_model) == ("peft", "org/base")
    assert card.data.base_model_relation == "adapter"
    assert card.data.text2lora["checkpoint"] == "org/t2l"
    assert card.data.text2lora["checkpoint_commit"] == hub.repos["org/t2l"].refs["main"]
    assert f'PeftModel.from_pretrained(base, "{CITY}")' in text
    assert WRITER not in str(hub.repos[CITY].files)


@pytest.fixture(scope="module")
def puller(hub: HubServer, pushed: dict, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    """The home of a process that has pulled the adapter with peft alone, and the logits it got."""
    home = tmp_path_factory.mktemp("puller")
    with HubClient(hub.url, home) as fresh:
        logits = fresh(
            f"""
            import sys, torch
            from peft import PeftModel; from transformers import AutoModelForCausalLM, AutoTokenizer
            tokenizer = AutoTokenizer.from_pretrained("org/base")
            base = AutoModelForCausalLM.from_pretrained("org/base")
            model = PeftModel.from_pretrained(base, "{CITY}")
            result = model(torch.arange(5, 25)[None]).logits.tolist()
            assert "text2lora" not in sys.modules
            """
        )
    return home, logits


def test_fresh_process_with_peft_alone_gets_the_same_logits(
    hub: HubServer, puller: tuple[Path, list], model: Text2LoraModel, encoder, base: PreTrainedModel, tmp_path: Path
) -> None:
    for name, data in hub.repos[CITY].files.items():
        (tmp_path / name).write_bytes(data)
    pushed = LoraAdapter.from_pretrained(tmp_path)
    made = model.generate_lora(["Upper case: the City!"], task_emb=encoder.encode(["Upper case: the City!"]))[0]
    assert all(torch.allclose(made.weights[key], pushed.weights[key], atol=1e-5) for key in made.weights)
    with torch.no_grad():
        plain = base(torch.arange(5, 25)[None]).logits
        ours = pushed.apply_to(base)(torch.arange(5, 25)[None]).logits
    assert torch.allclose(torch.tensor(puller[1]), ours, atol=1e-5)
    assert not torch.allclose(plain, ours, atol=1e-2)


def test_without_a_network_the_cache_serves(hub: HubServer, puller: tuple[Path, list]) -> None:
    asked = len(hub.requests)
    with HubClient(hub.url, puller[0], HF_HUB_OFFLINE="1") as offline:
        found, mistyped, checkpoint, push, answers = offline(
            f"""
            from text2lora import LoraAdapter, Text2LoraModel
            adapter = LoraAdapter.from_pretrained("{CITY}")
            result = [
                adapter.metadata,
                refusal(lambda: LoraAdapter.from_pretrained("me/uper-case-the-city")),
                refusal(lambda: Text2LoraModel.from_pretrained("nanoo")),
                refusal(lambda: adapter.push_to_hub("x", token="hf_writertoken")),
                cli("run", "{CITY}", "x", "--max-new-tokens", 2, "--json"),
            ]
            """
        )
    assert found["adapter_commit"] == hub.repos[CITY].refs["main"]
    assert mistyped.startswith("CheckpointError: me/uper-case-the-city is not in the cache and HF_HUB_OFFLINE is set")
    assert f"did you mean '{CITY}'?" in mistyped
    assert "did you mean 'nano'?" in checkpoint
    assert "HF_HUB_OFFLINE" in push
    assert answers[0] == 0
    assert len(hub.requests) == asked


def test_run_and_info_take_hub_ids(client: HubClient, pushed: dict) -> None:
    run, adapter, checkpoint = client(
        f"""
        result = [
            cli("run", "{CITY}", "x", "--max-new-tokens", 2, "--json"),
            cli("info", "{CITY}", "--json"),
            cli("info", "org/t2l", "--json"),
        ]
        """
    )
    assert json.loads(run[1])["input"] == "x"
    assert json.loads(adapter[1])["base_model"] == "org/base"
    assert json.loads(checkpoint[1])["what"] == "text2lora checkpoint"


def test_pull_request_leaves_main_as_it_is(hub: HubServer, client: HubClient, pushed: dict, tmp_path: Path) -> None:
    before = hub.repos[CITY].refs["main"]
    make = ["make", "lower case", "-m", "org/t2l", "--push", "--repo-id", CITY]
    result, refused = client(
        f"result = [cli(*{[*make, '--create-pr', '-o', 'mine']}), cli(*{make})]", token=STRANGER, cwd=tmp_path
    )
    assert result[0] == 0, result
    assert f"{CITY}/discussions/1" in result[1]
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ADAPTER
    assert hub.repos[CITY].refs["main"] == before
    assert hub.repos[CITY].log[-1] == ("refs/pr/1", hub.repos[CITY].refs["refs/pr/1"], "Upload with text2lora")
    assert refused[0] == 1
    assert f"you are logged in to the Hub as 'stranger' and may not write to {CITY}: use --create-pr" in refused[2]
    description = client(
        f"""
        from text2lora import LoraAdapter
        result = LoraAdapter.from_pretrained("{CITY}", revision="refs/pr/1").metadata["description"]
        """
    )
    assert description == "lower case"


def test_pull_request_to_a_branch_makes_no_branch(hub: HubServer, client: HubClient, pushed: dict) -> None:
    hub.add("me/branched", hub.repos[CITY].files)
    hub.repos["me/branched"].refs["half"] = hub.repos["me/branched"].refs["main"]
    code = f"""
        from text2lora import LoraAdapter
        adapter = LoraAdapter.from_pretrained("{CITY}").scaled(0.5)
        made = adapter.push_to_hub("me/branched", revision="half", create_pr=True)
        result = [made.pr_url, refusal(lambda: adapter.push_to_hub("me/branched", revision="other", create_pr=True))]
    """
    asked = len(hub.requests)
    url, refused = client(code, token=STRANGER)
    assert url == f"{hub.url}/me/branched/discussions/1"
    assert set(hub.repos["me/branched"].refs) == {"main", "half", "refs/pr/1"}
    assert not any("/branch/" in request for request in hub.requests[asked:])
    assert refused == "HubError: me/branched has no revision 'other': pass one of its branches, tags or commits"


@pytest.mark.parametrize("token", [f"{WRITER}\n", "", "hf_zur\u00fcck"])
def test_token_that_cannot_be_sent_is_named(hub: HubServer, client: HubClient, pushed: dict, token: str) -> None:
    code = f"""
        from text2lora import LoraAdapter, Text2LoraModel
        adapter = LoraAdapter.from_pretrained("{CITY}")
        result = [
            refusal(lambda: adapter.push_to_hub("me/new", token=given)),
            refusal(lambda: LoraAdapter.from_pretrained("org/none", token=given)),
            refusal(lambda: Text2LoraModel.from_pretrained("org/none", token=given)),
        ]
    """
    for line in client(code, given=token):
        assert "cannot be sent" in line


def test_config_and_weights_come_from_one_commit(hub: HubServer, client: HubClient, pushed: dict) -> None:
    first = hub.repos[CITY].refs["main"]
    result = client(
        f"""
        import huggingface_hub
        from text2lora import LoraAdapter, Text2LoraModel
        adapter = LoraAdapter.from_pretrained("{CITY}", revision="{first}")
        changed = adapter.scaled(3.0)
        changed = changed.__class__({{k: v * 2 for k, v in changed.weights.items()}}, changed.spec, changed.metadata)
        download = huggingface_hub.hf_hub_download

        def meddling(repo, name, **kwargs):  # between the configuration and the weights, someone pushes
            if name == "adapter_model.safetensors" and not meddling.done:
                meddling.done = True
                changed.push_to_hub(repo)
            return download(repo, name, **kwargs)

        meddling.done = False
        huggingface_hub.hf_hub_download = meddling
        old = LoraAdapter.from_pretrained("{CITY}")
        huggingface_hub.hf_hub_download = download
        new, pinned = LoraAdapter.from_pretrained("{CITY}"), LoraAdapter.from_pretrained("{CITY}", revision="{first}")
        key = next(iter(adapter.weights))
        result = [
            [a.spec.lora_alpha / adapter.spec.lora_alpha, float((a.weights[key] / adapter.weights[key]).mean()),
             a.metadata["adapter_commit"]]
            for a in (old, new, pinned)
        ]
        """,
        token=WRITER,
    )
    second = hub.repos[CITY].refs["main"]
    assert first != second
    assert result == [[1.0, 1.0, first], [3.0, 2.0, second], [1.0, 1.0, first]]


def test_who_may_not_is_told_what_to_do(hub: HubServer, client: HubClient, pushed: dict) -> None:
    files = hub.repos[CITY].files
    hub.add("me/secret", files, private=True)
    hub.add("org/gated", files, gated=True)
    code = """
        from text2lora import LoraAdapter
        result = {name: refusal(lambda: LoraAdapter.from_pretrained(name)) for name in names}
        """
    names = ["me/secret", "org/gated", "me/uper-case-the-city", "org/t2l"]
    nobody = client(code, names=names)
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    assert nobody == {
        "me/secret": f"CheckpointError: me/secret is not on the Hub, or it is private: check the name, or {log_in}",
        "org/gated": f"CheckpointError: org/gated is gated: ask for access at {hub.url}/org/gated, then {log_in}",
        "me/uper-case-the-city": "CheckpointError: me/uper-case-the-city is not on the Hub, or it is private: "
        f"did you mean '{CITY}'? Otherwise check the name, or {log_in}",
        "org/t2l": "CheckpointError: org/t2l has no adapter_config.json: expected a text2lora checkpoint or a LoRA "
        "adapter; check the name and the subfolder",
    }
    assert "org/gated is gated" in client(code, token=STRANGER, names=names)["org/gated"]
    assert client(code, token=WRITER, names=["me/secret"]) == {"me/secret": "nothing was refused"}
    assert "does not accept the token" in client(code, token="hf_oldtoken", names=[CITY])[CITY]
    explicit = f"""
        from text2lora import LoraAdapter, Text2LoraModel
        result = [
            refusal(lambda: LoraAdapter.from_pretrained("me/secret", token="{WRITER}")),
            refusal(lambda: LoraAdapter.from_pretrained("{CITY}", revision="v9")),
            refusal(lambda: Text2LoraModel.from_pretrained("org/t2l", revision="v9")),
            refusal(lambda: LoraAdapter.from_pretrained("org/encoder", local_files_only=True, cache_dir="/nothing")),
        ]
        """
    result = client(explicit)
    assert result[0] == "nothing was refused"
    assert result[1] == f"CheckpointError: {CITY} has no revision 'v9': pass one of its branches, tags or commits"
    assert "org/t2l has no revision 'v9'" in result[2]
    assert "leave out local_files_only to download it" in result[3]


def test_descriptions_that_make_one_name_do_not_share_a_repository(
    hub: HubServer, client: HubClient, pushed: dict, tmp_path: Path
) -> None:
    def make(*args: str) -> list:
        return client(f"result = cli('make', *{args}, '-m', 'org/t2l', '--push')", token=WRITER, cwd=tmp_path)

    told = (
        "me/city-first contains the adapter for 'City first!': choose another name with --repo-id, or replace it with"
    )
    assert make("City first!")[0] == 0
    log = hub.repos["me/city-first"].log
    assert len(log) == 2
    for other in (("city, first",), ("city", "first", "--mix", "1,3")):
        status, _, err = make(*other)
        assert (status, told in " ".join(err.split())) == (1, True), err
    assert len(log) == 2
    assert make("City first!")[0] == 0  # the same one, again
    assert make("city", "first", "--mix", "1,3", "--force")[0] == 0
    assert make("city", "first", "--mix", "10,30")[0] == 0  # the same shares
    status, _, err = make("city", "first", "--mix", "1,1")
    assert (status, "0.25 x" in err) == (1, True), err


def test_push_that_cannot_work_is_refused_before_anything_is_made(
    hub: HubServer, client: HubClient, pushed: dict, tmp_path: Path
) -> None:
    hub.add("me/llama", {"config.json": b"{}", "model.safetensors": b"weights", "README.md": b"# mine"})
    before = adapters(hub)
    make = ["make", "the city", "-m", "org/nothing", "--push"]  # a checkpoint that is not there: never looked for
    code = f"result = cli(*{make}, *more)"
    for token, more, told in [
        (None, [], "you are not logged in to the Hub: log in with `hf auth login` or set HF_TOKEN"),
        ("hf_oldtoken", [], "the Hub does not accept the token"),
        (None, ["--token", "hf_older"], "the Hub does not accept the token"),
        (READER, [], "your token has no write access"),
        (WRITER, ["--repo-id", "org/mine"], "you are logged in to the Hub as 'me' and may not write to org/mine"),
        (
            WRITER,
            ["--repo-id", "me/llama"],
            "me/llama contains README.md and is not a text2lora adapter: choose another",
        ),
        (WRITER, ["--repo-id", "a/b/c"], "'a/b/c' is neither an existing folder nor a valid Hub id"),
    ]:
        status, out, err = client(code, token=token, cwd=tmp_path, more=more)
        assert (status, out) == (1, "")
        assert told in err
        assert "hf_" not in err
    assert adapters(hub) == before
    assert list(tmp_path.iterdir()) == []


def test_force_writes_into_what_is_something_else_and_leaves_its_files(
    hub: HubServer, client: HubClient, tmp_path: Path
) -> None:
    hub.add("me/other", {"notes.txt": b"x"})
    make = ["make", "the city", "-m", "org/t2l", "--push", "--repo-id", "other", "--force"]
    result = client(f"result = cli(*{make})", token=WRITER, cwd=tmp_path)
    assert result[0] == 0, result
    assert sorted(hub.repos["me/other"].files) == [*ADAPTER, "notes.txt"]
    assert len(hub.repos["me/other"].log) == 2


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(r"POST .*/commit/", "reset", 9), "cannot be reached"),
        (Fault(r"PUT /lfs", "reset", 99), "cannot be reached"),
        (Fault(r"POST .*/commit/", 500, 9), "problem with me/atomic (status 500)"),
        (Fault(r"preupload", 429, 99), "limits your requests: try again in 0 s"),
        (Fault(r"POST .*/commit/", 412, 9), "me/atomic was changed by someone else in the meantime"),
    ],
    ids=["reset-commit", "reset-upload", "500", "429", "412"],
)
def test_push_that_fails_on_the_way_leaves_the_repository_as_it_was(
    hub: HubServer, client: HubClient, pushed: dict, fault: Fault, told: str
) -> None:
    if "me/atomic" not in hub.repos:
        hub.add("me/atomic", hub.repos[CITY].files)
    before = hub.repos["me/atomic"].refs["main"]
    hub.lfs.clear()
    hub.faults.append(fault)
    result = client(
        f"""
        from text2lora import LoraAdapter
        adapter = LoraAdapter.from_pretrained("{CITY}").scaled(0.5)
        changed = adapter.__class__({{k: v + 1 for k, v in adapter.weights.items()}}, adapter.spec, adapter.metadata)
        with no_waiting():
            result = refusal(lambda: changed.push_to_hub("me/atomic"))
        """,
        token=WRITER,
    )
    assert result.startswith("HubError: ")
    assert told in result
    assert "\n" not in result
    assert hub.repos["me/atomic"].refs == {"main": before}


def test_branch_private_and_organization(hub: HubServer, client: HubClient, pushed: dict) -> None:
    result = client(
        f"""
        from text2lora import LoraAdapter
        adapter = LoraAdapter.from_pretrained("{CITY}")
        made = adapter.push_to_hub("lab/hidden", private=True)
        branch = adapter.scaled(0.5).push_to_hub("lab/hidden", revision="half")
        again = LoraAdapter.from_pretrained("lab/hidden", revision="half")
        result = [str(made.repo_url), again.spec.lora_alpha / adapter.spec.lora_alpha, again.metadata["description"]]
        """,
        token=WRITER,
    )
    assert result == [f"{hub.url}/lab/hidden", 0.5, "Upper case: the City!"]
    assert hub.repos["lab/hidden"].private
    assert set(hub.repos["lab/hidden"].refs) == {"main", "half"}


def test_checkpoint_is_pushed_with_its_card_and_comes_back(
    hub: HubServer, client: HubClient, pushed: dict, checkpoint_dir: Path, tmp_path: Path
) -> None:
    result = client(
        f"""
        import torch
        from transformers import AutoModel
        from text2lora import Text2LoraModel
        t2l = Text2LoraModel.from_pretrained("org/t2l")
        made = t2l.push_to_hub("lab/t2l", eval_results={{"orders/exact_match": 0.5}})
        again = AutoModel.from_pretrained("lab/t2l", revision=made.oid)
        emb = torch.ones(1, 24)
        same = all(
            torch.equal(value, again.generate_lora(task_emb=emb)[0].weights[key])
            for key, value in t2l.generate_lora(task_emb=emb)[0].weights.items()
        )
        local = Text2LoraModel.from_pretrained({str(checkpoint_dir)!r})
        local.save_pretrained("saved", push_to_hub=True, repo_id="lab/local", commit_message="First")
        result = [same, again.generate_lora(task_emb=emb)[0].metadata,
                  refusal(lambda: t2l.push_to_hub("{CITY}"))]
        """,
        token=WRITER,
        cwd=tmp_path,
    )
    same, metadata, refused = result
    repo = hub.repos["lab/t2l"]
    assert same
    assert metadata["checkpoint_commit"] == repo.refs["main"]
    assert "is not a text2lora checkpoint" in refused
    assert sorted(repo.files) == ["README.md", "config.json", "model.safetensors"]
    card = ModelCard(repo.files["README.md"].decode())
    assert (card.data.library_name, card.data.base_model) == ("text2lora", "org/base")
    assert card.data.eval_results[0].metric_value == 0.5
    assert 'Text2LoraModel.from_pretrained("lab/t2l")' in card.text
    assert [message for _, _, message in hub.repos["lab/local"].log] == ["add", "First"]
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == sorted(repo.files)
    config = json.loads(hub.repos["lab/local"].files["config.json"])
    assert config["base_model_name_or_path"] is None
    assert config["encoder_name_or_path"] is None
    for name, data in hub.repos["lab/local"].files.items():
        assert str(checkpoint_dir.parent).encode() not in data, name


def test_checkpoint_in_a_subfolder_is_found(hub: HubServer, client: HubClient) -> None:
    files = {f"trained/gemma/{name}": data for name, data in hub.repos["org/t2l"].files.items()}
    commit = hub.add("org/many", files)
    result = client(
        """
        from text2lora import Text2LoraModel
        t2l = Text2LoraModel.from_pretrained("org/many", subfolder="trained/gemma", revision="main")
        result = [t2l.generate_lora("the city").metadata, refusal(lambda: Text2LoraModel.from_pretrained("org/many"))]
        """
    )
    assert result[0]["checkpoint_commit"] == commit
    assert result[0]["checkpoint_subfolder"] == "trained/gemma"
    assert "org/many has no config.json: expected a text2lora checkpoint" in result[1]
    assert "check the name and the subfolder" in result[1]


def test_statistics_of_descriptions_come_along(hub: HubServer, client: HubClient, encoder, tmp_path: Path) -> None:
    measure_descriptions(encoder, ["the city", "upper case"], ["city", "upper"]).save(tmp_path)
    files = {**hub.repos["org/t2l"].files, FILE_NAME: (tmp_path / FILE_NAME).read_bytes()}
    hub.add("org/novelty", {f"part/{name}": data for name, data in files.items()})
    result = client(
        """
        from text2lora import Text2LoraModel
        t2l = Text2LoraModel.from_pretrained("org/novelty", subfolder="part")
        t2l.push_to_hub("lab/novelty")
        result = [t2l.novelty("the city").nearest[0].task,
                  Text2LoraModel.from_pretrained("lab/novelty").novelty("upper case").nearest[0].task,
                  Text2LoraModel.from_pretrained("org/t2l").novelty("the city")]
        """,
        token=WRITER,
    )
    assert result == ["city", "upper", None]


def test_statistics_that_cannot_be_fetched_now_are_not_taken_for_none(hub: HubServer, client: HubClient) -> None:
    hub.add("org/flaky", hub.repos["org/novelty"].files)
    hub.faults.append(Fault(rf".*/{FILE_NAME}", 500, 99))
    load = """
        from text2lora import Text2LoraModel
        t2l = Text2LoraModel.from_pretrained("org/flaky", subfolder="part")
        result = refusal(lambda: t2l.novelty("the city").nearest[0].task)
        """
    assert "problem with org/flaky" in client(load)
    hub.faults.clear()
    assert client(load) == "nothing was refused"


def test_base_and_encoder_are_taken_at_the_revisions_of_the_config(
    hub: HubServer, client: HubClient, base_dir: Path, encoder_dir: Path
) -> None:
    base = hub.add("org/pinned-base", base_dir)
    encoder = hub.add("org/pinned-encoder", encoder_dir)
    config = json.loads(hub.repos["org/t2l"].files["config.json"])
    config |= {"base_model_name_or_path": "org/pinned-base", "base_model_revision": base}
    config |= {"encoder_name_or_path": "org/pinned-encoder", "encoder_revision": encoder}
    hub.add("org/pinned", hub.repos["org/t2l"].files | {"config.json": json.dumps(config).encode()})
    for name in ("org/pinned-base", "org/pinned-encoder"):
        hub.add(name, {"README.md": b"gone"})
    result = client(
        """
        from text2lora import Text2LoraModel
        t2l = Text2LoraModel.from_pretrained("org/pinned")
        model = t2l.generate_adapter("the city")
        result = [len(t2l.base_tokenizer), t2l.generate_lora("the city").spec.revision]
        """
    )
    assert result == [261, base]


def test_whole_snapshots_and_ranges_can_be_had(hub: HubServer, client: HubClient, pushed: dict) -> None:
    files, part = client(
        f"""
        import os
        from huggingface_hub import get_session, hf_hub_url, snapshot_download
        part = get_session().get(hf_hub_url("{CITY}", "adapter_config.json"), headers={{"Range": "bytes=2-5"}})
        result = [sorted(os.listdir(snapshot_download("{CITY}"))), part.text]
        """
    )
    assert set(files) == {*ADAPTER, ".gitattributes"}
    assert part.encode() == hub.repos[CITY].files["adapter_config.json"][2:6]


def test_slow_hub_is_waited_for_and_unreachable_one_is_named(hub: HubServer, client: HubClient, pushed: dict) -> None:
    hub.faults.append(Fault("GET /api/models", "slow", 1, 0.3))
    code = """
        from text2lora import LoraAdapter
        result = refusal(lambda: LoraAdapter.from_pretrained("me/uncached"))
        """
    hub.add("me/uncached", hub.repos[CITY].files)
    assert client(code) == "nothing was refused"
    hub.add("me/unreached", hub.repos[CITY].files)
    hub.faults.append(Fault("GET /api/models", "reset", 9))
    told = client(code.replace("uncached", "unreached"))
    assert told.startswith(f"CheckpointError: the Hub at {hub.url} cannot be reached for me/unreached: ")
    assert "check the network" in told


def test_evaluation_goes_into_the_card_and_the_next_one_takes_its_place(
    hub: HubServer, client: HubClient, pushed: dict, tmp_path: Path
) -> None:
    hub.add("me/measured", hub.repos[CITY].files)
    before = dict(hub.repos["me/measured"].files)
    for name, count in (("mine", 4), ("other", 5), ("mine", 6)):
        rows = [json.dumps({"prompt": f"say {i}", "answer": "never said"}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
        measure = ["eval", "-m", "org/base", "-a", "me/measured", "-t", f"{name}.jsonl", "--shots", 0, "--push"]
        code, out, err = client(f"result = cli(*{[*measure, '--json']})", token=WRITER, cwd=tmp_path)
        assert code == 0, err
        assert json.loads(out)["pushed"] == {"me/measured": f"{hub.url}/me/measured"}
    files = hub.repos["me/measured"].files
    card, old = ModelCard(files["README.md"].decode()), ModelCard(before.pop("README.md").decode())
    found = {result.dataset_name: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {"mine": 0.0, "other": 0.0}
    assert "n=6" in found["mine"].metric_name
    assert card.data.model_name == "measured"
    assert card.text.startswith(old.text.rstrip())
    assert card.text.count("## Evaluation") == 1
    assert "| mine | me/measured | 6 | 0.000 |" in card.text
    assert card.data.text2lora == old.data.text2lora
    assert {name: data for name, data in files.items() if name != "README.md"} == before


def test_card_that_is_not_there_is_an_error_of_the_hub(hub: HubServer, client: HubClient) -> None:
    hub.add("me/bare", {"adapter_config.json": b"{}"})
    code = """
        from text2lora.evaluation.report import EvalReport, push_report
        result = refusal(lambda: push_report(EvalReport("base", "x", 0, [], [], []), "me/bare"))
    """
    assert client(code, token=WRITER).startswith("HubError: me/bare has no README.md")


def test_evaluation_that_cannot_be_pushed_is_refused_before_any_work(
    hub: HubServer, client: HubClient, pushed: dict, tmp_path: Path
) -> None:
    tasks = ["-t", "none.jsonl", "--push"]
    for more, status, told in [
        (["-a", "org/mine", *tasks], 1, "you are logged in to the Hub as 'me' and may not write to org/mine"),
        (["-a", "me/nothing-there", *tasks], 1, "me/nothing-there is not on the Hub"),
        (["-a", "./here", *tasks], 2, "is a folder"),
        (["-a", CITY, "--subfolder", "x", *tasks], 2, "not possible with --subfolder"),
        (["-a", CITY, "--limit", 3, *tasks], 2, "results on a part of a benchmark"),
        (tasks, 2, "needed with --push"),
    ]:
        code, _, err = client("result = cli('eval', '-m', 'org/base', *more)", token=WRITER, cwd=tmp_path, more=more)
        assert code == status
        assert told in " ".join(err.replace("│", " ").split())


def run_page(client: HubClient, page: str, folder: Path) -> None:
    """Run what a page of the docs says: its Python, and its `t2l` lines."""
    text = (Path(__file__).parents[1] / "docs/how-to" / page).read_text(encoding="utf-8")
    code = []
    for language, block in re.findall(r"^```(sh|py)\n(.*?)^```", text, re.M | re.S):
        if language == "py":
            code.append(block)
        code += [
            f"done = cli(*{shlex.split(line)[1:]}); assert done[0] == 0, done"
            for line in block.replace("\\\n", " ").splitlines()
            if line.startswith("t2l ") and language == "sh"
        ]
    client("\n".join(code), token=WRITER, cwd=folder)


def test_what_the_docs_say_about_sharing_works(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    run_page(client, "share.md", tmp_path)
    made = {name: repo for name, repo in hub.repos.items() if name.startswith("me/")}
    assert {"me/which-city-is-mentioned", "me/city-lower", "me/nano-copy"} < set(made)
    assert made["me/the-city"].private
    assert [message for _, _, message in made["me/the-city"].log[2:]] == [
        "Upload with text2lora",
        "Upload with text2lora",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["city-lower"]


def test_what_the_docs_say_about_the_released_checkpoints_works(
    hub: HubServer, client: HubClient, encoder_dir: Path, tmp_path: Path
) -> None:
    """On tiny stand-ins under the real names: a checkpoint of the reference, a GTE that brings code, and a base."""
    write_checkpoint(tmp_path / "t2l" / "trained_t2l" / "gemma_2b_t2l", args={"model_dir": "google/gemma-2-2b-it"})
    write_gte(tmp_path / "gte", encoder_dir)
    sizes = {"hidden_size": 8, "num_hidden_layers": LAYERS, "intermediate_size": 8, "vocab_size": 9}
    base = Qwen3Config(num_attention_heads=3, head_dim=2, num_key_value_heads=2, **sizes)
    AutoModelForCausalLM.from_config(base).save_pretrained(tmp_path / "base")
    hub.add("SakanaAI/text-to-lora", tmp_path / "t2l")
    hub.add("Alibaba-NLP/gte-large-en-v1.5", tmp_path / "gte")
    hub.add("google/gemma-2-2b-it", tmp_path / "base")
    (tmp_path / "work").mkdir()
    run_page(client, "released-checkpoints.md", tmp_path / "work")
    done = client(
        """
        source = "SakanaAI/text-to-lora", "--subfolder", "trained_t2l/gemma_2b_t2l"
        result = cli("convert", *source, "mine", "--push"), cli("info", *source, "--json")
        """,
        token=WRITER,
        cwd=tmp_path,
    )
    assert [code for code, _, _ in done] == [0, 0], done
    assert sorted(hub.repos["me/mine"].files) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads(done[1][1])["what"] == "text2lora checkpoint"
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [
        "gemma-t2l",
        "return-policies",
        "step-by-step",
    ]
    assert not (tmp_path / "gte" / "ran").exists()
    adapter = LoraAdapter.from_pretrained(tmp_path / "work" / "return-policies")
    assert adapter.metadata["checkpoint"] == "SakanaAI/text-to-lora"
    assert adapter.metadata["checkpoint_commit"] == hub.repos["SakanaAI/text-to-lora"].log[-1][1]


def test_shards_of_adapters_are_written_to_a_repository_and_read_out_of_it(hub: HubServer, client: HubClient) -> None:
    hub.add("me/many", {"README.md": b""})
    code = """
    import torch
    from text2lora import LoraAdapter, Text2LoraModel
    from text2lora.batch import ShardWriter

    texts = ["Return the city.", "Return the name."]
    t2l = Text2LoraModel.from_pretrained("nano")
    writer = ShardWriter(t2l, "hf://me/many/adapters")
    paths = [writer.write(part) for part in writer.plan(texts, 1)]
    read = LoraAdapter.from_pretrained("hf://me/many/adapters", writer.name(texts[1]))
    alone = t2l.generate_lora(texts[1])
    same = all(torch.allclose(read.weights[key], weight, atol=1e-5) for key, weight in alone.weights.items())
    result = [paths, same, read.metadata == alone.metadata, writer.plan(texts)]
    """
    paths, same, of_one_origin, waiting = client(code, token=WRITER)
    assert {path.removeprefix("hf://me/many/") for path in paths} == set(hub.repos["me/many"].files) - {"README.md"}
    assert len(paths) == 2
    assert (same, of_one_origin, waiting) == (True, True, [])
