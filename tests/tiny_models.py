"""Tiny real models in temporary folders: no network, no GPU, nothing that is not made here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from text2lora import Text2LoraConfig, Text2LoraModel, TextEncoder

CHAT_TEMPLATE = (
    "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def llama_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=261,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory, llama_config: LlamaConfig) -> Path:
    """A random Llama with a tokenizer of bytes and a chat template."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(1)
    model = LlamaForCausalLM(llama_config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)  # large enough for a LoRA to show in the logits
    model.save_pretrained(folder)
    special = ["<pad>", "<eos>", "<user>", "<answer>", "<unk>"]
    words = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<answer>"],
        model_max_length=256,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(base_dir: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_dir)


@pytest.fixture
def load_base(base_dir: Path) -> Callable[..., PreTrainedModel]:
    """Loads a base of its own for each call: applying an adapter changes one."""
    return lambda **kwargs: AutoModelForCausalLM.from_pretrained(base_dir, **kwargs).eval()


@pytest.fixture
def base(load_base: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return load_base()


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with a WordPiece vocabulary of letters and digits."""
    folder = tmp_path_factory.mktemp("encoder")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *("##" + c for c in letters), "the", "city", "upper", "case"]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config, add_pooling_layer=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_config(base_dir: Path, encoder_dir: Path, llama_config: LlamaConfig) -> Callable[..., Text2LoraConfig]:
    """A small config for the tiny base and encoder; any attribute can be given."""

    def make(target_modules: tuple[str, ...] = ("v_proj", "q_proj"), **kwargs: object) -> Text2LoraConfig:
        defaults = {
            "base_model_name_or_path": str(base_dir),
            "encoder_name_or_path": str(encoder_dir),
            "encoder_max_length": 64,
            "task_emb_size": 24,
            "latent_size": 16,
            "head_input_size": 12,
            "lora_r": 4,
            "lora_alpha": 8.0,
            "task_encoder_width": 8,
            "task_encoder_latents": 3,
            "task_encoder_heads": 2,
        }
        return Text2LoraConfig.from_base_config(llama_config, target_modules, **(defaults | kwargs))

    return make


def randomise(model: torch.nn.Module, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.fixture(scope="session")
def make_model(make_config: Callable[..., Text2LoraConfig]) -> Callable[..., Text2LoraModel]:
    """A model in eval mode whose weights are random, so that its B is not zero."""

    def make(*args: object, **kwargs: object) -> Text2LoraModel:
        torch.manual_seed(4)
        model = Text2LoraModel(make_config(*args, **kwargs)).eval()
        randomise(model)
        return model

    return make


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Text2LoraModel]) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    make_model().save_pretrained(folder)
    return folder


@pytest.fixture
def t2l(checkpoint_dir: Path) -> Iterator[Text2LoraModel]:
    return Text2LoraModel.from_pretrained(checkpoint_dir)


@pytest.fixture(scope="session")
def encoder(make_config: Callable[..., Text2LoraConfig]) -> TextEncoder:
    return TextEncoder.from_config(make_config())


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(5, 261, (2, 9), generator=torch.Generator().manual_seed(5))
