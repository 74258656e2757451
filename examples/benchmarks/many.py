"""What adapters in shards cost: by one process alone, and by several of a local Ray; and what a million would take.

OMP_NUM_THREADS=1 python examples/benchmarks/many.py --actors 2 --count 2000
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from measuring import markdown

from text2lora.batch import ShardWriter
from text2lora.files import size
from text2lora.modeling import Text2LoraModel


class Cost(NamedTuple):
    """Of making adapters, without starting processes and loading models.

    Attributes:
        seconds: from the first batch's begin to the last one's end.
        cpu: processor time of all processes, in seconds.
        num_bytes: of the files.
    """

    seconds: float
    cpu: float
    num_bytes: int


def descriptions(count: int) -> list[str]:
    return [f"Return the city of customer {number} in capitals." for number in range(count)]


def cost_alone(count: int, per_shard: int, checkpoint: str) -> Cost:
    """Of one process, without Ray."""
    with tempfile.TemporaryDirectory() as folder:
        writer = ShardWriter(Text2LoraModel.from_pretrained(checkpoint), folder)
        writer.write(["Return the name."])  # the encoder warms up
        begin, cpu = time.perf_counter(), time.process_time()
        paths = [Path(writer.write(part)) for part in writer.plan(descriptions(count), per_shard)]
        seconds, used = time.perf_counter() - begin, time.process_time() - cpu
        return Cost(seconds, used, sum(path.stat().st_size for path in paths))


def cost_of_actors(count: int, per_shard: int, checkpoint: str, actors: int) -> Cost:
    """Of so many processes of a Ray that runs."""
    from text2lora.integrations import ray as ours

    class Timed(ours.AdapterMaker):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            self.writer.model.generate_lora("Return the name.")  # the encoder warms up

        def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
            begin, cpu = time.time(), time.process_time()
            made: dict[str, list[Any]] = dict(super().__call__(batch))
            times = {"begin": begin, "end": time.time(), "cpu": time.process_time() - cpu}
            return {column: [value[0]] for column, value in made.items()} | {k: [v] for k, v in times.items()}

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(ours, "AdapterMaker", Timed):
        rows = ours.write_adapters(descriptions(count), folder, checkpoint, actors=actors, per_shard=per_shard)
        found = rows.take_all()
        num_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
    seconds = max(row["end"] for row in found) - min(row["begin"] for row in found)
    return Cost(seconds, sum(row["cpu"] for row in found), num_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="nano")
    parser.add_argument("--count", type=int, default=2000, help="adapters to make")
    parser.add_argument("--per-shard", type=int, default=100, help="adapters in a file")
    parser.add_argument("--actors", type=int, default=2, help="number of Ray processes; 0 leaves Ray out")
    options = parser.parse_args()
    given = options.count, options.per_shard, options.checkpoint
    costs = {"alone": cost_alone(*given)}
    if options.actors:
        import ray

        ray.init(num_cpus=options.actors, include_dashboard=False, log_to_driver=False)
        costs[f"{options.actors} of Ray"] = cost_of_actors(*given, options.actors)
        costs["alone again"] = cost_alone(*given)
    rows = [["Processes", "Adapters per second", "Processor time each", "Bytes each", "A million"]]
    for name, cost in costs.items():
        each = cost.num_bytes / options.count
        million = f"{1e6 * cost.cpu / options.count / 3600:.1f} core hours, {size(int(1e6 * each))}"
        rate, cpu = options.count / cost.seconds, cost.cpu / options.count
        rows.append([name, f"{rate:.1f}", f"{1000 * cpu:.2f} ms", f"{each:,.0f}", million])
    print(markdown(rows))
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
