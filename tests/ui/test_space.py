"""examples/space is a Hugging Face Space as it is."""

import runpy
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "examples" / "space"


def test_the_front_matter_names_the_tested_gradio_and_the_app():
    card = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert card["sdk"] == "gradio"
    assert f"gradio=={card['sdk_version']}\n" in (ROOT / "constraints.txt").read_text()
    assert (SPACE / card["app_file"]).exists()
    assert len(card["short_description"]) <= 60
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert card["python_version"] >= project["requires-python"].removeprefix(">=")
    assert card["license"] == project["license"].lower()


def test_the_extra_of_the_web_app_brings_gradio():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["ui"][0].startswith("gradio")


def test_behind_a_proxy_addresses_begin_with_its_path(monkeypatch):
    pytest.importorskip("gradio")
    import httpx2

    from text2lora.ui import app
    from text2lora.ui.service import Service

    monkeypatch.setenv("GRADIO_ROOT_PATH", "/text2lora")
    with app.running(Service(["nano"])) as url:
        asked = httpx2.get(f"{url}config", trust_env=False, headers={"X-Forwarded-Host": "example.org"}).json()
        assert asked["root"] == "http://example.org/text2lora"
        assert httpx2.get(f"{url}text2lora/config", trust_env=False).is_success  # where the proxy keeps the path


def test_the_app_shows_the_page():
    pytest.importorskip("gradio")
    import httpx2

    space = runpy.run_path(str(SPACE / "app.py"), run_name="space")
    with space["running"](space["Service"](space["MODELS"], space["DEVICE"])) as url:
        assert "text2lora" in httpx2.get(url, trust_env=False, timeout=600).text
