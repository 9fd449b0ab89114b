"""Receive memory that is used again, but never while anything may still read it."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from owl_stream.wire import ALIGNMENT

MAX_IDLE_BYTES = 512 << 20
"""Of slabs that wait to be used again; past it the oldest go back to the system."""
_SMALLEST = 1 << 16


class NoReceiveMemoryError(MemoryError):
    """There is no memory for a payload. Nobody's fault but this machine's: no error of a connection or a server."""


class Event(Protocol):
    """The part of `torch.cuda.Event` that the ledger needs."""

    def query(self) -> bool:
        """Whether the work recorded before it is done."""
        ...

    def synchronize(self) -> None:
        """Wait until it is."""
        ...


class ReceiveMemory:
    """A pool of 64-byte aligned slabs, pinned for CUDA.

    `take` lends a slab as a memoryview. The slab comes back by itself when the last view of it has died: numpy arrays
    and tensors made from the memoryview keep it alive. `take` is for one thread at a time; slabs may come back in any.
    """

    def __init__(self, *, pinned: bool = False, max_idle_bytes: int = MAX_IDLE_BYTES) -> None:
        self._pinned, self._max_idle_bytes = pinned, max_idle_bytes
        self._idle: list[NDArray[np.uint8]] = []
        # Finalizers run at any moment, even inside `take` in its own thread: they only append, and take no lock.
        self._returned: deque[NDArray[np.uint8]] = deque()
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> memoryview:
        """Writable memory of exactly `nbytes` bytes.

        Raises:
            NoReceiveMemoryError: the system, or CUDA, gives none.
        """
        with self._lock:
            slab = self._fitting(nbytes)
        lease = slab[:nbytes]
        weakref.finalize(lease, self._returned.append, slab).atexit = False
        return lease.data

    @property
    def idle_bytes(self) -> int:
        """Bytes of the slabs that nobody reads."""
        with self._lock:
            self._collect()
            return sum(slab.nbytes for slab in self._idle)

    def _fitting(self, nbytes: int) -> NDArray[np.uint8]:
        self._collect()
        capacity = _capacity(nbytes)
        # A slab up to twice as large will do: batches of one dataset differ in length, not in magnitude.
        fitting = [i for i, slab in enumerate(self._idle) if capacity <= slab.nbytes <= 2 * capacity]
        if fitting:  # the last one that came back may be in a cache still
            return self._idle.pop(min(reversed(fitting), key=lambda i: self._idle[i].nbytes))
        try:
            return self._new(capacity)
        except (MemoryError, RuntimeError) as exc:  # numpy's, torch's
            raise NoReceiveMemoryError(
                f"receive memory: expected {capacity} bytes{' that are pinned for CUDA' if self._pinned else ''}, got "
                f"none: {exc!s:.300}; ask for a smaller micro_batch_size, prefetch or prefetch_bytes, keep fewer "
                f"batches, or give the trainer more memory (ulimit -l and -v, docker: --memory)"
            ) from exc

    def _new(self, capacity: int) -> NDArray[np.uint8]:
        if self._pinned:
            pinned = torch.empty(capacity, dtype=torch.uint8, device="cpu", pin_memory=True)
            return pinned.numpy()
        memory = np.empty(capacity + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        return memory[start : start + capacity]

    def _collect(self) -> None:
        while self._returned:
            self._idle.append(self._returned.popleft())
        while sum(slab.nbytes for slab in self._idle) > self._max_idle_bytes:
            self._idle.pop(0)


def _capacity(nbytes: int) -> int:
    """`nbytes` rounded up to a power of two or to a quarter between two, so that slabs fit again."""
    if nbytes <= _SMALLEST:
        return _SMALLEST
    quarter = 1 << (nbytes - 1).bit_length() - 3
    return -(-nbytes // quarter) * quarter


@dataclass
class _Pending:
    event: Event
    memory: Any


class CopyLedger:
    """Keeps the source of each asynchronous copy alive until its event says that the copy is done."""

    def __init__(self) -> None:
        self._pending: deque[_Pending] = deque()

    def keep(self, event: Event, memory: Any) -> None:
        """Hold `memory` until `event` has happened."""
        self._pending.append(_Pending(event, memory))

    def reap(self) -> int:
        """Let go of what is done, oldest first; returns how many copies are still under way."""
        while self._pending and self._pending[0].event.query():
            self._pending.popleft()
        return len(self._pending)

    def drain(self) -> None:
        """Wait for all copies, then let go of everything."""
        while self._pending:
            self._pending[0].event.synchronize()
            self._pending.popleft()
