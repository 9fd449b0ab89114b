"""An assembly worker: `python -m owl_stream.engine.worker FD`. Started by the engine, dies with it.

It reads work from the socket FD, writes frames into the slabs it is handed, and answers. It has no state that matters.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable

from owl_stream.assemble import Assembler, Job, OutOfMemoryError
from owl_stream.engine.channel import NO_MEMORY_EXIT, Done, Open, Work, receive_blocking, send_blocking
from owl_stream.engine.slabs import CONTROL_BYTES
from owl_stream.errors import OwlStreamError, WorkerError
from owl_stream.inert import guard_stderr

_PR_SET_PDEATHSIG = 1


class Worker:
    """Serves one socket until it closes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._assemblers: dict[str, Assembler] = {}
        self._maps: dict[int, mmap.mmap] = {}

    def run(self) -> None:
        """Answer messages until the server is gone."""
        while True:
            try:
                message, fd = receive_blocking(self._sock)
            except EOFError:
                return
            send_blocking(self._sock, self._answer(message, fd))

    def _answer(self, message: Open | Work, fd: int | None) -> Done:
        try:
            if isinstance(message, Open):
                factory: Callable[[], Assembler] = pickle.loads(message.factory)
                self._assemblers[message.frames] = factory()
                return Done(None)
            return self._work(message, fd)
        except OutOfMemoryError:
            os._exit(NO_MEMORY_EXIT)  # the slab tells at which row
        except OwlStreamError as exc:
            return Done(None, exc)
        except Exception as exc:
            return Done(None, WorkerError(f"assembly failed unexpectedly: {type(exc).__name__}: {exc}"))

    def _work(self, work: Work, fd: int | None) -> Done:
        for number in work.forget:
            if number in self._maps:
                self._maps.pop(number).close()
        if fd is not None:
            self._maps[work.slab] = mmap.mmap(fd, work.slab_nbytes)
            os.close(fd)
        slab = self._maps[work.slab]

        def progress(row: int) -> None:
            slab[:8] = (row + 1).to_bytes(8, "little")

        with memoryview(slab) as whole, whole[CONTROL_BYTES:] as memory:
            assembled = self._assemblers[work.frames].assemble(
                Job.from_bytes(work.job), memory, progress, limits=work.limits
            )
        return Done(assembled)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, and go at once if that has happened already."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere the closed socket tells
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)


def main() -> None:
    """Entry point: arguments are the socket's descriptor and the parent's pid."""
    guard_stderr()
    fd, parent = (int(argument) for argument in sys.argv[1:3])
    die_with_parent(parent)
    # Ctrl-C and a service manager signal the whole group: the server alone decides when workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=fd) as sock:
        Worker(sock).run()


if __name__ == "__main__":
    main()
