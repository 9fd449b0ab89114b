"""Shards that stall, in engines: what needs them is told in time, and everything else has its frames. Fault 126."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from owl_stream.assemble import Dataset
from owl_stream.engine import Coordinate, Engine, InlineEngine, ProcessEngine, handle
from owl_stream.errors import ReadError
from tests.engine.conftest import open_small, running
from tests.support.datasets import small_dataset
from tests.support.stalling import stalled

PLACES = [Coordinate(0, step, 0, 0, 1, 4) for step in range(10)]
"""The first five are of the first shard, the others of the second one."""

ENGINES: dict[str, Callable[[], Engine]] = {
    "inline": lambda: InlineEngine(job_timeout_s=2),
    "processes": lambda: ProcessEngine(2, job_timeout_s=2),
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two shards, whose samples come in order."""
    return small_dataset(tmp_path / "data", shuffle="none", modality="off", bucket_window=1)


@pytest.fixture
def dataset(config: Path) -> Iterator[Dataset]:
    """The dataset, opened."""
    opened = open_small(config)
    yield opened
    opened.close()


async def frame(engine: Engine, dataset: Dataset, at: Coordinate) -> bytes:
    """A frame's bytes."""
    with await engine.frame(dataset, at) as lease:
        return bytes(lease.view)


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
def test_fault_126_a_stalled_shard_takes_one_worker_and_the_others_make_frames(
    config: Path, dataset: Dataset, make: Callable[[], Engine]
) -> None:
    """Once it was seen to stall; what needs it fails by name and can be retried; it comes back with the storage."""

    async def scenario() -> None:
        async with running(make()) as engine:
            await engine.prepare(dataset)
            with stalled(config.with_name("train-00000.tar")):
                with pytest.raises(ReadError, match="stall"):
                    await frame(engine, dataset, PLACES[0])
                waiting = [asyncio.create_task(frame(engine, dataset, at)) for at in PLACES[:5]]
                assert all([await frame(engine, dataset, at) for at in PLACES[5:]])
                assert engine.statistics().busy <= 1
                assert engine.stuck()
                outcomes = await asyncio.gather(*waiting, return_exceptions=True)
                assert [type(outcome) for outcome in outcomes] == [ReadError] * 5
                assert all("stall" in str(outcome) for outcome in outcomes)
            while any(isinstance(each, ReadError) for each in await _all(engine, dataset)):  # noqa: ASYNC110 # it polls
                await asyncio.sleep(0.05)
            assert engine.stuck() == []

    asyncio.run(scenario())


async def _all(engine: Engine, dataset: Dataset) -> list[bytes | BaseException]:
    return await asyncio.gather(*(frame(engine, dataset, at) for at in PLACES), return_exceptions=True)


def test_fault_126_a_worker_that_cannot_be_killed_is_replaced_and_named(
    config: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that the kernel holds for a dead server of files: its frame fails, the others come, health hears of it."""
    monkeypatch.setattr(handle, "ENDS_S", 0.05)
    monkeypatch.setattr(handle, "DIES_S", 0.05)

    async def scenario() -> None:
        async with running(ProcessEngine(1, job_timeout_s=5)) as engine:
            await engine.prepare(dataset)
            (worker,) = engine.processes
            held = engine._processes[0]
            assert held is not None
            with monkeypatch.context() as patched:
                patched.setattr(held.process, "kill", lambda: None)
                os.kill(worker, signal.SIGSTOP)
                held.sock.shutdown(2)
                with pytest.raises(ReadError, match=f"worker {worker} was killed and does not end"):
                    await frame(engine, dataset, PLACES[5])
                assert await frame(engine, dataset, PLACES[6])
                assert worker not in engine.processes
                assert [each.what for each in engine.stuck()] == [f"worker {worker}, which was killed"]
            held.process.kill()
            held.process.wait()
            assert engine.stuck() == []
            assert await frame(engine, dataset, PLACES[5])

    asyncio.run(scenario())
