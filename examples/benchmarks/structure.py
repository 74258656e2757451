"""Measures the code itself: its size, long functions, and circles of imports.

    python examples/benchmarks/structure.py [FOLDER]

FOLDER is a checkout of text2lora; the default is the one that this file is in.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

LONG = 60


def lines(folder: Path) -> int:
    """Lines of all Python files below a folder."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py"))


def functions(folder: Path) -> Iterator[tuple[int, str]]:
    """The length and the name of every function below a folder, decorators and docstring included."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                yield (node.end_lineno or first) - first + 1, f"{path.relative_to(folder.parent)}:{node.name}"


def imports(package: Path) -> dict[str, set[str]]:
    """By module, the modules of the package that it imports, within functions and for type checking too."""
    known = {".".join(path.relative_to(package.parent).with_suffix("").parts): path for path in package.rglob("*.py")}
    known = {name.removesuffix(".__init__"): path for name, path in known.items()}
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        targets: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= (inner & known.keys()) or {node.module}
        found[name] = (targets & known.keys()) - {name, package.name}
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in graph.get(todo.pop(), set()) - seen:
                seen.add(name)
                todo.append(name)
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return sorted(sorted(group) for group in groups if group)


def main() -> None:
    """Print the figures of a checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[2])
    folder = parser.parse_args().folder
    package = folder / "text2lora"
    found = sorted(functions(package), reverse=True)
    long = [(length, name) for length, name in found if length > LONG]
    round_trips = circles(imports(package))
    print(f"lines of the package: {lines(package):,}; of the tests: {lines(folder / 'tests'):,}")
    print(f"functions: {len(found):,}; longer than {LONG} lines: {len(long)}")
    for length, name in long:
        print(f"  {length:3} {name}")
    print(f"circles of imports: {len(round_trips)}")
    for group in round_trips:
        print(f"  {', '.join(group)}")


if __name__ == "__main__":
    main()
