"""Model cards: the README of an adapter, of a merged model and of a checkpoint. Their texts are in `templates`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2lora.bundled import BASES
from text2lora.errors import CheckpointError, InvalidArgumentError, shown
from text2lora.names import is_public, library_version, public_name

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

    from text2lora.configuration import Text2LoraConfig
    from text2lora.lora import LoraSpec


TEMPLATES = Path(__file__).parent / "templates"


def quoted(text: str) -> str:
    """A text as a string of Python in double quotes; half a character, as of a file's name, as its code."""
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):x}", json.dumps(text, ensure_ascii=False))


def load_snippet(base: str | None, adapter: str) -> str:
    """The lines of Python that load an adapter with only PEFT."""
    source = quoted(base or "THE_BASE_MODEL")
    lines = ["from peft import PeftModel; from transformers import AutoModelForCausalLM"]
    if base in BASES:
        source = f"text2lora.base_model_path({source})"
        lines.insert(0, "import text2lora")
    lines.append(f"base = AutoModelForCausalLM.from_pretrained({source})")
    lines.append(f"model = PeftModel.from_pretrained(base, {quoted(adapter)})")
    return "\n".join(lines)


def adapter_card(spec: LoraSpec, metadata: Mapping[str, str], repo_id: str | None = None) -> str:
    """The README of an adapter, with the front matter that the Hub reads; `card_metadata` reads the metadata back.

    Paths of this machine are not shown.
    """
    return _lora_card(spec, metadata, repo_id)


def merged_card(spec: LoraSpec, metadata: Mapping[str, str]) -> str:
    """The README of a base model with an adapter merged into it. Paths of this machine are not shown."""
    return _lora_card(spec, metadata, merged=True)


def _lora_card(spec: LoraSpec, metadata: Mapping[str, str], repo_id: str | None = None, merged: bool = False) -> str:
    from huggingface_hub import ModelCardData

    base, on_hub = _base_for_card(spec.base_model_name_or_path)
    metadata = {key: value if key == "description" else public_name(value) for key, value in metadata.items()}
    tags = ["text2lora"] if merged else ["lora", "text2lora", *([f"base_model:adapter:{base}"] if on_hub else [])]
    library = "transformers" if merged else "peft"
    data: Any = ModelCardData(library_name=library, pipeline_tag="text-generation", tags=tags, text2lora=metadata)
    if on_hub:
        data.base_model, data.base_model_relation = base, "finetune" if merged else "adapter"
    description = " ".join(metadata.get("description", "").split())
    rows = {key.replace("_", " "): value for key, value in metadata.items() if key != "description"}
    rows |= {"r": str(spec.r), "alpha": f"{spec.lora_alpha:g}", "rsLoRA": "yes" if spec.use_rslora else "no"}
    rows |= {"target modules": ", ".join(spec.module_names)}
    loadable = base if on_hub or base in BASES else None
    return _render(
        "merged" if merged else "adapter",
        data,
        rows,
        {"snippet": load_snippet(loadable, repo_id or "PATH_OR_REPO_OF_THIS_ADAPTER")},
        title=description[:80] or ("Merged model" if merged else "LoRA adapter"),
        base=base,
        description=description,
        made_from=_made_from(metadata),
    )


def _made_from(metadata: Mapping[str, str]) -> str:
    if not (count := metadata.get("examples")):
        return "a sentence by a hypernetwork, without training data"
    examples = f"{count} example{'' if count == '1' else 's'}"
    return f"{'a sentence and ' if metadata.get('description') else ''}{examples} by a hypernetwork"


def _render(template: str, data: ModelCardData, rows: Mapping[str, str], code: Mapping[str, str], **texts: str) -> str:
    """A card: its front matter, a table of rows, code as it is, and texts without markup."""
    from huggingface_hub import ModelCard

    escaped = {name: escape_markdown(text) for name, text in texts.items()}
    table = [(escape_markdown(name), escape_markdown(value)) for name, value in rows.items()]
    path = str(TEMPLATES / f"{template}.md")
    return str(ModelCard.from_template(data, template_path=path, rows=table, **code, **escaped))


def card_metadata(card: str) -> dict[str, str]:
    """The metadata that `adapter_card` wrote; empty for any other card.

    Raises:
        CheckpointError: they are damaged, as by an edit.
    """
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        found = ModelCard(card, ignore_metadata_errors=True).data.to_dict().get("text2lora")
    except (ValueError, YAMLError, RecursionError) as error:
        if re.search(r"^text2lora:", card, re.M):
            raise CheckpointError(f"the card's front matter is not YAML ({error})") from error
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def checkpoint_card(
    config: Text2LoraConfig,
    num_parameters: int,
    repo_id: str | None = None,
    eval_results: Mapping[str, float] | None = None,
) -> str:
    """The README of a checkpoint, with the front matter that the Hub reads. Paths of this machine are not shown.

    Raises:
        InvalidArgumentError: `eval_results` contains something other than numbers.
    """
    from huggingface_hub import EvalResult, ModelCardData

    title = repo_id.rpartition("/")[2] if repo_id else "text2lora checkpoint"
    base, on_hub = _base_for_card(config.base_model_name_or_path)
    figures = _figures({} if eval_results is None else eval_results)
    data = ModelCardData(
        model_name=title if figures else None,
        library_name="text2lora",
        pipeline_tag="text-generation",
        base_model=base if on_hub else None,
        tags=["text2lora", "lora", "hypernetwork"],
        eval_results=[
            EvalResult("text-generation", task or "text2lora", task or "text2lora", metric, value)
            for task, metric, value in figures
        ]
        or None,
    )
    encoder = public_name(config.encoder_name_or_path or "none")
    rows = {
        "base model": f"{base or 'none'} {config.base_model_revision or ''}",
        "text encoder": f"{encoder} {config.encoder_revision or ''}",
        "task encoder": f"{config.task_encoder}, {config.task_emb_size} features",
        "hypernetwork": f"head {config.head}, width {config.latent_size} and {config.head_input_size}, "
        f"{num_parameters:,} parameters",
        "adapters": f"r {config.lora_r}, alpha {config.lora_alpha:g}{', rsLoRA' * config.use_rslora}, "
        f"{config.num_layers} layers of {', '.join(config.target_modules)}",
        "text2lora": library_version(),
    }
    rows |= {f"{task} {metric}".strip(): f"{value:g}" for task, metric, value in figures}
    name = quoted(repo_id or "PATH_OR_REPO_OF_THIS_CHECKPOINT")
    return _render("checkpoint", data, rows, {"name": name}, title=title, base=base)


def _figures(given: object) -> list[tuple[str, str, float]]:
    """Task, metric and value of each figure."""
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and isinstance(value, int | float) and abs(value) <= sys.float_info.max
        for name, value in given.items()
    ):
        raise InvalidArgumentError(f"eval_results is {shown(given)}: expected numbers by TASK/METRIC")
    return [(*name.rpartition("/")[::2], float(value)) for name, value in given.items()]


def escape_markdown(text: str) -> str:
    """A text as one line of Markdown that shows it unchanged, without markup, HTML or the end of a table's cell."""
    line = re.sub(r"([\\`*\[\]<>|~&$]|\b_\B|\B_)", r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d*)([-+#=.)])", r"\1\\\2", line)  # what would begin a heading, a list or a rule


def _base_for_card(name: str | None) -> tuple[str, bool]:
    """The base model's name without paths of this machine, and whether the Hub can have it; "" for none."""
    name = name or ""
    return public_name(name), "/" in name and is_public(name)
