"""One assembly for everyone who asks for the same frame: leases, waiters and what an engine counts."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from weakref import WeakKeyDictionary

from owl_stream.assemble import Assembled, Dataset, Job
from owl_stream.blocking import Running
from owl_stream.engine.consumer import Consumer
from owl_stream.engine.coordinate import Coordinate
from owl_stream.engine.recent import RecentFrames
from owl_stream.engine.slabs import Slab
from owl_stream.errors import OwlStreamError, TemporaryError, WorkerError

log = logging.getLogger("owl_stream.engine")


@dataclass(frozen=True)
class EngineStatistics:
    """A snapshot. Sums run since the engine began; `failed` are assemblies by their error's code.

    `seconds` by stage are work inside workers, and `queue`: planning a job and waiting for a worker. `slab_bytes` are
    those of all slabs, `free_bytes` those of slabs that wait for the next frame, `kept_bytes` those of finished frames
    that are kept for consumers a little behind.
    """

    workers: int
    busy: int
    queued: int
    leased: int
    slabs: int
    slab_bytes: int
    assembled: int
    shared: int
    restarts: int
    condemned: int
    seconds: dict[str, float]
    failed: dict[str, int] = field(default_factory=dict)
    kept_bytes: int = 0
    free_bytes: int = 0


@dataclass(frozen=True)
class SharedPlace:
    """Where in shared memory a frame lies: `nbytes` bytes from `start` of a slab."""

    slab: Slab
    start: int
    nbytes: int


@dataclass
class Memory:
    """A whole frame in memory that somebody owns; `release` gives the memory back and makes `view` invalid.

    `place` is where other processes find it, if they can.
    """

    view: memoryview
    assembled: Assembled
    release: Callable[[], None]
    place: SharedPlace | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the frame."""
        return self.view.nbytes


@dataclass
class _Assembly:
    """A frame that is being made or is in use, by `users` leases and waiters."""

    task: asyncio.Future[Memory]
    users: int = 0


class FrameLease:
    """A read-only view of a frame that stays valid until `release` (or the end of a `with` block)."""

    def __init__(self, memory: Memory, release: Callable[[], None]) -> None:
        self._memory, self._release = memory, release
        self._open = True

    @property
    def view(self) -> memoryview:
        """The frame's bytes, uint8 [nbytes]. The lease owns it: slices of it are released before the lease is."""
        return self._memory.view

    @property
    def place(self) -> SharedPlace | None:
        """Where other processes find the frame, for as long as the lease lasts; None in memory that is not shared."""
        return self._memory.place

    @property
    def assembled(self) -> Assembled:
        """What the assembler says of the frame: statuses, seconds by stage, the contract's report."""
        return self._memory.assembled

    def release(self) -> None:
        """Give the memory back; calling it again does nothing."""
        if self._open:
            self._open = False
            self._release()

    def __enter__(self) -> FrameLease:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


COMES_BACK_S = 2.0
"""After an epoch a reader asks for the next one at once, unless its trainer saves or evaluates first."""


@dataclass
class _Sums:
    assembled: int = 0
    shared: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)


class Engine(ABC):
    """Makes frames. Everything runs on the event loop that first uses it.

    Equal coordinates that overlap in time share one assembly, and so do those that come a little later: while another
    consumer reads the same share of a dataset a little behind, the latest frames that nobody holds any more are kept
    for it, up to `share_bytes`. (For one alone they are not: memory that is used again at once is in a cache still.) A
    waiter that is cancelled disturbs neither the assembly nor the other waiters. Failures are not kept: the next one
    begins anew.
    """

    shares_memory = False
    """Whether frames lie where other processes can find them."""

    def __init__(self, share_bytes: int = 0) -> None:
        self._assemblies: dict[tuple[str, Coordinate], _Assembly] = {}
        self._consumers: WeakKeyDictionary[Consumer, tuple[str, Coordinate]] = WeakKeyDictionary()
        self._recent: RecentFrames[tuple[str, Coordinate], Memory] = RecentFrames(share_bytes)
        self._sums = _Sums()
        self.on_assembled: Callable[[float], None] = lambda seconds: None
        """Hears the wall time of every assembly, from asking to having."""
        self.failure: OwlStreamError | None = None
        """Why the engine works no more, or not with all of its workers; None while all is well."""
        self._closed = False

    async def start(self) -> None:  # noqa: B027 # an engine without workers has nothing to prepare
        """Begin to prepare workers; frames may be asked for at once."""

    async def prepare(self, dataset: Dataset) -> None:  # noqa: B027 # an engine without workers has nothing to load
        """Load what the dataset's frames need, so that the first one does not wait for it.

        Raises:
            OwlStreamError: none of its frames could be made: not one worker starts, or loads it.
        """

    def room(self, dataset: Dataset, job: Job) -> int:
        """Bytes of memory that a job's frame takes: more than it has, where memory comes in few sizes."""
        return dataset.capacity(job)

    async def frame(self, dataset: Dataset, at: Coordinate, consumer: Consumer | None = None) -> FrameLease:
        """Assemble a micro-batch, or join those who wait for it.

        Those who give no `consumer` share the workers' time as one.

        Raises:
            RequestError: the dataset has no such coordinate.
            DataChangedError, ContractError: the frame must not be made.
            TemporaryError: it could not be made now (storage, a lost worker, the engine closing).
        """
        if self._closed:
            raise TemporaryError("the engine is closing: ask again, or ask another server")
        key = (dataset.frames, at)
        if consumer is not None:
            self._consumers[consumer] = key
        assembly = self._assemblies.get(key)
        if assembly is None and (kept := self._recent.take(key)) is not None:
            assembly = self._assemblies[key] = _Assembly(asyncio.get_running_loop().create_future())
            assembly.task.set_result(kept)
            self._sums.shared += 1
        elif assembly is None:
            assembly = self._assemblies[key] = _Assembly(asyncio.create_task(self._make(dataset, at, consumer)))
            assembly.task.add_done_callback(partial(self._settle, key, assembly))
        else:
            self._sums.shared += 1
        assembly.users += 1
        try:
            memory = await asyncio.shield(assembly.task)
        except BaseException:
            self._end_use(key, assembly, consumer)
            raise
        return FrameLease(memory, lambda: self._end_use(key, assembly, consumer))

    def leave(self, consumer: Consumer) -> None:
        """Keep nothing more for a consumer that has ended. What was kept for it alone goes a little later: it may have
        ended an epoch, and come back as another one for the next."""
        if self._consumers.pop(consumer, None) is not None:
            asyncio.get_running_loop().call_later(COMES_BACK_S, self._recent.retain, self._wanted)

    def statistics(self) -> EngineStatistics:
        """A snapshot of what the engine holds and has done."""
        leased = sum(assembly.users for assembly in self._assemblies.values())
        return EngineStatistics(
            workers=0,
            busy=0,
            queued=0,
            leased=leased,
            slabs=0,
            slab_bytes=0,
            assembled=self._sums.assembled,
            shared=self._sums.shared,
            restarts=0,
            condemned=0,
            seconds=dict(self._sums.seconds),
            failed=dict(self._sums.failed),
            kept_bytes=self._recent.nbytes,
        )

    def running(self) -> list[Running]:
        """What the engine waits for now, beside its workers' answers."""
        return []

    def stuck(self) -> list[Running]:
        """What of it does not come back: for how long, in seconds."""
        return []

    async def aclose(self) -> None:
        """Stop working; assemblies under way end with TemporaryError or are thrown away."""
        self._closed = True
        for assembly in self._assemblies.values():
            assembly.task.cancel()
        await asyncio.gather(*(a.task for a in self._assemblies.values()), return_exceptions=True)
        self._recent.clear()

    async def _make(self, dataset: Dataset, at: Coordinate, consumer: Consumer | None) -> Memory:
        began = time.monotonic()
        try:
            job = await (consumer or Consumer(dataset)).job(at)
            memory = await self._assemble(dataset, job, consumer)
        except OwlStreamError as exc:
            self._sums.failed[exc.code] += 1
            raise
        except (OSError, MemoryError) as exc:
            self._sums.failed[WorkerError.code] += 1
            raise WorkerError(f"the server is out of descriptors or memory ({exc}): ask again") from exc
        except Exception as exc:
            self._sums.failed[WorkerError.code] += 1
            log.exception("%s failed unexpectedly", at)
            raise WorkerError(f"{at} failed unexpectedly: {type(exc).__name__}: {exc}; see the server's log") from exc
        took_s, work = time.monotonic() - began, memory.assembled.seconds
        self._sums.assembled += 1
        self._sums.seconds.update({**work, "queue": max(0.0, took_s - sum(work.values()))})
        self.on_assembled(took_s)
        return memory

    @abstractmethod
    async def _assemble(self, dataset: Dataset, job: Job, consumer: Consumer | None) -> Memory:
        """Make one frame in memory of its own."""

    def _settle(self, key: tuple[str, Coordinate], assembly: _Assembly, task: asyncio.Future[Memory]) -> None:
        if assembly.users == 0 or _failed(task):
            self._forget(key, assembly)

    def _end_use(self, key: tuple[str, Coordinate], assembly: _Assembly, consumer: Consumer | None) -> None:
        assembly.users -= 1
        if assembly.users == 0 and assembly.task.done():
            self._forget(key, assembly, consumer)

    def _forget(self, key: tuple[str, Coordinate], assembly: _Assembly, by: Consumer | None = None) -> None:
        """Let go of an assembly that has ended and is not used. Its end and its last user may come in either order."""
        if self._assemblies.get(key) is not assembly:
            return
        del self._assemblies[key]
        if _failed(assembly.task):
            return
        if not self._closed and self._wanted(key, by):
            self._recent.keep(key, assembly.task.result())
        else:
            assembly.task.result().release()

    def _wanted(self, key: tuple[str, Coordinate], by: Consumer | None = None) -> bool:
        """Whether anybody else may soon ask for a frame that was given back `by` one."""
        return any(other is not by and _behind(there, key) for other, there in self._consumers.items())


def _failed(task: asyncio.Future[Memory]) -> bool:
    """Whether an assembly that has ended has made no frame."""
    return task.cancelled() or task.exception() is not None


def _behind(one: tuple[str, Coordinate], other: tuple[str, Coordinate]) -> bool:
    """Whether who asked for this one last may soon ask for the other one too."""
    (frames, here), (others, at) = one, other
    return frames == others and here[3:] == at[3:] and here[:3] <= at[:3] and at.epoch - here.epoch <= 1
