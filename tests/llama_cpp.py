"""A base as a GGUF file, and llama.cpp to run it: what exported adapters are tried on."""

from __future__ import annotations

from pathlib import Path

import gguf
import httpx2
import torch
import xllamacpp
from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAMES = {"mistral": "llama", "gemma3_text": "gemma3"}
NEIGHBOURS = ("llama", "mistral", "granite", "smollm3")


def rotate_neighbours(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of a query or key matrix such that a head's rotated pairs are neighbours, not half a head apart."""
    rows = []
    for head in weight.chunk(num_heads):
        for pair in zip(*head.chunk(2), strict=True):
            rows += pair
    return torch.stack(rows)


def write_base(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> Path:
    """Write a small model in float32 as llama.cpp reads it."""
    config, kind = model.config, model.config.model_type
    architecture = NAMES.get(kind, kind)
    writer = gguf.GGUFWriter(path, architecture)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    if kind in ("gemma2", "gemma3_text", "phi3"):
        writer.add_sliding_window(config.sliding_window or 0)
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if kind == "phi3":
        writer.add_rope_scaling_orig_ctx_len(config.max_position_embeddings)
    if kind == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    tokens = tokenizer.convert_ids_to_tokens(list(range(config.vocab_size)))
    types = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([types[i in tokenizer.all_special_ids] for i in range(config.vocab_size)])
    writer.add_token_merges(["a b"])  # the prompts are token ids, but there must be one
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    key_of = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(key_of[architecture], config.num_hidden_layers)
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if kind in NEIGHBOURS and "q_proj" in key:
            weight = rotate_neighbours(weight, config.num_attention_heads)
        if kind in NEIGHBOURS and "k_proj" in key:
            weight = rotate_neighbours(weight, config.num_key_value_heads)
        if kind.startswith("gemma") and key.endswith("norm.weight"):
            weight = weight + 1
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert name, key
        writer.add_tensor(name, weight.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class LlamaServer:
    """llama.cpp's own server with a base and adapters, which are off until a request turns them on."""

    def __init__(self, base: Path, *adapters: Path) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(base)
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 0.0) for path in adapters]
        params.n_ctx = 256
        params.n_parallel = 1
        params.cpuparams.n_threads = 1
        params.warmup = False
        params.verbosity = -1
        # in float32, as transformers does; the default of float16 flips near ties
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.count = len(adapters)
        self.server = xllamacpp.Server(params)
        self.client = httpx2.Client(base_url=self.server.listening_address, trust_env=False, timeout=600)

    def answer(
        self, ids: list[int], adapter: int | None = None, scale: float = 1.0, max_new_tokens: int = 48
    ) -> list[int]:
        """The greedy answer to a prompt, token by token, with one of the adapters or none."""
        reply = self.client.post(
            "/completion",
            json={
                "prompt": ids,
                "n_predict": max_new_tokens,
                "temperature": 0,
                "cache_prompt": False,
                "return_tokens": True,
                "lora": [{"id": i, "scale": scale if i == adapter else 0.0} for i in range(self.count)],
            },
        )
        return reply.raise_for_status().json()["tokens"]
