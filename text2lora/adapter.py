"""LoraAdapter: the weights and the configuration of one LoRA, from the hypernetwork to disk or into a live model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from text2lora.errors import CheckpointError, OutputError
from text2lora.hub import (
    CARD_NAME,
    adapter_card,
    atomic_folder,
    card_metadata,
    fetch_files,
    push_folder,
    push_target,
    resolve_commit,
    without_paths,
)

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
WRAPPER = "_text2lora_wrapper"
"""Where a plain base keeps the PeftModel that `apply_to` made of it."""


@dataclass(frozen=True)
class LoraSpec:
    """What PEFT needs to know of a LoRA beside its weights; the fields are spelled as in `peft.LoraConfig`."""

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...]
    use_rslora: bool = False
    base_model_name_or_path: str | None = None
    revision: str | None = None

    def to_peft(self) -> LoraConfig:
        """The `peft.LoraConfig`, for inference, with target modules in a fixed order."""
        from peft import LoraConfig

        config = LoraConfig(
            r=self.r,
            lora_alpha=self.lora_alpha,
            use_rslora=self.use_rslora,
            target_modules=list(self.target_modules),
            task_type="CAUSAL_LM",
            inference_mode=True,
            base_model_name_or_path=self.base_model_name_or_path,
            revision=self.revision,
        )
        config.target_modules = sorted(self.target_modules)  # PEFT makes a set of it, whose order is the hash seed's
        return config


@dataclass(frozen=True)
class LoraAdapter:
    """One LoRA.

    Attributes:
        weights: by PEFT's key, as `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` [r, in].
        spec: rank, alpha, target modules and base.
        metadata: where it comes from: description, checkpoint, encoder, library version.
    """

    weights: Mapping[str, torch.Tensor]
    spec: LoraSpec
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Size of the weights."""
        return sum(t.numel() * t.element_size() for t in self.weights.values())

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> LoraAdapter:
        """The adapter with its weights in another dtype or on another device."""
        return dataclasses.replace(self, weights={k: v.to(device=device, dtype=dtype) for k, v in self.weights.items()})

    def scaled(self, scale: float) -> LoraAdapter:
        """The adapter with its effect on the base multiplied by `scale`; only `lora_alpha` changes."""
        if not scale >= 0 or scale == float("inf"):
            raise CheckpointError(f"scale is {scale}: expected a number from 0 upwards; 1.0 is as trained")
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, lora_alpha=self.spec.lora_alpha * scale))

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> Path:
        """Write `adapter_config.json`, `adapter_model.safetensors` and a card.

        The folder appears at once and whole, or not at all; one that already holds an adapter is replaced. The same
        adapter gives the same bytes in every process.

        Raises:
            OutputError: the folder cannot be written, or holds something that is not an adapter.
        """
        target = Path(save_directory)
        if target.exists() and not target.is_dir():
            raise OutputError(f"{target} is a file: choose another folder")
        found = {path.name for path in target.iterdir()} if target.exists() else set()
        if foreign := sorted(found - {CONFIG_NAME, WEIGHTS_NAME, CARD_NAME}):
            raise OutputError(f"{target} holds {foreign[0]}, no part of an adapter: choose another folder or empty it")
        with atomic_folder(target) as folder:
            config = self.spec.to_peft().to_dict()
            config["target_modules"] = sorted(config["target_modules"])
            text = json.dumps(config, indent=2, sort_keys=True, default=str)
            (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
            weights = {key: self.weights[key].detach().contiguous().cpu() for key in sorted(self.weights)}
            save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})
            (folder / CARD_NAME).write_text(adapter_card(self.spec, self.metadata), encoding="utf-8")
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
        """Put the adapter on the Hub, in one commit; the repository is made where there is none.

        Args:
            repo_id: `USER/NAME`, `ORGANIZATION/NAME`, or `NAME` for one of your own.
            private: for a new repository; None is the owner's default.
            token: a token of the Hub; None takes HF_TOKEN or the one of `hf auth login`.
            revision: the branch, made where there is none; None is the default one.
            create_pr: open a pull request.
            commit_message: the commit's summary.
            force: write into a repository that holds something else than an adapter of text2lora; its other files
                stay.

        Returns:
            The commit: `repo_url`, `oid`, `pr_url`.

        Raises:
            HubError: not logged in, no right to write, something else is there, or the Hub cannot be reached.
        """
        target = push_target(repo_id, "adapter", token=token, revision=revision, create_pr=create_pr, force=force)
        shared = dataclasses.replace(self, spec=LoraSpec(**without_paths(dataclasses.asdict(self.spec))))
        with tempfile.TemporaryDirectory() as parent:
            folder = shared.save_pretrained(Path(parent, "adapter"))
            (folder / CARD_NAME).write_text(adapter_card(self.spec, self.metadata, target.repo_id), encoding="utf-8")
            return push_folder(
                folder,
                target,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message,
            )

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        subfolder: str | None = None,
        revision: str | None = None,
        **hub: Any,
    ) -> LoraAdapter:
        """Read an adapter in PEFT's layout.

        Args:
            directory: a folder or a Hub id.
            subfolder: inside it.
            revision: a branch, tag or commit; configuration and weights come from the one commit that it is now.
            **hub: `token`, `cache_dir`, `local_files_only`.

        Returns:
            The adapter; its metadata are those of its card, and of one from the Hub also repository and commit.

        Raises:
            CheckpointError: there is none, or it is not a plain LoRA.
        """
        commit = resolve_commit(directory, revision, **hub)
        files = fetch_files(directory, (CONFIG_NAME, WEIGHTS_NAME), subfolder, commit, **hub)
        metadata: dict[str, str] = {}
        with contextlib.suppress(CheckpointError, OSError, UnicodeDecodeError):  # an adapter need not have a card
            card = fetch_files(directory, (CARD_NAME,), subfolder, commit, **hub)[CARD_NAME]
            metadata = card_metadata(card.read_text(encoding="utf-8"))
        if sha := getattr(commit, "resolved", None):
            metadata |= {"adapter": str(directory), "adapter_commit": sha}
        try:
            config = json.loads(files[CONFIG_NAME].read_text(encoding="utf-8"))
            weights = load_file(files[WEIGHTS_NAME])
        except Exception as error:
            raise CheckpointError(f"{directory} holds no readable LoRA adapter ({error})") from error
        known = {f.name for f in dataclasses.fields(LoraSpec)}
        missing = {"r", "lora_alpha", "target_modules"} - set(config)
        if config.get("peft_type") != "LORA" or missing:
            raise CheckpointError(f"{directory} is not a LoRA adapter of PEFT (peft_type {config.get('peft_type')!r})")
        more = [name for name in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(name)]
        more += [key for key in weights if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
        if more:
            raise CheckpointError(f"{directory} is not a plain LoRA adapter ({more[0]}): load it with peft.PeftModel")
        modules = config["target_modules"]
        if isinstance(modules, str):  # a regular expression, or `all-linear`
            modules = sorted({key.rpartition(".lora_")[0].rpartition(".")[2] for key in weights})
        modules = tuple(modules)
        spec = LoraSpec(**{k: v for k, v in config.items() if k in known} | {"target_modules": modules})
        return cls(weights, spec, metadata)

    def apply_to(self, model: PreTrainedModel | PeftModel, adapter_name: str = "default") -> PeftModel:
        """Attach the adapter to a live model, in the model's dtype and on its device, and make it the active one.

        A plain model is wrapped, and one that was wrapped here before is found in its wrapper; on a PeftModel a new
        name adds an adapter and a known one replaces it in place. The result is in eval mode and nothing in it
        requires a gradient.

        Raises:
            CheckpointError: the model has not the modules or shapes of this adapter.
        """
        from peft import PeftModel, get_peft_model

        config = self.spec.to_peft()
        config.base_model_name_or_path = None  # PEFT would warn and put the model's path there; it is set below
        if not isinstance(model, PeftModel):
            model = _wrapper_of(model) or model
        if not isinstance(model, PeftModel):
            self._check_modules(model)
            plain = model
            model = get_peft_model(plain, config, adapter_name, low_cpu_mem_usage=True, autocast_adapter_dtype=False)
            plain.__dict__[WRAPPER] = model  # past nn.Module's __setattr__, which would make it a submodule
            self._load(model, adapter_name, assign=True)
        elif adapter_name not in model.peft_config:
            self._check_modules(model.get_base_model())
            model.add_adapter(adapter_name, config, low_cpu_mem_usage=True, autocast_adapter_dtype=False)
            self._load(model, adapter_name, assign=True)
        elif self._same_layout(model.peft_config[adapter_name]):
            self._load(model, adapter_name, assign=False)
        else:
            self._check_modules(model.get_base_model())
            model.delete_adapter(adapter_name)
            model.add_adapter(adapter_name, config, low_cpu_mem_usage=True, autocast_adapter_dtype=False)
            self._load(model, adapter_name, assign=True)
        model.peft_config[adapter_name].base_model_name_or_path = self.spec.base_model_name_or_path
        model.set_adapter(adapter_name, inference_mode=True)
        return model.eval()

    def _same_layout(self, config: Any) -> bool:
        ours = self.spec
        theirs = (config.r, config.lora_alpha, config.use_rslora, sorted(config.target_modules))
        return theirs == (ours.r, ours.lora_alpha, ours.use_rslora, sorted(ours.target_modules))

    def _check_modules(self, model: PreTrainedModel) -> None:
        """Compare every A and B with the model's linear module before anything is touched."""
        base = self.spec.base_model_name_or_path or "another base"
        modules = dict(model.named_modules())
        paths = {key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in self.weights}
        extra = [p for p in modules if p.rpartition(".")[2] in self.spec.target_modules and p not in paths]
        if extra:
            raise CheckpointError(
                f"this adapter is for {base}: it has nothing for {extra[0]} and {len(extra) - 1} other modules of the "
                "model given; pass the base it was made for"
            )
        for key, weight in self.weights.items():
            path, factor = key.removeprefix(PREFIX).removesuffix(".weight").rsplit(".", 1)
            module = modules.get(path)
            size = getattr(module, "in_features" if factor == "lora_A" else "out_features", None)
            if size is None and module is not None and hasattr(module, "nf"):  # GPT-2's Conv1D
                size = module.weight.shape[0 if factor == "lora_A" else 1]
            given = weight.shape[1 if factor == "lora_A" else 0]
            if size != given:
                found = "no such linear module" if size is None else f"{size} features"
                raise CheckpointError(
                    f"this adapter is for {base}: {path} has {given} features there, but {found} in the model given; "
                    "pass the base it was made for"
                )

    def _load(self, model: PeftModel, adapter_name: str, assign: bool) -> None:
        from peft import set_peft_model_state_dict

        # cloned, since PEFT makes the tensors it is given the parameters, and a later replacement would write into them
        state = {key: value.clone() for key, value in self.weights.items()}
        result = set_peft_model_state_dict(model, state, adapter_name=adapter_name, low_cpu_mem_usage=assign)
        missing = [key for key in result.missing_keys if "lora_" in key and f".{adapter_name}." in key]
        if result.unexpected_keys or missing:
            raise CheckpointError(
                f"the adapter does not fit the model: unexpected {result.unexpected_keys[:3]}, missing {missing[:3]}"
            )


def _wrapper_of(model: PreTrainedModel) -> PeftModel | None:
    """The PeftModel that was made of a plain model earlier, unless it has been unloaded since."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = any(isinstance(module, BaseTunerLayer) for module in model.modules())
    return model.__dict__.get(WRAPPER) if wrapped else None
