"""An assembly's end and its last waiter's end come in either order, and in the same turn of the event loop."""

from __future__ import annotations

import asyncio
import itertools
import mmap
from collections.abc import Iterator
from typing import Any

import pytest

from owl_stream.assemble import Assembled, Dataset, Job
from owl_stream.engine import Coordinate, Engine
from owl_stream.engine.consumer import Consumer
from owl_stream.engine.shared import Memory
from owl_stream.engine.slabs import Slab, SlabPool
from owl_stream.errors import ReadError
from owl_stream.layouts import OffsetReport

FIRST = Coordinate(0, 0, 0, 0, 1, 4)


class EndedByHand(Engine):
    """Its assemblies end when the test says so; it counts the memory that is out."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[asyncio.Future[None]] = []
        self.begun = asyncio.Semaphore(0)
        self.out = 0

    async def _assemble(self, dataset: Dataset, job: Job, consumer: Consumer | None) -> Memory:
        self.ends.append(asyncio.get_running_loop().create_future())
        self.begun.release()
        await self.ends[-1]
        view = memoryview(bytes(8))
        self.out += 1
        return Memory(view, Assembled(0, 8, (), {}, OffsetReport(0, 0, 0, 0)), self._back)

    def _back(self) -> None:
        self.out -= 1


def turns() -> Iterator[tuple[str, ...]]:
    """What happens in one turn, in every order: the assembly ends, one waiter or two are cancelled."""
    for acts in (("end", "cancel"), ("fail", "cancel"), ("end", "cancel", "cancel"), ("fail", "cancel", "cancel")):
        yield from set(itertools.permutations(acts))


@pytest.mark.parametrize("acts", sorted(turns()), ids="-".join)
@pytest.mark.parametrize("later", range(4))
def test_fault_125_a_waiter_cancelled_in_the_turn_its_assembly_ends(
    dataset: Dataset, acts: tuple[str, ...], later: int
) -> None:
    """Nothing raises where nobody hears it, nothing stays leased, and the frame can be asked for again."""

    async def run() -> list[dict[str, Any]]:
        unheard: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        engine = EndedByHand()
        waiters = [asyncio.create_task(engine.frame(dataset, FIRST)) for _ in range(acts.count("cancel"))]
        await engine.begun.acquire()
        left = list(waiters)
        for at, act in enumerate(acts):
            if act == "cancel":
                left.pop().cancel()
            elif act == "end":
                engine.ends[0].set_result(None)
            else:
                engine.ends[0].set_exception(ReadError("storage is away"))
            for _ in range(later if at == 0 else 0):
                await asyncio.sleep(0)
        for outcome in await asyncio.gather(*waiters, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                outcome.release()
        for _ in range(5):
            await asyncio.sleep(0)
        assert (engine.out, engine.statistics().leased, len(engine._assemblies)) == (0, 0, 0)
        again = asyncio.create_task(engine.frame(dataset, FIRST))
        await engine.begun.acquire()
        engine.ends[1].set_result(None)
        (await again).release()
        assert engine.out == 0
        await engine.aclose()
        return unheard

    assert asyncio.run(run()) == []


def test_fault_125_a_slab_is_let_go_although_somebody_looks_at_it() -> None:
    """Its descriptor is closed at once, the pool forgets it, and the view is valid for as long as it lasts."""
    dropped: list[int] = []
    pool = SlabPool(0, dropped.append)
    slab = pool.take(1 << 20)
    view = slab.memory[:100]
    view[:4] = b"seen"
    pool.give(slab)
    assert (pool.count, pool.nbytes, pool.free_bytes, dropped) == (0, 0, 0, [0])
    with pytest.raises(OSError, match="Bad file descriptor"):
        mmap.mmap(slab.fd, 0)
    assert view.nbytes == 100  # reading it is no fault of memory
    assert bytes(view[:4]) in (b"seen", bytes(4))  # its pages may have gone back to the system
    assert isinstance(slab, Slab)
