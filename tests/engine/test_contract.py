"""What every engine promises, held against each of them."""

from __future__ import annotations

import asyncio

import pytest

from owl_stream.assemble import Dataset
from owl_stream.engine import Coordinate, InlineEngine
from owl_stream.errors import RequestError, TemporaryError
from owl_stream.wire import BatchHeader, parse_frames
from tests.engine.conftest import MakeEngine, running
from tests.support.layouts import every_layout

FIRST = Coordinate(0, 0, 0, 0, 1, 4)


@every_layout
def test_frames_are_the_same_from_every_engine(dataset: Dataset, make_engine: MakeEngine) -> None:
    """An epoch's frames, asked for all at once, equal those of a fresh inline engine, byte for byte."""

    async def run() -> None:
        places = [Coordinate(0, step, 0, 0, 1, 4) for step in range(dataset.steps_per_epoch)]
        async with make_engine() as engine, running(InlineEngine()) as reference:
            leases = await asyncio.gather(*(engine.frame(dataset, at) for at in places))
            for at, lease in zip(places, leases, strict=True):
                with lease, await reference.frame(dataset, at) as expected:
                    assert bytes(lease.view) == bytes(expected.view)

    asyncio.run(run())


def test_a_frame_is_the_batch_that_was_asked_for(dataset: Dataset, make_engine: MakeEngine) -> None:
    """The frame parses, carries its coordinate and as many rows as were asked for."""

    async def run() -> None:
        at = Coordinate(3, 1, 1, 1, 2, 1)
        async with make_engine() as engine:
            with await engine.frame(dataset, at) as lease:
                (frame,) = parse_frames(bytes(lease.view))
        assert isinstance(frame.header, BatchHeader)
        header = frame.header
        assert (*header.cursor, header.rank, header.world_size, len(header.rows)) == at
        assert header.fingerprint == dataset.fingerprint

    asyncio.run(run())


def test_fault_21_equal_coordinates_share_one_assembly(dataset: Dataset, make_engine: MakeEngine) -> None:
    """Two consumers of one frame get the same memory, and it was assembled once."""

    async def run() -> None:
        async with make_engine() as engine:
            first, second = await asyncio.gather(engine.frame(dataset, FIRST), engine.frame(dataset, FIRST))
            statistics = engine.statistics()
            kept = bytes(second.view)
            assert bytes(first.view) == kept
            assert (statistics.assembled, statistics.shared, statistics.leased) == (1, 1, 2)
            first.release()
            assert bytes(second.view) == kept
            second.release()
            assert engine.statistics().leased == 0

    asyncio.run(run())


def test_a_cancelled_waiter_disturbs_nobody(dataset: Dataset, make_engine: MakeEngine) -> None:
    """When one of two waiters is cancelled the other still gets the frame, and nothing stays leased."""

    async def run() -> None:
        async with make_engine() as engine:
            waiters = [asyncio.create_task(engine.frame(dataset, FIRST)) for _ in range(2)]
            await asyncio.sleep(0)
            waiters[0].cancel()
            with await waiters[1] as lease:
                assert lease.view.nbytes > 0
            with pytest.raises(asyncio.CancelledError):
                await waiters[0]
            assert engine.statistics().leased == 0

    asyncio.run(run())


def test_an_assembly_nobody_waits_for_any_more_is_given_back(dataset: Dataset, make_engine: MakeEngine) -> None:
    """After its only waiter is cancelled an assembly ends by itself and can be asked for again."""

    async def run() -> None:
        async with make_engine() as engine:
            waiter = asyncio.create_task(engine.frame(dataset, FIRST))
            await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.gather(waiter, return_exceptions=True)
            with await engine.frame(dataset, FIRST) as lease:
                assert lease.view.nbytes > 0
            assert engine.statistics().leased == 0

    asyncio.run(run())


def test_failures_are_not_kept(dataset: Dataset, make_engine: MakeEngine) -> None:
    """A coordinate that does not exist is refused each time, and the engine goes on."""

    async def run() -> None:
        async with make_engine() as engine:
            for _ in range(2):
                with pytest.raises(RequestError, match="step 999"):
                    await engine.frame(dataset, FIRST._replace(step=999))
            with await engine.frame(dataset, FIRST) as lease:
                assert lease.assembled.statuses

    asyncio.run(run())


def test_a_closing_engine_says_so(dataset: Dataset, make_engine: MakeEngine) -> None:
    """Whoever waits while an engine closes gets a retryable error or is cancelled, never a hang."""

    async def run() -> None:
        async with make_engine() as engine:
            waiters = [asyncio.create_task(engine.frame(dataset, FIRST._replace(step=step))) for step in range(6)]
            await asyncio.sleep(0)
            await engine.aclose()
            outcomes = await asyncio.gather(*waiters, return_exceptions=True)
            assert all(isinstance(outcome, TemporaryError | asyncio.CancelledError) for outcome in outcomes), outcomes
            with pytest.raises(TemporaryError, match="closing"):
                await engine.frame(dataset, FIRST)

    asyncio.run(run())


@every_layout
def test_memory_is_used_again(dataset: Dataset, make_engine: MakeEngine) -> None:
    """A hundred frames, one after the other, hold no more shared memory than the largest few of them."""

    async def run() -> None:
        async with make_engine() as engine:
            peaks = []
            for number in range(100):
                with await engine.frame(dataset, FIRST._replace(epoch=number)):
                    peaks.append(engine.statistics().slab_bytes)
            assert max(peaks) <= 4 << 20

    asyncio.run(run())
