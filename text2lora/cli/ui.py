"""`t2l ui`."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from text2lora.bundled import DEFAULT
from text2lora.cli.options import Device, parse_device
from text2lora.cli.terminal import err, out, quiet
from text2lora.errors import MissingExtraError, ServerError
from text2lora.hub import proxy_fault
from text2lora.installation import install_command

LIMITS = "Limits of each visitor"
LOCAL = ("127.0.0.1", "localhost", "::1")


def ui(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Checkpoint that visitors may choose; may be repeated (default: `smol`). For a folder inside a Hub "
            "repository, use OWNER/NAME/FOLDER.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets in everyone on the network.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port to listen on (default: the first free one from 7860).")] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Give the page a public address, through a Gradio server.")
    ] = False,
    device: Device = "auto",
    use_login: Annotated[
        bool, typer.Option("--use-login", help="Use this machine's Hub login for pushes without a token.")
    ] = False,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, in tokens.", rich_help_panel=LIMITS)
    ] = 128,
    max_input: Annotated[int, typer.Option(min=1, help="Longest input, in characters.", rich_help_panel=LIMITS)] = 4000,
    max_queue: Annotated[int, typer.Option(min=1, help="Most requests that may wait.", rich_help_panel=LIMITS)] = 32,
) -> None:
    """Open a web app to make, try, compare, download and push adapters.

    Example: t2l ui --model smol --model ./my-checkpoint
    """
    if use_login and (share or host not in LOCAL):
        raise typer.BadParameter(
            "would let every visitor push as you: leave out --share and --host", param_hint="--use-login"
        )
    quiet()
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"the web app needs Gradio: {install_command('ui')}") from error
    except (ImportError, ValueError) as error:  # it makes a client of HTTP when it is imported
        raise ServerError(proxy_fault(error) or f"Gradio cannot be loaded ({error})") from error
    from text2lora.ui.app import running
    from text2lora.ui.service import Limits, Service

    names = model or [DEFAULT]
    limits = Limits(message=max_input, new_tokens=max_new_tokens)
    service = Service(names, parse_device(device), limits, own_login=use_login)
    with err.status(f"loading {names[0]}"):
        service.engine(names[0])
    with running(service, host, port, share, max_queue) as url:
        out.print(f"[bold green]Open[/] {url}  (Ctrl-C stops it)")
        threading.Event().wait()
