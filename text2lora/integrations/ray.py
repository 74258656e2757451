"""Millions of adapters on a cluster, with Ray Data: a dataset of descriptions in, shards of adapters out, resumable.

See docs/how-to/many.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from text2lora import errors
from text2lora.batch import AdapterSettings, ShardWriter
from text2lora.errors import CheckpointError, InvalidDescriptionError, MissingExtraError, shown
from text2lora.installation import install_command
from text2lora.modeling import Text2LoraModel

try:
    import pyarrow
    import ray.data
except ImportError as error:
    raise MissingExtraError(f"adapters on a cluster need Ray Data: {install_command('ray')}") from error

COLUMN = "description"


class AdapterMaker:
    """Makes the adapters of batches of descriptions, for `map_batches` of Ray Data: one model an actor.

    Each batch becomes a shard in `output`. A batch that Ray gives out again, since an actor died, becomes the same
    shard, so that no adapter is lost or made twice.

    ```python
    dataset.map_batches(
        AdapterMaker,
        fn_constructor_args=["nano", "s3://bucket/adapters"],
        batch_size=1024,
        compute=ray.data.ActorPoolStrategy(size=8),
    )
    ```

    Args:
        checkpoint: `nano`, a folder or a Hub id.
        output: a folder that all actors see, or a URL that fsspec knows.
        settings: see `AdapterSettings`.
        decided: see `ShardWriter`.
        **options: for `Text2LoraModel.from_pretrained`, as `subfolder`, `revision`, `device_map`.
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
            batch: its column `description`.

        Returns:
            The columns `description`, `adapter` (the name) and `shard` (its path or URL).
        """
        texts = list(dict.fromkeys(str(text) for text in batch[COLUMN]))
        shard = self.writer.write(texts)
        names = [self.writer.name(text) for text in texts]
        return {COLUMN: texts, "adapter": names, "shard": [shard] * len(texts)}


def write_adapters(
    descriptions: Iterable[str] | ray.data.Dataset,
    output: str,
    checkpoint: str = "nano",
    settings: AdapterSettings | None = None,
    *,
    actors: int | tuple[int, int] = 2,
    per_shard: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    **options: Any,
) -> ray.data.Dataset:
    """Write adapters in shards, by several processes of the cluster that Ray is connected to.

    What is in a shard already is not made again, so that the same call goes on where it was broken off. A description
    that stands twice is made once.

    Args:
        descriptions: texts, or a dataset with a column `description`.
        output: a folder that all machines see, or a URL that fsspec knows, as `s3://bucket/adapters`.
        checkpoint: `nano`, a folder or a Hub id; this process, too, loads it, to know the adapters' names.
        settings: see `AdapterSettings`.
        actors: processes, each with a model of its own; or the fewest and the most, for a cluster that grows.
        per_shard: adapters in a shard; None is as many as take a quarter of a GB.
        num_cpus: of each process.
        num_gpus: of each process.
        **options: for `Text2LoraModel.from_pretrained`, as `subfolder`, `revision`, `token`.

    Returns:
        A dataset of the adapters that were made, with the columns `description`, `adapter` and `shard`.

    Raises:
        InvalidDescriptionError: a description that cannot be used; every one is checked before the first is made.
        CheckpointError: the checkpoint cannot be loaded.
        OutputError: a shard cannot be written.
    """
    writer = ShardWriter(Text2LoraModel.from_pretrained(checkpoint, **options), output, settings)
    if isinstance(descriptions, ray.data.Dataset):
        if COLUMN not in (columns := descriptions.columns() or []):
            raise InvalidDescriptionError(f"the dataset has the columns {shown(columns)}: expected {COLUMN!r}")
        descriptions = (row[COLUMN] for row in descriptions.select_columns([COLUMN]).iter_rows())
    fewest, most = (actors, actors) if isinstance(actors, int) else actors
    if not 1 <= fewest <= most:
        raise CheckpointError(
            f"actors are {shown(actors)}: expected a number from 1 upwards, or the fewest and the most"
        )
    parts = [pyarrow.table({COLUMN: part}) for part in writer.plan(descriptions, per_shard)]
    if not parts:
        empty: list[str] = []
        return ray.data.from_arrow(pyarrow.table({COLUMN: empty, "adapter": empty, "shard": empty}))
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


def _own(error: Exception) -> Exception:
    """The error of ours that an actor ended with, if it was one: Ray hands errors on as text."""
    found = re.search(rf"^{errors.__name__}\.(\w+): (.+)$", str(error), re.M)
    kind = getattr(errors, found[1], None) if found else None
    return kind(found[2]) if found and kind else error
