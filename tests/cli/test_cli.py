"""The command line, on the tiny checkpoint."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from test_adapter import make_adapter
from upstream_format import EMBEDDING, write_checkpoint

from text2lora import LoraAdapter, Text2LoraModel, library_version
from text2lora.batch import write_adapters
from text2lora.cards import load_snippet
from text2lora.cli import _is_interrupt, app, main
from text2lora.cli.terminal import suggest
from text2lora.encoder import TextEncoder
from text2lora.files import size
from text2lora.hub import hub_fault
from text2lora.names import slug


def test_help_imports_nothing_but_what_draws_it() -> None:
    """So that it is there at once: torch alone takes seconds."""
    code = (
        "import sys; before = set(sys.modules); sys.argv = ['t2l', '--help']\n"
        "from text2lora.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print('IMPORTED', *{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    help_text, _, imported = done.stdout.partition("IMPORTED ")
    light = (
        "typer annotated_doc shellingham click rich attr pygments markdown_it mdurl typing_extensions yaml safetensors"
    )
    others = set(imported.split()) - sys.stdlib_module_names - set(light.split())
    assert {name for name in others if not name.startswith("_")} == {"text2lora"}
    assert all(command in help_text for command in ("make", "run", "info", "convert", "train", "eval"))


def test_making_an_adapter_imports_nothing_but_what_makes_it(tmp_path: Path) -> None:
    """In a process of its own: PEFT alone takes a second to import."""
    code = f"""
import sys
sys.argv = ["t2l", "make", "Return the city in capitals.", "--model", "nano", "--output", {str(tmp_path / "made")!r}]
from text2lora.cli import main
try:
    main()
finally:
    print(sorted({{".".join(name.split(".")[:2]) for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(ast.literal_eval(done.stdout.strip().split("\n")[-1]))
    assert (tmp_path / "made" / "adapter_config.json").is_file()
    assert {"text2lora.modeling", "transformers.modeling_utils"} <= found
    ours = "export evaluation functions inference integrations attach sharing training ui".split()
    others = "datasets fsspec gradio matplotlib pandas peft sentence_transformers sklearn".split()
    assert found & {*others, *(f"text2lora.{name}" for name in ours)} == set()


def test_version(t2l_command) -> None:
    result = t2l_command("--version")
    assert (result.code, result.out) == (0, f"text2lora {library_version()}\n")


def commands(command=None, names=()):
    """Every command of `t2l` and `t2l` itself, with its words."""
    command = command or typer.main.get_command(app)
    yield names, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*names, name))


@pytest.mark.parametrize(
    ("names", "command"), list(commands()), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_help_with_an_example_that_is_understood(
    t2l_command, terminal, names, command, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = t2l_command(*names, "--help")
    assert (result.code, "Usage" in result.out) == (0, True)
    assert "…" not in result.out  # options can be read in a narrow terminal
    assert "<bool>" not in result.out  # what takes no value has no type
    assert "...}" not in result.out
    example = re.search(r"Example: t2l (.+)", command.help)
    assert example, names
    words = shlex.split(example[1])
    assert words[: len(names)] == list(names)
    inner = typer.main.get_command(app)
    while words and words[0] in getattr(inner, "commands", {}):
        inner = inner.commands[words.pop(0)]
    context = inner.make_context("t2l", words)  # parses them, and raises for what is not known
    assert context.params


def test_options_of_one_meaning_have_one_name() -> None:
    options = {
        " ".join(names): {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for names, command in commands()
    }
    writes = {name for name, known in options.items() if "--output" in known}
    assert writes >= {"make", "train", "check", "eval", "describe", "export gguf", "export merged", "export zip"}
    reads = {name for name, known in options.items() if "--subfolder" in known}
    assert reads >= {"make", "run", "chat", "eval", "info", "export gguf", "export merged", "export zip"}
    replaces = {name for name, known in options.items() if "--force" in known}
    assert replaces >= {"make", "convert", "export gguf", "export merged", "export zip"}
    assert [name for name, known in options.items() if known & {"--output-dir", "--out", "--output-file"}] == []


def test_errors_name_options_of_the_command_line_and_not_of_python_alone() -> None:
    """Those that only Python can cause are free to; where both can, both are named."""
    package = Path(sys.modules["text2lora"].__file__).parent
    wrong = []
    for path in package.rglob("*.py"):
        raised = [
            node.exc for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise) and node.exc
        ]
        for error in raised:
            parts = (part.value for part in ast.walk(error) if isinstance(part, ast.Constant))
            text = " ".join(part for part in parts if isinstance(part, str))
            if re.search(r"\b(encoder|task_emb|base_model|output_dir|[a-z_]+)=(True|None|\.\.\.)?[ :,)]", text):
                wrong += [text] if "--" not in text and "encoder_pooling= " not in text else []
    assert wrong == []


def test_make_writes_an_adapter_that_peft_loads(t2l_command, checkpoint_dir: Path, base, tmp_path: Path) -> None:
    result = t2l_command("make", "upper case the city", "-m", checkpoint_dir, "-o", "mine")
    assert result.code == 0, result.err
    assert result.out == "mine\n"  # for a script
    assert "Adapter mine" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    PeftModel.from_pretrained(base, tmp_path / "mine")


def test_folder_is_named_after_the_description(t2l_command, checkpoint_dir: Path, tmp_path: Path) -> None:
    assert t2l_command("make", "Upper case: the City!", "-m", checkpoint_dir).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["upper-case-the-city"]


def test_make_json_is_one_object(t2l_command, checkpoint_dir: Path, base_dir: Path) -> None:
    options = ["--scale", 0.5, "--dtype", "bfloat16", "--device", "cpu", "--json"]
    result = t2l_command("make", " the city ", "-m", checkpoint_dir, "-o", "mine", *options)
    report = json.loads(result.out)
    assert (report["description"], report["path"], report["scale"]) == ("the city", "mine", 0.5)
    assert report["base_model"] == str(base_dir)
    adapter = LoraAdapter.from_pretrained("mine")
    assert adapter.num_bytes == report["bytes"]
    assert adapter.spec.lora_alpha == 4.0
    assert {str(value.dtype) for value in adapter.weights.values()} == {"torch.bfloat16"}


def test_make_folds_rslora(t2l_command, checkpoint_dir: Path) -> None:
    assert t2l_command("make", "the city", "-m", checkpoint_dir, "-o", "mine", "--fold-rslora").code == 0
    spec = LoraAdapter.from_pretrained("mine").spec
    assert (spec.use_rslora, spec.lora_alpha) == (False, 16.0)  # 8 sqrt(4)


def test_what_is_there_is_replaced_only_by_force(t2l_command, checkpoint_dir: Path) -> None:
    make = ["make", "the city", "-m", checkpoint_dir, "-o", "mine"]
    assert t2l_command(*make).code == 0
    before = Path("mine/adapter_config.json").read_bytes()
    result = t2l_command(*make, "--scale", 2)
    assert result.code == 1
    assert "mine exists" in result.err
    assert Path("mine/adapter_config.json").read_bytes() == before
    assert t2l_command(*make, "--scale", 2, "--force").code == 0
    assert LoraAdapter.from_pretrained("mine").spec.lora_alpha == 16.0


def test_force_does_not_replace_what_is_no_adapter(t2l_command, checkpoint_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").touch()
    assert t2l_command("make", "the city", "-m", checkpoint_dir, "-o", "work", "--force").code == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["work", "thesis.txt"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["make", "  "], "the description is empty"),
        (["make", "a\x07b"], "control characters"),
        (["make", "a", "-m", "/nothing/here"], "/nothing/here does not exist"),
        (["make", "a", "-m", "nobody/has-this"], "nobody/has-this is not in the cache"),
        (["make", "a", "-m", "CHECKPOINT", "--scale", "-1"], "scale is -1"),
        (["make", "a", "-m", "CHECKPOINT", "-o", "/proc/mine"], "/proc/mine cannot be written"),
        (["run", "/nothing/here", "x"], "/nothing/here does not exist"),
        (["run", "CHECKPOINT", "x"], "is a checkpoint, not an adapter"),
        (["make", "a", "-m", "Nano"], "did you mean 'nano'?"),
        (["info", "/nothing/here"], "/nothing/here does not exist"),
    ],
)
def test_errors_are_one_line_and_leave_nothing_behind(
    t2l_command, checkpoint_dir: Path, tmp_path: Path, args: list[str], message: str
) -> None:
    result = t2l_command(*(str(checkpoint_dir) if arg == "CHECKPOINT" else arg for arg in args))
    assert result.code == 1
    assert message in result.err
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 0
    assert result.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args",
    [
        ["make"],
        ["unknown"],
        ["make", "a", "--wrong"],
        ["make", "a", "--dtype", "int3"],
        ["make", "a", "--private"],
        ["make", "a", "--scale", "big"],
        ["push", "city"],
    ],
)
def test_wrong_calls_exit_with_two(t2l_command, tmp_path: Path, args: list[str]) -> None:
    result = t2l_command(*args)
    assert result.code == 2
    assert result.err
    assert "Value error" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_device_that_is_not_there_is_a_wrong_call(t2l_command, checkpoint_dir: Path) -> None:
    result = t2l_command("make", "a", "-m", checkpoint_dir, "--device", "tpu9")
    assert result.code == 2
    assert "--device" in result.err


def test_debug_shows_the_traceback(forked) -> None:
    command = [sys.executable, "-c", "from text2lora.cli import main; main()", "--debug", "make", " "]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert "Traceback" in done.stderr
    assert "InvalidDescriptionError" in done.stderr


def test_ctrl_c_ends_with_130_even_where_a_library_makes_another_error_of_it(t2l_command, monkeypatch) -> None:
    def interrupted(*args: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise ModuleNotFoundError("Could not import module 'PreTrainedModel'.") from stop

    monkeypatch.setattr("text2lora.cli.adapters.quiet", interrupted)
    assert t2l_command("info", "nano")[:2] == (130, "")


def test_ctrl_c_ends_with_130_while_the_command_is_imported(monkeypatch) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "text2lora.cli", Interrupted())
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())["project"]
    with pytest.raises(SystemExit) as stop:
        EntryPoint("t2l", project["scripts"]["t2l"], "console_scripts").load()()
    assert stop.value.code == 130


def test_run_takes_another_base(t2l_command, checkpoint_dir: Path, tmp_path: Path) -> None:
    assert t2l_command("make", "the city", "-m", checkpoint_dir, "-o", "mine").code == 0
    result = t2l_command("run", "mine", "x", "--base", tmp_path / "nothing")
    assert result.code == 1
    assert "cannot be loaded: " in result.err
    assert "nothing does not exist: " in result.err


def test_info_tells_a_checkpoint_from_an_adapter(t2l_command, checkpoint_dir: Path, base_dir: Path) -> None:
    facts = json.loads(t2l_command("info", checkpoint_dir, "--json").out)
    assert facts["what"] == "text2lora checkpoint"
    assert facts["target_modules"] == ["v_proj", "q_proj"]
    assert (facts["base_model"], facts["r"], facts["layers"]) == (str(base_dir), 4, 2)
    assert t2l_command("make", "the city", "-m", checkpoint_dir, "-o", "mine").code == 0
    facts = json.loads(t2l_command("info", "mine", "--json").out)
    assert facts["what"] == "LoRA adapter"
    assert (facts["dtype"], facts["r"], facts["alpha"]) == ("float32", 4, 8.0)
    assert facts["bytes"] == LoraAdapter.from_pretrained("mine").num_bytes
    assert "LoRA adapter" in t2l_command("info", "mine").out


def test_several_descriptions_make_several_adapters(t2l_command, checkpoint_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.txt").write_text("upper case\nlower case\nupper case\n")
    first = t2l_command("make", "--file", "tasks.txt", "-m", checkpoint_dir, "-o", "out", "--json")
    rows = json.loads(first.out)
    assert [(row["description"], row["skipped"]) for row in rows] == [("upper case", False), ("lower case", False)]
    assert [LoraAdapter.from_pretrained(row["path"]).metadata["description"] for row in rows] == [
        "upper case",
        "lower case",
    ]
    again = t2l_command("make", "the city", "upper case", "lower case", "-m", checkpoint_dir, "-o", "out")
    assert again.code == 0, again.err
    assert again.err.startswith("1 adapter in out, 2 existed already")
    assert [LoraAdapter.from_pretrained(folder).metadata["description"] for folder in again.out.split()] == [
        "upper case",
        "lower case",
        "the city",
    ]
    assert len(list((tmp_path / "out").iterdir())) == 3
    forced = t2l_command("make", "lower case", "upper case", "-m", checkpoint_dir, "-o", "out", "--force", "--json")
    assert [row["skipped"] for row in json.loads(forced.out)] == [False, False]
    inside = t2l_command("make", "--file", "tasks.txt", "-m", checkpoint_dir, "-o", rows[0]["path"])
    assert inside.err == f"Error: {rows[0]['path']} is an adapter: choose another folder with --output"
    one = t2l_command("make", "the city", "-m", checkpoint_dir, "-o", "tasks.txt")
    assert one.err == "Error: tasks.txt is a file: choose another folder"


def test_shards_of_a_file_are_made_apart(t2l_command, checkpoint_dir: Path, tmp_path: Path) -> None:
    texts = [f"city {number}" for number in range(6)]
    (tmp_path / "tasks.txt").write_text("\n".join(texts))
    made = []
    for number in (1, 2, 3):
        shard = ("--shard", f"{number}/3", "-m", checkpoint_dir, "-o", f"out{number}", "--json")
        rows = json.loads(t2l_command("make", "--file", "tasks.txt", *shard).out)
        assert not any(row["skipped"] for row in rows)
        made += [row["description"] for row in rows]
        assert all(row["skipped"] for row in json.loads(t2l_command("make", "--file", "tasks.txt", *shard).out))
    assert sorted(made) == texts


def test_a_shard_may_be_empty(t2l_command, checkpoint_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.txt").write_text("upper case")
    sizes = []
    for number in (1, 2):
        result = t2l_command("make", "--file", "tasks.txt", "--shard", f"{number}/2", "-m", checkpoint_dir, "--json")
        assert result.code == 0, result.err
        sizes.append(len(json.loads(result.out)))
    assert sorted(sizes) == [0, 1]


def test_a_mix_is_one_adapter_between_the_descriptions(t2l_command, checkpoint_dir: Path, monkeypatch) -> None:
    encode, read = TextEncoder.encode, []
    monkeypatch.setattr(TextEncoder, "encode", lambda self, texts: read.append(list(texts)) or encode(self, texts))
    result = t2l_command("make", "upper case", "the city", "--mix", "70,30", "-m", checkpoint_dir, "-o", "mixed")
    assert result.code == 0, result.err
    assert read == [["upper case", "the city"]]  # once
    expected = Text2LoraModel.from_pretrained(checkpoint_dir).interpolate(["upper case", "the city"], [0.7, 0.3])
    made = LoraAdapter.from_pretrained("mixed")
    assert made.metadata["description"] == expected.metadata["description"]
    for key, value in expected.weights.items():
        torch.testing.assert_close(made.weights[key], value)


@pytest.mark.parametrize(
    "args",
    [
        ["make"],
        ["make", "a", "--file", "x.txt"],
        ["make", "a", "b", "--push"],
        ["make", "a", "b", "--mix", "1"],
        ["make", "a", "b", "--mix", "x,y"],
        ["make", "a", "--mix", "1"],
        ["make", "--file", "x.txt", "--mix", "1,2"],
        ["make", "a", "--shard", "1/2"],
        *(
            ["make", "--file", "x.txt", "--shard", shard]
            for shard in ("0/2", "3/2", "1/0", "1", "a/b", "-1/2", "1/2/3")
        ),
    ],
)
def test_calls_that_say_two_things_exit_with_two(t2l_command, tmp_path: Path, args: list[str]) -> None:
    result = t2l_command(*args)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_bad_line_in_a_file_stops_before_anything_is_made(t2l_command, checkpoint_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"description": "good"}\n{"description": ""}\n')
    result = t2l_command("make", "--file", "tasks.jsonl", "-m", checkpoint_dir)
    assert result.code == 1
    assert "tasks.jsonl line 2: the description is empty" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["tasks.jsonl"]


def test_the_text_encoder_may_lie_elsewhere(t2l_command, checkpoint_dir: Path, tmp_path: Path) -> None:
    name = json.loads((checkpoint_dir / "config.json").read_text())["encoder_name_or_path"]
    copy = shutil.copytree(name, tmp_path / "copy")
    assert t2l_command("make", "city", "-m", checkpoint_dir, "-o", "one").code == 0
    assert t2l_command("make", "city", "-m", checkpoint_dir, "-o", "two", "--encoder", copy).code == 0
    weights = [tmp_path / folder / "adapter_model.safetensors" for folder in ("one", "two")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    missing = t2l_command("make", "city", "-m", checkpoint_dir, "-o", "three", "--encoder", "./nowhere")
    assert (missing.code, "nowhere" in missing.err) == (1, True)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    t2l_command, checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text2lora.files._is_mount_point", lambda place: place == tmp_path / "mounted")
    monkeypatch.setattr(Text2LoraModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("it was loaded"))
    (tmp_path / "mounted").mkdir()
    refused = t2l_command("make", "city", "-m", checkpoint_dir, "-o", "mounted")
    assert (refused.code, "mount" in refused.err) == (1, True), refused.err


def test_convert_writes_a_checkpoint_that_gives_the_same_adapters(t2l_command, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "repo" / "sub")
    result = t2l_command("convert", "repo", "new", "--subfolder", "sub")
    assert result.code == 0, result.err
    assert result.out == "new\n"
    task_emb = torch.ones(1, EMBEDDING)
    old, new = (
        Text2LoraModel.from_pretrained(tmp_path / f).generate_lora(task_emb=task_emb)[0] for f in ("repo/sub", "new")
    )
    assert all(torch.equal(old.weights[key], new.weights[key]) for key in old.weights)


def test_convert_leaves_nothing_behind_when_the_checkpoint_is_damaged(t2l_command, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "old") / "hypermod.pt"
    weights.write_bytes(weights.read_bytes()[:-99])
    result = t2l_command("convert", "old", "new")
    assert (result.code, result.out) == (1, "")
    assert "hypermod.pt is truncated" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    (tmp_path / "new").write_text("mine")
    for force in ([], ["--force"]):
        assert t2l_command("convert", "old", "new", *force).err.endswith("new is a file: choose another folder")


def test_convert_replaces_a_checkpoint_and_nothing_else(t2l_command, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "old")
    assert t2l_command("convert", "old", "new").code == 0
    refused = t2l_command("convert", "old", "new")
    assert (refused.code, "or replace a checkpoint with --force" in refused.err) == (1, True)
    assert t2l_command("convert", "old", "new", "--force", "--dtype", "bfloat16").code == 0
    assert str(Text2LoraModel.from_pretrained("new").dtype) == "torch.bfloat16"
    (tmp_path / "new" / "thesis.txt").touch()
    assert "thesis.txt, which is not part of a checkpoint" in t2l_command("convert", "old", "new", "--force").err


def test_adapters_are_found_in_a_subfolder(t2l_command, t2l: Text2LoraModel, base_dir: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        t2l.generate_lora(name, scale=2).save_pretrained(tmp_path / "runs" / name)
    run = ["x", "--max-new-tokens", 4, "--json"]
    assert t2l_command("run", "runs", "--subfolder", "one", *run).out == t2l_command("run", "runs/one", *run).out
    assert "did you mean 'runs/one'?" in t2l_command("run", "runs", *run).err
    assert t2l_command("export", "zip", "runs", "--subfolder", "two").out == "two.zip\n"
    (tmp_path / "t.jsonl").write_text('{"prompt": "x", "answer": "y"}\n')
    measure = ["eval", "-m", base_dir, "-t", "t.jsonl", "--shots", 0, "--json", "-a", "runs"]
    both = t2l_command(*measure, "--subfolder", "one", "-a", "runs", "--subfolder", "two")
    assert [row["condition"] for row in json.loads(both.out)["figures"]] == ["base", "one", "two"]
    wrong = t2l_command(*measure, "-a", "runs", "-a", "runs", "--subfolder", "one", "--subfolder", "two")
    assert (wrong.code, "2 times for 3 adapters" in wrong.err) == (2, True)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
@pytest.mark.parametrize("at", ["pipe", "terminal"])
def test_no_character_stops_a_command(
    checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, at: str
) -> None:
    """What the terminal has no letter for is shown by its number, JSON and names of files stay what they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("text2lora.cli.doctor.find_broken", dict)
    if at == "terminal":
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("TTY_INTERACTIVE", "0")

    def t2l(*args: str) -> bytes:
        pipes = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", pipes[0])
        monkeypatch.setattr(sys, "stderr", pipes[1])
        monkeypatch.setattr(sys, "argv", ["t2l", *args])
        with contextlib.suppress(SystemExit):
            main()
        out, err = (pipe.flush() or pipe.buffer.getvalue() for pipe in pipes)
        assert b"Error" not in err, err
        return out

    model = ("-m", str(checkpoint_dir))
    made = json.loads(t2l("make", "\u4e2d zur\u00fcck \u2192", *model, "-o", "caf\udce9", "--json"))
    assert (made["description"], made["path"]) == ("\u4e2d zur\u00fcck \u2192", "caf\udce9")
    assert b"caf\xe9" in t2l("make", "zurück", *model, "-o", "caf\udce9", "--force")
    t2l("make", "zurück → 中", *model, "-o", "mine")
    shown = {"utf-8": "zurück → 中", "cp1252": "zurück \\u2192 \\u4e2d", "ascii": "zur\\xfcck \\u2192 \\u4e2d"}
    assert shown[encoding] in t2l("list").decode(encoding, "surrogateescape")  # the folder's name is no text
    mark = "✓" if encoding == "utf-8" else "+"
    assert re.search(rf"{re.escape(mark)}\S* cpu: ", t2l("doctor").decode(encoding))


def test_text_that_the_terminal_could_not_decode_is_refused(t2l_command, checkpoint_dir: Path) -> None:
    assert t2l_command("make", "the city", "-m", checkpoint_dir, "-o", "mine").code == 0
    result = t2l_command("run", "mine", "zur\udcfcck")
    assert (result.code, "PYTHONUTF8=1" in result.err) == (2, True)
    assert "PYTHONUTF8=1" in t2l_command("make", "zur\udcfcck", "-m", checkpoint_dir).err


@pytest.mark.parametrize(("token", "told"), [("", "is empty"), (" \n", "is empty")])
def test_an_empty_token_is_a_wrong_call(t2l_command, token: str, told: str) -> None:
    result = t2l_command("make", "x", "--push", "--token", token)
    assert (result.code, told in result.err) == (2, True)


@pytest.mark.parametrize("columns", ["80", "40"])
def test_no_table_cuts_a_word_off(t2l_command, terminal, monkeypatch, columns: str) -> None:
    from text2lora.cli.adapters import answer_table
    from text2lora.cli.chat import _table
    from text2lora.cli.terminal import out, show

    monkeypatch.setenv("COLUMNS", columns)
    word = "internationalization"
    answers = {"base": f"{word} " * 3, "adapter": "x" * 60}
    show(answer_table([{"input": "a b", **answers}]))
    out.print(_table(answers, 1))
    text = re.sub(r"[^a-z]", "", t2l_command("--version").out)
    assert "\u2026" not in text
    assert text.count("x") == 2 * 60 + 1  # of text2lora


def test_terminal_shows_how_to_load_and_what_comes_next(t2l_command, terminal, checkpoint_dir: Path) -> None:
    made = t2l_command("make", "the city", "-m", checkpoint_dir, "-o", "mine")
    assert 'PeftModel.from_pretrained(base, "mine")' in made.out
    assert made.out.endswith("Next: t2l run mine 'your input'\n")
    ran = t2l_command("run", "mine", "x", "--max-new-tokens", 4)
    assert "┃ input ┃" in ran.out
    assert ran.out.endswith("Next: t2l chat mine\n")
    assert t2l_command("info", "mine").out.endswith("Next: t2l run mine 'your input'\n")
    assert f"--model {checkpoint_dir}" in t2l_command("info", checkpoint_dir).out.splitlines()[-1]
    assert json.loads(t2l_command("run", "mine", "x", "--max-new-tokens", 4, "--json").out)


def test_what_comes_next_is_quoted_for_a_shell(t2l_command, terminal) -> None:
    suggest("t2l", "run", "my [bold]folder", "$5 | 'x'")
    line = t2l_command("--version").out.splitlines()[1]
    assert shlex.split(line)[1:] == ["t2l", "run", "my [bold]folder", "$5 | 'x'"]


def test_piped_tables_are_cells_between_tabs(t2l_command, checkpoint_dir: Path) -> None:
    assert t2l_command("make", "the\tcity", "-m", checkpoint_dir, "-o", "mine").code == 0
    rows = [line.split("\t") for line in t2l_command("list").out.splitlines()]
    assert [row[:2] for row in rows] == [["mine", "the city"]]
    assert {len(row) for row in rows} == {4}
    facts = dict(line.split("\t") for line in t2l_command("info", "mine").out.splitlines())
    assert (facts["what"], facts["r"]) == ("LoRA adapter", "4")


COMPLETED = [
    ("t2l d", ["describe", "doctor"]),
    ("t2l check n", ["nano"]),
    ("t2l make x --model n", ["nano"]),
    ("t2l make x --dtype b", ["bfloat16"]),
    ("t2l train qwen", ["qwen3-0.6b", "qwen3-4b"]),
    ("t2l eval --tasks boolq,arc_", ["boolq,arc_challenge", "boolq,arc_easy"]),
    ("t2l chat out/m", ["out/mine"]),
]
COMPLETE = """
import contextlib, io, json, os, sys
from text2lora.cli import app
sys.argv, found = ["t2l"], {}
for words in json.loads(sys.stdin.read()):
    os.environ |= {"_T2L_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        app(prog_name="t2l")
    found[words] = said.getvalue()
print(json.dumps([found, "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a shell is offered for the last word, by a process that imports nothing for it but the command line."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "out/mine").mkdir(parents=True)
    (folder / "out/mine/adapter_config.json").touch()
    (folder / "out/more").mkdir()
    asked = json.dumps([words for words, _ in COMPLETED])
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE], input=asked, cwd=folder, capture_output=True, text=True, check=True
    )
    found, has_torch = json.loads(done.stdout)
    assert not has_torch
    return found


@pytest.mark.parametrize(("words", "expected"), COMPLETED)
def test_the_shell_completes(completions: dict[str, str], words: str, expected: list[str]) -> None:
    assert sorted(set(re.findall(r'"([^"]+)"', completions[words])) & set(expected)) == expected


def test_training_mistakes_are_one_line(t2l_command) -> None:
    result = t2l_command("train", "no-such-recipe")
    assert result.code == 1
    assert result.err.startswith("Error: ")


@given(st.text())
def test_slug_is_a_safe_folder_name(text: str) -> None:
    name = slug(text)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert len(name) <= 48
    assert slug(name) == name


@given(st.text(), st.text())
def test_load_snippet_loads_that_base_and_that_adapter(base: str, folder: str) -> None:
    calls = [node for node in ast.walk(ast.parse(load_snippet(base, folder))) if isinstance(node, ast.Call)]
    named = {ast.unparse(call.func): ast.literal_eval(call.args[-1]) for call in calls}
    expected = {"AutoModelForCausalLM.from_pretrained": base or "THE_BASE_MODEL"}
    assert named == expected | {"PeftModel.from_pretrained": folder}


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (152_000, "152 kB"), (6_800_000, "6.8 MB")]
)
def test_sizes_are_for_people(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text


@pytest.mark.parametrize("size", ["lora_r", "latent_size"])
def test_a_config_of_a_wrong_size_ends_a_command(t2l_command, checkpoint_dir: Path, tmp_path: Path, size: str) -> None:
    """The error was its own cause, and the search for Ctrl-C among the causes had no end."""
    shutil.copytree(checkpoint_dir, tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config | {size: 0}))
    done = t2l_command("info", "odd")
    assert done.code == 1
    assert f"{size} is 0: expected 1 or more" in done.err


def test_causes_in_a_circle_end() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert not _is_interrupt(one)
    assert hub_fault(one, "x") is None
    two.__cause__ = KeyboardInterrupt()
    assert _is_interrupt(one)


def test_what_may_not_be_read_is_one_line(t2l_command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "con/adapter_config.json")

    monkeypatch.setattr("text2lora.cli.adapters._facts", refuse)
    done = t2l_command("info", "con")
    assert (done.code, done.err) == (
        1,
        "Error: con/adapter_config.json cannot be used (Permission denied): check its permissions",
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "x"), "Error: x cannot be used (No space left on device)"),
        (OSError(9, "Bad file descriptor", 99), "Error: [Errno 9] Bad file descriptor: 99"),
    ],
)
def test_errors_of_the_system_are_one_line(t2l_command, monkeypatch, error: OSError, told: str) -> None:
    def refuse(*args: object) -> None:
        raise error

    monkeypatch.setattr("text2lora.cli.adapters._facts", refuse)
    assert t2l_command("info", "x")[::2] == (1, told)


def test_a_checkpoint_that_another_process_made_meanwhile_is_kept(
    t2l_command, checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Text2LoraModel.save_pretrained

    def save_late(model: Text2LoraModel, folder: Path) -> None:
        shutil.copytree(checkpoint_dir, tmp_path / "one")
        (tmp_path / "one" / "of-another-process").touch()
        save(model, folder)

    monkeypatch.setattr(Text2LoraModel, "save_pretrained", save_late)
    done = t2l_command("convert", checkpoint_dir, "one")
    assert (done.code, (tmp_path / "one" / "of-another-process").exists()) == (1, True)
    assert "one exists: choose another folder" in done.err


def test_a_failed_write_names_the_folder_that_was_asked_for(
    t2l_command, checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("text2lora.adapter.save_file", full)
    done = t2l_command("make", "the city", "-m", checkpoint_dir, "-o", "one")
    assert (done.code, done.err) == (1, "Error: one cannot be written (No space left on device): choose another place")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("force", [False, True])
def test_what_another_process_made_meanwhile_is_kept_without_force(
    t2l_command, checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    make, save = ["make", "the city", "-m", checkpoint_dir, "-o", "one"], LoraAdapter.save_pretrained

    def save_late(adapter: LoraAdapter, folder: Path) -> Path:
        other = replace(adapter, metadata={"description": "another"})
        save(other, tmp_path / "one")
        return save(adapter, folder)

    monkeypatch.setattr(LoraAdapter, "save_pretrained", save_late)
    done = t2l_command(*make, *(["--force"] if force else []))
    found = LoraAdapter.from_pretrained(tmp_path / "one").metadata["description"]
    assert (done.code, found) == ((0, "the city") if force else (1, "another"))
    assert force or "one exists: choose another folder, or replace it with --force" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_shares_of_a_mix_are_checked_before_anything_is_loaded(t2l_command) -> None:
    for mix in ("0,0", "-1,2", "nan,1"):
        done = t2l_command("make", "a", "b", f"--mix={mix}", "-m", "nowhere")
        assert done.code == 2
        assert "from 0 upwards" in " ".join(done.err.replace("│", "").split())


def test_ctrl_c_says_how_far_many_adapters_are(t2l_command, checkpoint_dir: Path, tmp_path: Path, monkeypatch) -> None:
    def stop(*args: object) -> Iterator[object]:
        yield from itertools.islice(write_adapters(*args), 1)
        raise KeyboardInterrupt

    monkeypatch.setattr("text2lora.batch.write_adapters", stop)
    done = t2l_command("make", "a", "b", "-m", checkpoint_dir, "-o", "many")
    assert done.code == 130
    assert "Stopped: 1 of 2 adapters are in many; the same command makes the others" in done.err


def test_convert_names_another_encoder_in_the_checkpoint(
    t2l_command, checkpoint_dir: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(encoder_dir, tmp_path / "encoder")
    assert t2l_command("convert", checkpoint_dir, "converted", "--encoder", "encoder").code == 0
    assert Text2LoraModel.from_pretrained(tmp_path / "converted").encoder_name == str(tmp_path / "encoder")
    refused = t2l_command("convert", checkpoint_dir, "other", "--encoder", "encoder", "--push")
    assert refused.code == 2
    assert "nobody finds on the Hub" in " ".join(refused.err.replace("│", "").split())


def test_a_long_description_is_shortened_in_a_list(t2l_command, terminal, tmp_path: Path) -> None:
    replace(make_adapter(), metadata={"description": "the city " * 3000}).save_pretrained(tmp_path / "long")
    assert 200 < len(t2l_command("list").out) < 2000
    (entry,) = json.loads(t2l_command("list", "--json").out)
    assert len(entry["description"]) > 20_000


def test_an_adapter_whose_weights_are_cut_off_is_listed_as_damaged(t2l_command, tmp_path: Path) -> None:
    weights = make_adapter().save_pretrained(tmp_path / "cut") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (entry,) = json.loads(t2l_command("list", "--json").out)
    assert entry["error"] == "cannot be read: t2l info cut says why"
