"""Open files of a worker: a bounded number of descriptors, however many shards there are."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from owl_stream.errors import DataChangedError, ReadError
from owl_stream.shards import NotRegularError, Shard, open_regular, read_span

MAX_OPEN_SHARDS = 64
"""Far below the usual limit of 1024 descriptors, far above the shards that `shuffle: block` reads at a time."""

File = TypeVar("File")


class OpenFiles(Generic[File]):
    """What belongs to shards and must be closed, by the number of the shard: the most recently used ones stay open."""

    def __init__(
        self, opened: Callable[[int], File], closed: Callable[[File], None], max_open: int = MAX_OPEN_SHARDS
    ) -> None:
        self._opened, self._closed, self._max_open = opened, closed, max_open
        self._files: OrderedDict[int, File] = OrderedDict()

    def get(self, shard: int) -> File:
        """The shard's file, opened if it is not; raises what opening raises."""
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        while len(self._files) >= self._max_open:
            self._closed(self._files.popitem(last=False)[1])
        self._files[shard] = self._opened(shard)
        return self._files[shard]

    def forget(self, shard: int) -> None:
        """Close the shard's file, if it is open."""
        if shard in self._files:
            self._closed(self._files.pop(shard))

    def close(self) -> None:
        """Close all; getting one opens it again."""
        while self._files:
            self._closed(self._files.popitem()[1])


class ShardFiles:
    """Reads spans of shards."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._files = OpenFiles(self._open, os.close)

    def read(self, shard: int, offset: int, length: int, digest: int) -> bytes:
        """`length` bytes at `offset` of a shard, whose xxh3-64 is `digest`.

        Raises:
            ReadError: storage answered with an error; the same read may succeed later.
            DataChangedError: these are other bytes than those that were indexed.
        """
        try:
            return read_span(self._files.get(shard), offset, length, digest)
        except (ReadError, DataChangedError) as exc:
            # The descriptor may be what is wrong: of a file that was since put back, or of a server that went away.
            self._files.forget(shard)
            raise type(exc)(f"shard {self._shards[shard].name}: {exc}") from exc

    def close(self) -> None:
        """Close all shards; reading opens them again."""
        self._files.close()

    def _open(self, shard: int) -> int:
        path = self._shards[shard].path
        try:
            return open_regular(path)
        except NotRegularError as exc:
            raise DataChangedError(f"{exc}, then ask again") from exc
        except OSError as exc:
            raise ReadError(f"cannot open {path}: {exc.strerror}; bring it back, then ask again") from exc
