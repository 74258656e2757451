"""A training step through SmolLM2-135M as it is, with 8-bit products, compiled, and both.

OMP_NUM_THREADS=1 python examples/benchmarks/engine.py --repeat 5
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from measuring import markdown, medians, rounds
from torch.nn.functional import cosine_similarity

from text2lora import Text2LoraModel
from text2lora.base import load_base_with_tokenizer
from text2lora.injection import LoraInjector
from text2lora.language import answer_loss, prompt_batch
from text2lora.training.engine import EngineConfig, prepare_base, start_engine

WAYS = {
    "plain": EngineConfig(device="cpu"),
    "int8": EngineConfig(device="cpu", int8=True),
    "compile": EngineConfig(device="cpu", compile=True),
    "compile+int8": EngineConfig(device="cpu", compile=True, int8=True),
}


def make_step(model: Text2LoraModel, way: EngineConfig, rows: int) -> Callable[[], torch.Tensor]:
    """A function that does the base's two passes for `rows` adapters with two examples each; it returns gradients."""
    base, tokenizer = load_base_with_tokenizer(model.config.base_model_name_or_path)
    with TemporaryDirectory() as folder:
        prepare_base(base, way, start_engine(way, Path(folder)))
    injector = LoraInjector(base, model.config)
    inputs = [f"Please send the {i} blue chairs to the office in Lisbon before Monday, not later." for i in range(rows)]
    batch = prompt_batch(tokenizer, [(text, answer) for text in inputs for answer in ("Lisbon", "blue chairs")], pack=2)
    with torch.no_grad():
        weights = model(model.encoder.encode([f"the word number {i}" for i in range(rows)]))

    def step() -> torch.Tensor:
        leaves = {name: (a.clone().requires_grad_(), b.clone().requires_grad_()) for name, (a, b) in weights.items()}
        with injector.inject(leaves):
            answer_loss(base, batch).backward()
        grads = [factor.grad for pair in leaves.values() for factor in pair]
        return torch.cat([grad.flatten() for grad in grads if grad is not None])

    return step


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smol")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    model = Text2LoraModel.from_pretrained(args.model)
    steps = [make_step(model, WAYS[way], args.rows) for way in args.ways]
    gradients = [step() for step in steps]
    times = medians(rounds(steps, args.repeat))
    rows = [["Base", "Forward and backward", "Times as fast", "Cosine of the gradients"]]
    for way, seconds, gradient in zip(args.ways, times, gradients, strict=True):
        alike = cosine_similarity(gradient.double(), gradients[0].double(), dim=0).item()
        rows.append([f"`{way}`", f"{seconds:.2f} s", f"{times[0] / seconds:.2f}", f"{alike:.4f}"])
    print(markdown(rows))


if __name__ == "__main__":
    main()
