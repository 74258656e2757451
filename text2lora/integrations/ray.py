"""Millions of adapters on a cluster, with Ray Data: from a dataset of descriptions to shards of adapters, resumable.

See docs/how-to/many.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from text2lora import errors
from text2lora.batch import AdapterSettings, ShardWriter
from text2lora.bundled import DEFAULT
from text2lora.encoder import check_description
from text2lora.errors import CheckpointError, InvalidDescriptionError, MissingExtraError, shown
from text2lora.installation import install_command
from text2lora.modeling import Text2LoraModel

try:
    import pyarrow
    import ray.data
except ImportError as error:
    raise MissingExtraError(f"adapters on a cluster need Ray Data: {install_command('ray')}") from error

COLUMN = "description"
OUTPUT = (COLUMN, "adapter", "shard")


class AdapterMaker:
    """Makes the adapters of batches of descriptions, for `map_batches` of Ray Data. Each actor has its own model.

    Each batch becomes a shard in `output`. If an actor dies and Ray repeats its batch, the batch becomes the same
    shard, so no adapter is lost or made twice.

    ```python
    dataset.map_batches(
        AdapterMaker,
        fn_constructor_args=["smol", "s3://bucket/adapters"],
        batch_size=1024,
        compute=ray.data.ActorPoolStrategy(size=8),
    )
    ```

    Args:
        checkpoint: the checkpoint that makes the adapters: `smol`, `nano`, a folder or a Hub id.
        output: a folder that all actors can reach, or a URL that fsspec knows.
        settings: how the adapters are written, see `AdapterSettings`.
        decided: see `ShardWriter`.
        **options: options for `Text2LoraModel.from_pretrained`, such as `subfolder`, `revision`, `device_map`.
    """

    def __init__(
        self,
        checkpoint: str,
        output: str,
        settings: AdapterSettings | None = None,
        decided: str | None = None,
        **options: Any,
    ):
        model = Text2LoraModel.from_pretrained(checkpoint, **options)
        self.writer = ShardWriter(model, output, settings, decided)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Make the adapters of a batch.

        Args:
            batch: the batch, with the column `description`.

        Returns:
            The columns `description`, `adapter` (the name) and `shard` (its path or URL).
        """
        texts = list(dict.fromkeys(check_description(text) for text in batch[COLUMN]))
        shard = self.writer.write(texts)
        names = [self.writer.name(text) for text in texts]
        return dict(zip(OUTPUT, (texts, names, [shard] * len(texts)), strict=True))


def write_adapters(
    descriptions: Iterable[str] | ray.data.Dataset,
    output: str,
    checkpoint: str = DEFAULT,
    settings: AdapterSettings | None = None,
    *,
    actors: int | tuple[int, int] = 2,
    per_shard: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    **options: Any,
) -> ray.data.Dataset:
    """Write adapters into shards, with several processes on the cluster that Ray is connected to.

    To continue an interrupted run, make the same call again: adapters that are already in a shard are not made again. A
    description that occurs twice is made once.

    Args:
        descriptions: the descriptions, or a dataset with a column `description`.
        output: a folder that all machines can reach, or a URL that fsspec knows, such as `s3://bucket/adapters`.
        checkpoint: the checkpoint that makes the adapters: `smol`, `nano`, a folder or a Hub id. This process loads it
            too, to know the adapters' names.
        settings: how the adapters are written, see `AdapterSettings`.
        actors: the number of processes, each with its own model; or the fewest and the most, for a cluster that grows.
        per_shard: the number of adapters in a shard; None is as many as take a quarter of a GB.
        num_cpus: the number of CPUs for each process.
        num_gpus: the number of GPUs for each process.
        **options: options for `Text2LoraModel.from_pretrained`, such as `subfolder`, `revision`, `token`.

    Returns:
        A dataset of the adapters that were made, with the columns `description`, `adapter` and `shard`.

    Raises:
        InvalidDescriptionError: a description cannot be used; all are checked before the first adapter is made.
        CheckpointError: the checkpoint cannot be loaded.
        OutputError: a shard cannot be written.
    """
    output = output if "://" in str(output) else os.path.abspath(output)  # workers have folders of their own
    writer = ShardWriter(Text2LoraModel.from_pretrained(checkpoint, **options), output, settings)
    fewest, most = (actors, actors) if isinstance(actors, int) else actors
    if not 1 <= fewest <= most:
        raise CheckpointError(
            f"actors are {shown(actors)}: expected a number from 1 upwards, or the fewest and the most"
        )
    parts = [pyarrow.table({COLUMN: part}) for part in writer.plan(_texts(descriptions), per_shard)]
    if not parts:
        return ray.data.from_arrow(pyarrow.table({name: pyarrow.array([], "string") for name in OUTPUT}))
    made = ray.data.from_arrow(parts).map_batches(  # a block each, so that a shard's batch is always the same
        AdapterMaker,
        fn_constructor_args=[checkpoint, writer.output, writer.settings, writer.decided],
        fn_constructor_kwargs={"device_map": "cuda" if num_gpus else "cpu"} | options,
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    try:
        return made.materialize()
    except ray.exceptions.RayError as error:
        raise _own(error) from error


def _texts(descriptions: Iterable[str] | ray.data.Dataset) -> Iterable[str]:
    """The descriptions, or those in the column of a dataset."""
    if not isinstance(descriptions, ray.data.Dataset):
        return descriptions
    if COLUMN not in (columns := descriptions.columns() or []):
        raise InvalidDescriptionError(f"the dataset has the columns {shown(columns)}: expected {COLUMN!r}")
    return (row[COLUMN] for row in descriptions.select_columns([COLUMN]).iter_rows())


def _own(error: Exception) -> Exception:
    """The text2lora error that ended an actor, if it was one; Ray passes errors on as text."""
    found = re.search(rf"^{errors.__name__}\.(\w+): (.+)$", str(error), re.M)
    kind = getattr(errors, found[1], None) if found else None
    return kind(found[2]) if found and kind else error
