"""How long adapters take on the CPU, beside the bare matrix products that they need; the weights are random.

OMP_NUM_THREADS=1 python examples/benchmarks/generation.py --shape llama-8b --batch 64 --repeat 12
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from measuring import medians, rounds, show
from transformers import LlamaConfig, LlamaForCausalLM

from text2lora.adapter import LoraAdapter
from text2lora.bundled import CHECKPOINTS
from text2lora.configuration import Text2LoraConfig
from text2lora.modeling import Text2LoraModel

UPSTREAM = {"task_emb_size": 1024, "latent_size": 512, "head_input_size": 2048, "head": "large", "offset": False}
"""Of the released checkpoints; r is 8 in all of them."""
SHAPES: dict[str, tuple[int, dict[str, list[int]]]] = {
    "llama-8b": (32, {"q_proj": [4096, 4096], "v_proj": [4096, 1024]}),
    "gemma-2b": (26, {"q_proj": [2304, 2048], "v_proj": [2304, 1024]}),
}
"""Layers, and (in, out) features of the target modules. Mistral-7B's are Llama-8B's."""
BUDGET = 80.0
"""Seconds for all measurements together; PyTorch and the weights take a while before that."""


@dataclass(frozen=True)
class GenerationTimes:
    """Medians, in seconds.

    Attributes:
        dtype: of the hypernetwork.
        products: PyTorch's bare matrix products of the heads, for one adapter.
        one: `generate_lora` of one task embedding.
        batched: `generate_lora` of a batch, per adapter.
        batch: the adapters in a batch, fewer than asked for on a slow machine.
        repeats: how often the first two and the batch were measured, less often than asked for on a slow machine.
        error: of the adapter against the float32 one, |difference| / |adapter|.
    """

    dtype: str
    products: float
    one: float
    batched: float
    batch: int
    repeats: tuple[int, int]
    error: float


def shape_config(name: str) -> Text2LoraConfig:
    """The config of a shape: one of `SHAPES`, or a bundled checkpoint."""
    if name in CHECKPOINTS:
        return Text2LoraConfig.from_pretrained(CHECKPOINTS[name])
    layers, shapes = SHAPES[name]
    paths = {module: f"model.layers.{{layer}}.self_attn.{module}" for module in shapes}
    return Text2LoraConfig(
        num_layers=layers, target_modules=list(shapes), module_shapes=shapes, module_paths=paths, **UPSTREAM
    )


def time_generation(config: Text2LoraConfig, batch: int = 64, repeat: int = 20) -> Iterator[GenerationTimes]:
    """Time a hypernetwork of random weights in float32 and in bfloat16, on the CPU and without the text encoder.

    Products and generation take turns, so that what else the machine does falls on both. Each measurement takes a share
    of the `BUDGET`: where one adapter takes long, there are fewer turns and smaller batches.
    """
    model = Text2LoraModel(config).eval()
    tokens = () if config.task_encoder == "pooled" else (16,)
    task_emb = torch.randn(batch, *tokens, config.task_emb_size)
    (exact,) = model.generate_lora(task_emb=task_emb[:1])
    limit = BUDGET / 5  # two of each dtype, and the replacement
    for dtype in (torch.float32, torch.bfloat16):
        model.to(dtype)
        (adapter,) = model.generate_lora(task_emb=task_emb[:1])
        singles = rounds([_products(model), lambda: model.generate_lora(task_emb=task_emb[:1])], repeat, limit)
        products, one = medians(singles)
        some = task_emb[: max(1, int(limit / 2 / one))]
        batches = rounds([lambda some=some: model.generate_lora(task_emb=some)], max(1, repeat // 5), limit)
        yield GenerationTimes(
            dtype=str(dtype).removeprefix("torch."),
            products=products,
            one=one,
            batched=medians(batches)[0] / len(some),
            batch=len(some),
            repeats=(len(singles), len(batches)),
            error=relative_error(adapter, exact),
        )


def time_replacement(layers: int = 32, hidden: int = 256, repeat: int = 100) -> float:
    """Median seconds to replace the live adapter of a small Llama: q_proj and v_proj of each layer."""
    heads = hidden // 64
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=hidden,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )
    spec = Text2LoraConfig.from_base_config(config, latent_size=16, head_input_size=16, task_emb_size=16)
    adapters = Text2LoraModel(spec).eval().generate_lora(task_emb=torch.randn(2, 16))
    model = adapters[0].apply_to(LlamaForCausalLM(config))
    taken = rounds([lambda: [adapter.apply_to(model) for adapter in adapters]], repeat, BUDGET / 5)
    return medians(taken)[0] / len(adapters)


def relative_error(adapter: LoraAdapter, exact: LoraAdapter) -> float:
    """|difference| / |exact| over all weights."""
    pairs = [(adapter.weights[key].float(), weight.float()) for key, weight in exact.weights.items()]
    difference = sum(float((one - two).square().sum()) for one, two in pairs)
    return float((difference / sum(float(two.square().sum()) for _, two in pairs)) ** 0.5)


def _products(model: Text2LoraModel) -> Callable[[], object]:
    """What no implementation can leave out: the input of each head times its weights."""
    hypernet = model.hypernet
    heads = [(head.get_parameter("weight"), head.get_parameter("bias")) for head in hypernet.heads.values()]
    rows = hypernet.rows_per_task
    x = torch.randn(rows, model.config.head_input_size, dtype=model.dtype)

    @torch.inference_mode()
    def run() -> object:
        return [F.linear(x, weight, bias) for weight, bias in heads]

    return run


def _table(found: Iterable[GenerationTimes], batch: int, repeat: int) -> Iterator[list[str]]:
    yield [
        "Threads",
        "Dtype",
        "Products",
        "One adapter",
        "Of products",
        "Each of many",
        "Of one",
        "Error",
        "Reached",
    ]
    for row in found:
        turns, batches = row.repeats
        yield [
            str(torch.get_num_threads()),
            row.dtype,
            f"{row.products * 1000:.1f} ms",
            f"{row.one * 1000:.1f} ms",
            f"{row.one / row.products:.2f}x",
            f"{row.batched * 1000:.1f} ms",
            f"{row.batched / row.one:.2f}x",
            f"{row.error:.4f}",
            f"{turns} of {repeat} turns, {batches} of {max(1, repeat // 5)} with {row.batch} of {batch}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=[*SHAPES, *CHECKPOINTS], default="llama-8b")
    parser.add_argument("--batch", type=int, default=64, help="adapters in a batch")
    parser.add_argument("--repeat", type=int, default=20, help="times to measure one adapter; batches a fifth of it")
    options = parser.parse_args()
    show(
        _table(
            time_generation(shape_config(options.shape), options.batch, options.repeat), options.batch, options.repeat
        )
    )
    print(f"\nReplacing the live adapter of a small Llama with 64 LoRA modules: {time_replacement() * 1000:.2f} ms")


if __name__ == "__main__":
    main()
