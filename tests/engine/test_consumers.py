"""Several consumers of one engine: frames wait for those a little behind, and work is shared fairly."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from owl_stream.assemble import Dataset
from owl_stream.engine import Consumer, Coordinate, ProcessEngine
from owl_stream.engine.fair import FairQueue
from owl_stream.errors import RequestError
from tests.engine.conftest import running


def place(step: int, rank: int = 0, epoch: int = 0) -> Coordinate:
    """A half of a step."""
    return Coordinate(epoch, step, 0, rank, 2, 2)


async def read(
    engine: ProcessEngine, dataset: Dataset, step: int, consumer: Consumer, rank: int = 0, epoch: int = 0
) -> bytes:
    """One frame, given back at once."""
    with await engine.frame(dataset, place(step, rank, epoch), consumer) as lease:
        return bytes(lease.view)


async def timers_due() -> None:
    """Returns once everything has run whose time has come."""
    loop = asyncio.get_running_loop()
    mine = loop.create_future()
    loop.call_later(0, mine.set_result, None)
    await mine


def test_fault_21_a_consumer_a_little_behind_gets_what_was_assembled(dataset: Dataset) -> None:
    """The second of two reads the first one's frames, byte for byte, and costs no assembly."""

    async def run() -> None:
        async with running(ProcessEngine(1, share_bytes=64 << 20)) as engine:
            ahead, behind = Consumer(dataset), Consumer(dataset)
            await read(engine, dataset, 0, behind)
            first = [await read(engine, dataset, step, ahead) for step in range(5)]
            assert [await read(engine, dataset, step, behind) for step in range(5)] == first
            assert engine.statistics().assembled == 5 + 1  # step 0 before there were two

    asyncio.run(run())


def test_a_consumer_outside_the_window_is_served_all_the_same(dataset: Dataset) -> None:
    """What has left the window is assembled again, with equal bytes."""

    async def run() -> None:
        async with running(ProcessEngine(1, share_bytes=1)) as engine:
            ahead, behind = Consumer(dataset), Consumer(dataset)
            await read(engine, dataset, 0, behind)
            first = [await read(engine, dataset, step, ahead) for step in range(4)]
            assert [await read(engine, dataset, step, behind) for step in range(4)] == first
            assert engine.statistics().assembled == 9

    asyncio.run(run())


@pytest.mark.parametrize("elsewhere", [None, (1, 0), (0, 2)], ids=["alone", "another rank", "another epoch"])
def test_nothing_is_kept_for_one_alone(dataset: Dataset, elsewhere: tuple[int, int] | None) -> None:
    """Frames go back at once where nobody else reads the same share: other ranks and far epochs have other frames."""

    async def run() -> None:
        async with running(ProcessEngine(1, share_bytes=64 << 20)) as engine:
            alone, other = Consumer(dataset), Consumer(dataset)
            if elsewhere:
                await read(engine, dataset, 0, other, *elsewhere)
            for _ in range(2):
                await read(engine, dataset, 0, alone)
            assert engine.statistics().assembled == 2 + (elsewhere is not None)

    asyncio.run(run())


def test_who_has_gone_is_not_waited_for(dataset: Dataset) -> None:
    """Once the other one is gone nothing is kept any more, and nothing remains of either."""

    async def run() -> None:
        async with running(ProcessEngine(1, share_bytes=64 << 20)) as engine:
            stays, leaves = Consumer(dataset), Consumer(dataset)
            for consumer in (stays, leaves):
                await read(engine, dataset, 0, consumer)
            del leaves, consumer
            gc.collect()
            for _ in range(2):
                await read(engine, dataset, 1, stays)
            assert engine.statistics().assembled == 1 + 1 + 2

    asyncio.run(run())


def test_nothing_is_kept_for_one_ahead(dataset: Dataset) -> None:
    """Who has asked for later frames does not come back for earlier ones."""

    async def run() -> None:
        async with running(ProcessEngine(1, share_bytes=64 << 20)) as engine:
            ahead, behind = Consumer(dataset), Consumer(dataset)
            await read(engine, dataset, 4, ahead)
            for step in range(4):
                await read(engine, dataset, step, behind)
            assert engine.statistics().kept_bytes == 0
            await read(engine, dataset, 0, ahead, epoch=1)
            assert engine.statistics().kept_bytes > 0  # `behind` comes to it in a moment

    asyncio.run(run())


def test_what_was_kept_for_who_has_left_is_let_go(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once, for it may come back for the next epoch; a third one that is still behind keeps what it needs."""
    monkeypatch.setattr("owl_stream.engine.shared.COMES_BACK_S", 0.0)

    async def run() -> None:
        async with running(ProcessEngine(1, share_bytes=64 << 20)) as engine:
            ahead, leaves, stays = (Consumer(dataset) for _ in range(3))
            await read(engine, dataset, 0, leaves)
            await read(engine, dataset, 2, stays)
            for step in range(4):
                await read(engine, dataset, step, ahead)
            everything = engine.statistics().kept_bytes
            engine.leave(leaves)
            assert engine.statistics().kept_bytes == everything
            await timers_due()
            assert 0 < engine.statistics().kept_bytes < everything
            assembled = engine.statistics().assembled
            for step in (2, 3):
                await read(engine, dataset, step, stays)
            assert engine.statistics().assembled == assembled
            for consumer in (stays, ahead, ahead):
                engine.leave(consumer)
            await timers_due()
            assert engine.statistics().kept_bytes == 0

    asyncio.run(run())


class WatchedQueue(FairQueue[Any]):
    """Notes to whom work is given out, and who asks for it when so much has been given out."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[int] = []
        self.asked: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self._consumers: dict[int, int] = {}

    def put(self, item: Any, consumer: int, cost: float) -> None:
        """Ask."""
        self._consumers[id(item)] = consumer
        self.asked.put_nowait((consumer, len(self.given)))
        super().put(item, consumer, cost)

    async def get(self, leave: Callable[[], int] = lambda: 0) -> Any:
        """Give out."""
        item = await super().get(leave)
        self.given.append(self._consumers.pop(id(item)))
        return item


def test_a_consumer_that_asks_for_much_starves_nobody(dataset: Dataset) -> None:
    """One asks for many frames at once, and then another for one at a time: at most one gets ahead of it each time.

    The worker stands still while somebody asks, so that work waits, however little time a frame takes.
    """

    async def run() -> None:
        async with running(ProcessEngine(1)) as engine:
            queue = engine._errands = WatchedQueue()
            greedy, modest = Consumer(dataset), Consumer(dataset)
            await read(engine, dataset, 0, modest, rank=1)  # the worker has started
            (worker,) = engine.processes
            await queue.asked.get()

            async def ask_modestly(step: int) -> None:
                await read(engine, dataset, step, modest, rank=1)
                os.kill(worker, signal.SIGSTOP)

            os.kill(worker, signal.SIGSTOP)
            many = [(step, epoch) for epoch in range(2) for step in range(8)]
            asked = [asyncio.create_task(read(engine, dataset, step, greedy, 0, epoch)) for step, epoch in many]
            assert [(await queue.asked.get())[0] for _ in asked] == [greedy.number] * 16
            for step in range(1, 4):
                one = asyncio.create_task(ask_modestly(step))
                consumer, given = await queue.asked.get()
                assert consumer == modest.number
                os.kill(worker, signal.SIGCONT)
                await one
                assert modest.number in queue.given[given : given + 2]
            assert queue.given.count(greedy.number) < 16
            os.kill(worker, signal.SIGCONT)
            await asyncio.gather(*asked)

    asyncio.run(run())


def test_a_run_of_places_is_planned_together_and_each_is_told_its_own(dataset: Dataset) -> None:
    """Places behind the end are errors of those places alone; a place that was never named is planned by itself."""

    async def run() -> None:
        last = dataset.steps_per_epoch
        places = [place(step) for step in (0, 1, 2, last, 3)]
        consumer = Consumer(dataset, places)
        assert [consumer.next() for _ in range(6)] == [*places, None]
        jobs = await asyncio.gather(*(consumer.job(at) for at in places), return_exceptions=True)
        assert isinstance(jobs[3], RequestError)
        assert [job for job in jobs if not isinstance(job, BaseException)] == [
            dataset.job(*at) for at in places if at.step < last
        ]
        assert await consumer.job(place(1)) == dataset.job(*place(1))

    asyncio.run(run())


def test_a_cancelled_waiter_leaves_the_plan_to_the_others(dataset: Dataset) -> None:
    """Of two places that are planned together one is given up: the other one is planned all the same."""

    async def run() -> None:
        consumer = Consumer(dataset, [place(0), place(1), place(2)])
        for _ in range(3):
            consumer.next()
        given_up, wanted = asyncio.create_task(consumer.job(place(1))), asyncio.create_task(consumer.job(place(2)))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await wanted == dataset.job(*place(2))
        with pytest.raises(asyncio.CancelledError):
            await given_up

    asyncio.run(run())


def test_places_that_others_assemble_leave_nothing_behind(dataset: Dataset) -> None:
    """A consumer whose frames are all shared never asks for a job: what it remembers of its places is bounded."""
    consumer = Consumer(dataset, (place(step) for step in range(1000)))
    while consumer.next() is not None:
        assert sum(len(run.places) for run in consumer._runs) <= 32
