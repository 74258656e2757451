"""Which encoder tells tasks apart by their descriptions? The nearest task to each unseen wording of 56 word tasks.

    python examples/smol/encoders.py

A task stands where the mean of its training wordings is; the mean of all wordings is taken off first.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

from text2lora import TextEncoder
from text2lora.base import load_base
from text2lora.files import read_json_lines

DESCRIPTIONS = Path(__file__).parents[1] / "function-vectors/descriptions.jsonl"
MINILM, SMOLLM2 = "sentence-transformers/all-MiniLM-L6-v2", "HuggingFaceTB/SmolLM2-135M-Instruct"
LAYERS = [4, 8, 12, 15, 18, 21, 24, 27, 30]
CHAT = "<|im_start|>user\n{description}<|im_end|>\n<|im_start|>assistant\n"


def share_of_nearest(known: torch.Tensor, tasks: torch.Tensor, unseen: torch.Tensor, own: torch.Tensor) -> float:
    """How often the nearest task, by cosine, is a wording's own.

    Args:
        known: embeddings of the training wordings, [n, d].
        tasks: the task of each, [n].
        unseen: embeddings of the unseen wordings, [m, d].
        own: the task of each, [m].
    """
    centre = known.mean(0)
    places = torch.stack([known[tasks == task].mean(0) for task in range(int(tasks.max()) + 1)]) - centre
    cosines = F.normalize(unseen - centre, dim=-1) @ F.normalize(places, dim=-1).T  # [m, tasks]
    return (cosines.argmax(-1) == own).double().mean().item()


def main() -> None:
    rows = read_json_lines(DESCRIPTIONS)
    texts = {key: [(i, text) for i, row in enumerate(rows) for text in row[key]] for key in rows[0] if key != "name"}
    known, unseen = texts["descriptions"], texts["held_out_descriptions"]
    tasks, own = (torch.tensor([task for task, _ in pairs]) for pairs in (known, unseen))

    def load(name: str, **options: object) -> TextEncoder:
        return TextEncoder(load_base(AutoModel, name), load_base(AutoTokenizer, name), **options)

    def show(name: str, encoder: TextEncoder) -> None:
        pair = [encoder.encode([text for _, text in pairs]) for pairs in (known, unseen)]
        parts = zip(*(made.chunk(len(encoder.layers), -1) for made in pair), strict=True)
        for layer, (one, other) in zip(encoder.layers, parts, strict=True):
            print(f"{name}, layer {layer}: {share_of_nearest(one, tasks, other, own):.3f}", flush=True)

    show("MiniLM, mean", load(MINILM))
    show("SmolLM2, mean", load(SMOLLM2, pooling="mean", layers=LAYERS))
    show("SmolLM2, last token of the prompt", load(SMOLLM2, pooling="last", layers=LAYERS, instruction=CHAT))


if __name__ == "__main__":
    main()
