"""The hypernetwork: a task embedding in, the LoRA matrices of every layer and target module out.

Architecture of Text-to-LoRA (Charakorn et al., ICML 2025, arXiv 2506.06105), with its large, medium and small heads.
Axes: n tasks, N layers, M target modules, f factors (A and B, or one axis for both), k ranks (or one for all),
L latent_size, H head_input_size.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from text2lora.configuration import Text2LoraConfig

LoraWeights = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""By target module: A [n, N, r, in] and B [n, N, out, r]."""


@functools.cache
def _onednn_dtypes() -> tuple[torch.dtype, ...]:
    """What oneDNN multiplies on this CPU; nothing where PyTorch was built without it."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return ()
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,)


class Linear(nn.Linear):
    """`nn.Linear`, which on the CPU and without a gradient goes through oneDNN, as compiled models do.

    PyTorch itself takes MKL for float32: a third of the speed on an AMD processor.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        on_cpu = x.device.type == "cpu" and not torch.is_grad_enabled()
        if on_cpu and x.dtype == self.weight.dtype and x.dtype in _onednn_dtypes():
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return super().forward(x)


class PooledTaskEncoder(nn.Module):
    """The paper's task encoder: one vector [n, d] -> [n, out]."""

    def __init__(self, d: int, out: int):
        super().__init__()
        self.proj = Linear(d, out)
        self.norm = nn.LayerNorm(out)

    def forward(self, task_emb: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(task_emb))


class LatentBlock(nn.Module):
    """Latents attend to the description's tokens and to each other, then an MLP; both residual, normalised before."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query_norm, self.key_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = Linear(width, width, bias=False)
        self.key_value = Linear(width, 2 * width, bias=False)
        self.out = Linear(width, width, bias=False)
        self.mlp = nn.Sequential(Linear(width, 4 * width), nn.SiLU(), Linear(4 * width, width))

    def forward(self, latents: torch.Tensor, tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """Latents [n, q, w], tokens [n, t, w], is_token [n, t] -> latents [n, q, w]."""
        n, q, w = latents.shape
        seen = torch.cat([self.query_norm(latents), self.key_norm(tokens)], 1)  # [n, q + t, w]
        keys, values = self.key_value(seen).view(n, -1, 2, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        queries = self.query(seen[:, :q]).view(n, q, self.heads, -1).transpose(1, 2)
        visible = F.pad(is_token, (q, 0), value=True)[:, None, None]  # [n, 1, 1, q + t]
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
        latents = latents + self.out(mixed.transpose(1, 2).reshape(n, q, w))
        return latents + self.mlp(self.mlp_norm(latents))


class TokenTaskEncoder(nn.Module):
    """Learned latent queries read the states of all tokens of a description: [n, t, d] -> [n, out].

    A Perceiver resampler (Jaegle et al. 2021, Alayrac et al. 2022). Rows of zeros are padding.
    """

    def __init__(self, d: int, out: int, latents: int, width: int, layers: int, heads: int):
        super().__init__()
        self.proj = nn.Sequential(nn.LayerNorm(d), Linear(d, width))
        self.latents = nn.Parameter(torch.empty(latents, width))
        self.blocks = nn.ModuleList(LatentBlock(width, heads) for _ in range(layers))
        self.out = PooledTaskEncoder(latents * width, out)

    def forward(self, task_emb: torch.Tensor) -> torch.Tensor:
        is_token = task_emb.ne(0).any(-1)
        tokens, latents = self.proj(task_emb), self.latents.expand(len(task_emb), -1, -1)
        for block in self.blocks:
            latents = block(latents, tokens, is_token)
        return self.out(latents.flatten(1))


def _mlp(inputs: int, hidden: int, outputs: int, dropout: float) -> list[nn.Module]:
    return [Linear(inputs, hidden), nn.SiLU(), nn.Dropout(dropout), Linear(hidden, outputs), nn.SiLU()]


class HyperNetwork(nn.Module):
    """Task embeddings [n, d], or token states [n, t, d], -> `LoraWeights`, in one batched pass."""

    def __init__(self, config: Text2LoraConfig):
        super().__init__()
        self.config = config
        size, modules = config.latent_size, config.target_modules
        self.shapes = {name: tuple(config.module_shapes[name]) for name in modules}  # (in, out)
        self.factors = 1 if config.head == "large" else 2
        self.ranks = config.lora_r if config.head == "small" else 1
        self.rows = config.lora_r // self.ranks  # ranks that one pass of a head gives

        if config.task_encoder == "pooled":
            self.task_encoder: nn.Module = PooledTaskEncoder(config.task_emb_size, size // 2)
        else:
            self.task_encoder = TokenTaskEncoder(
                config.task_emb_size,
                size // 2,
                config.task_encoder_latents,
                config.task_encoder_width,
                config.task_encoder_layers,
                config.task_encoder_heads,
            )
        self.layer_embedding = nn.Sequential(nn.Embedding(config.num_layers, size // 4), nn.LayerNorm(size // 4))
        self.module_embedding = nn.Sequential(nn.Embedding(len(modules), size // 4), nn.LayerNorm(size // 4))
        self.mixer = nn.Sequential(nn.Dropout(config.dropout), *_mlp(size, 4 * size, size, config.dropout))
        self.block1 = nn.Sequential(nn.LayerNorm(size), *_mlp(size, 4 * size, size, config.dropout))
        self.block2 = nn.Sequential(nn.LayerNorm(size), *_mlp(size, 4 * size, size, config.dropout))
        self.block3 = nn.Sequential(nn.LayerNorm(size), *_mlp(size, 4 * size, config.head_input_size, config.dropout))
        if self.factors == 2:
            self.factor_embedding = nn.Parameter(torch.empty(len(modules), 2, size))
            self.factor_norm = nn.LayerNorm(size)
        if self.ranks > 1:
            self.rank_embedding = nn.Sequential(nn.Embedding(self.ranks, size), nn.LayerNorm(size))
        width = {n: max(shape) if self.factors == 2 else sum(shape) for n, shape in self.shapes.items()}
        self.heads = nn.ModuleDict({n: Linear(config.head_input_size, self.rows * width[n]) for n in modules})
        if config.offset:
            layers, r = config.num_layers, config.lora_r
            self.offset_a = nn.ParameterDict({n: torch.empty(layers, r, i) for n, (i, _) in self.shapes.items()})
            self.offset_b = nn.ParameterDict({n: torch.empty(layers, o, r) for n, (_, o) in self.shapes.items()})

    def forward(self, task_emb: torch.Tensor) -> LoraWeights:
        """Task embeddings [n, d], or token states [n, t, d], to A [n, N, r, in] and B [n, N, out, r] by module."""
        return self.decode(self.task_encoder(task_emb))

    def decode(self, task: torch.Tensor) -> LoraWeights:
        """The task encoder's output [n, L/2] to A [n, N, r, in] and B [n, N, out, r] by module."""
        layer = self.layer_embedding(self._indices(self.config.num_layers))[:, None]  # [N, 1, L/4]
        module = self.module_embedding(self._indices(len(self.shapes)))  # [M, L/4]
        task = task[:, None, None]  # [n, 1, 1, L/2]
        axes = (len(task), self.config.num_layers, len(self.shapes), -1)
        x = self.mixer(torch.cat([task.expand(axes), layer.expand(axes), module.expand(axes)], -1))  # [n, N, M, L]
        x = x + self.block1(x)
        x = x[:, :, :, None, None]  # [n, N, M, f, k, L]
        if self.factors == 2:
            x = x + self.factor_norm(self.factor_embedding)[:, :, None]
        if self.ranks > 1:
            x = x + self.rank_embedding(self._indices(self.ranks))
        x = x + self.block2(x)
        x = self.block3(x)  # [n, N, M, f, k, H]
        return {name: self._factors(name, head(x[:, :, m])) for m, (name, head) in enumerate(self.heads.items())}

    def _indices(self, count: int) -> torch.Tensor:
        return torch.arange(count, device=next(self.heads.parameters()).device)

    def _factors(self, name: str, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut a head's output [n, N, f, k, rows * width] into A [n, N, r, in] and B [n, N, out, r]."""
        d_in, d_out = self.shapes[name]
        n, layers = out.shape[:2]
        if self.factors == 2:
            rows = out.reshape(n, layers, 2, self.config.lora_r, -1)
            a, b = rows[:, :, 0, :, :d_in], rows[:, :, 1, :, :d_out]
        else:
            a, b = out.split([self.rows * d_in, self.rows * d_out], -1)
            a, b = a.reshape(n, layers, -1, d_in), b.reshape(n, layers, -1, d_out)
        b = b.transpose(-1, -2)
        if self.config.offset:
            a, b = a + self.offset_a[name], b + self.offset_b[name]
        return a, b

    @torch.no_grad()
    def init_outputs(self) -> None:
        """Start every task from a fresh LoRA (A as in PEFT, B zero): heads at zero, the offset holds the LoRA.

        Bias-HyperInit of Beck et al. 2023, with an offset in place of the heads' bias so that layers may differ.
        """
        from transformers import initialization as init

        for name, head in self.heads.items():
            if self.config.offset:
                bound = 1 / math.sqrt(self.shapes[name][0])  # kaiming_uniform_(a=sqrt(5))
                init.uniform_(self.offset_a[name], -bound, bound)
                init.zeros_(self.offset_b[name])
                init.zeros_(head.weight)
            else:
                init.normal_(head.weight, std=0.1 / math.sqrt(self.config.head_input_size))
            init.zeros_(head.bias)
