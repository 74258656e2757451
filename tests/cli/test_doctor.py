"""`t2l doctor`: what this machine can run."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import HubClient, HubServer

from text2lora.cli import doctor
from text2lora.installation import install_command


def test_report_is_about_this_machine(t2l_command) -> None:
    result = t2l_command("doctor", "--json")
    report = json.loads(result.out)
    assert (result.code, report["broken"]) == (0, {})
    import torch

    assert report["packages"]["torch"] == importlib.metadata.version("torch")
    assert report["device"]["name"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert report["device"]["memory"] > 0
    assert report["fits"]["bfloat16"] == pytest.approx(0.4 * report["device"]["memory"])
    assert {"demo", "train", "eval"} <= report["extras"].keys()
    assert not {"dev", "docs"} & report["extras"].keys()


def test_people_get_a_table(t2l_command, terminal) -> None:
    out = t2l_command("doctor").out
    for what in ("text2lora", "device", "base models that fit", "Hub", "cache", "extra train"):
        assert what in out
    assert "Next: t2l make" in out


def test_what_is_missing_comes_with_its_command(t2l_command, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: None if name == "matplotlib" else installed(name))
    out = t2l_command("doctor").out
    assert f"missing matplotlib>=3.8: {install_command('train')}" in " ".join(out.split())


def test_too_old_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: "1.0" if name == "matplotlib" else installed(name))
    assert doctor.find_extras()["train"] == ["matplotlib>=3.8"]


def test_broken_core_is_exit_code_one(t2l_command, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = importlib.import_module

    def break_torch(name: str):
        if name == "torch":
            raise OSError("libc10.so:\ncannot open")
        return whole(name)

    monkeypatch.setattr(doctor.importlib, "import_module", break_torch)
    result = t2l_command("doctor")
    assert result.code == 1
    assert "libc10.so: cannot open" in result.out
    assert "install the library again" in result.err
    assert json.loads(t2l_command("doctor", "--json").out)["broken"] == {"torch": "libc10.so: cannot open"}


def test_missing_part_of_the_bundled_model_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "BASES", {"nano": tmp_path})
    assert doctor.find_broken() == {"nano (base)": f"{tmp_path} has no config.json"}


def test_a_gpu_is_what_auto_takes(t2l_command, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="H100", total_memory=80_000_000_000)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: gpu)
    out = t2l_command("doctor").out
    assert "cuda: H100, 80.0 GB, the first of 2" in out
    assert "up to 32.0 B parameters in bfloat16, 16.0 B in float32" in out


def test_cache_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    assert doctor.measure_cache()["bytes"] == 0
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "x").write_bytes(b"123")
    (blobs.parent / "link").symlink_to(blobs / "x")
    (tmp_path / "text2lora").mkdir()
    (tmp_path / "text2lora" / "unpacked").write_bytes(b"45")
    found = doctor.measure_cache()
    assert (found["bytes"], found["folders"]) == (5, [str(tmp_path / "hub"), str(tmp_path / "text2lora")])


def test_what_smol_needs_from_the_hub_is_named(t2l_command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "find_packaged", lambda name: None if "SmolLM2" in name else tmp_path)
    assert doctor.find_models_of("smol") == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    told = f"needs HuggingFaceTB/SmolLM2-135M-Instruct from the Hub, or {install_command('smol')}"
    assert told in " ".join(t2l_command("doctor").out.split())
    monkeypatch.setattr(doctor, "find_packaged", lambda name: tmp_path)
    told = t2l_command("doctor")
    assert "smol works without the Hub" in " ".join(told.out.replace("✓", "").split())
    assert "The bundled models smol and nano work without the Hub." in told.out + told.err


def test_login_is_told_without_the_token(tmp_path: Path) -> None:
    code = """
        from text2lora.cli.doctor import ask_hub
        result = ask_hub(600)
    """
    with HubServer() as hub, HubClient(hub.url, tmp_path) as client:
        nobody = client(code)
        assert (nobody["reachable"], nobody["status"]) == (True, "not logged in")
        known = next(iter(hub.users))
        assert client(code, token=known)["user"] == hub.users[known].name
        wrong = client(code, token="hf_wrong")
        assert wrong["user"] is None
        assert "hf_wrong" not in str(wrong)
        assert "not valid" in wrong["status"]
        assert client(code, token="hf_\u00fc")["status"].startswith("the token cannot be sent")


@pytest.mark.parametrize("token", ["hf_secret", ""])
def test_no_answer_is_not_taken_for_no_login(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/none")
    there = "a token is set" if token else "no token is set"
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    assert doctor.ask_hub(1)["status"] == f"not asked, because HF_HUB_OFFLINE is set; {there}"
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    told = doctor.ask_hub(1)
    assert told["status"] == f"cannot be reached: no valid answer within 1 s; {there}"
    assert not told["reachable"]
    assert "hf_secret" not in str(told)


def test_proxies_are_shown_without_passwords(t2l_command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy.example:3128")
    out = t2l_command("doctor").out
    assert "HTTPS_PROXY=http://***@proxy.example:3128" in out
    assert "secret" not in out


def test_a_proxy_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    code = """
        import sys
        sys.modules["socksio"] = None
        from text2lora.cli.doctor import ask_hub
        result = [ask_hub(1)["status"], *(cli(*args)[2] for args in calls)]
    """
    calls = [("run", "a/b", "x"), ("describe", "t.jsonl", "--server", "http://127.0.0.1:9"), ("ui",)]
    (tmp_path / "t.jsonl").write_text('{"prompt": "x", "answer": "y"}')
    for proxy, told in (("socks5://me:pw@h:9", "pip install socksio"), ("socks9://h", "is not valid")):
        (tmp_path / proxy[:6]).mkdir()
        with HubClient("http://127.0.0.1:9", tmp_path / proxy[:6], ALL_PROXY=proxy, NO_PROXY="") as client:
            for line in client(code, cwd=tmp_path, calls=calls if told.startswith("pip") else calls[:2]):
                assert told in line, line
                assert "pw" not in line
