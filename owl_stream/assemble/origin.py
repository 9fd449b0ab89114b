"""Where a planned row comes from: the members of its sample, as they lie in the tar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from owl_stream.assemble.job import JobRow
from owl_stream.errors import DataChangedError, ReadError
from owl_stream.shards import Shard, read_sample, read_span


def read_members(shards: Sequence[Shard], row: JobRow) -> list[dict[str, Any]]:
    """Name, offset (bytes from the start of the shard to the data) and length of each member; ready for JSON.

    Raises:
        ReadError: the shard cannot be read.
        DataChangedError: these are not the bytes that were indexed.
    """
    shard = shards[row.shard]
    try:
        span = read_span(shard.path, row.offset, row.length, row.digest)
    except (ReadError, DataChangedError) as exc:
        raise type(exc)(f"shard {shard.name}: {exc}") from exc
    sample = read_sample(shard.name, span, row.offset)
    return [{"name": member.name, "offset": member.offset, "nbytes": member.data.nbytes} for member in sample.members]
