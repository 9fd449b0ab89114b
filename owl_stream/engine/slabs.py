"""Anonymous shared memory: memfd slabs that a worker writes a frame into and the server sends it from.

A memfd has no name, so nothing outlives the processes that hold it, however they die.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

CONTROL_BYTES = 64
"""Head of a slab, written by the worker while it works: which row it is at. The frame's memory begins behind it."""

SMALLEST = 1 << 20
MAX_SLACK = 4
"""A free slab is used for a frame down to a quarter of its size; untouched pages of it cost nothing."""


@dataclass(eq=False)
class Slab:
    """`nbytes` of shared memory. `memory` begins behind the control bytes."""

    number: int
    fd: int
    map: mmap.mmap
    nbytes: int

    @classmethod
    def make(cls, number: int, nbytes: int) -> Slab:
        """Fresh memory.

        Raises:
            OSError: there is no memory or no descriptor for it.
        """
        fd = os.memfd_create("owl-stream-frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, nbytes)
            # It keeps its size: whoever maps it need not fear that a page of it goes.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            os.fchmod(fd, 0o400)  # else another user who is shown it could open it anew for writing
            return cls(number, fd, mmap.mmap(fd, nbytes), nbytes)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Let go of the memory; whoever was shown it keeps it. Never raises.

        Where a view of it is left, the memory goes with the last one.
        """
        os.close(self.fd)
        with suppress(BufferError):
            self.map.close()

    @property
    def memory(self) -> memoryview:
        """The part that a frame may fill."""
        return memoryview(self.map)[CONTROL_BYTES:]

    @property
    def row(self) -> int:
        """The row that the worker was at, -1 for none."""
        return int.from_bytes(self.map[:8], "little") - 1

    def open_readonly(self) -> int:
        """A descriptor for somebody else, who can read the slab but neither write nor resize it.

        Raises:
            OSError: no descriptor is left; or a reader holds a lease (fcntl(2)), which is not waited for.
        """
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def reset(self) -> None:
        """Forget the row of an earlier job."""
        self.map[:8] = bytes(8)


class SlabPool:
    """Hands out slabs and keeps up to `keep_bytes` of free ones for the next frames of like size.

    `on_drop` hears the number of every slab that is let go, so that workers can unmap it.
    """

    def __init__(self, keep_bytes: int, on_drop: Callable[[int], None]) -> None:
        self._keep_bytes, self._on_drop = keep_bytes, on_drop
        self._free: list[Slab] = []
        self._numbers = itertools.count()
        self.nbytes = 0
        """Of all slabs, free or in use."""
        self.count = 0
        """Slabs, free or in use; each has two descriptors, its own and its map's."""

    def take(self, frame_bytes: int) -> Slab:
        """A slab with room for a frame of `frame_bytes`."""
        need = slab_bytes(frame_bytes)
        fitting = [slab for slab in self._free if need <= slab.nbytes <= need * MAX_SLACK]
        if not fitting:
            return self._make(need)
        slab = min(reversed(fitting), key=lambda slab: slab.nbytes)  # the last one given back may be in a cache still
        self._free.remove(slab)
        slab.reset()
        return slab

    def give(self, slab: Slab) -> None:
        """Take a slab back; no view of its memory may be in use any more."""
        self._free.append(slab)
        while self.free_bytes > self._keep_bytes:
            self._drop(self._free.pop(0))

    @property
    def free_bytes(self) -> int:
        """Of slabs that wait for the next frame."""
        return sum(slab.nbytes for slab in self._free)

    def discard(self, slab: Slab) -> None:
        """Let go of a slab that somebody may still write to or read: it is never used again."""
        self._drop(slab)

    def close(self) -> None:
        """Let go of all free slabs."""
        while self._free:
            self._drop(self._free.pop())

    def _make(self, nbytes: int) -> Slab:
        slab = Slab.make(next(self._numbers), nbytes)
        self.nbytes += nbytes
        self.count += 1
        return slab

    def _drop(self, slab: Slab) -> None:
        self._on_drop(slab.number)
        self.nbytes -= slab.nbytes
        self.count -= 1
        with suppress(OSError):  # some sandboxes do not know it
            slab.map.madvise(mmap.MADV_REMOVE)  # whoever was shown it must not keep the pages from the system
        slab.close()


def slab_bytes(frame_bytes: int) -> int:
    """What a slab for a frame has, rounded up to a power of two or half-way between two.

    Were each as large as its frame, ever more of them would be made, until every size had as many as there ever were.
    """
    nbytes = frame_bytes + CONTROL_BYTES
    half = 1 << max(SMALLEST, nbytes - 1).bit_length() - 2
    return max(SMALLEST, -(-nbytes // half) * half)
