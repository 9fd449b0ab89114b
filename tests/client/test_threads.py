"""Several threads of a trainer read one dataset: each batch is delivered to exactly one of them.

Fault 119 of docs/faults.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from owl_client import Batch
from owl_stream.errors import PeerGoneError, RequestError
from tests.client.peers import memory_dataset
from tests.client.world import World

WORLD = World(steps=60)
SHARE: dict[str, Any] = {"rank": 0, "world_size": 1, "micro_batch_size": 1}
WHOLE = [(0, step, micro) for step in range(60) for micro in range(4)]


def place(batch: Batch) -> tuple[int, int, int]:
    """Where a batch stands."""
    return batch.meta.epoch, batch.meta.step, batch.meta.micro


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run `work` in threads that begin together; what one raises is raised here."""
    start, errors = threading.Barrier(count), []

    def run(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("count", [3, 16])
def test_threads_that_share_an_iterator_get_each_batch_once(count: int) -> None:
    """From the first batch on: who opens the stream is settled too."""
    dataset = memory_dataset(WORLD, **SHARE)
    iterator, taken = iter(dataset), []
    in_threads(count, lambda _: taken.extend(place(batch) for batch in iterator))
    assert sorted(taken) == WHOLE
    assert (dataset.state_dict()["epoch"], dataset.stats().batches) == (1, len(WHOLE))


def test_the_first_batch_goes_to_one_thread() -> None:
    """Three threads that each ask once get the first three batches, in whatever order."""
    iterator, taken = iter(memory_dataset(WORLD, **SHARE)), []
    in_threads(3, lambda _: taken.append(place(next(iterator))))
    assert sorted(taken) == WHOLE[:3]
    iterator.close()


def test_of_iterators_that_begin_together_one_lives() -> None:
    """Each thread calls `iter`: the others are told that they were superseded, and no batch comes twice."""
    dataset, taken, refused = memory_dataset(WORLD, **SHARE), [], []

    def read(_: int) -> None:
        try:
            taken.extend(place(batch) for batch in dataset)
        except RequestError as exc:
            refused.append(str(exc))

    in_threads(8, read)
    taken += [place(batch) for batch in dataset] if dataset.state_dict()["epoch"] == 0 else []
    assert sorted(set(taken) & set(WHOLE)) == WHOLE
    assert len(taken) == len(set(taken))
    assert all("a newer iterator of this dataset began" in text for text in refused)


def test_closing_while_threads_wait_ends_them() -> None:
    """`close` does not wait for the thread that holds the turn; nobody gets a batch afterwards."""
    arrived, release = threading.Semaphore(0), threading.Event()

    def hold(frames: list[bytes]) -> list[bytes]:
        arrived.release()
        release.wait()
        return frames

    dataset = memory_dataset(WORLD, hold, **SHARE)
    iterator, ends = iter(dataset), []

    def read(_: int) -> None:
        try:
            ends.append(next(iterator, None))
        except RequestError as exc:
            ends.append(str(exc))

    def close() -> None:
        arrived.acquire()
        threading.Thread(target=release.set).start()
        dataset.close()

    closer = threading.Thread(target=close)
    closer.start()
    in_threads(4, read)
    closer.join()
    assert ends == ["this iterator has ended: the dataset was closed"] * 4
    assert dataset.state_dict()["step"] == 0


def test_an_error_is_raised_in_one_thread_and_ends_the_others() -> None:
    """The stream fails for good: nobody waits for ever, and what was delivered before is in the state."""
    dataset = memory_dataset(WORLD, *[PeerGoneError("gone")] * 100, give_up_after_s=0.0, **SHARE)
    iterator, raised = iter(dataset), []

    def read(_: int) -> None:
        try:
            for _batch in iterator:
                pass
        except PeerGoneError as exc:
            raised.append(exc)

    in_threads(5, read)
    assert len(raised) == 1
