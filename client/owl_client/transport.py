"""The seam between a logical stream and whatever carries its bytes: HTTP here, memory in tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from owl_client.deadline import Deadline
from owl_stream.wire import PROTOCOL_VERSION, Cursor


@dataclass(frozen=True)
class Share:
    """Which part of every global step is ours: `rank` of `world_size`, in micro-batches of `micro_batch_size` rows."""

    rank: int
    world_size: int
    micro_batch_size: int


@dataclass(frozen=True)
class Description:
    """What a server says about a dataset before anything is streamed."""

    name: str
    layout: str
    fingerprint: str
    components: Mapping[str, str]
    assembly: str
    global_batch_size: int
    steps_per_epoch: int


@dataclass(frozen=True)
class StreamRequest:
    """A stream from `cursor` to the end of its epoch: every `stride`-th micro-batch of the share.

    `report` are the client's own seconds since its last request, by name: a hint for the server's metrics.
    """

    dataset: str
    fingerprint: str
    cursor: Cursor
    share: Share
    stride: int = 1
    report: tuple[tuple[str, float], ...] = ()

    def query(self) -> dict[str, str]:
        """The query parameters of `GET .../stream`, see docs/wire.md."""
        return {
            "protocol": str(PROTOCOL_VERSION),
            "rank": str(self.share.rank),
            "world_size": str(self.share.world_size),
            "micro_batch_size": str(self.share.micro_batch_size),
            "epoch": str(self.cursor.epoch),
            "step": str(self.cursor.step),
            "micro": str(self.cursor.micro),
            "epochs": "1",
            "stride": str(self.stride),
            "fingerprint": self.fingerprint,
        }


class Interrupt:
    """What ends a thread's waits, for the network or for time to pass: another thread, or the clock.

    `deadline` is when the current try must have given what was asked for; a transport waits no longer.
    """

    def __init__(self, deadline: Deadline | None = None) -> None:
        self.deadline = deadline or Deadline()
        # A condition's lock is reentrant: garbage collection may call `set` inside any other method, in its thread.
        self._flag, self._changed = False, threading.Condition()
        self._wake: Callable[[], None] | None = None

    def set(self) -> None:
        """Stop whatever is under way; idempotent, from any thread."""
        with self._changed:
            self._flag = True
            self._changed.notify_all()
            if self._wake is not None:
                self._wake()

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._flag

    def wait(self, seconds: float) -> None:
        """Sleep, unless and until interrupted."""
        with self._changed:
            self._changed.wait_for(lambda: self._flag, seconds)

    def on_set(self, wake: Callable[[], None] | None) -> None:
        """Have `wake` called when `set` is, at once if it was already; None takes it back. It must not block."""
        with self._changed:
            self._wake = wake
            if wake is not None and self._flag:
                wake()

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """`on_set` for the length of a block; when the block raises, nothing stays registered."""
        self.on_set(wake)
        try:
            yield
        except BaseException:
            self.on_set(None)
            raise


class ByteStream(Protocol):
    """The body of one answer."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of `buffer`; returns the bytes read, 0 when the body has ended.

        Raises:
            PeerGoneError: the connection broke, was silent for too long, or the interrupt's deadline has come.
        """
        ...

    def close(self) -> None:
        """Let go of the connection; idempotent."""
        ...


class Transport(Protocol):
    """How to reach a server. Implementations are picklable, so that a dataset can go to DataLoader workers."""

    def masked(self, text: str) -> str:
        """`text` without what is secret between a server and us, should a server repeat it."""
        ...

    def describe(self, url: str, dataset: str, interrupt: Interrupt) -> Description:
        """Ask one server what it has; `interrupt` ends waits inside it.

        Raises:
            OwlStreamError: the server refused, answered nonsense or could not be reached.
        """
        ...

    def open(self, url: str, request: StreamRequest, interrupt: Interrupt) -> ByteStream:
        """Begin one stream; `interrupt` ends waits inside it.

        Raises:
            OwlStreamError: the server refused, answered nonsense or could not be reached.
        """
        ...
