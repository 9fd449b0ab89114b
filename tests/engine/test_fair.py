"""The queue in which consumers take turns."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from owl_stream.engine.fair import FairQueue
from tests.support.patience import PATIENCE_S


def served(queue: FairQueue[str], count: int) -> list[str]:
    """The next items."""

    async def take() -> list[str]:
        return [await queue.get() for _ in range(count)]

    return asyncio.run(take())


def test_one_consumer_is_served_in_its_order() -> None:
    """Nothing overtakes within a stream."""
    queue: FairQueue[str] = FairQueue()
    for number in range(5):
        queue.put(str(number), 1, 10.0 - number)
    assert served(queue, 5) == list("01234")


def test_a_consumer_that_asks_for_much_gets_no_more() -> None:
    """Sixteen items of one and four of another, of equal cost: they take turns until the smaller one has all."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(16):
        queue.put("greedy", 1, 1.0)
    for _ in range(4):
        queue.put("modest", 2, 1.0)
    assert Counter(served(queue, 8)) == {"greedy": 4, "modest": 4}


def test_shares_are_of_work_and_not_of_items() -> None:
    """Items that cost four times as much come a quarter as often."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(40):
        queue.put("large", 1, 4.0)
        queue.put("small", 2, 1.0)
    counts = Counter(served(queue, 25))
    assert counts["small"] == 4 * counts["large"]


def test_silence_saves_up_no_claims() -> None:
    """Who comes late takes turns from then on, and does not get all that the others had before."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(20):
        queue.put("early", 1, 1.0)
    assert set(served(queue, 10)) == {"early"}
    for _ in range(10):
        queue.put("late", 2, 1.0)
    assert Counter(served(queue, 8)) == {"early": 4, "late": 4}


def test_what_is_left_can_be_taken_out() -> None:
    """All of it, and then there is nothing."""
    queue: FairQueue[str] = FairQueue()
    for number in range(300):
        queue.put(str(number), number, 1.0)
    assert len(queue) == 300
    assert len(queue.drain()) == 300
    assert len(queue) == 0


def test_who_leaves_some_for_others_waits_for_more() -> None:
    """One that leaves two takes the first of three, and what `leave` says counts when an item comes."""

    async def run() -> None:
        queue: FairQueue[str] = FairQueue()
        leaving = 2
        patient = asyncio.create_task(queue.get(lambda: leaving))
        await asyncio.sleep(0)
        for name in "ab":
            queue.put(name, 1, 1.0)
        await asyncio.sleep(0)
        assert not patient.done()
        queue.put("c", 1, 1.0)
        assert await patient == "a"
        patient = asyncio.create_task(queue.get(lambda: leaving))
        await asyncio.sleep(0)
        assert (await queue.get(), await queue.get()) == ("b", "c")
        leaving = 0
        queue.put("d", 1, 1.0)
        assert await patient == "d"

    asyncio.run(run())


def test_two_items_wake_two_even_if_one_of_them_has_to_wait_again() -> None:
    """What `leave` says may change between being woken and looking: the item then wakes somebody else."""

    async def run() -> None:
        queue: FairQueue[str] = FairQueue()
        taken: list[str] = []

        async def take(leave: Callable[[], int]) -> None:
            taken.append(await queue.get(leave))

        def none() -> int:
            return 0

        def five_once_one_is_taken() -> int:
            return 5 * len(taken)

        first, shy, third = (asyncio.create_task(take(each)) for each in (none, five_once_one_is_taken, none))
        await asyncio.sleep(0)
        queue.put("a", 1, 1.0)
        queue.put("b", 1, 1.0)
        await asyncio.wait_for(asyncio.gather(first, third), 10)
        shy.cancel()
        assert taken == ["a", "b"]

    asyncio.run(run())


def test_an_item_is_not_lost_with_the_one_it_woke() -> None:
    """Who is cancelled between being woken and taking the item passes it on."""

    async def run() -> None:
        queue: FairQueue[str] = FairQueue()
        first, second = (asyncio.create_task(queue.get()) for _ in range(2))
        await asyncio.sleep(0)
        queue.put("a", 1, 1.0)
        first.cancel()
        assert await asyncio.wait_for(second, PATIENCE_S) == "a"
        assert first.cancelled()

    asyncio.run(run())
