"""The script that measures smol, on a tiny base."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from text2lora import Text2LoraConfig, Text2LoraModel

TABLE = Path(__file__).parents[1] / "examples/smol/table.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, base_dir: Path, encoder_dir: Path) -> Path:
    """Two tasks of each kind, a checkpoint, and a LoRA for all tasks and for one of them."""
    from transformers import AutoConfig

    folder = tmp_path_factory.mktemp("smol")
    config = Text2LoraConfig.from_base_config(
        AutoConfig.from_pretrained(base_dir),
        ["all-linear"],
        base_model_name_or_path=str(base_dir),
        encoder_name_or_path=str(encoder_dir),
        task_emb_size=24,
        head="mixture",
        head_input_size=4,
        latent_size=16,
        lora_r=2,
    )
    model = Text2LoraModel(config).eval()
    model.save_pretrained(folder / "checkpoint")
    adapter = model.generate_lora("anything")
    for name in ("multitask", "oracles/task-0"):
        adapter.save_pretrained(folder / name)
    for kind, numbers in (("seen", (0, 1)), ("unseen", (2, 3)), ("domains", (4, 5))):
        rows = [
            {
                "name": f"task_{n}",
                "descriptions": [f"do {n}", f"please do {n}"],
                "examples": [[f"x{i}", f"{n}{i}"] for i in range(4)],
                "held_out_examples": [[f"y{i}", f"{n}{i}"] for i in range(2)],
            }
            for n in numbers
        ]
        (folder / f"dev_{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "families.json").write_text(json.dumps({f"task_{n}": "word" for n in range(6)}))
    return folder


def test_every_rival_gets_a_line(folder: Path, forked: None) -> None:
    command = [sys.executable, TABLE, "--data", folder, "--checkpoint", folder / "checkpoint", "--examples", "2"]
    command += ["--multitask", folder / "multitask", "--oracles", folder / "oracles", "--output", folder / "results"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "results/results.json").read_text())
    rivals = ["base", "base, description in the prompt", "base, 4 demonstrations", "one LoRA for all tasks"]
    expected = [
        f"{name}, {kind}{', unseen wording' if name == 'text2lora' else ''}"
        for kind in ("seen tasks", "tasks of new domains", "unseen tasks")
        for name in (*rivals, "text2lora", "another task's description", "junk as description")
    ]
    expected[7:7] = ["a LoRA trained per task, 1 seen tasks", "text2lora on those 1 seen tasks, unseen wording"]
    assert list(results) == expected
    row = results["text2lora, seen tasks, unseen wording"]
    assert (row["tasks"], row["samples"]) == (2, 8)  # two wordings of two tasks, two examples each
    assert (folder / "results/table.md").read_text().splitlines()[2:] == done.stdout.splitlines()[-23:]
