"""Options that several commands have, and what is made of their values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from text2lora.arguments import resolve_device
from text2lora.bundled import CHECKPOINTS, PACKAGE
from text2lora.cli.terminal import err, surrogate
from text2lora.errors import InvalidArgumentError
from text2lora.hub import MARKERS
from text2lora.push import PushTarget, push_target

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

    from text2lora.adapter import LoraAdapter
    from text2lora.modeling import Text2LoraModel


def folders_with(marker: str, incomplete: str) -> list[str]:
    """Folders whose names begin like this and that contain a file of that name."""
    return sorted(str(path.parent) for path in Path().glob(f"{incomplete}*/{marker}")) if incomplete[:1] != "/" else []


def complete_checkpoint(incomplete: str) -> list[str]:
    """For the shell: built-in checkpoints, and folders that may be one."""
    built_in = [name for name in CHECKPOINTS if name.startswith(incomplete)]
    return built_in + folders_with(MARKERS["checkpoint"], incomplete)


def complete_adapter(incomplete: str) -> list[str]:
    """For the shell: folders with an adapter."""
    return folders_with(MARKERS["adapter"], incomplete)


def complete_recipe(incomplete: str) -> list[str]:
    """For the shell: recipes that ship with the package."""
    return sorted(path.stem for path in PACKAGE.glob(f"*/recipes/{incomplete}*.yaml"))


def complete_device(incomplete: str) -> list[str]:
    """For the shell: devices that PyTorch may have."""
    return [name for name in ("auto", "cpu", "cuda", "mps") if name.startswith(incomplete)]


Adapter = Annotated[str, typer.Argument(help="Folder or Hub id of a LoRA adapter.", autocompletion=complete_adapter)]
Base = Annotated[str | None, typer.Option(help="Base model (default: the one that the adapter names).")]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Checkpoint: `smol`, `nano`, a folder or a Hub id.", autocompletion=complete_checkpoint
    ),
]
Device = Annotated[
    str, typer.Option(help="Device to run on: `auto`, `cpu`, `cuda`, ...", autocompletion=complete_device)
]
HUB = "On the Hub"
EXAMPLES = "Examples"
EXAMPLES_HINT = "--example / --examples"


def _clean_token(token: str | None) -> str | None:
    if token is not None and not token.strip():
        raise typer.BadParameter("is empty: leave it out to use HF_TOKEN or the token from `hf auth login`")
    return token and token.strip()  # of a file, the line break at its end


Token = Annotated[
    str | None,
    typer.Option(
        help="Hub token (default: HF_TOKEN or the token from `hf auth login`).",
        callback=_clean_token,
        rich_help_panel=HUB,
    ),
]
Push = Annotated[bool, typer.Option("--push", help="Push the result to the Hub.", rich_help_panel=HUB)]
RepoId = Annotated[
    str | None,
    typer.Option(
        help="Repository to push to: USER/NAME or NAME (default: named after the result).", rich_help_panel=HUB
    ),
]
Private = Annotated[
    bool, typer.Option("--private", help="Make the repository private if it is new.", rich_help_panel=HUB)
]
CreatePr = Annotated[
    bool, typer.Option("--create-pr", help="Open a pull request instead of pushing directly.", rich_help_panel=HUB)
]
Subfolder = Annotated[str | None, typer.Option(help="Folder inside the given folder or repository.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(metavar="DTYPE", help="dtype of the weights: float32, bfloat16 or float16 (default: unchanged)."),
]
Scale = Annotated[float, typer.Option(help="Strength of the adapter; 1.0 is as trained.")]
Server = Annotated[
    str | None, typer.Option(help="Address of a server with OpenAI's API; its key is read from OPENAI_API_KEY.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Number of inputs to answer at a time.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Example = Annotated[
    list[str] | None,
    typer.Option(
        help="An example to learn from, as `INPUT => ANSWER`; repeat the option for more.", rich_help_panel=EXAMPLES
    ),
]
ExampleFile = Annotated[
    Path | None,
    typer.Option(
        "--examples",
        help='.jsonl file of examples to learn from, {"prompt": "INPUT", "answer": "ANSWER"} on each line.',
        rich_help_panel=EXAMPLES,
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what already exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@dataclass(frozen=True)
class Pushing:
    """How a command pushes what it makes: the options of the Hub."""

    repo_id: str | None
    private: bool
    create_pr: bool
    token: str | None
    force: bool

    @classmethod
    def of(
        cls, push: bool, repo_id: str | None, private: bool, create_pr: bool, token: str | None, force: bool
    ) -> Pushing | None:
        """The options as they were given; None without --push.

        Raises:
            typer.BadParameter: there are options of the Hub without --push.
        """
        if not push and (repo_id or private or create_pr):
            raise typer.BadParameter("needed with --repo-id, --private and --create-pr", param_hint="--push")
        return cls(repo_id, private, create_pr, token, force) if push else None

    def check(self, name: str, kind: Literal["adapter", "checkpoint"]) -> PushTarget:
        """Find out whether the push can work, before anything is made. The name counts where --repo-id gives none.

        Raises:
            HubError: see `push_target`.
        """
        with err.status("asking the Hub"):
            repo_id = self.repo_id or name
            return push_target(repo_id, kind, token=self.token, create_pr=self.create_pr, force=self.force)

    def send(self, made: LoraAdapter | Text2LoraModel, target: PushTarget) -> CommitInfo:
        """Push an adapter or a checkpoint.

        Raises:
            HubError: see `push_target`.
        """
        return made.push_to_hub(
            target.repo_id, private=self.private or None, token=self.token, create_pr=self.create_pr, force=self.force
        )


def parse_examples(given: Sequence[str] | None, file: Path | None) -> list[tuple[str, str]]:
    """The examples of --example and --examples.

    Raises:
        typer.BadParameter: an example has no `=>`.
        TaskError: see `read_examples`.
    """
    found = []
    for text in given or []:
        before, arrow, after = text.rpartition("=>")
        if not (arrow and before.strip() and after.strip()):
            raise typer.BadParameter(f"{text!r}: expected `INPUT => ANSWER`", param_hint="--example")
        found.append((before.strip(), after.strip()))
    if file:
        from text2lora.training.task_files import read_examples

        found += read_examples(file)
    return found


def check_texts(texts: Iterable[str], hint: str) -> None:
    """Refuse an argument that the terminal's encoding could not decode: tokenizers take text only."""
    for text in texts:
        if any(surrogate(character) for character in text):
            raise typer.BadParameter(
                "contains bytes that cannot be decoded in this terminal's encoding: use UTF-8, for example with "
                "PYTHONUTF8=1",
                param_hint=hint,
            )


def parse_dtype(name: str | None) -> Any:
    """A torch dtype by its name; None stays None."""
    import torch

    return name and getattr(torch, name)


def parse_device(name: str) -> str:
    """`auto` is the GPU where there is one."""
    try:
        return resolve_device(name, "it")
    except InvalidArgumentError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from error
