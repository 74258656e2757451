"""Task encoders: the learned part that reads a task embedding, before layers and modules come in.

`PooledTaskEncoder` is the paper's; `TokenTaskEncoder` reads the states of all tokens. The three with a codebook are the
reference implementation's alternatives, for its checkpoints. Axes: n tasks, t tokens, d task_emb_size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from text2lora.configuration import Text2LoraConfig
from text2lora.linear import Linear


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


def _codebook_mlp(d: int, width: int, out: int) -> nn.Sequential:
    return nn.Sequential(Linear(d, 4 * width), nn.SiLU(), nn.Dropout(0.05), Linear(4 * width, out))


class SoftmaxTaskEncoder(nn.Module):
    """A soft choice among learned codes: [n, d] -> [n, out]."""

    def __init__(self, d: int, out: int, codes: int):
        super().__init__()
        self.mlp = _codebook_mlp(d, out, codes)
        self.codebook = nn.Parameter(torch.empty(codes, out))
        self.norm = nn.LayerNorm(out)

    def forward(self, task_emb: torch.Tensor) -> torch.Tensor:
        return self.norm(self.mlp(task_emb).softmax(-1) @ self.codebook)


class VectorQuantizedTaskEncoder(nn.Module):
    """The nearest of the codes: [n, d] -> [n, out]. Gradients pass straight through; the codes stay as they are."""

    def __init__(self, d: int, out: int, codes: int):
        super().__init__()
        self.mlp = _codebook_mlp(d, out, out)
        self.codebook = nn.Parameter(torch.empty(codes, out))
        self.norm = nn.LayerNorm(out)

    def forward(self, task_emb: torch.Tensor) -> torch.Tensor:
        x = self.mlp(task_emb)
        distance = self.codebook.square().sum(-1) - 2 * x @ self.codebook.T  # less |x|^2, the same for all codes
        nearest = self.codebook[distance.argmin(-1)]
        return self.norm(x + (nearest - x).detach())


class DiscreteTaskEncoder(nn.Module):
    """A hard choice among `codes` classes, as a one-hot vector: [n, d] -> [n, codes]. Gradients as of the softmax."""

    def __init__(self, d: int, codes: int):
        super().__init__()
        self.mlp = _codebook_mlp(d, codes, codes)

    def forward(self, task_emb: torch.Tensor) -> torch.Tensor:
        logits = self.mlp(task_emb)
        probs = logits.softmax(-1)
        chosen = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(probs.dtype)
        return chosen + (probs - probs.detach())


class OneHot(nn.Module):
    """Indices [...] -> one-hot vectors [..., count]; a layer or module embedding without weights."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        return F.one_hot(indices, self.count)


def build_task_encoder(config: Text2LoraConfig) -> tuple[nn.Module, int]:
    """The task encoder of a config, and how wide its output is."""
    d, out, codes = config.task_emb_size, config.latent_size // 2, config.codebook_size
    if config.task_encoder == "tokens":
        width, layers, heads = config.task_encoder_width, config.task_encoder_layers, config.task_encoder_heads
        return TokenTaskEncoder(d, out, config.task_encoder_latents, width, layers, heads), out
    if config.task_encoder == "discrete":
        return DiscreteTaskEncoder(d, codes), codes
    if config.task_encoder == "pooled":
        return PooledTaskEncoder(d, out), out
    kind = SoftmaxTaskEncoder if config.task_encoder == "softmax" else VectorQuantizedTaskEncoder
    return kind(d, out, codes), out
