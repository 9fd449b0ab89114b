"""Samples at which a worker died. Each is tried once more, alone, and is then condemned or given higher limits."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from owl_stream.assemble import NO_MEMORY, Dataset, Job, JobRow, SampleLimits
from owl_stream.engine.handle import WorkerDiedError
from owl_stream.errors import OwlStreamError, SampleError

log = logging.getLogger("owl_stream.engine")

CRASHES: Mapping[int, str] = {
    signal.SIGSEGV: "the decoder crashed (SIGSEGV)",
    signal.SIGBUS: "the decoder crashed (SIGBUS)",
    signal.SIGABRT: "the decoder crashed (SIGABRT)",
    signal.SIGILL: "the decoder crashed (SIGILL)",
    signal.SIGFPE: "the decoder crashed (SIGFPE)",
    signal.SIGXCPU: "decoding exceeded its CPU-time budget",
}
"""Deaths that a sample's bytes can cause. SIGKILL is not among them: the kernel's memory killer sends that."""


class Suspects:
    """A sample that takes `sample_cpu_s` of CPU time is suspected; alone it has `lone_cpu_s`, and that decides.

    Samples are known by `Dataset.frames` and digest: another recipe may take less of the same sample.
    """

    def __init__(self, sample_cpu_s: int, lone_cpu_s: int) -> None:
        self._sample_cpu_s, self._lone_cpu_s = min(sample_cpu_s, lone_cpu_s), lone_cpu_s
        self._condemned: dict[tuple[str, int], str] = {}
        self._proven: set[tuple[str, int]] = set()
        self._one_at_a_time = asyncio.Lock()

    def __len__(self) -> int:
        """How many are condemned."""
        return len(self._condemned)

    def without_condemned(self, dataset: Dataset, job: Job) -> Job:
        """The job with its condemned samples named: they are masked without being read."""
        if not self._condemned:
            return job
        found = {digest: self._condemned.get((dataset.frames, digest)) for digest in _digests(job)}
        return replace(job, condemned={digest: reason for digest, reason in found.items() if reason is not None})

    def limits(self, dataset: Dataset, job: Job) -> SampleLimits:
        """What each of the job's samples may take."""
        if not self._proven:
            return SampleLimits(self._sample_cpu_s, self._lone_cpu_s)
        proven = frozenset(digest for digest in _digests(job) if (dataset.frames, digest) in self._proven)
        return SampleLimits(self._sample_cpu_s, self._lone_cpu_s, proven)

    async def try_alone(
        self,
        dataset: Dataset,
        job: Job,
        death: WorkerDiedError,
        assemble: Callable[[Dataset, Job, SampleLimits], Awaitable[None]],
    ) -> None:
        """Try the sample that a worker died at alone: condemn it if it fails again, else give it higher limits.

        `assemble` runs a job in a fresh worker. Samples take turns, so there is never more than one such worker.
        """
        if blamed(death) is None or death.row < 0:
            return
        row = job.row_at(death.row)
        sample = (dataset.frames, row.digest)
        async with self._one_at_a_time:
            if sample in self._condemned or sample in self._proven:
                return  # another job with it was quicker
            alone = replace(job, rows=(row,), spares=(), condemned={})
            try:
                await assemble(dataset, alone, SampleLimits(self._lone_cpu_s, self._lone_cpu_s))
            except WorkerDiedError as again:
                self._condemn(dataset, row, again)
            except SampleError:  # a bad sample: it is masked, and reported, when its frame is assembled
                self._proven.add(sample)
            except (OwlStreamError, TimeoutError) as exc:
                log.warning("trying a suspected sample alone ended otherwise: %s", exc)
            else:
                self._proven.add(sample)

    def _condemn(self, dataset: Dataset, row: JobRow, death: WorkerDiedError) -> None:
        reason = blamed(death)
        if reason is not None and death.row >= 0:
            self._condemned[dataset.frames, row.digest] = reason
            shard = dataset.shards[row.shard].name
            log.warning("the sample @ %d of shard %s is masked from now on: %s", row.offset, shard, reason)


def blamed(death: WorkerDiedError) -> str | None:
    """What the sample did that the worker died of; None where something else may have killed the worker."""
    return NO_MEMORY if death.no_memory else CRASHES.get(death.signum)


def _digests(job: Job) -> list[int]:
    return [row.digest for row in (*job.rows, *job.spares) if row is not None]
