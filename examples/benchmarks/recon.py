"""What the squared error of delta W and its gradient cost, with and without forming delta W.

python examples/benchmarks/recon.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from measuring import markdown, medians, peak_of, rounds

from text2lora.files import size
from text2lora.training.recon import squared_error


@dataclass(frozen=True)
class ReconCosts:
    """Forward and backward of the reconstruction error; medians in seconds, and bytes beyond the factors themselves.

    Attributes:
        ours: through Gram matrices of the rank.
        naive: through delta W.
        ours_memory, naive_memory: the peak.
    """

    ours: float
    naive: float
    ours_memory: int
    naive_memory: int


def make_recon(batch: int, layers: int, hidden: int, r: int) -> dict[str, Callable[[], torch.Tensor]]:
    """One step each way: the squared error of delta W and its gradient at A and B, for `q_proj` of a wide base."""
    torch.manual_seed(0)
    wanted = {"q_proj": (torch.randn(batch, layers, r, hidden), torch.randn(batch, layers, hidden, r))}
    a, b = (torch.randn_like(factor).requires_grad_() for factor in wanted["q_proj"])

    def ours() -> torch.Tensor:
        loss = squared_error({"q_proj": (a, b)}, wanted).sum()
        loss.backward()
        return loss.detach()

    def naive() -> torch.Tensor:
        loss = (b @ a - wanted["q_proj"][1] @ wanted["q_proj"][0]).square().sum()
        loss.backward()
        return loss.detach()

    def nothing() -> torch.Tensor:
        return torch.zeros(())

    return {"ours": ours, "naive": naive, "nothing": nothing}


def time_recon(batch: int = 8, layers: int = 8, hidden: int = 2048, r: int = 8, repeat: int = 5) -> ReconCosts:
    """Measure both ways in turns; memory in fresh processes."""
    calls = make_recon(batch, layers, hidden, r)
    ours, naive = medians(rounds([calls["ours"], calls["naive"]], repeat))
    sizes = (batch, layers, hidden, r)
    memory = {
        way: peak_of(
            f"from recon import make_recon; make_recon(*{sizes})[{way!r}]()",
            MALLOC_MMAP_THRESHOLD_="65536",
        )
        for way in calls
    }
    extra = {way: max(0, memory[way] - memory["nothing"]) for way in ("ours", "naive")}
    return ReconCosts(ours, naive, extra["ours"], extra["naive"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=8, help="adapters in a step")
    parser.add_argument("--layers", type=int, default=8, help="layers, each with one module")
    parser.add_argument("--hidden", type=int, default=2048, help="features in and out of the module")
    parser.add_argument("--repeat", type=int, default=5, help="times to measure each way")
    options = parser.parse_args()
    costs = time_recon(options.batch, options.layers, options.hidden, repeat=options.repeat)
    rows = [
        ["Method", "Time", "Memory"],
        ["Gram matrices of the rank", f"{costs.ours * 1000:.1f} ms", size(costs.ours_memory)],
        ["delta W", f"{costs.naive * 1000:.1f} ms", size(costs.naive_memory)],
    ]
    print(markdown(rows))
    print(f"\ndelta W takes {costs.naive / costs.ours:.1f} times as long.")


if __name__ == "__main__":
    main()
