"""Workers die, hang and are killed for real; the frames stay the same."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from owl_stream.assemble import Dataset, SampleLimits
from owl_stream.engine import Coordinate, Engine, InlineEngine, ProcessEngine
from owl_stream.engine.handle import WorkerDiedError, WorkerHandle
from owl_stream.engine.slabs import CONTROL_BYTES, SlabPool
from owl_stream.errors import ReadError, WorkerError
from owl_stream.wire import BatchHeader, parse_frames
from tests.engine.conftest import open_small, running
from tests.engine.faulty import harm
from tests.support.datasets import small_dataset
from tests.support.layouts import OWL, QWEN, every_layout
from tests.support.patience import PATIENCE_S

AT = Coordinate(0, 0, 0, 0, 1, 4)


@pytest.fixture
def harmed(layout: str, tmp_path: Path) -> Iterator[Dataset]:
    """A dataset of one's own, whose assembler a test may replace."""
    dataset = open_small(small_dataset(tmp_path / "data", layout=layout))
    yield dataset
    dataset.close()


async def undisturbed(dataset: Dataset) -> bytes:
    """The frame at AT from an engine that nothing happens to."""
    async with running(InlineEngine()) as engine:
        with await engine.frame(dataset, AT) as lease:
            return bytes(lease.view)


async def copied(engine: Engine, dataset: Dataset, at: Coordinate) -> bytes:
    """A frame's bytes."""
    with await engine.frame(dataset, at) as lease:
        return bytes(lease.view)


@every_layout
def test_fault_4_a_killed_worker_is_replaced_and_the_frame_is_the_same(harmed: Dataset, tmp_path: Path) -> None:
    """SIGKILL in the middle of a batch costs a restart; nothing is blamed, no byte differs."""

    async def run() -> None:
        expected = await undisturbed(harmed)
        harm(harmed, AT, "SIGKILL", once=tmp_path / "killed")
        async with running(ProcessEngine(1)) as engine:
            with await engine.frame(harmed, AT) as lease:
                assert bytes(lease.view) == expected
            statistics = engine.statistics()
            assert (statistics.restarts, statistics.condemned) == (1, 0)
        assert (tmp_path / "killed").exists()

    asyncio.run(run())


def test_an_idle_worker_that_was_killed_is_replaced(dataset: Dataset) -> None:
    """Workers killed between two frames are noticed at the next one."""

    async def run() -> None:
        async with running(ProcessEngine(2)) as engine:
            with await engine.frame(dataset, AT) as lease:
                expected = bytes(lease.view)
            for pid in engine.processes:
                os.kill(pid, signal.SIGKILL)
            with await engine.frame(dataset, AT) as lease:
                assert bytes(lease.view) == expected

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fault", "reason", "layout"),
    [("SIGSEGV", "SIGSEGV", OWL), ("spin", "CPU-time", OWL), ("SIGSEGV", "SIGSEGV", QWEN)],
    indirect=["layout"],
)
def test_fault_62_only_the_sample_that_harms_its_decoder_is_masked(harmed: Dataset, fault: str, reason: str) -> None:
    """A decoder that crashes, or runs away, twice costs that one row; its neighbours in the batch stay as they were."""

    async def run() -> None:
        (whole,) = parse_frames(await undisturbed(harmed))
        harm(harmed, AT, fault)
        async with running(ProcessEngine(1, sample_cpu_s=1, lone_cpu_s=1)) as engine:
            with await engine.frame(harmed, AT) as lease:
                (frame,) = parse_frames(bytes(lease.view))
            assert engine.statistics().condemned == 1
        assert isinstance(frame.header, BatchHeader)
        assert isinstance(whole.header, BatchHeader)
        assert [row.status for row in frame.header.rows] == ["masked", "ok", "ok", "ok"]
        assert reason in frame.header.rows[0].reason
        assert frame.header.rows[1:] == whole.header.rows[1:]
        assert [(t.name, t.shape) for t in frame.header.tensors] == [(t.name, t.shape) for t in whole.header.tensors]

    asyncio.run(run())


def test_a_crash_that_does_not_come_again_blames_nobody(harmed: Dataset, tmp_path: Path) -> None:
    """One crash alone is not the sample's fault: tried alone in a fresh worker it is good, so its row is."""

    async def run() -> None:
        expected = await undisturbed(harmed)
        harm(harmed, AT, "SIGSEGV", once=tmp_path / "crashed")
        async with running(ProcessEngine(1)) as engine:
            with await engine.frame(harmed, AT) as lease:
                assert bytes(lease.view) == expected
            assert engine.statistics().condemned == 0

    asyncio.run(run())


def test_fault_55_a_stall_is_a_retryable_error_and_masks_nothing(harmed: Dataset, tmp_path: Path) -> None:
    """A worker that waits past the deadline is killed; the same frame succeeds when asked for again."""

    async def run() -> None:
        expected = await undisturbed(harmed)
        harm(harmed, AT, "stall", once=tmp_path / "stalled")
        async with running(ProcessEngine(1, job_timeout_s=3)) as engine:
            with pytest.raises(ReadError, match="storage seems to stall"):
                await engine.frame(harmed, AT)
            with await engine.frame(harmed, AT) as lease:
                assert bytes(lease.view) == expected

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSEGV", "stall"])
def test_a_job_in_the_hands_of_a_worker_that_dies_of_another_comes_to_no_harm(
    harmed: Dataset, tmp_path: Path, fault: str
) -> None:
    """Whatever ends a worker at the first of its two jobs, the second is made elsewhere and blamed for nothing."""
    places = [AT, *(Coordinate(epoch, 0, 0, 0, 1, 4) for epoch in range(1, 5))]

    async def run() -> None:
        async with running(InlineEngine()) as engine:
            expected = [await copied(engine, harmed, at) for at in places]
        harm(harmed, AT, fault, once=tmp_path / "harmed")
        async with running(ProcessEngine(1, job_timeout_s=5)) as engine:
            got = await asyncio.gather(*(copied(engine, harmed, at) for at in places), return_exceptions=True)
            assert (tmp_path / "harmed").exists()
            assert engine.statistics().condemned == 0
            assert engine.statistics().restarts == 1
        if fault == "stall":
            assert isinstance(got[0], ReadError)
            got[0] = expected[0]
        assert got == expected

    asyncio.run(run())


def test_of_the_jobs_that_a_dead_worker_leaves_only_the_first_was_begun(harmed: Dataset) -> None:
    """So only the first is blamed, and counts a try."""
    jobs = [harmed.job(*AT), harmed.job(1, 0, 0, 0, 1, 4)]

    async def run() -> None:
        harm(harmed, AT, "SIGKILL")
        pool, worker = SlabPool(0, lambda number: None), WorkerHandle(60.0)
        slabs = [pool.take(harmed.capacity(job)) for job in jobs]
        work = (worker.assemble(harmed, job, slab, SampleLimits(10, 60)) for job, slab in zip(jobs, slabs, strict=True))
        first, second = await asyncio.gather(*work, return_exceptions=True)
        for slab in slabs:
            pool.give(slab)
        assert isinstance(first, WorkerDiedError)
        assert isinstance(second, WorkerDiedError)
        assert (first.row, first.signum, first.begun) == (0, signal.SIGKILL, True)
        assert (second.row, second.begun) == (-1, False)

    asyncio.run(run())


@pytest.mark.parametrize(("asked", "queued"), [(2, 1), (5, 3)])
def test_a_worker_is_handed_a_second_job_only_where_others_are_left(
    harmed: Dataset, tmp_path: Path, asked: int, queued: int
) -> None:
    """While the only worker is at its first job: of two, one waits for whoever is free first; of five, three do."""
    places = [Coordinate(epoch, 0, 0, 0, 1, 4) for epoch in range(asked)]
    reached = tmp_path / "reached"

    async def run() -> None:
        harm(harmed, AT, "stall", once=reached)
        async with running(ProcessEngine(1)) as engine:
            tasks = [asyncio.create_task(copied(engine, harmed, places[0]))]
            async with asyncio.timeout(PATIENCE_S):
                while not reached.exists():  # noqa: ASYNC110 # another process makes it
                    await asyncio.sleep(0.01)
                tasks += [asyncio.create_task(copied(engine, harmed, at)) for at in places[1:]]
                while engine.statistics().queued != queued:  # noqa: ASYNC110 # threads plan the jobs
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert engine.statistics().queued == queued
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["SIGKILL", "unopened"])
def test_workers_that_keep_being_killed_end_in_a_retryable_error(harmed: Dataset, fault: str) -> None:
    """SIGKILL again and again (the kernel's memory killer), early or late, masks nothing and does not loop forever."""
    places = [AT, *(Coordinate(epoch, 0, 0, 0, 1, 4) for epoch in range(1, 4))]

    async def run() -> None:
        harm(harmed, AT, fault)
        async with running(ProcessEngine(1)) as engine:
            got = await asyncio.gather(*(copied(engine, harmed, at) for at in places), return_exceptions=True)
            assert isinstance(got[0], WorkerError)
            assert "memory killer" in str(got[0])
            assert fault == "SIGKILL" or all(isinstance(each, WorkerError) for each in got)
            assert engine.statistics().condemned == 0

    asyncio.run(run())


def test_workers_die_with_their_server(tmp_path: Path) -> None:
    """After SIGKILL of the process that owns an engine, none of its workers lives on."""
    code = """
        import asyncio, sys
        from owl_stream.engine import ProcessEngine
        async def main():
            engine = ProcessEngine(2)
            await engine.start()
            print(*engine.processes, flush=True)
            await asyncio.sleep(3600)
        asyncio.run(main())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pidfds = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    for pidfd in pidfds:
        # A pidfd becomes readable when its process ends; the test's own deadline bounds the wait.
        asyncio.run(_ended(pidfd))
        os.close(pidfd)


async def _ended(pidfd: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    await asyncio.wait_for(ended.wait(), PATIENCE_S)


def test_slabs_are_reused_and_bounded() -> None:
    """A given-back slab serves the next frame of like size; beyond the bound the oldest is let go and reported."""
    dropped: list[int] = []
    pool = SlabPool(keep_bytes=3 << 20, on_drop=dropped.append)
    first = pool.take(100)
    pool.give(first)
    assert pool.take(200) is first
    large = pool.take(5 << 20)
    pool.give(first)
    pool.give(large)
    assert dropped == [first.number, large.number]
    assert pool.nbytes == 0
    pool.close()


@every_layout
def test_a_frame_counts_as_the_slab_that_one_of_its_size_takes(dataset: Dataset) -> None:
    """So a stream holds as many slabs as another, whatever its texts' lengths; a larger slab makes no difference."""

    async def run() -> None:
        async with running(ProcessEngine(1)) as engine:
            at = Coordinate(0, 0, 0, 0, 1, 4)
            with await engine.frame(dataset, at) as lease:
                assert lease.place is not None
                room = engine.room(dataset, dataset.job(*at))
                assert room == lease.place.slab.nbytes > lease.view.nbytes
            small, large = engine._slabs.take(room - CONTROL_BYTES), engine._slabs.take(2 * room - CONTROL_BYTES)
            engine._slabs.give(large)
            with await engine.frame(dataset, at) as lease:
                assert lease.place is not None
                assert lease.place.slab.nbytes == 2 * room
            engine._slabs.give(small)

    asyncio.run(run())


@pytest.mark.parametrize("sizes", [(14_200_000, 16_700_000), (1, 1 << 20), (3_200_000, 4_000_000)])
def test_frames_of_like_size_use_the_same_slabs(sizes: tuple[int, int]) -> None:
    """Whatever order they come in: there are never more slabs than frames at a time, and a slab holds any of them."""
    pool = SlabPool(keep_bytes=1 << 30, on_drop=lambda number: None)
    smallest, largest = sizes
    for size in (smallest, largest - CONTROL_BYTES, (smallest + largest) // 2, smallest, largest - CONTROL_BYTES):
        slab = pool.take(size)
        assert slab.number == 0
        assert slab.memory.nbytes >= size
        pool.give(slab)
    pool.close()
