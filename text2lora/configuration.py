"""Text2LoraConfig: what a hypernetwork reads, how large it is, and which adapters it writes."""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any, Literal, Self, TypeVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from text2lora.errors import CheckpointError, shown
from text2lora.names import absolute_name
from text2lora.targets import find_target_modules

Config = TypeVar("Config", bound=type)


def own_errors(cls: Config) -> Config:
    """Make a strict config refuse values with `CheckpointError`, when it is made and when an attribute is set."""

    def wrapped(method: Callable[..., None]) -> Callable[..., None]:

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> None:
            try:
                method(*args, **kwargs)
            except StrictDataclassError as error:  # its cause itself, raised again, would be its own cause
                raise CheckpointError(" ".join(str(error.__cause__ or error).split())) from error

        return call

    changed: Any = cls
    changed.__init__ = wrapped(changed.__init__)
    changed.__setattr__ = wrapped(changed.__setattr__)
    return cls


@own_errors
@strict
class Text2LoraConfig(PreTrainedConfig):
    """The configuration of a [`Text2LoraModel`]. `from_base_config` derives the names and shapes from a base model.

    Attributes:
        base_model_name_or_path: the model that the adapters are for; a path, a Hub id, `smol` or `nano`.
        base_model_revision: its commit, branch or tag.
        encoder_name_or_path: the text encoder that reads descriptions; a path or a Hub id.
        encoder_revision: its commit, branch or tag.
        encoder_pooling: how token states become one vector; `none` keeps the states of all tokens. `one-hot` marks a
            checkpoint that reads no text, only rows of the identity matrix as `task_emb`.
        encoder_normalize: L2-normalise the vector and multiply it by sqrt(d), so that its entries are near one.
        encoder_normalize_layers: do so for the part of each of the `encoder_layers` by itself.
        encoder_layers: hidden states to read, as in `output_hidden_states`; several are concatenated.
        encoder_max_length: the longest description, in tokens; longer ones are cut.
        encoder_full_stop: end a description whose last character is a letter with a full stop.
        encoder_dtype: the dtype of the encoder's weights, such as `float32`; None is the encoder's own.
        encoder_instruction: a template with `{description}` in it, or None for the description itself.
        one_hot_tasks: names of tasks, which replace the text encoder: a description is then one of these names, and its
            embedding is one-hot. Such a hypernetwork knows no other tasks; it is a baseline.
        task_emb_size: the number of features of a task embedding, d.
        task_encoder: `pooled` is the paper's linear map of one vector; `tokens` lets learned latent queries attend
            to the states of all tokens of the description. `softmax`, `vq` and `discrete` read one vector and choose
            among `codebook_size` codes; `discrete` has no layer and module embeddings either.
        task_encoder_latents, task_encoder_width, task_encoder_layers, task_encoder_heads: sizes of `tokens`.
        latent_size: width L of the trunk; half of it is the task's, a quarter the layer's and the module's each.
        head_input_size: width H before the heads.
        head: how the heads write: `large` writes A and B at once, `medium` one of the two, `rankwise` one rank of both,
            `small` one rank of one of the two. `mixture` has no trunk: it writes `head_input_size` coefficients for
            each A and each B, which mix as many learned matrices that all layers share.
        rank_position: how `rankwise` and `small` encode the rank.
        head_bias: whether heads have a bias.
        output_std: whether heads write z-scores, which are multiplied by a standard deviation for each weight.
        offset: whether a learned adapter, the same for all tasks, is added to the heads' output.
        dropout: the dropout rate of the trunk in training.
        num_layers: the number N of base model layers that get a LoRA.
        target_modules: the linear modules that get a LoRA. Their order is part of the weights.
        module_shapes: (in, out) features of each target module.
        module_paths: the path of each target module in the base model, with `{layer}` for the layer's number.
        whole_paths: whether adapters name their target modules by whole paths, because other modules of the base model,
            such as those of a vision tower, have the same names.
        lora_r, lora_alpha, use_rslora: as `r`, `lora_alpha` and `use_rslora` of `peft.LoraConfig`.
    """

    model_type = "text2lora"

    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    encoder_name_or_path: str | None = None
    encoder_revision: str | None = None
    encoder_pooling: Literal["mean", "cls", "last", "none", "one-hot"] = "mean"
    encoder_normalize: bool = True
    encoder_normalize_layers: bool = False
    encoder_layers: list[int] = field(default_factory=lambda: [-1])
    encoder_max_length: int = 512
    encoder_full_stop: bool = False
    encoder_dtype: str | None = None
    encoder_instruction: str | None = None
    one_hot_tasks: list[str] = field(default_factory=list)
    task_emb_size: int = 1024
    task_encoder: Literal["pooled", "tokens", "softmax", "vq", "discrete"] = "pooled"
    codebook_size: int = 32
    task_encoder_latents: int = 8
    task_encoder_width: int = 128
    task_encoder_layers: int = 2
    task_encoder_heads: int = 4
    latent_size: int = 128
    head_input_size: int = 512
    head: Literal["large", "medium", "rankwise", "small", "mixture"] = "large"
    rank_position: Literal["learned", "rotary"] = "learned"
    head_bias: bool = True
    output_std: bool = False
    offset: bool = True
    dropout: float = 0.05
    num_layers: int = 1
    target_modules: list[str] = field(default_factory=list)
    module_shapes: dict[str, list[int]] = field(default_factory=dict)
    module_paths: dict[str, str] = field(default_factory=dict)
    whole_paths: bool = False
    lora_r: int = 8
    lora_alpha: float = 16.0
    use_rslora: bool = True

    def validate_target_modules(self) -> None:
        """Check that every target module has its shape and its path."""
        for name in self.target_modules:
            if name not in self.module_shapes or name not in self.module_paths:
                raise CheckpointError(
                    f"no shape or path for target module {name!r}: use Text2LoraConfig.from_base_config"
                )
            shape, path = self.module_shapes[name], self.module_paths[name]
            if len(shape) != 2 or min(shape) < 1:
                raise CheckpointError(f"the shape of {name} is {shape}: expected [in, out] features")
            if path.count("{layer}") != 1 or set("{}") & set(path.replace("{layer}", "")):
                raise CheckpointError(f"the path of {name} is {path!r}: expected a module's name with {{layer}} in it")

    def validate_sizes(self) -> None:
        """Check the sizes of the hypernetwork and of the adapters, and their strength."""
        if self.one_hot_tasks and self.task_emb_size != len(self.one_hot_tasks):
            raise CheckpointError(
                f"task_emb_size is {self.task_emb_size}: expected {len(self.one_hot_tasks)}, as many as one_hot_tasks"
            )
        if self.latent_size % 4:
            raise CheckpointError(f"latent_size is {shown(self.latent_size)}: expected a multiple of 4")
        for name in SIZES:
            if not 1 <= getattr(self, name) < 2**31:
                raise CheckpointError(f"{name} is {shown(getattr(self, name))}: expected 1 or more")
        if self.task_encoder == "tokens" and self.task_encoder_width % self.task_encoder_heads:
            raise CheckpointError(
                f"task_encoder_width is {self.task_encoder_width}: expected a multiple of task_encoder_heads, which "
                f"is {self.task_encoder_heads}"
            )
        if not 0 < self.lora_alpha < math.inf:
            raise CheckpointError(f"lora_alpha is {self.lora_alpha}: expected a number above 0")
        if not 0 <= self.dropout < 1:
            raise CheckpointError(f"dropout is {self.dropout}: expected a share from 0 to below 1")

    def validate_encoder(self) -> None:
        """Check how the text encoder reads, and that the task encoder reads what it gives."""
        check_reading(self.encoder_layers, self.encoder_max_length, self.encoder_instruction)
        if (self.task_encoder == "tokens") != (self.encoder_pooling == "none"):
            raise CheckpointError(
                f"task_encoder={self.task_encoder!r} does not go with encoder_pooling={self.encoder_pooling!r}: "
                "'tokens' reads all token states ('none'), the others one vector ('mean', 'cls' or 'last')"
            )

    @property
    def encoder_parts(self) -> int:
        """Parts of a task embedding that are scaled by themselves."""
        return len(self.encoder_layers) if self.encoder_normalize_layers else 1

    @property
    def lora_scaling(self) -> float:
        """What PEFT multiplies B A with: alpha / sqrt(r) under rsLoRA, else alpha / r."""
        return self.lora_alpha / (self.lora_r**0.5 if self.use_rslora else self.lora_r)

    @classmethod
    def from_base_config(
        cls, base_config: PreTrainedConfig, target_modules: str | Sequence[str] = ("q_proj", "v_proj"), **kwargs: Any
    ) -> Self:
        """Make a config for a base model. Names and shapes come from the base model's config; no weights are loaded.

        Args:
            base_config: the config of any decoder-only transformers model.
            target_modules: names of linear modules, such as `q_proj`, or only `all-linear` for all linear modules of
                the decoder layers that PEFT can put a LoRA on and whose names are unique within a layer.
            **kwargs: any other attribute. Folders become absolute, so that the checkpoint can be used from elsewhere.

        Raises:
            CheckpointError: a target module does not exist in every layer, has a name that is not unique within a
                layer, has different shapes in different layers, or cannot carry a LoRA; or an attribute is unknown or
                has a wrong value.
        """
        if not isinstance(base_config, PreTrainedConfig):
            raise CheckpointError(f"base_config is {shown(base_config)}: expected a config of transformers")
        derived = ("target_modules", "module_shapes", "module_paths", "num_layers", "whole_paths")
        known = [field.name for field in dataclasses.fields(cls) if field.name not in derived]
        if unknown := [name for name in kwargs if name not in known]:
            if unknown[0] in derived:
                raise CheckpointError(f"{unknown[0]!r} is derived from the base model: leave it out")
            near = difflib.get_close_matches(unknown[0], known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "leave it out"
            raise CheckpointError(f"{unknown[0]!r} is not an attribute of a config: {hint}")
        for attribute in dataclasses.fields(cls):
            if attribute.type is float and isinstance(kwargs.get(attribute.name), int):  # 16 in a recipe is 16.0
                kwargs[attribute.name] = float(kwargs[attribute.name])
        target_modules = [target_modules] if isinstance(target_modules, str) else target_modules
        if not isinstance(target_modules, Sequence) or not all(isinstance(name, str) for name in target_modules):
            raise CheckpointError(f"target_modules is {shown(target_modules)}: expected names such as 'q_proj'")
        every = list(target_modules) == ["all-linear"]
        found = find_target_modules(base_config, None if every else target_modules)
        kwargs.setdefault("base_model_name_or_path", base_config.name_or_path or None)
        for name in ("base_model_name_or_path", "encoder_name_or_path"):
            if isinstance(kwargs.get(name), str):
                kwargs[name] = absolute_name(kwargs[name])
        layout = {
            "target_modules": list(found.shapes),
            "module_shapes": {name: list(shape) for name, shape in found.shapes.items()},
            "module_paths": found.paths,
            "num_layers": found.num_layers,
            "whole_paths": found.whole_paths,
        }
        return cls(**layout, **kwargs)


SIZES = (
    "lora_r", "num_layers", "latent_size", "head_input_size", "task_emb_size", "codebook_size", "task_encoder_latents",
    "task_encoder_width", "task_encoder_layers", "task_encoder_heads",
)  # fmt: skip


def check_reading(layers: Sequence[int], max_length: int, instruction: str | None) -> None:
    """Check how a text encoder is to read a description: see `encoder_layers` and the like of `Text2LoraConfig`.

    Raises:
        CheckpointError: one of them cannot be used.
    """
    if not isinstance(layers, list | tuple) or not layers or not all(isinstance(layer, int) for layer in layers):
        raise CheckpointError(
            f"the encoder's layers are {shown(layers)}: expected numbers of hidden states, such as [-1]"
        )
    if not isinstance(max_length, int) or max_length < 1:
        raise CheckpointError(f"the encoder's max_length is {shown(max_length)}: expected 1 or more tokens")
    if instruction is not None:
        try:
            kept = "a description" in instruction.format(description="a description")
        except (AttributeError, LookupError, ValueError, TypeError):
            kept = False
        if not kept:
            raise CheckpointError(
                f"the encoder's instruction is {shown(instruction)}: expected a template with {{description}}"
            )
