"""Assembly in local worker processes: the default. Frames are written into shared memory, only descriptors are sent.

A worker that dies is replaced and its frame assembled again. If a decoder crashed on a row, or took all CPU time or
memory that one sample may, that sample is tried once more, alone in a fresh worker, with limits that no setting
changes. If it fails again the sample is condemned: its row is masked from then on. If not, it has those limits from
then on. A worker that was killed or stalled says nothing about the sample, and never masks anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import time
from collections.abc import Sequence

from owl_stream.assemble import Assembled, Dataset, Job, SampleLimits
from owl_stream.blocking import Running
from owl_stream.config import MAX_SAMPLE_CPU_S
from owl_stream.engine.consumer import Consumer
from owl_stream.engine.cores import usable_cores
from owl_stream.engine.fair import FairQueue
from owl_stream.engine.handle import LOADS_S, WorkerDiedError, WorkerHandle
from owl_stream.engine.shared import Engine, EngineStatistics, Memory, SharedPlace
from owl_stream.engine.slabs import CONTROL_BYTES, Slab, SlabPool, slab_bytes
from owl_stream.engine.stalls import HeldBackError, Stalls
from owl_stream.engine.suspects import Suspects
from owl_stream.errors import OwlStreamError, ReadError, TemporaryError, WorkerError
from owl_stream.machine import explained

log = logging.getLogger("owl_stream.engine")

MAX_TRIES = 4
HANDED = 2
"""Jobs in a worker's hands, where enough of them wait: it begins the next one while its answer is being read."""
KEEP_FREE_BYTES = 256 << 20
FORGET_S = 60.0
"""How long a shard that stalled stays suspected, beyond the time in which a worker may try it again."""


@dataclasses.dataclass
class _Errand:
    """A job on its way: `slab` is taken and `result` is set by the worker that runs it."""

    dataset: Dataset
    job: Job
    capacity: int
    result: asyncio.Future[Assembled]
    limits: SampleLimits
    slab: Slab | None = None
    in_turn: bool = False
    """It needs a shard that stalls, and it is its turn to try."""


def _refuse(errand: _Errand) -> None:
    errand.result.set_exception(TemporaryError("the engine is closing: ask again, or ask another server"))


class ProcessEngine(Engine):
    """Assembles in `workers` processes (default: one per usable core).

    `job_timeout_s` is wall time: a worker that takes longer waits for storage, is killed, and the frame is a
    retryable error. `sample_cpu_s` is CPU time: a decoder that takes longer is killed by the kernel, and its sample is
    tried alone. `lone_cpu_s`, which decides whether it is masked, is the same for all servers: only tests change it.
    """

    shares_memory = True

    def __init__(
        self,
        workers: int | None = None,
        *,
        job_timeout_s: float = 120.0,
        sample_cpu_s: int = 10,
        share_bytes: int = 0,
        lone_cpu_s: int = MAX_SAMPLE_CPU_S,
    ) -> None:
        super().__init__(share_bytes)
        self._workers = workers or usable_cores()
        self._job_timeout_s = job_timeout_s
        self._suspects = Suspects(sample_cpu_s, lone_cpu_s)
        self._slabs = SlabPool(KEEP_FREE_BYTES, self._dropped)
        self._errands: FairQueue[_Errand] = FairQueue()
        self._runners: list[asyncio.Task[None]] = []
        self._processes: list[WorkerHandle | None] = [None] * self._workers
        self._given = [0] * self._workers
        self._restarts = 0
        self._stalls = Stalls(job_timeout_s + FORGET_S)
        self._lost: list[WorkerHandle] = []
        """Workers that were killed and did not end."""

    async def start(self) -> None:
        """Start the worker processes; they load their modules while the first frames are planned."""
        if not self._runners:
            for place in range(self._workers):
                with contextlib.suppress(OSError):  # its runner tries again, and says what is wrong
                    self._processes[place] = WorkerHandle(self._job_timeout_s)
                for number in range(HANDED):
                    runner = asyncio.create_task(self._run(place), name=f"worker-{place}-{number}")
                    runner.add_done_callback(self._ended)
                    self._runners.append(runner)

    def _ended(self, runner: asyncio.Task[None]) -> None:
        if not runner.cancelled() and (exc := runner.exception()) is not None:
            self.failure = explained(exc, f"the engine's {runner.get_name()}")
            log.error("%s", self.failure, exc_info=exc)

    async def prepare(self, dataset: Dataset) -> None:
        """See `Engine.prepare`: every worker loads the tokenizer now, which takes it half a second."""
        await self.start()
        preparing = (self._prepare(place, dataset) for place in range(self._workers))
        outcomes = await asyncio.gather(*preparing, return_exceptions=True)
        failures = [explained(each, "cannot start a worker") for each in outcomes if isinstance(each, Exception)]
        if len(failures) == self._workers:
            raise failures[0]
        for failure in failures:  # the others do its work; it is tried again with every frame
            log.warning("a worker of %d is not ready for %s: %s", self._workers, dataset.name, failure)

    async def _prepare(self, place: int, dataset: Dataset) -> None:
        for _ in range(MAX_TRIES):
            worker = await self._living(place)
            try:
                await worker.open(dataset)
            except (EOFError, ConnectionError):
                await worker.kill()
            except TimeoutError as exc:
                await worker.kill()
                raise WorkerError(
                    f"a worker did not load the tokenizer within {max(self._job_timeout_s, LOADS_S):g} s: look at the "
                    f"machine's load and its storage"
                ) from exc
            else:
                return
        raise WorkerError(
            f"{MAX_TRIES} workers ended one after the other before they were ready, the last with exit code "
            f"{worker.process.returncode}: what they wrote stands above; -9 is the kernel's memory killer's"
        )

    @property
    def processes(self) -> Sequence[int]:
        """The workers' process ids, for operators and tests."""
        return [worker.process.pid for worker in self._processes if worker is not None]

    def statistics(self) -> EngineStatistics:
        """A snapshot, with what workers and shared memory are doing."""
        return dataclasses.replace(
            super().statistics(),
            workers=sum(worker is not None for worker in self._processes),
            busy=sum(map(bool, self._given)),
            queued=len(self._errands),
            slabs=self._slabs.count,
            slab_bytes=self._slabs.nbytes,
            free_bytes=self._slabs.free_bytes,
            restarts=self._restarts,
            condemned=len(self._suspects),
        )

    def room(self, dataset: Dataset, job: Job) -> int:
        """See `Engine.room`: a slab."""
        return slab_bytes(dataset.capacity(job))

    def running(self) -> list[Running]:
        """See `Engine.running`: workers that do not end."""
        now = time.monotonic()
        handles = {*self._still_lost(), *(each for each in self._processes if each is not None and each.lost_at)}
        return [Running(f"worker {each.process.pid}, which was killed", now - each.lost_at) for each in handles]

    def stuck(self) -> list[Running]:
        """See `Engine.stuck`: shards that stall, and workers that do not end."""
        return [*self._stalls.now(), *self.running()]

    async def aclose(self) -> None:
        """Stop the workers and let go of the shared memory. Leases must have been released."""
        self._closed = True
        for runner in self._runners:
            runner.cancel()
        await asyncio.gather(*self._runners, return_exceptions=True)
        for errand in self._errands.drain():
            _refuse(errand)
        await super().aclose()
        ends = (worker.kill() for worker in self._processes if worker is not None)
        for outcome in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(outcome, Exception):
                log.error("%s", explained(outcome, "a worker could not be ended"))
        self._processes = [None] * self._workers
        self._slabs.close()

    def _dropped(self, slab: int) -> None:
        for worker in self._processes:
            if worker is not None:
                worker.forget(slab)

    async def _assemble(self, dataset: Dataset, job: Job, consumer: Consumer | None) -> Memory:
        await self.start()
        tries = 0
        while tries < MAX_TRIES:
            job = self._suspects.without_condemned(dataset, job)
            result: asyncio.Future[Assembled] = asyncio.get_running_loop().create_future()
            errand = _Errand(dataset, job, dataset.capacity(job), result, self._suspects.limits(dataset, job))
            try:
                async with self._stalls.turn(dataset, job, self._job_timeout_s) as errand.in_turn:
                    self._check_lost(errand)
                    self._errands.put(errand, 0 if consumer is None else consumer.number, errand.capacity)
                    assembled = await self._outcome(errand)
            except HeldBackError:
                continue
            except WorkerDiedError as death:
                self._give_back(errand)
                if not death.begun:  # of whatever it was at before
                    continue
                tries += 1
                how = "no memory for it" if death.no_memory else f"signal {death.signum}"
                log.warning("a worker died at row %d of %s, try %d: %s", death.row, job, tries, how)
                await self._suspects.try_alone(dataset, job, death, self._assemble_alone)
            except BaseException:
                self._give_back(errand)
                raise
            else:
                assert errand.slab is not None
                return self._memory(errand.slab, assembled)
        raise WorkerError(
            f"{job}: {MAX_TRIES} workers died one after the other while assembling it, not because of one sample; "
            f"look for the kernel's memory killer, then ask again"
        )

    def _slab(self, frame_bytes: int) -> Slab:
        """A slab; where there is no memory for it, frames kept for sharing go first."""
        try:
            return self._slabs.take(frame_bytes)
        except (OSError, MemoryError):
            self._recent.clear()
            return self._slabs.take(frame_bytes)

    def _give_back(self, errand: _Errand) -> None:
        if errand.slab is not None:
            self._slabs.give(errand.slab)

    async def _outcome(self, errand: _Errand) -> Assembled:
        # The slab belongs to the worker until it answers or is reaped, whatever happens to this task meanwhile.
        try:
            return await asyncio.shield(errand.result)
        except asyncio.CancelledError:
            while not errand.result.done():
                with contextlib.suppress(asyncio.CancelledError):  # another one changes nothing
                    await asyncio.wait([errand.result])
            errand.result.exception()
            raise

    def _memory(self, slab: Slab, assembled: Assembled) -> Memory:
        view = slab.memory[assembled.start : assembled.start + assembled.nbytes].toreadonly()

        def release() -> None:
            try:
                view.release()
            except BufferError:  # somebody reads it still, who must not see the next frame
                log.warning("a frame was given back while it was being read: its memory is not used again")
                self._slabs.discard(slab)
            else:
                self._slabs.give(slab)

        place = SharedPlace(slab, CONTROL_BYTES + assembled.start, assembled.nbytes)
        return Memory(view, assembled, release, place)

    async def _assemble_alone(self, dataset: Dataset, job: Job, limits: SampleLimits) -> None:
        """Assemble a job in a worker of its own, and throw the frame away."""
        slab = self._slab(dataset.capacity(job))
        try:
            worker = WorkerHandle(self._job_timeout_s + 4 * limits.lone_cpu_s)
        except BaseException:
            self._slabs.give(slab)
            raise
        try:
            await worker.assemble(dataset, job, slab, limits)
        finally:
            try:
                await worker.kill()
            except BaseException:
                self._slabs.discard(slab)  # it may still write
                raise
            self._slabs.give(slab)

    async def _run(self, place: int) -> None:
        """Serve errands with the worker at `place`; several of these do, so that it always has the next one at hand."""

        def leave() -> int:
            return self._workers if self._given[place] else 0  # a worker that has nothing to do comes first

        while True:
            errand = await self._errands.get(leave)
            if not errand.in_turn and self._stalls.suspects(errand.dataset, errand.job):
                errand.result.set_exception(HeldBackError())
                continue
            self._given[place] += 1
            began = time.monotonic()
            try:
                await self._serve(place, errand)
            except Exception as exc:  # its worker could not even be ended: the place goes on with the next errand
                unforeseen = None if isinstance(exc, OwlStreamError) else exc
                log.error("a worker could not be ended: %s", exc, exc_info=unforeseen)
                self._look_for_stall(errand, time.monotonic() - began)
                self._abandon(errand, exc)
            else:
                self._look_for_stall(errand, time.monotonic() - began)
            finally:
                self._given[place] -= 1
                if not errand.result.done():
                    await self._stop(place, errand)

    async def _stop(self, place: int, errand: _Errand) -> None:
        """The engine closes while a worker is at an errand."""
        try:
            if (worker := self._processes[place]) is not None:
                await worker.kill()
        except ReadError as exc:
            self._abandon(errand, exc)
        else:
            _refuse(errand)

    def _look_for_stall(self, errand: _Errand, took_s: float) -> None:
        """Remember which shard an errand stalled at, or that its shards do not stall."""
        error = errand.result.exception() if errand.result.done() else None
        if errand.result.done() and error is None:
            self._stalls.made(errand.dataset, errand.job)
        elif took_s >= self._job_timeout_s and errand.slab is not None and isinstance(error, ReadError | None):
            self._stalls.found(errand.dataset, errand.job, errand.slab.row)

    def _check_lost(self, errand: _Errand) -> None:
        """Raise ReadError once as many workers are lost as may work at a time: another try might lose another."""
        if errand.in_turn and len(self._still_lost()) >= self._workers:
            raise ReadError(
                f"{errand.job}: {len(self._lost)} workers were killed and do not end, because their storage stalls; "
                f"look at it, then ask again"
            )

    def _still_lost(self) -> list[WorkerHandle]:
        self._lost = [worker for worker in self._lost if worker.process.poll() is None]
        return self._lost

    def _abandon(self, errand: _Errand, exc: Exception) -> None:
        """Nobody knows whether its worker still writes, so its slab is not used again."""
        if errand.slab is not None:
            slab, errand.slab = errand.slab, None
            self._slabs.discard(slab)
        errand.result.set_exception(explained(exc, "a worker could not be ended"))

    async def _serve(self, place: int, errand: _Errand) -> None:
        result: Assembled | None = None
        error: Exception | None = None
        worker: WorkerHandle | None = None
        try:
            worker = await self._living(place)
            # Not before there is a worker: fewer slabs stay cache-warm.
            errand.slab = self._slab(errand.capacity)
            result = await worker.assemble(errand.dataset, errand.job, errand.slab, errand.limits)
        except TimeoutError:
            error = await self._late(worker, errand)
        except (WorkerDiedError, OwlStreamError, OSError, MemoryError) as exc:
            error = exc
        except Exception as exc:
            log.exception("%s failed unexpectedly", errand.job)
            error = WorkerError(f"{errand.job} failed unexpectedly: {type(exc).__name__}: {exc}; see the server's log")
        if worker is not None and worker.broken:
            await worker.kill()  # whatever it still does, not into a slab that is used again
        if error is not None:
            errand.result.set_exception(error)
        elif result is not None:
            errand.result.set_result(result)

    async def _late(self, worker: WorkerHandle | None, errand: _Errand) -> Exception:
        """Why a worker was late: storage stalls, or it still uses CPU. Then its sample counts as out of CPU time."""
        if worker is not None and errand.slab is not None and errand.slab.row >= 0 and await worker.at_work():
            return WorkerDiedError(errand.slab.row, -signal.SIGXCPU, True)
        return ReadError(
            f"{errand.job}: not assembled within {self._job_timeout_s:g} s of wall time; storage seems to stall, "
            f"look at it, then ask again"
        )

    async def _living(self, place: int) -> WorkerHandle:
        """The worker at `place`, replaced if it has died.

        Raises:
            OSError: no descriptor, memory or process is left; the next errand tries again.
        """
        while (worker := self._processes[place]) is None or worker.lost_at or worker.process.poll() is not None:
            if worker is not None and not worker.lost_at:
                await worker.kill()
            if self._processes[place] is worker:  # else somebody else has replaced it meanwhile
                if worker is not None and worker.lost_at:
                    self._lost.append(worker)
                self._processes[place] = None
                self._processes[place] = WorkerHandle(self._job_timeout_s)
                self._restarts += 1
        return worker
