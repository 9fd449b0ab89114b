"""The iterator that one `for` drives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from owl_client.batch import Batch
from owl_client.receiver import Receiver
from owl_client.source import Ready
from owl_client.stats import Counters
from owl_stream.errors import RequestError


@dataclass(frozen=True)
class Pass:
    """An opened pass over the rest of an epoch; without a receiver there is nothing left to read."""

    receiver: Receiver[Ready] | None
    finished: Callable[[], None]


class EpochIterator(Iterator[Batch]):
    """Yields the rest of an epoch. Its thread and connection end with it, also when it is dropped half way."""

    def __init__(self, begin: Callable[[], Pass], yielded: Callable[[Batch], None], counters: Counters) -> None:
        self._begin, self._yielded, self._counters = begin, yielded, counters
        self._pass: Pass | None = None
        self._ended = False
        self._superseded = ""

    def __next__(self) -> Batch:
        """The next batch, waiting for it.

        Raises:
            OwlStreamError: reading cannot go on; a new `for` tries again behind the last batch yielded.
        """
        if self._ended:
            self._refuse_superseded()
            raise StopIteration
        try:
            ready = self._next_ready()
        except BaseException:
            self.close()
            raise
        if ready is None:
            self.close()
            raise StopIteration
        batch = ready.claim()
        self._yielded(batch)
        return batch

    def close(self, superseded: str = "") -> None:
        """End the thread and the connection; with a reason, a later `next` says it."""
        if not self._ended:
            self._ended, self._superseded = True, superseded
            if self._pass is not None and self._pass.receiver is not None:
                self._pass.receiver.close()
        self._pass = None

    def _next_ready(self) -> Ready | None:
        if self._pass is None:
            self._pass = self._begin()
        this = self._pass
        began = time.perf_counter()
        ready = None if this.receiver is None else this.receiver.get()
        self._counters.wait_s += time.perf_counter() - began
        if ready is None:
            self._refuse_superseded()  # by another thread, while this one waited
            this.finished()
        return ready

    def _refuse_superseded(self) -> None:
        if self._superseded:
            raise RequestError(f"this iterator has ended: {self._superseded}")
