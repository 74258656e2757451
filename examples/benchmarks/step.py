"""What a different LoRA for each row costs in a training step, beside the frozen base and beside the obvious way.

OMP_NUM_THREADS=2 python examples/benchmarks/step.py --repeat 9
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from measuring import markdown, medians, peak_of, rounds
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from text2lora.bundled import BASES
from text2lora.configuration import Text2LoraConfig
from text2lora.files import size
from text2lora.injection import LoraInjector
from text2lora.language import AnswerBatch, prompt_batch
from text2lora.lora import LoraWeights
from text2lora.training.tasks import Task, TaskExample, TaskSet

WAYS = ("base", "ours", "per token")


@dataclass(frozen=True)
class StepShape:
    """A batch on a Llama-shaped base of random weights.

    Attributes:
        batch: rows, each with its own adapter.
        tokens: of a row.
        hidden: width of the base; its MLP is 2.75 times as wide.
        layers: of the base.
        r: rank of the adapters, on `q_proj` and `v_proj`.
        device: `cpu` or `cuda`.
    """

    batch: int = 8
    tokens: int = 512
    hidden: int = 1024
    layers: int = 2
    r: int = 8
    device: str = "cpu"


@dataclass(frozen=True)
class StepCosts:
    """Medians in seconds, and bytes.

    Attributes:
        base: forward and backward of the frozen base alone, to its input embeddings.
        ours: the same with per-sample LoRA.
        per_token: the same with A and B repeated for every token.
        data: drawing and tokenising such a batch, with the tokenizer of nano.
        ours_memory, per_token_memory: peak beyond that of the base alone.
        flops: of `base`, without attention's softmax and the norms.
        peak_flops: what a large matrix product reaches here, per second.
    """

    base: float
    ours: float
    per_token: float
    data: float
    ours_memory: int
    per_token_memory: int
    flops: float
    peak_flops: float

    @property
    def speedup(self) -> float:
        """How many times as long the LoRA part takes per token."""
        return (self.per_token - self.base) / (self.ours - self.base)


class PerTokenLora:
    """The obvious way: A and B are repeated for each token, and every token has its own pair of products."""

    def __init__(self, model: nn.Module, config: Text2LoraConfig):
        self._model, self._config = model, config

    def inject(self, weights: LoraWeights) -> ExitStack:
        """As `LoraInjector.inject`."""
        stack = ExitStack()
        for name, (a, b) in weights.items():
            for layer in range(self._config.num_layers):
                module = self._model.get_submodule(self._config.module_paths[name].format(layer=layer))
                stack.callback(module.register_forward_hook(self._hook(a[:, layer], b[:, layer])).remove)
        return stack

    def _hook(self, a: torch.Tensor, b: torch.Tensor) -> Callable[..., torch.Tensor]:
        def add(module: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
            x = args[0]
            each = x.shape[0] * x.shape[1] // len(a)
            down, up = a.repeat_interleave(each, 0), b.repeat_interleave(each, 0)  # [tokens of the batch, r, in], ...
            low = torch.bmm(down, x.reshape(-1, x.shape[-1], 1))
            return out + self._config.lora_scaling * torch.bmm(up, low).view_as(out)

        return add


def make_step(shape: StepShape) -> Callable[[str], torch.Tensor]:
    """A function that takes one step in a way of `WAYS` and gives the loss."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=shape.hidden,
        intermediate_size=shape.hidden * 11 // 4,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 64,
        num_key_value_heads=max(1, shape.hidden // 256),
    )
    base = LlamaForCausalLM(config).to(shape.device).requires_grad_(False).eval()
    layout = Text2LoraConfig.from_base_config(config, ["q_proj", "v_proj"], lora_r=shape.r)
    injectors: dict[str, LoraInjector | PerTokenLora] = {
        "ours": LoraInjector(base, layout),
        "per token": PerTokenLora(base, layout),
    }
    ids = torch.randint(0, 512, (shape.batch, shape.tokens), device=shape.device)
    embeds = base.get_input_embeddings()(ids)
    weights = {
        name: (
            torch.randn(shape.batch, layout.num_layers, shape.r, i, device=shape.device) * i**-0.5,
            torch.randn(shape.batch, layout.num_layers, o, shape.r, device=shape.device) * 0.01,
        )
        for name, (i, o) in layout.module_shapes.items()
    }

    def step(way: str) -> torch.Tensor:
        x = embeds.detach().requires_grad_()  # so that the backward pass goes all the way down, in all ways
        leaves = {name: (a.detach().requires_grad_(), b.detach().requires_grad_()) for name, (a, b) in weights.items()}
        context: AbstractContextManager[object] = injectors[way].inject(leaves) if way in injectors else nullcontext()
        with context:
            hidden = base.base_model(inputs_embeds=x, use_cache=False).last_hidden_state
            loss = hidden.square().mean()
            loss.backward()
        return loss.detach()

    return step


def make_batch(shape: StepShape) -> Callable[[], AnswerBatch]:
    """A function that draws the examples of a step and tokenises them."""
    tokenizer = AutoTokenizer.from_pretrained(BASES["nano"])
    rng, letters = random.Random(0), "abcdefghijklmnopqrstuvwxyz "
    texts = ["".join(rng.choices(letters, k=shape.tokens)) for _ in range(64)]  # a token is a byte
    tasks = TaskSet([Task(str(i), ["d"], [TaskExample(text, "yes") for text in texts]) for i in range(8)])

    def batch() -> AnswerBatch:
        examples = [example for _ in range(shape.batch) for example in tasks.draw(rng, 1).examples]
        return prompt_batch(tokenizer, examples, shape.tokens)

    return batch


def time_step(shape: StepShape, repeat: int = 5) -> StepCosts:
    """Measure a step in all ways, in turns; memory in fresh processes on the CPU."""
    step, cuda = make_step(shape), shape.device.startswith("cuda")
    square = torch.randn(2048, 2048, device=shape.device)

    def finish(call: Callable[[], object]) -> None:
        call()
        if cuda:
            torch.cuda.synchronize()

    calls: dict[str, Callable[[], object]] = {way: partial(step, way) for way in WAYS}
    calls["product"] = lambda: square @ square
    calls["data"] = make_batch(shape)
    taken = rounds([partial(finish, call) for call in calls.values()], repeat)
    median = dict(zip(calls, medians(taken), strict=True))
    memory = {way: _step_memory(shape, way) for way in WAYS}
    kv = max(1, shape.hidden // 256) * 64
    width = shape.hidden * (2 * shape.hidden + 2 * kv + 3 * (shape.hidden * 11 // 4))  # weights of a layer
    tokens = shape.batch * shape.tokens
    attention = 4 * shape.tokens * shape.hidden  # per token: scores and values
    return StepCosts(
        base=median["base"],
        ours=median["ours"],
        per_token=median["per token"],
        data=median["data"],
        ours_memory=max(0, memory["ours"] - memory["base"]),
        per_token_memory=max(0, memory["per token"] - memory["base"]),
        flops=shape.layers * tokens * (2 * 2 * width + 3 * attention),
        peak_flops=2 * 2048**3 / median["product"],
    )


def _step_memory(shape: StepShape, way: str) -> int:
    if shape.device.startswith("cuda"):
        step = make_step(shape)
        torch.cuda.reset_peak_memory_stats()
        step(way)
        return torch.cuda.max_memory_allocated()
    return peak_of(
        f"from step import StepShape, make_step; make_step({shape!r})({way!r})",
        MALLOC_MMAP_THRESHOLD_="65536",  # freed memory goes back at once, so that the peak is what was in use
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=8, help="rows, each with its own adapter")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a row")
    parser.add_argument("--hidden", type=int, default=1024, help="width of the base, a multiple of 64")
    parser.add_argument("--layers", type=int, default=2, help="layers of the base")
    parser.add_argument("--repeat", type=int, default=5, help="times to measure each way")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    if options.hidden % 64:
        parser.error(f"--hidden is {options.hidden}: expected a multiple of 64")
    shape = StepShape(options.batch, options.tokens, options.hidden, options.layers, device=options.device)
    costs = time_step(shape, options.repeat)
    rows = [
        ["Step", "Time", "LoRA part", "Of the base", "Memory beyond the base's"],
        ["frozen base", f"{costs.base:.2f} s", "", "", ""],
    ]
    for name, seconds, memory in (
        ("per-sample LoRA", costs.ours, costs.ours_memory),
        ("LoRA per token", costs.per_token, costs.per_token_memory),
    ):
        part = seconds - costs.base
        rows.append([name, f"{seconds:.2f} s", f"{part:.2f} s", f"{part / costs.base:.0%}", size(memory)])
    print(markdown(rows))
    speed = costs.flops / costs.base
    print(
        f"\nThe LoRA part is {costs.speedup:.1f} times as fast as per token. The base runs at {speed / 1e9:.0f} "
        f"GFLOP/s, {speed / costs.peak_flops:.0%} of what a large matrix product reaches here. Drawing and tokenising "
        f"the batch takes {costs.data * 1000:.1f} ms."
    )


if __name__ == "__main__":
    main()
