"""`t2l doctor`."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from text2lora.base import find_packaged, unpacking_folder
from text2lora.bundled import BASE_OF, BASES, CHECKPOINTS, DEFAULT
from text2lora.cli.options import AsJson
from text2lora.cli.terminal import err, out, print_json, quiet, say, show_facts, suggest
from text2lora.files import size
from text2lora.hub import proxies, proxy_fault
from text2lora.installation import install_command
from text2lora.names import library_version

CORE = ("torch", "transformers", "peft", "huggingface_hub")
FOR_DEVELOPERS = ("dev", "docs")


def doctor(as_json: AsJson = False) -> None:
    """Show what this machine can run, and what to install for the rest. The exit code is 1 if text2lora is broken.

    Example: t2l doctor
    """
    with err.status("checking this machine"):
        broken = find_broken()
        report: dict[str, Any] = {
            "broken": broken,
            "text2lora": library_version(),
            "python": platform.python_version(),
            "platform": platform.platform(terse=True),
            "packages": {name: _installed(name) for name in CORE},
            "extras": find_extras(),
        }
        if not broken:
            quiet()
            report |= {"device": find_device(), "proxies": proxies(), "hub": ask_hub(), "cache": measure_cache()}
            report["smol_needs"] = find_models_of("smol")
            report["fits"] = estimate_fits(report["device"]["memory"])
    if as_json:
        print_json(report, indent=2)
    else:
        _show(report)
    if broken:
        raise typer.Exit(1)


def find_broken() -> dict[str, str]:
    """The required packages and files that are missing or damaged, each with the reason."""
    broken = {}
    for name in CORE:
        try:
            importlib.import_module(name)
        except Exception as error:  # a damaged installation raises anything
            broken[name] = " ".join(str(error).split()) or type(error).__name__
    for name, folder in (CHECKPOINTS | {f"{name} (base)": path for name, path in BASES.items()}).items():
        if missing := [file for file in ("config.json", "model.safetensors") if not (folder / file).is_file()]:
            broken[name] = f"{folder} has no {missing[0]}"
    return broken


def find_extras() -> dict[str, list[str]]:
    """By extra of this library, the requirements that are not met here."""
    from importlib.metadata import PackageNotFoundError, metadata

    from packaging.requirements import Requirement

    try:
        found = metadata("text2lora")
    except PackageNotFoundError:  # run from a source tree
        return {}
    requirements = [Requirement(text) for text in found.get_all("Requires-Dist") or []]
    return {
        extra: [
            f"{requirement.name}{requirement.specifier}"
            for requirement in requirements
            if requirement.marker
            and requirement.marker.evaluate({"extra": extra})
            and not requirement.marker.evaluate({"extra": ""})  # needed without the extra, too
            and not requirement.specifier.contains(_installed(requirement.name) or "0a0", prereleases=True)
        ]
        for extra in found.get_all("Provides-Extra") or []
        if extra not in FOR_DEVELOPERS
    }


def _installed(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def find_device() -> dict[str, Any]:
    """What `--device auto` takes, and the memory that models find there, in bytes."""
    import torch

    from text2lora.processor import host_memory

    memory = host_memory()
    if torch.cuda.is_available():
        found, gpus = torch.cuda.get_device_properties(0), torch.cuda.device_count()
        return {"name": "cuda", "model": found.name, "gpus": gpus, "memory": found.total_memory, "host_memory": memory}
    device: dict[str, Any] = {"name": "cpu", "model": platform.machine(), "threads": torch.get_num_threads()}
    device |= {"memory": memory, "host_memory": memory}
    if torch.backends.mps.is_available():
        device["other"] = "mps"
    return device


def ask_hub(timeout: float = 5.0) -> dict[str, Any]:
    """Whether the Hub answers, whether there is a token, and whose. A token is never shown."""
    import httpx2
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

    token, endpoint = get_token(), constants.ENDPOINT
    answer: dict[str, Any] = {"endpoint": endpoint, "reachable": False, "user": None}
    there = "a token is set" if token else "no token is set"
    if constants.is_offline_mode():
        return answer | {"status": f"not asked, because HF_HUB_OFFLINE is set; {there}"}
    try:
        headers = build_hf_headers(token=token or False)
        response = get_session().get(f"{endpoint}/api/whoami-v2", headers=headers, timeout=timeout)
        status, found = response.status_code, response.json()
        if status == 200:
            return answer | {"reachable": True, "user": (user := found["name"]), "status": f"logged in as {user}"}
    except (httpx2.LocalProtocolError, UnicodeEncodeError):
        return answer | {"status": "the token cannot be sent: it contains a line break or a letter outside ASCII"}
    except (httpx2.HTTPError, ImportError, ValueError, KeyError, TypeError) as error:
        reason = proxy_fault(error) or f"no valid answer within {timeout:g} s"
        return answer | {"status": f"cannot be reached: {reason}; {there}"}
    told = {401: "the token is not valid" if token else "not logged in"}.get(
        status, f"the Hub answers with status {status}; {there}"
    )
    return answer | {"reachable": status == 401, "status": told}


def find_models_of(checkpoint: str) -> list[str]:
    """The encoder and the base model of a bundled checkpoint, as far as they must come from the Hub first."""
    from huggingface_hub import try_to_load_from_cache

    config = json.loads((CHECKPOINTS[checkpoint] / "config.json").read_text(encoding="utf-8"))
    return [
        name
        for name in (config["encoder_name_or_path"], config["base_model_name_or_path"])
        if not (find_packaged(name) or isinstance(try_to_load_from_cache(name, "model.safetensors"), str))
    ]


def measure_cache() -> dict[str, Any]:
    """Where models are kept that were downloaded or unpacked, how many bytes they are, and for how many there is room.

    The first folder is that of the Hub.
    """
    from huggingface_hub import constants

    folders = [Path(constants.HF_HUB_CACHE), unpacking_folder()]
    # blobs are linked to, and links are not followed
    files = (Path(parent, name) for folder in folders for parent, _, names in os.walk(folder) for name in names)
    size = sum(file.lstat().st_size for file in files if not file.is_symlink())
    there = next(parent for parent in (folders[0], *folders[0].parents) if parent.exists())
    return {"folders": [*map(str, folders)], "bytes": size, "free": shutil.disk_usage(there).free}


def estimate_fits(memory: int) -> dict[str, float]:
    """The parameters of the largest base that fits, by dtype, as far as its weights are concerned."""
    from text2lora.processor import MODEL_SHARE

    return {dtype: MODEL_SHARE * memory / size for dtype, size in (("float32", 4), ("bfloat16", 2))}


def _show(report: dict[str, Any]) -> None:
    good, bad = out.or_plain("✓", "+"), out.or_plain("–", "-")
    facts: dict[str, str] = {}

    def row(name: str, text: str, fine: bool = True) -> None:
        facts[name] = f"[green]{good}[/] {escape(text)}" if fine else f"[yellow]{bad}[/] {escape(text)}"

    row("text2lora", f"{report['text2lora']}, Python {report['python']}, {report['platform']}")
    row(
        "libraries",
        ", ".join(f"{name} {found or 'missing'}" for name, found in report["packages"].items()),
        not report["broken"],
    )
    for name, reason in report["broken"].items():
        row(name, reason, False)
    if device := report.get("device"):
        what = f"{device['name']}: {device['model']}, {size(device['memory'])}"
        if device["name"] == "cpu":
            what += f", {device['threads']} thread{'s' * (device['threads'] != 1)}"
            what += "; for the Apple GPU, use --device mps" if "other" in device else "; PyTorch sees no GPU"
        elif device["gpus"] > 1:
            what += f", the first of {device['gpus']} GPUs"
        row("device", what)
        from text2lora.processor import MODEL_SHARE

        fits = report["fits"]
        row(
            "base models that fit",
            f"up to {billions(fits['bfloat16'])} parameters in bfloat16, {billions(fits['float32'])} in float32 "
            f"(2 and 4 bytes each, in {MODEL_SHARE * 100:.0f} % of the memory)",
        )
        hub, cache = report["hub"], report["cache"]
        if report["proxies"]:
            told = ", ".join(f"{name}={value}" for name, value in report["proxies"].items())
            row("proxy", told, hub["reachable"])
        row("Hub", f"{hub['status']}, {hub['endpoint']}", bool(hub["user"]))
        row("cache", f"{size(cache['bytes'])} in {' and '.join(cache['folders'])}, {size(cache['free'])} free")
        needs = f"needs {' and '.join(report['smol_needs'])} from the Hub, or {install_command('smol')}"
        row("smol", needs if report["smol_needs"] else "works without the Hub", not report["smol_needs"])
    for name, missing in report["extras"].items():
        row(
            f"extra {name}",
            f"missing {', '.join(missing)}: {install_command(name)}" if missing else "installed",
            not missing,
        )
    show_facts(facts)
    if report["broken"]:
        say(f"[bold red]Broken[/]: install the library again, {escape(install_command('', '--force-reinstall'))}")
    else:
        _advise(report)


def _advise(report: dict[str, Any]) -> None:
    """Say what to do next."""
    if not report["hub"]["reachable"]:
        say(
            "[dim]Other checkpoints and base models come from the Hub: check the network, the proxy and HF_ENDPOINT.[/]"
        )
    elif not report["hub"]["user"]:
        say("[dim]To push, or to use gated base models, log in: hf auth login[/]")
    if not report["hub"]["user"]:
        works = "model nano works" if report["smol_needs"] else "models smol and nano work"
        say(f"[dim]The bundled {works} without the Hub.[/]")
    from text2lora.samples import BY_BASE

    usable = "nano" if report["smol_needs"] and not report["hub"]["reachable"] else DEFAULT
    chosen = [] if usable == DEFAULT else ["--model", usable]
    suggest("t2l", "make", BY_BASE[BASE_OF[usable]].descriptions[0], *chosen)


def billions(number: float) -> str:
    """A number of parameters for people: 4.8 B."""
    return f"{number / 1e9:.1f} B" if number >= 1e8 else f"{number / 1e6:.0f} M"
