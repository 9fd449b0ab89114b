"""Open shards of a worker: a bounded number of descriptors, however many shards there are."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

from owl_stream.errors import DataChangedError, ReadError
from owl_stream.shards import Shard, read_span

MAX_OPEN_SHARDS = 64
"""Far below the usual limit of 1024 descriptors, far above the shards that `shuffle: block` reads at a time."""


class ShardFiles:
    """Reads spans of shards, keeping the most recently used ones open."""

    def __init__(self, shards: Sequence[Shard], max_open: int = MAX_OPEN_SHARDS) -> None:
        self._shards, self._max_open = shards, max_open
        self._open: OrderedDict[int, int] = OrderedDict()

    def read(self, shard: int, offset: int, length: int, digest: int) -> bytes:
        """`length` bytes at `offset` of a shard, whose xxh3-64 is `digest`.

        Raises:
            ReadError: storage answered with an error; the same read may succeed later.
            DataChangedError: these are other bytes than those that were indexed.
        """
        try:
            return read_span(self._descriptor(shard), offset, length, digest)
        except (ReadError, DataChangedError) as exc:
            # The descriptor may be what is wrong: of a file that was since put back, or of a server that went away.
            self._forget(shard)
            raise type(exc)(f"shard {self._shards[shard].name}: {exc}") from exc

    def close(self) -> None:
        """Close all shards; reading opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        while len(self._open) >= self._max_open:
            os.close(self._open.popitem(last=False)[1])
        path = self._shards[shard].path
        try:
            self._open[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise ReadError(f"cannot open {path}: {exc.strerror}; bring it back, then ask again") from exc
        return self._open[shard]

    def _forget(self, shard: int) -> None:
        if shard in self._open:
            os.close(self._open.pop(shard))
