"""What a stream holds in memory ahead of its reader."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from owl_stream.assemble import Job
from owl_stream.engine import FrameLease, InlineEngine
from owl_stream.errors import WorkerError
from owl_stream.server.journey import Journey
from owl_stream.server.window import MAX_AHEAD, Window
from owl_stream.wire import Cursor
from tests.engine.conftest import open_small, running
from tests.support.datasets import small_dataset
from tests.support.layouts import every_layout


async def come_to_rest(window: Window) -> list[FrameLease]:
    """Wait until all frames that were let in are there, and there is room for no other; returns them."""
    while True:
        await asyncio.sleep(0)
        there = [task for task in window._tasks if task.done()]
        waits = window._in_turn.locked() and not window._taken.is_set()
        if len(there) == window._on_their_way and (waits or len(there) == len(window._tasks)):
            return [task.result() for task in there]


@every_layout
@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("frames", [1, 2, 4, 7])
def test_frames_ahead_and_the_one_being_sent_fit_the_budget(
    layout: str, tmp_path: Path, frames: int, first: int
) -> None:
    """All that a reader who takes nothing has had assembled, at any place of an epoch; beyond one frame it is used.

    With large frames behind small ones too: there are steps of text, of images, and of videos.
    """
    dataset = open_small(small_dataset(tmp_path, layout=layout, image_size=112, cut="off"))
    journey = Journey(dataset, 0, 1, 4, 1, Cursor(0, first, 0), 3, 1)

    async def run() -> None:
        async with running(InlineEngine()) as engine:
            rooms = [engine.room(dataset, dataset.job(*at)) for at in journey.coordinates()]
            assert max(rooms) > 10 * min(rooms)
            budget = frames * max(rooms)
            window, most = Window(engine, journey, budget), 0
            window.fill()
            while (task := window.next) is not None:
                await task
                with window.take() as sending:
                    window.fill()
                    held = [sending.view.nbytes, *(each.view.nbytes for each in await come_to_rest(window))]
                    assert len(held) <= 2 or sum(held) <= budget
                    assert len(held) <= MAX_AHEAD
                    most = max(most, len(held))
                    assert bool(engine._consumers) == (window.next is not None)  # it leaves before the end is told
            assert most > frames  # small ones leave room for more
            assert engine.statistics().leased == 0

    asyncio.run(run())
    dataset.close()


def test_a_frame_that_cannot_be_planned_fails_as_the_engine_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a retryable error and counted, whatever was raised, and nothing waits for room behind it."""
    dataset = open_small(small_dataset(tmp_path))
    journey = Journey(dataset, 0, 1, 4, 1, Cursor(0, 0, 0), 1, 1)

    def unplannable(*place: int) -> Job:
        raise KeyError(place)

    async def run() -> None:
        async with running(InlineEngine()) as engine:
            monkeypatch.setattr(dataset, "job", unplannable)
            window = Window(engine, journey, 1)
            window.fill()
            assert window.next is not None
            with pytest.raises(WorkerError, match="KeyError"):
                await window.next
            await window.aclose()
            assert engine.statistics().failed["worker"] >= 1

    asyncio.run(run())
    dataset.close()


def test_a_stream_that_breaks_off_leaves(tmp_path: Path) -> None:
    """Nothing is kept for it, and the frames on their way to it are given back."""
    dataset = open_small(small_dataset(tmp_path, image_size=112, cut="off"))
    journey = Journey(dataset, 0, 1, 4, 1, Cursor(0, 0, 0), 3, 1)

    async def run() -> None:
        async with running(InlineEngine()) as engine:
            window = Window(engine, journey, 64 << 20)
            window.fill()
            assert window.next is not None
            await window.next
            assert engine._consumers
            await window.aclose()
            assert (len(engine._consumers), engine.statistics().leased) == (0, 0)

    asyncio.run(run())
    dataset.close()
