"""Text2LoraModel: from a task description to a LoRA adapter, in one forward pass."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init

from text2lora.adapter import LoraAdapter, check_finite, check_scale, to_adapters
from text2lora.arguments import checked, load_options
from text2lora.arithmetic import describe_sum, numbers
from text2lora.base import context_length
from text2lora.bundled import CHECKPOINTS
from text2lora.cards import checkpoint_card
from text2lora.companions import Companions
from text2lora.confidence import FILE_NAME as CALIBRATION_FILE
from text2lora.confidence import Calibration
from text2lora.configuration import Text2LoraConfig
from text2lora.digest import config_values, digest
from text2lora.encoder import TextEncoder, check_description, check_descriptions, rescale
from text2lora.errors import (
    CheckpointError,
    InvalidArgumentError,
    OutputError,
    Text2LoraError,
    about,
    shown,
)
from text2lora.files import check_path, first_line, is_foreign_card, make_readable
from text2lora.hub import (
    CARD_NAME,
    CHECKPOINT_FILES,
    HUB_OPTIONS,
    MARKERS,
    Source,
    check_kind,
    hub_fault,
    load_fault,
)
from text2lora.hypernetwork import TrunkHyperNetwork, build_hypernetwork
from text2lora.lora import LoraWeights
from text2lora.names import library_version, public_name, resolve_name, without_paths
from text2lora.novelty import FILE_NAME as STATISTICS_FILE
from text2lora.novelty import DescriptionStatistics, Novelty, warn_caller
from text2lora.processor import align
from text2lora.push import PushTarget, push
from text2lora.task_encoder import SoftmaxTaskEncoder, TokenTaskEncoder, VectorQuantizedTaskEncoder
from text2lora.upstream import find_upstream, read_upstream

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from peft import PeftModel

    from text2lora.functions import Function
    from text2lora.tuning import Examples, OnStep, Pair, Tuned

EXPECTED = f"expected {', '.join(map(repr, CHECKPOINTS))}, a folder or a Hub id of a checkpoint"


class Text2LoraModel(PreTrainedModel):
    """A hypernetwork that turns task descriptions into LoRA adapters of its base model.

    `save_pretrained` writes the hypernetwork only. The text encoder and the base model stay outside the module tree
    and are loaded when first needed.

    ```python
    t2l = Text2LoraModel.from_pretrained("smol")
    adapter = t2l.generate_lora("Which city is mentioned? Just the name.")
    adapter.save_pretrained("city")
    ```
    """

    config_class = Text2LoraConfig
    config: Text2LoraConfig
    base_model_prefix = "hypernet"
    main_input_name = "task_emb"
    model_tags = ["text2lora"]  # noqa: RUF012 - as transformers declares it

    def __init__(self, config: Text2LoraConfig):
        if not isinstance(config, Text2LoraConfig) or not config.target_modules:
            what = "has no target modules" if isinstance(config, Text2LoraConfig) else f"is {shown(config)}"
            raise CheckpointError(f"the config {what}: make one with Text2LoraConfig.from_base_config")
        super().__init__(config)
        self.hypernet = build_hypernetwork(config)
        self._companions = Companions()
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
        elif isinstance(module, SoftmaxTaskEncoder | VectorQuantizedTaskEncoder):
            init.normal_(module.codebook)
        elif isinstance(module, TrunkHyperNetwork) and module.factors == 2:
            init.normal_(module.factor_embedding)

    def initialize_weights(self) -> None:
        """Initialise what was not loaded; `_init_weights` sees no module that has no parameters of its own."""
        super().initialize_weights()
        self.hypernet.init_outputs()

    @classmethod
    @checked(CheckpointError)
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        encoder: str | os.PathLike[str] | TextEncoder | None = None,
        base_model_kwargs: Mapping[str, Any] | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load a checkpoint. Missing or unexpected weights, and weights of a wrong shape, are errors.

        Args:
            pretrained_model_name_or_path: the checkpoint: a folder, a Hub id, `smol` or `nano`. Checkpoints of the
                reference implementation (`hypermod.pt`) are converted in memory.
            *args: as in transformers.
            encoder: the text encoder to use instead of the one that the checkpoint names: a path, a Hub id or a
                `TextEncoder`.
            base_model_kwargs: options for the base model's `from_pretrained`, which is called when it is needed.
            output_loading_info: whether to return a pair: the model, and what transformers reports about its weights.
            **kwargs: as in transformers: `dtype`, `device_map`, `subfolder`, `revision`, `token`, `local_files_only`,
                `cache_dir`, ...; `token`, `local_files_only` and `cache_dir` are also used for the text encoder and the
                base model. All files come from the commit that `revision` points to, and adapters carry that
                commit in their metadata.

        Raises:
            CheckpointError: there is no such checkpoint, it is not a complete text2lora checkpoint, or an option is of
                another type.
            InvalidArgumentError: there is no such option, dtype or device.
        """
        name = os.fspath(pretrained_model_name_or_path)
        path = resolve_name(pretrained_model_name_or_path, CHECKPOINTS)
        hub = {option: kwargs[option] for option in HUB_OPTIONS if option in kwargs}
        source = Source.of(path, kwargs.get("subfolder"), kwargs.get("revision"), **hub)
        check_kind(Path(path, source.subfolder), "checkpoint")
        try:
            with load_options(kwargs):
                model, info = cls._read(source, name, *args, **kwargs)
        except Text2LoraError:
            raise
        except Exception as error:  # which depends on what is wrong with a file or an option
            raise CheckpointError(_what_failed(error, name, source)) from error
        wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys") if info[kind]}
        if wrong:
            raise CheckpointError(f"the weights of {name!r} do not match its config: {wrong}")
        align(model)
        model.config.name_or_path = name
        model._companions = Companions(source, encoder, base_model_kwargs)
        return (model, info) if output_loading_info else model  # type: ignore[return-value]  # as in transformers

    @classmethod
    def _read(cls, source: Source, name: str, *args: Any, **kwargs: Any) -> tuple[Self, dict[str, Any]]:
        """Read a checkpoint of the reference implementation or of text2lora; also return transformers' loading info."""
        path, hub = str(source.path), source.hub
        if files := find_upstream(source):
            config, state = read_upstream(
                files, lambda base: AutoConfig.from_pretrained(base, trust_remote_code=False, **hub)
            )
            options = {k: v for k, v in kwargs.items() if k in ("dtype", "torch_dtype", "device_map")}
            return super().from_pretrained(None, config=config, state_dict=state, output_loading_info=True, **options)
        _check_kind(source, name)
        kwargs["subfolder"] = source.subfolder
        if source.revision is not None:
            kwargs["revision"] = source.revision
        return super().from_pretrained(path, *args, output_loading_info=True, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        *args: Any,
        eval_results: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the hypernetwork, its config, a model card and any statistics of the training descriptions.

        Args:
            save_directory: the folder to write.
            is_main_process: whether this process writes the config and the card.
            *args: as in transformers.
            eval_results: figures for the card by `TASK/METRIC`, as `gsm8k/accuracy`.
            **kwargs: as in transformers; `push_to_hub=True` calls `push_to_hub` with `repo_id`, or the folder's name.

        Raises:
            OutputError: the folder cannot be written.
            InvalidArgumentError: `eval_results` contains something other than numbers.
        """
        push = kwargs.pop("push_to_hub", False)
        names = ("repo_id", "commit_message", "private", "revision", "create_pr", "force")
        hub = {name: kwargs.pop(name) for name in names if name in kwargs}
        folder = Path(check_path(save_directory, OutputError))
        if folder.is_file() or (folder / MARKERS["adapter"]).is_file():
            raise OutputError(f"{folder} is {'a file' if folder.is_file() else 'an adapter'}: choose another folder")
        if is_foreign_card(folder / CARD_NAME):
            raise OutputError(f"{folder} has a {CARD_NAME} that text2lora did not write: choose another folder")
        card = checkpoint_card(self.config, self.num_parameters(), eval_results=eval_results)
        beside = {STATISTICS_FILE: self.description_statistics, CALIBRATION_FILE: self.calibration}
        try:
            super().save_pretrained(folder, is_main_process, *args, **kwargs)
            if is_main_process:
                (folder / CARD_NAME).write_text(card, encoding="utf-8")
                for name, kept in beside.items():
                    kept.save(folder) if kept else (folder / name).unlink(missing_ok=True)  # of other weights
                make_readable(path for pattern in CHECKPOINT_FILES for path in folder.glob(pattern))
        except Text2LoraError:
            raise
        except Exception as error:  # of a path, or of an option of transformers
            raise OutputError(f"{folder} cannot be written ({first_line(error)})") from error
        if push:
            hub |= {name: kwargs[name] for name in ("token", "max_shard_size") if name in kwargs}
            self.push_to_hub(**{"repo_id": folder.name} | hub, eval_results=eval_results)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        eval_results: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> CommitInfo:
        """Push the checkpoint to the Hub in one commit, and create the repository if it does not exist.

        If the base model or the encoder is a path on this machine, the pushed config does not name it.

        Args:
            repo_id: the repository: `USER/NAME`, `ORGANIZATION/NAME`, or `NAME` for one of your own.
            commit_message: the commit's summary.
            private: whether a new repository is private; None is the owner's default.
            token: a Hub token; None uses HF_TOKEN or the token from `hf auth login`.
            revision: the branch to push to, which is created if it does not exist; None is the default branch.
            create_pr: whether to open a pull request instead of pushing directly.
            max_shard_size: as in transformers.
            eval_results: figures for the card by `TASK/METRIC`, as `gsm8k/accuracy`; they become its model-index.
            force: whether to write into a repository that contains something other than a text2lora checkpoint; its
                other files stay.

        Returns:
            The commit: `repo_url`, `oid`, `pr_url`.

        Raises:
            HubError: you are not logged in or may not write there, the repository contains something else, or the Hub
                cannot be reached.
        """

        def write(folder: Path, target: PushTarget) -> None:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            text = json.dumps(without_paths(config), indent=2, sort_keys=True)
            (folder / "config.json").write_text(text + "\n", encoding="utf-8")
            card = checkpoint_card(self.config, self.num_parameters(), target.repo_id, eval_results)
            (folder / CARD_NAME).write_text(card, encoding="utf-8")

        options: dict[str, Any] = {"private": private, "token": token, "revision": revision, "create_pr": create_pr}
        return push(write, repo_id, "checkpoint", **options, commit_message=commit_message, force=force)

    @property
    def encoder(self) -> TextEncoder:
        """The text encoder; loaded when first used. Assign a `TextEncoder` to replace it."""
        return self._companions.encoder(self.config, self.device)

    @encoder.setter
    @checked(InvalidArgumentError)
    def encoder(self, encoder: TextEncoder) -> None:
        self._companions.set_encoder(encoder)

    @property
    def description_statistics(self) -> DescriptionStatistics | None:
        """Statistics of the training descriptions, or None if the checkpoint has none. Training assigns them.

        Raises:
            CheckpointError: their file is damaged, or the Hub cannot be reached.
        """
        return self._companions.beside(STATISTICS_FILE, DescriptionStatistics.load)

    @description_statistics.setter
    @checked(InvalidArgumentError)
    def description_statistics(self, statistics: DescriptionStatistics | None) -> None:
        self._companions.set_beside(STATISTICS_FILE, statistics)

    @property
    def calibration(self) -> Calibration | None:
        """The calibration of the confidence of answers, or None if the checkpoint has none. Adapters carry it along.

        Raises:
            CheckpointError: its file is damaged, or the Hub cannot be reached.
        """
        return self._companions.beside(CALIBRATION_FILE, Calibration.load)

    @calibration.setter
    @checked(InvalidArgumentError)
    def calibration(self, calibration: Calibration | None) -> None:
        self._companions.set_beside(CALIBRATION_FILE, calibration)

    @property
    def origin(self) -> dict[str, str]:
        """Where the checkpoint comes from, for metadata: its name, and its subfolder and commit if it has them."""
        source = self._companions.source
        origin = {
            "checkpoint": public_name(self.config.name_or_path or "unsaved"),
            "checkpoint_subfolder": source.subfolder,
            "checkpoint_commit": source.commit,
        }
        return {key: value for key, value in origin.items() if value}

    @property
    def digest(self) -> str:
        """A digest of everything that decides an adapter, except its description and strength.

        This covers the hypernetwork's current weights, the config, the text encoder (which is loaded), the calibration
        and the library's version, but not where the checkpoint is stored.
        """
        values = [config_values(self.config), self.encoder.digest, library_version(), str(self.calibration or "")]
        return digest(values, self.state_dict())

    @property
    def encoder_name(self) -> str:
        """The text encoder that reads the descriptions: the one that was given, or the checkpoint's."""
        return self._companions.encoder_name(self.config)

    @property
    def adapter_bytes(self) -> int:
        """The size of one adapter in the hypernetwork's dtype."""
        width = sum(sum(self.config.module_shapes[name]) for name in self.config.target_modules)
        return self.config.num_layers * self.config.lora_r * width * self.dtype.itemsize

    @property
    def tasks_per_pass(self) -> int:
        """How many adapters are made in one pass. This fills the processor; more would only take more memory."""
        return max(1, (512 if self.device.type == "cpu" else 8192) // self.hypernet.rows_per_task)

    def load_base_model(self, name: str | os.PathLike[str] | None = None, **kwargs: Any) -> PreTrainedModel:
        """Load the base model that the adapters are for, in its own dtype or, if that is slow here, in float32.

        Its `generate` also stops where the chat template ends an answer.

        Args:
            name: the base model to load instead of the one that the checkpoint names: a folder, a Hub id, `smol` or
                `nano`.
            **kwargs: options for `AutoModelForCausalLM.from_pretrained`; they override `base_model_kwargs`.

        Raises:
            CheckpointError: the base model cannot be loaded.
        """
        return self._companions.load_base(self.config, self.device, name, **kwargs)

    @property
    def base_tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer; loaded when first used."""
        return self._companions.tokenizer(self.config)

    def forward(self, task_emb: torch.Tensor) -> LoraWeights:
        """Turn task embeddings into LoRA weights, differentiably.

        Args:
            task_emb: task embeddings [n, d], or token states [n, tokens, d] if `config.task_encoder` is `tokens`; of
                any float dtype, on any device.

        Returns:
            By target module: A [n, layers, r, in] and B [n, layers, out, r].

        Raises:
            InvalidArgumentError: there are no task embeddings, or their size is not the checkpoint's.
        """
        self._check_task_emb(task_emb)
        if not len(task_emb):
            raise InvalidArgumentError(f"task embeddings of shape {list(task_emb.shape)}: expected at least one")
        return self.hypernet(task_emb.to(self.device, self.dtype))

    @overload
    def generate_lora(
        self,
        description: str | None = None,
        task_emb: torch.Tensor | None = None,
        scale: float = 1.0,
        *,
        examples: Examples | None = None,
        on_step: OnStep | None = None,
        base_model: PreTrainedModel | PeftModel | None = None,
    ) -> LoraAdapter: ...

    @overload
    def generate_lora(
        self,
        description: list[str] | tuple[str, ...],
        task_emb: torch.Tensor | None = None,
        scale: float = 1.0,
        *,
        examples: Sequence[Examples] | None = None,
        on_step: OnStep | None = None,
        base_model: PreTrainedModel | PeftModel | None = None,
    ) -> list[LoraAdapter]: ...

    @torch.no_grad()  # in inference mode, nobody could train or change the weights
    def generate_lora(
        self,
        description: str | Sequence[str] | None = None,
        task_emb: torch.Tensor | None = None,
        scale: float = 1.0,
        *,
        examples: Examples | Sequence[Examples] | None = None,
        on_step: OnStep | None = None,
        base_model: PreTrainedModel | PeftModel | None = None,
    ) -> LoraAdapter | list[LoraAdapter]:
        """Make adapters in batched passes. The base model is loaded only where there are examples.

        A description that is unlike all training descriptions causes a `DescriptionWarning`, if the checkpoint has
        statistics of them (see `novelty`). With `task_emb`, there is no warning.

        A few examples make an adapter better than the description alone: it is tuned on them (see
        `text2lora.tuning`). An adapter that already answers all examples right stays as it is. The metadata says
        how many steps were taken and what they changed.

        ```python
        examples = [("ship to Oslo today", "Oslo"), ("flights to Rome", "Rome")]
        t2l.generate_lora("Return the city.", examples=examples)
        ```

        Args:
            description: what the adapter should do; a list of descriptions gives a list of adapters. None is allowed
                with examples, which then say what to do.
            task_emb: task embeddings [n, d], or token states [n, tokens, d], to use instead of the encoder's. Then
                `description` is only noted in the metadata and may be None, and the result is a list.
            scale: the strength of the adapters; 1.0 is as trained (see `LoraAdapter.scaled`).
            examples: up to 64 pairs of an input and its right answer, or mappings with `prompt` and `answer`. An empty
                list leaves the adapter to the description. For a list of descriptions, a list of such lists.
            on_step: called after each tuning step, with the number of steps taken and the maximum.
            base_model: a loaded base model to tune on, which stays as it is; None loads the checkpoint's own once.

        Returns:
            A `LoraAdapter`, or a list of them, on the CPU and in the hypernetwork's dtype.

        Raises:
            InvalidDescriptionError: a description is empty, not a string, or has control characters.
            InvalidInputError: the examples are not such pairs, too many, or too long for the base model.
            InvalidArgumentError: the task embeddings do not have the checkpoint's size, or `scale` is not a number.
            CheckpointError: the weights are NaN or infinite, or the base model, which examples need, cannot be loaded.
        """
        scale = check_scale(scale)
        single = task_emb is None and _is_one(description)
        texts, pairs = self._check_request(description, task_emb, examples, single)
        if not texts:
            return []
        task_emb = self._embed(texts, pairs) if task_emb is None else task_emb
        self._check_task_emb(task_emb, len(texts))
        metadata = [{"description": text} if text else {} for text in texts]
        latents = self._latents(task_emb)
        tuned = dict(self._tune(latents, pairs, base_model, on_step) if any(pairs) else ())
        for row, result in tuned.items():
            metadata[row] |= result.as_metadata()
            if self.calibration and result.share is not None:
                metadata[row]["confidence"] = str(self.calibration.after_tuning(result.share))
        made: list[LoraAdapter] = []
        for weights in self._decode(latents):
            made += self._adapters(weights, metadata[len(made) : len(made) + self.tasks_per_pass], scale)
        for row, result in tuned.items():
            if result.steps:
                weights = {name: (a[None], b[None]) for name, (a, b) in result.weights.items()}
                made[row] = self._adapters(check_finite(weights), [metadata[row]], scale)[0]
        return made[0] if single else made

    def _check_request(
        self, description: str | Sequence[str] | None, task_emb: torch.Tensor | None, examples: Any, single: bool
    ) -> tuple[list[str], list[list[Pair]]]:
        """The descriptions that are to be noted, each "" where there is none, and the examples of each."""
        given: Sequence[Any] = [description] if _is_one(description) else list(description or [])
        if task_emb is not None:
            self._check_task_emb(task_emb)
            given = [None] * len(task_emb) if description is None or not given else given
        pairs: list[list[Pair]] = [[] for _ in given]
        if examples is not None:
            from text2lora.tuning import check_example_lists

            pairs = check_example_lists([examples] if single else examples, len(given))
        unsaid = task_emb is not None or (description is None and any(pairs))
        texts = []
        for number, text in enumerate(given, 1):
            with about("description", number, len(given)):
                texts.append("" if text is None and unsaid else check_description(text))
        return texts, pairs

    def _embed(self, texts: Sequence[str], examples: Sequence[Sequence[Pair]]) -> torch.Tensor:
        """The task embeddings of descriptions, or of the examples spelled out if there are no descriptions."""
        if all(texts):
            return self._encode(texts)
        from text2lora.tuning import spell_out

        return self.encoder.encode([spell_out(pairs) for pairs in examples])

    def _generate_one(
        self,
        description: str | None,
        scale: float,
        examples: Examples | None,
        on_step: OnStep | None,
        base: PreTrainedModel | PeftModel | None = None,
    ) -> LoraAdapter:
        """The adapter of one description; a list is an error."""
        text = None if description is None and examples is not None else check_description(description)
        return self.generate_lora(text, None, scale, examples=examples, on_step=on_step, base_model=base)

    def _tune(
        self,
        latents: torch.Tensor,
        examples: Sequence[Sequence[Pair]],
        base: PreTrainedModel | PeftModel | None,
        on_step: OnStep | None,
    ) -> Iterator[tuple[int, Tuned]]:
        """Tune the latents that have examples, side by side, and yield each with its row."""
        from text2lora.attach import fit_modules
        from text2lora.sharing import freeze
        from text2lora.tuning import check_lengths, tune

        base = freeze(self._companions.base(self.config, self.device) if base is None else base)
        fit_modules(self._adapters(self.hypernet.decode(latents[:1]), [{}], 1.0)[0], base)
        check_lengths(examples, self.base_tokenizer, context_length(base))
        rows = [row for row, pairs in enumerate(examples) if pairs]
        given = [examples[row] for row in rows]
        yield from zip(rows, tune(self.hypernet, base, self.base_tokenizer, latents[rows], given, on_step), strict=True)

    @torch.no_grad()  # in inference mode, nobody could train or change the weights
    def generate_stacked(self, descriptions: Sequence[str]) -> Iterator[LoraWeights]:
        """Make LoRAs as `generate_lora` does, as stacks: those of one pass of the hypernetwork after another.

        Args:
            descriptions: what they should do.

        Yields:
            By target module: A [n, layers, r, in] and B [n, layers, out, r], in the order given.

        Raises:
            InvalidDescriptionError: see `generate_lora`.
            CheckpointError: the weights are NaN or infinite.
        """
        checked = check_descriptions(descriptions)
        if not checked:
            return
        task_emb = self._encode(checked)
        self._check_task_emb(task_emb, len(checked))
        yield from self._decode(self._latents(task_emb))

    def _latents(self, task_emb: torch.Tensor) -> torch.Tensor:
        """The task encoder's outputs [n, d] for many tasks."""
        parts = task_emb.split(self.tasks_per_pass)
        copies = (part.to(self.device, self.dtype, copy=True) for part in parts)  # aligned, see `align`
        with torch.autocast(self.device.type, enabled=False):  # an adapter has the same bits wherever it is made
            return torch.cat([self.hypernet.task_encoder(part) for part in copies])

    def _decode(self, latents: torch.Tensor) -> Iterator[LoraWeights]:
        """The hypernetwork's output for many latents, pass by pass.

        Raises:
            CheckpointError: it holds infinity or NaN.
        """
        for part in latents.split(self.tasks_per_pass):
            with torch.autocast(self.device.type, enabled=False):
                made = check_finite(self.hypernet.decode(part))
            yield made

    @torch.no_grad()  # in inference mode, nobody could train or change the weights
    def interpolate(
        self,
        descriptions: Sequence[str],
        weights: Sequence[float],
        scale: float = 1.0,
        task_emb: torch.Tensor | None = None,
    ) -> LoraAdapter:
        """Make one adapter from a mix of descriptions, such as "70 % legal, 30 % plain English".

        The hypernetwork runs once, on the weighted mean of what it reads. These are the task embeddings, whose mean is
        brought back to length sqrt(d) if `config.encoder_normalize` is set, or the task encoder's outputs if
        `config.task_encoder` is `tokens`. To add up finished adapters, use `text2lora.combine`.

        Args:
            descriptions: the descriptions to mix, at least one.
            weights: one number for each description, from 0 upwards; only their ratios count.
            scale: the strength of the adapter; 1.0 is as trained.
            task_emb: the task embeddings of the descriptions, if you have them already; then there is no warning.

        Returns:
            The adapter; its description names the parts with their shares.

        Raises:
            InvalidDescriptionError: see `generate_lora`.
            InvalidArgumentError: the weights are not such numbers.
        """
        scale = check_scale(scale)
        checked = check_descriptions(descriptions)
        shares = torch.tensor(numbers(weights), dtype=torch.float64)
        if len(shares) != len(checked) or not (shares >= 0).all() or not 0 < shares.sum() < float("inf"):
            raise InvalidArgumentError(
                f"weights are {shown(weights)}: expected a number from 0 upwards for each of the {len(checked)} "
                "descriptions, not all of them 0"
            )
        shares = (shares / shares.sum()).float()
        task_emb = self._encode(checked) if task_emb is None else task_emb
        self._check_task_emb(task_emb, len(checked))
        made = self._mix(task_emb, shares)
        return self._adapters(check_finite(made), [{"description": describe_sum(checked, shares.tolist())}], scale)[0]

    def _mix(self, task_emb: torch.Tensor, shares: torch.Tensor) -> LoraWeights:
        """The LoRA from between task embeddings [n, d] or [n, tokens, d], by their shares [n]; see `interpolate`."""
        task_emb, shares = task_emb.to(self.device), shares.to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            if self.config.task_encoder == "tokens":
                return self.hypernet.decode(shares.to(self.dtype)[None] @ self._latents(task_emb))
            mean = shares @ task_emb
            if self.config.encoder_normalize:
                mean = rescale(mean, self.config.encoder_parts)
            return self.hypernet(mean[None].to(self.dtype))

    @overload
    def novelty(self, description: str) -> Novelty | None: ...

    @overload
    def novelty(
        self, description: list[str] | tuple[str, ...], task_emb: torch.Tensor | None = None
    ) -> list[Novelty] | None: ...

    def novelty(
        self, description: str | Sequence[str], task_emb: torch.Tensor | None = None
    ) -> Novelty | list[Novelty] | None:
        """Compare a description with those seen in training: the nearest tasks, and whether it is unlike all of them.

        Args:
            description: what an adapter should do; a list of descriptions gives a list of results.
            task_emb: the embeddings of a list of descriptions, if you have them already.

        Returns:
            A `Novelty`, a list of them, or None if the checkpoint has no statistics of its training descriptions.

        Raises:
            InvalidDescriptionError: see `generate_lora`.
        """
        single = isinstance(description, str) or not isinstance(description, Sequence)
        texts = check_descriptions([description] if single else description)
        if (statistics := self.description_statistics) is None:
            return None
        task_emb = self.encoder.encode(texts) if task_emb is None else task_emb
        self._check_task_emb(task_emb, len(texts))
        found = [statistics.place(text, emb) for text, emb in zip(texts, task_emb, strict=True)]
        return found[0] if single else found

    def generate_adapter(
        self,
        description: str | None = None,
        base_model: PreTrainedModel | PeftModel | str | os.PathLike[str] | None = None,
        adapter_name: str = "default",
        scale: float = 1.0,
        *,
        examples: Examples | None = None,
        on_step: OnStep | None = None,
    ) -> PeftModel:
        """Make an adapter and attach it to the base model.

        Each call returns a new model. All of them share one copy of the base model's weights in memory, but adding an
        adapter to one of them, or merging it, does not change the others. To put an adapter into an existing model,
        pass that model:

        ```python
        city = t2l.generate_adapter("Return the city.")
        price = t2l.generate_adapter("Return the price.")  # city still answers with the city
        t2l.generate_adapter("Return the item.", city)  # city answers with the item from now on
        t2l.generate_adapter("Return the name.", city, "name")  # and has a second, active adapter
        ```

        `merge_and_unload` and `unload` return a plain model with its own weights. To merge without a second copy of the
        base model, or to train the base model's weights next to the LoRA, use `generate_lora(...).apply_to(base)`,
        which changes the given base model, as PEFT does.

        Args:
            description: what the adapter should do.
            base_model: the model to adapt. A PeftModel gets the adapter; a base model, whether loaded or given as a
                folder or Hub id, stays as it is. A folder or Hub id is loaded anew by each call. None loads the
                checkpoint's base model once and keeps it.
            adapter_name: the adapter's name in the model. On a PeftModel, a new name adds an adapter and a known name
                replaces one in place. The adapter becomes the active one.
            scale: the strength of the adapter; 1.0 is as trained.
            examples: pairs of an input and its right answer, which make the adapter better; see `generate_lora`.
            on_step: see `generate_lora`.

        Returns:
            The PeftModel, in the base model's dtype and on its device, in eval mode, with nothing trainable.

        Raises:
            InvalidDescriptionError: see `generate_lora`.
            CheckpointError: the base model is not the one that the checkpoint is for.
        """
        from text2lora.sharing import apply_apart  # with PEFT, which takes a second to import and no adapter needs

        if isinstance(base_model, str | os.PathLike):
            base_model = self.load_base_model(base_model)
        adapter = self._generate_one(description, scale, examples, on_step, base_model)
        if base_model is None:
            base_model = self._companions.base(self.config, self.device)
        return apply_apart(adapter, base_model, adapter_name)

    def function(
        self,
        description: str | None = None,
        *,
        labels: Sequence[str] | None = None,
        max_new_tokens: int = 64,
        stop: str | Sequence[str] = (),
        scale: float = 1.0,
        examples: Examples | None = None,
        on_step: OnStep | None = None,
    ) -> Function:
        """Make a function from text to text: an adapter of the base model, ready to be called.

        All functions share one copy of the base model's weights. The first function loads it; making another takes
        milliseconds.

        ```python
        city = t2l.function("Return the city in capital letters.")
        city("order A12: 2 x tent for Ada Berg, ship to Oslo, total $80.00, 2024-05-01")  # 'OSLO'
        ```

        Args:
            description: what the function should do.
            labels: the only answers that the function may give, two or more; None lets it write freely.
            max_new_tokens: the longest answer, in tokens.
            stop: texts before which an answer ends, in addition to where the base model ends it.
            scale: the strength of the adapter; 1.0 is as trained.
            examples: pairs of an input and its right answer, which make the function better; see `generate_lora`.
            on_step: see `generate_lora`.

        Raises:
            InvalidDescriptionError: see `generate_lora`.
            InvalidInputError: examples, labels, `max_new_tokens` or `stop` cannot be used.
            CheckpointError: the base model cannot be loaded, or is not the one that the checkpoint is for.
        """
        from text2lora.functions import Function, check_settings

        check_settings(labels, max_new_tokens, stop)  # before an adapter is made
        adapter = self._generate_one(description, scale, examples, on_step)
        return Function(self._companions.runner(self.config, self.device), adapter, labels, max_new_tokens, stop)

    def _encode(self, descriptions: Sequence[str]) -> torch.Tensor:
        """The task embeddings of descriptions, with a warning for those that are unlike all training descriptions."""
        task_emb = self.encoder.encode(descriptions)
        try:
            statistics = self.description_statistics
        except CheckpointError as error:  # adapters can be made without them
            warn_caller([f"how far the description is from the training descriptions is unknown: {error}"])
        else:
            if statistics is not None:
                novelties = (statistics.place(text, emb) for text, emb in zip(descriptions, task_emb, strict=True))
                warn_caller([novelty.warning for novelty in novelties if novelty.warning])
        return task_emb

    def _check_task_emb(self, task_emb: torch.Tensor, count: int | None = None) -> None:
        """Check that task embeddings are what the hypernetwork reads, and as many as `count`, if that is given."""
        if not isinstance(task_emb, torch.Tensor) or not task_emb.is_floating_point():
            hint = ": a description is for generate_lora or generate_adapter" if isinstance(task_emb, str) else ""
            raise InvalidArgumentError(f"task embeddings are {shown(task_emb)}: expected a tensor of floats{hint}")
        dims = 3 if self.config.task_encoder == "tokens" else 2
        shape = tuple(task_emb.shape)
        number = shape[:1] if count is None else (count,)
        if task_emb.ndim != dims or shape[:1] != number or shape[-1] != self.config.task_emb_size:
            expected = (
                f"[{'n' if count is None else count}, {'tokens, ' if dims == 3 else ''}{self.config.task_emb_size}]"
            )
            raise InvalidArgumentError(f"task embeddings of shape {list(shape)}: expected {expected}")

    def _adapters(self, weights: LoraWeights, metadata: Sequence[Mapping[str, str]], scale: float) -> list[LoraAdapter]:
        """The hypernetwork's output as one adapter per task."""
        noted = [{**own, **self.provenance(), **own} for own in metadata]  # in this order, and what is its own stays
        return [adapter.scaled(scale) for adapter in to_adapters(self.config, weights, noted)]

    def provenance(self, scale: float = 1.0) -> dict[str, str]:
        """The metadata of an adapter except its description: checkpoint, encoder, version, scale and calibration."""
        source = {
            **self.origin,
            "encoder": public_name(self.encoder_name),  # none of a checkpoint that reads the names of tasks
            "text2lora": library_version(),
            "scale": f"{check_scale(scale):g}",
            "confidence": str(self.calibration or ""),
        }
        return {key: value for key, value in source.items() if value}


def _is_one(description: object) -> bool:
    """Whether a description is one, and not a list of them."""
    return isinstance(description, str | bytes) or not isinstance(description, Sequence)


def _check_kind(source: Source, name: str) -> None:
    """Refuse a model of another kind before transformers tries to load it as a checkpoint of text2lora.

    Raises:
        CheckpointError: it is such a model, or nothing that transformers could load.
    """
    source.fetch([MARKERS["checkpoint"]])
    values, _ = PreTrainedConfig.get_config_dict(
        source.path, subfolder=source.subfolder, revision=source.revision, **source.hub
    )
    if (kind := values.get("model_type")) != Text2LoraConfig.model_type:
        what = f"a {kind} model" if kind else "a model of an unknown type"
        raise CheckpointError(f"{name!r} is {what}, not a text2lora checkpoint: {EXPECTED}")


def _what_failed(error: Exception, name: str, source: Source) -> str:
    """Say why a checkpoint cannot be loaded."""
    if fault := hub_fault(error, name, source.revision):
        return fault
    cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
    reason = load_fault(cause or error, name, folder=Path(str(source.path), source.subfolder))
    return f"{name!r} is not a text2lora checkpoint that can be loaded ({reason}): {EXPECTED}"


AutoConfig.register("text2lora", Text2LoraConfig)
AutoModel.register(Text2LoraConfig, Text2LoraModel)
