"""What a stream holds in memory ahead of its reader."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from owl_stream.engine import InlineEngine
from owl_stream.server.journey import Journey
from owl_stream.server.window import Window
from owl_stream.wire import Cursor
from tests.engine.conftest import open_small, running
from tests.support.datasets import small_dataset
from tests.support.layouts import every_layout


@every_layout
@pytest.mark.parametrize("frames", [1, 2, 4, 7])
def test_frames_ahead_and_the_one_being_sent_fit_the_budget(layout: str, tmp_path: Path, frames: int) -> None:
    """All that a reader who takes nothing has had assembled, at any place of an epoch; beyond one frame it is used."""
    dataset = open_small(small_dataset(tmp_path, layout=layout, image_size=112, cut="off"))
    journey = Journey(dataset, 0, 1, 4, 1, Cursor(0, 0, 0), 3, 1)

    async def run() -> None:
        async with running(InlineEngine()) as engine:
            sizes = []
            for at in journey.coordinates():
                with await engine.frame(dataset, at) as lease:
                    sizes.append(lease.view.nbytes)
            budget = frames * max(sizes)
            window, most = Window(engine, journey, budget), 0
            window.fill()
            while (task := window.next) is not None:
                await task
                with window.take() as sending:
                    window.fill()
                    await asyncio.gather(*window._tasks)
                    held = [sending.view.nbytes, *(each.result().view.nbytes for each in window._tasks)]
                    assert len(held) <= 2 or sum(held) <= budget
                    most = max(most, len(held))
                    assert bool(engine._consumers) == (window.next is not None)  # it leaves before the end is told
            assert most >= max(2, frames)
            assert engine.statistics().leased == 0

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
