"""The server's end of one worker process: starting it, giving it jobs, hearing its answers, and noticing its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from owl_stream import children
from owl_stream.assemble import Assembled, Dataset, Job, SampleLimits
from owl_stream.engine.channel import NO_MEMORY_EXIT, Done, Open, Work, receive, send
from owl_stream.engine.slabs import Slab
from owl_stream.errors import OwlStreamError, ReadError

LOADS_S = 60.0
"""A new process loads its modules and a tokenizer within this time, however busy the machine is. It reads no shard, so
a shorter limit for jobs does not apply to it."""
ENDS_S = 1.0
"""A worker whose socket is closed ends by itself within this time."""
DIES_S = 5.0
"""A process that was killed is gone within this time, unless the kernel waits for storage on its behalf."""

_LOOK_S = 1.0
"""How long a worker past its deadline is watched."""


class WorkerDiedError(Exception):
    """A worker ended in the middle of its work: at which row of the job (-1: none), by which signal (0: none).

    `begun` is False where it was still at a job before this one. `no_memory`: it ended by itself, because the row's
    sample took all that one may.
    """

    def __init__(self, row: int, code: int, begun: bool) -> None:
        super().__init__(row, code, begun)
        self.row, self.signum, self.begun = row, -min(code, 0), begun
        self.no_memory = code == NO_MEMORY_EXIT


class WorkerHandle:
    """One worker process, its socket, and what it has been given.

    It may be given a job before it has finished another, so that it never waits for this process: it takes them, and
    answers, in the order in which they are sent. `timeout_s` is wall time for one message or one job. A job has
    `2 * lone_cpu_s` more for each of its proven samples; loading a dataset's tokenizer has at least `LOADS_S`.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.sock, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "owl_stream.engine.worker"]
            arguments = [str(theirs.fileno()), str(os.getpid())]
            # Ctrl-C goes to the whole process group. The worker inherits that SIGINT is blocked, and runs on.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self.process = subprocess.Popen(
                    [*command, *arguments],
                    env=children.environment(),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    close_fds=True,
                )
            except BaseException:
                self.sock.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.sock.setblocking(False)
        # Locks are fair, so answers are heard in the order of sending.
        self._sending, self._hearing = asyncio.Lock(), asyncio.Lock()
        self._jobs: deque[Slab] = deque()  # by their slabs; those that a dead worker leaves behind stay
        self.broken = False
        """A message was cut off or an answer missed, so later answers would be taken for those of other jobs."""
        self.lost_at = 0.0
        """When it was given up, because it was killed and did not end; 0.0 if it was not."""
        self._datasets: set[str] = set()
        self._slabs: set[int] = set()
        self._forget: set[int] = set()

    def forget(self, slab: int) -> None:
        """Have the worker unmap a slab with its next work."""
        if slab in self._slabs:
            self._forget.add(slab)

    async def assemble(self, dataset: Dataset, job: Job, slab: Slab, limits: SampleLimits) -> Assembled:
        """Assemble `job` into `slab`, once the jobs before it are done: from then on its time counts.

        Raises:
            WorkerDiedError: the process ended; it has been reaped, so the slab is nobody's.
            TimeoutError: it takes too long, and must be killed.
            OwlStreamError: what the assembler raised.
        """
        try:
            async with self._sending:
                self._jobs.append(slab)
                await self._open(dataset)
                fd = None if slab.number in self._slabs else slab.fd
                forget, self._forget = tuple(self._forget), set()
                self._slabs -= set(forget)
                self._slabs.add(slab.number)
                await self._send(Work(dataset.frames, job.to_bytes(), slab.number, slab.nbytes, forget, limits), fd)
            done = await self._hear(self._timeout_s + 2 * limits.lone_cpu_s * len(limits.proven))
        except OwlStreamError:
            self._jobs.remove(slab)
            raise
        except (EOFError, ConnectionError) as exc:
            self.broken = True
            # Of the jobs that it leaves behind it was at the first.
            raise WorkerDiedError(slab.row, await self.reap(), self._jobs[0] is slab) from exc
        except BaseException:
            self.broken = True
            raise
        self._jobs.remove(slab)
        assert done.assembled is not None
        return done.assembled

    async def at_work(self) -> bool:
        """Whether the process uses CPU time now; one that waits for storage does not."""
        before = self._cpu_ticks()
        await asyncio.sleep(_LOOK_S)
        return self._cpu_ticks() - before > _LOOK_S * os.sysconf("SC_CLK_TCK") / 20

    def _cpu_ticks(self) -> int:
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0
        return int(fields[11]) + int(fields[12])

    async def open(self, dataset: Dataset) -> None:
        """Have the assembler of a dataset at hand.

        Raises:
            EOFError, ConnectionError: the process has ended.
            TimeoutError: it takes too long.
            OwlStreamError: what making the assembler raised.
        """
        try:
            async with self._sending:
                await self._open(dataset)
        except OwlStreamError:
            raise
        except BaseException:
            self.broken = True
            raise

    async def _open(self, dataset: Dataset) -> None:
        if dataset.frames not in self._datasets:
            await self._send(Open(dataset.frames, pickle.dumps(dataset.assembler_factory)))
            await self._hear(max(self._timeout_s, LOADS_S))
            self._datasets.add(dataset.frames)

    async def _send(self, message: Open | Work, fd: int | None = None) -> None:
        self._check()
        async with asyncio.timeout(self._timeout_s):
            await send(self.sock, message, fd)

    async def _hear(self, timeout_s: float) -> Done:
        async with self._hearing:
            self._check()
            async with asyncio.timeout(timeout_s):
                done: Done = await receive(self.sock)
        if done.error is not None:
            raise done.error
        return done

    def _check(self) -> None:
        if self.broken:
            raise EOFError

    async def reap(self) -> int:
        """Kill the process if it lives, wait for it, close the socket; returns its exit code.

        Raises:
            ReadError: it does not die: the kernel waits for its storage. Nobody knows whether it still writes.
        """
        self.broken = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for it; closing it under them would not
        try:
            return await self._end()
        finally:
            async with self._sending, self._hearing:
                self.sock.close()

    async def _end(self) -> int:
        # A worker that closed its socket is ending by itself: let its own signal be the one we report.
        if not await self._ended_within(ENDS_S):
            self.process.kill()
            if not await self._ended_within(DIES_S):
                self.lost_at = self.lost_at or time.monotonic()
                raise ReadError(
                    f"worker {self.process.pid} was killed and does not end: it waits for storage, which stalls; look "
                    f"at it, then ask again"
                )
        return self.process.returncode

    async def _ended_within(self, seconds: float) -> bool:
        """Whether the process ends in time. Looked at again and again: waiting for it would take a thread."""
        deadline, pause = time.monotonic() + (0.0 if self.lost_at else seconds), 0.001
        while self.process.poll() is None:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)
        return True

    async def kill(self) -> None:
        """End the process at once and wait for it. Raises as `reap`."""
        self.process.kill()
        await self.reap()
