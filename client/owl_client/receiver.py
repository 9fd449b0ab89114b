"""The background thread of a stream, and the bounded queue between it and the trainer."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from owl_client.transport import Interrupt

JOIN_S = 1.0
"""How long closing waits for the thread, which may be inside a connection attempt; it then ends when that times out."""


class Sized(Protocol):
    """Something that knows how many bytes it holds."""

    @property
    def nbytes(self) -> int:
        """Bytes held while it waits."""
        ...


Item = TypeVar("Item", bound=Sized)
Item_co = TypeVar("Item_co", bound=Sized, covariant=True)


class Source(Protocol[Item_co]):
    """What the thread runs. Entered, read and left in the thread."""

    def __enter__(self) -> object: ...

    def __exit__(self, *exc: object) -> object: ...

    def next(self) -> Item_co | None:
        """The next item, or None when there is no more."""
        ...


class _Pipe(Generic[Item]):
    """A queue of at most `most` items and, beyond the first, `most_bytes` bytes; it ends with an error or without.

    One thread puts, one gets, and anyone may close. Only waiting for room takes a condition, which is rare: a reader
    that waits for an item is woken once, by the queue itself.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._items: SimpleQueue[Item | None] = SimpleQueue()
        self._room = threading.Condition()  # its lock is reentrant: garbage collection may call `close` anywhere
        self._count, self._nbytes, self._closed = 0, 0, False
        self._error: BaseException | None = None

    def put(self, item: Item) -> bool:
        """Wait for room, then add; False when nobody reads any more."""
        with self._room:
            self._room.wait_for(lambda: self._closed or self._has_room(item.nbytes))
            self._count += 1
            self._nbytes += item.nbytes
        if not self._closed:
            self._items.put(item)
        return not self._closed

    def _has_room(self, nbytes: int) -> bool:
        return not self._count or (self._count < self._most and self._nbytes + nbytes <= self._most_bytes)

    def get(self) -> Item | None:
        """Wait for an item; None at the end. What the other side failed with is raised here."""
        item = self._items.get()
        if item is None or self._closed:
            self._items.put(None)  # for whoever asks again
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            return None
        with self._room:
            self._count -= 1
            self._nbytes -= item.nbytes
            self._room.notify()
        return item

    def end(self, error: BaseException | None) -> None:
        """Say that no more comes."""
        self._error = error
        self._items.put(None)

    def close(self) -> None:
        """Say that nobody reads any more, and drop what waits."""
        with self._room:
            self._closed = True
            self._room.notify()
        with suppress(Empty):
            while True:
                self._items.get_nowait()
        self._items.put(None)


class Receiver(Generic[Item]):
    """Reads a source ahead in a thread of its own, at most `prefetch` items beside the one being received.

    The thread ends when the source does, when it fails, or when the receiver is closed or garbage collected.
    """

    def __init__(self, source: Source[Item], interrupt: Interrupt, prefetch: int, prefetch_bytes: int) -> None:
        self._pipe: _Pipe[Item] = _Pipe(prefetch, prefetch_bytes)
        self._thread = threading.Thread(target=_run, args=(source, self._pipe), name="owl-client", daemon=True)
        self._close = weakref.finalize(self, _stop, self._pipe, interrupt, self._thread, os.getpid())
        self._thread.start()

    def get(self) -> Item | None:
        """The next item, waiting for it; None at the end of the source.

        Raises:
            Exception: what the source raised, once the items before it have been taken.
        """
        return self._pipe.get()

    def close(self) -> None:
        """End the thread; idempotent."""
        self._close()


def _run(source: Source[Item], pipe: _Pipe[Item]) -> None:
    """The thread's whole life. It must not know the receiver, or that would never be garbage collected."""
    try:
        with source:
            while True:
                item = source.next()
                if item is None or not pipe.put(item):
                    break
                del item  # else it would keep its memory lent while the next is awaited
    except BaseException as exc:  # whatever it is, it belongs to the reader
        pipe.end(exc)
    else:
        pipe.end(None)


def _stop(pipe: _Pipe[Item], interrupt: Interrupt, thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid:
        return  # a fork has copied us: the thread, the connection and perhaps a held lock are the parent's
    interrupt.set()
    pipe.close()
    if thread is not threading.current_thread():  # the garbage collector may run in any thread
        thread.join(JOIN_S)
