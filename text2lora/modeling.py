"""Text2LoraModel: from a task description to a LoRA adapter, in one forward pass."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init

from text2lora.adapter import LoraAdapter, LoraSpec, check_scale
from text2lora.arithmetic import describe, numbers
from text2lora.configuration import Text2LoraConfig
from text2lora.encoder import TextEncoder, check_description
from text2lora.errors import CheckpointError, InvalidDescriptionError
from text2lora.hub import BASES, CHECKPOINTS, library_version, resolve_name
from text2lora.hypernetwork import HyperNetwork, LoraWeights, TokenTaskEncoder
from text2lora.live import PREFIX

if TYPE_CHECKING:
    from peft import PeftModel

_LOADING = threading.RLock()  # of encoders and bases, when first used; a lock in the model could not be copied


class Text2LoraModel(PreTrainedModel):
    """A hypernetwork that turns task descriptions into LoRA adapters of its base model.

    `save_pretrained` writes the hypernetwork only. The text encoder and the base model stay outside the module tree
    and are loaded when first needed.

    ```python
    t2l = Text2LoraModel.from_pretrained("nano")
    adapter = t2l.generate_lora("Return the city in upper case.")
    adapter.save_pretrained("city-upper")
    ```
    """

    config_class = Text2LoraConfig
    config: Text2LoraConfig
    base_model_prefix = "hypernet"
    main_input_name = "task_emb"
    model_tags = ["text2lora"]  # noqa: RUF012 - as transformers declares it

    def __init__(self, config: Text2LoraConfig):
        super().__init__(config)
        self.hypernet = HyperNetwork(config)
        self._lazy: dict[str, Any] = {}
        self._load_kwargs: dict[str, Any] = {}
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=5**0.5)  # as nn.Linear itself does
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, TokenTaskEncoder):
            init.normal_(module.latents)
        elif isinstance(module, HyperNetwork) and module.factors == 2:
            init.normal_(module.factor_embedding)

    def initialize_weights(self) -> None:
        """Initialise what was not loaded; `_init_weights` sees no module that has no parameters of its own."""
        super().initialize_weights()
        self.hypernet.init_outputs()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        encoder: str | TextEncoder | None = None,
        base_model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a checkpoint, strictly: a missing, superfluous or ill-shaped weight is an error.

        Args:
            pretrained_model_name_or_path: a folder, a Hub id, or `nano`.
            *args: as in transformers.
            encoder: a path or Hub id to use in place of the checkpoint's text encoder, or a `TextEncoder`.
            base_model_kwargs: for the base model's `from_pretrained`, when it is loaded.
            **kwargs: as in transformers: `dtype`, `device_map`, `subfolder`, `revision`, `token`, `local_files_only`,
                `cache_dir`, ...; `token`, `local_files_only` and `cache_dir` serve encoder and base too.

        Raises:
            CheckpointError: nothing is there, or it is not a whole text2lora checkpoint.
        """
        name = str(pretrained_model_name_or_path)
        path = resolve_name(name, CHECKPOINTS)
        with_info = kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
        except (OSError, ValueError, RuntimeError, KeyError, StrictDataclassError) as error:
            if isinstance(error, CheckpointError):
                raise
            cause = error.__cause__ if isinstance(error, StrictDataclassError) else error
            reason = str(cause).strip().split("\n")[0]
            raise CheckpointError(
                f"{name!r} is not a text2lora checkpoint that can be loaded ({reason}): expected "
                f"{', '.join(map(repr, CHECKPOINTS))}, a folder or a Hub id"
            ) from error
        wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys") if info[kind]}
        if wrong:
            raise CheckpointError(f"the weights of {name!r} do not match its config: {wrong}")
        model.config.name_or_path = name
        shared = {k: v for k, v in kwargs.items() if k in ("token", "local_files_only", "cache_dir")}
        model._load_kwargs = {"encoder": encoder, "shared": shared, "base": base_model_kwargs or {}}
        return (model, info) if with_info else model

    @property
    def encoder(self) -> TextEncoder:
        """The text encoder; loaded when first used. Assign a `TextEncoder` to replace it."""
        with _LOADING:
            if "encoder" not in self._lazy:
                given = self._load_kwargs.get("encoder")
                if not isinstance(given, TextEncoder):
                    shared = self._load_kwargs.get("shared", {})
                    given = TextEncoder.from_config(self.config, given, device_map=str(self.device), **shared)
                self._lazy["encoder"] = given
            return self._lazy["encoder"]

    @encoder.setter
    def encoder(self, encoder: TextEncoder) -> None:
        self._lazy["encoder"] = encoder

    def load_base_model(self, **kwargs: Any) -> PreTrainedModel:
        """Load the base model that the adapters are for.

        Args:
            **kwargs: for `AutoModelForCausalLM.from_pretrained`, over `base_model_kwargs` of `from_pretrained`.

        Raises:
            CheckpointError: it cannot be had.
        """
        from transformers import AutoModelForCausalLM

        options = {"device_map": str(self.device), **self._load_kwargs.get("shared", {})}
        if self.config.base_model_revision:
            options["revision"] = self.config.base_model_revision
        options |= self._load_kwargs.get("base", {}) | kwargs
        try:
            return AutoModelForCausalLM.from_pretrained(self._base_path(), **options)
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(
                f"the base model {self.config.base_model_name_or_path!r} cannot be loaded ({reason}): pass base_model="
            ) from error

    @property
    def base_tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer; loaded when first used."""
        if "tokenizer" not in self._lazy:
            from transformers import AutoTokenizer

            self._lazy["tokenizer"] = AutoTokenizer.from_pretrained(
                self._base_path(), **self._load_kwargs.get("shared", {})
            )
        return self._lazy["tokenizer"]

    def _base_path(self) -> str:
        if not self.config.base_model_name_or_path:
            raise CheckpointError("this checkpoint names no base model: pass base_model=")
        return resolve_name(self.config.base_model_name_or_path, BASES)

    def forward(self, task_emb: torch.Tensor) -> LoraWeights:
        """Task embeddings to LoRA weights, differentiable.

        Args:
            task_emb: [n, d], or token states [n, tokens, d] where `config.task_encoder` is `tokens`.

        Returns:
            By target module: A [n, layers, r, in] and B [n, layers, out, r].
        """
        return self.hypernet(task_emb)

    @overload
    def generate_lora(
        self, description: str | None = None, task_emb: torch.Tensor | None = None, scale: float = 1.0
    ) -> LoraAdapter: ...

    @overload
    def generate_lora(
        self, description: list[str] | tuple[str, ...], task_emb: torch.Tensor | None = None, scale: float = 1.0
    ) -> list[LoraAdapter]: ...

    @torch.inference_mode()
    def generate_lora(
        self,
        description: str | Sequence[str] | None = None,
        task_emb: torch.Tensor | None = None,
        scale: float = 1.0,
    ) -> LoraAdapter | list[LoraAdapter]:
        """Make adapters in batched passes. No base model is loaded.

        Args:
            description: what the adapter should do; a list gives a list.
            task_emb: task embeddings [n, d] (or token states [n, tokens, d]) in place of the encoder's; then
                `description` is only noted in the metadata and may be None, and the result is a list.
            scale: the strength of the adapters; 1.0 is as trained (see `LoraAdapter.scaled`).

        Returns:
            A `LoraAdapter`, or a list of them, on the CPU and in the hypernetwork's dtype.

        Raises:
            InvalidDescriptionError: a description that is empty, not a string, or of control characters.
            CheckpointError: task embeddings of another size than the checkpoint's.
        """
        scale = check_scale(scale)
        one = isinstance(description, str | bytes)  # bytes only to be refused
        single = task_emb is None and (one or not isinstance(description, Sequence))
        given = [description] if single or one else list(description or [])
        if task_emb is None:
            checked = [check_description(text) for text in given]
            if not checked:
                return []
            task_emb = self.encoder.encode(checked)
        else:
            checked = [check_description(text) for text in given] or [""] * len(task_emb)
        self._check_task_emb(task_emb, len(checked))
        made: list[LoraAdapter] = []
        for part in task_emb.split(self._tasks_at_a_time()):
            texts = checked[len(made) : len(made) + len(part)]
            made += self._adapters(self.hypernet(part.to(self.device, self.dtype)), texts, scale)
        return made[0] if single else made

    @torch.inference_mode()
    def interpolate(self, descriptions: Sequence[str], weights: Sequence[float], scale: float = 1.0) -> LoraAdapter:
        """Make one adapter from between several descriptions: "70 % legal, 30 % plain English".

        The hypernetwork runs once, on the weighted mean of what it reads: of the task embeddings, brought back to
        length sqrt(d) where `config.encoder_normalize` has it so; where `config.task_encoder` is `tokens`, of the task
        encoder's outputs. `text2lora.combine` adds up finished adapters instead.

        Args:
            descriptions: at least one.
            weights: one each, from 0 upwards; only their ratios count.
            scale: the strength of the adapter; 1.0 is as trained.

        Returns:
            The adapter; its description names the parts with their shares.

        Raises:
            InvalidDescriptionError: see `generate_lora`.
            CheckpointError: weights that are not such numbers.
        """
        scale = check_scale(scale)
        if isinstance(descriptions, str):
            raise InvalidDescriptionError("interpolate takes a list of descriptions, got a string")
        shares = torch.tensor(numbers(weights), dtype=torch.float64)
        if len(shares) != len(descriptions) or not (shares >= 0).all() or not 0 < shares.sum() < float("inf"):
            raise CheckpointError(
                f"weights are {weights}: expected a number from 0 upwards for each of the {len(descriptions)} "
                "descriptions, not all of them 0"
            )
        shares = (shares / shares.sum()).float().to(self.device)
        checked = [check_description(text) for text in descriptions]
        task_emb = self.encoder.encode(checked).to(self.device)
        self._check_task_emb(task_emb, len(checked))
        if self.config.task_encoder == "tokens":
            task = shares.to(self.dtype) @ self.hypernet.task_encoder(task_emb.to(self.dtype))
            made = self.hypernet.decode(task[None])
        else:
            mean = shares @ task_emb
            if self.config.encoder_normalize:
                mean = F.normalize(mean, dim=-1) * len(mean) ** 0.5
            made = self.hypernet(mean[None].to(self.dtype))
        return self._adapters(made, [describe(checked, shares.tolist())], scale)[0]

    def generate_adapter(
        self,
        description: str,
        base_model: PreTrainedModel | PeftModel | None = None,
        adapter_name: str = "default",
        scale: float = 1.0,
    ) -> PeftModel:
        """Make an adapter and attach it to the base model.

        Args:
            description: what the adapter should do.
            base_model: a loaded base, or a PeftModel around it; None loads the checkpoint's base once and keeps it.
            adapter_name: a new name adds an adapter, a known one replaces it in place; it becomes the active one.
            scale: the strength of the adapter; 1.0 is as trained.

        Returns:
            The PeftModel, in the base's dtype and on its device, in eval mode, with nothing trainable.

        Raises:
            InvalidDescriptionError: see `generate_lora`.
            CheckpointError: the base is not the one that the checkpoint is for.
        """
        adapter = self.generate_lora(check_description(description), scale=scale)
        if base_model is None:
            with _LOADING:
                base_model = self._lazy.get("base") or self._lazy.setdefault("base", self.load_base_model())
        return adapter.apply_to(base_model, adapter_name)

    def _check_task_emb(self, task_emb: torch.Tensor, count: int) -> None:
        dims = 2 if self.config.task_encoder == "pooled" else 3
        shape = tuple(task_emb.shape)
        if task_emb.ndim != dims or shape[0] != count or shape[-1] != self.config.task_emb_size:
            expected = f"[{count}, {'tokens, ' if dims == 3 else ''}{self.config.task_emb_size}]"
            raise CheckpointError(f"task embeddings of shape {list(shape)}: expected {expected}")

    def _tasks_at_a_time(self) -> int:
        """As many as fill the processor: more would only hold more of the heads' output in memory, beside the copy."""
        rows = self.config.num_layers * self.hypernet.factors * self.hypernet.ranks
        return max(1, (512 if self.device.type == "cpu" else 8192) // rows)

    def _adapters(self, weights: LoraWeights, descriptions: Sequence[str], scale: float) -> list[LoraAdapter]:
        """The hypernetwork's output as one adapter per task."""
        spec = LoraSpec(
            r=self.config.lora_r,
            lora_alpha=self.config.lora_alpha,
            target_modules=tuple(self.config.target_modules),
            use_rslora=self.config.use_rslora,
            base_model_name_or_path=self.config.base_model_name_or_path,
            revision=self.config.base_model_revision,
        )
        source = {
            "checkpoint": _public_name(self.config.name_or_path),
            "encoder": self.config.encoder_name_or_path or "",
            "text2lora": library_version(),
            "scale": f"{scale:g}",
        }
        made = [
            LoraAdapter(state, spec, ({"description": text} if text else {}) | source)
            for state, text in zip(self._state_dicts(weights), descriptions, strict=True)
        ]
        return [adapter.scaled(scale) for adapter in made]

    def _state_dicts(self, weights: LoraWeights) -> list[dict[str, torch.Tensor]]:
        """One dict in PEFT's key names per task. Each tensor has its own memory: it keeps no batch alive."""
        states: list[dict[str, torch.Tensor]] = [{} for _ in range(len(next(iter(weights.values()))[0]))]
        for name, factors in weights.items():
            path = self.config.module_paths[name]
            for letter, factor in zip("AB", factors, strict=True):
                for state, layers in zip(states, factor.cpu(), strict=True):
                    for layer, weight in enumerate(layers):  # torch transposes matrices faster than stacks of them
                        key = f"{PREFIX}{path.format(layer=layer)}.lora_{letter}.weight"
                        state[key] = weight.clone(memory_format=torch.contiguous_format)
        return states


def _public_name(name: str | None) -> str:
    """A checkpoint's name for cards: of a path on this machine the last part only."""
    return os.path.basename(os.path.normpath(name)) if name and os.path.isdir(name) else name or "unsaved"


AutoConfig.register("text2lora", Text2LoraConfig)
AutoModel.register(Text2LoraConfig, Text2LoraModel)
