"""The background thread of a stream, and the bounded queue between it and the trainer."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
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
    """A queue of at most `most` items and, beyond the first, `most_bytes` bytes; it ends with an error or without."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._items: deque[Item] = deque()
        self._nbytes, self._ended, self._closed = 0, False, False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, item: Item) -> bool:
        """Wait for room, then add; False when nobody reads any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(item.nbytes))
            if not self._closed:
                self._items.append(item)
                self._nbytes += item.nbytes
                self._changed.notify_all()
            return not self._closed

    def _has_room(self, nbytes: int) -> bool:
        return not self._items or (len(self._items) < self._most and self._nbytes + nbytes <= self._most_bytes)

    def get(self) -> Item | None:
        """Wait for an item; None at the end. What the other side failed with is raised here."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended or self._closed)
            if self._items:
                item = self._items.popleft()
                self._nbytes -= item.nbytes
                self._changed.notify_all()
                return item
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            return None

    def end(self, error: BaseException | None) -> None:
        """Say that no more comes."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Say that nobody reads any more, and drop what waits."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


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
