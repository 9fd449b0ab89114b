"""The streams that are open now: how many there may be, and what each has done."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from owl_stream.engine import Coordinate
from owl_stream.errors import TooManyStreamsError

RETRY_AFTER_FULL_S = 1.0


@dataclass
class StreamRecord:
    """One open stream. `assembly_wait_s` is time the reader was starved, `reader_wait_s` time the server was."""

    number: int
    dataset: str
    at: Coordinate
    began: float = field(default_factory=time.monotonic)
    batches: int = 0
    nbytes: int = 0
    assembly_wait_s: float = 0.0
    reader_wait_s: float = 0.0


class Streams:
    """A bounded set of open streams and the sums over all that ever were."""

    def __init__(self, max_streams: int) -> None:
        self._max_streams = max_streams
        self._numbers = itertools.count(1)
        self.open: dict[int, StreamRecord] = {}
        self.sums: Counter[str] = Counter()

    @contextmanager
    def admit(self, dataset: str, at: Coordinate) -> Iterator[StreamRecord]:
        """Hold a place while a stream runs.

        Raises:
            TooManyStreamsError: all places are taken.
        """
        self.check()
        record = StreamRecord(next(self._numbers), dataset, at)
        self.open[record.number] = record
        self.sums["streams"] += 1
        try:
            yield record
        finally:
            del self.open[record.number]

    def check(self) -> None:
        """Raise TooManyStreamsError when no place is free."""
        if len(self.open) >= self._max_streams:
            self.sums["refused"] += 1
            raise TooManyStreamsError(
                f"{len(self.open)} streams are open, the limit is {self._max_streams}: ask again, ask another server, "
                f"or raise server.max_streams",
                RETRY_AFTER_FULL_S,
            )
