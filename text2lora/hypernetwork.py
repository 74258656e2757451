"""The hypernetwork: a task embedding in, the LoRA matrices of every layer and target module out.

`TrunkHyperNetwork` is the architecture of Text-to-LoRA (Charakorn et al., ICML 2025, arXiv 2506.06105), with its large,
medium and small heads; `MixtureHyperNetwork` mixes shared matrices, as Program-as-Weights (arXiv 2607.02512) does.
Axes: n tasks, N layers, M target modules, f factors (A and B, or one axis for both), k ranks (or one for all),
L the trunk's width, H head_input_size.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import nn

from text2lora.configuration import Text2LoraConfig
from text2lora.linear import Linear
from text2lora.lora import LoraWeights
from text2lora.task_encoder import OneHot, build_task_encoder


def _mlp(inputs: int, hidden: int, outputs: int, dropout: float) -> list[nn.Module]:
    return [Linear(inputs, hidden), nn.SiLU(), nn.Dropout(dropout), Linear(hidden, outputs), nn.SiLU()]


class HyperNetwork(nn.Module, ABC):
    """Task embeddings [n, d], or token states [n, t, d], -> `LoraWeights`, in one batched pass."""

    heads: nn.ModuleDict

    def __init__(self, config: Text2LoraConfig):
        super().__init__()
        self.config = config
        self.shapes = {name: tuple(config.module_shapes[name]) for name in config.target_modules}  # (in, out)
        self.task_encoder, size = build_task_encoder(config)
        self._build(size)
        if config.output_std:
            self.std_a, self.std_b = self._adapter_parameters()
        if config.offset:
            self.offset_a, self.offset_b = self._adapter_parameters()

    @abstractmethod
    def _build(self, size: int) -> None:
        """Make what turns the task encoder's output, of width `size`, into matrices; it has `heads` in the end."""

    @property
    @abstractmethod
    def rows_per_task(self) -> int:
        """Rows that pass through the heads for one task."""

    def _adapter_parameters(self) -> tuple[nn.ParameterDict, nn.ParameterDict]:
        """A [N, r, in] and B [N, out, r] by module, with no values yet."""
        layers, r = self.config.num_layers, self.config.lora_r
        a = nn.ParameterDict({n: torch.empty(layers, r, i) for n, (i, _) in self.shapes.items()})
        return a, nn.ParameterDict({n: torch.empty(layers, o, r) for n, (_, o) in self.shapes.items()})

    def forward(self, task_emb: torch.Tensor) -> LoraWeights:
        """Task embeddings [n, d], or token states [n, t, d], to A [n, N, r, in] and B [n, N, out, r] by module."""
        return self.decode(self.task_encoder(task_emb))

    @abstractmethod
    def decode(self, task: torch.Tensor) -> LoraWeights:
        """The task encoder's output [n, its width] to A [n, N, r, in] and B [n, N, out, r] by module."""

    def _adapter(self, name: str, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the heads give for a module, A [n, N, r, in] and B [n, N, r, out], scaled, shifted, and B transposed."""
        b = b.transpose(-1, -2)
        if self.config.output_std:
            a, b = a * self.std_a[name], b * self.std_b[name]
        if self.config.offset:
            a, b = a + self.offset_a[name], b + self.offset_b[name]
        return a, b

    @torch.no_grad()
    def init_outputs(self) -> None:
        """Start every task from a fresh LoRA: A as in PEFT, B zero.

        The offset holds the LoRA, and the heads start at zero; Bias-HyperInit of Beck et al. 2023, with an offset in
        place of the heads' bias so that layers may differ.
        """
        from transformers import initialization as init

        for name, (d_in, _) in self.shapes.items():
            if self.config.output_std:
                init.ones_(self.std_a[name])
                init.ones_(self.std_b[name])
            if self.config.offset:
                bound = 1 / math.sqrt(d_in)  # kaiming_uniform_(a=sqrt(5))
                init.uniform_(self.offset_a[name], -bound, bound)
                init.zeros_(self.offset_b[name])


class TrunkHyperNetwork(HyperNetwork):
    """The paper's: a residual network reads task, layer and module, and a head for each module writes the matrices."""

    def _build(self, size: int) -> None:
        config, modules = self.config, self.config.target_modules
        self.factors = 2 if config.head in ("medium", "small") else 1
        self.per_rank = config.head in ("rankwise", "small")
        self.ranks = config.lora_r if self.per_rank else 1
        self.rows = config.lora_r // self.ranks  # ranks that one pass of a head gives

        if config.task_encoder == "discrete":
            self.layer_embedding: nn.Module = OneHot(config.num_layers)
            self.module_embedding: nn.Module = OneHot(len(modules))
            size += config.num_layers + len(modules)
        else:
            part = config.latent_size // 4
            self.layer_embedding = nn.Sequential(nn.Embedding(config.num_layers, part), nn.LayerNorm(part))
            self.module_embedding = nn.Sequential(nn.Embedding(len(modules), part), nn.LayerNorm(part))
            size += 2 * part
        self.mixer = nn.Sequential(nn.Dropout(config.dropout), *_mlp(size, 4 * size, size, config.dropout))
        self.block1 = nn.Sequential(nn.LayerNorm(size), *_mlp(size, 4 * size, size, config.dropout))
        self.block2 = nn.Sequential(nn.LayerNorm(size), *_mlp(size, 4 * size, size, config.dropout))
        self.block3 = nn.Sequential(nn.LayerNorm(size), *_mlp(size, 4 * size, config.head_input_size, config.dropout))
        if self.factors == 2:
            self.factor_embedding = nn.Parameter(torch.empty(len(modules), 2, size))
            self.factor_norm = nn.LayerNorm(size)
        if self.per_rank and config.rank_position == "learned":
            self.rank_embedding = nn.Sequential(nn.Embedding(self.ranks, size), nn.LayerNorm(size))
        width = {n: max(shape) if self.factors == 2 else sum(shape) for n, shape in self.shapes.items()}
        self.heads = nn.ModuleDict(
            {n: Linear(config.head_input_size, self.rows * width[n], bias=config.head_bias) for n in modules}
        )

    @property
    def rows_per_task(self) -> int:
        return self.config.num_layers * self.factors * self.ranks

    def decode(self, task: torch.Tensor) -> LoraWeights:
        task = task[:, None, None]  # [n, 1, 1, task's width]
        layer = self.layer_embedding(self._indices(self.config.num_layers))[:, None]  # [N, 1, layer's width]
        module = self.module_embedding(self._indices(len(self.shapes)))  # [M, module's width]
        axes = (len(task), self.config.num_layers, len(self.shapes), -1)
        x = self.mixer(torch.cat([task.expand(axes), layer.expand(axes), module.expand(axes)], -1))  # [n, N, M, L]
        x = x + self.block1(x)
        x = self._per_factor_and_rank(x[:, :, :, None, None])
        x = self.block3(x)  # [n, N, M, f, k, H]
        return {
            name: self._adapter(name, *self._factors(name, head(x[:, :, m])))
            for m, (name, head) in enumerate(self.heads.items())
        }

    def _per_factor_and_rank(self, x: torch.Tensor) -> torch.Tensor:
        """The second block, [n, N, M, 1, 1, L] -> [n, N, M, f, k, L]. Ranks come in where the reference has them."""

        def block(x: torch.Tensor) -> torch.Tensor:
            return x + self.block2(x)

        if self.factors == 2:
            x = block(x + self.factor_norm(self.factor_embedding)[:, :, None])
        if not self.per_rank:
            return x if self.factors == 2 else block(x)
        if self.config.rank_position == "rotary":
            return block(_rotate(x, self.ranks))
        position = self.rank_embedding(self._indices(self.ranks))  # [k, L]
        return x + block(position) if self.factors == 2 else block(x + position)

    def _indices(self, count: int) -> torch.Tensor:
        return torch.arange(count, device=next(self.heads.parameters()).device)

    def _factors(self, name: str, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut a head's output [n, N, f, k, rows * width] into A [n, N, r, in] and B [n, N, r, out]."""
        d_in, d_out = self.shapes[name]
        n, layers = out.shape[:2]
        if self.factors == 2:
            rows = out.reshape(n, layers, 2, self.config.lora_r, -1)
            return rows[:, :, 0, :, :d_in], rows[:, :, 1, :, :d_out]
        a, b = out.split([self.rows * d_in, self.rows * d_out], -1)
        return a.reshape(n, layers, -1, d_in), b.reshape(n, layers, -1, d_out)

    @torch.no_grad()
    def init_outputs(self) -> None:
        """Heads at zero where the offset holds the fresh LoRA; else at small random values."""
        from transformers import initialization as init

        super().init_outputs()
        for head in self.heads.values():
            if self.config.offset:
                init.zeros_(head.weight)
            else:
                init.normal_(head.weight, std=0.1 / math.sqrt(self.config.head_input_size))
            if head.bias is not None:
                init.zeros_(head.bias)


class MixtureHyperNetwork(HyperNetwork):
    """All layers share H matrices A and H matrices B for each module; the task's coefficients mix them.

    The heads hold the shared matrices: A of a layer and module is the sum of the head's H columns, each a flat
    [r, in], times that layer's coefficients.
    """

    def _build(self, size: int) -> None:
        config, h = self.config, self.config.head_input_size
        self.coefficients = nn.Sequential(nn.GELU(), Linear(size, config.num_layers * len(self.shapes) * 2 * h))
        self.heads = nn.ModuleDict(
            {
                name: nn.ModuleDict(
                    {f: Linear(h, config.lora_r * d, bias=False) for f, d in zip("ab", shape, strict=True)}
                )
                for name, shape in self.shapes.items()
            }
        )

    @property
    def rows_per_task(self) -> int:
        return 2 * self.config.num_layers

    def decode(self, task: torch.Tensor) -> LoraWeights:
        config, n = self.config, len(task)
        axes = (n, config.num_layers, len(self.shapes), 2, config.head_input_size)
        mixing = self.coefficients(task).view(axes)
        found = {}
        for m, (name, head) in enumerate(self.heads.items()):
            a, b = (
                head.get_submodule(f)(mixing[:, :, m, i]).view(n, config.num_layers, config.lora_r, -1)
                for i, f in enumerate("ab")
            )
            found[name] = self._adapter(name, a, b)
        return found

    @torch.no_grad()
    def init_outputs(self) -> None:
        """Coefficients at zero where the offset holds the fresh LoRA, and small shared matrices."""
        from transformers import initialization as init

        super().init_outputs()
        last = self.coefficients[-1]
        init.zeros_(last.bias)
        if self.config.offset:
            init.zeros_(last.weight)
        for name, head in self.heads.items():
            for part in head.children():
                init.normal_(part.weight, std=0.1 / math.sqrt(self.shapes[name][0]))


def build_hypernetwork(config: Text2LoraConfig) -> HyperNetwork:
    """The hypernetwork that a config describes, with weights that are yet to be initialised."""
    return (MixtureHyperNetwork if config.head == "mixture" else TrunkHyperNetwork)(config)


def _rotate(x: torch.Tensor, positions: int) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021) of one vector at several positions: [..., 1, L] -> [..., k, L]."""
    size = x.shape[-1]
    frequency = 10000.0 ** -(torch.arange(0, size, 2, device=x.device).float() / size)  # [L/2]
    angle = torch.outer(torch.arange(positions, device=x.device).float(), frequency).repeat(1, 2)  # [k, L]
    first, second = x.chunk(2, -1)
    return x * angle.cos().to(x.dtype) + torch.cat([-second, first], -1) * angle.sin().to(x.dtype)
