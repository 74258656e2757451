"""LoraAdapter: the weights and the configuration of one LoRA, from the hypernetwork to disk or into a live model."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from text2lora.arguments import checked_class
from text2lora.cards import adapter_card, card_metadata
from text2lora.errors import CheckpointError, InvalidArgumentError, OutputError, shown
from text2lora.files import atomic_folder, check_contents, check_path, first_line, size
from text2lora.hub import ADAPTER_FILES, CARD_NAME, Source, check_kind, load_fault
from text2lora.lora import (
    FLOAT_MAX,
    PEFT_PREFIX,
    Lora,
    LoraKey,
    LoraSpec,
    LoraWeights,
    spec_of,
    targeted_modules,
    unstack,
)
from text2lora.names import public_name, without_paths
from text2lora.push import PushTarget, push
from text2lora.shards import find_in_shards

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from peft import PeftModel
    from transformers import PreTrainedModel

    from text2lora.configuration import Text2LoraConfig

CONFIG_NAME, WEIGHTS_NAME, _ = ADAPTER_FILES
FACTORS = (".lora_A.weight", ".lora_B.weight")
SELECTING = ("target_modules", "exclude_modules", "layers_pattern", "layers_to_transform")
"""Fields of `peft.LoraConfig` that say which modules get a LoRA."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@checked_class(InvalidArgumentError)
@dataclass(frozen=True, repr=False, eq=False)
class LoraAdapter(Lora):
    """One LoRA adapter.

    Attributes:
        weights: the matrices by their keys in PEFT, such as
            `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` [r, in].
        spec: the rank, alpha, target modules and base model.
        metadata: where the adapter comes from: description, checkpoint, encoder, library version.
    """

    @property
    def num_bytes(self) -> int:
        """Size of the weights."""
        return sum(t.numel() * t.element_size() for t in self.weights.values())

    @property
    def _facts(self) -> dict[str, str]:
        """What the adapter is, in a few words each."""
        spec = self.spec
        dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in self.weights.values()})
        facts = {
            "description": " ".join(self.metadata.get("description", "").split()),
            "base": public_name(spec.base_model_name_or_path or ""),
            "target_modules": ", ".join(spec.module_names),
            "r": f"{spec.r}",
            "lora_alpha": f"{spec.lora_alpha:g}{' (rsLoRA)' if spec.use_rslora else ''}",
            "weights": f"{len(self.weights)} of {', '.join(dtypes)}, {size(self.num_bytes)}",
        }
        return {name: fact for name, fact in facts.items() if fact}

    def __repr__(self) -> str:
        facts = {name: fact if len(fact) <= 60 else f"{fact[:59]}…" for name, fact in self._facts.items()}
        return f"LoraAdapter({', '.join(f'{name}={fact!r}' for name, fact in facts.items())})"

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        rows = (f"<tr><th>{name}</th><td>{html.escape(fact)}</td></tr>" for name, fact in self._facts.items())
        return f"<table>{''.join(rows)}</table>"

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> LoraAdapter:
        """The adapter with its weights in another dtype or on another device; None keeps the current one.

        Raises:
            InvalidArgumentError: the dtype or the device cannot be used.
            CheckpointError: a weight is too large for the dtype.
        """
        check_dtype(dtype)
        try:
            weights = {key: value.to(device=device, dtype=dtype) for key, value in self.weights.items()}
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            raise InvalidArgumentError(
                f"device is {shown(device)}, which cannot be used: {first_line(error)}"
            ) from error
        check_fits(dtype, *weights.values())
        return dataclasses.replace(self, weights=weights)

    def scaled(self, scale: float) -> LoraAdapter:
        """The adapter with its effect on the base model multiplied by `scale`, which its metadata note.

        1.0 is as trained. The tables of the Text-to-LoRA paper were measured without the rsLoRA that the released
        checkpoints were trained with, at alpha / r instead of alpha / sqrt(r). For that strength, use a scale of
        1/sqrt(r).

        Raises:
            InvalidArgumentError: `scale` is not a number from 0 upwards.
        """
        factor = check_scale(scale)
        alpha = self.spec.lora_alpha * factor
        if alpha > FLOAT_MAX:
            raise InvalidArgumentError(f"scale is {scale:g}: the adapter's strength would overflow")
        before = self.metadata.get("scale", "1")
        noted = {"scale": f"{factor:g}" if before == "1" else f"{before} x {factor:g}"} if factor != 1 else {}
        spec = dataclasses.replace(self.spec, lora_alpha=alpha)
        return dataclasses.replace(self, spec=spec, metadata={**self.metadata, **noted})

    def folded(self) -> LoraAdapter:
        """The same adapter without rsLoRA, for engines that ignore it: alpha becomes alpha sqrt(r), delta W stays."""
        spec = dataclasses.replace(self.spec, lora_alpha=self.spec.scaling * self.spec.r, use_rslora=False)
        return dataclasses.replace(self, spec=spec) if self.spec.use_rslora else self

    def shareable(self) -> LoraAdapter:
        """The adapter without the base model's name, if that is a path on this machine."""
        return dataclasses.replace(self, spec=LoraSpec(**without_paths(dataclasses.asdict(self.spec))))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], dtype: torch.dtype | None = None, fold_rslora: bool = False
    ) -> Path:
        """Write `adapter_config.json`, `adapter_model.safetensors` and a model card.

        The folder appears complete or not at all, and replaces an adapter that was there. The same adapter gives the
        same bytes in every process. The Hub is not contacted.

        Args:
            save_directory: the folder to write.
            dtype: the dtype of the file; None keeps the adapter's.
            fold_rslora: whether to write the `folded` adapter.

        Raises:
            OutputError: the folder cannot be written, or contains something that is not an adapter.
            InvalidArgumentError: see `to`.
            CheckpointError: see `to`.
        """
        if not isinstance(fold_rslora, bool):
            raise InvalidArgumentError(f"fold_rslora is {shown(fold_rslora)}: expected True or False")
        adapter = (self.folded() if fold_rslora else self).to(dtype, "cpu")
        paths = adapter.module_paths
        if odd := sorted(paths - set(targeted_modules(adapter.spec, paths))):
            raise CheckpointError(
                f"the adapter has weights for {odd[0]}, but its spec does not target this module: add it to the spec's "
                "target_modules"
            )
        target = Path(check_path(save_directory, OutputError))
        check_contents(target, ADAPTER_FILES, "an adapter")
        with atomic_folder(target) as folder:
            text = json.dumps(adapter.spec.to_json(), indent=2, sort_keys=True)
            (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
            weights = {key: adapter.weights[key].detach().contiguous() for key in sorted(adapter.weights)}
            save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})
            (folder / CARD_NAME).write_text(adapter_card(adapter.spec, adapter.metadata), encoding="utf-8")
        return target

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
        force: bool = False,
    ) -> CommitInfo:
        """Push the adapter to the Hub in one commit, and create the repository if it does not exist.

        Args:
            repo_id: the repository: `USER/NAME`, `ORGANIZATION/NAME`, or `NAME` for one of your own.
            private: whether a new repository is private; None is the owner's default.
            token: a Hub token; None uses HF_TOKEN or the token from `hf auth login`.
            revision: the branch to push to, which is created if it does not exist; None is the default branch.
            create_pr: whether to open a pull request instead of pushing directly.
            commit_message: the commit's summary.
            force: whether to write into a repository that contains something other than a text2lora adapter; its other
                files stay.

        Returns:
            The commit: `repo_url`, `oid`, `pr_url`.

        Raises:
            HubError: you are not logged in or may not write there, the repository contains something else, or the Hub
                cannot be reached.
        """

        def write(folder: Path, target: PushTarget) -> None:
            self.shareable().save_pretrained(folder)
            (folder / CARD_NAME).write_text(adapter_card(self.spec, self.metadata, target.repo_id), encoding="utf-8")

        options: dict[str, Any] = {"private": private, "token": token, "revision": revision, "create_pr": create_pr}
        return push(write, repo_id, "adapter", **options, commit_message=commit_message, force=force)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        subfolder: str | None = None,
        revision: str | None = None,
        *,
        token: bool | str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> LoraAdapter:
        """Read an adapter in PEFT's format, or one adapter from a file of many.

        Args:
            directory: a folder or a Hub id; or a shard file, a folder of shard files, or the URL of either, such as
                `s3://bucket/adapters` (any that fsspec knows).
            subfolder: the folder of the adapter inside `directory`; with shard files, the name of the adapter.
            revision: a branch, tag or commit; configuration and weights come from the commit that it points to.
            token, cache_dir, local_files_only: as in transformers.

        Returns:
            The adapter. Its metadata come from its model card, with the repository and commit of one from the Hub.

        Raises:
            CheckpointError: there is no adapter, or it is not a plain LoRA.
        """
        directory = check_path(directory)
        if shard := find_in_shards(directory, subfolder):
            facts, name = shard.facts, str(subfolder)
            return cls(shard.read(name), facts.spec, {"description": facts.descriptions[name], **facts.metadata})
        hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        source = Source.of(directory, subfolder, revision, **hub)
        check_kind(Path(directory, source.subfolder), "adapter")
        files = source.fetch((CONFIG_NAME, WEIGHTS_NAME))
        card = source.find(CARD_NAME)
        try:
            metadata = card_metadata(card.read_text(encoding="utf-8", errors="replace")) if card else {}
        except CheckpointError as error:
            raise CheckpointError(f"{card} cannot be read: {error}; correct it, or delete it") from error
        if source.commit:
            metadata |= {"adapter": directory, "adapter_commit": source.commit}
        try:
            config = json.loads(files[CONFIG_NAME].read_text(encoding="utf-8"))
            weights = load_file(files[WEIGHTS_NAME])
        except Exception as error:
            reason = load_fault(error, directory, folder=files[WEIGHTS_NAME].parent)
            raise CheckpointError(f"{directory} does not contain a LoRA adapter that can be read ({reason})") from error
        return cls(weights, _read_spec(config, weights, str(directory)), metadata)

    def apply_to(self, model: PreTrainedModel | PeftModel, adapter_name: str = "default") -> PeftModel:
        """Attach the adapter to a live model, in the model's dtype and on its device, and make it the active one.

        A plain model is wrapped, or its earlier wrapper is used again. On a PeftModel, a new name adds an adapter and a
        known name replaces one. If rank and modules are the same, replacing only copies into the live parameters,
        whatever the scale: this takes less than a millisecond for 64 small modules, and is safe for a compiled model.
        The result is in eval mode, and no LoRA in it requires a gradient. Merged adapters are unmerged first.

        Args:
            model: the base model, in any dtype or quantised, or a PeftModel around it.
            adapter_name: the adapter's name in the model, a word without dots or parts of `lora_`.

        Raises:
            CheckpointError: the model does not have the modules or shapes of this adapter, or is wrapped for something
                else.
            InvalidArgumentError: `model` is not a model, or the name cannot be used.
        """
        from text2lora.attach import attach

        return attach(self, model, adapter_name)


def check_finite(weights: LoraWeights) -> LoraWeights:
    """The hypernetwork's output, after a check.

    Raises:
        CheckpointError: it holds infinity or NaN.
    """
    if not all(factor.isfinite().all() for factors in weights.values() for factor in factors):
        raise CheckpointError(
            "the hypernetwork wrote NaN or infinite weights: its own weights or the task embeddings contain such "
            "values, or are too large for its dtype"
        )
    return weights


def to_adapters(
    config: Text2LoraConfig, weights: LoraWeights, metadata: Sequence[Mapping[str, str]]
) -> list[LoraAdapter]:
    """LoRAs side by side as one `LoraAdapter` each, on the CPU; no tensor keeps the batch alive."""
    spec, states = spec_of(config), unstack(config, weights, len(metadata))
    return [LoraAdapter(state, spec, noted) for state, noted in zip(states, metadata, strict=True)]


def _read_spec(config: Any, weights: Mapping[str, torch.Tensor], source: str) -> LoraSpec:
    """What an `adapter_config.json` says, checked against the weights beside it."""
    given: dict[str, Any] = config if isinstance(config, dict) else {}
    paths = sorted({LoraKey.parse(key).path for key in weights})
    selecting = {name: given[name] for name in SELECTING if given.get(name) not in (None, [], "")}
    listed = [*selecting] == ["target_modules"] and not isinstance(selecting["target_modules"], str)
    pattern = "target_modules" in selecting and not listed  # an expression, `all-linear`, or some layers only
    spec = LoraSpec.from_json(given, source, paths if pattern else None)
    if not spec.target_modules:
        raise CheckpointError(f"{source} has an adapter_config.json that cannot be used: target_modules is empty")
    if not weights:
        raise CheckpointError(f"{source} is not a LoRA adapter of PEFT: {WEIGHTS_NAME} is empty")
    if odd := [key for key in weights if not key.startswith(PEFT_PREFIX) or not key.endswith(FACTORS)]:
        raise CheckpointError(
            f"{source} is not a plain LoRA adapter (it has a weight {odd[0]}): load it with peft.PeftModel"
        )
    if left_out := _left_out(selecting, paths, source):
        raise CheckpointError(
            f"{source} has weights for {left_out[0]}, but its adapter_config.json does not select this module, so PEFT "
            f"leaves it out: correct {', '.join(selecting)}"
        )
    return spec


def _left_out(selecting: dict[str, Any], paths: Sequence[str], source: str) -> list[str]:
    """The modules that PEFT puts no LoRA onto, by what a config says of modules and layers."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    try:
        config = LoraConfig(**selecting)
        if str(config.target_modules).lower() == "all-linear":  # all but the output layer
            config.target_modules = {path for path in paths if path != "lm_head"}
        return [path for path in paths if not check_target_module_exists(config, path)]
    except (ValueError, TypeError, re.error) as error:
        reason = first_line(error)
        raise CheckpointError(f"{source} has an adapter_config.json that cannot be used: {reason}") from error


def check_dtype(dtype: torch.dtype | None) -> None:
    """Refuse a dtype that no adapter can have; None stands for the one that it has.

    Raises:
        InvalidArgumentError: it is such a dtype.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype in DTYPES):
        names = ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
        raise InvalidArgumentError(f"dtype is {shown(dtype)}: expected one of torch's {names}")


def check_fits(dtype: torch.dtype | None, *weights: torch.Tensor) -> None:
    """Refuse weights that became infinite when they were converted to a dtype.

    Raises:
        CheckpointError: one of them did.
    """
    if dtype == torch.float16 and not all(value.isfinite().all() for value in weights):
        raise CheckpointError("a weight of this adapter is too large for float16: choose bfloat16")


def check_scale(scale: float) -> float:
    """The scale as a Python float.

    Raises:
        InvalidArgumentError: `scale` is not a number from 0 upwards.
    """
    try:
        number = float(scale)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last from tensors
        number = math.nan
    if isinstance(scale, str) or not 0 <= number < math.inf:
        raise InvalidArgumentError(f"scale is {shown(scale)}: expected a number from 0 upwards; 1.0 is as trained")
    return number
