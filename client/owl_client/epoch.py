"""The iterator that one `for` drives."""

from __future__ import annotations

import threading
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

    def close(self) -> None:
        """End its thread and connection; idempotent."""
        if self.receiver is not None:
            self.receiver.close()


class EpochIterator(Iterator[Batch]):
    """Yields the rest of an epoch. Its thread and connection end with it, also when it is dropped half way.

    Several threads may share one: they take turns, and each batch goes to exactly one of them.
    """

    def __init__(self, begin: Callable[[], Pass], yielded: Callable[[Batch], None], counters: Counters) -> None:
        self._begin, self._yielded, self._counters = begin, yielded, counters
        self._pass: Pass | None = None
        self._ended = self._begun = False
        self._superseded = ""
        self._turn = threading.Lock()
        """Held by the thread that takes a batch, also while it waits for one."""
        self._change = threading.RLock()
        """Held for a moment only, so that `close` never waits for a batch. A signal handler may close in mid-change."""

    def __next__(self) -> Batch:
        """The next batch, waiting for it.

        Raises:
            OwlStreamError: reading cannot go on; a new `for` tries again behind the last batch yielded.
        """
        with self._turn:
            try:
                batch = self._take()
            except BaseException:
                self.close()
                raise
            if batch is None:
                self.close()
                raise StopIteration
            return batch

    @property
    def begun(self) -> bool:
        """Whether a batch was asked for."""
        return self._begun

    def close(self, superseded: str = "") -> None:
        """End the thread and the connection; with a reason, a later `next` says it."""
        with self._change:
            this, self._pass = self._pass, None
            if not self._ended:
                self._ended, self._superseded = True, superseded
        if this is not None:
            this.close()

    def _take(self) -> Batch | None:
        this = self._open()
        if this is None:
            return None
        began = time.perf_counter()
        ready = None if this.receiver is None else this.receiver.get()
        self._counters.wait_s += time.perf_counter() - began
        batch = None if ready is None else ready.claim()
        with self._change:  # whoever superseded this iterator while it waited must not see the position move afterwards
            self._refuse_superseded()
            if batch is None:
                this.finished()
            else:
                self._yielded(batch)
        return batch

    def _open(self) -> Pass | None:
        """The pass, opened for the first batch; None once it has ended."""
        with self._change:
            self._refuse_superseded()
            if self._ended or self._pass is not None:
                return self._pass
            self._begun = True
        this = self._begin()
        with self._change:
            if not self._ended:
                self._pass = this
                return this
        this.close()
        self._refuse_superseded()
        return None

    def _refuse_superseded(self) -> None:
        if self._superseded:
            raise RequestError(f"this iterator has ended: {self._superseded}")
