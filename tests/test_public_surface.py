"""What users may rely on, and who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import text2lora

PACKAGE = Path(text2lora.__file__).parent
LAYERS = [
    "bundled",
    "errors",
    "installation",
    "files",
    "arguments",
    "names",
    "processor",
    "turns",
    "targets",
    "configuration",
    "lora",
    "cards",
    "hub",
    "push",
    "digest",
    "base",
    "linear",
    "task_encoder",
    "hypernetwork",
    "upstream",
    "encoder",
    "novelty",
    "attach",
    "shards",
    "adapter",
    "arithmetic",
    "sharing",
    "injection",
    "inference",
    "language",
    "tuning",
    "confidence",
    "together",
    "functions",
    "scoring",
    "companions",
    "modeling",
    "shortcut",
    "batch",
    "integrations",
    "export",
    "server",
    "training",
    "evaluation",
    "nano",
    "samples",
    "recipes",
    "ui",
    "cli",
    "__main__",
]
"""Imports go up this list only."""


def test_public_names_are_these() -> None:
    assert sorted(text2lora.__all__) == [
        "CheckpointError",
        "DescriptionWarning",
        "EvaluationError",
        "Function",
        "HubError",
        "InvalidArgumentError",
        "InvalidDescriptionError",
        "LoraAdapter",
        "LoraSpec",
        "MissingExtraError",
        "OutputError",
        "ServerError",
        "TaskError",
        "Text2LoraConfig",
        "Text2LoraError",
        "Text2LoraModel",
        "TextEncoder",
        "TrainingError",
        "base_model_path",
        "combine",
        "function",
        "library_version",
    ]


def test_every_public_name_can_be_had_and_is_documented() -> None:
    for name in text2lora.__all__:
        assert getattr(text2lora, name).__doc__
        assert name in dir(text2lora)
    assert text2lora.__version__ == text2lora.library_version()
    with pytest.raises(AttributeError, match="no attribute 'Text2Lora'"):
        _ = text2lora.Text2Lora


def test_every_error_has_one_root() -> None:
    for name in text2lora.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(text2lora, name), text2lora.Text2LoraError)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, text2lora, text2lora.hub; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported_layers(node: ast.AST) -> set[str]:
    """The parts of text2lora that a piece of code imports when it runs, lazy imports included."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports are not used here"
            deeper = child.module == "text2lora"
            names = [f"text2lora.{alias.name}" for alias in child.names] if deeper else [child.module]
        else:
            names = []
        found |= {name.split(".")[1] for name in names if name.startswith("text2lora.")}
        found |= imported_layers(child)
    return found


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE) != Path("__init__.py"))


def test_the_page_on_architecture_lists_the_modules_in_this_order() -> None:
    page = (PACKAGE.parent / "docs/concepts/architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == [layer for layer in LAYERS if layer != "__main__"]


def test_no_modules_import_each_other_in_a_circle() -> None:
    """For type checking neither; with the script that measures the code."""
    from structure import circles, imports

    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
    found = imports(PACKAGE)
    assert "text2lora.lora" in found["text2lora.adapter"]
    assert circles(found) == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    assert imported_layers(ast.parse(path.read_text(encoding="utf-8"))) - set(allowed) == set()


def sections(docstring: str) -> dict[str, list[str]]:
    """The names that each section of a docstring explains; those before any section stand under an empty name."""
    found: dict[str, list[str]] = {"": []}
    section = ""
    for line in docstring.splitlines():
        if heading := re.fullmatch(r"(Args|Attributes|Raises|Returns|Yields):", line):
            section = heading[1]
            found[section] = []
        elif line and not line.startswith(" "):
            section = ""
        if names := re.match(r"(?:    )?([*\w]+(?:, [*\w]+)*): ", line):
            found[section] += [name.lstrip("*") for name in names[1].split(", ")]
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_explain_every_argument_and_nothing_else(path: Path) -> None:
    wrong = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        found = sections(ast.get_docstring(node) or "")
        arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        more = [a.arg for a in (node.args.vararg, node.args.kwarg) if a]
        wrong += [f"{node.name}: {name}" for name in found[""] if name.endswith("Error")]
        if "Args" in found:
            wrong += [f"{node.name}: {name}" for name in found["Args"] if name not in (*arguments, *more)]
        if "Args" in found and not node.name.startswith("_"):
            missing = set(arguments) - {"self", "cls"} - set(found["Args"])
            wrong += [f"{node.name}: {name} is missing" for name in sorted(missing)]
    assert not wrong
